"""Claims that set probing beside finetuning: whether what probes well is necessary, sufficient, alike (E4-E6)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from aggregate.alignment import (
    FITS,
    ProbeCurve,
    align,
    flat,
    gap_difference,
    lacking_depths,
    matrix,
    probe_curve,
    shared_depths,
)
from aggregate.claim import Estimate, Part
from aggregate.contrasts import Scores, difference, positive, student
from aggregate.evidence import ALPHA, any_of, is_below
from aggregate.grid import Measured, Subject
from aggregate.judging import MARGIN, compared, missing, part, shown
from aggregate.resample import resampled
from aggregate.shares import Share

WIDTH = 3
"""Layers of the paper's blocks."""

_MEANING = "10% of the gain"

Layers = tuple[int, ...]


def high_layers(probe: ProbeCurve) -> tuple[Layers, str]:
    """Layers whose probe score is within the top tenth of the curve's own range; or why the curve has no range.

    Layer i is the topmost of the i + 1 that the probe keeps. The curve has a range where some depth is above another,
    paired by seed, after Bonferroni's correction for all pairs.
    """
    means = {depth: fmean(scores.values()) for depth, scores in probe.points.items() if scores}
    if len(means) < 2:
        return (), f"{probe.label}: fewer than two depths with a score"
    low, high = min(means.values()), max(means.values())
    worst, best = min(means, key=lambda depth: means[depth]), max(means, key=lambda depth: means[depth])
    rise = student(list(difference(probe.points[best], probe.points[worst]).values()))
    if not (positive(rise) and (not rise.error or rise.above(0) * math.comb(len(means), 2) < ALPHA)):
        return (), f"{probe.label}: {rise.interval.note or 'flat within its noise'}"
    return tuple(sorted(depth - 1 for depth, mean in means.items() if mean >= high - MARGIN * (high - low))), ""


def contiguous(layers: Sequence[int]) -> bool:
    """Whether these are neighbours."""
    return tuple(layers) == tuple(range(layers[0], layers[0] + len(layers))) if layers else False


def name_of(layers: Sequence[int]) -> str:
    """`layer 6`, `layers 6 to 8`."""
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"


def redrawn_blocks(subject: Subject, size: str) -> Iterator[tuple[Layers, Measured]]:
    """Cells of the main kind that redraw up to three neighbouring layers, with those layers."""
    for cell in subject.at(size):
        if subject.main.made(cell) and len(cell.redrawn or ()) <= WIDTH and contiguous(cell.redrawn or ()):
            yield cell.redrawn or (), cell


def kept_blocks(subject: Subject, size: str) -> Iterator[tuple[Layers, Measured]]:
    """Cells of the main kind that keep up to three neighbouring layers and redraw all others, with those kept."""
    for cell in subject.at(size):
        if subject.main.made(cell) and len(cell.kept) <= WIDTH and contiguous(cell.kept):
            yield cell.kept, cell


def unnecessary(subject: Subject) -> list[Part]:
    """E4: redrawing some high-probing layer, or block of three, loses less than a tenth of the gain."""
    parts: list[tuple[str, Mapping[Layers, Scores], str]] = []
    for size in subject.sizes:
        plain = subject.curve(size).get(subject.depth, {})
        blocks = [block for block in redrawn_blocks(subject, size) if len(block[0]) in (1, WIDTH)]
        losses = {layers: difference(plain, cell.scores) for layers, cell in blocks}
        parts.append((size, losses, "loss of redrawing {} alone"))
    return _high_probing(subject, parts, "redrawn single layers or blocks of three")


def insufficient(subject: Subject) -> list[Part]:
    """E5: keeping only some high-probing block of three brings less than a tenth of the gain."""
    parts: list[tuple[str, Mapping[Layers, Scores], str]] = []
    for size in subject.sizes:
        none = subject.curve(size).get(0, {})
        blocks = [block for block in kept_blocks(subject, size) if len(block[0]) == WIDTH]
        gains = {layers: difference(cell.scores, none) for layers, cell in blocks}
        parts.append((size, gains, "gain over k = 0 of keeping {} alone"))
    return _high_probing(subject, parts, "blocks of three kept alone (inverse blocks)")


