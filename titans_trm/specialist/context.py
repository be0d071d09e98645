"""Build the context package: of an alarm in a run under way, of a finished run, or of a request in plain words."""

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from titans_trm.diagnostics.alert import Alert
from titans_trm.errors import InputError
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.protocol import (
    ContextPackage,
    Diagnosis,
    Excerpt,
    ExistingCode,
    Limits,
    RecommendedFix,
    Requirements,
    RootCause,
)
from titans_trm.specialist.redact import excerpt, scrub, scrub_values
from titans_trm.specialist.remedies import REMEDIES, Levels, options_of

MAX_BYTES = 24_000  # of a package; history and excerpts are shortened first
MAX_FILES = 30  # of the code, named in a package
_SINGLE_CAUSE, _RIVAL_CAUSES = 0.9, 0.7  # confidence: observed, but a rule is no proof

# Only these leave: no paths, no names of files, no environment.
_SECTIONS = ("model", "loss", "optimizer", "scheduler")
_KEYS = (
    "seed", "data.task", "data.size", "trainer.max_steps", "trainer.batch_size", "trainer.accumulate",
    "trainer.gradient_clip_val", "trainer.precision", "trainer.ema_decay", "trainer.val_every_steps",
    "hardware.name", "hardware.devices",
)  # fmt: skip
_RUN_FACTS = ("experiment", "step", "parameters", "device", "status")


def context_of_alarm(
    alert: Alert,
    config: Mapping[str, Any],
    settings: SpecialistConfig,
    *,
    rivals: Sequence[Alert] = (),
    levels: Levels | None = None,
    measurements: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
    history: Iterable[Mapping[str, Any]] = (),
) -> ContextPackage:
    """Return what a specialist is told about an alarm.

    Args:
        alert: the root cause to act on.
        config: the run's configuration as plain values.
        settings: caps of the call.
        rivals: other root causes that stand.
        levels: current values of the remedies' keys; None = those of `config`.
        measurements: latest values by name; those of a test set are left out.
        facts: of the run, such as `experiment` and `step`.
        history: remedies tried before.
    """
    levels = levels_of(config) if levels is None else levels
    causes = [alert, *(rival for rival in rivals if rival.rule != alert.rule)]
    return _fitting(
        ContextPackage(
            task=scrub(f"Diagnose {alert.rule} at step {alert.step} and say what to do: {alert.message}"),
            requirements=Requirements(framework="pytorch"),
            run={name: scrub_values(value) for name, value in (facts or {}).items() if name in _RUN_FACTS},
            config=allowed_config(config),
            measurements=_measured(measurements or {}),
            diagnosis=diagnosis_of(causes),
            allowed_remedies=options_of(alert, levels),
            history=[scrub_values(dict(record)) for record in history],
            limits=_limits(settings),
        )
    )


def context_of_request(
    request: str,
    settings: SpecialistConfig,
    *,
    root: Path | None = None,
    requirements: Requirements | None = None,
    errors: Mapping[str, str] | None = None,
) -> ContextPackage:
    """Return what a specialist is told about a request in plain words.

    Args:
        request: what is wanted.
        settings: caps of the call.
        root: a git checkout; its files that fit the request are named.
        requirements: of the model, where they are known; numbers in the request fill the gaps.
        errors: texts such as a traceback, by source; untrusted.

    Raises:
        InputError: the request is empty.
    """
    if not request.strip():
        raise InputError("the request is empty; say in a sentence what is wanted.")
    files = [] if root is None else code_files(root, request)
    excerpts = [excerpt(source, text) for source, text in (errors or {}).items()]
    return _fitting(
        ContextPackage(
            task=scrub(request.strip()),
            requirements=requirements or requirements_in(request),
            existing_code=ExistingCode(files=files, status="partial" if files else "none"),
            excerpts=excerpts,
            limits=_limits(settings),
        )
    )


def diagnosis_of(alerts: Sequence[Alert]) -> Diagnosis:
    """Return alerts, the likeliest cause first, as the diagnosis that the debugger hands over."""
    if not alerts:
        return Diagnosis(status="healthy", confidence=_RIVAL_CAUSES)
    confidence = _SINGLE_CAUSE if len(alerts) == 1 else _RIVAL_CAUSES
    causes = [
        RootCause(
            rank=rank,
            issue=scrub(alert.message),
            severity=alert.severity,
            evidence=[scrub(f"{name} = {_short(value)}") for name, value in alert.evidence.items()],
            fix=scrub(alert.remedies[0].advice) if alert.remedies else None,
            confidence=confidence,
            rule=alert.rule,
            step=alert.since_step,
            measured={n: float(v) for n, v in alert.evidence.items() if isinstance(v, int | float) and v == v},
        )
        for rank, alert in enumerate(alerts, start=1)
    ]
    advice = [remedy for alert in alerts for remedy in alert.remedies]
    fixes = [
        RecommendedFix(priority=place, fix=scrub(remedy.advice), remedy=remedy.id if remedy.id in REMEDIES else None)
        for place, remedy in enumerate(advice, start=1)
    ]
    flags = [] if len(alerts) == 1 else ["several root causes stand at once; the first is the likeliest"]
    return Diagnosis(
        status="diagnosis_complete",
        confidence=confidence,
        root_causes=causes,
        recommended_fixes=fixes,
        uncertainty_flags=flags,
    )


