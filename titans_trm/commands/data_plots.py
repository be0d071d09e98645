"""The page of plots of `titans-trm data audit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from titans_trm.data.audit import DIVERGENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"train": "#1f77b4", "val": "#d95f02", "test": "#7a7a7a"}  # told apart by colour-blind readers as well
_SIZE = (13.0, 9.0)  # inches
_DPI = 110
_MOST_LABELS = 40  # bars of a panel
_MOST_LETTERS = 18  # of a source's name
_FLOOR = 1e-4  # bits, lowest divergence that is drawn: the axis is logarithmic


def draw_audit(report: dict[str, Any], path: Path, *, title: str) -> None:
    """Draw labels, difficulty, length, sources, divergence and duplicates of a report into a PNG."""
    import matplotlib.lines
    import matplotlib.patches
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    splits = report["splits"]
    shares = {name: np.array(split["label_shares"]) for name, split in splits.items()}
    tokens = [token for token in range(report["vocab_size"]) if any(share[token] > 0 for share in shares.values())]
    tokens = sorted(sorted(tokens, key=lambda token: -shares["train"][token])[:_MOST_LABELS])
    _bars(axes[0, 0], [str(token) for token in tokens], {name: share[tokens] for name, share in shares.items()})
    axes[0, 0].set(title=f"Labels (imbalance {splits['train']['label_imbalance']:.1f})", xlabel="target token")
    for column, by in enumerate(("rating", "length"), start=1):
        values = {name: np.array(split[f"{by}_buckets"]) for name, split in splits.items()}
        _bars(axes[0, column], report["bucket_labels"][by], values, turn=True)
        axes[0, column].set(title=f"{by.capitalize()}: tenths of train")
    sources = [*(name[-_MOST_LETTERS:] for name in report["sources"]), "others"]
    _bars(axes[1, 0], sources, {name: np.array(s["source_shares"]) for name, s in splits.items()}, turn=True)
    axes[1, 0].set(title="Sources")
    _divergence(axes[1, 1], report["divergence"])
    _duplicates(axes[1, 2], splits)
    handles: list[Any] = [matplotlib.patches.Patch(color=colour, label=name) for name, colour in _COLOURS.items()]
    handles.append(matplotlib.lines.Line2D([], [], color="black", label="divergence that chance gives (95 %)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def _bars(axis: "Axes", labels: list[str], values: dict[str, np.ndarray], *, turn: bool = False) -> None:
    """Draw shares of several splits side by side."""
    places, width = np.arange(len(labels)), 0.8 / len(values)
    for number, (name, share) in enumerate(values.items()):
        axis.bar(
            places + (number - (len(values) - 1) / 2) * width, 100 * share, width, label=name, color=_COLOURS[name]
        )
    axis.set_xticks(places, labels, rotation=60 if turn else 0, ha="right" if turn else "center", fontsize=8)
    if len(labels) > _MOST_LABELS // 2 and not turn:
        axis.set_xticks(places[::5], labels[::5])
    axis.set_ylabel("share, %")


def _divergence(axis: "Axes", divergence: dict[str, dict[str, Any]]) -> None:
    """Draw how far each split is from train, with the level that chance alone seldom passes."""
    for number, (pair, properties) in enumerate(divergence.items()):
        places = np.arange(len(properties)) + 0.4 * number - 0.2
        bits = [max(_FLOOR, one["bits"]) for one in properties.values()]
        chance = [max(_FLOOR, one["chance"]) for one in properties.values()]
        name = pair.partition("-")[2]
        axis.bar(places, bits, 0.36, color=_COLOURS[name])
        axis.hlines(chance, places - 0.18, places + 0.18, color="black")
    axis.axhline(DIVERGENCE, color="black", linestyle=":", linewidth=0.8)
    axis.set_xticks(range(len(properties)), list(properties), fontsize=8)
    axis.set(title="Divergence from train (dotted: worth a warning)", ylabel="bits (0 = equal, 1 = disjoint)")
    axis.set_yscale("log")


def _duplicates(axis: "Axes", splits: dict[str, dict[str, Any]]) -> None:
    """Draw examples, groups and repeated inputs of each split."""
    rows = {"examples": "count", "groups": "groups", "repeated inputs": "duplicate_inputs"}
    for number, (name, split) in enumerate(splits.items()):
        places = np.arange(len(rows)) + 0.27 * (number - 1)
        heights = [split[key] for key in rows.values()]
        for bar, height in zip(axis.bar(places, heights, 0.25, color=_COLOURS[name]), heights, strict=True):
            axis.annotate(
                f"{height:,}", (bar.get_x() + bar.get_width() / 2, height), ha="center", va="bottom", fontsize=7
            )
    axis.set_xticks(range(len(rows)), list(rows))
    axis.set(title="Examples, groups, repeats", yscale="symlog")
    axis.margins(y=0.15)
