"""Does the memory remember what the attention window cannot see? MQAR and needles, with twins, over seeds.

    python benchmarks/recall.py mqar                        # (128, 8) by default; three gates, three seeds
    python benchmarks/recall.py mqar --size 256x16 --minutes 60
    python benchmarks/recall.py niah --variant n            # trained at length L, tested at L, 2 L, 4 L, 8 L

Every run is `train.py experiment=...` in a folder of its own; a run that is there already is not repeated, one that was
stopped goes on from its last checkpoint. The twin without a memory gets a wider MLP, so that it has as many parameters.
Writes `results.json`, `table.md` and `grid.png` into the folder and prints the table.
"""

import argparse
import dataclasses
import json
import logging
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from titans_trm.config import compose, load_config
from titans_trm.data.recall import RecallTask
from titans_trm.data.registry import make_task
from titans_trm.evaluation.extrapolation import draw_grids, evaluate_grid
from titans_trm.tasks.build import build_model
from titans_trm.training.checkpoint_io import load_model_weights
from titans_trm.training.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
GATES = ("convex", "memory_only", "attention_only")
NAMES = {
    "convex": "MAG",
    "product": "MAG, product gate",
    "memory_only": "memory only",
    "attention_only": "attention only",
}
DEPTHS = {"niah": (0.0, 0.25, 0.5, 0.75, 1.0), "mqar": (4, 8, 16, 32), "selective_copy": (4, 8, 16)}
TIMES = (1, 2, 4, 8)  # test lengths, in lengths of training


