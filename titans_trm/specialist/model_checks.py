"""Checks that tell a model that works from one that only runs, for any module from tokens (B, N) to logits (B, N, V).

Each check returns a finding; `ok` is None where the check does not apply.
"""

import copy
import importlib
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from titans_trm.errors import InputError
from titans_trm.models.config import TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM

OVERFIT_STEPS = 150
OVERFIT_SHARE = 0.5  # of its first value that the loss on one batch must fall below
_TOLERANCE = 1e-4  # of logits, absolute and relative: other batch sizes sum in another order


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    check: str
    ok: bool | None
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class ModelUnderTest:
    """A model with tokens to try it on.

    Args:
        model: from tokens (B, N) int64 to logits (B, N, V).
        tokens: (B, N) int64, B at least 2.
        causal: whether position i may only read positions up to i; None = not known, not checked.
    """

    def __init__(self, model: nn.Module, tokens: Tensor, *, causal: bool | None = None) -> None:
        self.model = model
        self.tokens = tokens
        self.causal = causal

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the logits of `tokens`."""
        return self.model(tokens)

    @classmethod
    def load(cls, target: str) -> "ModelUnderTest":
        """Return the model of `module:Class`; its `config`, where it has one, tells the vocabulary.

        Raises:
            InputError: it cannot be imported or made without arguments.
        """
        module, _, name = target.partition(":")
        try:
            torch.manual_seed(0)
            model = getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"{target} cannot be made ({error}); give module:Class that needs no arguments."
            ) from error
        if not isinstance(model, nn.Module):
            raise InputError(f"{target} gives a {type(model).__name__}, not a torch module.")
        vocabulary = getattr(getattr(model, "config", None), "vocab_size", 8)
        return cls(model, _tokens(vocabulary, 12))

    @classmethod
    def titans_trm(cls, config: TitansTRMConfig) -> "ModelUnderTest":
        """Return the project's own model, one supervision step from a fresh carry."""
        torch.manual_seed(0)
        return cls(_OneStep(TitansTRM(config)), _tokens(config.vocab_size, config.seq_len), causal=config.causal)


class _OneStep(nn.Module):
    """A `TitansTRM` as a module from tokens to logits; the halting logit counts as one more class."""

    def __init__(self, model: TitansTRM) -> None:
        super().__init__()
        self.inner = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Run one supervision step."""
        ids = torch.arange(len(tokens)) % self.inner.config.num_puzzle_ids if self.inner.config.num_puzzle_ids else None
        output = self.inner(tokens, self.inner.initial_carry(*tokens.shape), ids)
        halting = output.halting_logits
        if halting.ndim == 1:  # it may read the whole sequence, as the last position may
            halting = nn.functional.pad(halting.unsqueeze(1), (tokens.shape[1] - 1, 0))
        return torch.cat((output.logits, halting.unsqueeze(-1).to(output.logits.dtype)), dim=-1)


def check_shapes(under: ModelUnderTest) -> Finding:
    """Logits are (B, N, V) and finite, for other batch sizes and lengths too."""
    shape = tuple(under.tokens.shape)
    with torch.no_grad():
        logits = under(under.tokens)
        single = under(under.tokens[:1])
    if logits.ndim != 3 or tuple(logits.shape[:2]) != shape or tuple(single.shape) != (1, *logits.shape[1:]):
        return Finding("shapes", False, f"tokens {shape} gave {tuple(logits.shape)}; want (B, N, V).")
    if not torch.isfinite(logits).all():
        return Finding("shapes", False, "logits are not finite at initialisation.")
    return Finding("shapes", True, f"{shape} to {tuple(logits.shape)}, finite.")


def check_gradients(under: ModelUnderTest) -> Finding:
    """Every parameter gets a finite gradient that is not zero."""
    model = copy.deepcopy(under.model)
    logits = model(under.tokens)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weight).sum().backward()
    missing, odd = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None or not parameter.grad.abs().max() > 0:
            missing.append(name)
        elif not torch.isfinite(parameter.grad).all():
            odd.append(name)
    if missing or odd:
        words = [f"no gradient: {', '.join(missing[:5])}"] if missing else []
        words += [f"not finite: {', '.join(odd[:5])}"] if odd else []
        return Finding("gradients", False, "; ".join(words) + ".")
    return Finding("gradients", True, "every parameter gets one.")


@torch.no_grad()
def check_batch_independence(under: ModelUnderTest) -> Finding:
    """An example's logits do not depend on its neighbours in the batch."""
    under.model.eval()
    whole = under(under.tokens)
    alone = torch.cat([under(row.unsqueeze(0)) for row in under.tokens])
    gap = (whole - alone).abs().max().item()
    ok = torch.allclose(whole, alone, atol=_TOLERANCE, rtol=_TOLERANCE)
    return Finding("batch independence", ok, f"largest difference alone or in a batch: {gap:.2g}.")


