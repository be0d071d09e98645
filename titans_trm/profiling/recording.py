"""Record one piece of work with `torch.profiler`: operators, parts of the model over time, a trace for viewers."""

import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from titans_trm.models.titans_trm import TitansTRM

PARTS = ("attention", "memory", "gate", "mlp")  # of a block, in the order they run
_MARK = "titans_trm: "  # before every name that `named_parts` puts into a trace
_BACKWARD = "autograd::engine::evaluate_function: "
_OPTIMIZER = "Optimizer.step#"


@dataclass(frozen=True)
class Span:
    """A part of the model at work, from `start` to `end`, milliseconds since the recording began."""

    name: str  # forward, backward, optimizer, net call, block <i>, one of PARTS, head, halting head
    start: float
    end: float
    depth: int  # how many other named parts it lies in
    backward: bool = False  # gradients of the part, not the part itself

    @property
    def duration(self) -> float:
        """Milliseconds."""
        return self.end - self.start


@dataclass(frozen=True)
class Operator:
    """All calls of one operator. On CUDA its time is that of the kernels it started."""

    name: str
    calls: int
    self_ms: float  # without operators called from within
    share: float  # of the sum over all operators


@dataclass(frozen=True)
class Recording:
    """What was seen while a piece of work ran once; the profiler itself costs some per cent."""

    total_ms: float
    operators: list[Operator]  # by self time, largest first
    spans: list[Span] = field(repr=False)  # by start
    allocated_peak: int | None  # bytes, largest sum of what the CPU allocator handed out; None if not asked for
    trace: str | None  # file for Perfetto and TensorBoard


