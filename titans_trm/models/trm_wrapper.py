"""The multi-pass wrapper of a Tiny Recursive Model (arXiv 2510.04871, section 4).

- One network f, additive injection:  latent recursion  z <- f(x + y + z)  n times,  then  y <- f(y + z).
- Deep recursion: T - 1 latent recursions without gradient, then one with full back-propagation through its n + 1 calls.
- Deep supervision: the carry (y, z and, if kept, the memory) goes detached into the next supervision step.
- A causal model can be streamed: token t needs of the tokens before it only what they left in the same net call.
- Gradient checkpointing is per net call: the calls are the only thing worth recomputing, and there are n + 1 of them.

B batch, L positions (tokens and register), D width, n latent steps, T recursions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from titans_trm.models.attention import Reach
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.memory_state import MemoryState
from titans_trm.models.norm import rms_norm
from titans_trm.models.stream_state import BlockState, StreamState
from titans_trm.models.titans_mag import TitansMAG


@dataclass
class Carry:
    """What one supervision step hands to the next; every tensor has the batch first and no graph."""

    y: Tensor  # answer state (B, L, D), `z_H` in the official code
    z: Tensor  # latent state (B, L, D), `z_L`
    steps: Tensor  # supervision steps done (B,) int64
    memory: list[MemoryState] | None = None  # one state per block of each net, only with memory.carry = steps

    def detach(self) -> "Carry":
        """Cut the graph."""
        memory = [state.detach() for state in self.memory] if self.memory is not None else None
        return Carry(self.y.detach(), self.z.detach(), self.steps, memory)

    def reset(self, mask: Tensor, fresh: "Carry") -> "Carry":
        """Replace the rows where `mask` (B,) is true by those of `fresh`: a new example starts in that slot."""
        rows = mask[:, None, None]
        memory = self.memory
        if memory is not None and fresh.memory is not None:
            memory = [old.reset(mask, new) for old, new in zip(memory, fresh.memory, strict=True)]
        return Carry(
            torch.where(rows, fresh.y, self.y),
            torch.where(rows, fresh.z, self.z),
            torch.where(mask, fresh.steps, self.steps),
            memory,
        )

    def select(self, index: Tensor) -> "Carry":
        """Keep the rows `index`: examples that are done leave the batch."""
        memory = [state.select(index) for state in self.memory] if self.memory is not None else None
        return Carry(self.y[index], self.z[index], self.steps[index], memory)

    @staticmethod
    def concat(carries: "Sequence[Carry]") -> "Carry":
        """Return one carry of the rows of all `carries`, in order."""
        states = [carry.memory for carry in carries if carry.memory is not None]
        memory = [MemoryState.concat(same) for same in zip(*states, strict=True)] if states else None
        y, z, steps = (torch.cat([getattr(carry, name) for carry in carries]) for name in ("y", "z", "steps"))
        return Carry(y, z, steps, memory)

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors, safe in a checkpoint read with `weights_only=True`."""
        memory = [state.state_dict() for state in self.memory] if self.memory is not None else None
        return {"y": self.y, "z": self.z, "steps": self.steps, "memory": memory}

    @classmethod
    def from_state_dict(cls, values: dict[str, Any], device: torch.device | str = "cpu") -> "Carry":
        """Rebuild a carry from `state_dict` on `device`."""
        memory = values["memory"]
        if memory is not None:
            memory = [MemoryState.from_state_dict(state).to(device) for state in memory]
        return cls(values["y"].to(device), values["z"].to(device), values["steps"].to(device), memory)


