"""The states a case goes through, as code and as a diagram (`resources/process.dot`, checked by a test)."""

from enum import StrEnum


class State(StrEnum):
    """Where a case stands."""

    DETECT = "detect"  # what is asked, what alarm was raised
    GATHER = "gather"  # build the context package
    CONSULT = "consult"  # ask the specialist
    CHECK = "check"  # does the answer fit the protocol
    APPROVE = "approve"  # a person decides on a plan
    IMPLEMENT = "implement"  # in a git worktree of its own
    MEASURE = "measure"  # re-measure what is claimed
    JUDGE = "judge"  # allow-list, bounds, cool-down, limits
    APPLY = "apply"  # checkpoint, then change, at a step boundary
    WATCH = "watch"  # until the effect can be judged
    KEEP = "keep"
    ROLL_BACK = "roll_back"
    RECORD = "record"  # write results and events; the end of every case


TRANSITIONS: dict[State, frozenset[State]] = {
    State.DETECT: frozenset({State.GATHER, State.RECORD}),
    State.GATHER: frozenset({State.CONSULT, State.RECORD}),
    State.CONSULT: frozenset({State.CHECK, State.RECORD}),
    State.CHECK: frozenset({State.APPROVE, State.MEASURE, State.RECORD}),
    State.APPROVE: frozenset({State.IMPLEMENT, State.RECORD}),
    State.IMPLEMENT: frozenset({State.MEASURE, State.RECORD}),
    State.MEASURE: frozenset({State.JUDGE, State.RECORD}),
    State.JUDGE: frozenset({State.APPLY, State.RECORD}),
    State.APPLY: frozenset({State.WATCH, State.ROLL_BACK}),
    State.WATCH: frozenset({State.KEEP, State.ROLL_BACK}),
    State.KEEP: frozenset({State.RECORD}),
    State.ROLL_BACK: frozenset({State.RECORD}),
    State.RECORD: frozenset(),
}


class Case:
    """One consultation on its way through the process; a step that the diagram does not have is a bug."""

    def __init__(self) -> None:
        self.state = State.DETECT
        self.path = [State.DETECT]

    def to(self, state: State) -> None:
        """Enter `state`.

        Raises:
            RuntimeError: the diagram has no such step.
        """
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"no step leads from {self.state} to {state}; see resources/process.dot.")
        self.state = state
        self.path.append(state)
