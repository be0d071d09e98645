"""What does it cost to be watched? One run that is watched for ten steps, and not for the next ten, in turns.

    python benchmarks/diagnostics_overhead.py

The engine gathers sums at every step and looks at every tenth; each watched block holds one such check. Blocks are
timed whole, in CPU time of the process, and compared with their two unwatched neighbours, so that a machine that is
slower for a while is so for both. The interval is a bootstrap over blocks.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from titans_trm.config import compose  # noqa: E402
from titans_trm.data.load import load_data  # noqa: E402
from titans_trm.tasks.build import build_datamodule, build_model, build_module, build_trainer  # noqa: E402
from titans_trm.training.callbacks.diagnostics import Diagnostics  # noqa: E402

BLOCK = 10  # steps, as many as lie between two checks


class Clock(Callback):
    """Read the process's CPU time before every block; stands before all other callbacks."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Read at the first step of a block."""
        if trainer.global_step % BLOCK == 0:
            self.at.append(time.process_time())


class InTurns(Callback):
    """Hand every other block to the diagnostics and keep the rest from them."""

    def __init__(self, watch: Diagnostics) -> None:
        self.watch = watch

    def setup(self, *arguments: Any, **options: Any) -> None:
        """Pass on."""
        self.watch.setup(*arguments, **options)

    def on_train_start(self, *arguments: Any) -> None:
        """Pass on."""
        self.watch.on_train_start(*arguments)

    def on_train_batch_start(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        """Pass on."""
        if watched(trainer.global_step // BLOCK):
            self.watch.on_train_batch_start(trainer, *arguments)

    def on_before_optimizer_step(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        """Pass on."""
        if watched(trainer.global_step // BLOCK):
            self.watch.on_before_optimizer_step(trainer, *arguments)

    def on_train_batch_end(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        """Pass on; the step is counted already."""
        if watched((trainer.global_step - 1) // BLOCK):
            self.watch.on_train_batch_end(trainer, *arguments)


def watched(block: int) -> bool:
    """Tell whether a block is watched."""
    return block % 2 == 1


def block_seconds(steps: int, overrides: list[str]) -> list[float]:
    """Return the CPU seconds of every whole block of a run."""
    words = ["experiment=quickstart", "hardware=cpu", "trainer.num_threads=1", f"trainer.max_steps={steps}"]
    words += ["trainer.val_every_steps=100000", "trainer.checkpoint_every_steps=100000", 'specialist.kind="off"']
    config = compose("train", [*words, *overrides])
    lightning.seed_everything(0, verbose=False)
    data = load_data(config.data)
    module = build_module(config, build_model(config.model, data.spec), data.spec)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder), len(data.train))
        clock = Clock()
        callbacks = [InTurns(one) if isinstance(one, Diagnostics) else one for one in trainer.callbacks]  # type: ignore[attr-defined]
        trainer.callbacks = [clock, *callbacks]  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=build_datamodule(config, data))
    return [after - before for before, after in zip(clock.at, clock.at[1:], strict=False)]


def overheads(seconds: list[float]) -> list[float]:
    """Return for every watched block between two others how much longer it took than they did."""
    inner = (block for block in range(3, len(seconds) - 1) if watched(block))  # the first steps are slow by nature
    return [2.0 * seconds[block] / (seconds[block - 1] + seconds[block + 1]) - 1.0 for block in inner]


def main() -> None:
    """Train, and print the mean and its interval."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    arguments, overrides = parser.parse_known_args()
    found = overheads(block_seconds(arguments.steps, overrides))
    draw = random.Random(0)
    means = sorted(fmean(draw.choices(found, k=len(found))) for _ in range(2000))
    low, high = means[50], means[1949]
    sys.stdout.write(f"watched over unwatched, {len(found)} blocks of {BLOCK} steps: ")
    sys.stdout.write(f"{fmean(found):+.2%} of the CPU time [{low:+.2%}, {high:+.2%}]\n")


if __name__ == "__main__":
    main()
