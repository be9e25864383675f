"""Intervals: what can be said about a mean from the few values there are.

Law: an interval is Student's t with the n of the data, n and its unit always travel with it, and no number is ever
NaN: where the data allow no interval it is None and `note` says why.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """Standard deviation of the sample, n - 1 in the denominator; None for n < 2 and where there are two samples."""
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


def unit_means(units: Iterable[Collection[float]]) -> list[float]:
    """One value for each unit that was measured several times: each counts once, by its own mean.

    For permutations the unit is the order. Its seeds say how well one order is known, not how orders differ, so they
    are averaged first and n is the number of orders. Units without a value are left out.
    """
    return [math.fsum(values) / len(values) for values in units if values]


@dataclass(frozen=True)
class Unpaired:
    """Difference of two means over different units."""

    interval: Interval
    """Its `n` counts the units compared, not those of the baseline."""
    baseline_n: int
    degrees: float | None
    """Degrees of freedom, not a whole number; None without an interval, and where it is one point."""
    error: float | None = None
    """Standard error of the difference; None likewise."""


def welch_difference(units: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Unpaired:
    """`mean(units) - mean(baseline)` of two independent samples, with Welch's t interval.

    With means a and b, sample variances s², m units and n baseline values, each side adds its own error:

        a - b ± t((1 + level) / 2, ν) · sqrt(u + v),    u = s²_units / m,    v = s²_baseline / n
        ν = (u + v)² / (u² / (m - 1) + v² / (n - 1))

    The variances need not be equal. One side without spread leaves the other's error and degrees of freedom; without
    any spread the interval is one point, and with fewer than two values on a side there is none. ν is an approximation:
    at the level 0.95 the interval of 10 normal units against 3 baseline values covers 0.93 to 0.95, of 10 against 10
    0.95.

    Source: B. L. Welch, "The generalization of 'Student's' problem when several different population variances are
    involved", Biometrika 34 (1947), 28-35; ν after F. E. Satterthwaite, Biometrics Bulletin 2 (1946), 110-114. The
    same as `scipy.stats.ttest_ind(units, baseline, equal_var=False).confidence_interval(level)`, which is NaN without
    spread.

    Raises:
        ValueError: a value is not finite, or the level is not inside (0, 1).
    """
    a, b = mean_interval(units, level), mean_interval(baseline, level)
    if a.mean is None or b.mean is None:
        note = "no finished run" if a.mean is None else "no baseline value"
        return Unpaired(Interval(None, None, None, a.n, None, note, level), b.n, None)
    mean = a.mean - b.mean
    if a.sd is None or b.sd is None:
        return Unpaired(Interval(mean, None, None, a.n, None, f"n = {a.n} and {b.n}: no interval", level), b.n, None)
    error = math.hypot(a.sd / math.sqrt(a.n), b.sd / math.sqrt(b.n))
    if error == 0:
        note = f"n = {a.n} and {b.n}, all equal on each side: the interval is one point"
        return Unpaired(Interval(mean, mean, mean, a.n, None, note, level), b.n, None)
    share = (a.sd / math.sqrt(a.n) / error) ** 2  # u / (u + v): the formula for ν without squares that underflow
    degrees = 1 / (share**2 / (a.n - 1) + (1 - share) ** 2 / (b.n - 1))
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    return Unpaired(Interval(mean, mean - half, mean + half, a.n, None, level=level), b.n, degrees, error)


def _noted(interval: Interval, note: str) -> Interval:
    return Interval(interval.mean, interval.low, interval.high, interval.n, interval.sd, note, interval.level)
