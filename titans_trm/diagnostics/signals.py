"""`Signals`: the numbers of one check, gathered over the steps since the check before, in one transfer.

| name | what (over the steps since the last check unless said otherwise) |
|---|---|
| `loss/total`, `/cross_entropy`, `/halting`, `/diversity` | mean loss terms (nats; halting and diversity unweighted) |
| `loss/cross_entropy_max`, `loss/nonfinite` | largest step; steps whose loss or gradient is not finite |
| `solve/exact`, `solve/token` | share of slots whose answer is exactly right, share of tokens right |
| `solve/last` | share right of the examples that finished |
| `solve/first`, `solve/gain`, `solve/unsolved` | cross-entropy after step 1; relative fall by another; its count |
| `halting/probability`, `/probability_std`, `/logit_mean`, `/logit_std` | of sigmoid(logit) and logit over examples |
| `halting/cross_entropy` | of halting logits and exactly right, computed anew: what `loss/halting` should be |
| `halting/correlation` | of halting logit and exactly right, over examples; NaN while one of them is constant |
| `halting/steps`, `halting/finished` | mean supervision steps of finished examples; how many finished |
| `grad/norm`, `grad/norm_max` | global gradient norm before clipping |
| `grad/<group>`, `weight/<group>`, `update/<group>` | norms of gradient and weights, |dw| / |w|, at the check |
| `update/median`, `update/total` | median ratio of the groups; sum over all steps so far, by the groups' median |
| `latent/z_rms`, `/y_rms`, `/spread`, `/participation`, `/change` | of the carry at the check |
| `latent/reset` | share of slots beyond their first step that began it with the initial states |
| `memory/<block>/norm`, `/write`, `/inner_loss`, `/surprise` | of a probe call; sizes by those of the initial memory |
| `memory/<block>/theta`, `/alpha`, `/eta` | of a probe call: means of the gates; theta as a share of its cap |
| `gate/<block>/mean`, `/std`, `/closed`, `/open`, `mlp/<block>/dead` | of a probe call |
| `lr`, `time/step`, `time/wait`, `system/memory` | rate; seconds a step; share waiting for data; share of budget |
| `labels/entropy`, `labels/shift`, `labels/shift_limit` | nats of the label histogram; PSI against the first ones |
| `labels/invalid` | 1 where one of a few examples breaks the rules of the task |
| `val/<metric>` | of a validation that ended at this step; absent in other checks |
| `data/<finding>` | found before the first step; present in the first check only |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Signals:
    """What one check saw: numbers by name, and names of parameters where a number cannot say it.

    A name that is absent was not measured; a rule that needs it says nothing.
    """

    step: int  # optimiser steps done
    values: Mapping[str, float]
    names: Mapping[str, list[str]] = field(default_factory=dict)  # `no_grad`, `no_update`: parameters; ...

    def get(self, name: str) -> float | None:
        """Return a number, or None where it was not measured."""
        return self.values.get(name)

    def scoped(self, prefix: str, last: str | None = None) -> dict[str, float]:
        """Return `<scope>: value` of the names `prefix/<scope>`, or of `prefix/<scope>/last`."""
        found = {}
        for name, value in self.values.items():
            parts = name.split("/")
            if parts[0] == prefix and (len(parts) == 2 if last is None else len(parts) == 3 and parts[2] == last):
                found[parts[1]] = value
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"step": self.step, "values": dict(self.values), "names": dict(self.names)}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a rule must know of a run beyond its signals."""

    max_steps: int  # planned optimiser steps
    warmup_steps: int = 0  # of the learning rate
    decay_from: int | None = None  # step at which the learning rate has begun to fall; None = constant
    vocab_size: int = 2  # V
    max_supervision_steps: int = 1  # N_sup
    batch_size: int = 1  # slots of one optimiser step
    halting_weight: float = 0.5  # of the halting loss in the total
    diversity: str = "logit_std"  # kind of the diversity term
    gate: str = "product"  # of the MAG blocks
    gradient_clip: float | None = 1.0  # cap of the gradient norm
    scaled_gradients: bool = False  # fp16: a gradient scaler skips steps with infinite gradients
    every_steps: int = 10  # optimiser steps between checks

    @property
    def checks(self) -> float:
        """Checks of the whole planned run."""
        return self.max_steps / self.every_steps

    @property
    def decay_end(self) -> float:
        """Step from which the rate is so low that standing still is expected: half of the decay is over."""
        start = self.max_steps if self.decay_from is None else self.decay_from
        return 0.5 * (start + self.max_steps)
