"""One supervision step of `trm_7m` beside public Tiny Recursive Models: the same loops, dtype, batch and optimiser.

    python benchmarks/trm_step.py                      # against the packages of `pip install 'titans-trm[bench]'`
    TRM_REFERENCE=path/to/TinyRecursiveModels python benchmarks/trm_step.py    # and the paper's own code
    NANO_TRM=path/to/nano-trm python benchmarks/trm_step.py    # and nano-trm
    python benchmarks/trm_step.py --dtype bf16 --compile

A step is forward, loss, backward and AdamW on a batch of 81 tokens out of 11 (Sudoku), T=3 and n=6: 21 net calls, 7 of
them with gradient. Cases alternate in one process on one thread; CPU-seconds, median of `--repeats`. FLOPs are those of
`torch.utils.flop_counter`, memory is the peak of what a first step allocates: activations, gradients, optimiser state.
The bar is 0.80 of the paper's code in CPU-seconds per example.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import alternate, peak_bytes, save, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from titans_trm.config import compose
from titans_trm.losses.total import compute_loss
from titans_trm.models.titans_trm import TitansTRM
from titans_trm.optim.build import build_optimizer
from titans_trm.optim.config import OptimizerConfig
from titans_trm.profiling.training_step import autocast

VOCAB, LENGTH = 11, 81
BAR = 0.80  # of the CPU-seconds per example of the paper's code


def main() -> int:
    """Measure every case there is and print the table; status 1 if the bar is missed."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    inputs, targets = _examples(arguments.batch)
    steps, sizes = {}, {}
    for name, build in _cases().items():
        torch.manual_seed(0)
        model, step = build(arguments, inputs, targets)
        steps[name] = _training_step(step, _optimizer(name, model))
        sizes[name] = sum(p.numel() for p in model.parameters())
    flops, peaks = {}, {}
    if not arguments.compile:  # the step that is counted warms up as well
        for name, step in steps.items():
            flops[name], peaks[name] = _counted(step)
    costs = alternate(steps, repeats=arguments.repeats, warmup=1 if arguments.compile else 0)
    rows, found = [], {}
    for name, cost in costs.items():
        per_example = cost.cpu / arguments.batch
        low, high = (value / arguments.batch for value in cost.spread)
        ratio = costs["titans_trm"].cpu / cost.cpu
        gflop = flops.get(name, 0) / arguments.batch / 1e9
        rows.append(
            (
                name,
                f"{sizes[name]:,}",
                f"{per_example:.3f} [{low:.3f}, {high:.3f}]",
                f"{ratio:.2f}",
                f"{gflop:.1f}" if gflop else "-",
                f"{gflop / per_example:.0f}" if gflop else "-",
                f"{peaks[name] / 2**20:,.0f}" if name in peaks else "-",
            )
        )
        found[name] = {
            "parameters": sizes[name],
            "cpu_seconds_per_example": per_example,
            "titans_trm_over_this": ratio,
            "gflop_per_example": gflop or None,
            "peak_bytes": peaks.get(name),
            **cost.to_dict(),
        }
    header = (
        "model",
        "parameters",
        "CPU-s per example",
        "ours / this",
        "GFLOP per example",
        "GFLOP per CPU-s",
        "peak MiB",
    )
    sys.stdout.write(table(header, rows) + "\n")
    save(arguments.json, {"arguments": vars(arguments), "cases": found})
    paper = found.get("paper's code")
    return 1 if paper is not None and paper["titans_trm_over_this"] > BAR else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="examples of a step")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the products")
    parser.add_argument("--compile", action="store_true", help="compile every network")
    parser.add_argument("--json", help="also write the numbers into this file")
    return parser.parse_args()


Build = Callable[[argparse.Namespace, Tensor, Tensor], tuple[nn.Module, Callable[[], Tensor]]]


def _cases() -> dict[str, Build]:
    """Return what can be measured here: ours, and the references that are installed or checked out."""
    cases: dict[str, Build] = {"titans_trm": _ours}
    if "TRM_REFERENCE" in os.environ:
        cases["paper's code"] = _paper
    if "NANO_TRM" in os.environ:
        cases["nano-trm"] = _nano
    try:
        import tiny_recursive_model  # noqa: F401
        import x_transformers  # noqa: F401
    except ImportError:
        sys.stderr.write("tiny-recursive-model is not installed: pip install 'titans-trm[bench]'\n")
    else:
        cases["tiny-recursive-model"] = _lucidrains
    return cases


def _examples(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(1, VOCAB, (batch, LENGTH), generator=generator) for _ in range(2))  # type: ignore[return-value]


