"""An `Evaluation` with every part filled in, for tests of what reads one."""

from typing import Any

from titans_trm.evaluation.results import (
    Calibration,
    CalibrationBin,
    Confused,
    Confusion,
    Cost,
    DepthBin,
    Difficulty,
    Estimate,
    Evaluation,
    Guard,
    HaltingGain,
    HaltingMode,
    Latency,
    Slice,
    StepResult,
    TokenClass,
)


def estimate(value: float | None, half: float = 0.02) -> Estimate:
    """Return an estimate with an interval of +- `half`."""
    if value is None:
        return Estimate(value=None, ci_low=None, ci_high=None, method="none")
    return Estimate(value=value, ci_low=value - half, ci_high=value + half, method="bootstrap")


def evaluation(**changes: Any) -> Evaluation:
    """Return a complete evaluation of a 4x4 Sudoku run, with the given fields changed."""
    mode = HaltingMode(
        exact_accuracy=estimate(0.9),
        mean_supervision_steps=4.0,
        net_calls=16_000,
        seconds=3.0,
        examples_per_second=333.3,
    )
    bins = [CalibrationBin(low=0.9, high=1.0, n=800, mean_probability=0.97, exact_accuracy=estimate(0.95))]
    calibration = {
        scope: Calibration(
            scope=scope,  # type: ignore[arg-type]
            n=1000,
            ece=estimate(0.02),
            auroc=estimate(0.97),
            brier=estimate(0.05),
            bins=bins,
        )
        for scope in ("every_step", "last_step")
    }
    values: dict[str, Any] = {
        "split": "val",
        "n": 1000,
        "groups": 990,
        "headline": "exact_accuracy",
        "metrics": {name: estimate(0.9) for name in ("exact_accuracy", "token_accuracy", "cross_entropy")},
        "halting": {"full": mode, "adaptive": mode},
        "halting_gain": HaltingGain(
            exact_accuracy_difference=estimate(-0.01),
            only_full_right=15,
            only_adaptive_right=5,
            mcnemar_p=0.04,
            net_calls_ratio=2.1,
            time_ratio=1.8,
        ),
        "steps": [
            StepResult(
                step=step, exact_accuracy=estimate(0.2 * step), token_accuracy=estimate(0.9), share_halted=0.2 * step
            )
            for step in (1, 2, 3, 4)
        ],
        "slices": [
            Slice(
                by="difficulty",
                low=0,
                high=3,
                n=500,
                exact_accuracy=estimate(0.95),
                token_accuracy=estimate(0.99),
                mean_supervision_steps=estimate(1.7),
            )
        ],
        "confusion": Confusion(
            classes=[TokenClass(token=2, label="1", support=9, predicted=8, precision=1.0, recall=8 / 9, f1=16 / 17)],
            matrix=[[8]],
            most_confused=[Confused(target="1", answered="2", count=1)],
        ),
        "calibration": calibration,
        "difficulty": Difficulty(
            rating_kind="nodes",
            spearman=estimate(None),
            spearman_p=None,
            rmse_steps=estimate(1.1),
            rating_rmse=2.0,
            rating_rmse_of_mean=2.5,
            bins=[DepthBin(low=0, high=3, n=10, mean_supervision_steps=estimate(1.5), exact_accuracy=estimate(0.8))],
        ),
        "positions": None,
        "baselines": {"copy_input": 0.5, "most_frequent_token": 0.25},
        "cost": Cost(
            parameters=141_000,
            weight_bytes=564_000,
            checkpoint_bytes=4_000_000,
            net_calls_per_step=8,
            flops_per_example=10**9,
            peak_memory_bytes=10**9,
            device="cpu",
            threads=2,
            latency_full_ms=Latency(p50=20.0, p95=25.0, repeats=10),
            latency_adaptive_ms=None,
        ),
        "guard": Guard(
            train_examples=10_000, train_groups=9_900, keys_sha256="0" * 64, dropped=0, shared_with_val=0, test_use=None
        ),
        "run": "runs/quickstart/2026-01-31_12-00-00",
        "experiment": "quickstart",
        "task": "sudoku_4x4",
        "checkpoint": "best.ckpt",
        "checkpoint_sha256": "0" * 64,
        "global_step": 600,
        "weights": "ema",
        "confidence": 0.95,
        "examples_sha256": "0" * 64,
        "file": None,
        "seed": 0,
        "commit": None,
        "date": "2026-01-31T12:00:00+00:00",
        "files": {"examples": "evaluation/val_examples.npz"},
    }
    return Evaluation(**(values | changes))
