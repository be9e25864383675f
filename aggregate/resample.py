"""Resampling: intervals for what is no mean, such as the largest gap between two curves.

Law: what is resampled is the seed, with its whole curve. With 20 seeds or more in every sample by the bootstrap, with
fewer by the delete-one jackknife and Student's t, with fewer than 3 not at all; the interval's note says which.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from aggregate.contrasts import Student
from aggregate.stats import LEVEL, Interval

Array = NDArray[np.float64]
Statistic = Callable[..., Array]
"""A function of the mean curves, one argument a sample: arrays whose last axis is the curve, all others alike."""

FEWEST_SEEDS: Final = 3
BOOTSTRAP_SEEDS: Final = 20
REPLICATES: Final = 4_999


@dataclass(frozen=True)
class Bootstrapped:
    """A statistic known through its replicates."""

    interval: Interval
    replicates: Array

    def above(self, bound: float) -> float:
        """Share of replicates at or below the bound, the estimate itself counted as one of them."""
        return float((1 + np.sum(self.replicates <= bound)) / (1 + self.replicates.size))

    def below(self, bound: float) -> float:
        """Share of replicates at or above the bound, likewise."""
        return float((1 + np.sum(self.replicates >= bound)) / (1 + self.replicates.size))


def resampled(statistic: Statistic, samples: Sequence[Array]) -> Student | Bootstrapped:
    """The statistic of the samples' mean curves, with the interval that their sizes allow.

    Args:
        statistic: of the mean curves, one argument a sample.
        samples: independent samples, each an array of seeds x points.
    """
    fewest = min(len(sample) for sample in samples)
    if fewest < FEWEST_SEEDS:
        mean = float(statistic(*(sample.mean(axis=0) for sample in samples))) if fewest else None
        note = f"n = {fewest}: no interval below n = {FEWEST_SEEDS}"
        return Student(_finite(Interval(mean, None, None, fewest, None, note)))
    if fewest >= BOOTSTRAP_SEEDS:
        return bootstrap(statistic, samples)
    return jackknife(statistic, samples)


def jackknife(statistic: Statistic, samples: Sequence[Array], level: float = LEVEL) -> Student:
    """Delete-one jackknife over several independent samples, with Student's t.

    With θ(i, j) the statistic without seed j of sample i, n_i seeds in it:

        V_i = (n_i - 1) / n_i · Σ_j (θ(i, j) - θ(i, ·))²,    error² = V = Σ_i V_i
        degrees = V² / Σ_i (V_i² / (n_i - 1))

    Source: B. Efron and C. Stein, "The jackknife estimate of variance", Ann. Statist. 9 (1981), 586-596; several
    samples: J. N. Arvesen, Ann. Math. Statist. 40 (1969), 2076-2100; degrees after Satterthwaite.
    """
    means = [sample.mean(axis=0) for sample in samples]
    estimate, n = float(statistic(*means)), min(len(sample) for sample in samples)
    variances = []
    for index, sample in enumerate(samples):
        size = len(sample)
        deleted: list[Array] = [np.broadcast_to(mean, (size, mean.size)) for mean in means]
        deleted[index] = (size * means[index] - sample) / (size - 1)
        theta = statistic(*deleted)
        variances.append(float((size - 1) / size * np.sum((theta - theta.mean()) ** 2)))
    total = math.fsum(variances)
    if not (math.isfinite(estimate) and math.isfinite(total)):
        return Student(Interval(None, None, None, n, None, "undefined without one of the seeds", level))
    if total < 1e-24:
        note = "the same without any one seed: the interval is one point"
        return Student(Interval(estimate, estimate, estimate, n, 0.0, note, level))
    degrees = total**2 / sum(each**2 / (len(sample) - 1) for each, sample in zip(variances, samples, strict=True))
    error = math.sqrt(total)
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    note = f"delete-one jackknife over seeds, t with {degrees:.1f} degrees of freedom"
    return Student(Interval(estimate, estimate - half, estimate + half, n, None, note, level), error, degrees)


def bootstrap(statistic: Statistic, samples: Sequence[Array], level: float = LEVEL, seed: int = 0) -> Bootstrapped:
    """Percentile bootstrap over seeds, each sample resampled on its own.

    The same samples give the same interval: the generator is seeded here.
    """
    random, n = np.random.default_rng(seed), min(len(sample) for sample in samples)
    means = [_resampled_means(sample, random) for sample in samples]
    replicates = statistic(*means)
    estimate = float(statistic(*(sample.mean(axis=0) for sample in samples)))
    if not (math.isfinite(estimate) and np.isfinite(replicates).all()):
        note = "undefined for some resampled seeds"
        return Bootstrapped(Interval(None, None, None, n, None, note, level), np.array([-math.inf, math.inf]))
    low, high = (float(each) for each in np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2]))
    note = f"percentile bootstrap over seeds, {REPLICATES:,} replicates"
    return Bootstrapped(Interval(estimate, min(low, estimate), max(high, estimate), n, None, note, level), replicates)


def _resampled_means(sample: Array, random: np.random.Generator) -> Array:
    """Means of `REPLICATES` resamples, by how often each seed was drawn: replicates x points."""
    n = len(sample)
    counts: Array = random.multinomial(n, [1 / n] * n, size=REPLICATES).astype(np.float64)
    means: Array = counts @ sample / n
    return means


def _finite(interval: Interval) -> Interval:
    if interval.mean is None or math.isfinite(interval.mean):
        return interval
    return Interval(None, None, None, interval.n, None, "undefined for these curves", interval.level)
