"""Kill a training run at random moments, resume it each time, and compare it bit for bit with an undisturbed one.

    python benchmarks/resume.py --kills 3

Compared are the last checkpoint (weights, average, optimiser, schedule, slots with carry, position in the data, running
means, progress) and `metrics.csv` but for its time columns; also two undisturbed runs of one seed. Exit status: 0 all
equal, 1 a difference, 2 a run failed.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from titans_trm.training.callbacks.metrics_csv import TIME_COLUMNS, read_metrics  # noqa: E402
from titans_trm.training.checkpoint_io import load_checkpoint  # noqa: E402

# A small model with everything on: memory in every block, exploration, average, schedule, validations in between.
OVERRIDES = (
    "experiment=quickstart",
    "hardware=cpu",
    "optimizer=adamw",
    "data.num_train=200",
    "data.num_val=16",
    "data.num_test=16",
    "model.parameter_budget=null",
    "model.width=32",
    "model.backbone.num_heads=2",
    "model.backbone.mlp_hidden=64",
    "model.memory.carry=steps",
    "model.halting.max_supervision_steps=4",
    "trainer.batch_size=16",
    "trainer.val_examples=8",
    "trainer.val_every_steps=15",
    "trainer.checkpoint_every_steps=10",
    "trainer.log_every_steps=5",
    "trainer.num_threads=1",
)
POLL_SECONDS = 0.02  # between looks at how far a run is


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit status."""
    options = parse(arguments)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="titans_trm_resume_") as temporary:
        root = Path(temporary)
        try:
            undisturbed = [train(options, root, name) for name in ("undisturbed", "again")]
            killed, moments = train_with_kills(options, root, rng)
        except subprocess.CalledProcessError as error:
            print(f"train.py ended with status {error.returncode}:\n{error.output}")
            return 2
        results = {
            "two undisturbed runs of one seed": list(compare_runs(*undisturbed)),
            f"undisturbed and killed {len(moments)} times": list(compare_runs(undisturbed[0], killed)),
        }
    print("\n".join(f"kill {number}: {moment}" for number, moment in enumerate(moments, start=1)))
    return report(results)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3, help="times the run is killed (SIGKILL)")
    parser.add_argument("--max-steps", type=int, default=100, help="length of the run in optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("overrides", nargs="*", help="more overrides for train.py, such as optimizer=muon")
    return parser.parse_args(arguments)


def train(options: argparse.Namespace, root: Path, name: str) -> Path:
    """Train without disturbance and return the run folder."""
    started = time.monotonic()
    process = start(options, root, name)
    output, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "train.py", output)
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    return root / name


def train_with_kills(options: argparse.Namespace, root: Path, rng: random.Random) -> tuple[Path, list[str]]:
    """Train, killed `options.kills` times at random steps and moments; return the run folder and the moments."""
    folder, moments = root / "killed", []
    share = options.max_steps / (options.kills + 1)
    for number in range(options.kills):
        # One kill in each equal part of the run, so that every part of it resumes and gets further.
        step = int((number + rng.uniform(0.1, 1.0)) * share)
        delay = rng.uniform(0.0, 0.3)
        process = start(options, root, folder.name)
        wait_for_step(process, folder, step)
        time.sleep(delay)
        process.kill()
        output, _ = process.communicate()
        if process.returncode == 0:
            moments.append(f"aimed at step {step}, but the run had ended")
            break
        if process.returncode > 0:
            raise subprocess.CalledProcessError(process.returncode, "train.py", output)
        moments.append(f"{delay * 1000:.0f} ms after the row of step {last_step(folder)}; {checkpointed(folder)}")
        print(moments[-1], flush=True)
    train(options, root, folder.name)
    return folder, moments


def start(options: argparse.Namespace, root: Path, name: str) -> "subprocess.Popen[str]":
    """Start train.py in `root/name`, or let it go on there."""
    command = [sys.executable, str(ROOT / "train.py"), *OVERRIDES, f"trainer.max_steps={options.max_steps}"]
    folder = root / name
    command += [f"run_dir={folder}", f"data.cache_dir={root / 'cache'}", *options.overrides]
    if (folder / "checkpoints" / "last.ckpt").is_file():
        command.append(f"resume={folder}")
    elif folder.exists():  # killed before its first checkpoint: start anew under the same name
        folder.rename(root / f"{name}-abandoned-{time.monotonic_ns()}")
    environment = {key: value for key, value in os.environ.items() if key != "TITANS_TRM_RUN_DIR"}
    return subprocess.Popen(
        command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for_step(process: "subprocess.Popen[str]", folder: Path, step: int) -> None:
    """Return once the run has reported `step`, or has ended."""
    while process.poll() is None and last_step(folder) < step:
        time.sleep(POLL_SECONDS)


def last_step(folder: Path) -> int:
    """Return the newest step in `metrics.csv`, 0 where there is none."""
    path = folder / "metrics.csv"
    return max(read_metrics(path)["step"], default=0) if path.is_file() else 0


def checkpointed(folder: Path) -> str:
    """Say from which step the run will go on."""
    path = folder / "checkpoints" / "last.ckpt"
    return f"last.ckpt of step {load_checkpoint(path)['global_step']}" if path.is_file() else "no checkpoint yet"


def compare_runs(first: Path, second: Path) -> Iterator[tuple[str, int, list[str]]]:
    """Yield (part, values compared, differences) of two run folders' last checkpoints and metrics."""
    one, other = (load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (first, second))
    for part in sorted({*one, *other} - {"hyper_parameters", "datamodule_hyper_parameters"}):  # these name the folder
        yield f"last.ckpt: {part}", count(one.get(part)), list(differences(one.get(part), other.get(part), part))
    tables = [timeless(folder / "metrics.csv") for folder in (first, second)]
    yield "metrics.csv", count(tables[0]), list(differences(*tables, "metrics.csv"))


def timeless(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a `metrics.csv` that do not depend on the clock."""
    return {name: column for name, column in read_metrics(path).items() if name not in TIME_COLUMNS}


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Yield where two nested values differ in any bit, type or key."""
    if type(one) is not type(other):
        yield f"{where}: {type(one).__name__} and {type(other).__name__}"
    elif isinstance(one, torch.Tensor):
        if not same_bits(one, other):
            yield where
    elif isinstance(one, Mapping):
        if list(one) != list(other):
            yield f"{where}: keys {sorted(map(str, set(one) ^ set(other))) or 'in another order'}"
        for key in one:
            if key in other:
                yield from differences(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{where}: {len(one)} and {len(other)} entries"
        for index, pair in enumerate(zip(one, other, strict=False)):
            yield from differences(*pair, f"{where}[{index}]")
    elif one != other and not (one != one and other != other):  # NaN is not equal to itself
        yield f"{where}: {one} and {other}"


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors have the same type, shape and bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    one, other = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(one, other)


def count(value: Any) -> int:
    """Count the numbers in a nested value."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, Mapping):
        return sum(map(count, value.values()))
    return sum(map(count, value)) if isinstance(value, list | tuple) else 1


def report(results: Mapping[str, list[tuple[str, int, list[str]]]]) -> int:
    """Print a table and return the exit status."""
    different = False
    for title, parts in results.items():
        print(f"\n{title}")
        for part, values, found in parts:
            verdict = f"{len(found)} differences, e.g. {found[0]}" if found else "equal"
            print(f"  {part:<34} {values:>10,} values  {verdict}")
            different = different or bool(found)
    print("\nNOT equal" if different else "\nall equal, bit for bit")
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
