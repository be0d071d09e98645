"""A planted shift is flagged; on draws from one distribution the test flags no more often than it says."""

import numpy as np
import pytest
import torch
from robustness_cases import examples_of
from scipy.stats import binom, ks_2samp

from titans_trm.data.examples import ExampleSet
from titans_trm.evaluation.shift import detect_shift

ALPHA = 0.05
DRAWS = 50


@pytest.fixture(scope="module")
def pool() -> ExampleSet:
    return examples_of(clues=(7, 12), seed=5, count=6000)


def drawn(pool: ExampleSet, number: int) -> tuple[ExampleSet, ExampleSet]:
    """Two sets that share no group, drawn by group."""
    keys = np.unique(pool.keys)
    half = set(np.random.default_rng(number).permutation(keys)[: len(keys) // 2].tolist())
    first = [row for row, key in enumerate(pool.keys) if key in half]
    second = [row for row, key in enumerate(pool.keys) if key not in half]
    return pool.select(first), pool.select(second)


def test_same_distribution_is_flagged_no_more_often_than_the_nominal_rate(pool: ExampleSet) -> None:
    flags = sum(detect_shift(*drawn(pool, number), alpha=ALPHA).flagged for number in range(DRAWS))
    assert flags <= binom.ppf(0.99, DRAWS, ALPHA)


@pytest.mark.parametrize("clues", [(5, 8), (11, 14)])
def test_a_planted_shift_of_difficulty_is_flagged_and_named(pool: ExampleSet, clues: tuple[int, int]) -> None:
    other = examples_of(clues=clues, seed=6, count=300)
    found = detect_shift(pool, other, alpha=ALPHA)
    assert found.flagged
    assert found.features[0].feature in ("given", "input_token_1", "rating")
    assert found.features[0].p_holm < 1e-6


def test_a_shift_of_symbols_alone_is_flagged(pool: ExampleSet) -> None:
    """Every 1 is blanked out of the inputs: as many cells may be given, but one digit never is."""
    first, second = drawn(pool, 0)
    inputs = second.inputs.masked_fill(second.inputs == 2, 1)
    changed = ExampleSet(**{**second.__dict__, "inputs": inputs})
    found = detect_shift(first, changed, alpha=ALPHA)
    assert found.flagged and "input_token_2" in [one.feature for one in found.features[:3]]


def test_each_feature_is_compared_by_scipys_test_on_one_example_of_each_group(pool: ExampleSet) -> None:
    first, second = drawn(pool, 1)
    found = detect_shift(first, second)
    assert (found.train_groups, found.other_groups) == (len(set(first.keys)), len(set(second.keys)))
    rows = [sorted(keys.index(key) for key in set(keys)) for keys in (first.keys, second.keys)]
    given = [
        (s.inputs == s.targets).sum(1)[torch.tensor(r)].numpy() for s, r in zip((first, second), rows, strict=True)
    ]
    one = next(one for one in found.features if one.feature == "given")
    assert one.p == pytest.approx(ks_2samp(*given, method="asymp").pvalue)


def test_features_that_never_vary_are_no_evidence(pool: ExampleSet) -> None:
    first, second = drawn(pool, 2)
    names = {one.feature for one in detect_shift(first, second).features}
    assert not names & {"length", "scored"} and "given" in names


def test_small_sets_take_the_exact_distribution(pool: ExampleSet) -> None:
    first, second = drawn(pool, 3)
    found = detect_shift(first.select(range(30)), second.select(range(30)))
    assert not found.flagged and found.train_groups <= 30
