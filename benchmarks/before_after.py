"""What each optimisation brings: cost, memory and distance from the plain model, all measured in one run.

    python train.py experiment=quickstart                   # leaves the trained model that halting needs
    python benchmarks/before_after.py --run latest          # table on the screen, before_after.{json,md,png} in --out
    python benchmarks/before_after.py --experiment trm_7m_sudoku --batch 8 --no-compile       # another size, untrained

1. A training step (forward, loss, backward) of the model, from a plain eager fp32 form to the shipped one, then in
   bf16 and compiled. Parity is the largest difference of logits from the plain form, over their largest size; fp32
   forms must stay within 1e-4, and the compiled network must have no graph break.
2. One layer of windowed attention on a long sequence: a dense mask against blocks.
3. A trained model solving its validation puzzles: all supervision steps against adaptive halting, which takes finished
   examples out of the batch. The halting threshold is chosen on one half of the puzzles and judged on the other.

CPU-seconds are medians of alternating repetitions; exit status 1 if a parity bound is broken.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from measure import Cost, alternate, machine, peak_bytes, save, table
from plain import PlainAttention, plain_model
from torch import Tensor

from titans_trm.config import compose, load_config
from titans_trm.data.load import load_data
from titans_trm.losses.config import LossConfig
from titans_trm.losses.total import compute_loss
from titans_trm.models.attention import SlidingWindowAttention
from titans_trm.models.inference import solve
from titans_trm.models.rotary import rotary_tables
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.profiling.training_step import make_carry, make_examples
from titans_trm.training.checkpoint_io import load_model_weights
from titans_trm.training.run_folder import RunFolder

FP32_PARITY = 1e-4  # relative to the largest logit
THRESHOLDS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)  # halting logits
MOST_LOST = 0.005  # exact accuracy that adaptive halting may cost


def main() -> int:
    """Measure what was asked for, print and write it."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    parts = {}
    for name, measure in (("step", _steps), ("window", _window), *([("halting", _halting)] if arguments.run else [])):
        parts[name] = measure(arguments)
        sys.stdout.write(f"{parts[name]['title']}\n\n{parts[name]['table']}\n\n")
        sys.stdout.flush()
    tables = "\n\n".join(f"{part['title']}\n\n{part['table']}" for part in parts.values())
    out = Path(arguments.out)
    save(str(out / "before_after.json"), {"arguments": vars(arguments), **parts})
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    (out / "before_after.md").write_text(f"{tables}\n\n{facts}\n", encoding="utf-8")
    _draw(out / "before_after.png", parts["step"]["cases"])
    return 0 if all(part["ok"] for part in parts.values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="quickstart", help="whose model takes the training steps")
    parser.add_argument("--run", help="folder of a trained run, or latest; without it halting is left out")
    parser.add_argument("--batch", type=int, default=32, help="examples of a training step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled form out: a minute or two")
    parser.add_argument("--examples", type=int, default=1000, help="validation puzzles, half of them for the threshold")
    parser.add_argument("--out", default="benchmarks/results/before_after", help="folder of the results")
    return parser.parse_args()


