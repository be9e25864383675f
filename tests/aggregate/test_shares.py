import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import t

from aggregate.shares import Share, ShareDifference

GAINS = [0.40, 0.38, 0.43, 0.39, 0.41]
PARTS = [0.20, 0.17, 0.22, 0.21, 0.19]


def share(parts: list[float], wholes: list[float]) -> Share:
    return Share(dict(enumerate(parts)), dict(enumerate(wholes)))


def by_inversion(parts: list[float], wholes: list[float], level: float = 0.95) -> tuple[float, float]:
    """Fieller's limits as what they are: where the t test of part - r whole stops rejecting."""
    a, b = np.array(parts), np.array(wholes)
    critical = t.ppf((1 + level) / 2, len(a) - 1)

    def statistic(r: float) -> float:
        values = a - r * b
        return float(abs(values.mean()) / (values.std(ddof=1) / math.sqrt(len(a))) - critical)

    middle = a.mean() / b.mean()
    return brentq(statistic, middle - 2, middle), brentq(statistic, middle, middle + 2)


def test_fiellers_interval_is_where_the_t_test_of_part_minus_share_times_whole_does_not_reject() -> None:
    interval = share(PARTS, GAINS).interval
    assert (interval.low, interval.high) == pytest.approx(by_inversion(PARTS, GAINS), abs=1e-9)
    assert interval.mean == pytest.approx(0.198 / 0.402)
    assert interval.n == 5


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(300, 500)), min_size=3, max_size=8, unique=True),
    st.floats(0.5, 0.999),
)
def test_fiellers_interval_holds_its_estimate_and_grows_with_its_level(
    pairs: list[tuple[int, int]], level: float
) -> None:
    known = share([part / 1000 for part, _ in pairs], [whole / 1000 for _, whole in pairs])
    narrow, wide = known.at(level - 0.3), known.at(level)
    if wide.low is not None and wide.high is not None:
        assert narrow.low is not None
        assert narrow.high is not None
        assert wide.mean is not None
        assert wide.low <= narrow.low <= wide.mean <= narrow.high <= wide.high


@given(st.floats(0.01, 100))
def test_a_share_does_not_depend_on_the_unit_of_the_scores(scale: float) -> None:
    scaled = share([part * scale for part in PARTS], [gain * scale for gain in GAINS]).interval
    assert scaled.low == pytest.approx(share(PARTS, GAINS).interval.low)


def test_the_sign_of_the_part_turns_the_share_over() -> None:
    there, back = share(PARTS, GAINS), share([-part for part in PARTS], GAINS)
    assert back.interval.low == pytest.approx(-(there.interval.high or 0))
    assert back.above(-0.4) == pytest.approx(there.below(0.4))


def test_a_share_is_on_one_side_of_a_bound_exactly_where_its_interval_is() -> None:
    known = share(PARTS, GAINS)
    low, high = known.interval.low or 0, known.interval.high or 0
    assert known.above(low - 1e-6) < 0.025 < known.above(low + 1e-6)
    assert known.below(high + 1e-6) < 0.025 < known.below(high - 1e-6)


@pytest.mark.parametrize(
    ("parts", "wholes", "note"),
    [
        ([], [], "no seed with a score in every cell that is compared"),
        ([0.1], [0.4], "n = 1: no interval"),
        ([0.1, 0.2, 0.1], [0.0, 0.0, 0.0], "no gain to share: it is 0.000 at all 3 seeds, without spread"),
        ([0.1, 0.2, 0.1], [-0.1, 0.3, 0.1], "no gain to share: its interval is -0.397 to 0.597"),
        ([0.1, 0.2, 0.1], [-0.1, -0.1, -0.12], "no gain to share: its interval is -0.135 to -0.078"),
    ],
)
def test_without_a_gain_there_is_no_share_and_nothing_is_tested(
    parts: list[float], wholes: list[float], note: str
) -> None:
    known = share(parts, wholes)
    assert (known.interval.mean, known.interval.low, known.interval.note) == (None, None, note)
    assert (known.above(0), known.below(1)) == (1, 1)
    apart = ShareDifference(known, share(PARTS, GAINS))
    assert (apart.interval.mean, apart.interval.note, apart.above(0), apart.below(0)) == (None, note, 1, 1)


