"""What a request is about: one of seven intents, or none of ours, with where to go instead."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

Intent = Literal["implement", "fix_training", "optimize", "paper", "pipeline", "add_feature", "speed_up"]
INTENTS: tuple[Intent, ...] = get_args(Intent)

# Weighted words. A request is scored by the sum over the patterns that it matches.
_WORDS: dict[Intent, dict[str, float]] = {
    "implement": {
        r"\b(implement|build|create|write|code|design)\b": 1.5,
        r"\b(architecture|model|network|transformer|layer|module|backbone|head)\b": 1.0,
        r"\bfrom scratch\b|\bskeleton\b": 1.0,
    },
    "fix_training": {
        r"\b(fix|debug|repair|broken|wrong|fails?|failing|crash(es|ed)?|why)\b": 1.5,
        r"\b(nan|inf|diverg\w*|explod\w*|vanish\w*|collaps\w*|stuck|plateau\w*|overfit\w*|spik\w*)\b": 2.0,
        r"\b(train(ing)?|loss|gradients?|variance|run)\b": 1.0,
        r"\b(halt(s|ing)?|act head)\b": 0.5,
    },
    "optimize": {
        r"\b(improve|raise|increase|boost|better|higher|optimi[sz]e|tune)\b": 1.5,
        r"\b(accuracy|performance|score|results?|f1|perplexity|generali[sz]ation|quality)\b": 1.5,
        r"\bmodel\b": 0.5,
    },
    "paper": {
        r"\b(paper|arxiv|publication|preprint)\b|\b\d{4}\.\d{5}\b": 3.0,
        r"\b(technique|method|equation|algorithm)\b": 1.5,
        r"\b(implement|reproduce|replicate)\b": 0.5,
    },
    "pipeline": {
        r"\b(pipeline|data ?loader|data ?module|training (loop|script)|end[- ]to[- ]end)\b": 3.0,
        r"\b(build|set up|create|write)\b": 0.5,
    },
    "add_feature": {
        r"\b(add|extend|support|integrate|include)\b": 2.0,
        r"\b(feature|option|to (the|my|our|an?) (existing )?\w+)\b": 1.0,
        r"\b(checkpointing|augmentation|scheduler|memory|gate|attention|logging)\b": 0.5,
    },
    "speed_up": {
        r"\b(speed(ing)? ?up|faster|slow|latency|throughput|accelerate)\b": 2.5,
        r"\b(inference|forward|decod\w+|predict\w*|serving)\b": 1.0,
        r"\b\d+ ?ms\b|\breal[- ]time\b": 1.0,
    },
}
_ELSEWHERE: dict[str, tuple[str, str]] = {
    "exploratory data analysis": (
        r"\b(explor\w+ (the )?data|eda|exploratory|visuali[sz]e|plot (the|my)|summar\w+ statistics|histogram of)\b",
        "a notebook with pandas and matplotlib; `titans-trm data` audits the training sets of this project",
    ),
    "moving and cleaning data": (
        r"\b(etl|extract[- ]transform|sql|warehouse|ingest\w*|scrap(e|ing)"
        r"|clean (the|my|up) (data|csv|table|columns?))\b",
        "a data engineering tool; bring the result as files that `data.train_file=` reads",
    ),
    "open-ended research": (
        r"\b(novel|invent|new (kind|class|family|theory)|research (question|idea|direction)|hypothes[ie]s"
        r"|literature (review|survey)|prove)\b",
        "a researcher; come back with a method that is written down, and it can be implemented and measured",
    ),
    "rule-based logic": (
        r"\b(if[- ]then|rule[- ]based|rules engine|business (rules?|logic)|regex(es)?|regular expressions?"
        r"|validator)\b",
        "plain code: nothing has to be learned here",
    ),
}
_OURS = re.compile(
    r"\b(train\w*|models?|heads?|networks?|neural|transformer\w*|loss\w*|gradients?|inference|paper|arxiv|optimi[sz]\w+|lr"
    r"|learning rate|accuracy|epochs?|checkpoint\w*|attention|memory|halt\w*|act|trm|titans|pytorch|torch|layers?"
    r"|pipeline|data ?loader|overfit\w*|latency|f1|perplexity|fine[- ]?tun\w+|deep learning|architecture)\b",
    re.I,
)
_SURE = 5.0  # score that counts as certain


@dataclass(frozen=True)
class Route:
    """Where a request goes."""

    intent: Intent | None  # None: out of scope
    confidence: float  # 0 to 1
    elsewhere: str | None = None  # out of scope: what it is, and where to go


def route(request: str) -> Route:
    """Return the intent of a request in plain English; requests that are not ours come back with where to go."""
    text = request.lower()
    for kind, (pattern, where) in _ELSEWHERE.items():
        if re.search(pattern, text):
            return Route(None, 0.9, f"This is {kind}. Better served by {where}.")
    scores = {intent: sum(w for p, w in words.items() if re.search(p, text)) for intent, words in _WORDS.items()}
    best = max(scores, key=lambda intent: scores[intent])
    if not _OURS.search(text) or scores[best] < 1.5:
        return Route(
            None,
            0.6,
            "This is not about a model or its training. In scope: implementing an architecture or a paper, fixing or "
            "improving training, building a training pipeline, adding a feature to a model, speeding up inference.",
        )
    others = sorted(scores.values())
    return Route(best, min(1.0, scores[best] / _SURE) * (0.5 + 0.5 * (others[-1] > others[-2])))