def _training_step(loss_of_step: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of_step().backward()
        optimizer.step()

    return step


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW as each project uses it: ours builds the fused one."""
    if name == "titans_trm":
        return build_optimizer(model, OptimizerConfig(name="adamw", lr=1e-4))
    return torch.optim.AdamW(model.parameters(), lr=1e-4)


def _counted(step: Callable[[], None]) -> tuple[int, int]:
    """Return floating-point operations and peak bytes of a step."""
    with FlopCounterMode(display=False) as counter:
        peak = peak_bytes(step)
    return counter.get_total_flops(), peak


def _ours(arguments: argparse.Namespace, inputs: Tensor, targets: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    config = compose("train", ["experiment=trm_7m_sudoku"])
    model = TitansTRM(config.model.build(vocab_size=VOCAB, seq_len=LENGTH))
    if arguments.compile:
        model.recursion.net.compile()
    state = {"carry": model.initial_carry(arguments.batch)}
    precision: Any = "bf16-mixed" if arguments.dtype == "bf16" else "32-true"

    def step() -> Tensor:
        with autocast("cpu", precision):
            output = model(inputs, state["carry"])
            state["carry"] = output.carry
            return compute_loss(output.logits, output.halting_logits, targets, config.loss).total

    return model, step


def _paper(arguments: argparse.Namespace, inputs: Tensor, targets: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Build what `pretrain.py` of the paper's repository builds, from a checkout of your own."""
    checkout = Path(os.environ["TRM_REFERENCE"]).expanduser()
    if not (checkout / "models" / "recursive_reasoning" / "trm.py").is_file():
        raise SystemExit(f"TRM_REFERENCE={checkout} holds no models/recursive_reasoning/trm.py; name a checkout.")
    sys.path.insert(0, str(checkout))
    from models.losses import ACTLossHead
    from models.recursive_reasoning.trm import TinyRecursiveReasoningModel_ACTV1 as PaperModel

    settings = {
        "batch_size": arguments.batch,
        "seq_len": LENGTH,
        "vocab_size": VOCAB,
        "hidden_size": 512,
        "expansion": 4,
        "num_heads": 8,
        "mlp_t": False,
        "H_cycles": 3,
        "L_cycles": 6,
        "H_layers": 0,
        "L_layers": 2,
        "pos_encodings": "rope",
        "forward_dtype": "bfloat16" if arguments.dtype == "bf16" else "float32",
        "num_puzzle_identifiers": 1,
        "puzzle_emb_ndim": 512,
        "puzzle_emb_len": 16,
        "halt_max_steps": 16,
        "halt_exploration_prob": 0.1,
        "no_ACT_continue": True,
    }
    inner = PaperModel(settings)
    if arguments.compile:
        inner.inner.L_level.compile()
    model = ACTLossHead(inner, loss_type="stablemax_cross_entropy").train()
    batch = {
        "inputs": inputs.int(),
        "labels": targets.int(),
        "puzzle_identifiers": torch.zeros(arguments.batch, dtype=torch.int32),
    }
    state = {"carry": model.initial_carry(batch)}

    def step() -> Tensor:
        state["carry"], loss, *_ = model(return_keys=[], carry=state["carry"], batch=batch)
        return loss / arguments.batch

    return model, step


def _nano(arguments: argparse.Namespace, inputs: Tensor, targets: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Build the module of a checkout of nano-trm (its package asks for Python 3.12.1 exactly), with its loss."""
    checkout = Path(os.environ["NANO_TRM"]).expanduser()
    if not (checkout / "src" / "nn" / "models" / "trm.py").is_file():
        raise SystemExit(f"NANO_TRM={checkout} holds no src/nn/models/trm.py; name a checkout.")
    sys.path.insert(0, str(checkout))
    from src.nn.models.trm import TRMModule  # needs scikit-learn and einops besides

    model = TRMModule(
        hidden_size=512,
        num_layers=2,
        num_heads=8,
        H_cycles=3,
        L_cycles=6,
        ffn_expansion=4,
        puzzle_emb_dim=0,
        puzzle_emb_len=0,
        vocab_size=VOCAB,
        batch_size=arguments.batch,
        seq_len=LENGTH,
        forward_dtype=torch.bfloat16 if arguments.dtype == "bf16" else torch.float32,
    ).train()
    if arguments.compile:
        model.lenet.compile()
    batch = {
        "input": inputs.int(),
        "output": targets.int(),
        "puzzle_identifiers": torch.zeros(arguments.batch, dtype=torch.int32),
    }
    state = {"carry": model.initial_carry(batch)}

    def step() -> Tensor:
        state["carry"], loss, *_ = model.compute_loss_and_metrics(state["carry"], batch)
        return loss / arguments.batch

    return model, step


def _lucidrains(
    arguments: argparse.Namespace, inputs: Tensor, targets: Tensor
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Build its recursive model around two layers of x-transformers of the same width, heads and SwiGLU."""
    from tiny_recursive_model import TinyRecursiveModel
    from x_transformers import Encoder

    network = Encoder(
        dim=512,
        depth=2,
        heads=8,
        attn_dim_head=64,
        attn_flash=True,
        rotary_pos_emb=True,
        use_rmsnorm=True,
        ff_swish=True,
        ff_glu=True,
        ff_mult=3,
        ff_no_bias=True,
    )
    if arguments.compile:
        network.compile()
    model = TinyRecursiveModel(dim=512, num_tokens=VOCAB, network=network, num_register_tokens=1)
    state: dict[str, Any] = {"carry": model.get_initial()}

    def step() -> Tensor:
        with autocast("cpu", "bf16-mixed" if arguments.dtype == "bf16" else "32-true"):
            loss, _, outputs, latents, _, _ = model(inputs, *state["carry"], labels=targets)
        state["carry"] = outputs, latents
        return loss / arguments.batch

    return model, step


if __name__ == "__main__":
    raise SystemExit(main())
