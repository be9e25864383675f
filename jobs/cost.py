"""What a study takes before it runs: GPU-hours with a range, of all its runs and of those that are left.

Law: an estimate scales what was measured on the same device, and nothing else: where there is no measurement there is
no estimate, and what to do about it is said. Every range has a stated meaning. Nothing here knows of money.

A run takes its steps (`throughput.work`) times seconds of a step, by the nearest measurement there is:

1. of the same network, precision, task and texts at the same size;
2. the same at other sizes;
3. the same network with other texts. A step then takes between equal time, where launching kernels is the limit, and
   time in proportion to its tokens, where arithmetic is; tokens of a text are known for some tasks, and for others are
   between those of one word and `max_length`;
4. another network, likewise between the ratio of layers and that of weights.

Within one of these the store's own results come before figures that come with the program.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from jobs.cell import Cell
from jobs.plan import Plan, PlannedCell
from jobs.throughput import (
    FEW,
    PARAMETERS,
    SHIPPED,
    SOURCES,
    ZERO,
    Kept,
    Kind,
    Range,
    Texts,
    kind_of,
    pooled,
    texts_of,
    work,
)

HOUR: Final = 3600.0
_SOME: Final = 50
"""Cells of a plan by which a device is chosen."""

Nearness = Literal[1, 2, 3, 4]
"""How near a measurement is, as the head of this module counts."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Seconds of a step as they are expected for a cell, and from what."""

    step: Range
    nearness: Nearness
    kept: tuple[Kept, ...]
    concluded: float = 1.0
    """How many times longer the longest step that a scaling gives is than the shortest; 1 where nothing was scaled."""
    is_bound: bool = False
    """A probe by the steps of finetunes: no less than nothing, where other runs share its pass."""


@dataclass(frozen=True, slots=True)
class CellEstimate:
    """Of one cell of a plan."""

    planned: PlannedCell
    left: int
    """Runs that are not done."""
    rate: Rate | None
    """None where nothing was measured that could be scaled."""

    @property
    def run(self) -> Range:
        """Seconds of one run."""
        return self.rate.step.times(work(self.planned.cell)) if self.rate else ZERO

    @property
    def total(self) -> Range:
        """Seconds of all runs, done or not."""
        return self.run.times(len(self.planned.seeds))

    @property
    def remaining(self) -> Range:
        """Seconds of the runs that are left: what is done is not paid again."""
        return self.run.times(self.left)


@dataclass(frozen=True)
class Estimate:
    """Of a plan on one device."""

    device: str | None
    """As results name it; None where nothing that helps was measured anywhere."""
    is_gpu: bool
    """Whether seconds are of a GPU; else of a worker on a CPU."""
    cells: tuple[CellEstimate, ...]
    """In the order of the plan."""
    measured_devices: tuple[str, ...] = ()
    """Every device that anything was measured on, for whoever asked for another."""

    @cached_property
    def total(self) -> Range:
        """Seconds of every run that can be estimated, done or not."""
        return summed(each.total for each in self.cells)

    @cached_property
    def remaining(self) -> Range:
        """Seconds of those that are left."""
        return summed(each.remaining for each in self.cells)

    @cached_property
    def unknown(self) -> tuple[CellEstimate, ...]:
        """Cells of which nothing was measured that could be scaled; they are in no sum."""
        return tuple(each for each in self.cells if each.rate is None)

    @property
    def unit(self) -> str:
        """Of hours."""
        return "GPU-hours" if self.is_gpu else "hours of a CPU worker"

    @cached_property
    def evidence(self) -> tuple[str, ...]:
        """How many runs are estimated by which measurements, a line each, the most runs first."""
        runs: Counter[str] = Counter()
        for each in self.cells:
            if each.rate is not None:
                runs[_by(each.rate)] += len(each.planned.seeds)
        return tuple(f"{count:,} {'run' if count == 1 else 'runs'} by {by}" for by, count in runs.most_common())

    @cached_property
    def meaning(self) -> tuple[str, ...]:
        """Where figures are from that come with the program, and what the range is; a line each."""
        used = {kept for each in self.cells if each.rate for kept in each.rate.kept}
        sources = sorted({kept.source for kept in used if kept.is_shipped})
        few = any(kept.measured < FEW for kept in used)
        return (*(f"{each}: {SOURCES[each]}" for each in sources), *([_MEANING] * bool(used)), *([_FEW] * few))


