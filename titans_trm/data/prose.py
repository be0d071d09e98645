"""Plain prose from a small grammar: the same everywhere, without digits, no licence but our own."""

import numpy as np

from titans_trm.data.synthetic import Draws


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    "amber brave calm clever dusty early faint gentle golden grey hollow humble jolly keen late mellow narrow olive "
    "pale proud quiet rapid rusty silent silver slender steady tall velvet violet warm wise"
)
NOUNS = _words(
    "anchor badger basket bridge candle canyon castle cedar falcon forest garden harbor island kettle ladder lantern "
    "meadow mirror otter parrot pebble pillow raven river saddle shadow sparrow tunnel valley violin wagon willow"
)
_VERBS = _words(
    "waits rests turns shines moves sleeps stands grows listens drifts settles returns wanders trembles leans fades"
)
_MANNERS = _words("slowly again alone often gladly softly today still")
_PLACES = tuple(
    f"{where} the {what}"
    for where in ("near", "behind", "under", "above")
    for what in ("old mill", "wet field", "long wall", "open gate", "low hill", "far shore", "small inn", "dark wood")
)
NOISE = "Rain falls on the roof and the clock ticks on. Nothing is new today. "  # the haystack of the pass-key variant


def sentences(draws: Draws, rows: int, count: int) -> list[list[str]]:
    """Return `count` random sentences, each ending in a space, for each of `rows` texts."""
    lists = (ADJECTIVES, NOUNS, _VERBS, _MANNERS, _PLACES)
    columns = [draws.integers(len(words), rows, count) for words in lists]
    chosen = np.stack(columns, axis=-1).tolist()
    return [
        [f"The {ADJECTIVES[a]} {NOUNS[n]} {_VERBS[v]} {_MANNERS[m]} {_PLACES[p]}. " for a, n, v, m, p in text]
        for text in chosen
    ]
