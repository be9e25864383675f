import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from aggregate.alignment import gap_difference, largest_gap, pearson, rescaled, spearman
from aggregate.resample import Array, Bootstrapped, bootstrap, jackknife, resampled


def first(means: Array) -> Array:
    return means[..., 0]


def apart(one: Array, other: Array) -> Array:
    return one[..., 0] - other[..., 0]


X = np.array([[0.5], [0.6], [0.65], [0.58]])
Y = np.array([[0.8], [0.9], [0.75]])


def test_of_a_mean_the_jackknife_is_students_t() -> None:
    theirs = ttest_1samp(X[:, 0], 0).confidence_interval(0.95)
    interval = jackknife(first, [X]).interval
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high))
    assert interval.n == 4


def test_of_a_difference_of_two_means_the_jackknife_is_welchs() -> None:
    test = ttest_ind(X[:, 0], Y[:, 0], equal_var=False)
    known = jackknife(apart, [X, Y])
    assert known.degrees == pytest.approx(test.df)
    assert (known.interval.low, known.interval.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert "delete-one jackknife" in known.interval.note
    assert known.interval.n == 3


def test_with_twenty_seeds_everywhere_the_bootstrap_takes_over_and_agrees_with_t_for_a_mean() -> None:
    sample = np.random.default_rng(1).normal(0.8, 0.02, (40, 1))
    known = resampled(first, [sample])
    assert isinstance(known, Bootstrapped)
    theirs = ttest_1samp(sample[:, 0], 0).confidence_interval(0.95)
    assert known.interval.low == pytest.approx(theirs.low, abs=1e-3)
    assert known.interval.high == pytest.approx(theirs.high, abs=1e-3)
    assert "bootstrap" in known.interval.note
    assert known.above(known.interval.low or 0) == pytest.approx(0.025, abs=2e-3)
    assert known.below(0.9) < 0.001
    assert known.above(0.9) == 1
    assert not isinstance(resampled(apart, [sample, Y]), Bootstrapped)


def test_the_same_samples_give_the_same_bootstrap() -> None:
    sample = np.random.default_rng(1).normal(0.8, 0.02, (20, 1))
    assert bootstrap(first, [sample]).interval == bootstrap(first, [sample]).interval


@pytest.mark.parametrize("n", [0, 1, 2])
def test_with_fewer_than_three_seeds_there_is_no_interval(n: int) -> None:
    known = resampled(first, [np.full((n, 1), 0.5)])
    assert (known.interval.low, known.interval.n) == (None, n)
    assert known.interval.note == f"n = {n}: no interval below n = 3"
    assert (known.above(0), known.below(0)) == (1, 1)


def test_samples_without_spread_give_one_point_that_decides_nothing() -> None:
    known = resampled(first, [np.full((5, 1), 0.5)])
    assert known.interval.low == known.interval.high == 0.5
    assert (known.above(0), known.below(0)) == (1, 1)


@pytest.mark.parametrize("n", [5, 30])
def test_what_is_undefined_has_no_number_and_says_so(n: int) -> None:
    flat = np.full((n, 4), 0.5)
    for statistic in (largest_gap, pearson):
        known = resampled(statistic, [flat, flat])
        assert (known.interval.mean, known.interval.low) == (None, None)
        assert "undefined" in known.interval.note
        assert min(known.above(0), known.below(0)) > 0.025


def test_curves_are_rescaled_to_their_own_gain() -> None:
    assert rescaled(np.array([0.5, 0.6, 0.9])) == pytest.approx([0, 0.25, 1])


def test_the_largest_gap_is_the_widest_place_between_rescaled_curves() -> None:
    low, high = np.array([0.5, 0.55, 0.6, 0.7]), np.array([0.1, 0.3, 0.4, 0.5])  # 0 .25 .5 1 and 0 .5 .75 1
    assert largest_gap(low, high) == pytest.approx(0.25)
    assert gap_difference(low, high, high) == pytest.approx(0.25)


def test_correlations_of_curves_are_numpys() -> None:
    x, y = np.array([0.5, 0.52, 0.6, 0.9]), np.array([0.1, 0.3, 0.2, 0.5])
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(x, y) == pytest.approx(0.8)  # ranks 1 2 3 4 and 1 3 2 4: 1 - 6 x 2 / (4 x 15)
    assert math.isnan(float(pearson(x, np.full(4, 0.5))))