_MEANING: Final = (
    "the range is from the 10th to the 90th percentile of what was measured, as if all runs were fast together, or slow"
)
_FEW: Final = f"with fewer than {FEW} measurements it is from half of the fastest to twice the slowest"
_SCALED: Final[Mapping[Nearness, str]] = {
    1: "",
    2: ", at other sizes",
    3: ", for other texts: a step is at the least as long, at the most in proportion to its tokens",
    4: ", for another network: a step grows in proportion to layers or to weights",
}


def _by(rate: Rate) -> str:
    first, count = rate.kept[0], sum(each.measured for each in rate.kept)
    noun = "timing" if first.is_shipped and not first.size else "result"
    what = f"{count:,} {noun}{'s' if count != 1 else ''} of {first.model} on {first.texts.task}, {first.precision}"
    where = f" ({first.source})" if first.is_shipped else " in the store"
    bound = "; a probe's own pass over its rows, and nothing where other runs share it" if rate.is_bound else ""
    scaled = _SCALED[rate.nearness] if first.size or rate.nearness > 2 else ""
    return f"{what}{where}{scaled}{bound}"


def summed(ranges: Iterable[Range]) -> Range:
    """All together."""
    parts = list(ranges)
    low, typical, high = (math.fsum(getattr(each, end) for each in parts) for end in ("low", "typical", "high"))
    return Range(low, typical, high)


def estimate(
    plan: Plan,
    done: Mapping[str, Iterable[int]],
    kept: Sequence[Kept],
    *,
    device: str | None = None,
    gpu: bool | None = None,
) -> Estimate:
    """What the plan takes on one device.

    Args:
        plan: a study's.
        done: seeds by digest that are not to be run again; a digest that is not there has none.
        kept: what the store's results say (`throughput.measured`); `SHIPPED` is looked at after it.
        device: the device's model as results name it, or with hyphens for blanks, as NVIDIA labels nodes; the one with
            the nearest measurements unless told.
        gpu: whether it is a GPU, where only that is known.
    """
    every = [*kept, *SHIPPED]
    names = tuple(dict.fromkeys(each.device for each in every))
    if device is not None:
        every = [each for each in every if _hyphened(each.device) == _hyphened(device)]
    elif gpu is not None:
        every = [each for each in every if each.is_gpu == gpu]
    chosen = _nearest_device(plan, every)
    rates = Rates(each for each in every if (each.device, each.is_gpu) == chosen)
    cells = tuple(
        CellEstimate(each, len(set(each.seeds).difference(done.get(each.cell.digest, ()))), rates.of(each.cell))
        for each in plan
    )
    name, is_gpu = chosen or (device, bool(gpu))
    return Estimate(name, is_gpu, cells, names)


def lacking(plan: Plan, kept: Iterable[Kept]) -> bool:
    """Whether results of other studies would say more: a cell's network and texts are not among what was measured."""
    rates = Rates(kept)
    return any((rate := rates.of(each.cell)) is None or rate.nearness > 2 or rate.is_bound for each in plan)


def _hyphened(device: str) -> str:
    return device.replace(" ", "-").casefold()


