"""Parameter groups: which parameters share a learning rate, a weight decay and an optimiser."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from titans_trm.optim.config import OptimizerConfig

NamedParameters = list[tuple[str, nn.Parameter]]


@dataclass
class ParameterGroups:
    """A partition of the trainable parameters, each part in model order."""

    hidden: NamedParameters = field(default_factory=list)  # matrices between hidden activations, fit for Muon
    matrices: NamedParameters = field(default_factory=list)  # embeddings, heads and every other tensor of rank >= 2
    vectors: NamedParameters = field(default_factory=list)  # biases, gains, registers
    puzzle_embedding: NamedParameters = field(default_factory=list)  # one vector per puzzle id


def split_parameters(model: nn.Module) -> ParameterGroups:
    """Sort the parameters that require gradient into groups.

    Hidden are the 2-D parameters named `weight` outside embeddings and heads. Muon wants maps from one hidden
    activation to another: embeddings and heads have a vocabulary or a single logit on one side, persistent tokens and
    learned initial states are sets of vectors. The memory's initial weights (H, d_in, d_out) also stay out: they are
    starting points of test-time learning, whose scale the inner step sizes rely on, and Muon would set that scale.
    """
    groups = ParameterGroups()
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        path = name.split(".")
        if any(part.startswith("puzzle_embedding") for part in path):
            groups.puzzle_embedding.append((name, parameter))
        elif parameter.ndim < 2:
            groups.vectors.append((name, parameter))
        elif (
            parameter.ndim == 2
            and path[-1] == "weight"
            and id(parameter) not in embeddings
            and not any(part.endswith("head") for part in path)
        ):
            groups.hidden.append((name, parameter))
        else:
            groups.matrices.append((name, parameter))
    return groups


def adam_groups(groups: ParameterGroups, config: OptimizerConfig, *, with_hidden: bool) -> list[dict[str, Any]]:
    """Return the parameter groups of AdamW or AdamATan2, without empty ones.

    Each has a `name`, which learning-rate monitors show.

    Args:
        groups: from `split_parameters`.
        config: learning rates and weight decay.
        with_hidden: whether the hidden matrices belong here (not under Muon).
    """
    vector_decay = config.weight_decay if config.decay_all else 0.0
    puzzle_lr = config.lr if config.puzzle_embedding_lr is None else config.puzzle_embedding_lr
    puzzle_decay = config.puzzle_embedding_weight_decay
    matrices = groups.hidden + groups.matrices if with_hidden else groups.matrices
    candidates: list[dict[str, Any]] = [
        {"name": "matrices", "params": matrices, "lr": config.lr, "weight_decay": config.weight_decay},
        {"name": "vectors", "params": groups.vectors, "lr": config.lr, "weight_decay": vector_decay},
        {
            "name": "puzzle_embedding",
            "params": groups.puzzle_embedding,
            "lr": puzzle_lr,
            "weight_decay": config.weight_decay if puzzle_decay is None else puzzle_decay,
        },
    ]
    # Parameters without their names: a saved state then does not depend on how modules are called.
    return [{**group, "params": [p for _, p in group["params"]]} for group in candidates if group["params"]]
