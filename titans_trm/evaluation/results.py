"""What an evaluation found: the layout of `evaluation/<split>.json` and of the file of single examples beside it.

Plain frozen dataclasses, numbers and texts only: `dataclasses.asdict` gives the JSON, `titans_trm.schema.build` reads
it back and refuses what does not fit. A value that is not defined, such as an AUROC of answers that are all right, is
null.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured number and its interval at the evaluation's confidence."""

    value: float | None  # null: not defined on these examples
    ci_low: float | None
    ci_high: float | None
    method: Literal["wilson", "bootstrap", "student", "none"]  # of the interval: by groups, see docs/evaluation.md


@dataclass(frozen=True, kw_only=True)
class HaltingMode:
    """All examples solved in one mode, with the compute really spent."""

    exact_accuracy: Estimate
    mean_supervision_steps: float
    net_calls: int  # passes through the backbone, counted per example
    seconds: float  # wall clock
    examples_per_second: float


@dataclass(frozen=True, kw_only=True)
class HaltingGain:
    """What halting adaptively changes against running all supervision steps, on the same examples."""

    exact_accuracy_difference: Estimate  # adaptive minus full
    only_full_right: int  # examples lost by halting
    only_adaptive_right: int  # examples whose answer later steps spoil
    mcnemar_p: float  # of the two counts being equal, exact test
    net_calls_ratio: float  # full over adaptive: how many times fewer
    time_ratio: float  # full over adaptive, wall clock


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The answer as it stands after one supervision step of the full run."""

    step: int  # from 1
    exact_accuracy: Estimate
    token_accuracy: Estimate
    share_halted: float  # of examples whose halting logit has been above 0 by this step


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Examples with a property in a range."""

    by: Literal["difficulty", "length", "to_find"]  # rating; tokens of the input; tokens the input does not give
    low: float  # smallest value in the slice
    high: float  # largest value in the slice
    n: int
    exact_accuracy: Estimate
    token_accuracy: Estimate
    mean_supervision_steps: Estimate  # when halting adaptively


@dataclass(frozen=True, kw_only=True)
class TokenClass:
    """One token as target and as answer, over all scored tokens."""

    token: int
    label: str
    support: int  # scored tokens whose target it is
    predicted: int  # scored tokens answered with it
    precision: float | None  # null: never answered
    recall: float | None  # null: never a target
    f1: float | None  # null: neither