def _nearest_device(plan: Plan, kept: Iterable[Kept]) -> tuple[str, bool] | None:
    """The device whose measurements say most of the plan: here before elsewhere, then the nearest, then a GPU."""
    some = plan[:: max(len(plan) // _SOME, 1)]
    devices: dict[tuple[str, bool], list[Kept]] = {}
    for each in kept:
        devices.setdefault((each.device, each.is_gpu), []).append(each)

    def rank(device: tuple[str, bool]) -> tuple[object, ...]:
        rates = Rates(devices[device])
        found = [rates.of(each.cell) for each in some]
        here = sum(each.measured for each in devices[device] if not each.is_shipped)
        nearness = sum(rate.nearness for rate in found if rate)
        return sum(rate is None for rate in found), here == 0, nearness, not device[1], -here, device

    ranked = {device: rank(device) for device in devices}
    best = min(ranked, key=lambda device: ranked[device], default=None)
    return None if best is None or ranked[best][0] == len(some) else best


@dataclass(frozen=True, slots=True)
class _Asked:
    """What of a cell decides how long its steps are."""

    model: str
    layers: int
    precision: str
    kind: Kind
    texts: Texts
    size: str


class Rates:
    """What one device's measurements say of any cell."""

    def __init__(self, kept: Iterable[Kept]) -> None:
        self._kept = tuple(kept)
        self._found: dict[_Asked, Rate | None] = {}

    def of(self, cell: Cell) -> Rate | None:
        """By the nearest measurement; of a probe without any, by finetunes as a bound."""
        asked = _Asked(
            *(cell.model.name, cell.model.layers, cell.recipe.precision),
            *(kind_of(cell), texts_of(cell), str(cell.size)),
        )
        if asked not in self._found:
            self._found[asked] = self._nearest(asked) or self._bound(asked)
        return self._found[asked]

    def _nearest(self, asked: _Asked) -> Rate | None:
        alike = [each for each in self._kept if (each.precision, each.kind) == (asked.precision, asked.kind)]
        network = [each for each in alike if (each.model, each.layers) == (asked.model, asked.layers)]
        same = [each for each in network if each.texts == asked.texts]
        if at_size := [each for each in same if each.size == asked.size]:
            best = min(at_size, key=_order)
            return Rate(best.step, 1, (best,))
        if same:
            of_source = tuple(each for each in same if each.source == min(same, key=_order).source)
            return Rate(pooled(of_source), 2, of_source)
        return _surest(_scaled(each, asked.texts, (1, 1), 3) for each in network) or _of_another_network(alike, asked)

    def _bound(self, asked: _Asked) -> Rate | None:
        if asked.kind != "probe" or (rate := self._nearest(replace(asked, kind="finetune"))) is None:
            return None
        return replace(rate, step=replace(rate.step, low=0.0), is_bound=True)


def _order(kept: Kept) -> tuple[bool, int]:
    """Results of this store first, then what was measured most often."""
    return kept.is_shipped, -kept.measured


def _of_another_network(kept: Iterable[Kept], asked: _Asked) -> Rate | None:
    if (weights := PARAMETERS.get(asked.model)) is None:
        return None
    found = []
    for each in kept:
        if (of_other := PARAMETERS.get(each.model)) is not None:
            low, high = sorted((asked.layers / each.layers, weights / of_other))
            found.append(_scaled(each, asked.texts, (low, high), 4))
    return _surest(found)


def _scaled(kept: Kept, texts: Texts, network: tuple[float, float], nearness: Nearness) -> Rate:
    """By a measurement with other texts, perhaps of another network, whose ratios are between the two of `network`."""
    (fewest, most), (of_fewest, of_most) = texts.tokens, kept.texts.tokens
    ratios = (1.0, 1.0) if texts == kept.texts else (fewest / of_most, most / of_fewest)
    least, greatest = (1 + kept.grows * (ratio - 1) for ratio in ratios)
    low, high = min(1.0, least) * network[0], max(1.0, greatest) * network[1]
    step = Range(kept.step.low * low, kept.step.typical * math.sqrt(low * high), kept.step.high * high)
    return Rate(step, nearness, (kept,), concluded=high / low)


def _surest(found: Iterable[Rate]) -> Rate | None:
    """The one that concludes least from its measurement; the order in which they come decides nothing."""

    def order(rate: Rate) -> tuple[object, ...]:
        kept = rate.kept[0]
        return round(rate.concluded, 6), *_order(kept), kept.model, kept.texts.task, kept.size, rate.step.typical

    return min(found, key=order, default=None)
