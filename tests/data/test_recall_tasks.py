"""MQAR, selective copying and needles: the definitions hold, seeds repeat, splits are distinct, lengths extrapolate."""

import dataclasses

import numpy as np
import pytest
import torch

from titans_trm.data.config import CountFields
from titans_trm.data.leakage import compare
from titans_trm.data.load import load_data, read_examples
from titans_trm.data.mqar.config import MqarConfig
from titans_trm.data.mqar.task import MqarTask
from titans_trm.data.niah.config import VALUE_BYTES, NiahConfig
from titans_trm.data.prose import NOISE
from titans_trm.data.registry import make_task
from titans_trm.data.selective_copy.config import SelectiveCopyConfig
from titans_trm.data.splits import assert_disjoint
from titans_trm.data.synthetic import Draws
from titans_trm.errors import InputError

COUNTS = {"num_train": 64, "num_val": 16, "num_test": 16}
CONFIGS = {
    "mqar": MqarConfig(**COUNTS),
    "mqar with noise": MqarConfig(noise=True, **COUNTS),
    "selective_copy": SelectiveCopyConfig(**COUNTS),
    "niah pk": NiahConfig(variant="pk", **COUNTS),
    "niah n": NiahConfig(variant="n", **COUNTS),
    "niah w": NiahConfig(variant="w", **COUNTS),
}
every_task = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def draw(config: CountFields, rows: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    block = make_task(config).draw(Draws(0, 1), rows)
    return torch.from_numpy(block.inputs), torch.from_numpy(block.targets)


def in_cache(config: CountFields, tmp_path, **changes) -> CountFields:
    return dataclasses.replace(config, cache_dir=str(tmp_path), **changes)


@every_task
def test_examples_keep_the_rules_and_spoilt_ones_are_named(config):
    task, (inputs, targets) = make_task(config), draw(config)
    task.validate(inputs, targets)
    assert inputs.shape == targets.shape == (200, task.spec.seq_len)
    assert task.spec.causal
    assert 0 <= int(inputs.min()) <= int(inputs.max()) < task.spec.vocab_size
    place = int(targets[7].nonzero()[-1])
    targets[7, place] = targets[7, place] % (task.spec.vocab_size - 1) + 1
    with pytest.raises(InputError, match="example 7: "):
        task.validate(inputs, targets)


@every_task
def test_a_planted_repeat_is_found_and_a_clean_split_gives_none(config, tmp_path):
    task, data = make_task(config), load_data(in_cache(config, tmp_path))
    assert compare(data.train, data.val).is_clean()
    inputs, targets = data.val.inputs.clone(), data.val.targets.clone()
    inputs[3], targets[3] = data.train.inputs[5], data.train.targets[5]
    keys = task.canonical_keys(inputs, targets)
    planted = dataclasses.replace(data.val, inputs=inputs, targets=targets, keys=keys)
    overlap = compare(data.train, planted)
    assert overlap.groups == 1
    assert (overlap.examples[0]["first_row"], overlap.examples[0]["second_row"]) == (5, 3)
    with pytest.raises(InputError, match="share 1 groups"):
        assert_disjoint(data.train, planted)


# sha256 of 64 training examples of seed 0: the generators must give the same on every machine and version.
GOLDEN = {
    "mqar": "240d7153cd879f9cba77264ba125572556c119a4a45de755f68c7c314313ee8f",
    "mqar with noise": "a69d551d273a6b4bc2e92359feef5e0e7b30a4f763321cc88c3727a74814e5e0",
    "selective_copy": "b707bac32affaa582d3db9390342fceee34364c269230ef0f1dce8ce9830cdaa",
    "niah pk": "7f51fb95781c80a62b899a9f95d35ad73603fd4e283068f497a4fcef805dc599",
    "niah n": "0e457f4abedea35b2db32ce885521bfa99bfd2666033a7d74232626ef4a24c04",
    "niah w": "7285ccfcdc9decc74ae907fa6b850e578f1f069c737e7b3319b096875c9efccb",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_splits_are_distinct_and_seeded_and_have_a_golden_hash(name, tmp_path):
    config = CONFIGS[name]
    data = load_data(in_cache(config, tmp_path))
    sets = [data.train, data.val, data.test()]
    assert [len(examples) for examples in sets] == [64, 16, 16]
    keys = [key for examples in sets for key in examples.keys]
    assert len(set(keys)) == len(keys) == 96
    assert data.train.keys == make_task(config).canonical_keys(data.train.inputs, data.train.targets)
    assert data.augment is None
    assert load_data(in_cache(config, tmp_path)).manifest == data.manifest
    assert load_data(in_cache(config, tmp_path, seed=1)).train.sha256 != data.train.sha256
    assert data.train.sha256 == GOLDEN[name]


@every_task
def test_files_are_refused_because_there_is_no_format(config):
    with pytest.raises(InputError, match=f"examples of data.task={config.task} are generated"):
        read_examples("x.csv", config)


@every_task
def test_a_grid_of_lengths_and_depths_leaves_out_what_is_impossible(config):
    task = make_task(config)
    depths = (0.0, 1.0) if config.task == "niah" else (4, 16)
    cells = task.grid((48, 160, 320), depths)
    assert [(length, depth) for length, depth, _ in cells] == [
        (length, depth)
        for length in (48, 160, 320)
        for depth in depths
        if length > 48 or (config.task != "niah" and depth == 4) or (config.task == "selective_copy")
    ]
    for length, _, cell in cells:
        examples = cell.sample(8, seed=3)
        cell.validate(examples.inputs, examples.targets)
        assert examples.inputs.shape == (8, length)
        assert not set(examples.keys) & set(cell.sample(8, seed=4).keys)


# --- MQAR


@pytest.mark.parametrize("noise", [False, True])
def test_every_query_is_a_key_asked_once_at_an_even_distance_and_noise_is_none(noise):
    inputs, targets = draw(MqarConfig(noise=noise))
    assert (inputs[:, 0:16:2] < 256).all()
    assert (inputs[:, 1:16:2] >= 256).all()
    for tokens, wanted in zip(inputs, targets, strict=True):
        places = wanted.nonzero().flatten()
        assert len(places) == 8
        assert (places >= 16).all()
        assert (places % 2 == 0).all()
        keys = tokens[0:16:2]
        assert keys.unique().numel() == 8
        for key in keys:  # in the pairs and in the query, nowhere else
            assert int((tokens == key).sum()) == 2
        filled = tokens[16:].count_nonzero()
        assert int(filled) == (112 if noise else 8)


def test_gaps_follow_the_power_law():
    """Chances of the slot drawn first are the weights themselves."""
    draws, weights = Draws(0, 0), np.arange(1, 9, dtype=float) ** -0.99
    order = draws.weighted_distinct(40_000, weights, 3)
    share = np.bincount(order[:, 0], minlength=8) / 40_000
    assert share == pytest.approx(weights / weights.sum(), abs=0.01)
    rest = weights[1:] / weights[1:].sum()  # given that slot 0 came first
    second = np.bincount(order[order[:, 0] == 0][:, 1], minlength=8)[1:]
    assert second / second.sum() == pytest.approx(rest, abs=0.02)
    assert all(len(set(row)) == 3 for row in order[:100].tolist())


@pytest.mark.parametrize(("high", "count"), [(10, 10), (10, 4), (1000, 6)])
def test_distinct_numbers_are_distinct_and_evenly_drawn(high, count):
    drawn = Draws(1, 2).distinct(20_000, high, count)
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert 0 <= drawn.min() <= drawn.max() < high
    for column in drawn.T:  # every number is as likely at every place
        assert column.mean() == pytest.approx((high - 1) / 2, rel=0.05)


def test_short_tasks_run_out_of_sequences_and_say_so(tmp_path):
    config = MqarConfig(
        seq_len=4, num_pairs=1, vocab_size=4, num_train=10, num_val=1, num_test=1, cache_dir=str(tmp_path)
    )
    with pytest.raises(InputError, match=r"data.num_(train|val)=\d+ is more than the different sequences"):
        load_data(config)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (MqarConfig, {"seq_len": 31}, "even length of 32 or more"),
        (MqarConfig, {"seq_len": 30}, "even length of 32"),
        (MqarConfig, {"vocab_size": 16}, "even number from 18"),
        (MqarConfig, {"vocab_size": 40_000}, "to 32768"),
        (MqarConfig, {"power": 0.0}, "data.power=0.0"),
        (MqarConfig, {"num_pairs": 0}, "data.num_pairs=0"),
        (MqarConfig, {"source": "file"}, "generated"),
        (SelectiveCopyConfig, {"seq_len": 16}, "choose 17 or more"),
        (SelectiveCopyConfig, {"vocab_size": 3}, "choose 4 to 255"),
        (SelectiveCopyConfig, {"num_tokens": 0}, "data.num_tokens=0"),
        (NiahConfig, {"seq_len": 77}, "choose 78 or more"),
        (NiahConfig, {"variant": "w", "seq_len": 100}, "choose 136 or more"),
        (NiahConfig, {"depth": 1.5}, "choose 0 (start) to 1 (end)"),
        (NiahConfig, {"num_val": 0}, "data.num_val=0"),
    ],
)
def test_an_impossible_value_names_key_and_cure(kind, values, words):
    with pytest.raises(ValueError, match="data") as caught:
        kind(**values)
    assert words in str(caught.value)