@dataclass(frozen=True, kw_only=True)
class Confused:
    """A wrong answer and how often it was given."""

    target: str
    answered: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Targets against answers, over all scored tokens of the full run; the CSV file holds the whole matrix."""

    classes: list[TokenClass]  # tokens that occur as target or answer
    matrix: list[list[int]] | None  # [target][answered] in the order of `classes`; null for large vocabularies
    most_confused: list[Confused]  # commonest first


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Halting probabilities in a range, and how often the answer was exactly right there."""

    low: float
    high: float
    n: int
    mean_probability: float
    exact_accuracy: Estimate


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether sigmoid(halting logit) is the probability of the answer being exactly right."""

    scope: Literal["every_step", "last_step"]  # pairs (logit, right): of all supervision steps of the full run, or last
    n: int  # pairs
    ece: Estimate  # expected calibration error, mean |accuracy - probability| over bins
    auroc: Estimate  # chance that a right answer has a higher logit than a wrong one; null when all are the same
    brier: Estimate  # mean squared error of the probability
    bins: list[CalibrationBin]  # empty ones left out


@dataclass(frozen=True, kw_only=True)
class DepthBin:
    """Examples of like rating and how deep the model thought about them when halting adaptively."""

    low: float
    high: float
    n: int
    mean_supervision_steps: Estimate
    exact_accuracy: Estimate  # adaptive


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """Predicted difficulty, the halting depth, against real difficulty."""

    rating_kind: str  # what the rating means; tokens to find where the data rate all examples alike
    spearman: Estimate  # rank correlation of depth and rating; null when either is constant
    spearman_p: float | None
    rmse_steps: Estimate  # halting depth against the first step from which the answer stays right (N_sup if never)
    rating_rmse: float | None  # of the rating predicted from depth by a line, each example left out of its own line
    rating_rmse_of_mean: float | None  # the same without depth; the line is worth something if it is below this
    bins: list[DepthBin]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds to solve a single example."""

    p50: float
    p95: float
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the model costs to hold and to run on this machine."""

    parameters: int
    weight_bytes: int  # in memory
    checkpoint_bytes: int  # file with optimiser state and average
    net_calls_per_step: int
    flops_per_example: int  # all N_sup supervision steps
    peak_memory_bytes: int  # of this process
    device: str
    threads: int
    latency_full_ms: Latency | None  # null: not measured
    latency_adaptive_ms: Latency | None


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What was compared before anything was scored."""

    train_examples: int  # whose groups must not occur among the scored ones
    train_groups: int
    keys_sha256: str  # of the ordered training keys, as in data_manifest.json
    dropped: int  # scored set without this many examples of training groups (overlap=drop)
    shared_with_val: int  # examples whose group was used to choose the checkpoint
    test_use: int | None  # how often this run has used the test split, this time included; null: not the test split


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`evaluation/<split>.json`."""

    split: str  # val, test, train_probe, or the name of a file
    n: int  # examples
    groups: int  # of examples that are the same up to symmetry: the units of resampling
    headline: str = "exact_accuracy"  # the metric that is told first, by which weights were chosen
    metrics: dict[str, Estimate]
    halting: dict[str, HaltingMode]  # full and adaptive, or the one asked for
    halting_gain: HaltingGain | None  # null unless both were run
    steps: list[StepResult]
    slices: list[Slice]
    confusion: Confusion
    calibration: dict[str, Calibration]  # by scope
    difficulty: Difficulty
    positions: dict[str, Any] | None = None  # text: bits per byte along the window, at chunk boundaries; else null
    baselines: dict[str, float]  # token accuracy without a model: copy_input, most_frequent_token
    cost: Cost
    guard: Guard
    run: str
    experiment: str
    task: str
    checkpoint: str  # file name
    checkpoint_sha256: str
    global_step: int
    weights: Literal["ema", "raw"]
    halting_probability: float = 0.5  # sigmoid of the halting logit above which an adaptive example stops
    confidence: float  # level of all intervals
    examples_sha256: str
    file: str | None  # scored file; null: a split of the run's data
    seed: int  # of subset and resampling
    commit: str | None  # of the code that evaluated
    date: str
    files: dict[str, str] = field(default_factory=dict)  # name -> path below the run folder: examples, confusion, ...


# Arrays of evaluation/<split>_examples.npz, one row an example in the order scored; read with allow_pickle=False.
EXAMPLE_ARRAYS = {
    "index": "(n,) int64, row in the split or file",
    "key": "(n,) bytes, canonical group key",
    "exact": "(n,) bool, exactly right after all supervision steps",
    "valid": "(n,) bool, right by the rules of the task; as exact where a task has one answer only",
    "token_accuracy": "(n,) float32",
    "cross_entropy": "(n,) float32, nats per scored token",
    "steps": "(n,) int16, supervision steps when halting adaptively",
    "adaptive_exact": "(n,) bool, exactly right then",
    "exact_by_step": "(n, S) bool",
    "halting_logits": "(n, S) float32",
    "difficulty": "(n,) int64, rating",
    "length": "(n,) int32, tokens of the input that are not padding",
    "to_find": "(n,) int32, scored tokens that the input does not give",
    "shown_rows": "(k,) int64, rows of examples kept whole, to be drawn: solved and unsolved ones",
    "shown_inputs": "(k, N) tokens",
    "shown_targets": "(k, N) tokens, PAD where not scored",
    "shown_answers": "(k, S, N) tokens after each supervision step",
}
