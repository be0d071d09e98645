"""Two other debuggers on the same runs, re-implemented from their published thresholds.

- Amazon SageMaker Debugger, built-in rules at their defaults (developer guide, "List of Debugger Built-in Rules").
- AUTOTRAINER (ICSE 2021), criteria and defaults of `utils/utils.py` and `utils/monitor.py`, an epoch being 25 steps.

Both get more than they ask for: every tenth step instead of every 500th, every layer, and the model's true gradients.
What they cannot look at (halting, memory, leaks) they do not look at.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

EPOCH = 25  # steps
_DEBUGGER = {"vanish": 1e-7, "ratio_high": 10.0, "ratio_low": 1e-8, "loss": 0.001, "loss_steps": 10, "overfit": 0.1,
             "imbalance": 10.0, "variance": 10.0, "dead": 0.5, "first_steps": 10, "loss_patience": 5}  # fmt: skip
_AUTOTRAINER = {"ratio": 1e-3, "first": 1e-4, "explode": 70.0, "loss": 1e3, "dying": 0.7, "swing": 0.03, "share": 0.2,
                "accuracy": 0.7, "delta": 0.01, "patience": 0.3}  # fmt: skip


class Recorder(Callback):
    """Keep what the two look at: losses and accuracy of every step, tensor statistics of every tenth."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.checks: list[dict[str, Any]] = []
        self.vals: list[dict[str, float]] = []
        self._old: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Look at gradients."""
        if (trainer.global_step + 1) % 10 and trainer.global_step >= 10:
            return
        row: dict[str, Any] = {"step": trainer.global_step + 1, "grad_mean": {}, "grad_zero": {}, "weight_var": {}}
        row["unchanged"], row["finite"], row["ratio"], row["norm"], row["all_zero"] = [], True, {}, {}, []
        for name, p in pl_module.model.named_parameters():
            g = torch.zeros_like(p) if p.grad is None else p.grad
            row["grad_mean"][name], row["norm"][name] = float(g.abs().mean()), float(g.norm())
            row["grad_zero"][name] = float((g == 0).float().mean())
            row["finite"] = row["finite"] and bool(torch.isfinite(p).all()) and bool(torch.isfinite(g).all())
            if p.ndim >= 2:
                row["weight_var"][name] = float(p.var())
            if float(p.abs().max()) == 0.0 or row["grad_zero"][name] == 1.0:
                row["all_zero"].append(name)
            if name in self._old:
                old = self._old[name]
                row["ratio"][name] = float((p - old).norm() / (old.norm() + 1e-9))
                if torch.allclose(p, old, rtol=1e-5, atol=1e-8):
                    row["unchanged"].append(name)
            self._old[name] = p.detach().clone()
        self.checks.append(row)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep loss and accuracy."""
        seen = pl_module.observed
        values = (float(seen.total), float(seen.cross_entropy), float(seen.token_accuracy.mean()))
        self.steps.append(dict(zip(("loss", "ce", "accuracy"), values, strict=True)))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the validation's loss."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.vals.append({"step": trainer.global_step, "loss": metrics["val/cross_entropy"]})

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"steps": self.steps, "checks": self.checks, "vals": self.vals}


