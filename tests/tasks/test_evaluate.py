import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from training_cases import tiny_config

from titans_trm.config import compose
from titans_trm.data.load import load_data
from titans_trm.errors import InputError
from titans_trm.evaluation.statistics import mean_interval
from titans_trm.tasks.evaluate import evaluate
from titans_trm.tasks.hardware import device_of
from titans_trm.tasks.train import train
from titans_trm.training.checkpoint_io import load_checkpoint

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


def settings(run: Path, *overrides: str):
    return compose("evaluate", [f"run={run}", "hardware=cpu", "batch_size=5", *overrides])


def puzzles(run: Path, split: str):
    config = json.loads(json.dumps(load_checkpoint(run / "checkpoints" / "last.ckpt")["hyper_parameters"]["run"]))
    data = load_data(tiny_config(run, cache=Path(config["data"]["cache_dir"])).data)
    return data.train if split == "train" else data.test()


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
    assert set(written["metrics"]) == {"exact_accuracy", "token_accuracy", "cross_entropy"}
    full, adaptive = written["halting"]["full"], written["halting"]["adaptive"]
    assert full["mean_supervision_steps"] == 3.0 and full["net_calls"] == 12 * 3 * 4
    assert adaptive["net_calls"] == pytest.approx(12 * adaptive["mean_supervision_steps"] * 4)
    assert written["checkpoint"] == "best.ckpt"


def test_averaged_weights_are_scored_not_raw_ones(run, tmp_path):
    """With the average replaced by the raw weights the cross-entropy is another one."""
    averaged = evaluate(settings(run))["metrics"]["cross_entropy"]["value"]
    copy = tmp_path / "runs" / "tiny" / "copy"
    shutil.copytree(run, copy)
    checkpoint = load_checkpoint(copy / "checkpoints" / "best.ckpt")
    checkpoint["state_dict"] = checkpoint["current_model_state"]
    torch.save(checkpoint, copy / "checkpoints" / "best.ckpt")
    assert evaluate(settings(copy))["metrics"]["cross_entropy"]["value"] != averaged


def test_test_split_is_locked_and_its_uses_are_written_down(run, caplog):
    with pytest.raises(InputError, match="split=test is locked"):
        evaluate(settings(run, "split=test"))
    assert evaluate(settings(run, "split=test", "final=true", "halting=full"))["n"] == 12
    evaluate(settings(run, "split=test", "final=true", "halting=adaptive"))
    assert "used 1 times before" in caplog.text
    uses = [json.loads(line) for line in (run / "evaluation" / "test_uses.jsonl").read_text().splitlines()]
    assert len(uses) == 2 and uses[0]["checkpoint"] == "best.ckpt" and uses[0]["n"] == 12


def test_a_file_of_new_puzzles_is_scored_and_training_puzzles_are_refused(run, tmp_path):
    held_out = write_csv(tmp_path / "mine.csv", puzzles(run, "test"))
    result = evaluate(settings(run, f"file={held_out}"))
    assert result["split"] == "mine" and result["n"] == 12
    assert (run / "evaluation" / "mine.json").is_file()
    known = write_csv(tmp_path / "known.csv", puzzles(run, "train"))
    with pytest.raises(InputError, match="share"):
        evaluate(settings(run, f"file={known}"))


def test_a_subset_is_fixed_by_its_seed(run):
    one, again = (evaluate(settings(run, "max_examples=6")) for _ in range(2))
    other = evaluate(settings(run, "max_examples=6", "seed=1"))
    assert one["n"] == 6 and one["examples_sha256"] == again["examples_sha256"] != other["examples_sha256"]
    assert one["metrics"] == again["metrics"]


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


def test_bootstrap_interval_of_a_mean_is_reproducible_and_about_right():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).add(3.0).tolist()
    low, high = mean_interval(values, seed=1)
    assert (low, high) == mean_interval(values, seed=1)
    mean, half = sum(values) / 400, 1.96 * torch.tensor(values).std().item() / 400**0.5
    assert low == pytest.approx(mean - half, abs=0.15 * half) and high == pytest.approx(mean + half, abs=0.15 * half)
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="1 value"):
        mean_interval([])
