"""`titans-trm compare`: what belongs together, what is significant, what cannot be compared."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from evaluation_cases import evaluation
from scipy import stats
from training_cases import tiny_config

from titans_trm.cli import main
from titans_trm.evaluation.resampling import Intervals
from titans_trm.evaluation.results import Evaluation
from titans_trm.schema import build
from titans_trm.tasks.train import train
from titans_trm.training.run_folder import write_json

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]

KEYS = [f"group {number // 2}" for number in range(200)]


def make_run(
    folder: Path, accuracy: float, *overrides: str, seed: int = 0, examples: str = "a", name: str = "quickstart"
) -> Path:
    """A run folder with a configuration and an evaluation whose share of right answers is about `accuracy`."""
    folder.mkdir(parents=True)
    config = tiny_config(folder, f"seed={seed}", *overrides).to_dict() | {"experiment": name}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    right = np.random.default_rng([seed, round(1000 * accuracy)]).random(len(KEYS)) < accuracy
    estimate = dataclasses.asdict(Intervals(KEYS).proportion(right))
    values = dataclasses.asdict(evaluation())
    values |= {"n": len(KEYS), "examples_sha256": examples, "files": {"examples": "evaluation/val_examples.npz"}}
    values["metrics"] = {"exact_accuracy": estimate, "macro_f1": estimate}
    build(Evaluation, values)
    write_json(folder / "evaluation" / "val.json", values)
    np.savez(folder / "evaluation" / "val_examples.npz", key=np.array(KEYS, dtype=np.bytes_), exact=right)
    return folder


@pytest.fixture
def multirun(tmp_path):
    """Three seeds of a good recipe and three of a bad one, as a multirun leaves them."""
    for seed in range(3):
        make_run(tmp_path / "multirun" / f"{seed}", 0.8, seed=seed)
        make_run(tmp_path / "multirun" / f"{seed + 3}", 0.5, "model.memory.carry=cycles", seed=seed)
    return tmp_path / "multirun"


def compared(*arguments: object) -> dict:
    assert main(["compare", *map(str, arguments)]) == 0
    out = Path(arguments[list(arguments).index("--out") + 1])
    return json.loads((out / "comparison.json").read_text())


def test_a_multirun_is_grouped_by_recipe_and_seeds_are_averaged(multirun, tmp_path, capsys):
    table = compared(multirun, "--out", tmp_path / "out")
    good, bad = table["rows"]
    assert good["name"] == "quickstart carry=reset" and bad["name"] == "quickstart carry=cycles"
    assert good["seeds"] == bad["seeds"] == [0, 1, 2]
    assert good["mean"] == pytest.approx(np.mean(good["values"])) and good["std"] == pytest.approx(
        np.std(good["values"], ddof=1)
    )
    low, high = stats.t.interval(0.95, 2, loc=good["mean"], scale=stats.sem(good["values"]))
    assert (good["interval"]["ci_low"], good["interval"]["ci_high"]) == pytest.approx((low, high))
    difference = bad["difference"]
    assert difference["value"] == pytest.approx(bad["mean"] - good["mean"])
    assert difference["p_by_seed"] == pytest.approx(stats.ttest_rel(bad["values"], good["values"]).pvalue)
    assert difference["p_by_example"] < 1e-6 and difference["by_example"]["ci_high"] < 0
    assert good["difference"] is None and table["notes"] == []
    screen = capsys.readouterr().out
    assert "quickstart" in screen and "exact_accuracy on val" in screen
    lines = list(csv.DictReader((tmp_path / "out" / "comparison.csv").read_text().splitlines()))
    assert [float(line["exact_accuracy"]) for line in lines] == pytest.approx(good["values"] + bad["values"])
    assert (tmp_path / "out" / "comparison.md").read_text().count("\n| quickstart") == 2
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_single_runs_are_compared_by_example_and_corrected_for_their_number(tmp_path):
    shares = {"first": 0.6, "better": 0.75, "worse": 0.55}
    runs = [make_run(tmp_path / name, share, name=name) for name, share in shares.items()]
    first, *others = compared(*runs, "--out", tmp_path / "out")["rows"]
    assert first["interval"]["method"] == "wilson" and first["std"] is None
    assert [row["name"] for row in others] == ["better", "worse"]
    for row in others:
        difference = row["difference"]
        assert difference["p_by_seed"] is None and 0 <= difference["p_mcnemar"] <= 1
        assert difference["p_by_example"] <= difference["p_by_example_holm"] <= 2 * difference["p_by_example"]


def test_other_examples_are_not_paired_and_a_note_says_so(tmp_path):
    one, other = make_run(tmp_path / "a", 0.6), make_run(tmp_path / "b", 0.7, "optimizer.lr=1e-3", examples="b")
    table = compared(one, other, "--out", tmp_path / "out")
    assert table["rows"][1]["difference"]["by_example"] is None
    assert "other examples" in table["notes"][0]
    assert len(compared(one, one, "--out", tmp_path / "again")["rows"]) == 1  # the same folder twice is one run


def test_a_metric_that_is_no_mean_is_compared_over_seeds_only(multirun, tmp_path):
    table = compared(multirun, "--metric", "macro_f1", "--out", tmp_path / "out")
    assert table["rows"][1]["difference"]["p_by_example"] is None and "not a mean over examples" in table["notes"][0]
    assert table["rows"][1]["difference"]["p_by_seed"] is not None


def test_recipes_that_differ_in_many_keys_get_different_names(tmp_path):
    many = ["optimizer.lr=1e-3", "optimizer.weight_decay=0.5", "scheduler.warmup_steps=2"]
    one = make_run(tmp_path / "a", 0.6, *many, "trainer.batch_size=6")
    two = make_run(tmp_path / "b", 0.6, *many, "trainer.batch_size=12")
    three = make_run(tmp_path / "c", 0.6)
    names = [row["name"] for row in compared(three, one, two, "--out", tmp_path / "out")["rows"]]
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ["missing"], "missing does not exist"),
        (None, ["empty"], "holds no run"),
        (None, ["a", "--metric", "f1"], "metric=f1 is not in .*choose from exact_accuracy, macro_f1"),
        (None, ["a", "--split", "test"], "1 of 1 runs are not evaluated on test.*split=test final=true"),
        (None, ["a", "copy"], "are the same recipe .* with the same seed"),
        (None, ["a", "--confidence", "95"], "outside"),
        ("unlink", ["a"], "val_examples.npz cannot be read"),
        ("undefined", ["a"], "is not defined on the examples"),
        ("unevaluated", ["a"], r"1 of 1 runs are not evaluated on val; run, or add --evaluate"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_message(tmp_path, monkeypatch, capsys, change, arguments, message):
    run = make_run(tmp_path / "a", 0.6)
    make_run(tmp_path / "copy", 0.7)
    (tmp_path / "empty").mkdir()
    path = run / "evaluation" / "val.json"
    if change == "unlink":
        (run / "evaluation" / "val_examples.npz").unlink()
    elif change == "unevaluated":
        path.unlink()
    elif change == "undefined":
        values = json.loads(path.read_text())
        values["metrics"]["exact_accuracy"] |= {"value": None, "ci_low": None, "ci_high": None}
        path.write_text(json.dumps(values))
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and re.search(message, error, re.S), error
    assert not (tmp_path / "out").exists()


def test_runs_that_were_not_evaluated_are_on_request(tmp_path):
    config = tiny_config(tmp_path / "runs" / "tiny" / "first", "trainer.max_steps=2")
    train(config)
    table = compared(config.run_dir, "--evaluate", "--out", tmp_path / "out")
    assert table["rows"][0]["seeds"] == [0] and (Path(config.run_dir) / "evaluation" / "val.json").is_file()
