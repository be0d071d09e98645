"""The ledger only grows, and whoever changes it is found out."""

from pathlib import Path

import pytest

from titans_trm.errors import InputError
from titans_trm.evaluation.ledger import append_use, read_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation" / "test_ledger.jsonl"
    assert [append_use(path, {"n": number}) for number in (10, 20, 30)] == [1, 2, 3]
    return path


def test_uses_are_read_back_in_order(ledger: Path) -> None:
    assert [(use["use"], use["n"]) for use in read_ledger(ledger)] == [(1, 10), (2, 20), (3, 30)]
    assert read_ledger(ledger.with_name("none.jsonl")) == []


def test_a_new_use_leaves_the_lines_before_it_as_they_were(ledger: Path) -> None:
    before = ledger.read_bytes()
    append_use(ledger, {"n": 40})
    assert ledger.read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0].replace("10", "11"), *lines[1:]], 2),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [*lines[:2], "not JSON"], 3),
        (lambda lines: [*lines, '{"use": 4}'], 4),
    ],
)
def test_changed_and_missing_lines_are_found(ledger: Path, change, line: int) -> None:
    ledger.write_text("\n".join(change(ledger.read_text().splitlines())) + "\n")
    with pytest.raises(InputError, match=rf"test_ledger\.jsonl: line {line} was changed, or lines before it"):
        append_use(ledger, {"n": 50})
