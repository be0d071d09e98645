"""Splits that keep every group on one side, and the guard that proves it."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from titans_trm.data.examples import ExampleSet
from titans_trm.errors import InputError

_SHOWN = 3  # shared groups named in one message


def split_by_group(
    keys: Sequence[str], fractions: Mapping[str, float], salt: str, *, may_be_empty: bool = False
) -> dict[str, Tensor]:
    """Return the rows of each named split and of `train`, which takes the rest; no group is in two.

    Groups are visited in the order of sha256(salt, key); each goes to the first split of `fractions` that it does not
    overfill, else to train. So a split never exceeds its share, and with small groups it misses it by less than one.
    """
    sizes = Counter(keys)
    room = {name: round(fraction * len(keys)) for name, fraction in fractions.items()}
    home: dict[str, str] = {}
    for key in sorted(sizes, key=lambda key: salted_hash(salt, key)):
        home[key] = next((name for name, left in room.items() if sizes[key] <= left), "train")
        if home[key] != "train":
            room[home[key]] -= sizes[key]
    rows: dict[str, list[int]] = {"train": [], **{name: [] for name in fractions}}
    for row, key in enumerate(keys):
        rows[home[key]].append(row)
    for name, chosen in rows.items():
        if not chosen and not may_be_empty:
            raise InputError(
                f"The split of {len(keys)} examples in {len(sizes)} groups leaves {name} empty: groups are never "
                "cut in two; give more examples or a larger share."
            )
    return {name: torch.tensor(chosen, dtype=torch.int64) for name, chosen in rows.items()}


class GroupAllocator:
    """Deal a stream of examples out to splits of fixed size, each group to one split.

    A new group goes to the split that is least full for its quota; later examples follow their group, and are surplus
    once its split is full.
    """

    def __init__(self, quotas: Mapping[str, int]) -> None:
        self.filled = dict.fromkeys(quotas, 0)
        self.surplus = 0
        self._quotas = dict(quotas)
        self._home: dict[str, str] = {}

    @property
    def complete(self) -> bool:
        """Whether every split has its quota."""
        return self.filled == self._quotas

    def assign(self, key: str) -> str | None:
        """Return the split of the next example of group `key`, or None when it is surplus."""
        if key not in self._home:
            self._home[key] = min(self._quotas, key=lambda name: self.filled[name] / self._quotas[name])
        name = self._home[key]
        if self.filled[name] == self._quotas[name]:
            self.surplus += 1
            return None
        self.filled[name] += 1
        return name


def subset(examples: ExampleSet, count: int, salt: str) -> ExampleSet:
    """Return the `count` examples of least sha256(salt, content), in their old order; subsets nest."""
    if count >= len(examples):
        return examples
    hashes = [salted_hash(salt, row.numpy().tobytes().hex()) for row in examples.inputs]
    chosen = sorted(sorted(range(len(examples)), key=hashes.__getitem__)[:count])
    return examples.select(chosen)


def shared_groups(first: ExampleSet, second: ExampleSet) -> set[str]:
    """Return the group keys that occur in both sets."""
    return set(first.keys) & set(second.keys)


def assert_disjoint(first: ExampleSet, second: ExampleSet) -> None:
    """Raise `InputError` with counts and examples when two sets share a group."""
    shared = shared_groups(first, second)
    if not shared:
        return
    counts = [sum(key in shared for key in examples.keys) for examples in (first, second)]
    places = [
        f"row {first.keys.index(key)} of {first.name} and row {second.keys.index(key)} of {second.name}"
        for key in sorted(shared, key=first.keys.index)[:_SHOWN]
    ]
    raise InputError(
        f"{first.name} and {second.name} share {len(shared)} groups, the same up to symmetry ({counts[0]} of "
        f"{len(first)} and {counts[1]} of {len(second)} examples), so scores would be too high. For example "
        f"{'; '.join(places)}. Set data.leakage=remove to drop them from {first.name}, or allow to go on."
    )


def salted_hash(salt: str, key: str) -> str:
    """Return the SHA-256 that orders groups: another salt gives another, unrelated order."""
    return hashlib.sha256(f"{salt}|{key}".encode()).hexdigest()
