import ast
import csv
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_cases import tiny_config

from titans_trm.config import compose, load_config
from titans_trm.data.load import load_data
from titans_trm.errors import InputError
from titans_trm.evaluation.ledger import read_ledger
from titans_trm.evaluation.results import EXAMPLE_ARRAYS, Evaluation
from titans_trm.schema import build
from titans_trm.tasks.evaluate import evaluate, read_evaluation, with_criteria
from titans_trm.tasks.hardware import device_of
from titans_trm.tasks.train import train
from titans_trm.training.checkpoint_io import load_checkpoint
from titans_trm.training.run_folder import RunFolder

PACKAGE = Path(__file__).resolve().parents[2] / "titans_trm"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny finished run."""
    root = tmp_path_factory.mktemp("evaluate")
    config = tiny_config(root / "runs" / "tiny" / "first", cache=root / "cache")
    train(config)
    return Path(config.run_dir)


@pytest.fixture
def own(run, tmp_path):
    """A copy of the run that a test may change, without earlier evaluations."""
    copy = tmp_path / "own" / "runs" / "tiny" / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("evaluation"))
    return copy


def settings(run: Path, *overrides: str):
    """Evaluate quickly: no pictures, no timing, no train probe unless asked for."""
    quick = ["batch_size=5", "plots=false", "report=false", "latency_examples=0", "criteria=none"]
    names = {override.partition("=")[0] for override in overrides}
    kept = [override for override in quick if override.partition("=")[0] not in names]
    return compose("evaluate", [f"run={run}", "hardware=cpu", *kept, *overrides])


def puzzles(run: Path, split: str):
    data = load_data(load_config(run).data)
    return {"train": data.train, "val": data.val, "test": data.test()}[split]


def write_csv(path: Path, examples) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["source", "question", "answer", "rating"])
        for question, answer in zip(examples.inputs.tolist(), examples.targets.tolist(), strict=True):
            texts = (
                "".join("." if token == 1 else str(token - 1) for token in tokens) for tokens in (question, answer)
            )
            writer.writerow(["test", *texts, 0])
    return path


def test_validation_gives_the_promised_json(run):
    result = evaluate(settings(run))
    written = json.loads((run / "evaluation" / "val.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert written["split"] == "val" and written["n"] == 12 and written["weights"] == "ema"
    for metric in written["metrics"].values():
        assert metric["ci_low"] <= metric["value"] <= metric["ci_high"]
    assert {"exact_accuracy", "token_accuracy", "cross_entropy", "macro_f1", "micro_f1", "perplexity"} <= set(
        written["metrics"]
    )
    full, adaptive = written["halting"]["full"], written["halting"]["adaptive"]
    assert full["mean_supervision_steps"] == 3.0 and full["net_calls"] == 12 * 3 * 4
    assert adaptive["net_calls"] == pytest.approx(12 * adaptive["mean_supervision_steps"] * 4)
    assert adaptive["exact_accuracy"] == written["metrics"]["exact_accuracy_adaptive"]
    assert written["checkpoint"] == "best.ckpt"
    assert written["checkpoint_sha256"] == hashlib.sha256((run / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    assert len(written["steps"]) == 3 and written["steps"][-1]["exact_accuracy"] == full["exact_accuracy"]
    assert written["guard"]["train_examples"] == 64 and written["guard"]["shared_with_val"] == 0
    assert read_evaluation(RunFolder(run), "val") == build(Evaluation, written)


def test_single_examples_are_kept_for_comparisons_and_drawings(run):
    result = evaluate(settings(run, "plots=true", "report=true", "latency_examples=2"))
    assert "exactly right" in (run / "report.html").read_text()
    for path in result["files"].values():
        assert (run / path).stat().st_size > 50
    assert {"examples", "confusion_csv", "confusion", "calibration", "halting"} == set(result["files"])
    assert result["cost"]["latency_adaptive_ms"]["repeats"] == 2
    with np.load(run / result["files"]["examples"], allow_pickle=False) as arrays:
        assert set(EXAMPLE_ARRAYS) == set(arrays)
        assert arrays["exact"].mean() == pytest.approx(result["metrics"]["exact_accuracy"]["value"])
        assert arrays["exact_by_step"].shape == arrays["halting_logits"].shape == (12, 3)
        data = load_data(load_config(run).data)
        assert [key.decode() for key in arrays["key"]] == data.val.keys
        rows, answers = arrays["shown_rows"], arrays["shown_answers"]
        right = (answers[:, -1] == arrays["shown_targets"]).all(axis=1)
        assert answers.shape == (12, 3, 16) and (right == arrays["exact"][rows]).all()
    confusion = list(csv.reader((run / result["files"]["confusion_csv"]).read_text().splitlines()))
    assert sum(int(cell) for row in confusion[1:] for cell in row[1:]) == 12 * 16


def test_averaged_weights_are_scored_not_raw_ones(run, tmp_path):
    """With the average replaced by the raw weights the cross-entropy is another one."""
    averaged = evaluate(settings(run))["metrics"]["cross_entropy"]["value"]
    copy = tmp_path / "runs" / "tiny" / "copy"
    shutil.copytree(run, copy)
    checkpoint = load_checkpoint(copy / "checkpoints" / "best.ckpt")
    checkpoint["state_dict"] = checkpoint["current_model_state"]
    torch.save(checkpoint, copy / "checkpoints" / "best.ckpt")
    assert evaluate(settings(copy))["metrics"]["cross_entropy"]["value"] != averaged


def test_test_split_is_locked_and_its_uses_are_written_down(own, caplog):
    with pytest.raises(InputError, match="the test split is locked"):
        evaluate(settings(own, "split=test"))
    assert not (own / "evaluation" / "test_ledger.jsonl").exists()
    assert evaluate(settings(own, "split=test", "final=true", "halting=full"))["guard"]["test_use"] == 1
    with pytest.raises(InputError, match=r"used before.*1 times.*reason='...'"):
        evaluate(settings(own, "split=test", "final=true", "halting=full"))
    again = evaluate(settings(own, "split=test", "final=true", "halting=adaptive", "reason=the first was on battery"))
    assert again["guard"]["test_use"] == 2
    assert "Use 2 of the test split" in caplog.text
    first, second = read_ledger(own / "evaluation" / "test_ledger.jsonl")
    assert first["checkpoint"] == "best.ckpt" and first["n"] == 12 and first["reason"] is None
    assert first["checkpoint_sha256"] == again["checkpoint_sha256"]
    assert second["use"] == 2 and second["reason"] == "the first was on battery"
    assert {"date", "commit", "global_step", "examples_sha256"} <= set(first)


def test_a_use_counts_although_solving_fails(own, monkeypatch):
    monkeypatch.setattr("titans_trm.tasks.evaluate.score", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(settings(own, "split=test", "final=true"))
    assert len(read_ledger(own / "evaluation" / "test_ledger.jsonl")) == 1


def test_looks_of_other_runs_at_the_same_test_examples_are_told(own, monkeypatch, caplog):
    monkeypatch.chdir(own.parents[2])
    evaluate(settings(own, "split=test", "final=true", "halting=full"))
    other = own.parent / "other"
    shutil.copytree(own, other)
    (other / "evaluation" / "test_ledger.jsonl").unlink()
    evaluate(settings(other, "split=test", "final=true", "halting=full"))
    assert "looked at these test examples 1 times" in caplog.text


def test_a_file_of_new_puzzles_is_scored(own, tmp_path):
    config = tiny_config(own, "data.seed=77", cache=own.parents[2] / "cache")
    known = {*puzzles(own, "train").keys, *puzzles(own, "val").keys, *puzzles(own, "test").keys}
    fresh = load_data(config.data).train
    fresh = fresh.select([row for row, key in enumerate(fresh.keys) if key not in known][:9])
    result = evaluate(settings(own, f"file={write_csv(tmp_path / 'mine.csv', fresh)}", "halting=full"))
    assert result["split"] == "mine" and result["n"] == 9 and (own / "evaluation" / "mine.json").is_file()
    named_val = write_csv(tmp_path / "val.csv", fresh)
    assert evaluate(settings(own, f"file={named_val}", "halting=full"))["split"] == "file_val"


def test_the_test_split_in_a_file_is_locked_too(own, tmp_path):
    held_out = write_csv(tmp_path / "mine.csv", puzzles(own, "test"))
    with pytest.raises(InputError, match=r"12 of the 12 examples of .*mine\.csv: the test split is locked"):
        evaluate(settings(own, f"file={held_out}"))
    assert evaluate(settings(own, f"file={held_out}", "final=true", "halting=full"))["guard"]["test_use"] == 1


def test_validation_puzzles_in_a_file_are_told(own, tmp_path, caplog):
    result = evaluate(settings(own, f"file={write_csv(tmp_path / 'mine.csv', puzzles(own, 'val'))}", "halting=full"))
    assert result["guard"]["shared_with_val"] == 12
    assert "12 of 12 examples belong to groups of the validation set, by which best.ckpt was chosen" in caplog.text


def test_training_puzzles_are_refused_with_counts_and_examples(run, tmp_path):
    known = write_csv(tmp_path / "known.csv", puzzles(run, "train"))
    with pytest.raises(InputError, match=r"64 of 64 examples, \d+ groups, are training examples of .*memorised"):
        evaluate(settings(run, f"file={known}", "overlap=drop"))


def test_mirrored_and_relabelled_copies_of_training_puzzles_are_refused(own, tmp_path):
    """A transposed and relabelled training puzzle among validation puzzles is found, and left out on demand."""
    train, val = puzzles(own, "train"), puzzles(own, "val")
    relabelled = torch.tensor([0, 1, 5, 2, 3, 4], dtype=torch.uint8)

    def mirrored(tokens):
        return relabelled[tokens[:2].long()].unflatten(1, (4, 4)).transpose(1, 2).flatten(1)

    inputs = torch.cat([val.inputs, mirrored(train.inputs)])
    targets = torch.cat([val.targets, mirrored(train.targets)])
    assert not {tuple(row) for row in inputs.tolist()} & {tuple(row) for row in train.inputs.tolist()}
    mixed = write_csv(tmp_path / "mixed.csv", SimpleNamespace(inputs=inputs, targets=targets))
    with pytest.raises(InputError, match=r"2 of 14 examples.*example 12 = training example.*overlap=drop"):
        evaluate(settings(own, f"file={mixed}"))
    result = evaluate(settings(own, f"file={mixed}", "overlap=drop", "halting=full"))
    assert result["n"] == 12 and result["guard"]["dropped"] == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("picture.png", b"\x89PNG\r\n\x1a\n\x00", "is not UTF-8"),
        ("table.parquet", b"PAR1....PAR1", "the header is"),
        ("empty.csv", b"", "the file is empty"),
        ("other.csv", b"a,b\n1,2\n", "the header is"),
    ],
)
def test_files_of_an_unknown_format_are_refused(run, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        evaluate(settings(run, f"file={tmp_path / name}"))


def test_the_train_probe_is_clean_and_as_large_as_validation(own):
    result = evaluate(settings(own, "split=train_probe", "halting=full"))
    train = puzzles(own, "train")
    with np.load(own / result["files"]["examples"]) as arrays:
        probed = [key.decode() for key in arrays["key"]]
    assert result["split"] == "train_probe" and result["n"] == 12 and set(probed) <= set(train.keys)


def test_criteria_are_written_and_decide_the_exit_status_under_strict(own):
    limits = ["criteria=quickstart", "criteria.latency_p95_ms=1e5", "criteria.gap=1.0", "latency_examples=2"]
    easy = "criteria.targets.exact_accuracy.at_least=0.0"
    hard = "criteria.targets.exact_accuracy.at_least=1.1"
    assert "exit_status" not in evaluate(settings(own, *limits, easy, "strict=true"))
    assert "exit_status" not in evaluate(settings(own, *limits, hard))
    assert evaluate(settings(own, *limits, hard, "strict=true"))["exit_status"] == 3
    verdict = json.loads((own / "evaluation" / "criteria.json").read_text())["val"]
    ok = {criterion["name"]: criterion["ok"] for criterion in verdict["criteria"]}
    assert ok == {"exact_accuracy": False, "generalisation_gap": True, "latency_p95_ms": True, "parameters": True}
    assert verdict["met"] is False and (own / "evaluation" / "train_probe.json").is_file()


def test_the_gap_is_probe_minus_validation_and_holds_for_the_test_split_too(own):
    val = evaluate(settings(own, "criteria=default", "halting=full"))
    probe = json.loads((own / "evaluation" / "train_probe.json").read_text())
    verdict = json.loads((own / "evaluation" / "criteria.json").read_text())["val"]["criteria"][0]
    values = [one["metrics"]["exact_accuracy"]["value"] for one in (probe, val)]
    assert verdict["value"] == pytest.approx(values[0] - values[1])
    evaluate(settings(own, "criteria=default", "split=test", "final=true", "halting=full"))
    verdicts = json.loads((own / "evaluation" / "criteria.json").read_text())
    assert verdicts["test"]["criteria"] == verdicts["val"]["criteria"]


def test_without_validation_the_gap_of_a_test_is_unknown_and_strict_fails(own):
    result = evaluate(settings(own, "criteria=default", "split=test", "final=true", "halting=full", "strict=true"))
    (verdict,) = json.loads((own / "evaluation" / "criteria.json").read_text())["test"]["criteria"]
    assert verdict["ok"] is None and "run evaluate.py split=val" in verdict["note"]
    assert result["exit_status"] == 3


def test_criteria_are_those_of_the_experiment_unless_named(run):
    assert with_criteria(settings(run, "criteria=auto"), "quickstart").criteria.name == "quickstart"
    assert with_criteria(settings(run, "criteria=auto"), "something_else").criteria.name == "default"
    assert with_criteria(settings(run, "criteria=auto", "criteria.gap=0.2"), "quickstart").criteria.gap == 0.2
    assert with_criteria(settings(run, "criteria=none"), "quickstart").criteria.name == "none"


def test_a_subset_is_fixed_by_its_seed(run):
    one, again = (evaluate(settings(run, "max_examples=6")) for _ in range(2))
    other = evaluate(settings(run, "max_examples=6", "seed=1"))
    assert one["n"] == 6 and one["examples_sha256"] == again["examples_sha256"] != other["examples_sha256"]
    assert one["metrics"] == again["metrics"]


def test_how_sure_the_head_must_be_decides_when_examples_stop(own):
    hasty, sure = (evaluate(settings(own, f"halting_probability={p}")) for p in (0.0001, 0.9999))
    assert hasty["halting"]["adaptive"]["mean_supervision_steps"] == 1.0
    assert sure["halting"]["adaptive"]["mean_supervision_steps"] == 3.0
    assert hasty["halting"]["full"]["exact_accuracy"] == sure["halting"]["full"]["exact_accuracy"]
    assert (hasty["halting_probability"], sure["halting_probability"]) == (0.0001, 0.9999)


def test_an_unreadable_earlier_evaluation_is_named(own):
    path = RunFolder(own).evaluation("val")
    assert read_evaluation(RunFolder(own), "val") is None
    path.parent.mkdir(exist_ok=True)
    path.write_text("{")
    with pytest.raises(InputError, match=r"val\.json is damaged"):
        read_evaluation(RunFolder(own), "val")
    path.write_text('{"split": "val"}')
    with pytest.raises(InputError, match="written by another version"):
        read_evaluation(RunFolder(own), "val")


def test_wrong_runs_and_checkpoints_are_named(run, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        evaluate(settings(tmp_path / "nothing"))
    with pytest.raises(InputError, match="does not exist"):
        evaluate(settings(run, f"ckpt={tmp_path / 'none.ckpt'}"))
    damaged = run / "checkpoints" / "damaged.ckpt"
    damaged.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"damaged\.ckpt is damaged"):
        evaluate(settings(run, f"ckpt={damaged}"))
    damaged.unlink()


def test_a_checkpoint_outside_a_run_or_of_another_run_is_refused(own, tmp_path):
    alone = tmp_path / "alone" / "best.ckpt"
    alone.parent.mkdir()
    shutil.copy(own / "checkpoints" / "best.ckpt", alone)
    with pytest.raises(InputError, match=r"does not lie in the folder checkpoints/ of a run"):
        evaluate(settings(own, f"ckpt={alone}"))
    shutil.copytree(own, tmp_path / "copy")
    with pytest.raises(InputError, match=r"is of the run .*copy, not of run="):
        evaluate(settings(own, f"ckpt={tmp_path / 'copy' / 'checkpoints' / 'best.ckpt'}"))
    config = own / "config.yaml"
    config.write_text(config.read_text().replace("\nseed: 0\n", "\nseed: 5\n"))
    with pytest.raises(InputError, match="is of another run than .*: seed differ"):
        evaluate(settings(own))


def test_a_checkpoint_of_an_older_version_with_fewer_keys_is_still_of_its_run(own):
    path = own / "checkpoints" / "best.ckpt"
    checkpoint = load_checkpoint(path)
    del checkpoint["hyper_parameters"]["run"]["data"]["leakage"]
    torch.save(checkpoint, path)
    assert evaluate(settings(own, "halting=full"))["n"] == 12


def test_a_checkpoint_of_another_model_is_refused(run, tmp_path):
    copy = tmp_path / "runs" / "tiny" / "copy"
    shutil.copytree(run, copy)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("  width: 16", "  width: 32"))
    with pytest.raises(InputError, match="another model"):
        evaluate(settings(copy))


def test_changed_data_are_refused(run, tmp_path):
    copy = tmp_path / "runs" / "tiny" / "copy"
    shutil.copytree(run, copy)
    manifest = json.loads((copy / "data_manifest.json").read_text())
    manifest["splits"]["val"]["sha256"] = "0"
    (copy / "data_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="the data have changed"):
        evaluate(settings(copy))


def test_a_run_without_a_checkpoint_cannot_be_scored(run, tmp_path):
    copy = tmp_path / "runs" / "tiny" / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.ckpt"))
    with pytest.raises(InputError, match="no checkpoint"):
        evaluate(settings(copy))


def test_inference_runs_where_the_configuration_says(run):
    assert device_of(settings(run)) == torch.device("cpu")
    assert device_of(settings(run, "hardware.accelerator=gpu")) == torch.device("cuda")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert device_of(settings(run, "hardware.accelerator=auto")) == torch.device(expected)


class Untouchable:
    """Stands in the place of the test examples and fails when anything looks at it."""

    def __getattribute__(self, name):
        raise AssertionError(f"the test split was touched: {name}")

    def __len__(self):
        raise AssertionError("the test split was counted")


def test_training_never_touches_the_test_split(tmp_path, monkeypatch):
    loaded = []

    def load_without_test(config):
        loaded.append(dataclasses.replace(load_data(config), held_out=Untouchable()))
        return loaded[-1]

    monkeypatch.setattr("titans_trm.tasks.train.load_data", load_without_test)
    config = tiny_config(tmp_path / "runs" / "tiny" / "first", "trainer.max_steps=6")
    assert train(config)["status"] == "completed" and len(loaded) == 1
    with pytest.raises(AssertionError, match="the test split was"):
        len(loaded[0].test())


def test_no_code_that_trains_names_the_test_split():
    files = [*(PACKAGE / "training").rglob("*.py"), PACKAGE / "tasks" / "train.py", PACKAGE / "tasks" / "build.py"]
    assert len(files) > 15
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Attribute) and node.attr in ("held_out", "test")), f"{file}:{node.lineno}"
