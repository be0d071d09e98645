"""The skill: from a request or a diagnosis to a verified results package. `execute_ml_expert` is the way in."""

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from titans_trm.errors import InputError
from titans_trm.specialist.audit import Audit, digest
from titans_trm.specialist.claude import ClaudeSpecialist, require_agent
from titans_trm.specialist.command import CommandSpecialist
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.outcome import Approve, Outcome, Specialist, failed
from titans_trm.specialist.process import Case, State
from titans_trm.specialist.protocol import ContextPackage, ResultsPackage, read_context
from titans_trm.specialist.router import route
from titans_trm.specialist.rules import RulesSpecialist
from titans_trm.specialist.verify import Measure, verify_results
from titans_trm.specialist.worktree import Worktree


async def execute_ml_expert(
    context: Mapping[str, Any],
    *,
    settings: SpecialistConfig | None = None,
    approve: Approve | None = None,
    root: Path | None = None,
    measure: Measure | None = None,
    audit: Audit | None = None,
) -> dict[str, Any]:
    """Return the results package for a context package, both as plain values.

    A plan is only returned. It is carried out if `approve`, shown the plan, says yes: by an agent, in a git worktree
    of `root`, whose patch is left for a person to read; nothing is committed and the running tree is not touched.

    Args:
        context: the context package.
        settings: who is asked and within which limits; None = the built-in rules.
        approve: decides on a plan; None = no.
        root: the repository that plans are carried out on, and that claimed paths are relative to.
        measure: measures the model that the results are about.
        audit: keeps the packages.

    Raises:
        InputError: the context package is not valid. What goes wrong later is in the results, never raised.
    """
    package = read_context(context)
    outcome = await asyncio.to_thread(
        consult, package, settings or SpecialistConfig(), approve=approve, root=root, measure=measure, audit=audit
    )
    ending = {"ending": outcome.ending, **outcome.details}
    return outcome.results.model_copy(update={"call": ending}).to_dict()


def consult(
    context: ContextPackage,
    settings: SpecialistConfig,
    *,
    approve: Approve | None = None,
    root: Path | None = None,
    measure: Measure | None = None,
    audit: Audit | None = None,
) -> Outcome:
    """Take a case through the process up to its record; the blocking form of `execute_ml_expert`."""
    case = Case()
    number = audit.open(context) if audit is not None else 0
    outcome = _answer(case, context, settings, root)
    if outcome.ok and outcome.results.status == "plan_ready" and approve is not None and settings.kind == "claude":
        outcome = _carry_out(case, context, outcome, settings, approve, root)
    if outcome.ok and case.state in (State.CHECK, State.IMPLEMENT):
        implemented = case.state is State.IMPLEMENT
        case.to(State.MEASURE)
        folder = Path(outcome.details.get("worktree") or root or Path.cwd())
        verified = verify_results(outcome.results, folder, measure=measure, run_tests=implemented)
        outcome = Outcome(outcome.ending, verified, outcome.details)
    case.to(State.RECORD)
    details = {**outcome.details, "package": digest(context), "path": [str(state) for state in case.path]}
    outcome = Outcome(outcome.ending, outcome.results, details)
    if audit is not None:
        audit.close(number, outcome)
    return outcome


def make_specialist(settings: SpecialistConfig, *, workspace: Path | None = None, write: bool = False) -> Specialist:
    """Return the specialist of `settings`."""
    if settings.kind == "rules":
        return RulesSpecialist()
    if settings.kind == "command":
        return CommandSpecialist(settings)
    if settings.kind == "claude":
        return ClaudeSpecialist(settings, workspace=workspace, write=write)
    raise InputError("specialist=off: nobody is on call; choose rules, command or claude.")


def check_reachable(settings: SpecialistConfig) -> None:
    """Check that the specialist of `settings` can be called from here.

    Raises:
        InputError: his package or program is missing; says what to do.
    """
    if settings.mode == "record":
        return
    if settings.kind == "claude":
        require_agent()
    if settings.kind == "command" and shutil.which(settings.command[0]) is None:
        raise InputError(f"specialist.command[0]={settings.command[0]} is not a program; give its name or full path.")


def _answer(case: Case, context: ContextPackage, settings: SpecialistConfig, root: Path | None) -> Outcome:
    """Route, ask, and check that the answer came."""
    if context.diagnosis is None:
        way = route(context.task)
        if way.intent is None:
            results = ResultsPackage(status="escalated", escalation=way.elsewhere or "out of scope")
            return Outcome("answered", results, {"intent": None})
    case.to(State.GATHER)
    case.to(State.CONSULT)
    workspace = None
    if settings.kind == "claude" and root is not None and context.diagnosis is None:
        try:
            workspace = Worktree(root).create()  # so that an agent reads tracked files, and nothing beside them
        except InputError as error:
            return failed("unavailable", str(error))
    try:
        outcome = make_specialist(settings, workspace=None if workspace is None else workspace.path).consult(context)
    finally:
        if workspace is not None:
            workspace.remove()
    if outcome.ok:
        case.to(State.CHECK)
    return outcome


def _carry_out(
    case: Case,
    context: ContextPackage,
    planned: Outcome,
    settings: SpecialistConfig,
    approve: Approve,
    root: Path | None,
) -> Outcome:
    """Show the plan; if it is approved, have it carried out in a worktree."""
    case.to(State.APPROVE)
    if not approve(planned.results):
        return Outcome("denied", planned.results, planned.details)
    try:
        worktree = Worktree(root or Path.cwd()).create()
    except InputError as error:
        return failed("unavailable", str(error))
    case.to(State.IMPLEMENT)
    task = f"{context.task}\n\nApproved plan:\n{planned.results.plan or ''}"
    outcome = make_specialist(settings, workspace=worktree.path, write=True).consult(
        context.model_copy(update={"task": task})
    )
    details = {**outcome.details, "worktree": str(worktree.path), "patch": worktree.patch()}
    return Outcome(outcome.ending, outcome.results, details)
