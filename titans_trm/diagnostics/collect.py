"""`Collector`: sums over steps kept on the device, and everything else at a check, read in one transfer."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_trm.data.spec import PAD
from titans_trm.diagnostics.labels import LabelHistogram
from titans_trm.diagnostics.observation import Observation
from titans_trm.diagnostics.parameters import ParameterWatch
from titans_trm.diagnostics.probe import probe
from titans_trm.diagnostics.signals import Signals
from titans_trm.errors import InputError
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.models.trm_wrapper import Carry

Validate = Callable[[Tensor, Tensor], None]  # raises InputError for examples that break the rules of the task

_TINY = 1e-9
_SUMS = (  # per step, in this order
    "total", "cross_entropy", "halting", "diversity", "nonfinite", "grad_norm",
    "right", "token", "q", "q_std", "logit", "logit_std", "logit2", "logit_right",
    "halting_true", "first", "firsts", "gain", "unsolved", "depth", "last", "finished",
)  # fmt: skip
_MAXIMA = ("cross_entropy", "grad_norm")


class Collector:
    """Gather the signals of a model in training.

    Call `observe` after every batch, `before_update` and `after_update` around the optimiser step of a check, and then
    `check`. All that decides later signals is in `state_dict`.

    Args:
        model: in training, on its device.
        probe_examples: slots that are looked into at a check.
        audit_examples: slots whose examples are held against the rules of the task at a check.
        validate: those rules; None = not checked.
        memory_budget: bytes that `system/memory` is a share of; None = not measured.
    """

    def __init__(
        self,
        model: TitansTRM,
        *,
        probe_examples: int,
        audit_examples: int = 0,
        validate: Validate | None = None,
        memory_budget: int | None = None,
    ) -> None:
        self.model = model
        self.probe_examples = probe_examples
        self.audit_examples = audit_examples if validate is not None else 0
        self.validate = validate
        self.memory_budget = memory_budget
        self.parameters = ParameterWatch(model)
        self.labels = LabelHistogram(model.config.vocab_size)
        self.update_total = 0.0
        self._sums: Tensor | None = None
        self._maxima: Tensor | None = None
        self._grad_norm: Tensor | None = None  # of the last optimiser step, which accumulation may be long past
        self._previous: dict[int, tuple[Tensor, Tensor]] = {}  # by group: (B,) cross-entropy and right one step before
        self._steps = 0
        self._seconds = 0.0
        self._waited = 0.0

    @torch.no_grad()
    def observe(self, seen: Observation, grad_norm: Tensor | None, seconds: float, group: int = 0) -> None:
        """Add one supervision step of the slots `group`; `grad_norm` is the last optimiser step's, before clipping."""
        self._grad_norm = self._grad_norm if grad_norm is None else grad_norm
        values = self._step_values(seen, self._grad_norm, group)
        maxima = torch.stack([values[_SUMS.index(name)] for name in _MAXIMA])
        self._sums = values if self._sums is None else self._sums + values
        self._maxima = maxima if self._maxima is None else torch.maximum(self._maxima, maxima)
        self._previous[group] = (seen.example_cross_entropy, seen.right)
        self._steps += 1
        self._seconds += seconds
        self._waited += seen.wait_seconds

    @torch.no_grad()
    def check(self, step: int, seen: Observation, lr: float, every: int) -> Signals:
        """Return the signals of the steps since the last check, in one transfer from the device.

        Args:
            step: optimiser steps done.
            seen: the newest observation, with the carry its step began with.
            lr: learning rate of the first parameter group.
            every: optimiser steps between checks.
        """
        assert self._sums is not None and self._maxima is not None
        norms = self.parameters.after_update()
        looked = probe(self.model, seen.examples.inputs, seen.carry, seen.examples.puzzle_ids, self.probe_examples)
        looked |= _latents(seen) | _carried(self.model, seen.before)
        audited = [seen.examples.inputs[: self.audit_examples], seen.examples.targets[: self.audit_examples]]
        parts = [self._sums, self._maxima, self.labels.count(seen.examples.targets), *audited]
        parts += [torch.stack(list(looked.values()))] if looked else []
        parts += [norms] if norms is not None else []
        sizes = [part.numel() for part in parts]
        numbers = iter(torch.cat([part.flatten().float() for part in parts]).tolist())  # the one transfer
        sums, maxima, labels, inputs, targets, *rest = [[next(numbers) for _ in range(size)] for size in sizes]
        values = self._interval_values(dict(zip(_SUMS, sums, strict=True)), dict(zip(_MAXIMA, maxima, strict=True)))
        values |= self.labels.values(labels, len(seen.examples)) | {"lr": lr} | self._system()
        names: dict[str, list[str]] = {}
        if looked:
            values |= dict(zip(looked, rest[0], strict=True))
            for name in ("latent/change", "latent/reset"):
                if values.get(name, 0.0) < 0.0:
                    del values[name]
        if norms is not None:
            size = norms.shape[1]
            more, names = self.parameters.values([rest[-1][i * size : (i + 1) * size] for i in range(3)])
            self.update_total += more["update/median"] * every
            values |= more | {"update/total": self.update_total}
        if self.audit_examples:
            values |= self._audit(inputs, targets, seen.examples.inputs.shape[1], names)
        self._sums = self._maxima = None
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        return Signals(step, {name: _rounded(value) for name, value in values.items()}, names)

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors and numbers."""
        return {
            "sums": self._sums,
            "maxima": self._maxima,
            "grad_norm": self._grad_norm,
            "previous": dict(self._previous),
            "steps": self._steps,
            "update_total": self.update_total,
            "labels": self.labels.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from `state_dict`; times are of this process only."""
        self._sums, self._maxima, self._grad_norm = (
            None if state[name] is None else state[name].to(device) for name in ("sums", "maxima", "grad_norm")
        )
        self._previous = {int(g): (ce.to(device), right.to(device)) for g, (ce, right) in state["previous"].items()}
        self._steps, self.update_total = state["steps"], state["update_total"]
        self.labels.load_state_dict(state["labels"])

    def _step_values(self, seen: Observation, grad_norm: Tensor | None, group: int) -> Tensor:
        logits = seen.halting_logits.float()
        logits = logits if logits.ndim == 1 else logits.amin(dim=1)
        right, done = seen.right.float(), seen.halted.float()
        q = logits.sigmoid()
        moments = torch.stack([right, seen.token_accuracy.float(), q, logits, logits.square(), logits * right]).mean(1)
        grad = torch.zeros_like(moments[0]) if grad_norm is None else grad_norm.to(moments.dtype)
        first = (seen.steps == 1).float()
        now = seen.example_cross_entropy
        gain = unsolved = torch.zeros_like(first)
        previous = self._previous.get(group)
        if previous is not None and len(previous[0]) == len(now):  # else the slots are spread over other batches since
            was, was_right = previous
            unsolved = (1.0 - first) * (~was_right).float()
            gain = ((was - now) / was.clamp_min(_TINY)).clamp(-1.0, 1.0) * unsolved
        counted = torch.stack([now * first, first, gain, unsolved, seen.steps.float() * done, right * done, done]).sum(
            1
        )
        finite = torch.isfinite(seen.total) & torch.isfinite(grad)
        terms = [seen.total, seen.cross_entropy, seen.halting, seen.diversity, 1.0 - finite.to(moments.dtype), grad]
        r, token, mean_q, logit, logit2, logit_right = moments.unbind()
        true = F.binary_cross_entropy_with_logits(logits, right)
        scalars = [*terms, r, token, mean_q, q.std(unbiased=False), logit, logits.std(unbiased=False)]
        return torch.cat([torch.stack([s.to(moments.dtype) for s in (*scalars, logit2, logit_right, true)]), counted])

    def _interval_values(self, sums: dict[str, float], maxima: dict[str, float]) -> dict[str, float]:
        mean = {name: value / self._steps for name, value in sums.items()}
        values = {f"loss/{name}": mean[name] for name in ("total", "cross_entropy", "halting", "diversity")}
        values |= {
            "loss/nonfinite": sums["nonfinite"],
            "loss/cross_entropy_max": maxima["cross_entropy"],
            "grad/norm": mean["grad_norm"],
            "grad/norm_max": maxima["grad_norm"],
            "solve/exact": mean["right"],
            "solve/token": mean["token"],
            "halting/probability": mean["q"],
            "halting/probability_std": mean["q_std"],
            "halting/logit_mean": mean["logit"],
            "halting/logit_std": mean["logit_std"],
            "halting/finished": sums["finished"],
            "solve/unsolved": sums["unsolved"],
            "time/step": self._seconds / self._steps,
            "time/wait": self._waited / max(self._seconds, _TINY),
        }
        for name, total, count in (
            ("solve/first", "first", "firsts"),
            ("solve/gain", "gain", "unsolved"),
            ("halting/steps", "depth", "finished"),
            ("solve/last", "last", "finished"),
        ):
            if sums[count] > 0:
                values[name] = sums[total] / sums[count]
        if self.model.config.halting.unit == "sequence":
            values["halting/cross_entropy"] = mean["halting_true"]
        spread = (mean["logit2"] - mean["logit"] ** 2) * mean["right"] * (1.0 - mean["right"])
        if spread > _TINY:
            values["halting/correlation"] = (mean["logit_right"] - mean["logit"] * mean["right"]) / math.sqrt(spread)
        return values

    def _audit(
        self, inputs: list[float], targets: list[float], length: int, names: dict[str, list[str]]
    ) -> dict[str, float]:
        """Hold a few of the examples in the slots against the rules of the task."""
        assert self.validate is not None
        pair = [torch.tensor(part).view(-1, length) for part in (inputs, targets)]
        pair[1] = torch.where(pair[1] < 0, torch.full_like(pair[1], PAD), pair[1])
        stored = torch.uint8 if self.model.config.vocab_size <= 256 else torch.int16  # as in an ExampleSet
        try:
            self.validate(pair[0].to(stored), pair[1].to(stored))
        except InputError as error:
            names["invalid"] = [str(error)]
            return {"labels/invalid": 1.0}
        return {"labels/invalid": 0.0}

    def _system(self) -> dict[str, float]:
        device = next(self.model.parameters()).device
        if self.memory_budget is None or device.type != "cuda":
            return {}
        return {"system/memory": torch.cuda.max_memory_reserved(device) / self.memory_budget}


