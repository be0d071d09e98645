"""Requests find their intent; what is not ours is told where to go."""

import pytest

from titans_trm.specialist.router import INTENTS, route

REQUESTS = {
    "implement": ["Implement a transformer architecture with memory", "build a 25M model with ACT, 6GB, real-time",
                  "design a recursive network from scratch"],
    "fix_training": ["fix my training code", "the loss is nan after step 700, why?", "repair the collapsed head",
                     "gradients vanish in the first layer"],
    "optimize": ["raise model performance", "improve the accuracy of the model", "tune the model for better results"],
    "paper": ["implement the paper 2501.00663", "reproduce the technique from this arXiv paper",
              "implement the method of arxiv 2510.04871"],
    "pipeline": ["build a training pipeline", "set up an end-to-end training script", "write a data loader"],
    "add_feature": ["add a feature to the model", "extend the model with an option for memory",
                    "add gradient checkpointing to my model"],
    "speed_up": ["speed up inference", "make inference faster, under 50 ms", "the model is too slow, reduce latency"],
}  # fmt: skip
ELSEWHERE = [
    "explore the data and plot the distributions",
    "write an ETL job for the warehouse",
    "invent a novel architecture nobody has thought of",
    "write a rules engine for our business rules",
    "what is the weather tomorrow?",
    "book a table for two",
]


@pytest.mark.parametrize(("intent", "request_"), [(i, r) for i, texts in REQUESTS.items() for r in texts])
def test_a_request_finds_its_intent(intent: str, request_: str) -> None:
    found = route(request_)
    assert found.intent == intent, found
    assert 0.0 < found.confidence <= 1.0
    assert found.elsewhere is None


def test_every_intent_is_tried() -> None:
    assert set(REQUESTS) == set(INTENTS)


@pytest.mark.parametrize("request_", ELSEWHERE)
def test_what_is_not_ours_is_sent_elsewhere_with_a_reason(request_: str) -> None:
    found = route(request_)
    assert found.intent is None
    assert found.elsewhere and len(found.elsewhere) > 40
