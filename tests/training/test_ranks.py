"""What ranks gather from each other, and how those started from outside find each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_cases import on_ranks

from titans_trm.losses.config import LossConfig
from titans_trm.losses.total import compute_loss
from titans_trm.training.processes import Start, agreed_start, is_first_process, join_ranks
from titans_trm.training.ranks import Ranks


def test_a_process_alone_gathers_itself() -> None:
    alone, value = Ranks(), torch.tensor([1.0, 2.0])
    assert alone.gather(value).tolist() == [[1.0, 2.0]]
    assert alone.gather_nested({"a": [value]}) == [{"a": [value]}]
    assert alone.objects("x") == ["x"] and alone.any(True, "cpu") and not alone.any(False, "cpu")


def logits(requires_grad: bool = True) -> torch.Tensor:
    drawn = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.requires_grad_(requires_grad)


# Two of six examples have no scored token, both on the second rank: a mean of two means would weigh them wrongly.
TARGETS = torch.tensor([[1, 2, 3, 4]] * 4 + [[-100] * 4] * 2)
CONFIG = LossConfig(diversity_guard=0.0, diversity_target_std=5.0)


def loss_of(whole: torch.Tensor, rows: slice, ranks: Ranks) -> torch.Tensor:
    halting = whole[rows].sum((1, 2))
    gather = ranks.gather_with_gradient if ranks.world_size > 1 else None
    return compute_loss(
        whole[rows], halting, TARGETS[rows], CONFIG, detached_halting_logits=halting, all_gather=gather
    ).total


def seen_by(rank: int) -> dict[str, Any]:
    first = is_first_process()
    assert join_ranks(2, "cpu")
    start = agreed_start(Start(Path(f"runs/{rank}"), None) if first else None)
    ranks, whole = Ranks(rank, 2), logits()
    loss = loss_of(whole, slice(3 * rank, 3 * rank + 3), ranks)
    loss.backward()
    assert whole.grad is not None
    return {
        "first": first,
        "run_dir": str(start.run_dir),
        "flags": ranks.gather(torch.tensor([rank == 1, True])).tolist(),
        "nested": [part["x"][0].tolist() for part in ranks.gather_nested({"x": [torch.tensor(rank)], "n": 1})],
        "any": [ranks.any(rank == 1, "cpu"), ranks.any(False, "cpu")],
        "loss": float(ranks.gather(loss).mean()),
        "gradient": ranks.gather(whole.grad).mean(0).tolist(),
    }


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_two_ranks_agree_on_the_folder_and_compute_the_loss_of_the_whole_batch(tmp_path: Path, launcher: str) -> None:
    one, two = on_ranks(2, seen_by, tmp_path, launcher)
    assert (one.pop("first"), two.pop("first")) == (True, False)
    assert one == two
    assert one["run_dir"] == "runs/0"
    assert (one["flags"], one["nested"], one["any"]) == ([[False, True], [True, True]], [0, 1], [True, False])
    whole = logits()
    expected = loss_of(whole, slice(0, 6), Ranks())
    expected.backward()
    assert one["loss"] == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(torch.tensor(one["gradient"], dtype=torch.float64), whole.grad, rtol=1e-6, atol=1e-9)