def _latents(seen: Observation) -> dict[str, Tensor]:
    """Return sizes and spread of the states y, z (B, L, D) after the step, and how far z moved in it."""
    y, z = seen.carry.y.float(), seen.carry.z.float()
    found = {"latent/z_rms": z.square().mean().sqrt(), "latent/y_rms": y.square().mean().sqrt()}
    if len(y) > 1:
        pooled = y.mean(1)
        centred = pooled - pooled.mean(0)
        gram = centred @ centred.T
        found["latent/spread"] = centred.square().mean().sqrt() / pooled.square().mean().sqrt().clamp_min(_TINY)
        found["latent/participation"] = gram.trace().square() / gram.square().sum().clamp_min(_TINY**2)
    if seen.before is not None:
        moved = (z - seen.before.z.float()).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1).clamp_min(_TINY)
        found["latent/change"] = _mean_of_kept(moved, seen.carry.steps > 1)
    return found


def _carried(model: TitansTRM, before: Carry | None) -> dict[str, Tensor]:
    """Return the share of slots beyond their first step that began it with the states of a new example."""
    if before is None:
        return {}
    new = model.initial_carry(len(before.steps), before.y.shape[1] - 1)
    y, z = ((was == start.to(was.dtype)).flatten(1).all(1) for was, start in ((before.y, new.y), (before.z, new.z)))
    return {"latent/reset": _mean_of_kept((y & z).float(), before.steps > 0)}


def _mean_of_kept(values: Tensor, kept: Tensor) -> Tensor:
    """Return the mean of `values` (B,) where `kept` (B,); -1 where no slot is beyond its first step."""
    count = kept.sum()
    return torch.where(count > 0, (values * kept).sum() / count.clamp_min(1), -torch.ones_like(values[0]))


def _rounded(value: float) -> float:
    """Return five significant digits: enough to judge, and the same numbers live and from the file."""
    return float(f"{value:.5g}")
