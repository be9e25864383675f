import math

import pytest
from scipy import stats

from aggregate.correlation import pearson, spearman

X = [0.61, 0.55, 0.70, 0.64, 0.58, 0.66, 0.52]
Y = [0.41, 0.30, 0.52, 0.38, 0.33, 0.51, 0.35]


def test_pearsons_interval_is_scipys() -> None:
    theirs = stats.pearsonr(X, Y)
    interval = pearson(X, Y)
    assert interval.mean == pytest.approx(theirs.statistic)
    assert (interval.low, interval.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert interval.n == 7


def test_spearmans_interval_is_bonett_and_wrights_by_hand() -> None:
    # Ranks of X: 4 2 7 5 3 6 1, of Y: 5 1 7 4 2 6 3; squared differences 1 1 0 1 1 0 4, so rho = 1 - 6 x 8 / 336.
    rho = 1 - 48 / 336
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 4)
    interval = spearman(X, Y)
    assert interval.mean == pytest.approx(rho)
    assert interval.low == pytest.approx(math.tanh(math.atanh(rho) - half), abs=1e-6)
    assert interval.high == pytest.approx(math.tanh(math.atanh(rho) + half), abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "mean", "note"),
    [
        ([], [], None, "n = 0: no correlation"),
        ([0.5], [0.6], None, "n = 1: no correlation"),
        ([0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], None, "one side is the same for all: no correlation"),
        ([0.1, 0.2, 0.4], [0.1, 0.3, 0.2], 0.5, "n = 3: no interval below n = 4"),
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], 1.0, "perfect agreement: no interval"),
    ],
)
def test_what_has_no_correlation_or_no_interval_says_so(
    x: list[float], y: list[float], mean: float | None, note: str
) -> None:
    interval = spearman(x, y)
    assert interval.mean == (None if mean is None else pytest.approx(mean))
    assert (interval.low, interval.high, interval.note) == (None, None, note)
    assert pearson(x, y).note == note
