"""`specialist=rules`: the built-in specialist. Offline, instant, the same answer to the same package every time."""

from titans_trm.specialist.outcome import Outcome
from titans_trm.specialist.protocol import (
    ContextPackage,
    Diagnosis,
    Implementation,
    RecommendedFix,
    Remedy,
    ResultsPackage,
    RootCause,
)
from titans_trm.specialist.remedies import ANSWERS, REMEDIES, describe, propose
from titans_trm.specialist.router import Intent, route

# What this specialist can say without writing code.
_PLANS: dict[Intent, str] = {
    "implement": (
        "1. titans-trm scaffold NAME: a model, its configuration and tests that pass from the start.\n"
        "2. Write the forward pass; titans-trm validate module:Class checks shapes, gradients, causality.\n"
        "3. python profile.py: parameters, memory and latency against the budgets."
    ),
    "paper": (
        "1. Write down each equation beside the line of code that will hold it (docs/architecture.md shows how).\n"
        "2. An oracle first: the equations token by token in float64, then the fast form against it.\n"
        "3. titans-trm scaffold NAME, then titans-trm validate module:Class."
    ),
    "pipeline": (
        "1. python train.py experiment=quickstart is a whole pipeline on generated data; copy its file in "
        "conf/experiment.\n2. Bring your data with data.train_file= and data.test_file=; splits and manifest are made "
        "for you."
    ),
    "add_feature": (
        "1. A key in the configuration first, with the old behaviour as its default.\n"
        "2. A test that fails without the feature.\n3. The feature; titans-trm validate before and after."
    ),
    "optimize": (
        "1. python evaluate.py run=latest: where the errors are.\n2. A multirun over learning rate, weight decay and "
        "recursion depth, selected on validation.\n3. Compare over seeds before believing a difference."
    ),
    "speed_up": (
        "1. python profile.py: where time and memory go.\n2. trainer.compile=true and hardware=gpu for training; "
        "adaptive halting for inference.\n3. Fewer supervision steps (model.halting.max_supervision_steps): measure "
        "the accuracy they cost."
    ),
    "fix_training": (
        "1. titans-trm diagnose RUN names the cause.\n2. titans-trm consult RUN turns it into overrides and a check "
        "that they worked."
    ),
}


class RulesSpecialist:
    """Rank the causes of a diagnosis and propose the remedies that are known to answer them."""

    name = "rules"
    instant = True

    def consult(self, context: ContextPackage) -> Outcome:
        """Answer from the table of remedies; without a diagnosis, with a plan for the request."""
        if context.diagnosis is not None and context.diagnosis.root_causes:
            return Outcome("answered", _treat(context))
        return Outcome("answered", _plan(context))


def _treat(context: ContextPackage) -> ResultsPackage:
    assert context.diagnosis is not None
    offered = {option.id: option for option in context.allowed_remedies}
    failed = {record.get("remedy") for record in context.history if record.get("outcome") == "rolled_back"}
    causes = sorted(context.diagnosis.root_causes, key=lambda cause: cause.rank)
    remedies: list[Remedy] = []
    fixes: list[RecommendedFix] = []
    for cause in causes:
        for name in ANSWERS.get(cause.rule or "", ()):
            if name not in offered or name in failed or name in [remedy.id for remedy in remedies]:
                continue
            current = offered[name].current
            remedy = propose(REMEDIES[name], current, rationale=f"{cause.rule}: {cause.issue}"[:600])
            remedies.append(remedy)
            words = REMEDIES[name].as_overrides(remedy.value, current)
            fixes.append(
                RecommendedFix(
                    priority=len(fixes) + 1,
                    fix=REMEDIES[name].what,
                    implementation=Implementation(change=" ".join(words)) if words else None,
                    expected_impact=f"{REMEDIES[name].effect.metric} {REMEDIES[name].effect.direction}",
                    effort="low",
                    risk="low" if REMEDIES[name].op != "act" else "medium",
                    verification=describe(REMEDIES[name].effect),
                    remedy=name,
                )
            )
    diagnosis = Diagnosis(
        status="diagnosis_complete",
        confidence=max((cause.confidence for cause in causes), default=0.0),
        root_causes=[_ranked(cause, rank) for rank, cause in enumerate(causes, start=1)],
        recommended_fixes=fixes,
        next_steps=[] if remedies else [_for_a_person(cause) for cause in causes],
    )
    if not remedies:
        why = "no knob of the run answers this; it takes a person" if not failed else "what is known was tried already"
        return ResultsPackage(
            status="escalated", confidence=diagnosis.confidence, diagnosis=diagnosis, remedies=[], escalation=why
        )
    return ResultsPackage(
        status="diagnosed", confidence=diagnosis.confidence, diagnosis=diagnosis, remedies=remedies[:3]
    )


def _plan(context: ContextPackage) -> ResultsPackage:
    way = route(context.task)
    if way.intent is None:
        return ResultsPackage(status="escalated", escalation=way.elsewhere or "out of scope")
    clarifications = []
    if way.intent in ("implement", "paper") and context.requirements.parameter_count is None:
        clarifications.append('How large may the model be? (requirements.parameters, e.g. "25M target")')
    if way.intent == "speed_up" and context.requirements.constraints.latency_ms is None:
        clarifications.append('How fast must it be? (requirements.constraints.inference_speed, e.g. "100 ms")')
    missing = [] if way.intent != "paper" or context.reference_materials.papers else ["the paper itself"]
    status = "needs_clarification" if missing else "plan_ready"
    return ResultsPackage(
        status=status,  # type: ignore[arg-type]
        confidence=way.confidence,
        plan=_PLANS[way.intent],
        clarifications=clarifications,
        missing_references=missing,
    )


def _ranked(cause: RootCause, rank: int) -> RootCause:
    return cause.model_copy(update={"rank": rank})


def _for_a_person(cause: RootCause) -> str:
    return f"{cause.rule or cause.issue}: {cause.fix or 'look at the evidence; this is not a setting'}"
