"""Probing against transfer: how far the progressive curve and the probe curve are from each other.

Law: both curves are rescaled to their own gain from k = 1 to the top, so that their shapes are compared and not their
scales; where a curve does not rise there is nothing to compare. Seeds are resampled with their whole curves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from aggregate.claim import said
from aggregate.contrasts import Scores, positive, student
from aggregate.evidence import Known
from aggregate.grid import Measured, Subject, first, sizes_of
from aggregate.resample import Array, resampled

FITS: Final = ("recipe", "converged")
"""Of the probe's classifier: trained by the recipe's steps, or fitted to convergence."""


@dataclass(frozen=True)
class ProbeCurve:
    """Scores of probes by the number of layers kept, from 1 up."""

    points: Mapping[int, Scores]
    label: str
    """What probes they are, in words."""


def probe_curve(subject: Subject, fit: str | None = None) -> ProbeCurve | None:
    """The probe of the pooler's feature at its largest size; None where there is none.

    Scored in memory rather than after a reload and without dropout in the encoder rather than with it, where there is
    a choice.

    Args:
        subject: whose probes.
        fit: which of `FITS`; None takes the first that is there.
    """
    fits = FITS if fit is None else (fit,)
    probes = [probe for probe in subject.probes if probe.feature == "pooler" and probe.fit in fits]
    if not probes:
        return None
    largest = sizes_of(probes)[-1]
    probes = [probe for probe in probes if probe.size == largest]
    probes = first(probes, *(lambda probe, fit=fit: probe.fit == fit for fit in fits))
    probes = first(probes, lambda probe: probe.scored == "in_memory", lambda _: True)
    probes = first(probes, lambda probe: not probe.encoder_dropout, lambda _: True)
    chosen = [probe for probe in probes if probe.context == probes[0].context]
    return ProbeCurve({probe.kept_depth or 0: probe.scores for probe in chosen}, _label(chosen[0], subject))


def _label(probe: Measured, subject: Subject) -> str:
    words = ["converged probe" if probe.fit == "converged" else "probe by the recipe"]
    words += ["scored after the released reload"] * (probe.scored == "released_reload")
    words += ["dropout in the encoder"] * bool(probe.encoder_dropout)
    words += [f"recipe: {probe.recipe or 'the paper’s'}"] * (probe.recipe != subject.recipe)
    return ", ".join(words)


def matrix(points: Mapping[int, Scores], ks: Sequence[int]) -> Array:
    """Seeds that have every k, by k: seeds x k."""
    seeds = sorted(set.intersection(*(set(points[k]) for k in ks)))
    return np.array([[points[k][seed] for k in ks] for seed in seeds], dtype=np.float64).reshape(len(seeds), len(ks))


def shared_depths(depth: int, *curves: Mapping[int, Scores]) -> tuple[int, ...]:
    """The k from 1 to the top that all curves have; empty without both ends and two points between them."""
    ks = tuple(k for k in range(1, depth + 1) if all(k in curve for curve in curves))
    return ks if len(ks) >= 4 and ks[0] == 1 and ks[-1] == depth else ()


def flat(curve: Array) -> str:
    """Why the curve has no gain from k = 1 to the top that is clear of zero; empty where it has."""
    rise = student((curve[:, -1] - curve[:, 0]).tolist())
    if positive(rise):
        return ""
    return rise.interval.note or f"flat within its noise: from k = 1 to the top it rises by {said(rise.interval)}"


def rescaled(curve: Array) -> Array:
    """(score - score at k = 1) / (score at the top - score at k = 1); not a number where it does not rise."""
    start, rise = curve[..., :1], curve[..., -1:] - curve[..., :1]
    rises = rise > 0
    return np.where(rises, (curve - start) / np.where(rises, rise, 1.0), np.nan)


def largest_gap(one: Array, other: Array) -> Array:
    """The largest absolute difference of the rescaled curves, along the last axis."""
    gaps: Array = np.abs(rescaled(one) - rescaled(other)).max(axis=-1)
    return gaps


def pearson(one: Array, other: Array) -> Array:
    """Pearson's r along the last axis; not a number where a curve is constant."""
    x, y = one - one.mean(axis=-1, keepdims=True), other - other.mean(axis=-1, keepdims=True)
    norm = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    spreads = norm > 0
    r: Array = np.where(spreads, np.clip((x * y).sum(axis=-1) / np.where(spreads, norm, 1.0), -1, 1), np.nan)
    return r


def spearman(one: Array, other: Array) -> Array:
    """Spearman's rho along the last axis: Pearson's r of the ranks."""
    return pearson(stats.rankdata(one, axis=-1), stats.rankdata(other, axis=-1))


def gap_difference(small: Array, large: Array, probe: Array) -> Array:
    """The largest gap at the smaller size minus that at the larger, to one probe curve."""
    return largest_gap(small, probe) - largest_gap(large, probe)


@dataclass(frozen=True)
class Aligned:
    """One size's progressive curve against a probe curve, or why they cannot be compared."""

    ks: tuple[int, ...]
    why: str
    gap: Known | None = None
    pearson: Known | None = None
    spearman: Known | None = None


def align(subject: Subject, size: str, probe: ProbeCurve) -> Aligned:
    """Gap and correlations of the main curve at one size with the probe."""
    curve = subject.curve(size)
    ks = shared_depths(subject.depth, curve, probe.points)
    if not ks:
        return Aligned((), lacking_depths(subject.depth))
    samples = matrix(curve, ks), matrix(probe.points, ks)
    names = "progressive curve", probe.label
    for name, sample in zip(names, samples, strict=True):
        if why := flat(sample):
            return Aligned(ks, f"{name}: {why}")
    return Aligned(ks, "", *(resampled(each, samples) for each in (largest_gap, pearson, spearman)))


def lacking_depths(depth: int) -> str:
    """What a comparison of curves needs."""
    return f"needs k = 1, k = {depth} and two between them in both the progressive and the probe curve"
