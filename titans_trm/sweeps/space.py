"""What a sweep varies: the words of the command line as fixed overrides and axes."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override

from titans_trm.errors import InputError
from titans_trm.overrides import parse

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

REPLICATES = ("seed", "data.fold")  # repeat a configuration: averaged over, never searched
_OF_THE_SWEEP = ("sweep", "hydra", "resume")


@dataclass(frozen=True)
class Axis:
    """One key and its values: a list in the command line's words, or an interval."""

    key: str  # as typed, with its + if it has one
    values: tuple[str, ...] = ()
    low: float = 0.0  # ends of an interval, both included
    high: float = 0.0
    integer: bool = False
    log: bool = False  # equal ratios are equally likely

    @property
    def is_interval(self) -> bool:
        """Whether the values are all between `low` and `high`."""
        return not self.values


@dataclass(frozen=True)
class Space:
    """All overrides of a sweep in the order they were typed: fixed ones (texts) and axes."""

    parts: tuple[str | Axis, ...]

    @property
    def axes(self) -> list[Axis]:
        """What varies."""
        return [part for part in self.parts if isinstance(part, Axis)]

    def jobs(self) -> Iterator[tuple[str, ...]]:
        """Yield the overrides of every combination, the last axis fastest.

        Raises:
            InputError: an axis is an interval.
        """
        for axis in self.axes:
            if axis.is_interval:
                raise InputError(
                    f"{axis.key}=interval({axis.low:g},{axis.high:g}) has no end of values; add sweep=optuna, "
                    f"or list some: {axis.key}={axis.low:g},{axis.high:g}."
                )
        choices = [
            [part] if isinstance(part, str) else [f"{part.key}={value}" for value in part.values] for part in self.parts
        ]
        yield from itertools.product(*choices)

    def at(self, chosen: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the overrides with `chosen` values on the axes."""
        return tuple(part if isinstance(part, str) else f"{part.key}={chosen[part.key]}" for part in self.parts)

    def first(self) -> tuple[str, ...]:
        """Return the overrides with the first value of every axis."""
        return self.at({axis.key: axis.low if axis.is_interval else axis.values[0] for axis in self.axes})

    def words(self) -> list[str]:
        """Return fixed overrides and axes as sorted texts, to compare with those of another day."""
        return sorted(part if isinstance(part, str) else f"{part.key} in {_described(part)}" for part in self.parts)


def read_space(overrides: Sequence[str], defaults: Mapping[str, str] | None = None) -> Space:
    """Return the space of what was typed, keys of the sweep itself left out.

    Args:
        overrides: task overrides in Hydra's grammar.
        defaults: further axes, `key -> values`; what is typed replaces them.

    Raises:
        InputError: the sweep's own keys or `resume` vary.
    """
    parts: list[str | Axis] = []
    typed = parse(overrides)
    keys = {one.get_key_element() for one in typed}
    given = parse([f"{key}={values}" for key, values in (defaults or {}).items() if key not in keys])
    for override in (*typed, *given):
        own = override.key_or_group.partition(".")[0] in _OF_THE_SWEEP
        if own and override.is_sweep_override():
            raise InputError(f"{override.key_or_group} is of the sweep itself and cannot vary in it; give one value.")
        if not own:
            parts.append(_axis(override) if override.is_sweep_override() else override.input_line or "")
    return Space(tuple(parts))


def distributions(space: Space) -> "dict[str, BaseDistribution]":
    """Return Optuna's distribution of every axis.

    Raises:
        InputError: nothing varies, or a replicate does: a search would pick the luckiest seed.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    if not space.axes:
        raise InputError('sweep=optuna has nothing to search; give values such as "optimizer.lr=interval(1e-4,1e-2)".')
    for axis in space.axes:
        if axis.key in REPLICATES:
            raise InputError(
                f"{axis.key} cannot be searched: that would choose the luckiest run. Search with one value and train "
                f"the best again over {axis.key}=0,1,2."
            )
        if not axis.is_interval:
            found[axis.key] = CategoricalDistribution(axis.values)
        elif axis.integer:
            found[axis.key] = IntDistribution(int(axis.low), int(axis.high), log=axis.log)
        else:
            found[axis.key] = FloatDistribution(axis.low, axis.high, log=axis.log)
    return found


def quoted(value: str) -> str:
    """Return `value` so that Hydra reads it as this text."""
    if re.fullmatch(r"[\w./:-]+", value, re.ASCII):
        return value
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", "\\'")
    return f"'{escaped}'"


def split_override(word: str) -> tuple[str, str]:
    """Return key and value of an override's text."""
    key, _, value = word.partition("=")
    return key, value


def _axis(override: Override) -> Axis:
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return Axis(key, tuple(override.sweep_string_iterator()))
    interval = override.value()
    assert isinstance(interval, IntervalSweep)
    low, high, log = interval.start, interval.end, "log" in interval.tags
    if low is None or high is None or not (low < high and (low > 0 or not log)):
        rule = "above 0 and " if log else ""
        raise InputError(f"{override.input_line} is empty; give two {rule}rising ends.")
    return Axis(key, low=low, high=high, integer=isinstance(low, int) and isinstance(high, int), log=log)


def _described(axis: Axis) -> str:
    if not axis.is_interval:
        return ",".join(axis.values)
    kind = ("log " if axis.log else "") + ("int " if axis.integer else "")
    return f"{kind}interval({axis.low:g},{axis.high:g})"
