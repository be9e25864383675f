"""Effects: what each layer and block is worth, how probing and transfer agree, and how tasks agree about orders.

Law: pure functions of the frame, every number with its interval, n and unit. Where many layers are tested together,
p-values are Holm's over the layers of one width at one task and size; the 95% intervals beside them are unadjusted, and
simultaneous ones (Bonferroni's, over the same layers) stand beside those.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

import pandas as pd

from aggregate.alignment import FITS, Aligned, align, probe_curve
from aggregate.contrasts import Scores, difference, student
from aggregate.correlation import pearson, spearman
from aggregate.evidence import holm
from aggregate.grid import Subject, groups
from aggregate.orders import Order, order_means, permuted
from aggregate.probed import Layers, kept_blocks, redrawn_blocks
from aggregate.shares import Share
from aggregate.stats import LEVEL, Interval, mean_interval

MONOTONE: Final = "rank correlation of two nearly monotone curves is high whatever their shape"


@dataclass(frozen=True)
class Where:
    """What an effect is measured on."""

    model: str
    recipe: str
    task: str
    size: str
    rows: int


@dataclass(frozen=True)
class LayerEffect:
    """What a layer, or a block of neighbours, is worth."""

    where: Where
    layers: Layers
    effect: Interval
    """Necessity: the loss when only these are redrawn. Sufficiency: the gain over k = 0 when only these are kept."""
    simultaneous: Interval
    """The same at the level that covers all effects of its family together with 95%."""
    share: Interval
    """Of the gain from k = 0 to plain finetuning, by Fieller."""
    p: float | None
    """Two-sided, of no effect; None where it cannot be tested."""
    p_holm: float | None
    """Adjusted over the family."""
    family: int
    """Effects tested together: of the same width at the same task and size."""


@dataclass(frozen=True)
class Alignment:
    """One size's progressive curve against a probe curve."""

    where: Where
    probe: str
    """Which probe, in words."""
    gap: Interval
    """Largest distance of the curves, each rescaled to its own gain from k = 1 to the top."""
    pearson: Interval
    spearman: Interval


@dataclass(frozen=True)
class OrderCorrelation:
    """How far two tasks agree about which orders of layers are good; n counts orders, their seeds averaged first."""

    where: Where
    other_task: str
    pearson: Interval
    spearman: Interval


def necessity(frame: pd.DataFrame) -> tuple[LayerEffect, ...]:
    """Loss when only some layers are redrawn, up to three neighbours; paired by seed with plain finetuning."""
    found: list[LayerEffect] = []
    for where, subject in _places(frame):
        plain = subject.curve(where.size).get(subject.depth, {})
        cells = {layers: difference(plain, cell.scores) for layers, cell in redrawn_blocks(subject, where.size)}
        found += _layer_effects(where, cells, subject.gain(where.size))
    return tuple(found)


def sufficiency(frame: pd.DataFrame) -> tuple[LayerEffect, ...]:
    """Gain over k = 0 when only some layers are kept, up to three neighbours; paired by seed with k = 0."""
    found: list[LayerEffect] = []
    for where, subject in _places(frame):
        none = subject.curve(where.size).get(0, {})
        kept = {layers: difference(cell.scores, none) for layers, cell in kept_blocks(subject, where.size)}
        found += _layer_effects(where, kept, subject.gain(where.size))
    return tuple(found)


def _layer_effects(where: Where, by_layers: Mapping[Layers, Scores], gain: Scores) -> Iterator[LayerEffect]:
    for width in sorted({len(layers) for layers in by_layers}):
        family = {layers: by_layers[layers] for layers in sorted(by_layers) if len(layers) == width}
        known = [student(list(scores.values())) for scores in family.values()]
        # What cannot be tested has p = 1, and is one of the family like the others.
        p_values = [min(1.0, 2 * min(each.above(), each.below())) for each in known]
        adjusted = holm(p_values)
        level = 1 - (1 - LEVEL) / len(family)
        for index, (layers, scores) in enumerate(family.items()):
            yield LayerEffect(
                where=where,
                layers=layers,
                effect=known[index].interval,
                simultaneous=mean_interval(list(scores.values()), level),
                share=Share(scores, gain).interval,
                p=p_values[index] if known[index].error else None,
                p_holm=adjusted[index] if known[index].error else None,
                family=len(family),
            )


def alignment(frame: pd.DataFrame) -> tuple[Alignment, ...]:
    """Probing against transfer, for each task, size and kind of probe that the frame has."""
    found = []
    for where, subject in _places(frame):
        for fit in FITS:
            probe = probe_curve(subject, fit)
            if probe is not None and subject.curve(where.size):
                found.append(_alignment(where, probe.label, align(subject, where.size, probe)))
    return tuple(found)


def _alignment(where: Where, probe: str, aligned: Aligned) -> Alignment:
    if aligned.gap is None or aligned.pearson is None or aligned.spearman is None:
        nothing = Interval(None, None, None, 0, None, aligned.why)
        return Alignment(where, probe, nothing, nothing, nothing)
    ranks = _correlation(aligned.spearman.interval)
    note = f"{ranks.note}; {MONOTONE}" if ranks.note else MONOTONE
    return Alignment(
        where, probe, aligned.gap.interval, _correlation(aligned.pearson.interval), replace(ranks, note=note)
    )


def _correlation(interval: Interval) -> Interval:
    """Ends cut to what a correlation can be."""
    if interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=max(-1.0, interval.low), high=min(1.0, interval.high))


def order_correlations(frame: pd.DataFrame) -> tuple[OrderCorrelation, ...]:
    """Correlation of two tasks' scores over the orders that both have, at each size, for each pair of tasks."""
    found = []
    for (model, recipe), subjects in groups(frame).items():
        for one, other in combinations(subjects, 2):
            for size in one.sizes:
                first, second = _orders(one, size), _orders(other, size)
                shared = [order for order in first if order in second]
                if shared:
                    x, y = [first[order] for order in shared], [second[order] for order in shared]
                    where = _where(model, recipe, one, size)
                    found.append(OrderCorrelation(where, other.title, pearson(x, y), spearman(x, y)))
    return tuple(found)


def _orders(subject: Subject, size: str) -> dict[Order, float]:
    return order_means(permuted(subject, size))


def _places(frame: pd.DataFrame) -> Iterator[tuple[Where, Subject]]:
    for (model, recipe), subjects in groups(frame).items():
        for subject in subjects:
            for size in subject.sizes:
                yield _where(model, recipe, subject, size), subject


def _where(model: str, recipe: str, subject: Subject, size: str) -> Where:
    return Where(model, recipe, subject.title, size, next(cell.rows for cell in subject.at(size)))


@dataclass(frozen=True)
class Effects:
    """All of a frame."""

    necessity: tuple[LayerEffect, ...]
    sufficiency: tuple[LayerEffect, ...]
    alignment: tuple[Alignment, ...]
    orders: tuple[OrderCorrelation, ...]


def measure(frame: pd.DataFrame) -> Effects:
    """Every effect that the frame has the cells of."""
    return Effects(necessity(frame), sufficiency(frame), alignment(frame), order_correlations(frame))
