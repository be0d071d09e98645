"""The table of an ablation: means, intervals and tests against scipy and closed forms, honest with few seeds."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from titans_trm.evaluation.ablation import AblationTable, Outcome, draw_ablation, summarise, to_csv, to_markdown
from titans_trm.evaluation.statistics import wilson_interval

NOTES = {"base": "as it is", "no_memory": "without memory", "two_nets": "two networks", "never_run": "not there"}
VALUES = {"base": [0.90, 0.85, 0.95], "no_memory": [0.60, 0.50, 0.75], "two_nets": [0.91, 0.84, 0.95]}


def outcome(row: str, seed: int, accuracy: float) -> Outcome:
    return Outcome(
        row=row,
        seed=seed,
        exact_accuracy=accuracy,
        exact_accuracy_adaptive=accuracy - 0.1,
        mean_supervision_steps_adaptive=2.0 + seed,
        num_examples=1000,
        parameters=160_000,
        wall_seconds=120.0,
        net_calls=32.0,
    )


def table(values: dict[str, list[float]] = VALUES) -> AblationTable:
    outcomes = [outcome(row, seed, value) for row, found in values.items() for seed, value in enumerate(found)]
    return summarise(outcomes, "base", NOTES)


def test_mean_deviation_and_interval_are_those_of_scipy() -> None:
    row = table().rows[1]
    values = VALUES["no_memory"]
    assert row.mean == pytest.approx(np.mean(values)) and row.std == pytest.approx(np.std(values, ddof=1))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (row.ci_low, row.ci_high) == pytest.approx((max(low, 0), min(high, 1)))


def test_differences_are_paired_by_seed() -> None:
    rows = table().rows
    assert rows[0].difference is None and rows[0].p is None
    found = stats.ttest_rel(VALUES["no_memory"], VALUES["base"])
    assert rows[1].p == pytest.approx(found.pvalue)
    interval = found.confidence_interval(0.95)
    assert (rows[1].difference_low, rows[1].difference_high) == pytest.approx((interval.low, interval.high))


def test_p_values_are_corrected_by_holm() -> None:
    rows = table().rows
    first, second = sorted(row.p for row in rows if row.p is not None)
    corrected = sorted(row.p_holm for row in rows if row.p_holm is not None)
    assert corrected == pytest.approx([2 * first, max(2 * first, second)])


def test_one_seed_has_an_interval_of_its_examples_and_no_test() -> None:
    row = table({"base": [0.9], "no_memory": [0.6]}).rows[1]
    assert row.std is None and row.p is None and row.p_holm is None
    assert (row.ci_low, row.ci_high) == pytest.approx(wilson_interval(600, 1000))
    assert row.difference == pytest.approx(-0.3) and row.difference_low is None


def test_only_seeds_that_both_rows_have_are_compared() -> None:
    outcomes = [outcome("base", 0, 0.9), outcome("no_memory", 0, 0.5), outcome("no_memory", 1, 0.1)]
    row = summarise(outcomes, "base", NOTES).rows[1]
    assert row.difference == pytest.approx(-0.4) and row.mean == pytest.approx(0.3)


def test_rows_keep_the_order_of_the_suite_and_those_not_run_are_left_out() -> None:
    assert [row.row for row in table().rows] == ["base", "no_memory", "two_nets"]


def test_without_the_baseline_there_is_no_table() -> None:
    with pytest.raises(ValueError, match="baseline=base has no finished run"):
        table({"no_memory": [0.5]})


def test_markdown_and_csv_hold_every_number() -> None:
    text = to_markdown(table())
    assert "| `base` | 90.0 ± 5.0 | 77.6 to 100.0 |" in text
    assert text.count("\n") == 5 and "| without memory |" in text
    read = list(csv.DictReader(io.StringIO(to_csv(table()))))
    assert len(read) == 9
    assert {float(line["exact_accuracy"]) for line in read if line["row"] == "no_memory"} == set(VALUES["no_memory"])


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    for number, found in enumerate((table(), table({"base": [0.9], "no_memory": [0.6]}))):
        draw_ablation(found, tmp_path / f"{number}.png", "Ablation")
        assert (tmp_path / f"{number}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
