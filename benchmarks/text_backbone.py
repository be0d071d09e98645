"""A text backbone of 25 M parameters with a memory in every block, beside the public memory-as-context transformer.

    python benchmarks/text_backbone.py                 # ours and, of `pip install 'titans-trm[bench]'`, titans-pytorch
    python benchmarks/text_backbone.py --compiled        # and ours compiled, block by block: minutes until it runs

One net call of ours (embedding, causal MAG blocks with a window, head) and their forward pass, each with cross-entropy
on the next byte and its backward pass, on one sequence, in fp32, eager, one thread, in turn. Theirs holds a memory in
every second layer, as its authors train it, with as many heads as ours; torch.compile breaks its graph, so it stays
eager. The bar is 400 tokens per CPU-second of ours.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import alternate, peak_bytes, save, table
from torch import Tensor, nn
from torch.nn import functional as F

from titans_trm.models.config import BackboneConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM

VOCAB = 256
BAR = 400  # tokens per CPU-second


def main() -> int:
    """Measure and print; status 1 if the bar is missed."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    tokens = torch.randint(0, VOCAB, (1, arguments.tokens + 1))
    models = {"titans_trm, MAG": _ours(arguments)}
    if arguments.compiled:
        models["titans_trm, MAG, compiled"] = _compiled(arguments)
    theirs = _theirs(arguments)
    if theirs is not None:
        models["titans-pytorch, MAC"] = theirs
    steps = {name: _step(model, forward, tokens) for name, (model, forward) in models.items()}
    for step in steps.values():
        step()  # compiles
    peaks = {name: peak_bytes(step) for name, step in steps.items() if "compiled" not in name}  # no operators to see
    costs = alternate(steps, repeats=arguments.repeats, warmup=1)
    rows, found = [], {}
    for name, cost in costs.items():
        rate = arguments.tokens / cost.cpu
        size = sum(p.numel() for p in models[name][0].parameters())
        slow, fast = (arguments.tokens / seconds for seconds in reversed(cost.spread))
        rows.append(
            (
                name,
                f"{size:,}",
                f"{rate:.0f} [{slow:.0f}, {fast:.0f}]",
                f"{peaks[name] / 2**20:,.0f}" if name in peaks else "-",
            )
        )
        found[name] = {
            "parameters": size,
            "tokens_per_cpu_second": rate,
            "peak_bytes": peaks.get(name),
            **cost.to_dict(),
        }
    header = ("model", "parameters", "tokens per CPU-s, forward and backward", "peak MiB")
    sys.stdout.write(table(header, rows) + "\n")
    save(arguments.json, {"arguments": vars(arguments), "cases": found})
    return 0 if max(one["tokens_per_cpu_second"] for name, one in found.items() if "MAG" in name) >= BAR else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024, help="length of the sequence")
    parser.add_argument("--window", type=int, default=128, help="positions attended")
    parser.add_argument("--chunk", type=int, default=64, help="tokens whose gradients are taken together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action="store_true", help="also ours, compiled without a graph break")
    parser.add_argument("--json", help="also write the numbers into this file")
    return parser.parse_args()


Forward = Callable[[Tensor], Tensor]


def _ours(arguments: argparse.Namespace) -> tuple[nn.Module, Forward]:
    """Return the backbone of the 25 M size as a plain causal transformer: one net call."""
    config = TitansTRMConfig(
        vocab_size=VOCAB,
        seq_len=arguments.tokens,
        causal=True,
        width=512,
        backbone=BackboneConfig(
            num_blocks=6, num_heads=8, mlp_hidden=1024, window=arguments.window, num_persistent_tokens=4, norm="pre"
        ),
        memory=MemoryConfig(num_heads=8, expansion=4, chunk_size=arguments.chunk),
        recursion=RecursionConfig(num_latent_steps=1, num_recursions=1),
    )
    model = TitansTRM(config)

    def forward(tokens: Tensor) -> Tensor:
        out, _ = model.recursion.net(config.width**0.5 * model.embedding(tokens))
        return model.head(out)

    return model, forward


def _compiled(arguments: argparse.Namespace) -> tuple[nn.Module, Forward]:
    model, forward = _ours(arguments)
    for block in model.recursion.net.blocks:  # type: ignore[union-attr]
        block.compile(fullgraph=True)
    return model, forward


def _theirs(arguments: argparse.Namespace) -> tuple[nn.Module, Forward] | None:
    try:
        from titans_pytorch import MemoryAsContextTransformer, MemoryMLP
    except ImportError:
        sys.stderr.write("titans-pytorch is not installed: pip install 'titans-trm[bench]'\n")
        return None
    memory: dict[str, Any] = {"dim_head": 64, "heads": 6, "default_step_transform_max_lr": 1e-1}
    model = MemoryAsContextTransformer(
        num_tokens=VOCAB,
        dim=384,
        depth=8,
        heads=6,
        dim_head=64,
        segment_len=arguments.window,
        num_persist_mem_tokens=4,
        num_longterm_mem_tokens=4,
        neural_memory_layers=(2, 4, 6, 8),
        neural_memory_segment_len=arguments.chunk,
        neural_memory_model=MemoryMLP(dim=64, depth=2, expansion_factor=4.0),
        neural_memory_kwargs=memory,
        use_flex_attn=False,
    )
    return model, model


def _step(model: nn.Module, forward: Forward, tokens: Tensor) -> Callable[[], None]:
    def step() -> None:
        logits = forward(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        model.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    raise SystemExit(main())
