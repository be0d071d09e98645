import pytest
from scipy.stats import binomtest

from titans_trm.evaluation.statistics import wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 256), (256, 256), (249, 256), (3, 7), (5000, 9999)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_interval_equals_scipy(successes: int, n: int, confidence: float) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    assert wilson_interval(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_interval_touches_but_never_leaves_the_unit_interval() -> None:
    for n in range(1, 400):
        assert wilson_interval(0, n)[0] == 0.0
        assert wilson_interval(n, n)[1] == 1.0
        assert 0.0 < wilson_interval(n, n)[0] < 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 0), "n=0"), ((5, 4), "successes=5"), ((-1, 4), "successes=-1"), ((1, 4, 1.0), "confidence=1.0")],
)
def test_impossible_arguments_are_named(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wilson_interval(*arguments)  # type: ignore[arg-type]
