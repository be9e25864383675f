"""A page: title, panels, one legend and the caption, each at its place in inches.

Law: the height follows from what is on the page; nothing is moved to make room for anything, so nothing overlaps.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend

from aggregate.figures.style import (
    FONT,
    LABEL_POINTS,
    LINE,
    PANEL_POINTS,
    SMALL_POINTS,
    STYLE,
    TITLE_POINTS,
    drawable,
    lines_inches,
    text_inches,
    wrapped,
)

WIDTHS: Final = {1: 4.0, 2: 6.3, 3: 6.3}
"""Page width by columns of panels: 6.3 inches are the text width of an ACL paper, 4.0 fit a column of most others."""

_EDGE = 0.06
_HANDLE_INCHES = 0.46


@dataclass(frozen=True)
class Margins:
    """Room around the axes of a panel, in inches."""

    left: float = 0.54
    right: float = 0.08
    top: float = 0.22
    bottom: float = 0.36


@dataclass(frozen=True)
class Words:
    """The text of a page."""

    title: str
    study: str
    """The study's own title, foreign text; after the figure's."""
    caption: str


def columns_of(panels: int) -> int:
    """Panels side by side."""
    return min(3, panels) if panels != 4 else 2


def lay_out(
    titles: Sequence[str],
    words: Words,
    handles: Sequence[Artist],
    *,
    height: float | Sequence[float] = 1.62,
    columns: int | None = None,
    width: float | None = None,
    margins: Margins = Margins(),
) -> tuple[Figure, list[Axes]]:
    """A figure with one axes a panel, titled; inside `rc_context(STYLE)`.

    Args:
        titles: of the panels, foreign text.
        words: title and caption of the page.
        handles: of the legend that all panels share.
        height: of the axes in inches, of all or of each row.
        columns: panels side by side; as many as fit unless told.
        width: of the page in inches; by the columns unless told.
        margins: around the axes.
    """
    columns = columns or columns_of(len(titles))
    rows = math.ceil(len(titles) / columns)
    heights = [height] * rows if isinstance(height, int | float) else list(height)
    width = width or WIDTHS[columns]
    figure = Figure(figsize=(width, 1))
    FigureCanvasAgg(figure)
    room = width / columns - margins.left - margins.right
    fitted = [wrapped(drawable(title), room + margins.left * 0.8, PANEL_POINTS, bold=True) for title in titles]
    tops = [margins.top + max(lines_inches(text, PANEL_POINTS) for text in fitted[row * columns : (row + 1) * columns])
            - PANEL_POINTS * LINE / 72 for row in range(rows)]  # fmt: skip
    fitted_words = _fitted(words, width)
    above = _EDGE + lines_inches(fitted_words.title, TITLE_POINTS) + lines_inches(fitted_words.study, LABEL_POINTS)
    legend = _legend(figure, handles, width)
    caption = _EDGE + lines_inches(fitted_words.caption, SMALL_POINTS)
    below = caption + (_height(legend) + 0.1 if legend else 0) + 0.04
    total = above + sum(heights) + sum(tops) + rows * margins.bottom + below
    figure.set_size_inches(width, total)
    _set(figure, fitted_words, caption)
    if legend:
        anchor = (_EDGE / width, (below - 0.04) / total)
        legend.set_bbox_to_anchor(anchor, transform=figure.transFigure)
    axes = []
    for index, title in enumerate(fitted):
        row, column = divmod(index, columns)
        top = above + sum(heights[:row]) + sum(tops[: row + 1]) + row * margins.bottom
        left, bottom = column * width / columns + margins.left, total - top - heights[row]
        one = figure.add_axes((left / width, bottom / total, room / width, heights[row] / total))
        one.set_title(title)
        axes.append(one)
    return figure, axes


def _fitted(words: Words, width: float) -> Words:
    room = width - 2 * _EDGE
    return Words(
        title=wrapped(drawable(words.title), room, TITLE_POINTS, bold=True),
        study=wrapped(drawable(words.study), room, LABEL_POINTS),
        caption=wrapped(words.caption, room, SMALL_POINTS),
    )


def _set(figure: Figure, words: Words, caption: float) -> None:
    """Set title and caption; `caption` is the height of the latter's top."""
    width, total = figure.get_size_inches()
    below_title = total - _EDGE - lines_inches(words.title, TITLE_POINTS)
    bold = FontProperties(family=FONT, size=TITLE_POINTS, weight="bold")
    label, small = (FontProperties(family=FONT, size=points) for points in (LABEL_POINTS, SMALL_POINTS))
    for text, top, font, colour, name in (
        (words.title, total - _EDGE, bold, "#000000", "title"),
        (words.study, below_title, label, "#444444", "study"),
        (words.caption, caption, small, "#444444", "caption"),
    ):
        place = (_EDGE / width, top / total)
        figure.text(*place, text, va="top", font=font, color=colour, linespacing=LINE, gid=name)


def _legend(figure: Figure, handles: Sequence[Artist], width: float) -> Legend | None:
    if not handles:
        return None
    labels = [wrapped(str(handle.get_label()), width - 2 * _EDGE - _HANDLE_INCHES, SMALL_POINTS) for handle in handles]
    widths = [max(text_inches(line, SMALL_POINTS) for line in label.split("\n")) + _HANDLE_INCHES for label in labels]
    columns = next(n for n in range(len(handles), 0, -1) if n == 1 or _spread(widths, n) <= width - 2 * _EDGE)
    columns = math.ceil(len(handles) / math.ceil(len(handles) / columns))  # no column that is nearly empty
    return figure.legend(handles, labels, loc="upper left", ncols=columns, bbox_to_anchor=(0, 0))


def _spread(widths: Sequence[float], columns: int) -> float:
    """Width of a legend whose entries run down one column after the other, the first ones longer."""
    each, longer = divmod(len(widths), columns)
    starts = [index * each + min(index, longer) for index in range(columns + 1)]
    gap = float(STYLE["legend.columnspacing"]) * SMALL_POINTS / 72  # type: ignore[arg-type]
    return sum(max(widths[a:b]) for a, b in pairwise(starts)) + gap * (columns - 1)


def _height(legend: Legend) -> float:
    figure = legend.get_figure(root=True)
    return float(legend.get_window_extent().height / figure.dpi) if figure else 0.0


def styled() -> AbstractContextManager[None]:
    """The settings under which everything is drawn and written, for `with`."""
    return mpl.rc_context(dict(STYLE))  # type: ignore[arg-type]
