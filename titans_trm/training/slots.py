"""The static batch of examples under way: each slot is at its own supervision step and is refilled when it halts.

Examples are never drawn and thrown away, shapes never change, and everything that decides what happens next (slot
contents, carry, drawn minimum steps, position in the data, random state) is in `state_dict`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from titans_trm.data.batch import Batch
from titans_trm.data.stream import ExampleStream
from titans_trm.errors import InputError
from titans_trm.models.act_head import draw_min_steps, halting_decision
from titans_trm.models.titans_trm import ModelOutput, TitansTRM
from titans_trm.models.trm_wrapper import Carry


@dataclass
class Finished:
    """Which slots halted in this supervision step."""

    halted: Tensor  # (B,) bool
    steps: Tensor  # supervision steps run so far by every slot (B,) int64


class SlotGroups:
    """As many groups of slots as batches are accumulated into one optimiser step, visited in turn.

    Every group advances by one supervision step per optimiser step, so k groups of B slots train like one of k B.

    Args:
        model: gives fresh carries and the halting configuration.
        stream: where new examples come from; shared by the groups.
        batch_size: B, slots of one group.
        accumulate: k, number of groups.
        seed: of exploration.
    """

    def __init__(self, model: TitansTRM, stream: ExampleStream, batch_size: int, *, accumulate: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.stream = stream
        self.groups = [Slots(model, stream, batch_size, generator) for _ in range(accumulate)]
        self._turn = 0

    @property
    def at_step_boundary(self) -> bool:
        """Whether all groups have taken part in the optimiser step: only then can the state be saved."""
        return self._turn == 0

    @property
    def examples_finished(self) -> int:
        """Examples that halted, over all groups of this rank."""
        return sum(group.examples_finished for group in self.groups)

    @property
    def upcoming(self) -> "Slots":
        """The group whose turn is next."""
        return self.groups[self._turn]

    @property
    def latest(self) -> int:
        """Place of the group whose turn was last."""
        return (self._turn - 1) % len(self.groups)

    def next(self) -> "Slots":
        """Return the group whose turn it is."""
        group = self.groups[self._turn]
        self._turn = (self._turn + 1) % len(self.groups)
        return group

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors and numbers."""
        if not self.at_step_boundary:
            raise RuntimeError(f"{self._turn} of {len(self.groups)} batches are accumulated; save after a whole step.")
        return {
            "groups": [group.state_dict() for group in self.groups],
            "generator": self.groups[0].generator.get_state(),
            "stream": self.stream.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue exactly where `state_dict` was taken.

        Raises:
            InputError: the checkpoint is of a run with another batch size, accumulation, data or seed.
        """
        if len(state["groups"]) != len(self.groups):
            raise InputError(
                f"the checkpoint accumulates {len(state['groups'])} batches a step, trainer.accumulate="
                f"{len(self.groups)}; resume with the same value."
            )
        for group, saved in zip(self.groups, state["groups"], strict=True):
            group.load_state_dict(saved, device)
        self.groups[0].generator.set_state(state["generator"].cpu())
        try:
            self.stream.load_state_dict(state["stream"])
        except ValueError as error:
            raise InputError(str(error)) from error


class Slots:
    """B slots that are filled from an endless stream of training examples."""

    def __init__(self, model: TitansTRM, stream: ExampleStream, batch_size: int, generator: torch.Generator) -> None:
        self.model = model
        self.stream = stream
        self.batch_size = batch_size
        self.generator = generator  # of exploration
        self.examples_finished = 0
        self.batch: Batch | None = None
        self.carry: Carry | None = None
        self.min_steps: Tensor | None = None
        self.halted: Tensor | None = None

    @torch.no_grad()
    def fill(self, device: torch.device) -> tuple[Batch, Carry]:
        """Give every halted slot the next example, and return the whole batch with its carry, on `device`."""
        if self.batch is None or self.carry is None or self.min_steps is None or self.halted is None:
            self.batch = self.stream.take(self.batch_size).to(device)
            self.carry = self.model.initial_carry(self.batch_size)
            self.min_steps = self._draw(self.batch_size, device)
        elif len(rows := self.halted.nonzero().squeeze(1)):
            self.batch = self.batch.replace(rows, self.stream.take(len(rows)).to(device))
            self.carry = self.carry.reset(self.halted, self.model.initial_carry(self.batch_size))
            self.min_steps = self.min_steps.index_copy(0, rows, self._draw(len(rows), device))
        return self.batch, self.carry

    def advance(self, output: ModelOutput) -> Finished:
        """Take over the carry of this supervision step and decide which slots are done."""
        self.carry = output.carry
        config = self.model.config.halting
        self.halted = halting_decision(
            output.halting_logits.detach(), output.carry.steps, self.min_steps, config, training=True
        )
        self.examples_finished += int(self.halted.sum())  # waits for a GPU: the slots to refill must be known now
        return Finished(self.halted, output.carry.steps)

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors and numbers; call between two steps."""
        if self.batch is None or self.carry is None:
            raise RuntimeError("the slots are empty; there is nothing to save before the first step.")
        return {
            "batch": self.batch.state_dict(),
            "carry": self.carry.state_dict(),
            "min_steps": self.min_steps,
            "halted": self.halted,
            "examples_finished": self.examples_finished,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue exactly where `state_dict` was taken."""
        self.batch = Batch.from_state_dict(state["batch"]).to(device)
        if len(self.batch) != self.batch_size:
            raise InputError(
                f"the checkpoint holds {len(self.batch)} slots, trainer.batch_size={self.batch_size}; "
                "resume with the same batch size."
            )
        self.carry = Carry.from_state_dict(state["carry"], device)
        self.min_steps = state["min_steps"].to(device)
        self.halted = state["halted"].to(device)
        self.examples_finished = state["examples_finished"]

    def _draw(self, count: int, device: torch.device) -> Tensor:
        return draw_min_steps(count, self.model.config.halting, self.generator, device)
