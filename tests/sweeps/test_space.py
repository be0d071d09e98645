"""What a sweep varies."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from titans_trm.errors import InputError
from titans_trm.sweeps.space import distributions, quoted, read_space


def test_a_grid_is_every_combination_with_the_last_axis_fastest() -> None:
    jobs = list(read_space(["seed=1,2", "experiment=quickstart", "model.width=range(16,48,16)", "sweep.jobs=2"]).jobs())
    assert jobs == [
        ("seed=1", "experiment=quickstart", "model.width=16"),
        ("seed=1", "experiment=quickstart", "model.width=32"),
        ("seed=2", "experiment=quickstart", "model.width=16"),
        ("seed=2", "experiment=quickstart", "model.width=32"),
    ]


def test_without_an_axis_there_is_one_job() -> None:
    assert list(read_space(["seed=1", "resume=auto", "hydra.verbose=true"]).jobs()) == [("seed=1",)]


def test_intervals_and_choices_become_distributions() -> None:
    typed = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "optimizer=adamw,muon", "a=int(interval(1,5))"]
    assert distributions(read_space(typed, {"optimizer": "muon", "b": "interval(0,1)"})) == {
        "optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True),
        "optimizer": CategoricalDistribution(("adamw", "muon")),  # what is typed wins over the file
        "a": IntDistribution(1, 5),
        "b": FloatDistribution(0.0, 1.0),
    }


def test_chosen_values_stand_where_the_axis_was_typed() -> None:
    space = read_space(["optimizer.lr=interval(0,1)", "seed=3", "model.width=16,32"])
    assert space.at({"optimizer.lr": 0.5, "model.width": "32"}) == ("optimizer.lr=0.5", "seed=3", "model.width=32")
    assert space.first() == ("optimizer.lr=0.0", "seed=3", "model.width=16")


def test_the_same_space_has_the_same_words_in_any_order() -> None:
    assert read_space(["a=1,2", "b=interval(0,1)"]).words() == read_space(["b=interval(0,1)", "a=1,2"]).words()
    assert read_space(["a=1,2"]).words() != read_space(["a=1,3"]).words()


@pytest.mark.parametrize("key", ["seed", "data.fold"])
def test_a_search_over_luck_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"{key} cannot be searched: that would choose the luckiest run"):
        distributions(read_space([f"{key}=0,1,2", "optimizer.lr=interval(0,1)"]))


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="sweep=optuna has nothing to search"):
        distributions(read_space(["seed=1"]))
    with pytest.raises(InputError, match=r"sweep\.jobs is of the sweep itself"):
        read_space(["sweep.jobs=1,2"])
    with pytest.raises(InputError, match=r"a=interval\(1,0\) is empty"):
        read_space(["a=interval(1,0)"])
    with pytest.raises(InputError, match="above 0 and rising"):
        read_space(["a=tag(log,interval(0,1))"])
    with pytest.raises(InputError, match=r"a=interval\(0,1\) has no end of values; add sweep=optuna"):
        list(read_space(["a=interval(0,1)"]).jobs())


@pytest.mark.parametrize("text", ["runs/multirun/a-b", "a b", "it's", "back\\", "a=b,c", "val/exact", "x:y"])
def test_a_quoted_text_is_read_as_itself(text: str) -> None:
    assert OverridesParser.create().parse_overrides([f"key={quoted(text)}"])[0].value() == text
