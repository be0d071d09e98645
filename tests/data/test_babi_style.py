import re

import pytest
import torch

from titans_trm.data.babi_style.config import FACT_RANGE, BabiStyleConfig
from titans_trm.data.babi_style.story import PLACES, World, derive
from titans_trm.data.babi_style.task import BabiStyleTask
from titans_trm.data.load import load_data, read_examples
from titans_trm.errors import InputError


def data(tmp_path, **values):
    return load_data(BabiStyleConfig(cache_dir=str(tmp_path), num_train=200, num_val=20, num_test=20, **values))


def texts(examples) -> list[str]:
    return [bytes(row).decode() for row in examples.inputs.tolist()]


@pytest.mark.parametrize("variant", FACT_RANGE)
def test_facts_worked_out_from_the_text_lead_to_the_answer_and_fill_the_length(tmp_path, variant):
    found = data(tmp_path, variant=variant)
    task = BabiStyleTask(BabiStyleConfig(variant=variant))
    for examples in (found.train, found.val, found.test()):
        task.validate(examples.inputs, examples.targets)
        assert (examples.inputs > 0).all()
    low, high = FACT_RANGE[variant]
    assert (int(found.train.ratings.min()), int(found.train.ratings.max())) == (low, high)
    answers = {bytes(t for t in row if t).decode().rstrip(".") for row in found.train.targets.tolist()}
    assert answers == set(PLACES)


def test_the_answer_is_scored_and_nothing_else(tmp_path):
    examples = data(tmp_path).val
    for text, tokens, target in zip(texts(examples), examples.inputs, examples.targets, strict=True):
        answer = bytes(t for t in target.tolist() if t).decode()
        assert re.fullmatch(r"[a-z]+\.", answer)
        assert (text + ".").endswith(f"? {answer}")
        scored = target > 0
        assert torch.equal(target[:-1][scored[:-1]], tokens[1:][scored[:-1]])
        assert scored.sum() == len(answer) and scored[-len(answer) :].all()


def test_facts_lie_everywhere_in_the_text(tmp_path):
    places = [
        match.start() / 512 for text in texts(data(tmp_path).train) for match in re.finditer(r" went to the ", text)
    ]
    assert min(places) < 0.1 and max(places) > 0.85
    assert 0.35 < sum(places) / len(places) < 0.6


def test_what_is_carried_moves_and_what_was_left_stays():
    world = World()
    story = [world.go("Ada", "barn"), world.take("Ada", "key"), world.go("Ada", "porch"), world.leave("Ada", "key")]
    story.append(world.go("Ada", "attic"))
    text = "Prose. ".join(story)
    assert derive(f"{text}\nWhere is Ada? ") == "attic"
    assert derive(f"{text}\nWhere is the key? ") == "porch"
    assert derive(f"{text}\nWhere was the key before the porch? ") == "barn"
    assert derive(f"{text}\nWhere was the key before the attic? ") == ""
    assert derive(text) == ""


def test_a_wrong_answer_is_named(tmp_path):
    examples = data(tmp_path).val
    targets = examples.targets.clone()
    targets[3, -2] = ord("x")
    with pytest.raises(InputError, match="example 3: its facts say"):
        BabiStyleTask(BabiStyleConfig()).validate(examples.inputs, targets)
    with pytest.raises(InputError, match="are generated, not read"):
        read_examples("x", BabiStyleConfig())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_facts": 1}, "choose 2 or more"),
        ({"variant": "qa3", "seq_len": 400}, "choose 480 or more"),
        ({"variant": "qa4"}, "qa1, qa2, qa3"),
        ({"source": "file"}, "generated"),
    ],
)
def test_impossible_settings_are_named(values, words):
    with pytest.raises(ValueError, match="data") as caught:
        BabiStyleConfig(**values)
    assert words in str(caught.value)


def test_a_grid_varies_length_and_number_of_facts():
    cells = BabiStyleTask(BabiStyleConfig()).grid([256, 512], [4, 12])
    assert [(length, facts) for length, facts, _ in cells] == [(256, 4), (512, 4), (512, 12)]
    assert set(cells[2][2].sample(10, seed=1).ratings.tolist()) == {12}
