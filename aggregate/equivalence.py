"""Claims that two ways of doing one thing come to the same, point by point of a curve (E10-E13).

Law: the same means within a tenth of the gain at every point, each with its whole interval inside; different means that
at some point the whole interval lies outside, after Holm's correction for the points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from aggregate.claim import Part
from aggregate.contrasts import Scores, contrast, difference, positive, student, welch
from aggregate.evidence import Evidence, is_below, is_within
from aggregate.grid import Measured, Subject, Variant, examples
from aggregate.judging import MARGIN, compared, missing, part
from aggregate.shares import Share, no_gain

_MEANING = "10% of the gain, on either side of none"


def variants(subjects: Sequence[Subject]) -> list[Part]:
    """E10: with LayerNorm kept, or another learning rate of the redrawn layers, the curve is the main one."""
    parts = []
    for subject in subjects:
        init = subject.main.init
        kept = Variant(init, keep_layernorm=True)
        parts += _against_main(subject, kept, "LayerNorm kept") or [
            missing(f"{subject.title}, LayerNorm kept", "no cells with keep_layernorm beside the main curve")
        ]
        scales = {cell.lr_scale for cell in subject.cells if cell.lr_scale not in (None, 1.0)}
        faster = [
            each
            for scale in sorted(scale for scale in scales if scale is not None)
            for each in _against_main(subject, Variant(init, lr_scale=scale), f"learning rate ×{scale:g}")
        ]
        parts += faster or [
            missing(f"{subject.title}, learning rate", "no cells with lr_scale other than 1 beside the main curve")
        ]
    return parts


def _against_main(subject: Subject, variant: Variant, name: str) -> list[Part]:
    return [
        _same(subject, size, below_top(subject, subject.curve(size, variant)), subject.curve(size), name)
        for size in subject.sizes
        if below_top(subject, subject.curve(size, variant))
    ]


def below_top(subject: Subject, curve: Mapping[int, Scores]) -> dict[int, Scores]:
    """The curve without plain finetuning, which all variants share."""
    return {k: scores for k, scores in curve.items() if k < subject.depth}


def inits(subject: Subject) -> list[Part]:
    """E11: the curve with the released initialisation is the one with the intended."""
    intended, released = Variant("truncated_normal"), Variant("released")
    parts = []
    for size in subject.sizes:
        curve, other = subject.curve(size, intended), below_top(subject, subject.curve(size, released))
        if other and below_top(subject, curve):
            parts.append(_same(subject.under("truncated_normal"), size, other, curve, "released against intended init"))
    needs = "needs the progressive curve with init truncated_normal and with init released at one size"
    return parts or [missing(subject.title, needs)]


def truncations(subject: Subject) -> list[Part]:
    """E12: the released initialisation's curve at k is the network cut to k layers."""
    released, parts = subject.under("released"), []
    for size in subject.sizes:
        cut = {cell.kept_depth or 0: cell.scores for cell in subject.at(size) if cell.treatment_kind == "truncate"}
        curve = below_top(released, released.curve(size))
        if set(cut) & set(curve):
            parts.append(_same(released, size, curve, cut, "released init against the network cut to k layers"))
    needs = "needs `Truncate` cells and progressive cells with init released at the same size and k"
    return parts or [missing(subject.title, needs)]


def _same(subject: Subject, size: str, curve: Mapping[int, Scores], other: Mapping[int, Scores], name: str) -> Part:
    """Both curves at every k that both have: each difference within a tenth of the gain."""
    where, gain, comparisons = f"{subject.place(size)}, {name}", subject.gain(size), []
    for k in sorted(set(curve) & set(other)):
        share = Share(difference(curve[k], other[k]), gain)
        what = f"{name}: difference at k = {k} as a share of the gain"
        evidence = is_within(share, MARGIN)
        comparisons.append(
            compared(what, subject.place(size), share, evidence, name=f"k = {k}", bound=MARGIN, meaning=_MEANING)
        )
    return part(where, comparisons) if comparisons else missing(where, "the two curves have no k in common")


