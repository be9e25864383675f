"""Figures: the score against the number of preserved layers.

Law: a figure is a function of the frame down to its bytes: no time stamps, no global state of the plotting library. It
says in its caption what its bars cover, what n is, and what is not there; a point short of runs is hollow, a point
without any is a cross on the axis, and no line is drawn across it.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform

from aggregate.summary import CellSummary, Setting, summarise
from aggregate.text import clipped, prose

# Okabe and Ito's palette in an order that also falls from dark to light, so that neighbours differ in grey.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = "osD^vPX*"
Dash = tuple[float, Sequence[float]]
DASHES: Final[tuple[Dash, ...]] = ((0, ()), (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))

STYLE: Final[Mapping[str, object]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.fontsize": 8,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "pdf.fonttype": 42,  # letters stay letters: searchable, and accepted by publishers
    "text.parse_math": False,  # a name with dollar signs is a name
}

_COLUMNS = 3
_PANEL_INCHES = (3.9, 3.1)
_LEGEND_LINE_INCHES = 0.17
_SIDEWAYS_POINTS = 2.4
_MOST_SIDEWAYS_POINTS = 10
_MARGIN_LAYERS = 0.04
# Of a usual letter at the size that each text is set in.
_CAPTION_LETTER_INCHES = 0.058
_PANEL_LETTER_INCHES = 0.088
_TITLE_LETTER_INCHES = 0.096


@dataclass(frozen=True)
class Curve:
    """One line of a panel: one size and variant, its points from all layers redrawn to none."""

    size: str
    variant: str
    rows: int
    points: tuple[CellSummary, ...]

    @property
    def label(self) -> str:
        """Size and variant, with n."""
        counts = sorted({point.score.n for point in self.points})
        n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        size = f"all {self.rows:,}" if self.size == "full" else f"{self.rows:,}"
        return f"{size} examples{', ' * bool(self.variant)}{self.variant} (n = {n})"


@dataclass(frozen=True)
class Panel:
    """One task, model and recipe."""

    title: str
    metric: str
    depth: int
    chance: float | None
    curves: tuple[Curve, ...]


def panels(frame: pd.DataFrame) -> list[Panel]:
    """The progressive curves of a frame, tasks in its order and larger sizes first; empty where the study has none.

    First a panel per task for the first variant of the study. Each other variant has panels of its own, in which the
    first variant's curves of the same sizes stand beside it.
    """
    settings = summarise(frame)
    several_models = len({setting.model for setting in settings}) > 1
    several_recipes = len({setting.recipe for setting in settings}) > 1
    by_context = {}
    for context in dict.fromkeys(setting.context for setting in settings):
        group = sorted((each for each in settings if each.context == context), key=lambda each: -each.rows)
        by_context[context] = group[0], [curve for setting in group for curve in _curves(setting)]
    variants = dict.fromkeys(curve.variant for _, curves in by_context.values() for curve in curves)
    first_variant = "" if "" in variants else next(iter(variants), "")
    found = []
    for variant in sorted(variants, key=lambda each: each != first_variant):
        for setting, curves in by_context.values():
            sizes = {curve.size for curve in curves if curve.variant == variant}
            drawn = [curve for curve in curves if curve.size in sizes and curve.variant in (variant, first_variant)]
            parts = [setting.task, setting.model if several_models else "", setting.recipe if several_recipes else ""]
            parts.append("" if variant == first_variant else variant)
            title = ", ".join(part for part in parts if part)
            if drawn:
                found.append(Panel(title, setting.metric, setting.depth, setting.chance, tuple(drawn)))
    return found


def _curves(setting: Setting) -> list[Curve]:
    """A curve per variant, from the cells of progressive families; plain finetuning ends each of them."""
    families = progressive_families(setting)
    redrawn = [cell for cell in setting.cells if not cell.is_plain and families.intersection(cell.families)]
    plain = [cell for cell in setting.cells if cell.is_plain]
    curves = []
    for variant in dict.fromkeys(cell.variant for cell in redrawn):
        points = [cell for cell in redrawn if cell.variant == variant] + plain
        points.sort(key=lambda cell: cell.preserved_layers or 0)
        curves.append(Curve(setting.size, variant, setting.rows, tuple(points)))
    return curves


def progressive_families(setting: Setting) -> set[str]:
    """Families of at least three depths, every cell of which keeps the layers below some depth and redraws the others.

    Told by what they list and not by their name, so that a block that happens to reach the top layer is no point of a
    curve that was never planned.
    """
    kept: dict[str, set[int | None]] = {}
    for cell in setting.cells:
        for family in cell.families:
            kept.setdefault(family, set()).add(cell.preserved_layers)
    return {family for family, depths in kept.items() if None not in depths and len(depths) >= 3}


def progressive(frame: pd.DataFrame, *, title: str = "") -> Figure | None:
    """Score against preserved layers, a panel per task and a line per size; None where the study has no such cells."""
    found = panels(frame)
    if not found:
        return None
    with mpl.rc_context(dict(STYLE)):  # type: ignore[arg-type]
        return _draw(found, title)


def _draw(found: Sequence[Panel], title: str) -> Figure:
    columns = min(_COLUMNS, len(found))
    rows = math.ceil(len(found) / columns)
    width, height = _PANEL_INCHES
    legend = _LEGEND_LINE_INCHES * max(len(panel.curves) for panel in found)
    size = (max(width * columns, 5.2), (height + legend) * rows + 0.8)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.05))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    looks = _looks(found)
    for axes, panel in zip(grid.flat, found, strict=False):
        _draw_panel(axes, panel, looks)
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    if title:
        lines = _wrapped(drawable(title), size[0], _TITLE_LETTER_INCHES)
        figure.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold")
    lines = _wrapped(caption(found), size[0], _CAPTION_LETTER_INCHES)
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, color="#444444")
    return figure


Look = tuple[str, str, Dash]


def _looks(found: Sequence[Panel]) -> dict[tuple[str, str], Look]:
    """Colour by size, dashes by variant, a marker for each pair: the same in all panels, larger sizes first."""
    curves = [curve for panel in found for curve in panel.curves]
    sizes = sorted({curve.size for curve in curves}, key=lambda size: -math.inf if size == "full" else -int(size))
    variants = sorted({curve.variant for curve in curves})
    return {
        (size, variant): (
            COLOURS[i % len(COLOURS)],
            MARKERS[(j * len(sizes) + i) % len(MARKERS)],
            DASHES[j % len(DASHES)],
        )
        for i, size in enumerate(sizes)
        for j, variant in enumerate(variants)
    }


def _draw_panel(axes: Axes, panel: Panel, looks: Mapping[tuple[str, str], Look]) -> None:
    axes.set_title(_wrapped(drawable(panel.title), _PANEL_INCHES[0], _PANEL_LETTER_INCHES))
    axes.set_ylabel(drawable(metric_name(panel.metric)))
    axes.set_xlabel("preserved pretrained layers")
    axes.set_xlim(-_MARGIN_LAYERS * panel.depth, (1 + _MARGIN_LAYERS) * panel.depth)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=13, integer=True, steps=[1, 2, 5, 10]))
    low, high = _limits(panel)
    axes.set_ylim(low, high)
    if panel.chance is not None and low < panel.chance < high:
        axes.axhline(panel.chance, color="#888888", linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        axes.annotate("guessing", (1, panel.chance), xycoords=("axes fraction", "data"), xytext=(0, 2),
                      textcoords="offset points", ha="right", va="bottom", fontsize=7, color="#777777")  # fmt: skip
    handles = []
    step = min(_SIDEWAYS_POINTS, _MOST_SIDEWAYS_POINTS / len(panel.curves))
    for index, curve in enumerate(panel.curves):
        sideways = step * (index - (len(panel.curves) - 1) / 2)
        handles.append(_draw_curve(axes, curve, looks[curve.size, curve.variant], sideways))
    below = axes.transAxes + _points(axes, 0, -30)
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, borderaxespad=0)


def _limits(panel: Panel) -> tuple[float, float]:
    """Room for every bar, and for the line of a guess where it is near."""
    scores = [point.score for curve in panel.curves for point in curve.points]
    ends = [value for score in scores for value in (score.mean, score.low, score.high) if value is not None] or [0, 1]
    low, high = min(ends), max(ends)
    reach = max(high - low, 0.02)
    if panel.chance is not None and low - 0.4 * reach < panel.chance < high + 0.4 * reach:
        low, high = min(low, panel.chance), max(high, panel.chance)
    return low - 0.07 * reach, high + 0.07 * reach


def _points(axes: Axes, right: float, up: float) -> ScaledTranslation:
    return ScaledTranslation(right / 72, up / 72, axes.get_figure(root=True).dpi_scale_trans)  # type: ignore[union-attr]


def _draw_curve(axes: Axes, curve: Curve, look: Look, sideways: float) -> Line2D:
    """One curve, all of it moved by some points sideways, so that bars at one k stand side by side."""
    colour, marker, dashes = look
    place = axes.transData + _points(axes, sideways, 0)
    on_axis = axes.get_xaxis_transform() + _points(axes, sideways, 0)
    for measured, stretch in groupby(curve.points, key=lambda point: point.score.n > 0):
        points = list(stretch)
        if measured:
            axes.plot(*_xy(points), color=colour, linestyle=dashes, linewidth=1.6, zorder=2, transform=place)
        else:
            at = [point.preserved_layers or 0 for point in points]
            axes.plot(at, [0.0] * len(at), color=colour, marker="x", markersize=7, markeredgewidth=2, linestyle="none",
                      transform=on_axis, clip_on=False, zorder=5)  # fmt: skip
    for point in curve.points:
        _draw_point(axes, point, look, place)
    label = drawable(curve.label)
    return Line2D([], [], color=colour, marker=marker, linestyle=dashes, markersize=5, linewidth=1.6, label=label)


def _draw_point(axes: Axes, point: CellSummary, look: Look, place: Transform) -> None:
    score, (colour, marker, _) = point.score, look
    if score.mean is None:
        return
    k = point.preserved_layers or 0
    if score.low is not None and score.high is not None:
        axes.plot([k, k], [score.low, score.high], color=colour, linewidth=1.1, alpha=0.8, transform=place, zorder=3,
                  marker="_", markersize=5, markeredgewidth=1.1)  # fmt: skip
    fill = "white" if point.holes else colour
    axes.plot([k], [score.mean], marker=marker, markersize=5.5, markerfacecolor=fill, markeredgecolor=colour,
              markeredgewidth=1.3 if point.holes else 0.6, linestyle="none", transform=place, zorder=4)  # fmt: skip


def _xy(points: Iterable[CellSummary]) -> tuple[list[int], list[float]]:
    measured = [(point.preserved_layers or 0, point.score.mean) for point in points if point.score.mean is not None]
    return [k for k, _ in measured], [mean for _, mean in measured]


def caption(found: Sequence[Panel]) -> str:
    """What the figure shows, what its bars cover, and every hole by its count."""
    points = [point for panel in found for curve in panel.curves for point in curve.points]
    counts = sorted({point.score.n for point in points if point.score.n}) or [0]
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    text = [
        "The layers above the preserved ones are redrawn at random, then the whole network is finetuned.",
        f"Points are means over seeds ({n}); bars are 95% Student t intervals over seeds, given one validation set.",
    ]
    if 1 in counts:
        text.append("Where n = 1 there is no interval.")
    if holes := {point.digest: point.holes for point in points if point.holes}:
        empty = len({point.digest for point in points if not point.score.n})
        crosses = f"; cells without any ({empty}) are crosses on the axis" if empty else ""
        text.append(
            f"INCOMPLETE: planned runs without a score: {sum(holes.values())}; their points are hollow{crosses}."
        )
    if any(panel.chance is not None for panel in found):
        text.append("Guessing: the score of a guess that ignores the text.")
    return " ".join(text)


def metric_name(metric: str) -> str:
    """`validation/matthews` as a reader says it: `Matthews correlation (validation)`."""
    split, _, name = metric.partition("/")
    spoken = {"accuracy": "accuracy", "matthews": "Matthews correlation", "f1": "F1", "f1_macro": "macro F1",
              "pearson": "Pearson correlation", "spearman": "Spearman correlation"}  # fmt: skip
    return f"{spoken.get(name, name)} ({split.replace('_', ' ')})"


def drawable(text: str) -> str:
    """Text that the font can draw, on one line; other characters become the replacement character."""
    known = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()
    return "".join(char if ord(char) in known else "\N{REPLACEMENT CHARACTER}" for char in clipped(prose(text), 90))


def _wrapped(text: str, width_inches: float, letter_inches: float) -> str:
    """Lines that fit the width, by the width of a usual letter."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width_inches / letter_inches:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def to_bytes(figure: Figure, kind: Literal["pdf", "png"]) -> bytes:
    """The figure as a file, the same bytes whenever it is drawn with one version of the library."""
    out = io.BytesIO()
    metadata = {"pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
    with mpl.rc_context(dict(STYLE)):  # type: ignore[arg-type]
        figure.savefig(out, format=kind, dpi=200, metadata=metadata)
    return out.getvalue()
