"""Intervals: what can be said about a mean from the few values there are.

Law: an interval is Student's t with the n of the data, n and its unit always travel with it, and no number is ever
NaN: where the data allow no interval it is None and `note` says why.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and what is known about it.

    Bounds are None for n < 2, and equal to the mean when all values are equal; `note` then says so.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    sd: float | None
    """Standard deviation of the sample, n - 1 in the denominator; None for n < 2."""
    note: str = ""
    level: float = LEVEL


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of independent values with its two-sided Student t interval, n - 1 degrees of freedom.

    The interval covers the mean of the distribution that the values were drawn from (here: over seeds, given one
    validation set), with probability `level` if that distribution is normal.

    Raises:
        ValueError: a value is not finite, or the level is not inside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie inside (0, 1), got {level}")
    if wrong := [value for value in values if not math.isfinite(value)]:
        raise ValueError(f"values must be finite, got {wrong}")
    n = len(values)
    if n == 0:
        return Interval(None, None, None, 0, None, "no finished run", level)
    if min(values) == max(values):  # compared, not computed: the mean of equal floats need not equal them
        mean = float(values[0])
        if n == 1:
            return Interval(mean, None, None, 1, None, "n = 1: no interval", level)
        return Interval(mean, mean, mean, n, 0.0, f"all {n} values equal: the interval is one point", level)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, sd, level=level)


@dataclass(frozen=True)
class Paired:
    """Mean difference to a baseline over the seeds that both have."""

    interval: Interval
    """Its `n` counts pairs."""
    unpaired: tuple[int, ...] = ()
    """Seeds of the compared cell that have no baseline, so that no difference counts them."""


def paired_difference(scores: Mapping[int, float], baseline: Mapping[int, float], level: float = LEVEL) -> Paired:
    """Mean of `scores[seed] - baseline[seed]` with its t interval.

    Two conditions at one seed share the training subset, the classifier's start and the order of the data, so their
    difference varies less than either score.
    """
    interval = mean_interval(differences(scores, baseline), level)
    if interval.n == 0 and scores:
        interval = _noted(interval, "no seed with a baseline")
    return Paired(interval, tuple(sorted(set(scores) - set(baseline))))


def differences(scores: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Score minus baseline for each seed that both have, in the order of the seeds."""
    return [scores[seed] - baseline[seed] for seed in sorted(set(scores) & set(baseline))]


def interval_over_units(units: Collection[Sequence[float]], level: float = LEVEL) -> Interval:
    """The interval over units of which each was measured several times: each unit counts once, by its own mean.

    For permutations the unit is the order. Its seeds say how well one order is known, not how orders differ, so they
    are averaged first and n is the number of orders. Units without a value are left out.
    """
    return mean_interval([math.fsum(values) / len(values) for values in units if values], level)


def _noted(interval: Interval, note: str) -> Interval:
    return Interval(interval.mean, interval.low, interval.high, interval.n, interval.sd, note, interval.level)