def test_the_same_share_at_every_seed_is_one_point_and_decides_nothing() -> None:
    known = share([0.2, 0.1, 0.15], [0.4, 0.2, 0.3])
    assert known.interval.low == known.interval.high == pytest.approx(0.5)
    apart = ShareDifference(known, known)
    assert (apart.above(-0.1), apart.below(0.1)) == (1, 1)


def test_it_says_that_it_is_one_point_and_where_a_part_is_no_share_at_all() -> None:
    point = share([0.2, 0.1, 0.15], [0.4, 0.2, 0.3]).interval
    assert point.note == "the same share at every seed: one point"
    assert point.mean == point.low == point.high
    assert share(PARTS, GAINS).interval.note == ""


def test_a_seed_that_one_side_lacks_counts_on_neither() -> None:
    more = Share({**dict(enumerate(PARTS)), 8: 0.9}, {**dict(enumerate(GAINS)), 9: 0.1})
    assert more.interval == share(PARTS, GAINS).interval
    assert more.gain.interval.n == len(PARTS)


def test_a_gain_that_is_not_above_zero_at_a_higher_level_has_no_ends_there() -> None:
    interval = share([0.1, 0.2, 0.1], [0.2, 0.3, 0.25]).at(0.999)
    assert (interval.low, interval.high, interval.note) == (None, None, "the gain is not above zero at this level")
    assert interval.mean == pytest.approx(0.4 / 0.75)


@pytest.mark.parametrize("order", [1, -1])
def test_a_difference_to_a_share_without_ends_says_which_has_none(order: int) -> None:
    wide, narrow = share([0.1, 0.2, 0.1], [0.2, 0.3, 0.25]), share(PARTS, GAINS)
    apart = ShareDifference(*(wide, narrow)[::order]).at(0.999)
    assert (apart.low, apart.high, apart.note) == (None, None, "the gain is not above zero at this level")


def test_a_gain_without_spread_leaves_the_parts_own_interval() -> None:
    known = share([0.1, 0.12, 0.14], [0.4, 0.4, 0.4]).interval
    half = t.ppf(0.975, 2) * 0.02 / math.sqrt(3)
    assert (known.low, known.high) == pytest.approx(((0.12 - half) / 0.4, (0.12 + half) / 0.4))


def test_the_difference_of_two_shares_has_the_limits_of_zou_and_donner() -> None:
    one, other = share(PARTS, GAINS), share([0.05, 0.04, 0.08, 0.06], [0.30, 0.29, 0.33, 0.31])
    (l1, u1), (l2, u2) = (
        by_inversion(PARTS, GAINS),
        by_inversion([0.05, 0.04, 0.08, 0.06], [0.30, 0.29, 0.33, 0.31]),
    )
    x, y = 0.198 / 0.402, 0.0575 / 0.3075
    interval = ShareDifference(one, other).interval
    assert interval.mean == pytest.approx(x - y)
    assert interval.low == pytest.approx(x - y - math.sqrt((x - l1) ** 2 + (u2 - y) ** 2), abs=1e-9)
    assert interval.high == pytest.approx(x - y + math.sqrt((u1 - x) ** 2 + (y - l2) ** 2), abs=1e-9)


def test_its_p_value_is_the_level_at_which_its_interval_reaches_the_bound() -> None:
    apart = ShareDifference(share(PARTS, GAINS), share([0.05, 0.04, 0.08, 0.06], [0.30, 0.29, 0.33, 0.31]))
    p = apart.above(0.1)
    assert 0 < p < 0.025
    assert apart.at(1 - 2 * p).low == pytest.approx(0.1, abs=1e-6)
    assert apart.above(apart.interval.low or 0) == pytest.approx(0.025, abs=1e-6)
    assert apart.below(apart.interval.high or 0) == pytest.approx(0.025, abs=1e-6)
    assert apart.above(0.9) == 1
