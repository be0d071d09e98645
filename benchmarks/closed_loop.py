"""Closed loop: a halting head collapses in the middle of a run; is the run healthy at its end, without a person?

    python benchmarks/closed_loop.py --seeds 3

Per seed four runs of the same short recipe: `healthy` (nothing happens), `left alone` (the fault, specialist=off),
`rules` (the fault, specialist=rules), `sabotaged` (the fault, and every remedy ruins what it is applied to). The fault:
at one step the weights of the halting head are set to zero, and from then on a variance hinge with its sign turned
keeps the logits equal in place of the diversity term. The model is the small one of `diagnostics.py`. Written to
runs/closed_loop/closed_loop.json after every run; a finished run is not repeated.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest import mock

import lightning
import torch
from lightning.pytorch.callbacks import Callback

ROOT = Path(__file__).resolve().parent.parent
for directory in (ROOT, ROOT / "benchmarks"):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))

from diagnostics import BASE, SUDOKU  # noqa: E402
from diagnostics_faults import punish_variance  # noqa: E402

from titans_trm.config import compose  # noqa: E402
from titans_trm.diagnostics.events import read_events  # noqa: E402
from titans_trm.diagnostics.record import read_signals  # noqa: E402
from titans_trm.tasks import build  # noqa: E402
from titans_trm.tasks.train import train  # noqa: E402
from titans_trm.training.levers import Levers  # noqa: E402

ARMS = ("healthy", "left alone", "rules", "sabotaged")
FLAT_AT = 60  # optimiser step at which the head is knocked flat: some puzzles are solved by then
RECIPE = (
    *BASE, *SUDOKU, "data.clues=[14,15]", "data.num_val=400", "trainer.val_examples=400", "trainer.max_steps=240",
    "trainer.val_every_steps=120", "trainer.val_time_share=1.0", "logger.tensorboard=null",
    "specialist.watch_steps=80", "scheduler=constant", "specialist.cooldown_steps=20", "specialist.rule_cooldown_steps=40",
)  # fmt: skip
LAST_CHECKS = 8  # signals whose median describes the end of a run


class FlatHead(Callback):
    """Set the halting head's weights to zero once, and let nothing bring them back."""

    def __init__(self, undo: ExitStack) -> None:
        self.undo = undo

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Knock the head flat."""
        if trainer.global_step == FLAT_AT:
            with torch.no_grad():
                pl_module.model.act_head.weight.zero_()
            punish_variance(pl_module, self.undo)


@contextmanager
def sabotage() -> Iterator[None]:
    """Make every remedy turn the learning rate up a thousandfold as well."""
    pull = Levers.pull

    def ruin(self: Levers, remedy: str, value: float | None) -> None:
        pull(self, remedy, value)
        self.set_rates([1000.0 * rate for rate in self.rates()])

    with mock.patch.object(Levers, "pull", ruin):
        yield


def run(arm: str, seed: int, folder: Path, extra: list[str]) -> None:
    """Train one arm into `folder`."""
    kind = "rules" if arm in ("rules", "sabotaged") else '"off"'
    words = [*RECIPE, f"seed={seed}", f"run_dir={folder}", f"specialist.kind={kind}", *extra]
    with ExitStack() as undo:
        if arm == "sabotaged":
            undo.enter_context(sabotage())
        if arm != "healthy":
            callbacks = build._callbacks
            struck = mock.patch.object(build, "_callbacks", lambda *arguments: [FlatHead(undo), *callbacks(*arguments)])
            undo.enter_context(struck)
        train(compose("train", list({word.partition("=")[0]: word for word in words}.values())))


def measured(folder: Path) -> dict[str, Any]:
    """Read what a run came to from its folder."""
    summary = json.loads((folder / "summary.json").read_text())
    signals = [
        s.values for s in read_signals(folder / "diagnostics" / "signals.jsonl") if "loss/cross_entropy" in s.values
    ]
    found: dict[str, Any] = {"exact_accuracy": summary["val"]["exact_accuracy"]}
    for name in ("halting/logit_std", "halting/correlation", "halting/steps"):
        values = [
            values[name] for values in signals[-LAST_CHECKS:] if values.get(name, float("nan")) == values.get(name)
        ]
        found[name] = median(values) if values else None
    wanted = ("alert", "remedy_applied", "remedy_verified", "remedy_rolled_back", "cleared")
    events = read_events(folder / "diagnostics" / "events.jsonl")
    found["events"] = [
        [e["step"], e["event"], e["rule"], (e.get("remedy") or {}).get("id", ""), e.get("reason", "")]
        for e in events
        if e["event"] in wanted and e["severity"] != "info" or e["event"].startswith("remedy_") and e["event"] in wanted
    ]
    return found


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--folder", type=Path, default=Path("runs/closed_loop"))
    arguments, extra = parser.parse_known_args()
    results: dict[str, Any] = {}
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            folder = arguments.folder / arm.replace(" ", "_") / str(seed)
            if not (folder / "summary.json").is_file():
                run(arm, seed, folder, extra)
            results[f"{arm}/{seed}"] = measured(folder)
            arguments.folder.joinpath("closed_loop.json").write_text(json.dumps(results, indent=2) + "\n")
    show(results)


def show(results: dict[str, Any]) -> None:
    """Print the table, and how far treated runs are from their healthy twins."""
    sys.stdout.write(
        "| run | exact accuracy | std of logits | correlation | steps | remedies |\n|---|---|---|---|---|---|\n"
    )
    for name, found in results.items():
        tried = "; ".join(
            f"{e[3]} {e[1].removeprefix('remedy_')} at {e[0]}" for e in found["events"] if "remedy" in e[1]
        )
        numbers = [found[key] for key in ("halting/logit_std", "halting/correlation", "halting/steps")]
        cells = [f"{100 * found['exact_accuracy']:.1f} %", *("-" if n is None else f"{n:.2f}" for n in numbers), tried]
        sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")
    gaps = [
        found["exact_accuracy"] - results[f"healthy/{name.partition('/')[2]}"]["exact_accuracy"]
        for name, found in results.items()
        if name.startswith("rules/") and f"healthy/{name.partition('/')[2]}" in results
    ]
    if gaps:
        sys.stdout.write(f"treated minus healthy: {100 * fmean(gaps):+.1f} points, mean of {len(gaps)} seeds\n")


if __name__ == "__main__":
    main()
