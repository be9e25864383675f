"""What each layer is worth, by task and amount of data: a heat map that can be read in grey.

Law: a number stands in every cell, with its sign, and the colour only repeats it. Differences are paired by seed. Bold
says that the 95% interval leaves out zero; a star that seeds are missing, a cross that nothing is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from aggregate.curves import Curve, metric_name, size_key, size_words
from aggregate.figures.captions import holes
from aggregate.figures.charts import spoken
from aggregate.figures.drawing import Drawing, Material, plain_cell
from aggregate.figures.page import WIDTHS, Margins
from aggregate.figures.style import text_inches
from aggregate.stats import Interval, paired_difference
from aggregate.summary import CellSummary, Setting
from aggregate.text import prose

MAP: Final = LinearSegmentedColormap.from_list("reinit", ["#B54F00", "#F0A66B", "#FAFAFA", "#7FB8DB", "#005A91"])
"""Vermilion, white, blue, after Okabe and Ito: both ends dark, so that size shows in grey, and the sign is printed."""

_ROW_INCHES = 0.185
_GAP_ROWS = 0.25
_MARGINS = Margins(left=1.45, right=0.62, top=0.24, bottom=0.36)
_NUMBER_POINTS = 6.0


@dataclass(frozen=True)
class Tile:
    """What layers `first` to `last` are worth, in hundredths of the score."""

    first: int
    last: int
    worth: Interval
    short: bool
    """Whether planned runs that it needs have no score."""


@dataclass(frozen=True)
class Row:
    """Tiles of one size, all measured the same way."""

    label: str
    alone: bool
    """Measured by redrawing the layer alone, not by one more step along the progressive curve."""
    tiles: tuple[Tile, ...]
    cells: tuple[CellSummary, ...]


def heatmap(material: Material) -> Drawing | None:
    """A map per task: rows are sizes, columns layers."""
    rows: dict[str, list[Row]] = {}
    settings: dict[str, Setting] = {}
    for curve in sorted(_main_curves(material), key=lambda one: (one.width is not None, size_key(one.setting.size))):
        settings.setdefault(curve.setting.context, curve.setting)
        rows.setdefault(curve.setting.context, []).append(_row(curve, material))
    order = [context for context in dict.fromkeys(setting.context for setting in material.settings) if context in rows]
    if not order:
        return None
    shown = [settings[context] for context in order]
    titles = [f"{material.panel_title(one, shown)}: {metric_name(one.metric)}, hundredths" for one in shown]
    heights = [_ROW_INCHES * _tall(rows[context]) for context in order]
    title = "What each layer is worth"
    drawing, axes = material.draw(
        "heatmap", title, titles, [], caption=_caption([row for context in order for row in rows[context]]),
        alt=_alt(title, shown, [rows[context] for context in order]), height=heights, columns=1, width=WIDTHS[3],
        margins=_MARGINS,
    )  # fmt: skip
    for one, context in zip(axes, order, strict=True):
        _draw_map(one, rows[context], settings[context].depth)
    return drawing


def _main_curves(material: Material) -> list[Curve]:
    """The progressive curves of the main variant, and its single layers where there is a baseline."""
    main = [curve for curve in material.curves if curve.variant == material.main]
    return [
        curve
        for curve in main
        if curve.kind == "progressive" or (curve.kind == "block" and curve.width == 1 and plain_cell(curve.setting))
    ]


def _row(curve: Curve, material: Material) -> Row:
    size = size_words(curve.setting.size)
    if curve.kind == "progressive":
        steps = zip(curve.points, curve.points[1:], strict=False)
        tiles = [_tile(low, high - 1, upper, lower, material) for (low, lower), (high, upper) in steps]
        return Row(f"{size}, one more", False, tuple(tiles), curve.cells)
    plain = plain_cell(curve.setting)
    tiles = [_tile(layer, layer, plain, cell, material) for layer, cell in curve.points if plain]
    return Row(f"{size}, alone", True, tuple(tiles), (*curve.cells, *([plain] if plain else [])))


def _tile(first: int, last: int, higher: CellSummary, lower: CellSummary, material: Material) -> Tile:
    """The paired difference between two cells of which the higher has the layers and the lower has them redrawn."""
    worth = paired_difference(_hundredths(higher, material), _hundredths(lower, material)).interval
    return Tile(first, last, worth, bool(higher.holes or lower.holes))


def _hundredths(cell: CellSummary, material: Material) -> dict[int, float]:
    return {seed: 100 * score for seed, score in material.scores.get(cell.digest, {}).items()}


# ------------------------------------------------------------------------------------------------------------- drawing


def _tall(rows: Sequence[Row]) -> float:
    both = len({row.alone for row in rows}) > 1
    return len(rows) + _GAP_ROWS * both


def _draw_map(axes: Axes, rows: Sequence[Row], depth: int) -> None:
    most = max((abs(tile.worth.mean) for row in rows for tile in row.tiles if tile.worth.mean is not None), default=1.0)
    norm = Normalize(-(most or 1.0), most or 1.0)
    axes.set_xlim(-0.5, depth - 0.5)
    axes.set_ylim(_tall(rows), 0)
    axes.grid(visible=False)
    axes.set_xticks(range(depth))
    axes.set_xlabel("layer (0 is next to the embeddings)")
    tops = [index + _GAP_ROWS * (row.alone and not rows[0].alone) for index, row in enumerate(rows)]
    axes.set_yticks([top + 0.5 for top in tops], [row.label for row in rows])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    decimals, points = _fitting(axes, rows, depth)
    for row, top in zip(rows, tops, strict=True):
        for tile in row.tiles:
            _draw_tile(axes, tile, top, most or 1.0, decimals, points)
    _draw_bar(axes, norm)


def _draw_tile(axes: Axes, tile: Tile, top: float, most: float, decimals: int, points: float) -> None:
    worth, wide = tile.worth, tile.last - tile.first + 1
    # What `Normalize` does to an array: ten thousand arrays of one number take a second.
    share = 0.5 if worth.mean is None else (worth.mean + most) / (2 * most)
    box = Rectangle((tile.first - 0.47, top + 0.04), wide - 0.06, 0.92, linewidth=0.6)
    if worth.mean is None:
        box.set(facecolor="#FFFFFF", edgecolor="#999999", hatch="////")
    else:
        box.set(facecolor=MAP(share), edgecolor="none")
    axes.add_artist(box)
    clear = worth.low is not None and worth.high is not None and (worth.low > 0 or worth.high < 0)
    dark = abs(share - 0.5) > 0.36
    text = axes.text(tile.first + (wide - 1) / 2, top + 0.52, _printed(tile, decimals), ha="center", va="center")
    text.set(fontsize=points, fontweight="bold" if clear else "normal", color="#FFFFFF" if dark else "#111111")


def _printed(tile: Tile, decimals: int) -> str:
    if tile.worth.mean is None:
        return "×"
    text = f"{tile.worth.mean:+.{decimals}f}".replace("-", "−")
    text = text[1:] if float(f"{tile.worth.mean:.{decimals}f}") == 0 else text
    return text + "*" * tile.short


def _fitting(axes: Axes, rows: Sequence[Row], depth: int) -> tuple[int, float]:
    """Decimals and size of letters at which every number fits its tile: fewer decimals first, then smaller."""
    figure = axes.get_figure(root=True)
    room = axes.get_position().width * (figure.get_size_inches()[0] if figure else 1) / depth
    for decimals, points in ((1, _NUMBER_POINTS), (1, 5.0), (0, 5.0)):
        widest = max(text_inches(_printed(tile, decimals), points, bold=True) for row in rows for tile in row.tiles)
        if widest <= room:
            return decimals, points
    return 0, 4.0


def _draw_bar(axes: Axes, norm: Normalize) -> None:
    """The scale of one map, at its right."""
    figure = axes.get_figure(root=True)
    place = axes.get_position()
    if figure is None or norm.vmax is None:
        return
    bar = figure.add_axes((place.x1 + 0.018, place.y0, 0.011, place.height))
    edges = [norm.vmax * (step / 20 - 1) for step in range(41)]
    bar.pcolormesh([0, 1], edges, [[low + norm.vmax / 40] for low in edges[:-1]], cmap=MAP, norm=norm)
    bar.set_xlim(0, 1)
    bar.set_ylim(-norm.vmax, norm.vmax)
    bar.set_xticks([])
    bar.set_yticks([-norm.vmax, 0, norm.vmax], [f"−{norm.vmax:.0f}", "0", f"+{norm.vmax:.0f}"] if norm.vmax >= 1 else
                   [f"−{norm.vmax:.1f}", "0", f"+{norm.vmax:.1f}"])  # fmt: skip
    bar.yaxis.tick_right()
    bar.grid(visible=False)
    bar.tick_params(length=0, pad=2)
    for spine in bar.spines.values():
        spine.set_visible(False)


# --------------------------------------------------------------------------------------------------------------- words


_ONE_MORE: Final = (
    "One more: the score with the layers up to this one preserved, less the score with those below it alone (the "
    "others redrawn)."
)


def _caption(rows: Sequence[Row]) -> str:
    n = f"n = {spoken(tile.worth.n for row in rows for tile in row.tiles)}"
    text = ["Each number is a mean difference of scores, in hundredths, paired by seed."]
    if not all(row.alone for row in rows):
        text.append(_ONE_MORE)
    if any(tile.last > tile.first for row in rows for tile in row.tiles):
        text.append("A wide tile is a step of several layers.")
    if any(row.alone for row in rows):
        text.append("Alone: the score of plain finetuning, less the score with this layer alone redrawn.")
    text.append(f"Bold: the 95% Student t interval over seeds ({n} pairs, given one validation set) leaves out zero.")
    text.append("Colours are scaled to the largest number of each map, and cannot be compared between maps.")
    for line in holes([cell for row in rows for cell in row.cells]):
        count = line.partition(";")[0]
        text.append(f"{count}; a number that lacks them has a star, a tile without any is hatched with a cross.")
    return " ".join(text)


def _alt(title: str, settings: Sequence[Setting], rows: Sequence[Sequence[Row]]) -> str:
    text = [f"{title}: a map per task, rows are amounts of data, columns layers, numbers are hundredths of the score."]
    for setting, of_task in zip(settings, rows, strict=True):
        lines = [f"{row.label}: {' '.join(_printed(tile, 1) for tile in row.tiles)}" for row in of_task]
        text.append(f"{prose(setting.task)}: {'; '.join(lines)}.")
    return " ".join(text)