class TRMWrapper(nn.Module):
    """Latent and deep recursion around the Titans-MAG stack."""

    y_init: Tensor
    z_init: Tensor

    def __init__(self, config: TitansTRMConfig) -> None:
        super().__init__()
        self.config = config.recursion
        self.memory_carry = config.memory.carry if config.has_memory else "reset"
        self.net = TitansMAG(config)
        self.net_y = TitansMAG(config) if config.recursion.two_nets else None
        if self.memory_carry != "reset":
            # What a gradient reaches starts from a detached state, never from the initial memory: like y and z it is
            # then a fixed random start, and no parameter is left without a gradient.
            for block in self._blocks():
                block.memory.initial_weights.requires_grad_(False)
        for name in ("y_init", "z_init"):
            start = rms_norm(torch.randn(config.width))
            if config.recursion.learned_init:
                self.register_parameter(name, nn.Parameter(start))
            else:
                self.register_buffer(name, start)

    def initial_carry(self, batch_size: int, length: int) -> Carry:
        """Return the carry of examples that have not been thought about yet: y, z of shape (B, L, D)."""
        y, z = (start.detach().expand(batch_size, length, -1) for start in (self.y_init, self.z_init))
        steps = torch.zeros(batch_size, dtype=torch.int64, device=y.device)
        memory = None
        if self.memory_carry == "steps":
            memory = [block.memory.init_state(batch_size, y.device, y.dtype).detach() for block in self._blocks()]
        return Carry(y, z, steps, memory)

    def forward(self, x: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Run one supervision step.

        Args:
            x: embedded input (B, L, D).
            carry: the detached state after the previous step, or `initial_carry`.

        Returns:
            The answer state y (B, L, D) with its graph, and the detached carry for the next step.
        """
        y, z = self._start(carry, x)
        passes = _Passes(self, carry.memory)
        with torch.no_grad():
            for _ in range(self.config.num_recursions - 1):
                y, z = self._latent_recursion(x, y, z, passes)
        passes.detach()
        y, z = self._latent_recursion(x, y, z, passes, one_step=self.config.gradient == "one_step")
        memory = passes.states if self.memory_carry == "steps" else None
        return y, replace(carry, y=y, z=z, steps=carry.steps + 1, memory=memory).detach()

    @torch.no_grad()
    def init_state(self, batch_size: int, num_steps: int) -> StreamState:
        """Return the state of `batch_size` sequences before their first token, for `num_steps` supervision steps."""
        memories = [block.initial_memory() for block in self._blocks()]
        first, second = slice(0, len(self.net.blocks)), slice(-len(self.net.blocks), None)
        recursion = [first] * self.config.num_latent_steps + [second]
        return StreamState(
            positions=(0,) * batch_size,
            persistent=[block.persistent_keys() for block in self._blocks()],
            calls=[
                [BlockState(None, memory) for memory in memories[mine]]
                for mine in recursion * (num_steps * self.config.num_recursions)
            ],
        )

    @torch.no_grad()
    def extend(self, x: Tensor, state: StreamState, reach: Reach) -> tuple[Tensor, StreamState]:
        """Run all supervision steps on the next tokens of a stream.

        Args:
            x: embedded tokens (B, N, D).
            state: what the tokens before left in each net call.
            reach: what the new ones see of them.

        Returns:
            The answer state y (B, N, D) after the last supervision step, and the state after these tokens.
        """
        y, z = (start.to(x.dtype).expand_as(x) for start in (self.y_init, self.z_init))
        recursion = self.config.num_latent_steps + 1
        count, calls = len(self.net.blocks), []
        for number, blocks in enumerate(state.calls):
            answer = number % recursion == self.config.num_latent_steps
            net = self.net if self.net_y is None or not answer else self.net_y
            mine = state.persistent[-count:] if answer else state.persistent[:count]
            out, after = net.extend(y + z if answer else x + y + z, mine, blocks, reach)
            y, z = (out, z) if answer else (y, out)
            calls.append(after)
        positions = tuple(position + x.shape[1] for position in state.positions)
        return y, replace(state, positions=positions, calls=calls)

    def _blocks(self) -> list[Any]:
        nets = [self.net] if self.net_y is None else [self.net, self.net_y]
        return [block for net in nets for block in net.blocks]

    def _start(self, carry: Carry, x: Tensor) -> tuple[Tensor, Tensor]:
        """Read y and z from the carry; rows at step 0 take the learned initial values, with their gradient."""
        y, z = carry.y.to(x.dtype), carry.z.to(x.dtype)
        if not self.config.learned_init:
            return y, z
        fresh = (carry.steps == 0)[:, None, None]
        return torch.where(fresh, self.y_init.to(x.dtype), y), torch.where(fresh, self.z_init.to(x.dtype), z)

    def _latent_recursion(
        self, x: Tensor, y: Tensor, z: Tensor, passes: "_Passes", one_step: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Refine z n times, then y once; with `one_step` only the last z and the y call carry gradient."""
        for step in range(self.config.num_latent_steps):
            silent = one_step and step < self.config.num_latent_steps - 1
            with torch.set_grad_enabled(torch.is_grad_enabled() and not silent):
                z = passes.call(x + y + z)
        return passes.call(y + z, answer=True), z


class _Passes:
    """The net calls of one supervision step, with the memory state that goes from call to call."""

    def __init__(self, wrapper: TRMWrapper, states: list[MemoryState] | None) -> None:
        self.wrapper = wrapper
        self.keep = wrapper.memory_carry != "reset"
        self.states = states

    def detach(self) -> None:
        """Cut the graph of the states before the calls that carry gradient."""
        if self.states is not None:
            self.states = [state.detach() for state in self.states]

    def call(self, h: Tensor, answer: bool = False) -> Tensor:
        """Run one net call on `h` (B, L, D); `answer` picks the second network where there are two."""
        wrapper = self.wrapper
        second = answer and wrapper.net_y is not None
        net = wrapper.net_y if second else wrapper.net
        assert net is not None
        count = len(wrapper.net.blocks)
        mine = slice(count, None) if second else slice(0, count)
        states = self.states[mine] if self.states is not None else None
        if wrapper.config.checkpointing and torch.is_grad_enabled():
            out, new_states = checkpoint(net, h, states, return_states=self.keep, use_reentrant=False)
        else:
            out, new_states = net(h, states, return_states=self.keep)
        if self.keep and new_states is not None:
            self._store(mine, new_states, count)
        return out

    def _store(self, mine: slice, new_states: list[MemoryState], count: int) -> None:
        if self.wrapper.net_y is None:
            self.states = new_states
            return
        # Two nets, two sets of memories: the second set exists only after the first y call.
        if self.states is None:
            self.states = new_states
        elif mine.start == 0:
            self.states = new_states + self.states[count:]
        else:
            self.states = self.states[:count] + new_states
