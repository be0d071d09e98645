"""The static batch of examples under way: each slot is at its own supervision step and is refilled when it halts.

Examples are never drawn and thrown away, shapes never change, and everything that decides what happens next (slot
contents, carry, drawn minimum steps, position in the data, random state) is in `state_dict`.

All slots of an optimiser step have one order: by group (accumulated batch), then rank, then place. Slots that halted
are refilled in that order, after the whole step, from one stream and one generator that every rank keeps alike. So
R ranks of B slots in k groups train like one process with R k B slots, and a checkpoint, which has all of them in that
order, goes on with any R, k and B of the same product.
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
from titans_trm.training.ranks import Ranks


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
        batch_size: B, slots of one group on each rank.
        accumulate: k, number of groups.
        seed: of exploration.
        ranks: this process among those of the run.
    """

    def __init__(
        self,
        model: TitansTRM,
        stream: ExampleStream,
        batch_size: int,
        *,
        accumulate: int,
        seed: int,
        ranks: Ranks | None = None,
    ) -> None:
        self.model = model
        self.stream = stream
        self.batch_size = batch_size
        self.ranks = ranks or Ranks()
        self.generator = torch.Generator().manual_seed(seed)  # of exploration
        self.groups = [Slots(self, batch_size) for _ in range(accumulate)]
        self.examples_finished = 0  # that halted, over all ranks and whole optimiser steps
        self._empty = self._all_slots  # (k, R) slots to be refilled
        self._turn = 0

    @property
    def at_step_boundary(self) -> bool:
        """Whether all groups have taken part in the optimiser step: only then can the state be saved."""
        return self._turn == 0

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

    def release(self) -> None:
        """Let every slot take a fresh example at its next turn; those under way are given up."""
        for group in self.groups:
            if group.halted is not None:
                group.halted = torch.ones_like(group.halted)
        self._empty = self._all_slots

    def deal(self) -> None:
        """Hand every group the examples for its empty slots, in the order of all slots; at the start of a step."""
        counts = self._empty
        total = int(counts.sum())
        for group in self.groups:
            group.awaiting = False
        if not total:
            return
        minimum = draw_min_steps(total, self.model.config.halting, self.generator)
        ends = counts.flatten().cumsum(0).view_as(counts)
        for group, end, count in zip(
            self.groups, ends[:, self.ranks.rank].tolist(), counts[:, self.ranks.rank].tolist(), strict=True
        ):
            if count:
                group.take(self.stream.read(self.stream.position + end - count, count), minimum[end - count : end])
        self.stream.position += total
        self._empty = torch.zeros_like(counts)

    def close_step(self) -> None:
        """Count the halted slots of all ranks once every group has advanced; a collective call."""
        mine = torch.stack([group.halted.sum() for group in self.groups if group.halted is not None])
        self._empty = self.ranks.gather(mine).T.cpu()  # waits for a GPU: the slots to refill must be known now
        self.examples_finished += int(self._empty.sum())

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors and numbers of the slots of all ranks; a collective call."""
        if not self.at_step_boundary:
            raise RuntimeError(f"{self._turn} of {len(self.groups)} batches are accumulated; save after a whole step.")
        return {
            "groups": [_joined(self.ranks.gather_nested(group.state_dict())) for group in self.groups],
            "examples_finished": self.examples_finished,
            "generator": self.generator.get_state(),
            "stream": self.stream.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue exactly where `state_dict` was taken; its slots are spread anew over groups and ranks.

        Raises:
            InputError: the checkpoint is of a run with another number of slots, other data or another seed.
        """
        groups = [_Rows.from_state_dict(group) for group in state["groups"]]
        slots, width = sum(map(len, groups)), self.batch_size * self.ranks.world_size
        if slots != width * len(self.groups):
            raise InputError(
                f"the checkpoint holds {slots} slots; trainer.batch_size={self.batch_size} x trainer.accumulate="
                f"{len(self.groups)} x {self.ranks.world_size} processes are {width * len(self.groups)}. Resume with "
                f"trainer.batch_size x trainer.accumulate x processes = {slots}."
            )
        try:
            self.stream.load_state_dict(state["stream"])
        except ValueError as error:
            raise InputError(str(error)) from error
        if len(groups) != len(self.groups):
            groups = _Rows.concat(groups).split(width)
        first = self.ranks.rank * self.batch_size
        for group, rows in zip(self.groups, groups, strict=True):
            group.restore(rows.select(torch.arange(first, first + self.batch_size)), device)
        halted = torch.stack([rows.halted for rows in groups])
        self._empty = halted.view(len(groups), self.ranks.world_size, self.batch_size).sum(-1)
        self.generator.set_state(state["generator"].cpu())
        counts = (group.get("examples_finished", 0) for group in state["groups"])  # where older versions have it
        self.examples_finished = state.get("examples_finished", sum(counts))

    @property
    def _all_slots(self) -> Tensor:
        return torch.full((len(self.groups), self.ranks.world_size), self.batch_size)


