"""Charts: lines over a whole number with intervals, levels across a panel, and every hole in sight.

Law: a point short of runs is hollow, a point without any is a cross on the axis, and no line is drawn across it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform

from aggregate.curves import metric_name
from aggregate.figures.style import CHANCE_LOOK, LABEL_POINTS, Look, drawable, natural_range, wrapped
from aggregate.summary import CellSummary

LINE_WIDTH: Final = 1.1
_SIDEWAYS_POINTS = 1.6
_MOST_SIDEWAYS_POINTS = 7
_MARGIN = 0.04
_Y_LABEL_INCHES = 1.6


@dataclass(frozen=True)
class Series:
    """One line."""

    label: str
    """Without n, which the legend adds over all panels."""
    look: Look
    points: tuple[tuple[int, CellSummary], ...]
    """Ascending."""


@dataclass(frozen=True)
class Level:
    """One cell's mean across the whole panel, with its interval as a band."""

    label: str
    look: Look
    cell: CellSummary


@dataclass(frozen=True)
class Theirs:
    """Values of somebody else, beside ours."""

    label: str
    look: Look
    runs: int
    """Over how many each value is a mean."""
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Panel:
    """What is drawn in one pair of axes."""

    title: str
    metric: str
    xlabel: str
    across: tuple[int, int]
    """First and last number on the horizontal axis."""
    chance: float | None
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    theirs: tuple[Theirs, ...] = ()

    @property
    def cells(self) -> list[CellSummary]:
        """Every cell that the panel shows, or would."""
        return [cell for one in self.series for _, cell in one.points] + [level.cell for level in self.levels]


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Everything but title and legend."""
    label_axes(axes, panel.metric, panel.xlabel)
    first, last = panel.across
    reach = _MARGIN * (last - first)
    axes.set_xlim(first - reach, last + reach)
    axes.set_xticks(whole_ticks(first, last))
    others = [value for theirs in panel.theirs for _, value in theirs.points]
    axes.set_ylim(*limits(panel.metric, panel.chance, panel.cells, others))
    draw_chance(axes, panel.chance)
    for level in panel.levels:
        draw_level(axes, level)
    for theirs in panel.theirs:
        xs, values = [x for x, _ in theirs.points], [value for _, value in theirs.points]
        axes.plot(xs, values, color=theirs.look.colour, marker=theirs.look.marker, linestyle=theirs.look.dash, **_THIN)
    step = min(_SIDEWAYS_POINTS, _MOST_SIDEWAYS_POINTS / len(panel.series)) if panel.series else 0
    for index, series in enumerate(panel.series):
        _draw_series(axes, series, step * (index - (len(panel.series) - 1) / 2))


def label_axes(axes: Axes, metric: str, xlabel: str) -> None:
    """Names of both axes."""
    axes.set_ylabel(wrapped(drawable(metric_name(metric)), _Y_LABEL_INCHES, LABEL_POINTS))
    axes.set_xlabel(xlabel)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))


def limits(
    metric: str, chance: float | None, cells: Iterable[CellSummary], others: Iterable[float] = ()
) -> tuple[float, float]:
    """Room for every bar that can be true, and for the line of a guess where it is near."""
    scores = [cell.score for cell in cells]
    ends = [value for score in scores for value in (score.mean, score.low, score.high) if value is not None]
    ends = [*ends, *others] or [0, 1]
    floor, ceiling = natural_range(metric)
    low, high = max(min(ends), floor), min(max(ends), ceiling)
    reach = max(high - low, 0.02)
    if chance is not None and low - 0.4 * reach < chance < high + 0.4 * reach:
        low, high = min(low, chance), max(high, chance)
    return low - 0.07 * reach, high + 0.07 * reach


def whole_ticks(first: int, last: int) -> list[int]:
    """At most ten whole numbers, evenly spaced, the first among them."""
    step = next(step for step in (1, 2, 3, 4, 6, 12, 24, last - first + 1) if (last - first) // step < 10)
    return list(range(first, last + 1, step))


def draw_chance(axes: Axes, chance: float | None) -> None:
    """The score of a guess, where the axes reach it."""
    low, high = axes.get_ylim()
    if chance is not None and low < chance < high:
        axes.axhline(chance, color=CHANCE_LOOK.colour, linewidth=0.8, linestyle=CHANCE_LOOK.dash, zorder=1)


def draw_level(axes: Axes, level: Level, across: tuple[float, float] | None = None) -> None:
    """A line with a band; over part of the axis where `across` says which."""
    score, look = level.cell.score, level.look
    if score.mean is None:
        return
    left, right = across or axes.get_xlim()
    axes.plot([left, right], [score.mean] * 2, color=look.colour, linestyle=look.dash, linewidth=LINE_WIDTH, zorder=2)
    if score.low is not None and score.high is not None:
        axes.fill_between([left, right], score.low, score.high, color=look.colour, alpha=0.13, linewidth=0, zorder=1)


def points_offset(axes: Axes, right: float, up: float = 0) -> ScaledTranslation:
    """A shift by points as printed."""
    return ScaledTranslation(right / 72, up / 72, axes.get_figure(root=True).dpi_scale_trans)  # type: ignore[union-attr]


def _draw_series(axes: Axes, series: Series, sideways: float) -> None:
    """One line, all of it moved by some points sideways, so that bars at one number stand side by side."""
    look = series.look
    place = axes.transData + points_offset(axes, sideways)
    on_axis = axes.get_xaxis_transform() + points_offset(axes, sideways)
    for measured, stretch in groupby(series.points, key=lambda point: point[1].score.n > 0):
        points = list(stretch)
        xs = [x for x, _ in points]
        if measured:
            means = [cell.score.mean or 0.0 for _, cell in points]
            axes.plot(xs, means, color=look.colour, linestyle=look.dash, linewidth=LINE_WIDTH, zorder=2,
                      transform=place)  # fmt: skip
        else:
            draw_crosses(axes, xs, look.colour, on_axis)
    draw_points(axes, series.points, look, place)


def draw_crosses(axes: Axes, xs: Sequence[float], colour: str, transform: Transform) -> None:
    """Crosses on the axis where nothing is."""
    axes.plot(xs, [0.0] * len(xs), color=colour, marker="x", markersize=5, markeredgewidth=1.5, linestyle="none",
              transform=transform, clip_on=False, zorder=5)  # fmt: skip


def draw_points(axes: Axes, points: Sequence[tuple[float, CellSummary]], look: Look, place: Transform) -> None:
    """Means with their intervals; hollow where runs are short."""
    scores = [(x, cell.score) for x, cell in points]
    bars = [(x, one.low, one.high) for x, one in scores if one.low is not None and one.high is not None]
    if bars:  # one broken line: thousands of single ones take seconds
        axes.plot([x for bar in bars for x in (bar[0], bar[0], math.nan)],
                  [y for bar in bars for y in (bar[1], bar[2], math.nan)],
                  color=look.colour, linewidth=0.8, alpha=0.8, transform=place, zorder=3, marker="_", markersize=3.2,
                  markeredgewidth=0.8)  # fmt: skip
    for hollow in (False, True):
        shown = [(x, cell.score.mean) for x, cell in points if bool(cell.holes) is hollow]
        means = [(x, mean) for x, mean in shown if mean is not None]
        if means:
            axes.plot([x for x, _ in means], [mean for _, mean in means], marker=look.marker, markersize=3.6,
                      markerfacecolor="white" if hollow else look.colour, markeredgecolor=look.colour,
                      markeredgewidth=1.0 if hollow else 0.5, linestyle="none", transform=place, zorder=4)  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- legend

_THIN: Final[dict[str, Any]] = {"markersize": 4.2, "markeredgewidth": 0.9, "linewidth": 0.6, "zorder": 2.5}
_THIN_DASH = (0, (1, 1))


def thin_look(colour: str, marker: str) -> Look:
    """How values of somebody else look beside ours of that colour."""
    return Look(colour, marker, _THIN_DASH)


def legend(panels: Sequence[Panel]) -> list[Artist]:
    """One handle for each label of all panels, with the n that they have together."""
    handles: list[Artist] = []
    for label, series in _by_label(one for panel in panels for one in panel.series).items():
        n = spoken_n(cell for one in series for _, cell in one.points)
        handles.append(handle(f"{label} ({n})", series[0].look))
    for label, levels in _by_label(one for panel in panels for one in panel.levels).items():
        handles.append(handle(f"{label} ({spoken_n(level.cell for level in levels)})", levels[0].look))
    if any(panel.chance is not None for panel in panels):
        handles.append(handle("guessing", CHANCE_LOOK))
    for label, theirs in _by_label(one for panel in panels for one in panel.theirs).items():
        look, runs = theirs[0].look, [one.runs for one in theirs]
        text = f"{label} ({spoken(runs)} run{'s' * (set(runs) != {1})})"
        handles.append(Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dash, label=text, **_THIN))
    return handles


Labelled = TypeVar("Labelled", Series, Level, Theirs)


def _by_label(items: Iterable[Labelled]) -> dict[str, list[Labelled]]:
    groups: dict[str, list[Labelled]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def handle(label: str, look: Look) -> Line2D:
    """A line of the legend."""
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dash, markersize=3.6,
                  linewidth=LINE_WIDTH, label=drawable(label))  # fmt: skip


def spoken_n(cells: Iterable[CellSummary]) -> str:
    """`n = 3`, `n = 2 to 3`: how many runs the means are over."""
    return f"n = {spoken(cell.score.n for cell in cells)}"


def spoken(counts: Iterable[int]) -> str:
    """`3`, `2 to 3`; nothing counts as `0`."""
    lowest, *_, highest = (sorted(counts) or [0]) * 2
    return f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
