"""Every seed a point: how scores spread where data are few.

Law: a mean hides two modes, so nothing is averaged here but the thin line that says where the mean would be.
"""

from collections.abc import Sequence
from typing import Final

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from aggregate.curves import Curve, size_words
from aggregate.figures.captions import GUESSING, holes, number
from aggregate.figures.charts import draw_chance, draw_crosses, handle, label_axes, spoken_n, whole_ticks
from aggregate.figures.drawing import Drawing, Material
from aggregate.figures.style import CHANCE_LOOK, COLOURS, natural_range
from aggregate.text import prose

FEWEST_SEEDS: Final = 10
"""Planned seeds of every point of a curve whose spread is worth a figure."""

_SPREAD = 0.56
_GOLDEN = 0.6180339887498949


def seeds(material: Material) -> Drawing | None:
    """A panel for each task and size with many seeds, the number of preserved layers across."""
    found = [
        curve
        for curve in material.curves
        if curve.kind == "progressive" and curve.variant == material.main
        and min(cell.planned for cell in curve.cells) >= FEWEST_SEEDS
    ]  # fmt: skip
    if not found:
        return None
    settings = [curve.setting for curve in found]
    several = len({setting.size for setting in settings}) > 1
    titles = [material.panel_title(one, settings, size_words(one.size) if several else "") for one in settings]
    sizes = ", ".join(dict.fromkeys(size_words(setting.size) for setting in settings))
    title = f"Every seed, {sizes}"
    chance = any(setting.chance is not None for setting in settings)
    drawing, axes = material.draw(
        "seeds", title, titles, _handles(chance=chance), caption=_caption(found), alt=_alt(title, found, material)
    )
    for one, curve in zip(axes, found, strict=True):
        _draw_panel(one, curve, material)
    return drawing


def _draw_panel(axes: Axes, curve: Curve, material: Material) -> None:
    setting = curve.setting
    label_axes(axes, setting.metric, "preserved pretrained layers")
    axes.set_xlim(-0.6, setting.depth + 0.6)
    axes.set_xticks(whole_ticks(0, setting.depth))
    scores = [score for cell in curve.cells for score in material.scores.get(cell.digest, {}).values()]
    axes.set_ylim(*_limits(scores, setting.chance, setting.metric))
    draw_chance(axes, setting.chance)
    for x, cell in curve.points:
        by_seed = material.scores.get(cell.digest, {})
        # A seed has one place within every column, so that its points can be followed.
        places = [x + _SPREAD * ((seed * _GOLDEN) % 1 - 0.5) for seed in by_seed]
        axes.plot(places, list(by_seed.values()), marker="o", markersize=2.4, linestyle="none", color=COLOURS[0],
                  alpha=0.5, markeredgewidth=0, zorder=3)  # fmt: skip
    measured = [(x, cell.score.mean) for x, cell in curve.points if cell.score.mean is not None]
    axes.plot([x for x, _ in measured], [mean for _, mean in measured], **_MEAN)  # type: ignore[arg-type]
    empty = [x for x, cell in curve.points if not cell.score.n]
    draw_crosses(axes, empty, COLOURS[0], axes.get_xaxis_transform())
    _count_short(axes, curve)


def _count_short(axes: Axes, curve: Curve) -> None:
    """The number of seeds at the top of a column that lacks some."""
    for x, cell in curve.points:
        if cell.holes:
            axes.annotate(f"{cell.score.n}", (x, 1), xycoords=("data", "axes fraction"), ha="center", va="top",
                          fontsize=4.5, fontweight="bold", color=COLOURS[1])  # fmt: skip


_MEAN: Final = {
    "color": "#000000", "linewidth": 0.8, "linestyle": (0, (3, 1.5)), "marker": "_", "markersize": 6, "zorder": 4,
}  # fmt: skip


def _limits(scores: Sequence[float], chance: float | None, metric: str) -> tuple[float, float]:
    floor, ceiling = natural_range(metric)
    low, high = (min(scores), max(scores)) if scores else (floor, ceiling)
    reach = max(high - low, 0.02)
    if chance is not None and low - 0.4 * reach < chance < high + 0.4 * reach:
        low, high = min(low, chance), max(high, chance)
    return low - 0.07 * reach, high + 0.1 * reach


def _handles(*, chance: bool) -> list[Artist]:
    point = Line2D([], [], color=COLOURS[0], marker="o", markersize=2.4, linestyle="none", alpha=0.5, label="one seed")
    mean = Line2D([], [], label="mean over seeds", **_MEAN)  # type: ignore[arg-type]
    return [point, mean, *([handle("guessing", CHANCE_LOOK)] if chance else [])]


def _caption(found: Sequence[Curve]) -> str:
    cells = [cell for curve in found for cell in curve.cells]
    n = spoken_n(cells)
    text = [
        "The layers above the preserved ones are redrawn at random, then the whole network is finetuned.",
        f"A point is one seed ({n} in a column), at the same place in every column; the dashed line joins the means.",
        "No intervals: the points are all there is.",
    ]
    text += [f"{line.partition(';')[0]}; a column that lacks some has n at its top." for line in holes(cells)]
    if any(curve.setting.chance is not None for curve in found):
        text.append(GUESSING)
    return " ".join(text)


def _alt(title: str, found: Sequence[Curve], material: Material) -> str:
    text = [f"{title}: a point for each seed against the number of preserved layers."]
    for curve in found:
        spans = []
        for x, cell in curve.points:
            scores = material.scores.get(cell.digest, {}).values()
            spans.append(f"{x} layers {number(min(scores))} to {number(max(scores))}" if scores else f"{x} no score")
        text.append(f"{prose(curve.setting.task)}, lowest to highest: {'; '.join(spans)}.")
    return " ".join(text)
