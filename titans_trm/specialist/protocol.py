"""The packages that skill and specialist exchange: context out, results back, with a diagnosis and remedies.

Field names are those of the ml-expert skill; `diagnosis`, `allowed_remedies`, `remedies` and all that is measured are
additions. A package that was read is written unchanged (`to_dict`): defaults do not appear by themselves.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from titans_trm.errors import InputError
from titans_trm.specialist.part import Part, checked, read_part
from titans_trm.specialist.quantities import Passed, parse_count, parse_memory, parse_milliseconds, parse_passed

Number = float | int

Status = Literal[
    "implementation_complete", "plan_ready", "partial", "needs_clarification", "escalated", "failed",
    "diagnosed", "insufficient_evidence", "false_alarm",
]  # fmt: skip
Severity = Literal["info", "low", "medium", "warn", "high", "error", "critical", "fatal"]

OURS = ("measured", "call")  # of the results package: a specialist must leave them out


class Constraints(Part):
    """Limits of the wanted model, in the words of whoever asks."""

    inference_speed: str | None = None  # "real-time" or a time
    vram: str | None = None  # "6GB"

    @field_validator("inference_speed")
    @classmethod
    def _speed(cls, value: str | None) -> str | None:
        return checked(value, parse_milliseconds)

    @field_validator("vram")
    @classmethod
    def _vram(cls, value: str | None) -> str | None:
        return checked(value, parse_memory)

    @property
    def latency_ms(self) -> float | None:
        """`inference_speed` in milliseconds."""
        return None if self.inference_speed is None else parse_milliseconds(self.inference_speed)

    @property
    def vram_bytes(self) -> int | None:
        """`vram` in bytes."""
        return None if self.vram is None else parse_memory(self.vram)


class Requirements(Part):
    """What is to be built."""

    model_type: str | None = None
    parameters: str | None = None  # "25M target"
    features: list[str] = []
    framework: str = "pytorch"
    constraints: Constraints = Constraints()

    @field_validator("parameters")
    @classmethod
    def _parameters(cls, value: str | None) -> str | None:
        return checked(value, parse_count)

    @property
    def parameter_count(self) -> int | None:
        """`parameters` as a number."""
        return None if self.parameters is None else parse_count(self.parameters)


class ExistingCode(Part):
    """Files that exist, and how far they are."""

    files: list[str] = []
    status: Literal["none", "partial", "complete", "partial_implementation"] = "none"


class ReferenceMaterials(Part):
    """What to build from."""

    papers: list[str] = []
    implementations: list[str] = []


class RootCause(Part):
    """One cause, the likeliest first."""

    rank: int = 1
    issue: str
    severity: Severity = "warn"
    evidence: list[str] = []
    fix: str | None = None
    confidence: float = Field(default=0.0, ge=0.0, le=1.0)
    supporting_artifacts: dict[str, Any] = {}
    rule: str | None = None  # of titans_trm.diagnostics, when a rule found it
    step: int | None = None  # optimiser step of the alarm
    measured: dict[str, Number] = {}  # what the rule saw


class Implementation(Part):
    """Where a fix goes: a line of a file, or a key of the configuration."""

    file: str | None = None
    line: int | None = None
    change: str


class RecommendedFix(Part):
    """A fix with what it should bring and how to see that it did."""

    priority: int = 1
    fix: str
    implementation: Implementation | None = None
    expected_impact: str | None = None
    effort: Literal["low", "medium", "high"] | None = None
    risk: Literal["low", "medium", "high"] | None = None
    verification: str | None = None
    remedy: str | None = None  # name of an allowed remedy that does it


class Diagnosis(Part):
    """What the debugger hands over."""

    status: Literal["diagnosis_complete", "insufficient_evidence", "healthy"] = "diagnosis_complete"
    confidence: float = Field(default=0.0, ge=0.0, le=1.0)
    root_causes: list[RootCause] = []
    recommended_fixes: list[RecommendedFix] = []
    quick_wins: list[str] = []
    uncertainty_flags: list[str] = []
    next_steps: list[str] = []
    analysis_artifacts: dict[str, str] = {}


class ExpectedEffect(Part):
    """What must be seen for a remedy to stay."""

    metric: str
    direction: Literal["up", "down"]
    min_delta: float = 0.0
    reach: float | None = None  # level that must be passed
    within_steps: int = Field(default=200, ge=1)


class RemedyOption(Part):
    """A change that may be asked for, and how far it may go."""

    id: str
    what: str
    key: str | None = None  # of the configuration; None: an action without a value
    current: float | None = None
    low: float | None = None
    high: float | None = None
    suggested: float | None = None  # by the rule that raised the alarm
    effect: ExpectedEffect | None = None  # by which it will be judged, if nothing better is named


class Excerpt(Part):
    """Text from outside, untrusted: cleaned, cut and marked as such."""

    source: str
    sha256: str
    text: str


class Limits(Part):
    """What this call may cost."""

    timeout_seconds: float | None = None
    max_turns: int | None = None
    max_budget_usd: float | None = None
    max_remedies: int = 3


class ContextPackage(Part):
    """What a specialist is given."""

    version: Literal["titans_trm.context/1"] = "titans_trm.context/1"
    task: str = Field(min_length=1)
    requirements: Requirements = Requirements()
    existing_code: ExistingCode = ExistingCode()
    reference_materials: ReferenceMaterials = ReferenceMaterials()
    run: dict[str, Any] = {}  # experiment, step, versions, device: no paths, no names
    config: dict[str, Any] = {}  # allow-listed keys of the run's configuration
    measurements: dict[str, Number] = {}  # latest training and validation values; never of the test set
    diagnosis: Diagnosis | None = None
    allowed_remedies: list[RemedyOption] = []
    history: list[dict[str, Any]] = []  # remedies tried before and what came of them
    excerpts: list[Excerpt] = []
    limits: Limits = Limits()


class Remedy(Part):
    """A change that a specialist asks for; it is judged before and after it is tried."""

    id: str
    value: float | None = None
    rationale: str = Field(default="", max_length=600)
    expected_effect: ExpectedEffect | None = None


class CodeFile(Part):
    """A file that was written. `loc` and `tested` are claims until measured."""

    path: str
    description: str = ""
    loc: int | None = None
    tested: bool | None = None


class TestFile(Part):
    """A test file. `coverage` (percent) and `all_passing` are claims until measured."""

    __test__ = False  # not a test, whatever pytest thinks of its name

    path: str
    coverage: Number | None = None
    all_passing: bool | None = None


class Documentation(Part):
    """Where the new things are described."""

    architecture_diagram: str | None = None
    usage_examples: str | None = None


class Deliverables(Part):
    """What was made."""

    code_files: list[CodeFile] = []
    tests: list[TestFile] = []
    documentation: Documentation = Documentation()


class PerformanceMetrics(Part):
    """Claimed performance, in words; the properties give the numbers."""

    parameter_count: str | None = None
    inference_time: str | None = None
    vram_usage: str | None = None

    @property
    def parameters(self) -> int | None:
        """`parameter_count` as a number."""
        return None if self.parameter_count is None else parse_count(self.parameter_count, key="parameter_count")

    @property
    def latency_ms(self) -> float | None:
        """`inference_time` in milliseconds."""
        return None if self.inference_time is None else parse_milliseconds(self.inference_time, key="inference_time")

    @property
    def vram_bytes(self) -> int | None:
        """`vram_usage` in bytes."""
        return None if self.vram_usage is None else parse_memory(self.vram_usage, key="vram_usage")


class Validation(Part):
    """Claimed test results, in words."""

    unit_tests: str | None = None
    integration_tests: str | None = None
    manual_verification: str | None = None

    @property
    def unit(self) -> Passed | None:
        """`unit_tests` as numbers."""
        return None if self.unit_tests is None else parse_passed(self.unit_tests)

    @property
    def integration(self) -> Passed | None:
        """`integration_tests` as numbers."""
        return None if self.integration_tests is None else parse_passed(self.integration_tests, key="integration_tests")


class Claim(Part):
    """One claim beside what was measured; `ok` is None where it could not be measured."""

    what: str
    claimed: Any = None
    measured: Any = None
    ok: bool | None = None


class ResultsPackage(Part):
    """What a specialist gives back. `measured` and `call` are filled in by us only."""

    version: Literal["titans_trm.results/1"] = "titans_trm.results/1"
    status: Status
    deliverables: Deliverables = Deliverables()
    performance_metrics: PerformanceMetrics = PerformanceMetrics()
    validation: Validation = Validation()
    confidence: float | None = Field(default=None, ge=0.0, le=1.0)
    diagnosis: Diagnosis | None = None
    remedies: list[Remedy] = Field(default=[], max_length=3)
    plan: str | None = None  # with plan_ready: what would be done, for a person to approve
    clarifications: list[str] = []
    missing_references: list[str] = []
    todos: list[str] = []
    escalation: str | None = None
    reason: str | None = None  # with failed
    measured: list[Claim] = []
    call: dict[str, Any] = {}  # how the call ended, what it cost, what became of it


def read_context(values: Mapping[str, Any] | str) -> ContextPackage:
    """Return the context package in `values` (a mapping or JSON text); an `InputError` names what is wrong."""
    return read_part(ContextPackage, values, "context")


def read_results(values: Mapping[str, Any] | str, *, from_specialist: bool = False) -> ResultsPackage:
    """Return the results package in `values`.

    Args:
        values: a mapping or JSON text.
        from_specialist: refuse what only we may fill in.

    Raises:
        InputError: what is wrong, by name of the field.
    """
    package = read_part(ResultsPackage, values, "results")
    for name in OURS if from_specialist else ():
        if getattr(package, name):
            raise InputError(f"results.{name} is filled in by our own measurement; a specialist must leave it out.")
    return package


def json_schema(kind: Literal["context", "results"]) -> dict[str, Any]:
    """Return the JSON Schema of a package."""
    return (ContextPackage if kind == "context" else ResultsPackage).model_json_schema()


def answer_schema() -> dict[str, Any]:
    """Return the schema an agent must answer in: the results package without what only we may fill in."""
    schema = json_schema("results")
    for name in OURS:
        del schema["properties"][name]
    del schema["$defs"]["Claim"]
    return schema
