"""Correlation over units, with intervals: Pearson's r and Spearman's rho.

Law: n counts units. Fewer than four, a constant side or a perfect agreement give no interval and say so.
"""

import math
from collections.abc import Sequence

from scipy import stats

from aggregate.stats import LEVEL, Interval

FEWEST_UNITS = 4
"""The error of z has sqrt(n - 3) in its denominator."""


def pearson(x: Sequence[float], y: Sequence[float], level: float = LEVEL) -> Interval:
    """Pearson's r with Fisher's interval: z = atanh(r) is normal with variance 1 / (n - 3), for binormal pairs.

    Source: R. A. Fisher, Metron 1 (1921), 3-32; `scipy.stats.pearsonr(x, y).confidence_interval(level)`.
    """
    if unable := _constant(x, y, level):
        return unable
    r = float(stats.pearsonr(x, y).statistic)
    return _fisher(r, len(x), 1.0, level)


def spearman(x: Sequence[float], y: Sequence[float], level: float = LEVEL) -> Interval:
    """Spearman's rho with Bonett and Wright's interval: z = atanh(rho) has variance (1 + rho² / 2) / (n - 3).

    Source: D. G. Bonett and T. A. Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations", Psychometrika 65 (2000), 23-28.
    """
    if unable := _constant(x, y, level):
        return unable
    rho = float(stats.spearmanr(x, y).statistic)
    return _fisher(rho, len(x), 1 + rho**2 / 2, level)


def _constant(x: Sequence[float], y: Sequence[float], level: float) -> Interval | None:
    """Why there is no correlation; None where there is one. A spread of rounding alone is none."""
    n = len(x)
    if n < 2:
        return Interval(None, None, None, n, None, f"n = {n}: no correlation", level)
    for side in (x, y):
        if max(side) - min(side) <= 1e-12 * max(1.0, *(abs(each) for each in side)):
            return Interval(None, None, None, n, None, "one side is the same for all: no correlation", level)
    return None


def _fisher(r: float, n: int, variance: float, level: float) -> Interval:
    r = max(-1.0, min(1.0, r))
    if n < FEWEST_UNITS:
        return Interval(r, None, None, n, None, f"n = {n}: no interval below n = {FEWEST_UNITS}", level)
    if abs(r) > 1 - 1e-12:
        return Interval(r, None, None, n, None, "perfect agreement: no interval", level)
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(variance / (n - 3))
    return Interval(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), n, None, level=level)
