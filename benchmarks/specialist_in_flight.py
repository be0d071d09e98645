"""Does a slow specialist slow training down? The same run with and without a 60 s call in flight, in turns.

    python benchmarks/specialist_in_flight.py --rounds 3

The specialist is a program (specialist=command) that sleeps; the alarm is raised by hand at the first check. Steps are
timed while the call is in flight; the median over steps of each arm, and the ratio of the medians, are printed.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

SKIPPED = 10  # first steps, not timed


class Clock(Callback):
    """Time every step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._started = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Start."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop."""
        self.times.append(time.perf_counter() - self._started)


class Alarm(Callback):
    """Hand a package to the specialist at the first step."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Submit once."""
        from titans_trm.specialist.protocol import read_context
        from titans_trm.training.callbacks.specialist import SpecialistOnCall

        if trainer.global_step == 1:
            desk = next(c for c in trainer.callbacks if isinstance(c, SpecialistOnCall)).on_call._desk  # type: ignore[attr-defined]
            assert desk.submit(1, read_context({"task": "be slow"}))
            desk.collect = lambda: []  # type: ignore[method-assign]


def train(seconds: float, steps: int, in_flight: bool) -> list[float]:
    """Return the seconds of each step of one short run."""
    from titans_trm.config import compose
    from titans_trm.data.load import load_data
    from titans_trm.tasks.build import build_datamodule, build_model, build_module, build_trainer

    slow = json.dumps(["/bin/sleep", str(seconds)]).replace('"', "")
    words = ["experiment=quickstart", "hardware=cpu", "trainer.num_threads=1", f"trainer.max_steps={steps}"]
    words += ["trainer.val_every_steps=100000", "trainer.checkpoint_every_steps=100000"]
    config = compose("train", [*words, "specialist=command", f"specialist.command={slow}", "logger.tensorboard=null"])
    lightning.seed_everything(0, verbose=False)
    data = load_data(config.data)
    module, datamodule = (
        build_module(config, build_model(config.model, data.spec), data.spec),
        build_datamodule(config, data),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder), len(data.train))
        clock = Clock()
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        if in_flight:
            trainer.callbacks.append(Alarm())  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=datamodule)
    return clock.times[SKIPPED:]


def main() -> None:
    """Alternate the arms and print the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the specialist's call")
    arguments = parser.parse_args()
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(arguments.rounds):
        for in_flight in (False, True) if number % 2 == 0 else (True, False):
            times[in_flight] += train(arguments.seconds, arguments.steps, in_flight)
    without, during = median(times[False]), median(times[True])
    sys.stdout.write(f"step without: {1000 * without:.1f} ms, with a call in flight: {1000 * during:.1f} ms, ")
    sys.stdout.write(f"ratio {during / without:.3f}\n")


if __name__ == "__main__":
    main()
