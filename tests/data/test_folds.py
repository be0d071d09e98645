from collections import Counter

import numpy as np
import pytest

from titans_trm.data.folds import split_by_time, split_fold, split_stratified
from titans_trm.errors import InputError

KEYS = [f"g{row // 3}" for row in range(300)]  # groups of three


def groups(rows, keys=KEYS) -> set[str]:
    return {keys[row] for row in rows.tolist()}


def test_each_group_is_validated_in_exactly_one_fold_and_folds_are_even():
    folds = [split_fold(KEYS, fold, 7, "salt") for fold in range(7)]
    for fold in folds:
        assert sorted(fold["train"].tolist() + fold["val"].tolist()) == list(range(300))
        assert not groups(fold["train"]) & groups(fold["val"])
    assert Counter(key for fold in folds for key in groups(fold["val"])) == dict.fromkeys(KEYS, 1)
    sizes = [len(fold["val"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 3
    assert split_fold(KEYS, 0, 7, "other")["val"].tolist() != folds[0]["val"].tolist()


def test_more_folds_than_groups_are_refused():
    with pytest.raises(InputError, match="data.num_folds=4 is more than the 3 groups"):
        split_fold(["a", "b", "c"], 0, 4, "salt")


def test_a_temporal_split_never_trains_on_what_comes_after_validation():
    times = np.random.default_rng(0).permutation(300)
    keys = [f"k{row}" for row in range(300)]
    rows = split_by_time(times, keys, {"val": 0.1, "test": 0.1})
    latest = [times[rows[name]].max() for name in ("train", "val", "test")]
    earliest = [times[rows[name]].min() for name in ("train", "val", "test")]
    assert latest[0] < earliest[1] and latest[1] < earliest[2]
    assert [len(rows[name]) for name in ("train", "val", "test")] == [240, 30, 30]


def test_a_group_that_reaches_past_a_temporal_border_is_not_cut_and_counts_as_late():
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "a"]
    rows = split_by_time(times, keys, {"val": 0.2, "test": 0.2})
    assert not groups(rows["train"], keys) & (groups(rows["val"], keys) | groups(rows["test"], keys))
    assert {0, 9} <= set(rows["test"].tolist())


def test_examples_of_one_moment_stay_together():
    with pytest.raises(InputError, match="leaves val empty"):
        split_by_time([1.0] * 10, [f"k{row}" for row in range(10)], {"val": 0.5})


def test_every_stratum_is_cut_in_the_same_shares_with_groups_whole():
    strata = ["common"] * 240 + ["rare"] * 60
    rows = split_stratified(strata, KEYS, {"val": 0.1, "test": 0.2}, "salt")
    for name, share in {"val": 0.1, "test": 0.2}.items():
        counts = Counter(strata[row] for row in rows[name].tolist())
        assert counts["common"] == pytest.approx(240 * share, abs=3)
        assert counts["rare"] == pytest.approx(60 * share, abs=3)
    assert not groups(rows["train"]) & groups(rows["val"]) and not groups(rows["val"]) & groups(rows["test"])
    assert sorted(sum((chosen.tolist() for chosen in rows.values()), [])) == list(range(300))


def test_a_group_across_strata_stays_whole_and_too_small_strata_stay_in_train():
    rows = split_stratified(["a", "a", "b"] * 100, KEYS, {"val": 0.1}, "salt")
    assert len(rows["val"]) == 30
    with pytest.raises(InputError, match="leaves val empty"):
        split_stratified(list("abcdef"), list("abcdef"), {"val": 0.1}, "salt")
