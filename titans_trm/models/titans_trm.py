"""TitansTRM: embeddings, the recursive Titans-MAG core, and the two heads. One call is one supervision step.

- A value transformation: tokens and a carry in, logits and the next carry out. No optimiser, loader, global state.
- Untied embeddings; one register token gives the halting head a place to read (the puzzle embedding where ids exist).
- The register stands first for grids; for causal text it stands last, where it has seen everything and nothing sees it:
  a stream of tokens therefore goes on without it.

B batch, N tokens, L = N + 1 positions, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor, nn

from titans_trm.models.act_head import ACTHead
from titans_trm.models.attention import Reach
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.memory import NeuralMemory
from titans_trm.models.stream_state import StreamState
from titans_trm.models.titans_mag import MAGGate
from titans_trm.models.trm_wrapper import Carry, TRMWrapper

_PIECE = 256  # tokens of a stream that pass through the network together where no window or chunk is longer
_MIX_SCALE = 0.1  # of the convex gate's weights at the start, beside those of a linear layer


@dataclass
class ModelOutput:
    """The result of one supervision step."""

    logits: Tensor  # answer (B, N, V)
    halting_logits: Tensor  # (B,) fp32, or (B, N) with halting.unit = token; > 0 means "this is right, stop"
    halting_features: Tensor  # what the halting head read: y at the register (B, D), or at every token (B, N, D)
    carry: Carry  # detached


class TitansTRM(nn.Module):
    """Tiny Recursive Model whose network is a stack of Titans memory-as-gate blocks."""

    def __init__(self, config: TitansTRMConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = nn.Embedding(config.vocab_size, width)
        if config.num_puzzle_ids:
            self.puzzle_embedding = nn.Embedding(config.num_puzzle_ids, width)
        else:
            self.register = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(config.seq_len + 1, width)) if config.learned_positions else None
        self.recursion = TRMWrapper(config)
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        self.act_head = ACTHead(width, config.halting)
        self._init_weights()
        self._check_budget()

    @overload
    def forward(self, inputs: Tensor, carry: Carry, puzzle_ids: Tensor | None = None) -> ModelOutput: ...

    @overload
    def forward(self, inputs: Tensor, carry: StreamState) -> tuple[Tensor, StreamState]: ...

    def forward(
        self, inputs: Tensor, carry: Carry | StreamState, puzzle_ids: Tensor | None = None
    ) -> ModelOutput | tuple[Tensor, StreamState]:
        """Run one supervision step; or, given the state of a stream, all steps on its next tokens.

        Args:
            inputs: tokens (B, N) int64.
            carry: from `initial_carry` or from the previous step's output; or a state from `init_state`.
            puzzle_ids: (B,) int64, needed when the model has puzzle embeddings and a carry is given.

        Returns:
            Logits (B, N, V), halting logits, and the carry of the next step. Of a stream, without gradient: logits
            (B, N, V) after the last supervision step, equal to those of the whole sequence, and the next state.
        """
        if isinstance(carry, StreamState):
            return self._stream(inputs, carry)
        return self.step(self.embed(inputs, puzzle_ids), carry)

    def init_state(self, batch_size: int, *, num_steps: int | None = None) -> StreamState:
        """Return the state of `batch_size` sequences before their first token.

        A stream runs a fixed number of supervision steps, `halting.max_supervision_steps` or `num_steps`: a token that
        halted early would leave no history in later steps for the tokens that go on to read.

        Raises:
            ValueError: the model is not causal, so that every cell sees every other and none can be answered before
                the last is known; or a number is below 1.
        """
        if not self.config.causal:
            raise ValueError(
                "only causal models can be streamed: on a grid every cell sees every other; solve() whole grids."
            )
        steps = self.config.halting.max_supervision_steps if num_steps is None else num_steps
        for name, value in (("batch_size", batch_size), ("num_steps", steps)):
            if value < 1:
                raise ValueError(f"{name}={value} leaves nothing to stream; choose 1 or more.")
        return self.recursion.init_state(batch_size, steps)

    def decode(self, token: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Read a token of each sequence, (B,) int64; return the logits of what follows, (B, V), and the next state."""
        logits, state = self(token[:, None], state)
        return logits[:, 0], state

    @torch.no_grad()
    def stream_halting_logits(self, state: StreamState, puzzle_ids: Tensor | None = None) -> Tensor:
        """Return the halting logits (B,) of the sequences read so far, as if they ended here; the state stays valid.

        The register is put behind the last token and its state is thrown away: the cost is that of one token.

        Raises:
            ValueError: `halting.unit=token`, where each token has a logit and the sequence none.
        """
        if self.config.halting.unit == "token":
            raise ValueError("halting.unit=token gives a logit per token, none per sequence; call the model on it.")
        register = self._register(len(state.positions), puzzle_ids) * self.config.width**0.5
        y, _ = self.recursion.extend(register, state, self._reach(state, 1))
        return self.act_head(y[:, 0])

    def step(self, embedded: Tensor, carry: Carry) -> ModelOutput:
        """Run one supervision step on what `embed` returned, (B, N + 1, D); for those who change it in between."""
        y, carry = self.recursion(embedded, carry)
        tokens = y[:, :-1] if self.config.causal else y[:, 1:]
        register = y[:, -1] if self.config.causal else y[:, 0]
        features = tokens if self.config.halting.unit == "token" else register
        return ModelOutput(self.head(tokens), self.act_head(features), features, carry)

    def embed(self, inputs: Tensor, puzzle_ids: Tensor | None = None) -> Tensor:
        """Embed tokens (B, N) and put the register beside them: (B, N + 1, D), unit variance."""
        scale = self.config.width**0.5
        tokens, register = self.embedding(inputs), self._register(len(inputs), puzzle_ids)
        order = (tokens, register) if self.config.causal else (register, tokens)
        embedded = scale * torch.cat(order, dim=1)
        if self.positions is None:
            return embedded
        return 0.5**0.5 * (embedded + scale * self.positions)

    def initial_carry(self, batch_size: int, length: int | None = None) -> Carry:
        """Return the carry of `batch_size` new examples of `length` tokens (the configured N if not given)."""
        return self.recursion.initial_carry(batch_size, (length or self.config.seq_len) + 1)

    def num_params(self) -> int:
        """Count the trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def net_calls_per_step(self) -> int:
        """Passes through the backbone in one supervision step: T (n + 1)."""
        return self.config.recursion.num_recursions * (self.config.recursion.num_latent_steps + 1)

    def _register(self, batch_size: int, puzzle_ids: Tensor | None) -> Tensor:
        """Return the register, or what takes its place, (B, 1, D), not yet scaled."""
        if not self.config.num_puzzle_ids:
            return self.register.expand(batch_size, 1, -1)
        if puzzle_ids is None:
            raise ValueError("this model has puzzle embeddings; call it with puzzle_ids of shape (B,).")
        return self.puzzle_embedding(puzzle_ids)[:, None]

    @torch.no_grad()
    def _stream(self, inputs: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Read the next tokens (B, N) of a stream, in pieces, so that memory does not grow with N."""
        if inputs.dim() != 2 or len(inputs) != len(state.positions) or not inputs.shape[1]:
            raise ValueError(
                f"inputs of shape {tuple(inputs.shape)} do not fit a state of {len(state.positions)} sequences; give "
                "(B, N) tokens with N of 1 or more."
            )
        most = max(self.config.backbone.window or _PIECE, self.config.memory.chunk_size)
        logits = []
        for piece in inputs.split(most, dim=1):
            embedded = self.embedding(piece) * self.config.width**0.5
            y, state = self.recursion.extend(embedded, state, self._reach(state, piece.shape[1]))
            logits.append(self.head(y))
        return torch.cat(logits, dim=1), state

    def _reach(self, state: StreamState, num_new: int) -> Reach:
        backbone = self.config.backbone
        return Reach.of(
            state.positions,
            num_new,
            window=backbone.window,
            num_persistent=backbone.num_persistent_tokens,
            head_width=self.config.width // backbone.num_heads,
            theta=backbone.rope_theta,
            device=self.embedding.weight.device,
        )

    @torch.no_grad()
    def _init_weights(self) -> None:
        """Draw the weights of the shared parts; the memory and the halting head draw their own.

        | parameter | distribution |
        |---|---|
        | linear layers, (out, in) | normal, std 1 / sqrt(in) |
        | token embedding, register, positions | normal, std 1 / sqrt(D), times sqrt(D) when used |
        | positions of a grid's cells | a vector of the row plus one of the column, together of that variance |
        | head of a causal model | a copy of the token embedding: weights start tied (arXiv 1608.05859) |
        | weight of the convex gate | a tenth of that of a linear layer: both branches pass evenly at the start |
        | puzzle embedding | zero: an unknown puzzle starts neutral |
        | persistent tokens | normal, std 1 |
        | norm gains | one |
        | biases | zero |
        """
        self_drawn = {m for part in self.modules() if isinstance(part, NeuralMemory | ACTHead) for m in part.modules()}
        mixes = {gate.mix for gate in self.modules() if isinstance(gate, MAGGate) and gate.mode == "convex"}
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in self_drawn:
                scale = _MIX_SCALE if module in mixes else 1.0
                nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        std = self.config.width**-0.5
        nn.init.normal_(self.embedding.weight, std=std)
        if self.config.causal:
            # A token said is near the token read: one map from memory to tokens serves the whole vocabulary.
            self.head.weight.copy_(self.embedding.weight)
        if self.config.num_puzzle_ids:
            nn.init.zeros_(self.puzzle_embedding.weight)
        else:
            nn.init.normal_(self.register, std=std)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=std)
            if self.config.grid_shape is not None:
                # Cells of a row, and of a column, start alike: attention finds them by content from the first step on.
                rows, columns = (torch.randn(n, self.config.width) * 0.5**0.5 * std for n in self.config.grid_shape)
                self.positions[1:] = (rows[:, None] + columns).flatten(0, 1)

    def _check_budget(self) -> None:
        budget = self.config.parameter_budget
        if budget is None:
            return
        low, high = budget
        count = self.num_params()
        if not low <= count <= high:
            raise ValueError(
                f"the model has {count:,} parameters, outside parameter_budget=[{low:,}, {high:,}]; "
                "change width, backbone.num_blocks or backbone.mlp_hidden, or set model.parameter_budget=null."
            )
