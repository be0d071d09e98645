"""What benchmarks compute for themselves: parity of plain forms, alternation, shares; GPU scripts without a GPU."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from titans_trm.models.config import BackboneConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.models.titans_trm import TitansTRM

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{Path(name).stem}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("causal, window", [(False, None), (False, 4), (True, 4), (True, None)])
def test_every_plain_form_gives_the_shipped_answer(causal: bool, window: int | None) -> None:
    torch.manual_seed(0)
    config = TitansTRMConfig(
        vocab_size=7,
        seq_len=12,
        width=16,
        causal=causal,
        backbone=BackboneConfig(num_blocks=2, num_heads=2, mlp_hidden=24, window=window, num_persistent_tokens=2),
        memory=MemoryConfig(num_heads=2, expansion=2, chunk_size=4),
        recursion=RecursionConfig(num_latent_steps=1, num_recursions=1),
    )
    model, plain = TitansTRM(config).double(), load("plain")
    tokens = torch.randint(0, 7, (3, 12))
    carry = model.initial_carry(3)
    expected = model(tokens, carry).logits
    for options in ((False, False, False), (True, False, False), (True, True, False), (True, True, True)):
        form = plain.plain_model(model, **dict(zip(("fused", "sdpa", "tables"), options, strict=True)))
        torch.testing.assert_close(form(tokens, carry).logits, expected, rtol=1e-6, atol=1e-6)


def test_cases_alternate_and_a_table_shows_them() -> None:
    measure, order = load("measure"), []
    costs = measure.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3, warmup=1)
    assert order == ["a", "b", *("a", "b") * 3]
    assert len(costs["a"].cpu_seconds) == 3 and costs["a"].spread[0] <= costs["a"].cpu <= costs["a"].spread[1]
    assert measure.peak_bytes(lambda: torch.zeros(1000)) == 4000
    assert measure.table(("x", "y"), [("one", 2)]).splitlines() == ["| x | y |", "| --- | ---: |", "| one | 2 |"]


def test_the_cap_leaves_room_for_the_context_and_utilisation_is_a_share_of_the_peak() -> None:
    capped, throughput = load("gpu/capped"), load("gpu/throughput")
    assert capped.allowed_fraction(6 * 2**30, 80 * 2**30) == pytest.approx((6 * 1024 - 608) / (80 * 1024))
    assert capped.allowed_fraction(6 * 2**30, 4 * 2**30) == 1.0
    with pytest.raises(SystemExit, match="6GiB"):
        capped.allowed_fraction(2**20, 2**30)
    assert throughput.utilisation(10, 5.0, 200.0) == pytest.approx(0.25)
    assert throughput.gemm_rate("cpu", 64, repeats=1) > 0


@pytest.mark.integration
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_gpu_scripts_say_so_where_there_is_no_card() -> None:
    for arguments in (
        [sys.executable, "capped.py"],
        [sys.executable, "throughput.py"],
        ["bash", "sudoku_fast.sh", "no"],
    ):
        result = subprocess.run(arguments, cwd=BENCHMARKS / "gpu", capture_output=True, text=True, timeout=400)
        assert result.returncode == 2, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
