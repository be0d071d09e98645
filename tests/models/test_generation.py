"""Generation equals running the whole text again for every token; draws follow the probabilities they should."""

import pytest
import torch
from model_cases import small_model, tokens

from titans_trm.models.generation import choose_tokens, generate
from titans_trm.models.inference import solve

MODEL = {
    "seed": 1,  # one that does not repeat itself
    "causal": True,
    "backbone": {"window": 6, "norm": "pre"},
    "recursion": {"num_latent_steps": 1, "num_recursions": 1},
    "halting": {"max_supervision_steps": 1},
}


def test_greedy_generation_equals_running_the_whole_text_again():
    model = small_model(**MODEL)
    text = tokens(3, 5)
    written = torch.stack(list(generate(model, text, 12, temperature=0.0)), dim=1)
    for _ in range(12):
        text = torch.cat((text, solve(model, text).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(written, text[:, 5:])
    assert len(set(written.flatten().tolist())) > 1, "the test needs a model that does not repeat itself"


def test_equal_prompts_are_read_once_and_written_on_apart():
    model = small_model(**MODEL)
    lengths = []
    model.recursion.net.blocks[0].mlp.register_forward_hook(lambda module, args, out: lengths.append(args[0].shape[:2]))
    prompt = tokens(1, 5).expand(4, -1)
    written = torch.stack(list(generate(model, prompt, 8, generator=torch.Generator().manual_seed(0))), dim=1)
    assert lengths[0] == (1, 5) and lengths[-1] == (4, 1)  # the prompt, then a token of each
    assert len(set(map(tuple, written.tolist()))) == 4
    again = torch.stack(list(generate(model, prompt, 8, generator=torch.Generator().manual_seed(0))), dim=1)
    assert torch.equal(written, again)


def test_forbidden_tokens_are_never_written():
    model = small_model(**MODEL)
    for temperature in (0.0, 2.0):
        written = torch.stack(list(generate(model, tokens(4, 3), 10, temperature=temperature, forbidden=[0, 3, 5])))
        assert not set(written.flatten().tolist()) & {0, 3, 5}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"temperature": 0.5}, [0.25, 0.0625, 0.0225, 0.01]),
        ({"top_k": 2}, [0.5, 0.25, 0, 0]),
        ({"top_k": 9}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_p": 0.5}, [0.5, 0, 0, 0]),
        ({"top_p": 0.76}, [0.5, 0.25, 0.15, 0]),
        ({"top_p": 1.0}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_k": 3, "top_p": 0.8}, [0.5, 0.25, 0, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
    ],
)
def test_draws_follow_the_probabilities(options, expected):
    order = torch.tensor([2, 0, 3, 1])  # the likeliest is not the first
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    logits = torch.empty(4, dtype=torch.float64).index_copy(0, order, probabilities.log()).expand(20_000, -1)
    drawn = choose_tokens(logits, generator=torch.Generator().manual_seed(0), **options)
    found = torch.bincount(drawn, minlength=4)[order] / len(drawn)
    expected = torch.tensor(expected, dtype=torch.float64)
    expected = expected / expected.sum()
    assert (found[expected == 0] == 0).all()
    assert (found - expected).abs().max() < 0.015  # four standard deviations


@pytest.mark.parametrize(("options", "words"), [
    ({"temperature": -0.1}, "temperature=-0.1"), ({"top_k": 0}, "top_k=0"), ({"top_p": 0.0}, "top_p=0.0"),
])  # fmt: skip
def test_values_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        next(generate(small_model(**MODEL), tokens(1, 2), 1, **options))
    with pytest.raises(ValueError, match="only causal models"):
        next(generate(small_model(), tokens(1, 2), 1))
