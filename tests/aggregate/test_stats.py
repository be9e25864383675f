import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_ind, ttest_rel

from aggregate.stats import differences, mean_interval, paired_difference, unit_means, welch_difference

SCORES = st.lists(st.floats(-1, 1).map(lambda value: round(value, 6)), min_size=2, max_size=12)


def test_the_interval_of_three_known_values_is_students_t_with_two_degrees_of_freedom() -> None:
    # t(.975, 2) = 4.302652729911275 by any table; sd = .01, so half = 4.30265 x .01 / sqrt(3)
    interval = mean_interval([0.90, 0.91, 0.92])
    assert interval.mean == pytest.approx(0.91)
    assert interval.sd == pytest.approx(0.01)
    assert interval.low == pytest.approx(0.91 - 0.0248413773)
    assert interval.high == pytest.approx(0.91 + 0.0248413773)
    assert (interval.n, interval.note) == (3, "")


def test_the_interval_of_ten_known_values_matches_a_textbook() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]  # mean 5.5, sd 3.02765, t(.975, 9) = 2.262157
    interval = mean_interval(values)
    assert interval.low == pytest.approx(3.334149, abs=1e-6)
    assert interval.high == pytest.approx(7.665851, abs=1e-6)


def test_one_value_has_a_mean_and_no_interval() -> None:
    interval = mean_interval([0.9])
    assert (interval.mean, interval.low, interval.high, interval.sd, interval.n) == (0.9, None, None, None, 1)
    assert interval.note == "n = 1: no interval"


def test_no_value_has_no_mean() -> None:
    interval = mean_interval([])
    assert (interval.mean, interval.low, interval.sd, interval.n) == (None, None, None, 0)
    assert interval.note == "no finished run"


@pytest.mark.parametrize("value", [0.1, 0.509, 1 / 3, -0.0, 1e-300])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_equal_values_have_a_stated_point_interval_at_exactly_that_value(value: float, n: int) -> None:
    interval = mean_interval([value] * n)
    assert interval.mean == interval.low == interval.high == value
    assert interval.sd == 0
    assert interval.note == f"all {n} values equal: the interval is one point"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        mean_interval([0.5, value])


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_zero_and_one_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        mean_interval([0.5, 0.6], level)


