"""The page of a real run, and what `titans-trm robustness` adds to it."""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from training_cases import tiny_config

from titans_trm.cli import main
from titans_trm.config import load_config
from titans_trm.data.load import load_data
from titans_trm.evaluation.results import Evaluation
from titans_trm.tasks.report import write_report
from titans_trm.tasks.train import train
from titans_trm.training.run_folder import RunFolder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    config = tiny_config(root / "runs" / "tiny" / "first", cache=root / "cache")
    train(config)
    return Path(config.run_dir)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    """A copy of the run that a test may change."""
    return RunFolder(shutil.copytree(trained, tmp_path / "run"))


def add_evaluation(run: RunFolder, evaluation: Evaluation) -> None:
    """Write an evaluation with two examples kept whole."""
    val = load_data(load_config(run.path).data).val
    inputs, targets = val.inputs[:2].numpy(), val.targets[:2].numpy()
    run.evaluation("val").parent.mkdir(exist_ok=True)
    run.evaluation("val").write_text(json.dumps(asdict(evaluation)))
    np.savez(
        run.path / "evaluation" / "val_examples.npz",
        index=np.arange(12),
        difficulty=np.zeros(12, dtype=np.int64),
        halting_logits=np.full((12, 3), -1.0, dtype=np.float32),
        shown_rows=np.array([0, 1]),
        shown_inputs=inputs,
        shown_targets=targets,
        shown_answers=np.stack([targets] * 3, axis=1),
    )


def whole_evaluation() -> Evaluation:
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "evaluation_cases", Path(__file__).parents[1] / "evaluation" / "evaluation_cases.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.evaluation()


def test_a_run_that_was_only_trained_has_a_page(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(trained)]) == 0
    assert capsys.readouterr().out == f"{trained / 'report.html'}\n"
    page = (trained / "report.html").read_text(encoding="utf-8")
    summary = json.loads((trained / "summary.json").read_text())
    assert f"{summary['parameters']:,}" in page and "12 of 12 steps" in page and "sudoku_4x4" in page
    assert f"python evaluate.py run={trained}" in page and "Reproducibility checklist" in page


def test_an_evaluated_run_shows_results_and_examples_as_sudokus(run: RunFolder) -> None:
    add_evaluation(run, whole_evaluation())
    page = write_report(run).read_text(encoding="utf-8")
    assert "val, example 0" in page and page.count("step 3") >= 2 and 'class="box"' in page
    assert "not evaluated yet" not in page


def test_events_are_listed_and_broken_lines_left_out(run: RunFolder) -> None:
    events = run.path / "diagnostics" / "events.jsonl"
    events.parent.mkdir(exist_ok=True)
    line = {"seq": 1, "step": 7, "event": "raised", "rule": "loss_spike", "severity": "warn"}
    events.write_text(json.dumps(line) + '\n{"seq": 2, "st\n[1]\n')
    page = write_report(run).read_text(encoding="utf-8")
    assert "loss_spike" in page and "1 events" in page


@pytest.mark.parametrize(
    "name", ["summary.json", "data_manifest.json", "evaluation/val.json", "evaluation/val_examples.npz"]
)
def test_a_damaged_file_is_named_and_left_out(run: RunFolder, name: str, caplog: pytest.LogCaptureFixture) -> None:
    add_evaluation(run, whole_evaluation())
    (run.path / name).write_bytes(b'{"split": ')
    with caplog.at_level(logging.WARNING):
        assert write_report(run).is_file()
    assert name in caplog.text and "left out of the report" in caplog.text


def test_results_of_another_version_are_named(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    run.evaluation("val").parent.mkdir(exist_ok=True)
    run.evaluation("val").write_text(json.dumps({"split": "val", "metrics": {}, "new_key": 1}))
    write_report(run)
    assert "Evaluate again to renew it" in caplog.text


def test_a_missing_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("report", "robustness"):
        assert main([command, str(tmp_path / "nowhere")]) == 2
        assert "does not exist" in capsys.readouterr().err


# --- robustness


def test_robustness_measures_everything_and_draws_it(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    words = ["examples=8", "epsilons=[0,0.5]", "cells=[0,2]", "pgd_steps=2", "batch_size=8", "forget_steps=4"]
    words += ["data.clues=[5,7]", "data.num_train=32", "data.num_val=12", "data.num_test=4"]
    with caplog.at_level(logging.INFO):
        assert main(["robustness", str(run.path), *words]) == 0
    found = json.loads(run.evaluation("robustness").read_text())
    names = [test["name"] for test in found["tests"]]
    assert names == ["noise", "fgsm", "pgd", "clues_blanked", "clues_wrong", "clues_invented", "other_data"]
    untouched = {test["points"][0]["exact_accuracy"]["value"] for test in found["tests"]}
    assert len(untouched) == 1  # strength 0 is the same everywhere
    assert set(found["shift"]) == {"validation", "other data"}
    assert [one["name"] for one in found["forgetting"]] == ["plain", "replay", "L2-SP"]
    assert [point["step"] for point in found["forgetting"][0]["points"]] == [0, 1, 2, 3, 4]
    page = run.report.read_text(encoding="utf-8")
    for word in ("PGD on embeddings", "False clues invented", "Other data", "What it knew before", "training against"):
        assert word in page, word
    assert "learning the other data, replay" in caplog.text


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("exampels=8", "exampels is not a key. Did you mean examples?"),
        ("examples=0", "examples=0 is too small"),
        ("replay=2.0", "replay=2.0 is outside (0, 1)"),
        ("epsilons=[-1.0]", "must be 0 or more"),
        ("data.size=6 data.clues=[10,20]", "choose data of the same shape"),
        ("data.clue=[4,6]", "data.clue is not a key"),
        ("forget_steps=2", "forget_steps needs other data"),
    ],
)
def test_a_mistake_is_one_line(trained: Path, word: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["robustness", str(trained), *word.split()]) == 2
    assert told in capsys.readouterr().err
