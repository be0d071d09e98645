"""Bits per byte along the window: does context help, and does a chunk boundary of the memory show?"""

from math import log
from typing import Any

import torch
from torch import Tensor

from titans_trm.evaluation.solving import Solved

BUCKETS = 8  # parts of a window that are reported
_NEAR = 2  # positions on each side that a chunk boundary is compared with


def position_report(solved: Solved, chunk_size: int | None) -> dict[str, Any]:
    """Return bits per byte in parts of the window, and those at the memory's chunk boundaries beside their neighbours.

    `buckets` have `from` and `to` (positions, `to` excluded), `bits_per_byte` and `scored`. `chunk_boundary` is None
    without a memory or where a window holds no boundary; else `bits_per_byte` of the first bytes of all chunks but one,
    `neighbours` of the two positions before and after each, and their `ratio`, which a sound memory keeps near 1.
    """
    nats, scored = solved.position_nats, solved.position_scored
    edges = torch.linspace(0, len(nats), min(BUCKETS, len(nats)) + 1).round().long().tolist()
    buckets = [
        {
            "from": start,
            "to": end,
            "bits_per_byte": _bits(nats[start:end], scored[start:end]),
            "scored": int(scored[start:end].sum()),
        }
        for start, end in zip(edges[:-1], edges[1:], strict=True)
    ]
    return {"buckets": buckets, "chunk_boundary": None if chunk_size is None else _boundary(nats, scored, chunk_size)}


def _boundary(nats: Tensor, scored: Tensor, chunk_size: int) -> dict[str, float] | None:
    first = torch.arange(chunk_size, len(nats), chunk_size)
    offsets = [offset for offset in range(-_NEAR, _NEAR + 1) if offset]
    near = torch.cat([first + offset for offset in offsets])
    near = near[(near < len(nats)) & (near % chunk_size != 0)]
    if not scored[first].sum() or not scored[near].sum():
        return None
    at, beside = _bits(nats[first], scored[first]), _bits(nats[near], scored[near])
    return {"bits_per_byte": at, "neighbours": beside, "ratio": at / beside if beside else float("nan")}


def _bits(nats: Tensor, scored: Tensor) -> float:
    """Return bits per scored byte; not a number where there is none."""
    return float(nats.sum() / scored.sum() / log(2.0)) if scored.sum() else float("nan")
