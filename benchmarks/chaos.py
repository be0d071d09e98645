"""Kill a training again and again, break its disk, and see that nothing is lost.

    python benchmarks/chaos.py kills --kills 30
    python benchmarks/chaos.py faults

`kills`: SIGKILL at random moments, a third of them while a checkpoint is being written, and a resume after each. After
every kill each checkpoint must be readable, the newest may be at most `checkpoint_every_steps` behind the last reported
step, and at the end checkpoint and metrics must equal those of an undisturbed run bit for bit.

`faults`: a full disk, a read-only folder (small mounted disks where that is allowed, a limit on file size and a lock
otherwise), truncated files, a vanished data file. Each must end in training that goes on or in one message that names
file and cure; after the cure the run must end with the same bits as the undisturbed one.

Each training is `train.py` itself, in a process forked from this one, which has imported the packages already: the
start of Python is not what is tested here. Exit status: 0 nothing lost, 1 something was, 2 a run failed otherwise.
"""

import argparse
import contextlib
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import titans_trm.tasks.train  # noqa: E402, F401  imported once for all trainings
from benchmarks.resume import OVERRIDES, compare_runs, last_step, report  # noqa: E402
from titans_trm.errors import InputError  # noqa: E402
from titans_trm.training.checkpoint_io import load_checkpoint  # noqa: E402

EVERY_STEPS = 4  # between checkpoints
SMALLER = (
    "model.width=16",
    "model.backbone.mlp_hidden=24",
    "model.recursion.num_latent_steps=1",
    "model.halting.max_supervision_steps=3",
    "trainer.batch_size=6",
    "trainer.val_every_steps=20",
    "trainer.log_every_steps=2",
    f"trainer.checkpoint_every_steps={EVERY_STEPS}",
    "trainer.val_examples=4",
)
POLL_SECONDS = 0.002
WAIT_SECONDS = 1800.0


