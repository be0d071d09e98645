"""A tiny ARC run from end to end: trained with embeddings of views, balanced, weighted, evaluated with two attempts."""

import json
import sys
from pathlib import Path

import pytest
from training_cases import WARNINGS

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "data")]
from arc_cases import folder, puzzle  # noqa: E402

from titans_trm.config import compose  # noqa: E402
from titans_trm.errors import InputError  # noqa: E402
from titans_trm.tasks.evaluate import evaluate  # noqa: E402
from titans_trm.tasks.train import train  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    *(pytest.mark.filterwarnings(warning) for warning in WARNINGS),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("arc")
    train_folder = folder(root / "train", {f"a{seed}": puzzle(seed) for seed in range(6)})
    test_folder = folder(root / "test", {f"b{seed}": puzzle(seed) for seed in range(20, 22)})
    config = compose(
        "train",
        [
            "experiment=arc1",
            "hardware=cpu",
            f"data.train_file={train_folder}",
            f"data.test_file={test_folder}",
            f"data.cache_dir={root / 'cache'}",
            f"run_dir={root / 'runs' / 'arc' / 'first'}",
            "data.num_augmentations=3",
            "data.val_fraction=0.3",
            "model.width=8",
            "model.backbone.num_blocks=1",
            "model.backbone.num_heads=1",
            "model.backbone.mlp_hidden=8",
            "model.backbone.gate=attention_only",
            "model.recursion.num_latent_steps=1",
            "model.recursion.num_recursions=1",
            "model.halting.max_supervision_steps=2",
            "loss.class_weight_power=0.5",
            "diagnostics=off",
            "trainer.max_steps=3",
            "trainer.batch_size=2",
            "trainer.val_examples=4",
            "trainer.num_threads=1",
        ],
    )
    assert train(config)["status"] == "completed"
    return Path(config.run_dir)


def settings(run: Path, *overrides: str):
    return compose(
        "evaluate", [f"run={run}", "hardware=cpu", "plots=false", "latency_examples=0", "criteria=none", *overrides]
    )


def test_the_run_knows_its_puzzles_and_their_folders(run):
    manifest = json.loads((run / "data_manifest.json").read_text())
    assert manifest["puzzles"] == {"train": 6, "extra": 0, "test": 2}
    assert (manifest["task"], manifest["views"]) == ("arc", 4)


def test_an_evaluation_with_views_reports_two_attempts_over_puzzles(run):
    result = evaluate(settings(run, "views=3"))
    for name in ("pass_at_1", "pass_at_2"):
        metric = result["metrics"][name]
        assert metric["value"] == 0.0 and metric["ci_low"] == 0.0  # nothing is learned in three steps
    written = json.loads((run / "evaluation" / "val.json").read_text())
    assert written["metrics"]["pass_at_2"]["method"] == "bootstrap"
    assert "pass_at_1" not in evaluate(settings(run))["metrics"]


def test_a_task_without_views_says_so(run, tmp_path):
    from training_cases import tiny_config

    other = tiny_config(tmp_path / "runs" / "tiny" / "first", cache=tmp_path / "cache")
    train(other)
    with pytest.raises(InputError, match="views=3: sudoku_4x4 is shown in one view only"):
        evaluate(settings(Path(other.run_dir), "views=3"))
