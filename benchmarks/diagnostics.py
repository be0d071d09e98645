"""Put faults into runs of the nano model and see who notices, who names the cause, who cries wolf on healthy ones.

    python benchmarks/diagnostics.py run --out runs/diagnostics_benchmark      # about an hour of one core
    python benchmarks/diagnostics.py score --out runs/diagnostics_benchmark    # tables and pictures from what is there

`run` trains what is missing in `--out`, one JSON a run, so it can be stopped and started again. `score` replays our
rules and two other debuggers' on the recorded signals. Thresholds were set on seeds 100 and above; the reported seeds
are 0 and above, and no threshold was changed after they were run.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import torch
from lightning.pytorch.callbacks import Callback

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "benchmarks"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from diagnostics_baselines import Recorder, autotrainer, debugger  # noqa: E402
from diagnostics_faults import FAULTS, Fault  # noqa: E402

from titans_trm.config import compose  # noqa: E402
from titans_trm.data.load import load_data  # noqa: E402
from titans_trm.diagnostics.alert import at_least  # noqa: E402
from titans_trm.diagnostics.catalogue import build_rules  # noqa: E402
from titans_trm.diagnostics.config import DiagnosticsConfig  # noqa: E402
from titans_trm.diagnostics.engine import Engine  # noqa: E402
from titans_trm.diagnostics.events import EventLog  # noqa: E402
from titans_trm.diagnostics.facts import run_facts  # noqa: E402
from titans_trm.diagnostics.record import SignalLog, read_signals  # noqa: E402
from titans_trm.diagnostics.signals import RunFacts, Signals  # noqa: E402
from titans_trm.tasks.build import build_datamodule, build_model, build_module, build_trainer  # noqa: E402
from titans_trm.training.callbacks.diagnostics import Diagnostics  # noqa: E402
from titans_trm.training.callbacks.ema import EMA  # noqa: E402
from titans_trm.training.config import RunConfig  # noqa: E402

RATES = {"optimizer.lr": 4e-3, "optimizer.muon_lr": 0.02}  # of all experiments here, unless they say otherwise


def rates(factor: float) -> tuple[str, ...]:
    """Return the overrides that scale both learning rates."""
    return tuple(f"{key}={rate * factor:g}" for key, rate in RATES.items())


# The quickstart as it is, with half its slots, fewer steps and easier puzzles: some are solved when faults strike.
BASE = ("hardware=cpu", "trainer.num_threads=1", "trainer.max_steps=200", "trainer.batch_size=32",
        "trainer.val_every_steps=50", "trainer.val_examples=96", *rates(1.0))  # fmt: skip
SIZES = ("data.num_train=2000", "data.num_val=96", "data.num_test=32")
SUDOKU = ("experiment=quickstart", "data.clues=[13,15]", *SIZES)
RECALL = ("model.backbone.window=8", "model.memory.chunk_size=16", "data.seq_len=32", *SIZES, "data.num_train=7000")
MQAR = ("experiment=mqar", *RECALL, "data.num_pairs=4", "data.vocab_size=32")
COPY = ("experiment=selective_copy", *RECALL, "data.num_tokens=4")
MAZE = ("experiment=maze_small", "data.size=6", "data.min_path=5", *SIZES, "trainer.batch_size=16")
ADAMW = ("optimizer=adamw", "optimizer.lr=3e-3")
TRUNK = "sudoku_plain"  # the healthy run that faults branch off
HEALTHY: dict[str, tuple[str, ...]] = {
    TRUNK: SUDOKU,
    "sudoku_half_rate": (*SUDOKU, *rates(0.5)),
    "sudoku_double_rate": (*SUDOKU, *rates(2.0)),
    "sudoku_adamw": (*SUDOKU, *ADAMW),
    "sudoku_convex": (*SUDOKU, "model.backbone.gate=convex"),
    "sudoku_carried_memory": (*SUDOKU, "model.memory.carry=cycles"),
    "sudoku_stablemax": (*SUDOKU, "loss.cross_entropy=stablemax"),
    "sudoku_no_diversity": (*SUDOKU, "loss.diversity=off"),
    "sudoku_small_batch": (*SUDOKU, "trainer.batch_size=16"),
    "mqar": MQAR,
    "mqar_half_rate": (*MQAR, *rates(0.5)),
    "mqar_adamw": (*MQAR, *ADAMW),
    "selective_copy": COPY,
    "selective_copy_adamw": (*COPY, *ADAMW),
    "maze": MAZE,
    "maze_adamw": (*MAZE, *ADAMW),
}


class Branches(Callback):
    """Fork a healthy run before the step at which faults strike: a child goes on with each, then the run without any.

    So all faults of a seed start from the same state, and what comes before them is computed once. One process works
    at a time.
    """

    def __init__(self, faults: Sequence[Fault], folder: Path, undo: ExitStack) -> None:
        self.waiting, self.folder, self.undo = list(faults), folder, undo
        self.fault: Fault | None = None  # of this process
        self.started = time.process_time()  # on a clock that a child begins anew

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Fork where a fault is due."""
        due = [fault for fault in self.waiting if fault.start == trainer.global_step]
        for fault in due if self.fault is None else ():
            spent = time.process_time() - self.started
            child = os.fork()
            if child == 0:
                self.fault, self.started = fault, time.process_time() - spent
                self._move(trainer)
                if fault.strike is not None:
                    fault.strike(pl_module, self.undo)
                return
            if os.waitpid(child, 0)[1] != 0:
                raise RuntimeError(f"the run with {fault.name} failed")

    def _move(self, trainer: Any) -> None:
        """Go on in a folder of this process's own."""
        assert self.fault is not None
        own = self.folder.with_name(self.fault.name)
        shutil.copytree(self.folder, own)
        (watch,) = (one for one in trainer.callbacks if isinstance(one, Diagnostics))
        watch.folder = own / "diagnostics"
        watch.events, watch.record = EventLog(watch.folder / "events.jsonl"), SignalLog(watch.folder / "signals.jsonl")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "score"))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "diagnostics_benchmark", help="folder of results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of every fault")
    parser.add_argument("--healthy-seeds", type=int, nargs="+", default=None, help="of healthy runs; default: --seeds")
    parser.add_argument("--only", nargs="+", default=None, help="names of faults or healthy runs")
    parser.add_argument("--minutes", type=float, default=None, help="stop starting runs after this time")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    return run_all(options) if options.what == "run" else score(options.out, options.seeds, options.healthy_seeds)


