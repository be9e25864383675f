import math

import numpy as np
import pytest
from scipy import stats

from aggregate.contrasts import contrast, difference, positive, student, welch


def test_a_contrast_combines_the_scores_of_each_seed_that_all_conditions_have() -> None:
    plain, block, none = {1: 0.9, 2: 0.8, 4: 0.7}, {2: 0.7, 1: 0.85}, {1: 0.5, 2: 0.6, 3: 0.1}
    values = contrast((0.9, plain), (-1, block), (0.1, none))
    assert values == {1: pytest.approx(0.9 * 0.9 - 0.85 + 0.05), 2: pytest.approx(0.9 * 0.8 - 0.7 + 0.06)}
    assert difference(plain, block) == {1: pytest.approx(0.05), 2: pytest.approx(0.1)}
    assert contrast() == {}


def test_p_values_are_those_of_scipys_one_sample_t_test() -> None:
    values = [0.02, 0.05, 0.01, 0.04]
    known = student(values)
    assert known.above(0.01) == pytest.approx(stats.ttest_1samp(values, 0.01, alternative="greater").pvalue)
    assert known.below(0.01) == pytest.approx(stats.ttest_1samp(values, 0.01, alternative="less").pvalue)


def test_p_values_of_two_samples_are_those_of_scipys_welch_test() -> None:
    x, y = [0.5, 0.6, 0.65, 0.5], [0.7, 0.72, 0.9]
    assert welch(x, y).below() == pytest.approx(stats.ttest_ind(x, y, equal_var=False, alternative="less").pvalue)


@pytest.mark.parametrize("values", [[], [0.3], [0.3, 0.3, 0.3], [0.1 + 0.2, 0.3, 0.3]])
def test_too_few_values_and_values_without_spread_test_nothing_and_say_so(values: list[float]) -> None:
    known = student(values)
    assert (known.above(), known.below()) == (1, 1)
    assert known.interval.note


def test_a_gain_is_positive_where_its_whole_interval_is_and_at_a_single_point_above_zero() -> None:
    assert positive(student([0.2, 0.21, 0.22]))
    assert positive(student([0.2, 0.2]))
    assert not positive(student([0.2]))
    assert not positive(student([-0.2, 0.2, 0.3]))
    assert not positive(student([0.0, 0.0, 0.0]))


@pytest.mark.parametrize("n", [3, 5, 10, 50])
def test_mean_paired_and_contrast_intervals_cover_the_truth_in_95_of_100_normal_samples(n: int) -> None:
    random, draws = np.random.default_rng(n), 20_000
    seeds = random.normal(0, 0.02, (draws, n, 1))
    plain, block, none = np.moveaxis(np.array([0.86, 0.80, 0.51]) + seeds + random.normal(0, 0.02, (draws, n, 3)), 2, 0)
    samples = {
        "mean": (plain, 0.86),
        "paired": (plain - block, 0.06),
        "contrast": (0.9 * plain - block + 0.1 * none, 0.025),
    }
    for values, truth in samples.values():
        means, halves = values.mean(axis=1), stats.t.ppf(0.975, n - 1) * values.std(axis=1, ddof=1) / math.sqrt(n)
        ours = student(values[0].tolist()).interval
        assert (ours.low, ours.high) == pytest.approx((means[0] - halves[0], means[0] + halves[0]))
        covered = (abs(means - truth) <= halves).mean()
        assert abs(covered - 0.95) < 3 * math.sqrt(0.95 * 0.05 / draws)
