"""Measure how much of a training step waits for its examples, on the real stream."""

import time
from dataclasses import dataclass

from titans_trm.data.stream import ExampleStream

_EXAMPLES = 1024  # taken: a block of the stream, which is augmented at once


@dataclass(frozen=True)
class DataShare:
    """Waiting for data, as a share of a training step's wall time."""

    ms_per_example: float  # order, augmentation and packing of one example
    at_first: float  # every slot runs all N_sup supervision steps: a refill of B / N_sup slots a step
    at_most: float  # every slot halts at once: all B slots refilled in every step


def measure_data_share(stream: ExampleStream, *, batch_size: int, step_ms: float, max_steps: int) -> DataShare:
    """Take examples from `stream` as training does and hold the time against a step of `step_ms` milliseconds.

    Args:
        stream: the training examples; it is moved on.
        batch_size: B, slots of a step.
        step_ms: wall time of a training step without its data.
        max_steps: N_sup.
    """
    rounds = max(1, _EXAMPLES // batch_size)
    started = time.perf_counter()
    for _ in range(rounds):
        stream.take(batch_size)
    per_example = 1000.0 * (time.perf_counter() - started) / (rounds * batch_size)
    wait = per_example * batch_size
    first = wait / max_steps
    return DataShare(per_example, first / (first + step_ms), wait / (wait + step_ms))
