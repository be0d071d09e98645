"""How long a person waits for one answer: single examples solved one at a time."""

import time

import numpy as np
import torch

from titans_trm.data.examples import ExampleSet
from titans_trm.evaluation.results import Latency
from titans_trm.models.inference import solve
from titans_trm.models.titans_trm import TitansTRM

_WARMUP = 2  # examples before the measured ones


def measure_latency(
    model: TitansTRM,
    examples: ExampleSet,
    *,
    adaptive: bool,
    halt_above: float = 0.0,
    most: int,
    seconds: float,
    autocast: torch.autocast | None,
) -> Latency | None:
    """Return the time to solve each of up to `most` examples at batch 1, stopping after `seconds`; None for `most` 0.

    Real examples: how long an adaptive run takes depends on what it is given.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    times: list[float] = []
    end = time.perf_counter() + seconds
    for turn in range(-_WARMUP, min(most, len(examples))):
        started = time.perf_counter()
        if started > end and times:
            break
        batch = examples.batch([turn % len(examples)]).to(device)
        with autocast or torch.autocast(device.type, enabled=False):
            solution = solve(model, batch.inputs, batch.puzzle_ids, adaptive=adaptive, halt_above=halt_above)
        solution.steps.tolist()  # waits for the device
        if turn >= 0:
            times.append(1000 * (time.perf_counter() - started))
    model.train(training)
    if not times or most == 0:
        return None
    p50, p95 = np.percentile(times, [50, 95]).tolist()
    return Latency(p50=p50, p95=p95, repeats=len(times))
