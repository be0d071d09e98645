"""Training steps at growing batches, eager and compiled: examples per second and model FLOP utilisation (MFU).

    python benchmarks/gpu/throughput.py [--experiment trm_7m_sudoku] [--batches 64 128 256 512 768 1024]
    python benchmarks/gpu/throughput.py --device cpu --batches 2 --steps 1 --gemm 512 --eager      # does it run?

MFU = FLOPs of a step (products and attention, forward and backward, recomputation left out) x steps per second over the
rate of a large bf16 matrix product on the same card, measured in the same process, not the data sheet's. A batch that
does not fit ends the series. Writes JSON with `--json`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch


def main() -> int:
    """Measure every batch, print a line for each and the best one."""
    arguments = _arguments()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("throughput.py needs a CUDA card; --device cpu tries it without one.\n")
        return 2
    peak = gemm_rate(arguments.device, arguments.gemm)
    sys.stdout.write(f"bf16 matrix product of {arguments.gemm}: {peak / 1e12:.3f} TFLOP/s\n")
    found = [
        line
        for compiled in ((False,) if arguments.eager else (False, True))
        for line in _series(arguments, peak, compiled=compiled)
    ]
    if not found:
        sys.stderr.write("not even the smallest batch fits; give smaller --batches.\n")
        return 1
    best = max(found, key=lambda line: line["mfu"])
    sys.stdout.write(f"best: {_told(best)}\n")
    if arguments.json:
        text = json.dumps({"gemm_flops_per_second": peak, "lines": found, "best": best}, indent=2)
        Path(arguments.json).write_text(text + "\n", encoding="utf-8")
    return 0


def gemm_rate(device: str, size: int, repeats: int = 10) -> float:
    """Return FLOP/s of a bf16 matrix product of `size` x `size` x `size`, the fastest of `repeats`."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    a @ b
    fastest = float("inf")
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        fastest = min(fastest, time.perf_counter() - started)
    return 2.0 * size**3 / fastest


def utilisation(flops_per_example: int, examples_per_second: float, peak: float) -> float:
    """Return the share of `peak` FLOP/s that training at this rate makes use of."""
    return flops_per_example * examples_per_second / peak


def _series(arguments: argparse.Namespace, peak: float, *, compiled: bool) -> list[dict[str, Any]]:
    from titans_trm.config import compose
    from titans_trm.data.registry import make_task
    from titans_trm.profiling.flops import count_flops
    from titans_trm.profiling.latency import TimingConfig, time_training_step
    from titans_trm.profiling.memory import TrainingSetup
    from titans_trm.tasks.build import build_model

    config = compose("train", [f"experiment={arguments.experiment}", *arguments.overrides])
    spec = make_task(config.data).spec
    flops = count_flops(build_model(config.model, spec).config)
    useful, found = flops.step_forward + flops.step_backward, []
    timing = TimingConfig(warmup=3, repeats=arguments.steps, budget_seconds=60.0)
    for batch in sorted(arguments.batches):
        model = build_model(config.model, spec).to(arguments.device)
        if compiled:
            model.recursion.net.compile(fullgraph=True)
        setup = TrainingSetup(
            batch_size=batch, precision="bf16-mixed", optimizer=config.optimizer, on_cuda=arguments.device == "cuda"
        )
        try:
            step = time_training_step(model, setup, timing)
        except torch.OutOfMemoryError:
            sys.stdout.write(f"batch {batch}: does not fit\n")
            break
        rate = 1000.0 * batch / step.p50
        line = {"batch": batch, "compiled": compiled, "ms": step.p50, "examples_per_second": rate}
        found.append(line | {"mfu": utilisation(useful, rate, peak)})
        sys.stdout.write(_told(found[-1]) + "\n")
    return found


def _told(line: dict[str, Any]) -> str:
    form = "compiled" if line["compiled"] else "eager"
    return (
        f"batch {line['batch']}, {form}: {line['ms']:.1f} ms a step, {line['examples_per_second']:.1f} examples/s, "
        f"MFU {line['mfu']:.1%}"
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="trm_7m_sudoku")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512, 768, 1024])
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each batch")
    parser.add_argument("--gemm", type=int, default=8192, help="size of the matrix product that is the peak")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--eager", action="store_true", help="leave the compiled form out")
    parser.add_argument("--json", help="also write the numbers into this file")
    parser.add_argument("--overrides", nargs="*", default=[], help="of train.py")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