def _high_probing(
    subject: Subject, by_size: Sequence[tuple[str, Mapping[Layers, Scores], str]], cells: str
) -> list[Part]:
    """One part for each size that has such cells of high-probing layers alone."""
    probe = probe_curve(subject)
    if probe is None:
        return [missing(subject.title, "no probe cells of the pooler's feature in this frame")]
    high, why = high_layers(probe)
    if why:
        return [missing(subject.title, why)]
    if not any(scores for _, scores, _ in by_size):
        return [missing(subject.title, f"no {cells} in this frame")]
    parts = []
    for size, by_layers, what in by_size:
        chosen = {layers: scores for layers, scores in by_layers.items() if set(layers) <= set(high)}
        if chosen:
            parts.append(_small_share(subject, size, chosen, what))
    named = ", ".join(map(str, high))
    return parts or [missing(subject.title, f"no {cells} among the high-probing layers, which are {named}")]


def _small_share(subject: Subject, size: str, by_layers: Mapping[Layers, Scores], what: str) -> Part:
    where, gain, comparisons = subject.place(size), subject.gain(size), []
    for layers, scores in by_layers.items():
        share, name = Share(scores, gain), name_of(layers)
        text, evidence = f"{what.format(name)} as a share of the gain", is_below(share, MARGIN)
        comparisons.append(compared(text, where, share, evidence, name=name, bound=MARGIN, meaning=_MEANING))
    whole = shown(f"gain from k = 0 to k = {subject.depth}", where, student(list(gain.values())))
    return part(where, comparisons, any_of, beside=[whole])


def aligning(subject: Subject) -> list[Part]:
    """E6: the largest gap between progressive and probe curve is smaller at the smallest size than at the largest."""
    curves = [(fit, probe_curve(subject, fit)) for fit in FITS]
    found = [_aligning(subject, probe) for _, probe in curves if probe is not None]
    return found or [missing(subject.title, "no probe cells of the pooler's feature in this frame")]


def _aligning(subject: Subject, probe: ProbeCurve) -> Part:
    where = f"{subject.title}, {probe.label}"
    sizes = [size for size in subject.sizes if shared_depths(subject.depth, subject.curve(size), probe.points)]
    if len(sizes) < 2:
        return missing(where, f"{lacking_depths(subject.depth)}, at two sizes")
    small, large = sizes[0], sizes[-1]
    ks = shared_depths(subject.depth, subject.curve(small), subject.curve(large), probe.points)
    if not ks:
        return missing(where, lacking_depths(subject.depth))
    samples = [matrix(points, ks) for points in (subject.curve(small), subject.curve(large), probe.points)]
    names = [*(f"progressive curve, {subject.place(size)}" for size in (small, large)), "probe curve"]
    for name, sample in zip(names, samples, strict=True):
        if why := flat(sample):
            return missing(where, f"{name}: {why}")
    apart = resampled(gap_difference, samples)
    ends = f"{probe.label}, {subject.place(small)} minus {subject.place(large)}"
    comparison = compared("largest gap to the probe curve", ends, apart, is_below(apart, 0), meaning="no difference")
    return part(where, [comparison], beside=_by_size(subject, sizes, probe))


def _by_size(subject: Subject, sizes: Sequence[str], probe: ProbeCurve) -> Iterator[Estimate]:
    for size in sizes:
        aligned = align(subject, size, probe)
        if aligned.gap is not None and aligned.pearson is not None:
            where = f"{probe.label}, {subject.place(size)}"
            yield shown("largest gap to the probe curve", where, aligned.gap)
            yield shown("Pearson's r with the probe curve", where, aligned.pearson)
