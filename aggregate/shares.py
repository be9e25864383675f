"""Shares: a part of the gain over the whole gain, with Fieller's interval, and the difference of two of them.

Law: a share is tested by the contrast part - bound · whole and never by an approximation to a ratio. Where the whole is
not above zero there is nothing to share: the interval has no ends and nothing is tested.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from scipy import stats

from aggregate.contrasts import ROUNDING, Scores, Student, positive, student
from aggregate.stats import LEVEL, Interval

NO_GAIN: Final = "no gain to share"

_SMALLEST_P: Final = 1e-9


@dataclass(frozen=True)
class Share:
    """mean(part) / mean(whole) over the seeds that both have."""

    part: Scores
    whole: Scores

    @cached_property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """Part and whole at each seed that both have."""
        return tuple((self.part[seed], self.whole[seed]) for seed in sorted(set(self.part) & set(self.whole)))

    @cached_property
    def gain(self) -> Student:
        """The whole, at the same seeds."""
        return student([whole for _, whole in self.pairs])

    @property
    def interval(self) -> Interval:
        """Fieller's, at the level of the project."""
        return self.at(LEVEL)

    def at(self, level: float) -> Interval:
        """Fieller's interval: every r at which a t test does not reject mean(part - r · whole) = 0.

        With means a, b, covariances s of the means and t = t((1 + level) / 2, n - 1), the roots of

            (b² - t² s_bb) r² - 2 (a b - t² s_ab) r + (a² - t² s_aa) = 0,

        two ends around a / b where b is above zero at this level; elsewhere the interval is unbounded and None here.
        Exact for normal values.

        Source: E. C. Fieller, "Some problems in interval estimation", J. R. Statist. Soc. B 16 (1954), 175-185.
        """
        if not positive(self.gain):
            note = no_gain(self.gain.interval)
            return Interval(None, None, None, len(self.pairs), None, note, level)
        n = len(self.pairs)
        a, b = np.mean(self.pairs, axis=0)
        (s_aa, s_ab), (_, s_bb) = np.cov(np.transpose(self.pairs)) / n / b**2  # in units of the whole
        mean, t2 = float(a / b), float(stats.t.ppf((1 + level) / 2, n - 1)) ** 2
        A, B, C = 1 - t2 * s_bb, mean - t2 * s_ab, mean**2 - t2 * s_aa
        if A <= 0:
            return Interval(mean, None, None, n, None, "the gain is not above zero at this level", level)
        root = math.sqrt(max(0.0, B**2 - A * C))
        low, high = min(mean, float((B - root) / A)), max(mean, float((B + root) / A))
        if high - low < ROUNDING:
            return Interval(mean, mean, mean, n, None, "the same share at every seed: one point", level)
        return Interval(mean, low, high, n, None, level=level)

    def above(self, bound: float) -> float:
        """The exact test of mean(part - bound · whole) > 0."""
        return self._against(bound).above() if positive(self.gain) else 1.0

    def below(self, bound: float) -> float:
        """The exact test of mean(part - bound · whole) < 0."""
        return self._against(bound).below() if positive(self.gain) else 1.0

    def _against(self, bound: float) -> Student:
        return student([part - bound * whole for part, whole in self.pairs])


def no_gain(gain: Interval) -> str:
    """Why a gain that is not above zero, as far as is known, cannot be shared."""
    if gain.n == 0:
        return "no seed with a score in every cell that is compared"
    if gain.sd is None:
        return f"n = {gain.n}: no interval"
    if gain.low == gain.high:
        return f"{NO_GAIN}: it is {gain.mean:.3f} at all {gain.n} seeds, without spread"
    return f"{NO_GAIN}: its interval is {gain.low:.3f} to {gain.high:.3f}"


@dataclass(frozen=True)
class ShareDifference:
    """first - second for shares of independent samples, by MOVER."""

    first: Share
    second: Share

    @property
    def interval(self) -> Interval:
        """At the level of the project."""
        return self.at(LEVEL)

    def at(self, level: float) -> Interval:
        """The method of variance estimates recovery: the limits of each share carry its own error to the difference.

        With shares x and y and their Fieller limits (l, u), each distance squared standing for t² variances on its
        side:

            low  = x - y - sqrt((x - l_x)² + (u_y - y)²)
            high = x - y + sqrt((u_x - x)² + (y - l_y)²)

        Source: G. Y. Zou and A. Donner, "Construction of confidence limits about effect measures: a general approach",
        Statistics in Medicine 27 (2008), 1693-1702.
        """
        x, y = self.first.at(level), self.second.at(level)
        n = min(x.n, y.n)
        if x.mean is None or y.mean is None:
            return replace(x if x.mean is None else y, mean=None)
        mean = x.mean - y.mean
        if x.low is None or x.high is None or y.low is None or y.high is None:
            return Interval(mean, None, None, n, None, x.note or y.note, level)
        low = mean - math.hypot(x.mean - x.low, y.high - y.mean)
        high = mean + math.hypot(x.high - x.mean, y.mean - y.low)
        return Interval(mean, low, high, n, None, f"n = {x.n} and {y.n}", level)

    def above(self, bound: float) -> float:
        """The smallest p at which the interval of level 1 - 2p is above the bound; equal values test nothing."""
        return self._smallest(lambda interval: interval.low is not None and interval.low > bound)

    def below(self, bound: float) -> float:
        """The smallest p at which the interval of level 1 - 2p is below the bound."""
        return self._smallest(lambda interval: interval.high is not None and interval.high < bound)

    def _smallest(self, excluded: Callable[[Interval], bool]) -> float:
        """The smallest p with `excluded(at(1 - 2p))`, by bisection of its logarithm; 1 where none below a half has."""
        if self.interval.low == self.interval.high:
            return 1.0
        low, high = math.log(_SMALLEST_P), math.log(0.499)
        if not excluded(self.at(1 - 2 * math.exp(high))):
            return 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if excluded(self.at(1 - 2 * math.exp(middle))) else (middle, high)
        return math.exp(high)