@torch.no_grad()
def check_causality(under: ModelUnderTest) -> Finding:
    """Changing a token changes nothing before it; only for models that say that they are causal."""
    if under.causal is not True:
        return Finding("causality", None, "not a causal model, or not known to be one.")
    under.model.eval()
    changed = under.tokens.clone()
    middle = changed.shape[1] // 2
    limit = int(under.tokens.max()) + 1
    changed[:, middle:] = (changed[:, middle:] + 1) % limit
    gap = (under(under.tokens) - under(changed))[:, :middle].abs().max().item()
    return Finding("causality", gap <= _TOLERANCE, f"positions before a changed token moved by {gap:.2g}.")


@torch.no_grad()
def check_determinism(under: ModelUnderTest) -> Finding:
    """The same input twice gives the same logits in evaluation mode."""
    under.model.eval()
    first, second = under(under.tokens), under(under.tokens)
    ok = torch.equal(first, second)
    return Finding(
        "determinism", ok, "equal." if ok else "two calls differ: hidden state, or randomness in evaluation."
    )


@torch.no_grad()
def check_save_and_load(under: ModelUnderTest) -> Finding:
    """A saved and loaded model gives the same logits."""
    under.model.eval()
    buffer = io.BytesIO()
    torch.save(under.model.state_dict(), buffer)
    buffer.seek(0)
    other = copy.deepcopy(under.model)
    for parameter in other.parameters():
        parameter.add_(1.0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    ok = torch.equal(under(under.tokens), other.eval()(under.tokens))
    return Finding("save and load", ok, "equal." if ok else "a loaded model answers differently.")


def check_overfits_one_batch(under: ModelUnderTest) -> Finding:
    """The loss on one batch of targets falls well below its first value."""
    model = copy.deepcopy(under.model).train()
    classes = int(model(under.tokens).shape[-1])
    targets = (under.tokens + 1) % min(classes, int(under.tokens.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses: list[float] = []
    for _ in range(OVERFIT_STEPS):
        loss = nn.functional.cross_entropy(model(under.tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < OVERFIT_SHARE * losses[0]:
            break
    ok = losses[-1] < OVERFIT_SHARE * losses[0]
    return Finding("overfits one batch", ok, f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps.")


CHECKS: tuple[Callable[[ModelUnderTest], Finding], ...] = (
    check_shapes,
    check_gradients,
    check_batch_independence,
    check_causality,
    check_determinism,
    check_save_and_load,
    check_overfits_one_batch,
)


def check_model(under: ModelUnderTest) -> list[Finding]:
    """Make every check; one that raises is a finding too."""
    findings = []
    for check in CHECKS:
        try:
            findings.append(check(under))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            name = check.__name__.removeprefix("check_").replace("_", " ")
            findings.append(Finding(name, False, f"{type(error).__name__}: {str(error).splitlines()[0]}"))
    return findings


def _tokens(vocabulary: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (3, length), generator=generator)