def test_a_large_vocabulary_is_held_in_two_bytes(tmp_path):
    data = load_data(MqarConfig(vocab_size=8192, cache_dir=str(tmp_path), **COUNTS))
    assert data.train.inputs.dtype == torch.int16
    assert int(data.train.batch([0]).inputs.max()) > 4096
    assert load_data(SelectiveCopyConfig(cache_dir=str(tmp_path), **COUNTS)).train.inputs.dtype == torch.uint8


# --- selective copying


def test_content_lies_anywhere_among_blanks_and_is_asked_for_in_order():
    inputs, targets = draw(SelectiveCopyConfig(seq_len=33, num_tokens=8), 2000)
    assert (inputs[:, 24] == 16).all()
    assert (inputs[:, 25:] == 15).all()
    content = (inputs[:, :24] < 15).double().mean(dim=0)
    assert content.min() > 0.28  # 8 of 24 places, each as likely
    assert content.max() < 0.39
    assert (targets[:, :25] == 0).all()
    assert (targets[:, 25:] > 0).all()


# --- needle in a haystack


@pytest.mark.parametrize("variant", VALUE_BYTES)
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_the_needle_lies_where_depth_says_and_inputs_are_targets_shifted(variant, depth):
    config = NiahConfig(variant=variant, depth=depth, seq_len=512)
    inputs, targets = draw(config, 20)
    size = VALUE_BYTES[variant]
    for tokens, wanted in zip(inputs, targets, strict=True):
        text, answer = bytes(tokens.tolist()), bytes(wanted[wanted > 0].tolist())
        assert len(answer) == size
        assert text.endswith(b" is " + answer[:-1])
        place = text.index(b"is " + answer) / 512
        assert abs(place - (0.1 + 0.75 * depth)) < 0.2
        assert (NOISE.encode() in text) == (variant == "pk")
        prose = text.replace(answer, b"").replace(answer[:-1], b"")
        assert not any(chr(byte).isdigit() for byte in prose)


def test_mqar_is_a_task_of_one_file_and_its_name_holds_its_size():
    assert MqarTask(MqarConfig()).spec.name == "mqar_128x8"
    assert make_task(NiahConfig(depth=0.5)).spec.name == "niah_n_256_0.5"