@given(SCORES, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_is_scipys_wherever_values_differ(values: list[float], level: float) -> None:
    assume(max(values) > min(values))
    ours, theirs = mean_interval(values, level), ttest_1samp(values, 0).confidence_interval(level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-9)


@given(SCORES, st.floats(-5, 5))
def test_shifting_the_values_shifts_the_interval(values: list[float], shift: float) -> None:
    before, after = mean_interval(values), mean_interval([value + shift for value in values])
    for end in ("mean", "low", "high"):
        assert getattr(after, end) == pytest.approx(getattr(before, end) + shift, abs=1e-9)


@given(SCORES, st.floats(0.01, 100))
def test_scaling_the_values_scales_the_interval(values: list[float], scale: float) -> None:
    before, after = mean_interval(values), mean_interval([value * scale for value in values])
    for end in ("mean", "low", "high", "sd"):
        assert getattr(after, end) == pytest.approx(getattr(before, end) * scale, abs=1e-7)


@given(SCORES, st.randoms())
def test_the_order_of_the_values_does_not_matter(values: list[float], random: object) -> None:
    shuffled = sorted(values, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert mean_interval(shuffled) == mean_interval(values)


@given(SCORES)
def test_the_interval_holds_its_mean_and_grows_with_its_level(values: list[float]) -> None:
    narrow, wide = mean_interval(values, 0.8), mean_interval(values, 0.99)
    assert wide.low is not None
    assert wide.high is not None
    assert narrow.low is not None
    assert narrow.high is not None
    assert narrow.mean is not None
    assert wide.low <= narrow.low <= narrow.mean <= narrow.high <= wide.high


@pytest.mark.parametrize("n", [2, 3, 5])
def test_of_many_small_normal_samples_95_in_100_intervals_cover_the_true_mean(n: int) -> None:
    samples = np.random.default_rng(n).normal(0.8, 0.02, size=(2_000, n)).tolist()
    intervals = [mean_interval(sample) for sample in samples]
    covered = sum(i.low <= 0.8 <= i.high for i in intervals if i.low is not None and i.high is not None)
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 2_000) < covered / 2_000 < 0.95 + 3 * math.sqrt(0.95 * 0.05 / 2_000)


def test_a_paired_difference_is_taken_seed_by_seed() -> None:
    # Differences -.04, -.05, -.06: mean -.05, sd .01, half .0248413773; unpaired sds are ten times that.
    paired = paired_difference({1: 0.76, 2: 0.85, 3: 0.94}, {3: 1.00, 1: 0.80, 2: 0.90})
    assert paired.interval.mean == pytest.approx(-0.05)
    assert paired.interval.sd == pytest.approx(0.01)
    assert paired.interval.low == pytest.approx(-0.0748413773)
    assert paired.interval.high == pytest.approx(-0.0251586227)
    assert (paired.interval.n, paired.unpaired) == (3, ())
    assert paired.interval.note == ""


def test_a_seed_without_a_baseline_is_named_and_in_no_difference() -> None:
    paired = paired_difference({1: 0.7, 2: 0.8, 7: 0.1, 5: 0.2}, {1: 0.8, 2: 0.85, 3: 0.9})
    assert paired.interval.n == 2
    assert paired.interval.mean == pytest.approx(-0.075)
    assert paired.unpaired == (5, 7)


@given(*[st.dictionaries(st.integers(0, 9), st.floats(-1, 1).map(lambda score: round(score, 6)), max_size=9)] * 2)
def test_a_paired_difference_is_scipys_over_the_seeds_that_both_have(
    scores: dict[int, float], baseline: dict[int, float]
) -> None:
    shared, paired = sorted(scores.keys() & baseline.keys()), paired_difference(scores, baseline)
    assert (paired.interval.n, set(paired.unpaired)) == (len(shared), scores.keys() - baseline.keys())
    assume(len(set(differences(scores, baseline))) > 1)
    theirs = ttest_rel([scores[seed] for seed in shared], [baseline[seed] for seed in shared]).confidence_interval(0.95)
    assert (paired.interval.low, paired.interval.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-9)


def test_no_shared_seed_says_so() -> None:
    paired = paired_difference({1: 0.7}, {2: 0.8})
    assert (paired.interval.n, paired.interval.mean, paired.unpaired) == (0, None, (1,))
    assert paired.interval.note == "no seed with a baseline"


def test_without_any_score_it_is_the_runs_that_are_missing_and_not_the_baseline() -> None:
    assert paired_difference({}, {2: 0.8}).interval.note == mean_interval([]).note


def test_a_baseline_minus_itself_is_exactly_zero() -> None:
    scores = {1: 0.1, 2: 0.7, 3: 0.3}
    assert differences(scores, scores) == [0, 0, 0]


def test_units_count_once_however_often_each_was_measured() -> None:
    orders = [[0.50, 0.52, 0.54], [0.60], [], [0.70, 0.70]]
    assert unit_means(orders) == pytest.approx([0.52, 0.60, 0.70])


def test_welchs_interval_of_known_values_matches_the_formula_by_hand() -> None:
    # equal variances .01 and three values each: ν = 4, t(.975, 4) = 2.776445 by any table, error = .1 sqrt(2 / 3)
    difference = welch_difference([0.5, 0.6, 0.7], [0.8, 0.9, 1.0])
    assert difference.degrees == pytest.approx(4)
    assert difference.interval.mean == pytest.approx(-0.3)
    assert difference.interval.low == pytest.approx(-0.3 - 2.776445 * 0.1 * math.sqrt(2 / 3))
    assert difference.interval.high == pytest.approx(-0.3 + 2.776445 * 0.1 * math.sqrt(2 / 3))
    assert (difference.interval.n, difference.baseline_n, difference.interval.note) == (3, 3, "")
    # unequal: variances .01 and .0008 / 3
    unequal = welch_difference([0.5, 0.6, 0.7], [0.88, 0.90, 0.90, 0.92])
    u, v = 0.01 / 3, 0.0008 / 3 / 4
    assert unequal.degrees == pytest.approx((u + v) ** 2 / (u**2 / 2 + v**2 / 3))


@given(SCORES, SCORES, st.sampled_from([0.8, 0.95]))
def test_welchs_interval_is_scipys_where_both_sides_spread(
    units: list[float], baseline: list[float], level: float
) -> None:
    assume(min(max(units) - min(units), max(baseline) - min(baseline)) > 1e-3)
    ours = welch_difference(units, baseline, level)
    test = ttest_ind(units, baseline, equal_var=False)
    theirs = test.confidence_interval(level)
    assert ours.degrees == pytest.approx(test.df)
    assert (ours.interval.low, ours.interval.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize(
    ("m", "n", "sd", "coverage"), [(10, 10, 0.02, 0.951), (10, 3, 0.03, 0.929), (3, 10, 0.03, 0.946)]
)
def test_of_many_differences_welchs_intervals_cover_the_true_one_as_often_as_its_approximation_can(
    m: int, n: int, sd: float, coverage: float
) -> None:
    # Coverage of the formula in 400,000 draws, written anew with arrays.
    random, draws = np.random.default_rng(m), 1_000
    units, baseline = random.normal(0.6, 0.02, (draws, m)).tolist(), random.normal(0.8, sd, (draws, n)).tolist()
    intervals = [welch_difference(one, other).interval for one, other in zip(units, baseline, strict=True)]
    covered = sum(i.low <= -0.2 <= i.high for i in intervals if i.low is not None and i.high is not None)
    assert abs(covered / draws - coverage) < 3 * math.sqrt(coverage * (1 - coverage) / draws)


def test_a_side_without_spread_leaves_the_others_error_and_degrees_of_freedom() -> None:
    alone, difference = mean_interval([0.5, 0.6, 0.7]), welch_difference([0.5, 0.6, 0.7], [0.9] * 5)
    assert difference.degrees == pytest.approx(2)
    assert difference.interval.low == pytest.approx((alone.low or 0) - 0.9)
    assert difference.interval.high == pytest.approx((alone.high or 0) - 0.9)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.0, 1e-300])
