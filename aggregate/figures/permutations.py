"""Layers in another order: each order a point, beside plain finetuning and all layers redrawn.

Law: the unit is the order. Its seeds are averaged first, and n counts orders; the density behind the points is only as
good as they are few.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from aggregate.curves import size_words
from aggregate.figures.captions import GUESSING, holes, number
from aggregate.figures.charts import (
    Panel,
    draw_chance,
    draw_crosses,
    draw_level,
    draw_points,
    handle,
    label_axes,
    legend,
    limits,
    spoken,
    spoken_n,
)
from aggregate.figures.drawing import Drawing, Material
from aggregate.figures.layers import levels_of
from aggregate.figures.page import Margins
from aggregate.figures.style import COLOURS, Look
from aggregate.summary import CellSummary, Setting
from aggregate.text import prose

FEWEST_ORDERS: Final = 3
_FEWEST_FOR_DENSITY = 5
_LOOK = Look(COLOURS[0], "o", (0, ()))
_MEAN_LOOK = Look(COLOURS[1], "D", (0, ()))
_HALF = 0.42


def permutations(material: Material) -> Drawing | None:
    """A panel per task, in it a violin of orders for each size."""
    settings = [setting for setting in material.settings if len(orders(setting)) >= FEWEST_ORDERS]
    if not settings:
        return None
    contexts = dict.fromkeys(setting.context for setting in settings)
    groups = [[one for one in settings if one.context == context] for context in contexts]
    firsts = [group[0] for group in groups]
    titles = [material.panel_title(group[0], firsts) for group in groups]
    panels = [_panel(material, title, group) for title, group in zip(titles, groups, strict=True)]
    title = "The pretrained layers in another order"
    drawing, axes = material.draw(
        "permutations", title, titles, _handles(panels, settings), caption=_caption(settings, panels),
        alt=_alt(material, title, settings), margins=Margins(bottom=0.24),
    )  # fmt: skip
    for one, panel, group in zip(axes, panels, groups, strict=True):
        _draw_panel(one, panel, group, material)
    return drawing


def orders(setting: Setting) -> list[CellSummary]:
    """The cells of single orders."""
    return [cell for cell in setting.cells if cell.treatment_kind == "permute" and cell.unit == "seed"]


def _over_orders(setting: Setting) -> CellSummary:
    return next(cell for cell in setting.cells if cell.unit == "order")


def _panel(material: Material, title: str, group: Sequence[Setting]) -> Panel:
    levels = [level for setting in group for level in levels_of(material, setting)]
    first = group[0]
    return Panel(title, first.metric, "", (0, len(group) - 1), first.chance, (), tuple(levels))


def _draw_panel(axes: Axes, panel: Panel, group: Sequence[Setting], material: Material) -> None:
    label_axes(axes, panel.metric, panel.xlabel)
    axes.set_xlim(-0.5, len(group) - 0.5)
    axes.set_xticks(range(len(group)), [size_words(setting.size) for setting in group])
    axes.tick_params(axis="x", length=0)
    means = [cell.score.mean for setting in group for cell in orders(setting) if cell.score.mean is not None]
    over = [_over_orders(setting) for setting in group]
    axes.set_ylim(*limits(panel.metric, panel.chance, [*panel.cells, *over], means))
    draw_chance(axes, panel.chance)
    for index, setting in enumerate(group):
        for level in levels_of(material, setting):
            draw_level(axes, level, (index - 0.5, index + 0.5) if len(group) > 1 else None)
        _draw_orders(axes, index, setting)


def _draw_orders(axes: Axes, index: int, setting: Setting) -> None:
    found = orders(setting)
    means = [cell.score.mean for cell in found if cell.score.mean is not None]
    if len(means) >= _FEWEST_FOR_DENSITY and max(means) - min(means) > 1e-6:
        for body in axes.violinplot(means, [index], widths=0.6, showextrema=False)["bodies"]:  # type: ignore[attr-defined]
            body.set(facecolor=_LOOK.colour, edgecolor="none", alpha=0.18, zorder=1.5)
    # In the order of the plan from left to right, so that one point can be told from another.
    places = [index + 0.4 * ((position + 0.5) / len(found) - 0.5) for position in range(len(found))]
    missing = [place for place, cell in zip(places, found, strict=True) if cell.score.mean is None]
    draw_crosses(axes, missing, _LOOK.colour, axes.get_xaxis_transform())
    alone = [replace(cell, score=replace(cell.score, low=None, high=None)) for cell in found]
    draw_points(axes, list(zip(places, alone, strict=True)), _LOOK, axes.transData)
    draw_points(axes, [(index + _HALF - 0.08, _over_orders(setting))], _MEAN_LOOK, axes.transData)


def _handles(panels: Sequence[Panel], settings: Sequence[Setting]) -> list[Artist]:
    n = spoken_n(_over_orders(setting) for setting in settings)
    order = Line2D([], [], color=_LOOK.colour, marker="o", markersize=3.6, linestyle="none", label="one order")
    return [order, handle(f"mean over orders ({n})", _MEAN_LOOK), *legend(panels)]


def _caption(settings: Sequence[Setting], panels: Sequence[Panel]) -> str:
    found = [cell for setting in settings for cell in orders(setting)]
    of_seeds = spoken(cell.score.n for cell in found)
    n = spoken_n(_over_orders(setting) for setting in settings)
    text = [
        "Each pretrained layer stands at another depth, nothing is redrawn, then the whole network is finetuned.",
        f"A point is one order, in the study's order from left to right: the mean of {of_seeds} seeds.",
        f"Mean over orders with its 95% Student t interval ({n} orders).",
        "The shaded shape is a kernel density of these few points.",
    ]
    if any(panel.levels for panel in panels):
        text.append("Lines across: means over seeds, with 95% Student t intervals as bands, given one validation set.")
    text += holes([*found, *(cell for panel in panels for cell in panel.cells)])
    if any(panel.chance is not None for panel in panels):
        text.append(GUESSING)
    return " ".join(text)


def _alt(material: Material, title: str, settings: Sequence[Setting]) -> str:
    text = [f"{title}: points for single orders, lines for their references."]
    for setting in settings:
        means = [cell.score.mean for cell in orders(setting) if cell.score.mean is not None]
        over = _over_orders(setting).score
        spread = f"from {number(min(means))} to {number(max(means))}, mean {number(over.mean)}" if means else "no score"
        levels = [f"{level.label} {number(level.cell.score.mean)}" for level in levels_of(material, setting)]
        where = f"{prose(setting.task)}, {size_words(setting.size)}"
        text.append(f"{where}: {'; '.join([f'{over.n} orders {spread}', *levels])}.")
    return " ".join(text)
