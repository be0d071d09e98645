"""What the benchmarks share: cases measured in turn, the same way each, and a table of what came out.

CPU-seconds count, not wall time: they stay the same while other programs run. Cases alternate (A, B, A, B, ...), so
that whatever slows the machine down meets all of them.
"""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from titans_trm.profiling.allocations import AllocationTracker


@dataclass(frozen=True)
class Cost:
    """What repetitions of one case took."""

    cpu_seconds: list[float]  # of each measured repetition, all threads together
    wall_seconds: list[float]

    @property
    def cpu(self) -> float:
        """Median of the CPU-seconds."""
        return median(self.cpu_seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest CPU-seconds."""
        return min(self.cpu_seconds), max(self.cpu_seconds)

    @property
    def wall(self) -> float:
        """Median of the wall-clock seconds."""
        return median(self.wall_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return asdict(self) | {"cpu_median": self.cpu, "wall_median": self.wall}


def alternate(cases: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 1) -> dict[str, Cost]:
    """Run every case `warmup` times unmeasured, then `repeats` times in turn with the others."""
    for work in cases.values():
        for _ in range(warmup):
            work()
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, work in cases.items():
            started, used = time.perf_counter(), time.process_time()
            work()
            cpu[name].append(time.process_time() - used)
            wall[name].append(time.perf_counter() - started)
    return {name: Cost(cpu[name], wall[name]) for name in cases}


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes of tensors that were alive at once while `work` ran, without those from before it."""
    tracker = AllocationTracker(lambda tensor: "all")
    with tracker:
        work()
    return tracker.peak_bytes


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, threads, versions, date."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; all but the first column stand to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def save(path: str | None, result: Mapping[str, Any]) -> None:
    """Write `result` with the machine beside it as JSON, if a path is given."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps({"machine": machine(), **result}, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    if platform.system() == "Darwin":
        name = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return name.stdout.strip() or platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
