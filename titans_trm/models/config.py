"""Configuration of the model: one frozen dataclass per component, each checked when it is made.

No torch here, so that a configuration is validated before anything heavy is imported. Every error names the key, the
value, the rule and the cure.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Gate = Literal["product", "convex", "attention_only", "memory_only"]
MemoryCarry = Literal["reset", "cycles", "steps"]
Recompute = Literal["none", "chunk", "segment"]

# Unknown keys are an error when a configuration is built from YAML or JSON (read by `titans_trm.schema`).
_STRICT = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Titans long-term memory (arXiv 2501.00663, section 3.1, and its NeurIPS 2025 version).

    `chunk_size` belongs to the trained weights: a model is evaluated with the chunk it was trained with.
    """

    __pydantic_config__ = _STRICT

    num_heads: int = 8  # independent memories; each is width / num_heads wide
    depth: Literal[1, 2] = 2  # weight matrices of one memory: M(x) = x + LN(W1 x) or x + LN(W2 gelu(W1 x))
    expansion: int = 4  # hidden width of a depth-2 memory, in head widths
    chunk_size: int = 64  # C, tokens whose gradients are taken at the same weights (causal models)
    conv_width: int = 4  # depthwise causal convolution on k, q, v (causal models; grids have no order); 0 = none
    read: Literal["post", "pre"] = "post"  # read M_t (after the write of token t) or M_{t-1}
    momentum: bool = True  # False: eta = 0, no past surprise (ablation)
    forgetting: bool = True  # False: alpha = 0, nothing is forgotten (ablation)
    max_step_size: float = 1.0  # theta is sigmoid(.) * max_step_size / C: cap of the step of one chunk
    max_inner_grad: float = 10.0  # cap of the Frobenius norm of one token's inner gradient, per weight matrix
    recompute: Recompute = (
        "chunk"  # what the backward pass computes again: none, the inside of each chunk, or segment: states too
    )
    carry: MemoryCarry = (
        "reset"  # reset: each net call starts anew; cycles: kept within a supervision step; steps: across
    )

    def __post_init__(self) -> None:
        _at_least("memory.num_heads", self.num_heads, 1)
        _one_of("memory.depth", self.depth, (1, 2))
        _at_least("memory.expansion", self.expansion, 1)
        _at_least("memory.chunk_size", self.chunk_size, 1)
        _at_least("memory.conv_width", self.conv_width, 0)
        _one_of("memory.read", self.read, ("post", "pre"))
        _positive("memory.max_step_size", self.max_step_size)
        _positive("memory.max_inner_grad", self.max_inner_grad)
        _one_of("memory.recompute", self.recompute, ("none", "chunk", "segment"))
        _one_of("memory.carry", self.carry, ("reset", "cycles", "steps"))


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The stack of MAG blocks: attention branch, memory branch, gate, SwiGLU."""

    __pydantic_config__ = _STRICT

    num_blocks: int = 6
    num_heads: int = 8  # attention heads
    mlp_hidden: int = 1024  # inner width of SwiGLU
    window: int | None = None  # positions seen on each allowed side, itself included; null = the whole sequence
    num_persistent_tokens: int = 4  # P learned tokens, visible to every position and written to the memory
    gate: Gate = "product"
    gate_activation: Literal["sigmoid", "silu"] = "sigmoid"  # sigma of the product gate (open in the paper)
    norm: Literal["post", "pre"] = "post"  # post keeps the recurrent state bounded; pre for a plain backbone
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        _at_least("backbone.num_blocks", self.num_blocks, 1)
        _at_least("backbone.num_heads", self.num_heads, 1)
        _at_least("backbone.mlp_hidden", self.mlp_hidden, 1)
        if self.window is not None:
            _at_least("backbone.window", self.window, 1)
        _at_least("backbone.num_persistent_tokens", self.num_persistent_tokens, 0)
        _one_of("backbone.gate", self.gate, ("product", "convex", "attention_only", "memory_only"))
        _one_of("backbone.gate_activation", self.gate_activation, ("sigmoid", "silu"))
        _one_of("backbone.norm", self.norm, ("post", "pre"))
        _positive("backbone.rope_theta", self.rope_theta)


@dataclass(frozen=True, kw_only=True)
class RecursionConfig:
    """Tiny Recursive Model (arXiv 2510.04871): n latent steps, T recursions of which the last carries gradient."""

    __pydantic_config__ = _STRICT

    num_latent_steps: int = 6  # n (`L_cycles` in the official code)
    num_recursions: int = 3  # T (`H_cycles`)
    gradient: Literal["full", "one_step"] = "full"  # full: all n+1 calls of the last recursion; one_step: its last two
    two_nets: bool = False  # separate networks for z and y (ablation)
    learned_init: bool = False  # learn the initial y and z instead of keeping them fixed and random
    checkpointing: bool = False  # recompute each net call in the backward pass: ~20x less memory, ~20 % more FLOPs

    def __post_init__(self) -> None:
        _at_least("recursion.num_latent_steps", self.num_latent_steps, 1)
        _at_least("recursion.num_recursions", self.num_recursions, 1)
        _one_of("recursion.gradient", self.gradient, ("full", "one_step"))


@dataclass(frozen=True, kw_only=True)
class HaltingConfig:
    """Adaptive computation: when an example has been thought about long enough."""

    __pydantic_config__ = _STRICT

    max_supervision_steps: int = 16  # N_sup (`halt_max_steps`)
    unit: Literal["sequence", "token"] = "sequence"  # one halting logit per example, or one per token (text)
    exploration: float = 0.1  # probability that an example must run a random minimum of 2..N_sup steps (training)
    bias_init: float = -5.0  # a head that starts at "not yet" cannot fall into the halt-at-once trap
    weight_init_std: float = 0.02  # small and non-zero: logits differ between examples from the first step

    def __post_init__(self) -> None:
        _at_least("halting.max_supervision_steps", self.max_supervision_steps, 1)
        _one_of("halting.unit", self.unit, ("sequence", "token"))
        if not 0.0 <= self.exploration <= 1.0:
            raise ValueError(f"halting.exploration={self.exploration} is not a probability; choose 0 to 1.")
        if self.weight_init_std < 0.0:
            raise ValueError(f"halting.weight_init_std={self.weight_init_std} is negative; choose 0 or more.")


@dataclass(frozen=True, kw_only=True)
class TitansTRMConfig:
    """The full model. `vocab_size`, `seq_len`, `causal`, `num_puzzle_ids` and `grid_shape` come from the task."""

    __pydantic_config__ = _STRICT

    vocab_size: int
    seq_len: int  # N, tokens of one example without the register
    causal: bool = False
    num_puzzle_ids: int = 0  # > 0: one learned embedding per puzzle id takes the register's place (ARC)
    grid_shape: tuple[int, int] | None = None  # rows, columns where the N tokens are the cells of a grid, row by row
    width: int = 512  # D
    learned_positions: bool = (
        False  # a learned vector per cell beside the rotary positions (grids: their length is fixed)
    )
    parameter_budget: tuple[int, int] | None = None  # lowest and highest parameter count; outside, the build fails
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    recursion: RecursionConfig = field(default_factory=RecursionConfig)
    halting: HaltingConfig = field(default_factory=HaltingConfig)

    def __post_init__(self) -> None:
        _at_least("vocab_size", self.vocab_size, 2)
        _at_least("seq_len", self.seq_len, 1)
        _at_least("num_puzzle_ids", self.num_puzzle_ids, 0)
        _at_least("width", self.width, 1)
        if self.grid_shape is not None and self.grid_shape[0] * self.grid_shape[1] != self.seq_len:
            raise ValueError(f"grid_shape={self.grid_shape} has not seq_len={self.seq_len} cells; make them equal.")
        _divides("backbone.num_heads", self.backbone.num_heads, "width", self.width)
        if (self.width // self.backbone.num_heads) % 2:
            raise ValueError(
                f"backbone.num_heads={self.backbone.num_heads} gives heads of odd width "
                f"{self.width // self.backbone.num_heads}; rotary positions need an even one."
            )
        if self.has_memory:
            _divides("memory.num_heads", self.memory.num_heads, "width", self.width)
            if self.causal and self.memory.carry != "reset":
                raise ValueError(
                    f"memory.carry={self.memory.carry} would let a causal model read the future: what net call r "
                    "wrote holds the tokens that call r+1 must predict. Causal models take memory.carry=reset."
                )
        if self.learned_positions and self.causal:
            raise ValueError(
                "learned_positions=true is for grids; a causal model must work beyond its training length, "
                "so it takes learned_positions=false."
            )
        if self.halting.unit == "token" and not self.causal:
            raise ValueError("halting.unit=token is for causal (text) models; grids take halting.unit=sequence.")
        if self.parameter_budget is not None and self.parameter_budget[0] > self.parameter_budget[1]:
            raise ValueError(f"parameter_budget={self.parameter_budget} has its ends swapped; give [low, high].")

    @property
    def has_memory(self) -> bool:
        """Whether blocks hold a long-term memory."""
        return self.backbone.gate != "attention_only"

    @property
    def has_attention(self) -> bool:
        """Whether blocks hold an attention branch."""
        return self.backbone.gate != "memory_only"

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers: safe in a checkpoint read with `weights_only=True`."""
        plain = asdict(self)
        return plain | {name: list(plain[name]) for name in _PAIRS if plain[name] is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TitansTRMConfig":
        """Rebuild a configuration from `to_dict`; an unknown key is a `TypeError` that names it."""
        parts = {
            "backbone": BackboneConfig,
            "memory": MemoryConfig,
            "recursion": RecursionConfig,
            "halting": HaltingConfig,
        }
        built = {name: parts[name](**value) if name in parts else value for name, value in values.items()}
        return cls(**built | {name: tuple(built[name]) for name in _PAIRS if built.get(name) is not None})


_PAIRS = ("grid_shape", "parameter_budget")  # of a configuration: lists in plain form


def _at_least(key: str, value: int, low: int) -> None:
    if value < low:
        raise ValueError(f"{key}={value} is too small; choose {low} or more.")


def _positive(key: str, value: float) -> None:
    if not value > 0.0:
        raise ValueError(f"{key}={value} must be greater than 0.")


def _one_of(key: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is not one of {', '.join(map(str, allowed))}.")


def _divides(key: str, divisor: int, whole_key: str, whole: int) -> None:
    if whole % divisor:
        raise ValueError(f"{key}={divisor} does not divide {whole_key}={whole}; choose a divisor.")
