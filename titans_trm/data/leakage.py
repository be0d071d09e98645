"""What two sets of examples share: groups up to symmetry, and for text the passages that no key of a row would show."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from titans_trm.data.examples import ExampleSet
from titans_trm.data.near_duplicates import WindowIndex
from titans_trm.data.spec import PAD

_SHOWN = 5  # examples of each kind in a report


@dataclass(frozen=True)
class Overlap:
    """What a report says about two sets; clean when nothing is shared."""

    first: str
    second: str
    sizes: tuple[int, int]  # examples
    groups: int  # keys that occur in both
    rows: tuple[int, int]  # examples of such a group in each set
    examples: list[dict[str, Any]] = field(default_factory=list)  # rows and sources of some of them
    window: int | None = None  # bytes of a passage that counts; None: not text
    covered: float = 0.0  # share of the second set's bytes that lie in a passage of the first
    passages: list[dict[str, Any]] = field(default_factory=list)  # the longest, with rows and text

    def is_clean(self, allowed_cover: float = 0.0) -> bool:
        """Tell whether no group is shared and at most `allowed_cover` of the bytes."""
        return self.groups == 0 and self.covered <= allowed_cover

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare(first: ExampleSet, second: ExampleSet, *, window: int | None = None, byte_offset: int = 0) -> Overlap:
    """Return what two sets share.

    Args:
        first: usually the training examples.
        second: usually what is scored.
        window: also look for passages of so many bytes; for text, whose tokens are bytes + `byte_offset`.
        byte_offset: token of byte 0.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(first.keys):
        places[key].append(row)
    hits = [(row, places[key]) for row, key in enumerate(second.keys) if key in places]
    shared = {second.keys[row] for row, _ in hits}
    shown: dict[str, dict[str, Any]] = {}
    for row, found in hits:
        if len(shown) < _SHOWN:
            where = {"first_row": found[0], "second_row": row}
            sources = {"first_source": first.sources[found[0]], "second_source": second.sources[row]}
            shown.setdefault(second.keys[row], where | sources)
    passages = {} if window is None else _passages(first, second, window, byte_offset)
    return Overlap(
        first=first.name,
        second=second.name,
        sizes=(len(first), len(second)),
        groups=len(shared),
        rows=(sum(len(places[key]) for key in shared), len(hits)),
        examples=list(shown.values()),
        **passages,
    )


def _passages(first: ExampleSet, second: ExampleSet, window: int, byte_offset: int) -> dict[str, Any]:
    """Compare all bytes of both sets, row after row, and name the longest passages."""
    texts = [examples.inputs.flatten() for examples in (first, second)]
    kept = [text[text != PAD] for text in texts]
    content = [(text - byte_offset).byte().numpy() for text in kept]
    found = WindowIndex(content[0], width=window).shared(content[1])
    length = first.inputs.shape[1], second.inputs.shape[1]
    return {
        "window": window,
        "covered": found.share,
        "passages": [
            {
                "first_row": there // length[0],
                "second_row": here // length[1],
                "bytes": size,
                "text": content[1][here : here + min(size, 60)].tobytes().decode("utf-8", "replace"),
            }
            for here, there, size in found.passages[:_SHOWN]
        ],
    }
