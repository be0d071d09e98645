"""Every task stands behind one interface, and its keys are its own."""

import dataclasses
import functools
import re

import pytest
from omegaconf import OmegaConf

from titans_trm import schema
from titans_trm.config import compose, config_dir
from titans_trm.data.config import DataConfig
from titans_trm.data.registry import config_class, config_classes, make_task, task_names
from titans_trm.data.sudoku.config import SudokuConfig
from titans_trm.errors import InputError
from titans_trm.training.config import RunConfig

OPTIONS = sorted(file.stem for file in (config_dir() / "data").glob("*.yaml"))


@functools.cache
def option(name: str) -> DataConfig:
    needs = ["data.train_file=train.csv"] if name == "sudoku_extreme" else []
    return compose("train", [f"data={name}", *needs]).data


@pytest.mark.parametrize("name", task_names())
def test_a_task_has_a_configuration_and_is_made_from_it(name):
    config = config_class(name)()
    assert isinstance(config, DataConfig)
    assert config.task == name
    task = make_task(config)
    assert task.spec.seq_len >= 1
    assert task.generator_version >= 1
    assert task.reader_version >= 1


@pytest.mark.parametrize("name", task_names())
def test_a_task_has_an_option_in_conf(name):
    assert name in {option(file).task for file in OPTIONS}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_sets_every_key_of_its_task(name):
    kind = config_class(option(name).task)
    composed = OmegaConf.load(config_dir() / "data" / f"{name}.yaml")
    for base in composed.pop("defaults", []):
        if base != "_self_":
            composed = OmegaConf.merge(OmegaConf.load(config_dir() / "data" / f"{base}.yaml"), composed)
    composed = OmegaConf.merge(OmegaConf.load(config_dir() / "train.yaml").data, composed)
    assert set(composed) == {field.name for field in dataclasses.fields(kind)}


def test_the_selecting_key_picks_the_schema_and_sudoku_is_the_default():
    assert schema.build(RunConfig, {}).data == SudokuConfig()
    assert schema.build(RunConfig, {"data": {"task": "sudoku", "size": 9}}).data == SudokuConfig()
    with pytest.raises(InputError, match=r"data.task='sudokku' is not allowed. Did you mean sudoku\?"):
        schema.build(RunConfig, {"data": {"task": "sudokku"}})


@pytest.mark.parametrize("sign", ["", "+"])
def test_a_key_of_another_task_is_refused_with_those_that_are_allowed(sign):
    with pytest.raises(InputError) as caught:
        compose("train", [f"{sign}data.num_pairs=4", "trainer.max_steps=2"])
    allowed = [field.name for field in dataclasses.fields(SudokuConfig)]
    message = re.escape("data.num_pairs is not a key. ") + ".*" + re.escape(f"Allowed: {', '.join(allowed)}. ")
    assert re.match(message + r"These are the keys of data\.task=sudoku\.$", str(caught.value))


def test_all_tasks_share_the_common_keys():
    common = {field.name for field in dataclasses.fields(DataConfig)}
    assert all(common <= {field.name for field in dataclasses.fields(kind)} for kind in config_classes().values())