def debugger(record: dict[str, Any], signals: Sequence[Any]) -> list[tuple[int, str]]:
    """Return (step, rule) of the first time each SageMaker Debugger rule fires, in order."""
    t, found = _DEBUGGER, {}

    def fire(step: int, rule: str) -> None:
        found.setdefault(rule, step)

    unchanged = 0
    for row in record["checks"]:
        step = row["step"]
        if any(mean < t["vanish"] for mean in row["grad_mean"].values()):
            fire(step, "VanishingGradient")
        if not row["finite"]:
            fire(step, "ExplodingTensor")
        if row["all_zero"]:
            fire(step, "AllZero")
        if row["ratio"] and (
            max(row["ratio"].values()) > t["ratio_high"] or min(row["ratio"].values()) < t["ratio_low"]
        ):
            fire(step, "WeightUpdateRatio")
        unchanged = unchanged + 1 if row["unchanged"] else 0
        if unchanged >= 3:
            fire(step, "UnchangedTensor")
        variances = [v for v in row["weight_var"].values() if v > 0]
        if step <= t["first_steps"] and variances and max(variances) / min(variances) > t["variance"]:
            fire(step, "PoorWeightInitialization")
    losses = [one["loss"] for one in record["steps"]]
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            fire(step, "ExplodingTensor")
        back = int(t["loss_steps"])
        if step > back and not loss < losses[step - 1 - back] * (1.0 - t["loss"]):
            fire(step, "LossNotDecreasing")
    for val in record["vals"]:
        train = [one["ce"] for one in record["steps"][max(0, val["step"] - 10) : val["step"]]]
        if train and (val["loss"] - sum(train) / len(train)) / max(sum(train) / len(train), 1e-9) > t["overfit"]:
            fire(val["step"], "Overfit")
    for one in signals:
        dead = max(one.scoped("mlp", "dead").values(), default=0.0)
        if dead > t["dead"]:
            fire(one.step, "DeadRelu")
        shut = max([*one.scoped("gate", "closed").values(), *one.scoped("gate", "open").values()], default=0.0)
        if shut > t["dead"]:
            fire(one.step, "SaturatedActivation")
        if one.values.get("data/imbalance", 1.0) > t["imbalance"]:
            fire(one.step, "ClassImbalance")
    return sorted((step, rule) for rule, step in found.items())


def autotrainer(record: dict[str, Any]) -> list[tuple[int, str]]:
    """Return (step, problem) of the first time each of AUTOTRAINER's criteria holds, in order."""
    t, found = _AUTOTRAINER, {}
    accuracy = [one["accuracy"] for one in record["steps"]]
    epochs = [sum(accuracy[i : i + EPOCH]) / EPOCH for i in range(0, len(accuracy) - EPOCH + 1, EPOCH)]
    steps = len(accuracy)
    for row in record["checks"]:
        now = accuracy[: row["step"]]
        bad = not now or max(now) < t["accuracy"]
        norms = [norm for name, norm in row["norm"].items() if row["grad_zero"][name] < 1.0] or [0.0]
        # Layers from input to answer. The halting head is none of them: its gradients are small by its weight.
        layers = [name for name in row["norm"] if name.endswith(".weight") and not name.startswith("act_head")]
        chain = [row["norm"][name] for name in layers]
        first, last = chain[0], chain[-1]
        if bad and last > 0 and first / last < t["ratio"] and first < t["first"]:
            found.setdefault("vanish", row["step"])
        if not row["finite"] or not all(map(math.isfinite, norms)) or (bad and first / max(last, 1e-12) > t["explode"]):
            found.setdefault("explode", row["step"])
        zeros = sum(row["grad_zero"].values()) / len(row["grad_zero"])
        if bad and zeros >= t["dying"]:
            found.setdefault("dying", row["step"])
    for step, one in enumerate(record["steps"], start=1):
        if not math.isfinite(one["loss"]) or one["loss"] >= t["loss"]:
            found.setdefault("explode", step)
    for count in range(3, len(epochs) + 1):
        if count < t["patience"] * len(epochs):
            continue
        part = epochs[:count]
        swings = sum(part[i] < part[i - 1] - t["swing"] for i in range(1, count))
        if swings / count >= t["share"]:
            found.setdefault("oscillate", min(count * EPOCH, steps))
        deltas = [abs(b - a) for a, b in zip(part, part[1:], strict=False)]
        if max(part) < t["accuracy"] and max(deltas) < t["delta"]:
            found.setdefault("slow", min(count * EPOCH, steps))
    return sorted((step, problem) for problem, step in found.items())
