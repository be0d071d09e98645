import gc

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from titans_trm.profiling.allocations import AllocationTracker

KIB = 1024


def _kibibytes(count):
    return torch.zeros(count * KIB, dtype=torch.uint8)


def test_peak_is_the_largest_sum_alive_at_once_and_frees_count():
    with AllocationTracker(lambda tensor: "any") as tracker:
        first = _kibibytes(4)
        del first
        second = _kibibytes(3)
        third = _kibibytes(2)
    assert tracker.peak_bytes == 5 * KIB
    assert tracker.live == {"any": 5 * KIB}
    del second, third
    gc.collect()
    assert tracker.live == {"any": 0}


def test_views_and_in_place_operators_take_no_memory():
    with AllocationTracker(lambda tensor: "any") as tracker:
        base = _kibibytes(4)
        view = base[: 2 * KIB].view(2, -1)
        view.add_(1)
    assert tracker.peak_bytes == 4 * KIB


def test_operators_with_several_results_count_each():
    with AllocationTracker(lambda tensor: "any") as tracker:
        values, indices = torch.zeros(KIB, dtype=torch.uint8).sort()
    assert tracker.peak_bytes == KIB + values.nbytes + indices.nbytes


def test_kinds_are_those_at_the_peak_and_a_claim_moves_bytes():
    kind = "early"
    with AllocationTracker(lambda tensor: kind) as tracker:
        weight = _kibibytes(8)
        tracker.claim([weight], "weights")
        kind = "late"
        more = _kibibytes(2)
        del more
    assert tracker.peak == {"early": 0, "weights": 8 * KIB, "late": 2 * KIB}


def test_tensors_made_before_count_once_claimed():
    weight = _kibibytes(8)
    view = weight[:KIB]
    with AllocationTracker(lambda tensor: "any") as tracker:
        tracker.claim([weight, view], "weights")
    assert tracker.peak == {"weights": 8 * KIB}


def test_fake_tensors_count_like_real_ones():
    def work():
        x = torch.ones(64, 64, requires_grad=True)
        (x @ x).relu().sum().backward()

    sizes = []
    for make in (torch.no_grad, FakeTensorMode):
        with make(), torch.enable_grad(), AllocationTracker(lambda tensor: "any") as tracker:
            work()
        sizes.append(tracker.peak_bytes)
    assert sizes[0] == sizes[1] > 2 * 64 * 64 * 4
