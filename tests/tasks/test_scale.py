"""`titans-trm scale`: a run in, the curve of accuracy against compute out, behind the guards of an evaluation."""

import json
import shutil
from pathlib import Path

import pytest
from training_cases import WARNINGS, tiny_config

from titans_trm.cli import main
from titans_trm.errors import InputError
from titans_trm.evaluation.ledger import read_ledger
from titans_trm.tasks.scale import parse_settings, scale
from titans_trm.tasks.train import train

pytestmark = [pytest.mark.integration, *(pytest.mark.filterwarnings(warning) for warning in WARNINGS)]

SMALL = ["examples=6", "steps=[1,4]", "patience=[1]", "rollouts=[2]", "views=[2]", "batch_size=4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scale")
    config = tiny_config(root / "runs" / "tiny" / "first", cache=root / "cache")
    train(config)
    return Path(config.run_dir)


def test_a_curve_is_measured_written_and_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", str(run), *SMALL]) == 0
    shown = capsys.readouterr().out
    result = json.loads((run / "evaluation" / "scaling.json").read_text())
    assert result["n"] == 6 and result["trained_supervision_steps"] == 3 and result["guard"]["test_use"] is None
    found = [(point["method"], point["setting"]) for point in result["points"]]
    assert found == [
        ("steps", 1), ("steps", 3), ("steps", 4), ("halting", 3), ("halting", 4), ("convergence", 1), ("rollouts", 2),
        ("votes", 2),
    ]  # fmt: skip
    costs = {tuple(pair): point["net_calls"] for pair, point in zip(found, result["points"], strict=True)}
    assert costs["steps", 4] == 4 * costs["steps", 1] == 4 * 4  # T (n + 1) net calls a step
    assert costs["rollouts", 2] == costs["votes", 2] == 2 * costs["steps", 3]
    assert all(point["cpu_seconds"] > 0 for point in result["points"])
    assert any(point["frontier"] for point in result["points"])
    table = (run / "evaluation" / "scaling.md").read_text()
    for words in ("4 steps", "halting, 3 at most", "unchanged for 1", "2 noisy rollouts", "2 views vote"):
        assert words in table and words in shown
    assert (run / "evaluation" / "scaling.png").stat().st_size > 10_000
    assert str(run / "evaluation" / "scaling.png") in shown


def test_the_test_split_is_locked_and_its_use_written_down(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "runs" / "tiny" / "run"
    shutil.copytree(run, own, ignore=shutil.ignore_patterns("evaluation"))
    few = ["examples=4", "steps=[1]", "patience=[]", "rollouts=[]", "views=[]", "split=test"]
    with pytest.raises(InputError, match=r"the test split is locked.*final=true"):
        scale(str(own), parse_settings(few))
    result = scale(str(own), parse_settings([*few, "final=true"]))
    assert result["split"] == "test" and result["guard"]["test_use"] == 1
    assert [use["n"] for use in read_ledger(own / "evaluation" / "test_ledger.jsonl")] == [4]
    assert (own / "evaluation" / "scaling_test.json").is_file()
    with pytest.raises(InputError, match="reason="):
        scale(str(own), parse_settings([*few, "final=true"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rollout=[2]"], "rollout is not a key.*rollouts"),
        (["rollouts=[0]"], r"rollouts=\[0\] must hold numbers of 1 or more"),
        (["noise=0"], "noise=0"),
        (["split=train"], "split"),
        (["8"], "8 is no setting; write KEY=VALUE"),
    ],
)
def test_settings_out_of_range_are_named(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_settings(words)
