"""The table of a sweep against numbers worked out by hand."""

import csv
import io
from pathlib import Path

import pytest
from sweep_cases import result

from titans_trm.sweeps.folder import SweepFolder
from titans_trm.sweeps.summary import Table, tabulate, to_csv, to_markdown, write_table

METRIC = "val/exact_accuracy"
COMMAND = "python train.py -m model.width=16,32 seed=0,1,2"


def grid() -> Table:
    words = [(f"model.width={width}", f"seed={seed}", "hardware=cpu") for width in (16, 32) for seed in (0, 1, 2)]
    values = [0.2, 0.4, 0.6, 0.8, 0.9, None]
    results = [result(i, "completed", value, *words[i]) for i, value in enumerate(values[:5])]
    results.append(result(5, "failed", None, *words[5], error="ended by SIGKILL (out of memory?)"))
    return tabulate(results, METRIC, COMMAND, ["model.width", "seed"])


def test_means_and_spreads_are_over_seeds_of_equal_configurations() -> None:
    best, other = grid().groups
    assert (best.words, other.words) == (("model.width=32",), ("model.width=16",))
    assert best.mean == pytest.approx(0.85) and best.std == pytest.approx(0.1 / 2**0.5)
    assert other.mean == pytest.approx(0.4) and other.std == pytest.approx(0.2)
    assert (len(best.values), len(best.results)) == (2, 3)


def test_folds_are_averaged_like_seeds() -> None:
    results = [result(i, "completed", value, f"data.fold={i}", "a=1") for i, value in enumerate((0.2, 0.4))]
    (group,) = tabulate(results, METRIC, COMMAND, ["data.fold"]).groups
    assert group.mean == pytest.approx(0.3) and group.name == "all jobs"


def test_of_losses_the_smallest_is_best_and_a_pruned_trial_never_is() -> None:
    results = [
        result(number, status, None, f"a={number}")  # type: ignore[arg-type]
        for number, status in enumerate(("completed", "completed", "pruned", "completed"))
    ]
    for one, value in zip(results, (3.0, 2.0, 1.0, None), strict=True):
        one.summary["val"] = {"cross_entropy": value}  # null in the JSON: it was not finite
    table = tabulate(results, "val/cross_entropy", COMMAND, ["a"])
    assert [group.words for group in table.groups] == [("a=1",), ("a=0",), ("a=2",), ("a=3",)]
    assert table.best is not None and table.best.std is None


def test_the_csv_has_a_row_a_job(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(grid(), SweepFolder(tmp_path)))))
    assert [row["job"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert [row[METRIC] for row in rows] == ["0.2", "0.4", "0.6", "0.8", "0.9", ""]
    assert (rows[5]["status"], rows[5]["model.width"], rows[5]["seed"]) == ("failed", "32", "2")
    assert rows[5]["error"] == "ended by SIGKILL (out of memory?)"
    assert rows[0]["run_dir"] == str(tmp_path / "0")
    assert "hardware" not in rows[0]  # equal in all jobs


def test_the_page_names_best_spread_and_failures(tmp_path: Path) -> None:
    page = to_markdown(grid(), SweepFolder(tmp_path), "grid")
    assert "6 jobs: 5 completed, 1 failed; best val/exact_accuracy 0.85 ± 0.071 with model.width=32" in page
    assert "| `model.width=32` | 2 of 3 | 0.85 ± 0.071 | 0.8 | 0.9 |" in page
    assert "- job 5 (`model.width=32 seed=2`): ended by SIGKILL (out of memory?)" in page
    assert f"python evaluate.py run={tmp_path / '4'}" in page
    assert "| 5 | failed | 32 | 2 |  |  |  |" in page


def test_the_page_of_a_search_says_what_to_do_with_the_best(tmp_path: Path) -> None:
    results = [result(i, "completed", 0.1 * i, "seed=0", f"optimizer.lr={i}", "name=a b") for i in range(60)]
    page = to_markdown(tabulate(results, METRIC, COMMAND, ["optimizer.lr"]), SweepFolder(tmp_path), "optuna")
    assert "    python train.py -m optimizer.lr=59 'name=a b' seed=1,2,3\n" in page
    assert "The best 50 of 60 jobs; `sweep_summary.csv` has all." in page
    assert "| 59 | completed | 59 | 5.9 |" in page and "| 0 | completed" not in page


def test_pictures_are_drawn_once_there_is_a_value(tmp_path: Path) -> None:
    nothing = tabulate([result(0, "waiting")], METRIC, COMMAND, [])
    write_table(SweepFolder(tmp_path / "none"), nothing, "grid")
    assert {file.suffix for file in (tmp_path / "none").iterdir()} == {".csv", ".md"}
    assert "No job has a result yet." in (tmp_path / "none" / "sweep_summary.md").read_text()
    write_table(SweepFolder(tmp_path / "grid"), grid(), "grid")
    trials = [
        result(i, "pruned" if i == 2 else "completed", 0.1 * i, f"optimizer.lr=1e-{i}", f"optimizer={'ab'[i % 2]}")
        for i in range(4)
    ]
    write_table(
        SweepFolder(tmp_path / "search"), tabulate(trials, METRIC, COMMAND, ["optimizer.lr", "optimizer"]), "optuna"
    )
    for name in ("grid", "search"):
        assert (tmp_path / name / "sweep_summary.png").read_bytes().startswith(b"\x89PNG")