def record(
    work: Callable[[], object],
    model: TitansTRM,
    *,
    memory: bool = False,
    trace: Path | None = None,
) -> Recording:
    """Run `work`, which calls `model`, once under the profiler.

    Args:
        work: what is recorded.
        model: its parts are named in the recording.
        memory: also follow the allocator of the CPU.
        trace: file to write, ending in `.json.gz`.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own remarks on missing cards
    device = model.head.weight.device
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with named_parts(model), profile(activities=activities, profile_memory=memory) as seen:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    if trace is not None:
        _write_trace(seen, trace)
    events = _cpu_events(seen)
    return Recording(
        total_ms=max(event.end for event in events),
        operators=_kernels(seen) if device.type == "cuda" else _operators(events),
        spans=_spans(events),
        allocated_peak=_allocated_peak(seen) if memory else None,
        trace=None if trace is None else str(trace),
    )


@contextmanager
def named_parts(model: TitansTRM) -> Iterator[None]:
    """Name the parts of `model` in any recording of `torch.profiler` made within."""
    handles: list[Any] = []
    for module, name in _parts(model):
        handles += _named(module, name)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class RecordedPhases:
    """Stands where a training step tells which part of it runs, and names that part in the recording."""

    _NAMES = {"activations": "forward", "workspace": "backward"}

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def enter(self, phase: str) -> None:
        """Go on to another part."""
        self._stack.close()
        self._stack.enter_context(record_function(_MARK + self._NAMES[phase]))


def part_times(spans: Sequence[Span]) -> dict[str, dict[str, float]]:
    """Return milliseconds by part of a block, `forward` and `backward`; `other` is all else in net calls."""
    found = {part: {"forward": 0.0, "backward": 0.0} for part in (*PARTS, "other")}
    for span in spans:
        way = "backward" if span.backward else "forward"
        if span.name in PARTS:
            found[span.name][way] += span.duration
        elif span.name == "other" or (span.name == "net call" and not span.backward):
            found["other"][way] += span.duration
    found["other"]["forward"] -= sum(found[part]["forward"] for part in PARTS)
    return found


def _parts(model: TitansTRM) -> Iterator[tuple[nn.Module, str]]:
    yield model.head, "head"
    yield model.act_head, "halting head"
    for net in (model.recursion.net, model.recursion.net_y):
        if net is None:
            continue
        yield net, "net call"
        for index, block in enumerate(net.blocks):
            yield block, f"block {index}"
            for part in PARTS:
                if getattr(block, part) is not None:
                    yield getattr(block, part), part


def _named(module: nn.Module, name: str) -> list[Any]:
    open_scopes: list[Any] = []

    def before(module: nn.Module, arguments: Any) -> None:
        open_scopes.append(record_function(_MARK + name))
        open_scopes[-1].__enter__()

    def after(module: nn.Module, arguments: Any, result: Any) -> None:
        open_scopes.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def _operators(events: Sequence["_Event"]) -> list[Operator]:
    """Sum the self time of operators on the CPU; named parts, backward steps and memory events are none."""
    totals: dict[str, list[float]] = {}
    open_calls: list[tuple[_Event, list[float]]] = []
    for event in events:
        while open_calls and open_calls[-1][0].end <= event.start:
            open_calls.pop()
        if open_calls:
            open_calls[-1][1][1] -= event.duration
        own = totals.setdefault(event.name, [0, 0.0])
        own[0] += 1
        own[1] += event.duration
        open_calls.append((event, own))
    return _ranked(Operator(name, int(calls), time, 0.0) for name, (calls, time) in totals.items())


def _kernels(seen: profile) -> list[Operator]:
    """Sum the time of the kernels that operators started on the card."""
    averages = seen.key_averages()
    return _ranked(Operator(e.key, e.count, e.self_device_time_total / 1000.0, 0.0) for e in averages)


def _ranked(operators: Iterable[Operator]) -> list[Operator]:
    found = [one for one in operators if "::" in one.name and not one.name.startswith((_BACKWARD, _MARK, _OPTIMIZER))]
    total = sum(one.self_ms for one in found) or 1.0
    return sorted((replace(one, share=one.self_ms / total) for one in found), key=lambda one: -one.self_ms)


def _spans(events: Sequence["_Event"]) -> list[Span]:
    """Find the named parts, and whose gradient each step of the backward pass computes.

    Autograd numbers its nodes: the last operator recorded under a number made the node, and the backward step of the
    same number belongs to the part in which that operator ran.
    """
    spans: list[Span] = []
    part_of_node: dict[int, str] = {}
    stack: list[_Event] = []
    for event in events:
        while stack and stack[-1].end <= event.start:
            stack.pop()
        if event.name.startswith(_MARK):
            spans.append(Span(event.name.removeprefix(_MARK), event.start, event.end, len(stack)))
            stack.append(event)
        elif event.name.startswith(_OPTIMIZER):
            spans.append(Span("optimizer", event.start, event.end, len(stack)))
        elif event.name.startswith(_BACKWARD):
            part = part_of_node.get(event.node, "other")
            spans.append(Span(part, event.start, event.end, len(stack), backward=True))
        elif event.node >= 0:
            innermost = stack[-1].name.removeprefix(_MARK) if stack else "other"
            part_of_node[event.node] = innermost if innermost in PARTS else "other"
    return spans


class _Event(NamedTuple):
    """What ran on the CPU: an operator, a named scope, a step of the backward pass. Times in milliseconds."""

    start: float
    end: float
    name: str
    thread: int
    node: int  # number of the autograd node it makes or runs, below 0 for none

    @property
    def duration(self) -> float:
        return self.end - self.start


def _cpu_events(seen: profile) -> list[_Event]:
    """Read the raw results in order of start, outer before inner.

    `profile.events()` would build a tree of Python objects for them, which takes longer than the work recorded.
    """
    raw = [event for event in _results(seen).events() if event.name() != "[memory]" and event.duration_ns() > 0]
    raw = [event for event in raw if event.device_type() == DeviceType.CPU]
    begin = min(event.start_ns() for event in raw)
    found = [
        _Event(
            (event.start_ns() - begin) / 1e6,
            (event.start_ns() + event.duration_ns() - begin) / 1e6,
            event.name(),
            event.start_thread_id(),
            event.sequence_nr(),
        )
        for event in raw
    ]
    return sorted(found, key=lambda event: (event.start, -event.end))


def _results(seen: profile) -> Any:
    assert seen.profiler is not None
    return seen.profiler.kineto_results


def _write_trace(seen: profile, path: Path) -> None:
    """Write the trace compressed, at the fastest level: the profiler's own way takes seconds for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain, packed = Path(folder, "trace.json"), Path(folder, "trace.json.gz")
        seen.export_chrome_trace(str(plain))
        with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target)
        os.replace(packed, path)


def _allocated_peak(seen: profile) -> int:
    """Return the largest sum of the bytes that the CPU allocator handed out while it was recorded."""
    events = _results(seen).events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    live = peak = 0
    for _, size in changes:
        live += size
        peak = max(peak, live)
    return peak
