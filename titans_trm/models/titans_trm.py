"""TitansTRM: embeddings, the recursive Titans-MAG core, and the two heads. One call is one supervision step.

- A value transformation: tokens and a carry in, logits and the next carry out. No optimiser, loader, global state.
- Untied embeddings; one register token gives the halting head a place to read (the puzzle embedding where ids exist).
- The register stands first for grids; for causal text it stands last, where it has seen everything.

B batch, N tokens, L = N + 1 positions, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from titans_trm.models.act_head import ACTHead
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.memory import NeuralMemory
from titans_trm.models.titans_mag import MAGGate
from titans_trm.models.trm_wrapper import Carry, TRMWrapper

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

    def forward(self, inputs: Tensor, carry: Carry, puzzle_ids: Tensor | None = None) -> ModelOutput:
        """Run one supervision step.

        Args:
            inputs: tokens (B, N) int64.
            carry: from `initial_carry` or from the previous step's output.
            puzzle_ids: (B,) int64, needed when the model has puzzle embeddings.

        Returns:
            Logits (B, N, V), halting logits, and the carry of the next step.
        """
        return self.step(self.embed(inputs, puzzle_ids), carry)

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
        tokens = self.embedding(inputs)
        if self.config.num_puzzle_ids:
            if puzzle_ids is None:
                raise ValueError("this model has puzzle embeddings; call it with puzzle_ids of shape (B,).")
            register = self.puzzle_embedding(puzzle_ids)[:, None]
        else:
            register = self.register.expand(len(inputs), 1, -1)
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
