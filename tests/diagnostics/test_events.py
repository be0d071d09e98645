"""The audit file is appended to, whole and in order, and shows when it was tampered with."""

import json
from pathlib import Path

import pytest

from titans_trm.diagnostics.events import EventLog, broken_lines, read_events
from titans_trm.errors import InputError


def test_events_are_numbered_and_keep_what_they_are_given(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "diagnostics" / "events.jsonl")
    log.append("started", step=0)
    log.append("alert", step=20, rule="loss_spike", severity="warn", data={"message": "über", "step": 3, "loss": 2.5})
    events = read_events(log.path)
    assert [event["seq"] for event in events] == [1, 2]
    assert list(events[1])[:5] == ["seq", "step", "event", "rule", "severity"]
    assert (events[1]["step"], events[1]["message"], events[1]["loss"]) == (20, "über", 2.5)
    assert broken_lines(log.path) == []


def test_a_second_writer_continues(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        EventLog(tmp_path / "e.jsonl").append("note", step=step)
    assert [event["seq"] for event in read_events(tmp_path / "e.jsonl")] == [1, 2, 3]
    assert broken_lines(tmp_path / "e.jsonl") == []


def test_numbers_json_cannot_hold_are_written_as_words(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    log.append("alert", step=1, data={"evidence": {"loss": float("nan"), "norms": [float("inf"), 1.0]}})
    assert read_events(log.path)[0]["evidence"] == {"loss": "nan", "norms": ["inf", 1.0]}


def test_a_line_cut_short_by_a_crash_is_left_out_and_shown(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    log.append("note", step=1)
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"seq": 2, "step"')
    log.append("note", step=2)
    assert [(event["seq"], event["step"]) for event in read_events(log.path)] == [(1, 1), (2, 2)]
    assert broken_lines(log.path) == [2]


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_a_change_after_the_fact_shows(tmp_path: Path, change: str) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    for step in (1, 2, 3):
        log.append("note", step=step)
    lines = log.path.read_text(encoding="utf-8").splitlines()
    if change == "edit":
        lines[1] = json.dumps({**json.loads(lines[1]), "step": 7})
    else:
        del lines[1]
    log.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert broken_lines(log.path), "the line after the changed one no longer follows from it"


def test_events_of_steps_that_were_run_again_can_be_left_out(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    log.append("alert", step=10, rule="kept")
    log.append("alert", step=30, rule="lost")
    log.append("resumed", step=20)
    log.append("alert", step=30, rule="again")
    assert [event["rule"] for event in read_events(log.path)] == ["kept", "lost", "", "again"]
    assert [event["rule"] for event in read_events(log.path, lost=False)] == ["kept", "", "again"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        read_events(tmp_path / "none.jsonl")
