"""`specialist=rules`: the built-in specialist. Offline, instant, the same answer to the same package every time."""

from titans_trm.specialist.outcome import Outcome
from titans_trm.specialist.protocol import (
    ContextPackage,
    Diagnosis,
    Implementation,
    RecommendedFix,
    Remedy,
    RemedyOption,
    ResultsPackage,
)
from titans_trm.specialist.remedies import REMEDIES, describe
from titans_trm.specialist.router import Intent, route

MAX_RATIONALE = 600  # characters, as the protocol says
_LOOK = "look at the evidence; this is not a setting"
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
    causes = sorted(context.diagnosis.root_causes, key=lambda cause: cause.rank)
    first = causes[0]
    failed = {record["remedy"] for record in context.history if record.get("outcome") == "rolled_back"}
    options = [option for option in context.allowed_remedies if option.id not in failed and option.id in REMEDIES]
    diagnosis = Diagnosis(
        status="diagnosis_complete",
        confidence=first.confidence,
        root_causes=causes,
        recommended_fixes=[_fix(option, place) for place, option in enumerate(options, start=1)],
        next_steps=[f"{cause.rule or cause.issue}: {cause.fix or _LOOK}" for cause in causes if options == []],
    )
    if not options:
        why = "what is known was tried already" if failed else "no knob of the run answers this; it takes a person"
        return ResultsPackage(
            status="escalated", confidence=first.confidence, diagnosis=diagnosis, remedies=[], escalation=why
        )
    why = f"{first.rule}: {first.issue}"[:MAX_RATIONALE]
    remedies = [
        Remedy(id=option.id, value=option.suggested, rationale=why, expected_effect=option.effect)
        for option in options[: context.limits.max_remedies]
    ]
    return ResultsPackage(status="diagnosed", confidence=first.confidence, diagnosis=diagnosis, remedies=remedies)


def _fix(option: RemedyOption, place: int) -> RecommendedFix:
    kind = REMEDIES[option.id]
    effect = option.effect or kind.effect
    words = kind.as_overrides(option.suggested, option.current)
    return RecommendedFix(
        priority=place,
        fix=kind.what,
        implementation=Implementation(change=" ".join(words)) if words else None,
        expected_impact=f"{effect.metric} {effect.direction}",
        effort="low",
        risk="medium" if kind.op == "act" else "low",
        verification=describe(effect),
        remedy=option.id,
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