@dataclass
class Training:
    """A run of `train.py` in a forked process."""

    process: int
    log: Path
    status: int | None = None  # exit status, negative for a signal

    def running(self) -> bool:
        """Look whether it is still at work."""
        if self.status is None:
            done, status = os.waitpid(self.process, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if done else None
        return self.status is None

    def wait(self) -> int:
        """Return the exit status once it has ended; it is killed when that takes too long."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.running():
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(POLL_SECONDS)
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        """Send SIGKILL and wait for the end, if it has not come yet."""
        if self.running():
            os.kill(self.process, signal.SIGKILL)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def said(self) -> str:
        """Return its last error message in one line."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
        return lines[-1] if lines else self.log.read_text(errors="replace")[-2000:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two benchmarks and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("kills", "faults"))
    parser.add_argument("--kills", type=int, default=30, help="times the run is killed")
    parser.add_argument("--max-steps", type=int, default=240, help="length of the run in optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="titans_trm_chaos_") as temporary:
        chaos = Chaos(Path(temporary), options.max_steps, random.Random(options.seed))
        return chaos.kills(options.kills) if options.mode == "kills" else chaos.faults()


class Chaos:
    """The folders of a benchmark and what is done to them."""

    def __init__(self, root: Path, max_steps: int, rng: random.Random) -> None:
        self.root, self.max_steps, self.rng = root, max_steps, rng
        self.seconds = 0.0  # that the undisturbed run took
        self.undisturbed = root / "undisturbed"

    def kills(self, count: int) -> int:
        """Kill one run `count` times and compare it with an undisturbed one."""
        started = time.process_time()
        if not self.train_undisturbed():
            return 2
        folder, unreadable, lost = self.root / "killed", 0, []
        for number in range(count):
            moment = ("at any moment", "after a report", "in a checkpoint")[number % 3]
            training = self.start(folder)
            self.kill_at(training, folder, moment)
            if training.status != -signal.SIGKILL:
                print(f"kill {number + 1}: the run had ended with status {training.status}: {training.said()}")
                break
            bad = unreadable_checkpoints(folder)
            unreadable += len(bad)
            reported, kept = last_step(folder), checkpointed_step(folder)
            lost.append(reported - kept)
            half = " (one was half written)" if list(folder.glob("checkpoints/.*.partial")) else ""
            print(
                f"kill {number + 1} {moment}{half}: reported step {reported}, checkpoint of {kept} {bad or ''}",
                flush=True,
            )
        if (status := self.start(folder).wait()) != 0:
            print(f"the last resume ended with status {status}")
            return 2
        print(f"\n{len(lost)} kills, {unreadable} checkpoints unreadable, at most {max(lost)} reported steps to repeat")
        print(f"checkpoints every {EVERY_STEPS} steps; {cpu_seconds(started):.0f} CPU-seconds in all")
        wrong = report({f"undisturbed and killed {len(lost)} times": list(compare_runs(self.undisturbed, folder))})
        return int(bool(wrong or unreadable or max(lost) > EVERY_STEPS or len(lost) < count))

    def train_undisturbed(self) -> bool:
        """Train the run that all others must equal; tell whether that went well."""
        training, started = self.start(self.undisturbed), time.monotonic()
        status, self.seconds = training.wait(), time.monotonic() - started
        if status:
            print(f"the undisturbed run ended with status {status}: {training.said()}")
        return not status

    def kill_at(self, training: Training, folder: Path, moment: str) -> None:
        """Wait for the moment and send SIGKILL."""
        if moment == "at any moment":
            wake = time.monotonic() + self.rng.uniform(0.0, self.seconds / 3)
            while training.running() and time.monotonic() < wake:
                time.sleep(POLL_SECONDS)
        else:
            ahead = last_step(folder) + self.rng.randint(2, 2 * self.max_steps // 50)
            while training.running() and last_step(folder) < min(ahead, self.max_steps - 20):
                time.sleep(5 * POLL_SECONDS)
            deadline = time.monotonic() + 10.0
            while moment == "in a checkpoint" and training.running() and time.monotonic() < deadline:
                if list(folder.glob("checkpoints/.*.partial")):
                    time.sleep(self.rng.choice((0.0, 0.0, 0.002)))
                    break
        if training.running():
            training.kill()

    def faults(self) -> int:
        """Break things around a run, one after the other; return the exit status."""
        if not self.train_undisturbed():
            return 2
        ways = (full_disk, read_only_folder, truncated_last, truncated_both, truncated_texts, vanished_data)
        verdicts = []
        for way in ways:
            name = way.__name__.replace("_", " ")
            with tempfile.TemporaryDirectory(prefix=f"{way.__name__}_", dir=self.root) as place:
                verdict = way(self, Path(place))
            verdicts.append(verdict == "nothing lost")
            print(f"  -> {name}: {verdict}\n", flush=True)
        return int(not all(verdicts))

    def start(self, folder: Path, *more: str, cache: Path | None = None, limit: int | None = None) -> Training:
        """Fork a training in `folder`; it goes on from the last checkpoint there, if there is one."""
        words = [*OVERRIDES, *SMALLER, f"trainer.max_steps={self.max_steps}", f"run_dir={folder}", *more]
        words.append(f"data.cache_dir={cache or self.root / 'cache'}")
        checkpoints = folder / "checkpoints"
        if any((checkpoints / f"{name}.ckpt").is_file() for name in ("last", "previous")):
            words.append(f"resume={folder}")
        elif folder.exists():  # killed before its first checkpoint: anew under the same name
            shutil.rmtree(folder)
        log = self.root / "log"
        process = os.fork()
        if not process:
            run_train(words, log, limit)
        return Training(process, log)

    def same_as_undisturbed(self, folder: Path) -> str:
        """Say whether a run ended like the undisturbed one."""
        found = [text for _, _, differences in compare_runs(self.undisturbed, folder) for text in differences]
        return f"differs: {found[0]}" if found else "nothing lost"


def run_train(words: list[str], log: Path, limit: int | None) -> None:
    """Be `train.py` with these arguments, in this process, and end it."""
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if limit is not None:
            import resource

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        sys.argv[:] = [str(ROOT / "train.py"), *words]
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def unreadable_checkpoints(folder: Path) -> list[str]:
    """Return the names of checkpoints that cannot be read."""
    bad = []
    for path in sorted(folder.glob("checkpoints/*.ckpt")):
        try:
            load_checkpoint(path)
        except InputError as error:
            bad.append(str(error))
    return bad


def checkpointed_step(folder: Path) -> int:
    """Return the step of the last checkpoint, 0 where there is none yet."""
    path = folder / "checkpoints" / "last.ckpt"
    return int(load_checkpoint(path)["global_step"]) if path.is_file() else 0


def cpu_seconds(started: float) -> float:
    """Return the CPU time of this process since `started` and of all its trainings."""
    of_children = os.times()
    return time.process_time() - started + of_children.children_user + of_children.children_system


# Ways to break a run. Each prints what the run said, cures what it broke, and lets the run end.


def full_disk(chaos: Chaos, place: Path) -> str:
    """The disk of the run folder fills up in the middle; then there is room again."""
    with small_disk(place, "8m") as mounted:
        folder = place / "run"
        if mounted:
            training = chaos.start(folder)
            wait_for(training, folder, chaos.max_steps // 4)
            ballast = place / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(b"\0" * 4096):
                    pass
            status = training.wait()
            verdict = told(training, status, "free space", str(folder))
            with contextlib.suppress(FileNotFoundError):
                ballast.unlink()
        else:
            training = chaos.start(folder, limit=2**15)
            verdict = told(training, training.wait(), "free space", str(folder))
        return verdict or finished(chaos, folder)


def read_only_folder(chaos: Chaos, place: Path) -> str:
    """The run folder becomes read-only in the middle, and writable again."""
    folder = place / "run"
    training = chaos.start(folder)
    wait_for(training, folder, chaos.max_steps // 4)
    with locked(folder):
        verdict = told(training, training.wait(), "writable", str(folder))
    return verdict or finished(chaos, folder)


def truncated_last(chaos: Chaos, place: Path) -> str:
    """`last.ckpt` is cut off; the one before is used, and that is said."""
    folder = half_way(chaos, place)
    path = folder / "checkpoints" / "last.ckpt"
    cut(path, chaos.rng)
    training = chaos.start(folder)
    status, text = training.wait(), training.log.read_text()
    line = next((line for line in text.splitlines() if "damaged" in line), "nothing")
    print(f"truncated last: status {status}, said: {line}")
    if status or str(path) not in line or "Trying the checkpoint before it" not in line:
        return "not told"
    return chaos.same_as_undisturbed(folder)


def truncated_both(chaos: Chaos, place: Path) -> str:
    """Both checkpoints are cut off: one message, and nothing is overwritten."""
    folder = half_way(chaos, place)
    for name in ("last.ckpt", "previous.ckpt"):
        shutil.copy(folder / "checkpoints" / name, place / name)
        cut(folder / "checkpoints" / name, chaos.rng)
    training = chaos.start(folder)
    if verdict := told(training, training.wait(), "new run", str(folder / "checkpoints")):
        return verdict
    for name in ("last.ckpt", "previous.ckpt"):  # from a backup
        shutil.copy(place / name, folder / "checkpoints" / name)
    return finished(chaos, folder)


def truncated_texts(chaos: Chaos, place: Path) -> str:
    """The last line of `metrics.csv` and the JSON files are cut off, as by a power cut without a journal."""
    folder = half_way(chaos, place)
    for name in ("metrics.csv", "environment.json", "diagnostics/events.jsonl", "diagnostics/signals.jsonl"):
        path = folder / name
        os.truncate(path, path.stat().st_size - 7)
    return finished(chaos, folder)


def vanished_data(chaos: Chaos, place: Path) -> str:
    """A file of the data cache is gone."""
    folder, cache = half_way(chaos, place), place / "cache"
    shutil.copytree(chaos.root / "cache", cache)
    next(cache.rglob("train.inputs.npy")).unlink()
    training = chaos.start(folder, cache=cache)
    if verdict := told(training, training.wait(), "remove the folder", "train.inputs.npy"):
        return verdict
    shutil.rmtree(cache)
    return finished(chaos, folder, cache=cache)


def half_way(chaos: Chaos, place: Path) -> Path:
    """Return the folder of a run that was killed in the middle."""
    folder = place / "run"
    training = chaos.start(folder)
    wait_for(training, folder, chaos.max_steps // 3)
    training.kill()
    return folder


def wait_for(training: Training, folder: Path, step: int) -> None:
    """Return once a checkpoint of `step` or later is there."""
    while training.running() and last_step(folder) < step + EVERY_STEPS:
        time.sleep(5 * POLL_SECONDS)


def cut(path: Path, rng: random.Random) -> None:
    """Cut a file off somewhere."""
    os.truncate(path, rng.randrange(path.stat().st_size))


def told(training: Training, status: int, cure: str, file: str) -> str:
    """Print what a run said; return what is wrong with it, or nothing."""
    said = training.said()
    print(f"status {status}, said: {said}")
    if status != 2 or not said.startswith("error: "):
        return "ended otherwise"
    return "" if cure in said and file in said else "file or cure not named"


def finished(chaos: Chaos, folder: Path, cache: Path | None = None) -> str:
    """Let the run go on to its end and compare it."""
    training = chaos.start(folder, cache=cache)
    status = training.wait()
    return f"status {status}: {training.said()}" if status else chaos.same_as_undisturbed(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make `folder` read-only, for the superuser too where it may mount: permissions do not bind it."""
    mounted = mount("--bind", folder, folder) and mount("-o", "remount,ro,bind", folder)
    if not mounted:
        for path in (folder, folder / "checkpoints"):
            path.chmod(0o555)
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        for path in (folder, folder / "checkpoints"):
            path.chmod(0o755)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[bool]:
    """Mount a disk of this size at `place`, if this user may; tell whether it is there."""
    mounted = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*arguments: str | Path) -> bool:
    """Call `mount`; tell whether it could."""
    return subprocess.run(["mount", *map(str, arguments)], check=False, capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