def allowed_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the allow-listed keys of a run's configuration, dotted."""
    found = {}
    for key, value in _flat(config):
        wanted = key in _KEYS or key.partition(".")[0] in _SECTIONS
        if wanted and (value is None or isinstance(value, str | int | float)):
            found[key] = scrub_values(value)
    return found


def levels_of(config: Mapping[str, Any]) -> Levels:
    """Return the value of every remedy's key in a configuration; actions count as available."""
    flat = dict(_flat(config))
    levels: dict[str, float | None] = {}
    for name, kind in REMEDIES.items():
        if kind.key is None or kind.key in flat:
            value = None if kind.key is None else flat[kind.key]
            levels[name] = None if value is None else float(value)
    if flat.get("loss.diversity") != "logit_std" and "act_diversity_weight" in levels:
        levels["act_diversity_weight"] = 0.0  # whatever its weight, the term is off
    return levels


def requirements_in(request: str) -> Requirements:
    """Return the requirements that a sentence states: size, memory, speed."""
    size = re.search(r"\b\d+(?:\.\d+)?\s*[MB]\b(?!\w)(?:\s*(?:target|parameters?|params?))?", request)
    memory = re.search(r"\b\d+(?:\.\d+)?\s*Gi?B\b", request, re.I)
    speed = re.search(r"\breal[- ]time\b|\b\d+(?:\.\d+)?\s*ms\b", request, re.I)
    constraints: dict[str, str] = {}
    if memory:
        constraints["vram"] = memory[0]
    if speed:
        constraints["inference_speed"] = speed[0]
    values: dict[str, Any] = {"framework": "pytorch", "constraints": constraints}
    return Requirements.model_validate(values | ({"parameters": size[0]} if size else {}))


def code_files(root: Path, request: str) -> list[str]:
    """Return tracked Python and YAML files of a checkout whose names share a word with the request."""
    result = subprocess.run(["git", "ls-files", "*.py", "*.yaml"], cwd=root, capture_output=True, text=True, timeout=20)
    if result.returncode != 0:
        return []
    words = {word for word in re.findall(r"[a-z]{3,}", request.lower())}
    scored = [(len(words & set(re.findall(r"[a-z]{3,}", name.lower()))), name) for name in result.stdout.splitlines()]
    fitting = sorted((-score, name) for score, name in scored if score and not name.startswith("tests/"))
    return [name for _, name in fitting[:MAX_FILES]]


def _fitting(package: ContextPackage) -> ContextPackage:
    """Return the package, shortened until it is small enough: oldest history first, then excerpts."""
    while len(package.model_dump_json()) > MAX_BYTES:
        if package.history:
            package = package.model_copy(update={"history": package.history[1:]})
        elif package.excerpts:
            package = package.model_copy(update={"excerpts": _shorter(package.excerpts)})
        elif package.measurements:
            half = dict(list(package.measurements.items())[: len(package.measurements) // 2])
            package = package.model_copy(update={"measurements": half})
        elif package.config:
            package = package.model_copy(update={"config": {}})
        else:
            return package.model_copy(update={"task": package.task[: MAX_BYTES // 2]})
    return package


def _shorter(excerpts: Sequence[Excerpt]) -> list[Excerpt]:
    """Return the excerpts at half their length, without those that would be left empty."""
    halved = [one.model_copy(update={"text": one.text[len(one.text) // 2 :]}) for one in excerpts]
    return [one for one in halved if len(one.text) > 20]


def _measured(values: Mapping[str, float]) -> dict[str, float | int]:
    finite = {name: value for name, value in values.items() if value == value and abs(value) != float("inf")}
    return {scrub(name): float(value) for name, value in finite.items() if not name.startswith("test")}


def _limits(settings: SpecialistConfig) -> Limits:
    return Limits(
        timeout_seconds=settings.timeout_seconds, max_turns=settings.max_turns, max_budget_usd=settings.max_budget_usd
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