class Slots:
    """B slots that are filled from an endless stream of training examples; made by `SlotGroups`."""

    def __init__(self, owner: SlotGroups, batch_size: int) -> None:
        self.owner = owner
        self.batch_size = batch_size
        self.batch: Batch | None = None
        self.carry: Carry | None = None
        self.min_steps: Tensor | None = None
        self.halted: Tensor | None = None
        self.awaiting = True  # examples for the slots that halted in its last step
        self._fresh: tuple[Batch, Tensor] | None = None

    @torch.no_grad()
    def fill(self, device: torch.device) -> tuple[Batch, Carry]:
        """Give every halted slot its next example, and return the whole batch with its carry, on `device`."""
        model = self.owner.model
        if all(group.awaiting for group in self.owner.groups):
            self.owner.deal()
        if self._fresh is not None:
            batch, minimum = self._fresh[0].to(device), self._fresh[1].to(device)
            if self.batch is None or self.carry is None or self.min_steps is None or self.halted is None:
                self.batch, self.min_steps = batch, minimum
                self.carry = model.initial_carry(self.batch_size)
            else:
                rows = self.halted.nonzero().squeeze(1)
                self.batch = self.batch.replace(rows, batch)
                self.min_steps = self.min_steps.index_copy(0, rows, minimum)
                self.carry = self.carry.reset(self.halted, model.initial_carry(self.batch_size))
            self._fresh = None
        assert self.batch is not None and self.carry is not None
        return self.batch, self.carry

    def take(self, batch: Batch, minimum: Tensor) -> None:
        """Lay the examples for the halted slots ready, with their fewest supervision steps, until the next `fill`."""
        self._fresh = (batch, minimum)

    def advance(self, output: ModelOutput) -> Finished:
        """Take over the carry of this supervision step and decide which slots are done."""
        self.carry = output.carry
        self.halted = halting_decision(
            output.halting_logits.detach(),
            output.carry.steps,
            self.min_steps,
            self.owner.model.config.halting,
            training=True,
        )
        self.awaiting = True
        if all(group.awaiting for group in self.owner.groups):
            self.owner.close_step()
        return Finished(self.halted, output.carry.steps)

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors and numbers; call between two steps."""
        if self.batch is None or self.carry is None or self.min_steps is None or self.halted is None:
            raise RuntimeError("the slots are empty; there is nothing to save before the first step.")
        return _Rows(self.batch, self.carry, self.min_steps, self.halted).state_dict()

    def restore(self, rows: "_Rows", device: torch.device) -> None:
        """Continue with saved slots."""
        self.batch = rows.batch.to(device)
        self.carry = Carry.from_state_dict(rows.carry.state_dict(), device)
        self.min_steps, self.halted = rows.min_steps.to(device), rows.halted.to(device)
        self.awaiting, self._fresh = True, None


@dataclass
class _Rows:
    """Saved slots, one a row."""

    batch: Batch
    carry: Carry
    min_steps: Tensor
    halted: Tensor

    def __len__(self) -> int:
        return len(self.batch)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "_Rows":
        batch, carry = Batch.from_state_dict(state["batch"]), Carry.from_state_dict(state["carry"])
        return cls(batch, carry, state["min_steps"], state["halted"])

    @classmethod
    def concat(cls, parts: list["_Rows"]) -> "_Rows":
        carry = Carry.concat([part.carry for part in parts])
        columns = (torch.cat([getattr(part, name) for part in parts]) for name in ("min_steps", "halted"))
        return cls(Batch.concat([part.batch for part in parts]), carry, *columns)

    def select(self, index: Tensor) -> "_Rows":
        return _Rows(self.batch.select(index), self.carry.select(index), self.min_steps[index], self.halted[index])

    def split(self, width: int) -> list["_Rows"]:
        return [self.select(torch.arange(start, start + width)) for start in range(0, len(self), width)]

    def state_dict(self) -> dict[str, Any]:
        return {
            "batch": self.batch.state_dict(),
            "carry": self.carry.state_dict(),
            "min_steps": self.min_steps,
            "halted": self.halted,
        }


def _joined(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the slots of all ranks as one group."""
    return states[0] if len(states) == 1 else _Rows.concat([_Rows.from_state_dict(one) for one in states]).state_dict()