# ------------------------------------------------------------------------------------------------------------ probes


@dataclass(frozen=True)
class _Kind:
    """What two probes must share to differ in nothing but how they are scored."""

    context: str
    size: str
    feature: str | None
    fit: str | None
    encoder_dropout: bool | None


def reloads(subject: Subject) -> list[Part]:
    """E13: probes scored in memory and after the released code's reload have one score."""
    kinds: dict[_Kind, dict[str, dict[int, Measured]]] = {}
    for probe in subject.probes:
        kind = _Kind(probe.context, probe.size, probe.feature, probe.fit, probe.encoder_dropout)
        kinds.setdefault(kind, {}).setdefault(probe.scored or "", {})[probe.kept_depth or 0] = probe
    parts = [
        _reloaded(subject, kind, by["in_memory"], by["released_reload"])
        for kind, by in kinds.items()
        if {"in_memory", "released_reload"} <= set(by)
    ]
    needs = "needs probes scored in_memory and released_reload, alike in depth, size, feature, fit, dropout and recipe"
    return parts or [missing(subject.title, needs)]


def _reloaded(
    subject: Subject, kind: _Kind, in_memory: Mapping[int, Measured], reloaded: Mapping[int, Measured]
) -> Part:
    size = examples(in_memory.values(), kind.size)
    words = [kind.feature or "", *(["converged"] if kind.fit == "converged" else [])]
    where = f"{subject.title}, {size}, {', '.join(words)} probe"
    depths = sorted(set(in_memory) & set(reloaded))
    if not depths:
        return missing(where, "the two probe curves have no depth in common")
    pairs = {depth: difference(reloaded[depth].scores, in_memory[depth].scores) for depth in depths}
    if gain := list(subject.gain(kind.size).values()):
        return _within_gain(pairs, gain, where)
    whole = _own_range({depth: probe.scores for depth, probe in in_memory.items()})
    return _within_range(pairs, whole, where)


def _within_gain(pairs: Mapping[int, Scores], gain: Sequence[float], where: str) -> Part:
    """The differences have the probes' seeds and the gain those of the finetunes: two samples, by Welch."""
    known = student(gain)
    if not positive(known):
        return missing(where, no_gain(known.interval))
    tenth, comparisons = [MARGIN * each for each in gain], []
    for depth, scores in pairs.items():
        values = list(scores.values())
        above, below = welch(values, tenth), welch([-each for each in values], tenth)
        evidence = _both_ends(is_below(above, 0), is_below(below, 0))
        text, near = f"depth {depth}: reloaded minus in memory", above
        if below.below() > above.below():
            text, near = f"depth {depth}: in memory minus reloaded", below
        text = f"{text}, less 10% of the finetuning gain"
        comparisons.append(compared(text, where, near, evidence, name=f"depth {depth}", meaning="10% of the gain"))
    return part(where, comparisons)


def _both_ends(one: Evidence, other: Evidence) -> Evidence:
    """Both ends of a margin: only the near one can be passed, so that nothing is paid for two tests."""
    return Evidence(max(one.holds, other.holds), min(one.fails, other.fails), one.why)


def _within_range(pairs: Mapping[int, Scores], whole: Scores, where: str) -> Part:
    comparisons = []
    for depth, scores in pairs.items():
        share = Share(scores, whole)
        evidence = is_within(share, MARGIN)
        text = f"depth {depth}: reloaded minus in memory as a share of the probe's own range"
        meaning = "10% of the probe's own range, for want of finetunes at this size"
        comparisons.append(compared(text, where, share, evidence, name=f"depth {depth}", bound=MARGIN, meaning=meaning))
    return part(where, comparisons)


def _own_range(points: Mapping[int, Scores]) -> dict[int, float]:
    """The best depth minus the worst, both by their means, at each seed."""
    means = {depth: fmean(scores.values()) for depth, scores in points.items() if scores}
    if not means:
        return {}
    best, worst = max(means, key=lambda depth: means[depth]), min(means, key=lambda depth: means[depth])
    return contrast((1, points[best]), (-1, points[worst]))
