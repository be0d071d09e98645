"""The drawing of the process is the code of the process."""

import re

import pytest

from titans_trm.specialist.process import TRANSITIONS, Case, State
from titans_trm.specialist.texts import read


def drawn() -> set[tuple[str, str]]:
    return set(re.findall(r"^\s*(\w+) -> (\w+);", read("process.dot"), re.M))


def test_the_diagram_has_exactly_the_transitions_of_the_code() -> None:
    assert drawn() == {(str(a), str(b)) for a, targets in TRANSITIONS.items() for b in targets}
    labelled = set(re.findall(r"^\s*(\w+)\s+\[label", read("process.dot"), re.M))
    assert labelled == {str(state) for state in State} == {str(state) for state in TRANSITIONS}


def test_every_state_is_reached_and_every_way_ends_in_the_record() -> None:
    reached, todo = {State.DETECT}, [State.DETECT]
    while todo:
        for state in TRANSITIONS[todo.pop()] - reached:
            reached.add(state)
            todo.append(state)
    assert reached == set(State)
    ending = {State.RECORD}
    while more := {state for state, targets in TRANSITIONS.items() if targets & ending} - ending:
        ending |= more
    assert ending == set(State)
    assert not TRANSITIONS[State.RECORD]


def test_a_case_follows_the_diagram_and_nothing_else() -> None:
    case = Case()
    case.to(State.GATHER)
    with pytest.raises(RuntimeError, match="no step leads from gather to apply"):
        case.to(State.APPLY)
    case.to(State.RECORD)
    assert case.path == [State.DETECT, State.GATHER, State.RECORD]
    with pytest.raises(RuntimeError):
        case.to(State.DETECT)
