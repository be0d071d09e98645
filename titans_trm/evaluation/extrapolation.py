"""Test a recall model at lengths and depths it was not trained at: a grid of accuracies, and its picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from titans_trm.data.recall import RecallTask
from titans_trm.evaluation.solving import solve_examples
from titans_trm.evaluation.statistics import wilson_interval
from titans_trm.models.titans_trm import TitansTRM

_DPI = 110


def evaluate_grid(
    model: TitansTRM,
    task: RecallTask,
    lengths: Sequence[int],
    depths: Sequence[float],
    *,
    examples: int,
    seed: int,
    batch_tokens: int = 8192,
    on_cell: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Return `length`, `depth`, `n`, `token_accuracy` and `exact_accuracy` with its interval for each possible cell.

    Args:
        model: a causal model; it runs at any length.
        task: the task it was trained on; `task.depth_key` says what depth means.
        lengths: tokens of an example.
        depths: values of the second axis.
        examples: examples of a cell, drawn from a random stream that no split uses.
        seed: of the examples.
        batch_tokens: tokens solved at once.
        on_cell: told each record as it comes.
    """
    records = []
    for length, depth, cell in task.grid(lengths, depths):
        solved = solve_examples(
            model,
            cell.sample(examples, seed),
            batch_size=max(1, batch_tokens // length),
            ignore_index=cell.spec.ignore_index,
        )
        right = int(solved.exact.sum())
        low, high = wilson_interval(right, examples)
        record = {
            "length": length,
            "depth": depth,
            "n": examples,
            "token_accuracy": float(solved.token_accuracy.mean()),
            "exact_accuracy": {"value": right / examples, "ci_low": low, "ci_high": high},
        }
        records.append(record)
        if on_cell is not None:
            on_cell(record)
    return records


def draw_grids(
    grids: dict[str, list[dict[str, Any]]], path: Path, *, title: str, depth_label: str, trained_length: int
) -> None:
    """Draw one heat map of token accuracy per named grid, side by side, the trained length marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second, and only this function needs it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 4.0 * len(grids), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(grids), squeeze=False)[0]
    for axis, (name, records) in zip(axes, grids.items(), strict=True):
        lengths = sorted({record["length"] for record in records})
        depths = sorted({record["depth"] for record in records})
        values = [[float("nan")] * len(lengths) for _ in depths]
        for record in records:
            values[depths.index(record["depth"])][lengths.index(record["length"])] = record["token_accuracy"]
        image = axis.imshow(values, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto", origin="lower")
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                if value == value:  # impossible cells stay empty
                    colour = "black" if value > 0.6 else "white"
                    axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
        axis.set_xticks(range(len(lengths)), [f"{n}\n(trained)" if n == trained_length else str(n) for n in lengths])
        axis.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths])
        axis.set_xlabel("length (tokens)")
        axis.set_ylabel(depth_label)
        axis.set_title(name)
    figure.colorbar(image, ax=list(axes), label="share of scored tokens right")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
