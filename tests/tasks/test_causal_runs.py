"""Causal tasks and mazes from training to evaluation: their own metrics choose the weights and are written down."""

import json
import re
from pathlib import Path

import pytest
from training_cases import WARNINGS, last

from titans_trm.cli import main
from titans_trm.config import compose
from titans_trm.errors import InputError
from titans_trm.tasks.evaluate import evaluate
from titans_trm.tasks.sample import SampleSettings, sample_run
from titans_trm.tasks.train import train

pytestmark = [pytest.mark.integration, *(pytest.mark.filterwarnings(warning) for warning in WARNINGS)]

SMALL = (
    "hardware=cpu",
    "model.parameter_budget=null",
    "model.width=16",
    "model.backbone.num_blocks=1",
    "model.backbone.num_heads=2",
    "model.backbone.mlp_hidden=16",
    "model.memory.num_heads=1",
    "model.memory.expansion=1",
    "trainer.max_steps=4",
    "trainer.val_every_steps=2",
    "trainer.val_examples=8",
    "trainer.val_time_share=1",
    "trainer.batch_size=4",
    "trainer.checkpoint_every_steps=2",
    "trainer.num_threads=1",
    "~logger",
)


def run(folder: Path, experiment: str, *overrides: str) -> dict:
    words = [f"experiment={experiment}", *SMALL, f"run_dir={folder}", f"data.cache_dir={folder.parent / 'cache'}"]
    return train(compose("train", [*words, *overrides]))


def scored(folder: Path) -> dict:
    return evaluate(compose("evaluate", [f"run={folder}", "hardware=cpu", "max_examples=8"]))


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    source = folder / "source.txt"
    source.write_text("".join(f"line {n} of {n * n} says nothing twice {n % 7}\n" for n in range(400)))
    run(folder / "run", "text", f"data.train_file={source}", "data.seq_len=64", "data.mask_window=0")
    return folder / "run"


def test_text_is_measured_in_bits_per_byte_by_position(text_run: Path) -> None:
    summary = json.loads((text_run / "summary.json").read_text())
    assert 4.0 < summary["val"]["bits_per_byte"] < 12.0
    best = last(text_run)["callbacks"]
    kept = next(state["best"] for state in best.values() if isinstance(state, dict) and "best" in state)
    assert set(kept) == {"step", "bits_per_byte", "cross_entropy"}
    result = scored(text_run)
    metric = result["metrics"]["bits_per_byte"]
    assert result["groups"] == 1 and 0.0 < metric["value"] < 9.0  # one package: a value, and no interval
    assert metric["ci_low"] is None and metric["ci_high"] is None and metric["method"] == "none"
    assert len(result["positions"]["buckets"]) == 8
    assert (text_run / "curves.png").stat().st_size > 10_000
    header = (text_run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "bits_per_byte" in header


def sampled(run: Path, **values) -> list[str]:
    """Return the whole samples."""
    settings = SampleSettings(**({"prompt": "line 1", "length": 12} | values))
    return ["".join(pieces) for pieces in zip(*sample_run(str(run), settings), strict=True)]


def test_a_text_model_goes_on_with_a_prompt(text_run: Path) -> None:
    (first,) = sampled(text_run)
    assert first.startswith("line 1")
    assert len(first) > 10
    assert sampled(text_run) == [first]
    greedy = [sampled(text_run, prompt="\u00e9", length=6, temperature=0.0, seed=seed) for seed in (0, 1)]
    assert greedy[0] == greedy[1] == sampled(text_run, prompt="\u00e9", length=6, top_k=1)
    assert "\0" not in greedy[0][0]
    wrong = (
        ({"length": 0}, "bytes=0"),
        ({"samples": 0}, "samples=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 1.5}, "top_p=1.5"),
    )
    for values, words in wrong:
        with pytest.raises(InputError, match=words):
            sampled(text_run, **values)


def test_samples_side_by_side_differ_and_their_speed_is_told(
    text_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = sampled(text_run, samples=3, temperature=1.5)
    assert len(set(several)) == 3
    assert all(text.startswith("line 1") for text in several)
    words = ["sample", str(text_run), "--prompt", "line", "--bytes", "5", "--samples", "2", "--top-p", "0.9"]
    assert main(words) == 0
    written = capsys.readouterr()
    assert re.fullmatch(r"--- 1\nline[^-]*\n--- 2\nline.*\n", written.out, re.S)
    assert re.fullmatch(r"5 prompt bytes in [\d.]+ s; then 8 bytes in [\d.]+ s: [\d.]+ bytes/s\n", written.err)
    assert main(["sample", str(text_run), "--bytes", "3"]) == 0
    assert capsys.readouterr().out.startswith("def ")


def test_recall_is_measured_by_answers_and_trains_with_a_halting_logit_per_token(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    data = ["data.num_train=64", "data.num_val=8", "data.num_test=8", "data.seq_len=32", "data.num_pairs=4"]
    halting = ["model.halting.unit=token", "model.halting.max_supervision_steps=2", "loss.diversity=logit_std"]
    summary = run(folder, "mqar", *data, "data.vocab_size=32", *halting)
    assert summary["status"] == "completed"
    assert "bits_per_byte" not in summary["val"]
    assert 0.0 <= summary["val"]["token_accuracy"] <= 1.0
    assert scored(folder)["metrics"]["token_accuracy"]["value"] >= 0.0
    with pytest.raises(InputError, match=r"is a run of data.task=mqar; only text"):
        sampled(folder)
    with pytest.raises(InputError, match="are generated, not read"):
        evaluate(compose("evaluate", [f"run={folder}", "hardware=cpu", "file=x.csv"]))


def test_mazes_are_measured_by_the_rules_and_by_the_label(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    data = ["data.num_train=32", "data.num_val=8", "data.num_test=8", "data.size=6", "data.min_path=5"]
    summary = run(folder, "maze_small", *data, "model.halting.max_supervision_steps=2")
    assert summary["val"]["exact_accuracy"] <= summary["val"]["valid_optimal"]
    result = scored(folder)
    assert set(result["metrics"]) >= {"valid_optimal", "exact_accuracy"}
    assert result["metrics"]["valid_optimal"]["ci_high"] <= 1.0
