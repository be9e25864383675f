"""Contrasts: linear combinations of scores, one value a seed, with Student's t interval and tests.

Law: what is compared is paired by seed, by combining scores within each seed first. A margin that is a share of the
gain is part of the contrast: "the loss is below 10% of the gain" is mean(loss - 0.1 gain) < 0, which is exact for
normal values, and no ratio is formed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scipy import stats

from aggregate.stats import LEVEL, Interval, Unpaired, mean_interval, welch_difference

Scores = Mapping[int, float]
"""Score by seed."""

ROUNDING: Final = 1e-12
"""Scores are of the order of 1, so that values nearer to each other than this differ by rounding alone."""


@dataclass(frozen=True)
class Student:
    """A number known through Student's t: (estimate - truth) / error has `degrees` degrees of freedom."""

    interval: Interval
    error: float | None = None
    """Standard error; None where there is none or it is 0, and then nothing is tested."""
    degrees: float | None = None

    def above(self, bound: float = 0.0) -> float:
        """P(T ≥ (estimate - bound) / error)."""
        if self.interval.mean is None or not self.error or not self.degrees:
            return 1.0
        return float(stats.t.sf((self.interval.mean - bound) / self.error, self.degrees))

    def below(self, bound: float = 0.0) -> float:
        """P(T ≤ (estimate - bound) / error)."""
        if self.interval.mean is None or not self.error or not self.degrees:
            return 1.0
        return float(stats.t.cdf((self.interval.mean - bound) / self.error, self.degrees))


def student(values: Sequence[float], level: float = LEVEL) -> Student:
    """The mean of independent values. Equal values test nothing: their spread is not known to be none."""
    alike = len(values) > 1 and max(values) - min(values) < ROUNDING
    interval = mean_interval([values[0]] * len(values) if alike else values, level)
    if not interval.sd:
        return Student(interval)
    return Student(interval, interval.sd / math.sqrt(interval.n), interval.n - 1)


def positive(known: Student) -> bool:
    """Whether a gain is there to be shared: its whole interval is above zero.

    An interval of one point counts here, since what is tested is the share and needs a spread of its own: a probe
    fitted to convergence on all rows has one score, whatever the seed.
    """
    return known.interval.low is not None and known.interval.low > 0


def welch(units: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Student:
    """The difference of two means over different units (`stats.welch_difference`)."""
    difference: Unpaired = welch_difference(units, baseline, level)
    return Student(difference.interval, difference.error, difference.degrees)


def contrast(*terms: tuple[float, Scores]) -> dict[int, float]:
    """Σ coefficient · score for each seed that all terms have, seeds ascending.

    `contrast((1, plain), (-1, redrawn))` is what the redraw loses at each seed.
    """
    shared = set.intersection(*(set(scores) for _, scores in terms)) if terms else set()
    return {seed: math.fsum(coefficient * scores[seed] for coefficient, scores in terms) for seed in sorted(shared)}


def difference(scores: Scores, baseline: Scores) -> dict[int, float]:
    """`scores` minus `baseline` at each seed that both have."""
    return contrast((1, scores), (-1, baseline))
