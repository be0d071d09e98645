"""Other ways to cut: by time, with equal shares of every class, into folds. Groups stay whole in all of them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from titans_trm.data.splits import salted_hash, split_by_group
from titans_trm.errors import InputError


def split_by_time(times: Sequence[float], keys: Sequence[str], fractions: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the rows of `train` and of each named split, earliest first: train < val < test in time.

    A group counts as late as its last example, so training never holds a part of a group that is scored later; groups
    of one time are never cut apart. Rows keep their order.
    """
    last: dict[str, float] = {}
    for key, time in zip(keys, times, strict=True):
        last[key] = max(time, last.get(key, time))
    moments = Counter(last[key] for key in keys)
    names = ["train", *fractions]
    room = [(1.0 - sum(fractions.values())) * len(keys), *(share * len(keys) for share in fractions.values())]
    home: dict[float, str] = {}
    place, filled, limit = 0, 0, room[0]
    for moment in sorted(moments):
        # A moment goes to the split in which its middle lies.
        while place < len(names) - 1 and filled + moments[moment] / 2 > limit:
            place += 1
            limit += room[place]
        home[moment] = names[place]
        filled += moments[moment]
    return _rows([home[last[key]] for key in keys], names, len(last))


def split_stratified(
    strata: Sequence[str], keys: Sequence[str], fractions: Mapping[str, float], salt: str
) -> dict[str, Tensor]:
    """Return the rows of each named split and of `train`, every stratum cut in the same shares, groups kept whole.

    A group that spans strata belongs to the one most of its examples are of. A stratum too small to give a split one
    example gives it none.
    """
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for key, stratum in zip(keys, strata, strict=True):
        votes[key][stratum] += 1
    of_group = {key: min(found, key=lambda name: (-found[name], name)) for key, found in votes.items()}
    homes = [""] * len(keys)
    for stratum in sorted(set(of_group.values())):
        members = [row for row, key in enumerate(keys) if of_group[key] == stratum]
        parts = split_by_group([keys[row] for row in members], fractions, f"{salt}-{stratum}", may_be_empty=True)
        for name, rows in parts.items():
            for row in rows.tolist():
                homes[members[row]] = name
    return _rows(homes, ["train", *fractions], len(of_group))


def split_fold(keys: Sequence[str], fold: int, num_folds: int, salt: str) -> dict[str, Tensor]:
    """Return the rows of `train` and `val` for fold `fold` of `num_folds`: each group is in `val` of exactly one fold.

    Groups are visited in the order of sha256(salt, key), larger ones first, and go to the emptiest fold, so folds
    differ in size by at most the largest group.
    """
    sizes = Counter(keys)
    if num_folds > len(sizes):
        raise InputError(
            f"data.num_folds={num_folds} is more than the {len(sizes)} groups there are; choose at most that many."
        )
    filled = [0] * num_folds
    home: dict[str, int] = {}
    for key in sorted(sizes, key=lambda key: (-sizes[key], salted_hash(salt, key))):
        home[key] = filled.index(min(filled))
        filled[home[key]] += sizes[key]
    return _rows(["val" if home[key] == fold else "train" for key in keys], ["train", "val"], len(sizes))


def _rows(homes: Sequence[str], names: Sequence[str], groups: int) -> dict[str, Tensor]:
    rows: dict[str, list[int]] = {name: [] for name in names}
    for row, name in enumerate(homes):
        rows[name].append(row)
    for name, chosen in rows.items():
        if not chosen:
            raise InputError(
                f"The split of {len(homes)} examples in {groups} groups leaves {name} empty: groups are never cut in "
                "two; give more examples or a larger share."
            )
    return {name: torch.tensor(chosen, dtype=torch.int64) for name, chosen in rows.items()}
