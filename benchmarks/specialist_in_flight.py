"""Does a slow specialist slow training down? One run with a 60 s call in flight half of the time, in turns.

    python benchmarks/specialist_in_flight.py

The specialist is a program (specialist=command) that sleeps. A call is handed in, and when it is over as many steps go
by without one as went by with it; then the next call. Steps are timed one by one, in CPU time of the whole process (the
specialist's thread included) and on the wall clock; those during which a call ended are left out.
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

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from titans_trm.config import compose  # noqa: E402
from titans_trm.data.load import load_data  # noqa: E402
from titans_trm.specialist.desk import Desk  # noqa: E402
from titans_trm.specialist.expert import make_specialist  # noqa: E402
from titans_trm.specialist.protocol import read_context  # noqa: E402
from titans_trm.tasks.build import build_datamodule, build_model, build_module, build_trainer  # noqa: E402

SKIPPED = 10  # first steps, not timed

Times = tuple[float, float]  # of a step: seconds of CPU, seconds on the wall


class Calls(Callback):
    """Hand in call after call, with as many steps without one between them, and time every step."""

    def __init__(self, desk: Desk, calls: int) -> None:
        self.desk, self.calls = desk, calls
        self.blocks: list[tuple[bool, list[Times]]] = [(False, [])]  # (a call was in flight, steps)
        self._started: Times = (0.0, 0.0)

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clocks."""
        self._started = time.process_time(), time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Stop the clocks; see whether the call is over, or the next one is due."""
        if trainer.global_step <= SKIPPED:
            return
        cpu, wall = time.process_time() - self._started[0], time.perf_counter() - self._started[1]
        (in_flight, steps), before = self.blocks[-1], [len(steps) for _, steps in self.blocks[:-1]]
        if in_flight and self.desk.collect():
            trainer.should_stop = self.calls == 0
            self.blocks.append((False, []))
            return  # the call ended in this step
        steps.append((cpu, wall))
        if not in_flight and len(steps) >= max(before[-1:] or [SKIPPED]):
            assert self.desk.submit(self.calls, read_context({"task": "be slow"}))
            self.calls -= 1
            self.blocks.append((True, []))


def train(seconds: float, calls: int, overrides: list[str]) -> list[tuple[bool, list[Times]]]:
    """Return the blocks of one run of the quickstart recipe."""
    slow = json.dumps(["/bin/sleep", str(seconds)]).replace('"', "")
    words = ["experiment=quickstart", "hardware=cpu", "trainer.num_threads=1", "trainer.max_steps=100000"]
    words += ["trainer.val_every_steps=100000", "trainer.checkpoint_every_steps=100000", "logger.tensorboard=null"]
    config = compose("train", [*words, "specialist=command", f"specialist.command={slow}", *overrides])
    lightning.seed_everything(0, verbose=False)
    data = load_data(config.data)
    module = build_module(config, build_model(config.model, data.spec), data.spec)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder), len(data.train))
        timed = Calls(Desk(make_specialist(config.specialist)), calls)
        trainer.callbacks.append(timed)  # type: ignore[attr-defined]
        trainer.fit(module, datamodule=build_datamodule(config, data))
    return [block for block in timed.blocks if block[1]]


def main() -> None:
    """Train, and print both clocks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=4, help="one after the other")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a call")
    arguments, overrides = parser.parse_known_args()
    blocks = train(arguments.seconds, arguments.calls, overrides)
    for clock, name in enumerate(("CPU", "wall")):
        for in_flight, steps in blocks:
            ms = 1000 * median(step[clock] for step in steps)
            sys.stdout.write(f"{name}: {len(steps)} steps {'with' if in_flight else 'without'} a call, {ms:.1f} ms\n")
        during, without = (
            median(step[clock] for flag, steps in blocks if flag is wanted for step in steps)
            for wanted in (True, False)
        )
        sys.stdout.write(f"{name}: median step with a call over without: {during / without:.3f}\n")


if __name__ == "__main__":
    main()
