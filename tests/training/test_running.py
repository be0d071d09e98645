import math

import torch

from titans_trm.training.running import RunningMeans


def test_means_are_weighted_and_forgotten_after_a_report() -> None:
    means = RunningMeans()
    for total, weight in ((3.0, 2.0), (5.0, 2.0)):
        means.add("share", torch.tensor(total), torch.tensor(weight))
    means.add("loss", torch.tensor(4.0))
    means.add("loss", torch.tensor(1.0))
    assert means.report() == {"share": 2.0, "loss": 2.5}
    assert means.report() == {}


def test_a_mean_of_nothing_is_nan_and_not_an_old_value() -> None:
    means = RunningMeans()
    means.add("share", torch.tensor(0.0), torch.tensor(0.0))
    assert math.isnan(means.report()["share"])


def test_sums_are_kept_in_double_precision_without_a_graph() -> None:
    means = RunningMeans()
    weight = torch.ones((), requires_grad=True)
    means.add("loss", weight * 1e8)
    means.add("loss", weight * 1.0)
    assert not any(value.requires_grad for value in means.state_dict().values())
    assert means.report() == {"loss": (1e8 + 1) / 2}


def test_a_saved_state_goes_on() -> None:
    means, other = RunningMeans(), RunningMeans()
    means.add("loss", torch.tensor(1.0), torch.tensor(3.0))
    other.add("stale", torch.tensor(9.0))
    other.load_state_dict(means.state_dict())
    for one in (means, other):
        one.add("loss", torch.tensor(2.0), torch.tensor(1.0))
    assert means.report() == other.report() == {"loss": 0.75}