def run_all(options: argparse.Namespace) -> int:
    """Train what is missing; 3 if time ran out before all was done."""
    torch.set_num_threads(1)
    started = time.monotonic()
    for name, fault, branches, seed in planned(options):
        if options.minutes is not None and time.monotonic() - started > 60.0 * options.minutes:
            print("time is up; the same command goes on", flush=True)
            return 3
        run_one(name, fault, branches, seed, options.out)
    return 0


def planned(options: argparse.Namespace) -> Iterator[tuple[str, Fault | None, list[Fault], int]]:
    """Yield (name, fault or None, faults that branch off, seed) of the runs that are missing, seed by seed."""

    def missing(name: str, seed: int) -> bool:
        return (options.only is None or name in options.only) and not _target(options.out, name, seed).is_file()

    for seed in options.seeds:
        faults = [fault for fault in FAULTS if missing(fault.name, seed)]
        branches = [fault for fault in faults if fault.branches]
        if branches:
            yield TRUNK, None, branches, seed
        yield from ((fault.name, fault, [], seed) for fault in faults if not fault.branches)
    for seed in options.seeds if options.healthy_seeds is None else options.healthy_seeds:
        yield from ((name, None, [], seed) for name in HEALTHY if missing(name, seed))


def run_one(name: str, fault: Fault | None, branches: list[Fault], seed: int, out: Path) -> None:
    """Train one run, and those that branch off it, under the eyes of all three; write down what they saw."""
    folder = Path(tempfile.mkdtemp(prefix="titans_trm_diagnostics_"))
    own = SUDOKU if fault is not None else HEALTHY[name]
    extra = () if fault is None or fault.rate is None else rates(fault.rate)
    typed = [*BASE, *own, *extra, f"seed={seed}", f"run_dir={folder / 'run'}"]
    later = {override.partition("=")[0]: override for override in typed}  # of one key the last counts
    config = compose("train", list(later.values()))
    config = dataclasses.replace(config, logger={}, callbacks={})
    try:
        with ExitStack() as undo:
            undo.enter_context(mock.patch("titans_trm.training.callbacks.diagnostics.draw_panel"))  # nobody looks at it
            branched = Branches(branches, folder / "run", undo)
            result = _train(name, fault, seed, config, branched)
            _write(result, out)
            if branched.fault is not None:
                os._exit(0)  # the parent goes on, and cleans up
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _train(name: str, fault: Fault | None, seed: int, config: RunConfig, branched: Branches) -> dict[str, Any]:
    lightning.seed_everything(seed, verbose=False)
    data = load_data(config.data)
    if fault is not None and fault.data is not None:
        data = fault.data(data)
    module = build_module(config, build_model(config.model, data.spec), data.spec)
    datamodule = build_datamodule(config, data)
    trainer = build_trainer(config, branched.folder, len(data.train))
    recorder = Recorder()
    kept = [one for one in trainer.callbacks if isinstance(one, EMA | Diagnostics)]  # type: ignore[attr-defined]
    trainer.callbacks = [branched, *kept, recorder]  # type: ignore[attr-defined]
    (watch,) = (one for one in kept if isinstance(one, Diagnostics))
    branched.started = time.process_time()
    try:
        trainer.fit(module, datamodule=datamodule)
    except RuntimeError as stopped:  # a validation refuses NaN: the run is over, the findings stand
        print(f"seed {seed} ended early: {stopped}", flush=True)
    fault = branched.fault or fault
    return {
        "name": name if fault is None else fault.name,
        "seed": seed,
        "fault": fault is not None,
        "start": fault.start if fault is not None else 0,
        "steps": trainer.global_step,
        "cpu_seconds": time.process_time() - branched.started,
        "watch_seconds": watch.seconds,
        "alerts": [alert.to_dict() for alert in watch.engine.alerts],
        "record": recorder.to_dict(),
        "signals": [one.to_dict() for one in read_signals(watch.record.path)],
        "facts": run_facts(config.to_dict(), data.spec.vocab_size).__dict__,
        "val": {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")},
    }


def _target(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-{seed}.json"


def _write(result: dict[str, Any], out: Path) -> None:
    target = _target(out, result["name"], result["seed"])
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(target)
    found = [alert["rule"] for alert in result["alerts"] if at_least(alert["severity"], "warn")]
    print(f"{target.stem}: {result['cpu_seconds']:.0f} s, {found or 'nothing'}", flush=True)


def replay(result: dict[str, Any]) -> list[tuple[int, str]]:
    """Return (step, rule) of the alarms our engine raises on a run's recorded signals, in order."""
    facts, config = RunFacts(**result["facts"]), DiagnosticsConfig()
    engine = Engine(build_rules(facts, config), facts, config)
    raised = []
    for one in result["signals"]:
        values = {name: float(value) for name, value in one["values"].items()}
        raised += engine.update(Signals(one["step"], values, one["names"])).raised
    raised += engine.finish().raised
    return [(alert.step, alert.rule) for alert in raised if alert.is_alarm]


def score(out: Path, seeds: Sequence[int], healthy_seeds: Sequence[int] | None) -> int:
    """Write `scores.json` and `scores.md`, draw `confusion.png`; print the tables."""
    chosen = {True: set(seeds), False: set(healthy_seeds or seeds)}
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*-*.json"))]
    results = [one for one in results if one["seed"] in chosen[one["fault"]]]
    rows = [_row(one) for one in results]
    text = "\n".join([*_summary(rows), "", *_per_fault(rows), "", *_false_alarms(rows)])
    (out / "scores.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (out / "scores.md").write_text(text + "\n", encoding="utf-8")
    _draw_confusion(rows, out / "confusion.png")
    print(text)
    return 0


DETECTORS = ("ours", "debugger", "autotrainer")


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """Return what each detector said of one run."""
    signals = [Signals(o["step"], {k: float(v) for k, v in o["values"].items()}, o["names"]) for o in result["signals"]]
    record = result["record"]
    fault = next((one for one in FAULTS if one.name == result["name"]), None) if result["fault"] else None
    said = {"ours": replay(result), "debugger": debugger(record, signals), "autotrainer": autotrainer(record)}
    row = {"name": result["name"], "seed": result["seed"], "fault": result["fault"], "start": result["start"]}
    row |= {"overhead": result["watch_seconds"] / result["cpu_seconds"], "steps": result["steps"]}
    for detector, found in said.items():
        # What was said before the fault struck is a false alarm, not a detection.
        early = [rule for step, rule in found if step <= result["start"] and result["start"] > 0]
        after = [(step, rule) for step, rule in found if step > result["start"] or result["start"] == 0]
        right = frozenset() if fault is None else getattr(fault, "causes" if detector == "ours" else detector)
        row[detector] = {
            "alarms": [list(one) for one in found],
            "early": early,
            "first": after[0][1] if after else None,
            "named": next((step for step, rule in after if rule in right), None),
            "steps": after[0][0] - result["start"] if after else None,
            "right_first": bool(after) and after[0][1] in right,
        }
    return row


def _summary(rows: list[dict[str, Any]]) -> list[str]:
    faulty, healthy = ([row for row in rows if row["fault"] is kind] for kind in (True, False))
    lines = [
        "| detector | faults detected | right cause first | healthy runs with an alarm | median steps to detection |",
        "|---|---|---|---|---|",
    ]
    names = {"ours": "titans_trm", "debugger": "SageMaker Debugger rules", "autotrainer": "AUTOTRAINER criteria"}
    for detector in DETECTORS:
        found = [row[detector] for row in faulty if row[detector]["first"] is not None]
        right = sum(row[detector]["right_first"] for row in faulty)
        wolf = sum(bool(row[detector]["alarms"]) for row in healthy)
        median = f"{statistics.median(one['steps'] for one in found):.0f}" if found else "-"
        lines.append(
            f"| {names[detector]} | {_share(len(found), len(faulty))} | {_share(right, len(faulty))} | "
            f"{_share(wolf, len(healthy))} | {median} |"
        )
    overhead = [row["overhead"] for row in rows]
    lines += ["", f"Time in the engine, of the CPU time of these runs: median {statistics.median(overhead):.1%}."]
    return lines


def _per_fault(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| fault | runs | detected | right cause first | median steps | first alarms | Debugger | AUTOTRAINER |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for fault in FAULTS:
        own = [row for row in rows if row["fault"] and row["name"] == fault.name]
        if not own:
            continue
        found = [row["ours"] for row in own if row["ours"]["first"] is not None]
        median = f"{statistics.median(one['steps'] for one in found):.0f}" if found else "-"
        firsts = Counter(one["first"] for one in found)
        said = ", ".join(f"{rule} {count}" for rule, count in firsts.most_common())
        others = [sum(row[name]["first"] is not None for row in own) for name in ("debugger", "autotrainer")]
        lines.append(
            f"| {fault.told} | {len(own)} | {len(found)} | {sum(row['ours']['right_first'] for row in own)} | "
            f"{median} | {said} | {others[0]} | {others[1]} |"
        )
    return lines


def _false_alarms(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| healthy run | runs | ours | Debugger | AUTOTRAINER |", "|---|---|---|---|---|"]
    for name in HEALTHY:
        own = [row for row in rows if not row["fault"] and row["name"] == name]
        if own:
            cells = (", ".join(sorted({rule for row in own for _, rule in row[d]["alarms"]})) or "-" for d in DETECTORS)
            lines.append(f"| {name} | {len(own)} | {' | '.join(cells)} |")
    early = [(row["name"], row["seed"], row["ours"]["early"]) for row in rows if row["ours"]["early"]]
    return [*lines, "", f"Alarms before the fault struck: {early or 'none'}."]


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({count / of:.0%})" if of else "-"


def _draw_confusion(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw which rule spoke first for each fault."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [fault.name for fault in FAULTS if any(row["name"] == fault.name for row in rows)]
    firsts = {name: Counter(r["ours"]["first"] or "nothing" for r in rows if r["name"] == name) for name in names}
    rules = list(dict.fromkeys(rule for name in names for rule, _ in firsts[name].most_common()))
    table = [[firsts[name][rule] / max(sum(firsts[name].values()), 1) for rule in rules] for name in names]
    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.imshow(table, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axis.set_xticks(range(len(rules)), rules, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    for y, row in enumerate(table):
        for x, share in enumerate(row):
            if share:
                axis.text(x, y, f"{share:.0%}", ha="center", va="center", fontsize=7, color="w" if share > 0.5 else "k")
    axis.set_xlabel("rule that spoke first")
    axis.set_ylabel("fault put in")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