def test_a_difference_without_any_spread_is_a_stated_point(value: float) -> None:
    difference = welch_difference([value] * 3, [0.9] * 2)
    interval = difference.interval
    assert interval.mean == interval.low == interval.high == value - 0.9
    assert interval.note == "n = 3 and 2, all equal on each side: the interval is one point"
    assert difference.degrees is None


@pytest.mark.parametrize("spread", [1e-3, 1e-90, 1e-150, 1e-170, 1e-300])
def test_a_tiny_spread_gives_numbers_or_a_stated_point_and_never_nan(spread: float) -> None:
    difference = welch_difference([0.0, spread], [0.0, spread, spread / 2])
    numbers = [difference.interval.mean, difference.interval.low, difference.interval.high]
    assert all(number is not None and math.isfinite(number) for number in numbers)
    assert difference.degrees is None or 1 <= difference.degrees <= 3.001


@pytest.mark.parametrize(
    ("units", "baseline", "mean", "note"),
    [
        ([], [0.9, 0.8], None, "no finished run"),
        ([0.5, 0.6], [], None, "no baseline value"),
        ([], [], None, "no finished run"),
        ([0.5], [0.9, 0.7], -0.3, "n = 1 and 2: no interval"),
        ([0.5, 0.6], [0.9], -0.35, "n = 2 and 1: no interval"),
        ([0.5], [0.9], -0.4, "n = 1 and 1: no interval"),
    ],
)
def test_too_few_values_on_a_side_have_no_interval_and_say_so(
    units: list[float], baseline: list[float], mean: float | None, note: str
) -> None:
    difference = welch_difference(units, baseline)
    interval = difference.interval
    assert interval.mean == (None if mean is None else pytest.approx(mean))
    assert (interval.low, interval.high, interval.sd, difference.degrees) == (None, None, None, None)
    assert (interval.n, difference.baseline_n, interval.note) == (len(units), len(baseline), note)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_difference_refuses_a_level_outside_zero_and_one_and_values_that_are_not_finite(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        welch_difference([0.5, 0.6], [0.7, 0.8], level)
    with pytest.raises(ValueError, match="must be finite"):
        welch_difference([0.5, 0.6], [0.7, math.nan])