def _steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a training step in every form."""
    from titans_trm.data.registry import make_task

    config = compose("train", [f"experiment={arguments.experiment}"])
    spec = make_task(config.data).spec
    size = {"causal": spec.causal, "num_puzzle_ids": spec.num_puzzle_ids, "grid_shape": spec.grid_shape}
    model = TitansTRM(config.model.build(vocab_size=spec.vocab_size, seq_len=spec.seq_len, **size))
    forms: dict[str, tuple[TitansTRM, Callable[[], AbstractContextManager[Any]]]] = {
        "plain eager fp32": (plain_model(model, fused=False, sdpa=False, tables=False), _fp32),
        "+ fused qkv and SwiGLU": (plain_model(model, fused=True, sdpa=False, tables=False), _fp32),
        "+ scaled_dot_product_attention": (plain_model(model, fused=True, sdpa=True, tables=False), _fp32),
        "+ one rotary table a net call (shipped)": (model, _fp32),
        "shipped, bf16, weights cast at each use": (model, lambda: torch.autocast("cpu", cache_enabled=False)),
        "shipped, bf16, weights cast once a step": (model, lambda: torch.autocast("cpu")),
    }
    if not arguments.no_compile:
        compiled = plain_model(model, fused=True, sdpa=True, tables=True)
        for block, shipped in zip(compiled.recursion.net.blocks, model.recursion.net.blocks, strict=True):
            block.attention = shipped.attention  # the shipped module: only the network around it is a copy
        compiled.recursion.net.compile(fullgraph=True)  # a graph break is an error
        forms["shipped, compiled, no graph break"] = (compiled, _fp32)
    logits = {name: _logits(*form, arguments.batch) for name, form in forms.items()}
    steps = {name: _training_step(*form, arguments.batch) for name, form in forms.items()}
    costs = alternate(steps, repeats=arguments.repeats)
    peaks = {name: peak_bytes(step) for name, step in steps.items() if "compiled" not in name}
    return _ladder(costs, peaks, logits, f"Training step, {arguments.experiment}, batch {arguments.batch}")


def _ladder(costs: dict[str, Cost], peaks: dict[str, int], logits: dict[str, Tensor], title: str) -> dict[str, Any]:
    first = next(iter(costs))
    rows, cases, ok = [], {}, True
    for name, cost in costs.items():
        error = float((logits[name] - logits[first]).abs().max() / logits[first].abs().max())
        same = float((logits[name].argmax(-1) == logits[first].argmax(-1)).float().mean())
        ok &= "bf16" in name or error <= FP32_PARITY
        low, high = cost.spread
        peak = f"{peaks[name] / 2**20:,.1f}" if name in peaks else "-"
        gain = costs[first].cpu / cost.cpu
        rows.append(
            (name, f"{cost.cpu:.3f} [{low:.3f}, {high:.3f}]", f"{gain:.2f}", peak, f"{error:.1e}", f"{same:.2%}")
        )
        cases[name] = {"parity_error": error, "same_answer": same, "peak_bytes": peaks.get(name), **cost.to_dict()}
    header = ("form", "CPU-s", "times faster", "peak MiB", "parity error", "same token")
    return {"title": title, "table": table(header, rows), "cases": cases, "ok": ok}


def _fp32() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", enabled=False)


@torch.no_grad()
def _logits(model: TitansTRM, context: Callable[[], AbstractContextManager[Any]], batch: int) -> Tensor:
    examples = make_examples(model.config, batch)
    with context():
        return model(examples.inputs, make_carry(model, batch), examples.puzzle_ids).logits.float()


def _training_step(
    model: TitansTRM, context: Callable[[], AbstractContextManager[Any]], batch: int
) -> Callable[[], None]:
    examples, carry = make_examples(model.config, batch), make_carry(model, batch)

    def step() -> None:
        with context():
            output = model(examples.inputs, carry, examples.puzzle_ids)
            loss = compute_loss(output.logits, output.halting_logits, examples.targets, LossConfig(diversity="off"))
        loss.total.backward()
        model.zero_grad(set_to_none=True)

    return step


def _window(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare one attention layer, forward and backward, with a dense mask and in blocks."""
    length, window, width, heads = 2048, 64, 256, 4
    blocks = SlidingWindowAttention(width, heads, causal=True, window=window)
    torch.nn.init.normal_(blocks.qkv.weight, std=width**-0.5)
    forms = {
        "scores and softmax, dense mask": PlainAttention(blocks, 1e4, fused=True, sdpa=False, tables=True),
        "scaled_dot_product_attention, dense mask": PlainAttention(blocks, 1e4, fused=True, sdpa=True, tables=True),
        "blocks of w (shipped)": blocks,
    }
    x = torch.randn(1, length, width, requires_grad=True)
    rotary = rotary_tables(torch.arange(length), width // heads, 1e4)
    with torch.no_grad():
        outputs = {name: form(x, None, rotary) for name, form in forms.items()}

    def work(form: torch.nn.Module) -> Callable[[], None]:
        return lambda: form(x, None, rotary).square().mean().backward()

    steps = {name: work(form) for name, form in forms.items()}
    costs = alternate(steps, repeats=arguments.repeats)
    peaks = {name: peak_bytes(step) for name, step in steps.items()}
    return _ladder(costs, peaks, outputs, f"Causal attention, N={length}, window {window}, D={width}")


def _halting(arguments: argparse.Namespace) -> dict[str, Any]:
    """Solve with all steps and adaptively; accuracy, net calls, CPU-seconds and wall time on puzzles not chosen on."""
    folder = RunFolder.latest("runs").path if arguments.run == "latest" else Path(arguments.run)
    config = load_config(folder)
    data = load_data(config.data)
    size = {
        "causal": data.spec.causal,
        "num_puzzle_ids": data.spec.num_puzzle_ids,
        "grid_shape": data.spec.grid_shape,
    }
    model = TitansTRM(config.model.build(vocab_size=data.spec.vocab_size, seq_len=data.spec.seq_len, **size))
    load_model_weights(model, folder / "checkpoints" / "best.ckpt")
    inputs = data.val.inputs[: arguments.examples].long()
    targets = data.val.targets[: arguments.examples].long()
    half = len(inputs) // 2
    threshold = _choose(model, inputs[:half], targets[:half])
    inputs, targets = inputs[half:], targets[half:]
    found: dict[str, Any] = {}

    def run(name: str, **how: Any) -> Callable[[], None]:
        def work() -> None:
            found[name] = solve(model, inputs, **how)

        return work

    ways = {
        "all supervision steps": run("all supervision steps"),
        "adaptive, logit above 0": run("adaptive, logit above 0", adaptive=True),
        "adaptive, chosen threshold": run("adaptive, chosen threshold", adaptive=True, halt_above=threshold),
    }
    costs = alternate(ways, repeats=min(arguments.repeats, 3))
    rows, cases = [], {}
    full = found["all supervision steps"]
    for name, cost in costs.items():
        exact = _exact(found[name].answers, targets, data.spec.ignore_index).float().mean().item()
        calls = full.net_calls / found[name].net_calls
        faster, quicker = (
            getattr(costs["all supervision steps"], unit) / getattr(cost, unit) for unit in ("cpu", "wall")
        )
        steps = found[name].steps.float().mean().item()
        rows.append(
            (name, f"{exact:.1%}", f"{steps:.2f}", f"{calls:.2f}", f"{cost.cpu:.3f}", f"{faster:.2f}", f"{quicker:.2f}")
        )
        cases[name] = {"exact_accuracy": exact, "mean_steps": steps, "fewer_net_calls": calls, **cost.to_dict()}
    header = ("way", "exact", "mean steps", "times fewer net calls", "CPU-s", "times less CPU", "times less wall")
    title = (
        f"Halting, {config.experiment}, {len(inputs)} validation puzzles, threshold {threshold:g} from {half} others"
    )
    lost = cases["all supervision steps"]["exact_accuracy"] - cases["adaptive, chosen threshold"]["exact_accuracy"]
    ok = lost <= MOST_LOST and cases["adaptive, chosen threshold"]["fewer_net_calls"] >= 2
    return {"title": title, "table": table(header, rows), "cases": cases, "threshold": threshold, "ok": ok}


def _choose(model: TitansTRM, inputs: Tensor, targets: Tensor) -> float:
    """Return the lowest threshold that loses at most half of what is allowed, read off one full run."""
    solution = solve(model, inputs, keep_steps=True)
    assert solution.step_answers is not None
    right = (solution.step_answers == targets[:, None]).all(-1)
    last = right.shape[1] - 1
    for threshold in THRESHOLDS:
        stops = solution.halting_logits > threshold
        first = torch.where(stops.any(1), stops.float().argmax(1), last)
        exact = right.gather(1, first[:, None]).float().mean()
        if right[:, last].float().mean() - exact <= MOST_LOST / 2:
            return threshold
    return THRESHOLDS[-1]


def _exact(answers: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    return ((answers == targets) | (targets == ignore_index)).all(-1)


def _draw(path: Path, cases: dict[str, dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.5 * len(cases) + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(reversed(cases))
    columns = {
        "CPU-seconds a step": "cpu_median",
        "peak memory of a step, MiB": "peak_bytes",
        "parity error": "parity_error",
    }
    for axis, (label, key) in zip(figure.subplots(1, 3, sharey=True), columns.items(), strict=True):
        scale = 2**20 if key == "peak_bytes" else 1
        axis.barh(names, [(cases[name][key] or 0) / scale for name in names], color="#1f77b4")
        axis.set_xlabel(label)
        if key == "parity_error":
            axis.set_xscale("symlog", linthresh=1e-8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