def main() -> int:
    """Train what is missing, test all, write the table."""
    logging.getLogger("titans_trm").setLevel(logging.WARNING)
    arguments = _arguments()
    folder = Path(arguments.folder or f"benchmarks/results/{_label(arguments)}")
    records = []
    for gate in arguments.gates:
        for seed in arguments.seeds:
            run = folder / f"{gate}-seed{seed}"
            overrides = _overrides(arguments, gate, seed)
            if not _train(run, overrides):
                sys.stderr.write(f"{run}: stopped before its end; the same command goes on.\n")
                return 130
            records.append({"gate": gate, "seed": seed, "command": _command(overrides), **_test(run, arguments)})
            _write(folder, arguments, records)
    sys.stdout.write((folder / "table.md").read_text(encoding="utf-8"))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(DEPTHS))
    parser.add_argument("--size", help="LENGTHxPAIRS (mqar), LENGTHxTOKENS (selective_copy), LENGTH (niah)")
    parser.add_argument("--variant", choices=("pk", "n", "w"), default="n", help="of niah")
    parser.add_argument("--gates", nargs="+", default=GATES, choices=sorted(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--minutes", type=float, help="of one training; default: that of the experiment")
    parser.add_argument("--examples", type=int, default=128, help="of one cell of the grid")
    parser.add_argument("--folder", help="of runs and results; default benchmarks/results/TASK-SIZE")
    parser.add_argument("overrides", nargs="*", help="of train.py, before options: trainer.max_steps=3000 --seeds 0")
    return parser.parse_intermixed_args()  # overrides may stand between options


def _overrides(arguments: argparse.Namespace, gate: str, seed: int) -> list[str]:
    found = [f"experiment={arguments.task}", f"seed={seed}"]
    if arguments.task == "niah":
        found.append(f"data.variant={arguments.variant}")
    if arguments.size:
        length, _, depth = arguments.size.partition("x")
        found.append(f"data.seq_len={length}")
        if depth:
            found.append(f"data.{'num_pairs' if arguments.task == 'mqar' else 'num_tokens'}={depth}")
    if arguments.minutes:
        found.append(f"trainer.max_time={arguments.minutes:g}")
    found += arguments.overrides
    return [*found, f"model.backbone.gate={gate}", *_equal_size(found, gate)]


def _equal_size(overrides: list[str], gate: str) -> list[str]:
    """Return the override that gives `gate` as many parameters as the default gate has, by the width of the MLP."""
    default = compose("train", overrides)
    if default.model.backbone.gate == gate:
        return []
    hidden = default.model.backbone.mlp_hidden
    here, wider = (
        _count(compose("train", [*overrides, f"model.backbone.gate={gate}"]), n) for n in (hidden, hidden + 1)
    )
    missing = _count(default, hidden) - here
    return [f"model.backbone.mlp_hidden={hidden + max(0, round(missing / (wider - here)))}"]


def _count(config: RunConfig, mlp_hidden: int) -> int:
    backbone = dataclasses.replace(config.model.backbone, mlp_hidden=mlp_hidden)
    model = build_model(dataclasses.replace(config.model, backbone=backbone), make_task(config.data).spec)
    return model.num_params()


def _train(run: Path, overrides: list[str]) -> bool:
    """Train until the run is complete; tell whether it is."""
    if not _complete(run):
        resume = [f"resume={run}"] if (run / "checkpoints" / "last.ckpt").is_file() else []
        command = [sys.executable, "train.py", *overrides, f"run_dir={run.resolve()}", *resume]
        subprocess.run(command, cwd=ROOT, check=False)
    return _complete(run)


def _complete(run: Path) -> bool:
    """Tell whether a run has come to its last step or to the end of its time, and has validated."""
    summary = run / "summary.json"
    return summary.is_file() and "ci_low" in json.loads(summary.read_text(encoding="utf-8")).get("val", {})


def _test(run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the run's best weights know, at the trained length and on the grid (kept in the run's folder)."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    kept = run / "evaluation" / "grid.json"
    config = load_config(run)
    task = make_task(config.data)
    assert isinstance(task, RecallTask)
    if kept.is_file():
        grid = json.loads(kept.read_text(encoding="utf-8"))
    else:
        torch.manual_seed(0)
        model = build_model(config.model, task.spec)
        load_model_weights(model, run / summary["best_checkpoint"])
        lengths = [times * task.spec.seq_len for times in TIMES]
        depths = sorted({*DEPTHS[arguments.task], getattr(config.data, task.depth_key) or 0.0})
        grid = evaluate_grid(model, task, lengths, depths, examples=arguments.examples, seed=config.data.seed)
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(grid, indent=2) + "\n", encoding="utf-8")
    return {
        "parameters": summary["parameters"],
        "steps": summary["global_step"],
        "minutes": summary["wall_seconds"] / 60,
        "token_accuracy": summary["val"]["token_accuracy"],
        "exact_accuracy": summary["val"]["exact_accuracy"],
        "examples": summary["val"]["num_examples"],
        "trained_length": task.spec.seq_len,
        "depth_key": task.depth_key,
        "chunk_size": config.model.memory.chunk_size,
        "window": config.model.backbone.window,
        "grid": grid,
    }


def _write(folder: Path, arguments: argparse.Namespace, records: list[dict[str, Any]]) -> None:
    (folder / "results.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    first = records[0]
    lines = [
        f"`{shlex.join(['python', 'benchmarks/recall.py', *sys.argv[1:]])}`",
        f"Window {first['window']}, memory chunk {first['chunk_size']}, trained at {first['trained_length']} tokens.",
        "",
        "| model | parameters | seed | steps | minutes | answers right | examples exactly right | of |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {NAMES[r['gate']]} | {r['parameters']:,} | {r['seed']} | {r['steps']:,} | {r['minutes']:.1f} | "
        f"{100 * r['token_accuracy']:.1f} % | {100 * r['exact_accuracy']:.1f} % | {r['examples']:,} |"
        for r in records
    ]
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    grids = {NAMES[gate]: _mean([r["grid"] for r in records if r["gate"] == gate]) for gate in _gates(records)}
    draw_grids(
        grids,
        folder / "grid.png",
        title=f"{_label(arguments)}: mean over seeds {sorted({r['seed'] for r in records})}",
        depth_label={"depth": "place of the needle (0 = start)"}.get(first["depth_key"], first["depth_key"]),
        trained_length=first["trained_length"],
    )


def _gates(records: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(record["gate"] for record in records))


def _mean(grids: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the cells of several seeds with their mean token accuracy."""
    return [
        cells[0] | {"token_accuracy": sum(cell["token_accuracy"] for cell in cells) / len(cells)}
        for cells in zip(*grids, strict=True)
    ]


def _command(overrides: list[str]) -> str:
    return " ".join(["python", "train.py", *overrides])


def _label(arguments: argparse.Namespace) -> str:
    parts = [arguments.task, *([arguments.variant] if arguments.task == "niah" else []), arguments.size or "default"]
    return "-".join(parts)


if __name__ == "__main__":
    sys.exit(main())
