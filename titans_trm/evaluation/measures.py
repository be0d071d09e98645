"""What a solved set says: metrics with intervals, halting, accuracy by supervision step, slices, baselines."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from titans_trm.data.examples import ExampleSet
from titans_trm.data.spec import PAD, TaskSpec
from titans_trm.evaluation.confusion import f1_scores
from titans_trm.evaluation.difficulty import depth_error, equal_bins
from titans_trm.evaluation.resampling import Floats, Intervals
from titans_trm.evaluation.results import Estimate, HaltingGain, HaltingMode, Slice, StepResult
from titans_trm.evaluation.solving import Solved


def measure(solved: Solved, targets: Tensor, spec: TaskSpec, intervals: Intervals) -> dict[str, Estimate]:
    """Return the metrics of a full run on targets (n, N), ignore index where not scored.

    `exact_accuracy`, `token_accuracy` and `cross_entropy` are means over examples, as in training and validation;
    `perplexity`, `bits_per_byte` (text) and the F1 scores are over all scored tokens together.
    """
    metrics = {"exact_accuracy": intervals.proportion(solved.exact.numpy())}
    if spec.valid is not None:
        metrics["valid_optimal"] = intervals.proportion(solved.valid.numpy())
    token_accuracy, cross_entropy, depth = intervals.means(
        solved.token_accuracy.double().numpy(), solved.cross_entropy.double().numpy(), solved.adaptive_steps.numpy()
    )
    scored = solved.scored.double().numpy()
    nats = intervals.sums(np.stack([solved.cross_entropy.double().numpy() * scored, scored], axis=1))
    perplexity = intervals.estimates(nats, lambda sums: np.exp(sums[..., :1] / sums[..., 1:]))[0]
    if spec.headline == "bits_per_byte":
        bits = intervals.estimates(nats, lambda sums: sums[..., :1] / sums[..., 1:] / np.log(2.0))[0]
        metrics["bits_per_byte"] = bits
    return metrics | {
        "token_accuracy": token_accuracy,
        **f1_scores(solved.answers, targets, spec.vocab_size, spec.ignore_index, intervals),
        "cross_entropy": cross_entropy,
        "perplexity": perplexity,
        "exact_accuracy_adaptive": intervals.proportion(solved.adaptive_exact.numpy()),
        "mean_supervision_steps": depth,
        "difficulty_rmse": depth_error(solved, intervals),
    }


def halting_mode(solved: Solved, intervals: Intervals) -> HaltingMode:
    """Return accuracy and cost of a run as it was."""
    return HaltingMode(
        exact_accuracy=intervals.proportion(solved.exact.numpy()),
        mean_supervision_steps=float(solved.steps.double().mean()),
        net_calls=solved.net_calls,
        seconds=solved.seconds,
        examples_per_second=len(solved) / solved.seconds,
    )


def halting_gain(full: Solved, adaptive: Solved, intervals: Intervals) -> HaltingGain:
    """Return what halting adaptively changes; the same examples in both."""
    one, other = full.exact.numpy(), adaptive.exact.numpy()
    lost, won = int((one & ~other).sum()), int((other & ~one).sum())
    return HaltingGain(
        exact_accuracy_difference=intervals.means(other.astype(float) - one)[0],
        only_full_right=lost,
        only_adaptive_right=won,
        mcnemar_p=float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0,
        net_calls_ratio=full.net_calls / adaptive.net_calls,
        time_ratio=full.seconds / adaptive.seconds,
    )


def by_step(solved: Solved, intervals: Intervals) -> list[StepResult]:
    """Return the answers as they stand after each supervision step of a full run."""
    scored = solved.scored.clamp_min(1).double()
    tokens = intervals.means(*(solved.right_by_step.double() / scored[:, None]).T.numpy())
    wants = (solved.halting_logits > 0).int().cummax(dim=1).values.double().mean(dim=0).tolist()
    return [
        StepResult(
            step=number + 1,
            exact_accuracy=intervals.proportion(solved.exact_by_step[:, number].numpy()),
            token_accuracy=tokens[number],
            share_halted=wants[number],
        )
        for number in range(solved.exact_by_step.shape[1])
    ]


def properties(examples: ExampleSet) -> dict[str, NDArray[np.int64]]:
    """Return what examples are sliced by, (n,) each: difficulty (rating), length, and tokens to find.

    `length` counts the tokens of the input that are not padding; `to_find` the scored tokens that differ from the
    input's: what is left when the input is copied.
    """
    return {
        "difficulty": examples.ratings.numpy(),
        "length": (examples.inputs != PAD).sum(dim=1).numpy(),
        "to_find": ((examples.targets != PAD) & (examples.targets != examples.inputs)).sum(dim=1).numpy(),
    }


def difficulty_of(examples: ExampleSet, rating_kind: str) -> tuple[NDArray[np.int64], str]:
    """Return the difficulty (n,) of examples and what it means: the rating, or tokens to find where all are equal."""
    about = properties(examples)
    if np.ptp(about["difficulty"]) == 0 and np.ptp(about["to_find"]) > 0:
        return about["to_find"], "tokens to find (the ratings are all equal)"
    return about["difficulty"], rating_kind


def slices(solved: Solved, examples: ExampleSet, intervals: Intervals) -> list[Slice]:
    """Return the results by difficulty, length and tokens to find, where examples differ in them."""
    tokens, depth = solved.token_accuracy.double().numpy(), solved.adaptive_steps.double().numpy()
    found = []
    for name, values in properties(examples).items():
        for low, high, inside in equal_bins(values.astype(float)):
            token_accuracy, steps = intervals.means(tokens, depth, of=inside)
            found.append(
                Slice(
                    by=name,  # type: ignore[arg-type]
                    low=low,
                    high=high,
                    n=int(inside.sum()),
                    exact_accuracy=intervals.proportion(solved.exact.numpy()[inside], np.nonzero(inside)[0]),
                    token_accuracy=token_accuracy,
                    mean_supervision_steps=steps,
                )
            )
    return found


def baselines(examples: ExampleSet) -> dict[str, float]:
    """Return the token accuracy, a mean over examples, of copying the input and of the commonest target."""
    scored = examples.targets != PAD
    counts = scored.sum(dim=1).clamp_min(1)
    commonest = int(torch.bincount(examples.targets[scored].long().flatten()).argmax()) if scored.any() else PAD

    def accuracy(answers: Tensor | int) -> float:
        return float((((examples.targets == answers) & scored).sum(dim=1) / counts).double().mean())

    return {"copy_input": accuracy(examples.inputs), "most_frequent_token": accuracy(commonest)}


def example_arrays(solved: Solved, examples: ExampleSet) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of `results.EXAMPLE_ARRAYS` but those of the examples shown."""
    about: dict[str, Floats | NDArray[np.generic]] = dict(properties(examples))
    return {
        "index": np.arange(len(examples)),
        "key": np.array(examples.keys, dtype=np.bytes_),
        "exact": solved.exact.numpy(),
        "valid": solved.valid.numpy(),
        "token_accuracy": solved.token_accuracy.float().numpy(),
        "cross_entropy": solved.cross_entropy.float().numpy(),
        "steps": solved.adaptive_steps.short().numpy(),
        "adaptive_exact": solved.adaptive_exact.numpy(),
        "exact_by_step": solved.exact_by_step.numpy(),
        "halting_logits": solved.halting_logits.numpy(),
        **{name: values.astype(np.int32) for name, values in about.items()},
    }
