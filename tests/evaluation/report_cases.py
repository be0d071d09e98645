"""A run with everything a report can show, as plain values; some of its texts try to be markup."""

from typing import Any

from evaluation_cases import evaluation

from titans_trm.evaluation.html.boards import Drawing, Solving
from titans_trm.evaluation.html.report import RunFacts, Shown

HOSTILE = '<script>alert("x")</script><img src="http://example.org/x.png" onerror=alert(1)>'
CHECKLIST = """# Reproducibility

## Model
- [x] Parameters: `160,353`
- [ ] GPUs: not known

## How to repeat

```bash
python train.py experiment=quickstart  # repeat, in a new run folder
```
"""
SUDOKU = Drawing({0: "", 1: "", 2: "1", 3: "2", 4: "3", 5: "4"}, (4, 4), (2, 2))
TARGETS = [2, 3, 4, 5, 4, 5, 2, 3, 3, 2, 5, 4, 5, 4, 3, 2]


def solving(**changes: Any) -> Solving:
    """A 4x4 puzzle with three blanks: wrong in two cells, then in one, then solved; it halts at step 2."""
    inputs = [1, 1, 1, *TARGETS[3:]]
    answers = [[5, 5, 4, *TARGETS[3:]], [2, 5, 4, *TARGETS[3:]], TARGETS]
    values = {"title": "val, example 7", "inputs": inputs, "targets": TARGETS, "answers": answers}
    return Solving(**(values | {"halting_logits": [-2.0, 0.5, 3.0]} | changes))


def metrics(steps: int = 5) -> dict[str, list[Any]]:
    """Columns of metrics.csv: a training row a step, a validation row at the end."""
    index = list(range(10, 10 * steps + 1, 10))
    train = {
        "cross_entropy": [2.0 / (i + 1) for i in range(steps)],
        "halting_loss": [0.1] * steps,
        "exact_accuracy": [i / steps for i in range(steps)],
        "mean_supervision_steps": [4.0] * steps,
        "halting_std": [0.2] * steps,
        "learning_rate": [1e-3] * steps,
        "grad_norm": [1.0] * steps,
    }
    val = {
        "cross_entropy": 0.5,
        "exact_accuracy": 0.8,
        "exact_accuracy_adaptive": 0.7,
        "mean_supervision_steps_adaptive": 3.0,
        "num_examples": 100.0,
    }
    columns: dict[str, list[Any]] = {"step": [*index, index[-1]], "split": ["train"] * steps + ["val"]}
    for name in {**train, **val}:
        columns[name] = [*train.get(name, [None] * steps), val.get(name)]
    return columns


def facts(**changes: Any) -> RunFacts:
    """Return a whole run, with the given parts changed."""
    values: dict[str, Any] = {
        "run": "runs/quickstart/2026-01-31_12-00-00",
        "config": {
            "experiment": "quickstart",
            "seed": 3,
            "model": {
                "name": "trm_nano",
                "width": 64,
                "backbone": {"num_blocks": 2, "num_heads": 4, "gate": "product"},
                "memory": {"num_heads": 4, "depth": 2, "carry": "reset"},
                "recursion": {"num_latent_steps": 3, "num_recursions": 2},
                "halting": {"max_supervision_steps": 4, "exploration": 0.1},
            },
            "trainer": {"max_steps": 600, "batch_size": 64, "accumulate": 1, "ema_decay": 0.98, "precision": "32-true"},
            "optimizer": {"name": "muon", "lr": 4e-3, "muon_lr": 0.02},
            "tags": ["first", HOSTILE],
        },
        "summary": {
            "status": "completed",
            "global_step": 600,
            "parameters": 160_353,
            "wall_seconds": 247.0,
            "examples_finished": 9_500,
            "peak_memory_bytes": 2**30,
            "val": {"exact_accuracy": 0.9, "num_examples": 1000},
        },
        "environment": {"date": "2026-01-31T12:00:00+00:00"},
        "manifest": {"task": "sudoku_4x4", "source": "generated", "splits": {"train": {"count": 100, "groups": 90}}},
        "metrics": metrics(),
        "checklist": CHECKLIST,
        "evaluations": [evaluation()],
        "shown": [Shown(split="val", examples=[solving()], drawing=SUDOKU)],
        "events": [
            {
                "seq": 1,
                "step": 40,
                "event": "raised",
                "rule": "halting_collapse",
                "severity": "error",
                "message": HOSTILE,
            }
        ],
        "made": "titans_trm, 2026-02-01",
    }
    return RunFacts(**(values | changes))
