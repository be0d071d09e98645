"""What does one memory layer cost, forward and backward, beside the public one (`titans-pytorch`, extra `bench`)?

    python benchmarks/neural_memory.py                              # all cases; some minutes
    python benchmarks/neural_memory.py --dims 256 --chunks 16 64    # some
    python benchmarks/neural_memory.py --compiled                   # torch.compile on both sides
    python benchmarks/neural_memory.py --table                      # ours alone, by chunk: which one is fastest here?

Both memories are as wide as the model, one head, depth 2, expansion 4, float32, batch 1, one thread. CPU-seconds of
alternating runs, median [lowest, highest]; peak bytes of all live tensors as operators return them, inputs and weights
included. What differs: ours has a theta, alpha and eta per token and weight matrix, a convolution and an output gate,
and reads each token through its own weights; theirs has one alpha and eta per chunk and reads completed chunks only.
`paper` takes each chunk's gradients at the chunk's first weights (batch_size=chunk), as ours does; `default` takes all
at the call's first weights.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from titans_trm.models.config import MemoryConfig
from titans_trm.models.memory import NeuralMemory
from titans_trm.profiling.allocations import AllocationTracker

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Case:
    """Shape of one comparison."""

    dim: int
    chunk: int
    heads: int = 1
    depth: int = 2
    expansion: int = 4


def main() -> None:
    """Measure, print a table, write `results.json` beside it."""
    arguments = _arguments()
    torch.set_num_threads(1)
    if arguments.table:
        rows = chunk_table(arguments)
    else:
        cases = [Case(dim, chunk) for dim in arguments.dims for chunk in arguments.chunks]
        rows = [row for case in cases for row in compare(case, arguments)]
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = "chunks" if arguments.table else "compiled" if arguments.compiled else "eager"
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def compare(case: Case, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all memories of one case in turn."""
    layers: dict[str, nn.Module] = {
        "ours": _ours(case, "chunk"),
        "ours, segment": _ours(case, "segment"),
        "titans-pytorch, paper": _public(case, case.chunk),
        "titans-pytorch, default": _public(case, None),
    }
    x = torch.randn(1, arguments.tokens, case.dim)
    peaks = {} if arguments.compiled else {name: _peak(layer, x) for name, layer in layers.items()}
    if arguments.compiled:
        for name, layer in layers.items():
            layer.compile(fullgraph=name.startswith("ours"))  # theirs breaks the graph
    times = _alternate({name: _step(layer, x) for name, layer in layers.items()}, arguments.repeats)
    speed = _product_speed(case)
    rows = []
    for name, seconds in times.items():
        median = statistics.median(seconds)
        row = {**dataclasses.asdict(case), "tokens": arguments.tokens, "memory": name, "seconds": seconds}
        row |= {"peak_bytes": peaks.get(name), "median_over_ours": median / statistics.median(times["ours"])}
        text = f"{case.dim}/{case.depth}/{case.chunk}/x{case.expansion}  {name:24} {_spread(seconds)}"
        text += f"  {row['median_over_ours']:5.2f} x ours"
        if name in peaks:
            text += f"  peak {peaks[name] / MIB:7.1f} MiB"
        if name.startswith("ours"):
            row["product_share"] = _useful(case, arguments.tokens) / median / speed
            text += f"  {row['product_share']:.0%} of {speed / 1e9:.0f} GFLOP/s"
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        rows.append(row)
    return rows


def chunk_table(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Time our memory by chunk size, and say which is fastest: C is part of a trained model, so choose it before."""
    rows = []
    for dim in arguments.dims:
        x = torch.randn(1, arguments.tokens, dim)
        layers = {chunk: _ours(Case(dim, chunk, arguments.heads), "chunk") for chunk in arguments.chunks}
        times = _alternate({str(c): _step(layer, x) for c, layer in layers.items()}, arguments.repeats)
        fastest = min(times, key=lambda name: statistics.median(times[name]))
        for chunk, layer in layers.items():
            seconds, peak = times[str(chunk)], _peak(layer, x)
            rate = arguments.tokens / statistics.median(seconds)
            mark = "  <- fastest" if str(chunk) == fastest else ""
            sys.stdout.write(
                f"{dim} wide, {arguments.heads} heads, chunk {chunk:4}  {_spread(seconds)}  {rate:7.0f} tokens/s"
                f"  peak {peak / MIB:7.1f} MiB{mark}\n"
            )
            rows.append({"dim": dim, "heads": arguments.heads, "chunk": chunk, "seconds": seconds, "peak_bytes": peak})
    return rows


def _ours(case: Case, recompute: Any) -> NeuralMemory:
    config = MemoryConfig(
        num_heads=case.heads, depth=case.depth, expansion=case.expansion, chunk_size=case.chunk, recompute=recompute
    )
    return NeuralMemory(case.dim, config, causal=True)


def _public(case: Case, batch_size: int | None) -> nn.Module:
    try:
        from titans_pytorch import MemoryMLP
        from titans_pytorch import NeuralMemory as PublicMemory
    except ImportError:
        raise SystemExit("titans-pytorch is missing; install the extra: pip install 'titans-trm[bench]'.") from None
    width = case.dim // case.heads
    net = MemoryMLP(width, depth=case.depth, expansion_factor=float(case.expansion))
    return PublicMemory(
        case.dim, chunk_size=case.chunk, batch_size=batch_size, dim_head=width, heads=case.heads, model=net
    )


def _step(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        layer.zero_grad()
        layer(x)[0].square().mean().backward()

    return step


def _alternate(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Return CPU-seconds per run, the first, which warms up or compiles, apart."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(repeats + 1):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if round_number:
                times[name].append(time.process_time() - started)
    return times


def _peak(layer: nn.Module, x: Tensor) -> int:
    tracker = AllocationTracker(lambda _: "new")
    tracker.claim([x, *layer.parameters()], "given")
    with tracker:
        _step(layer, x)()
    return tracker.peak_bytes


def _useful(case: Case, tokens: int) -> float:
    """Return the FLOPs of products forward and backward, without recomputing: see docs/benchmarks.md."""
    width = case.dim // case.heads
    hidden = case.expansion * width
    weights = 11 * width * hidden  # three products of keys, four of queries, four of writes
    scores = 2 * case.chunk * (width + hidden)
    return 3 * 2.0 * tokens * case.heads * (weights + scores)


def _product_speed(case: Case, repeats: int = 30) -> float:
    """Return FLOPs per CPU-second of the batched product that a chunk of queries takes with the first matrix."""
    width = case.dim // case.heads
    a = torch.randn(case.heads, case.chunk, width)
    b = torch.randn(case.heads, width, case.expansion * width)
    seconds = _alternate({"": lambda: [torch.bmm(a, b) for _ in range(20)] and None}, repeats)[""]
    return 20 * 2.0 * a.numel() * b.shape[-1] / statistics.median(seconds)


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):6.3f} [{min(seconds):.3f}, {max(seconds):.3f}] CPU-s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--chunks", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--heads", type=int, default=1, help="of the table")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--folder", default="benchmarks/results/neural_memory")
    return parser.parse_args()


if __name__ == "__main__":
    main()
