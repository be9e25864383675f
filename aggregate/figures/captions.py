"""What stands under a figure and in its place: n, what intervals cover, every hole, and the picture in words.

Law: pure functions of what is drawn; a caption never says more than the figure shows, and never less than its holes.
"""

from collections.abc import Iterable, Sequence

from aggregate.figures.charts import Panel, Series, spoken_n
from aggregate.summary import CellSummary
from aggregate.text import prose

GUESSING = "Guessing: the score of a guess that ignores the text."


def caption(what: str, cells: Iterable[CellSummary], *more: str, chance: bool = False) -> str:
    """The caption of a figure of means over seeds."""
    shown = list(cells)
    counted = [cell for cell in shown if cell.score.n] or shown
    means = f"Points are means over seeds ({spoken_n(counted)})"
    text = [what, f"{means}; bars and bands are 95% Student t intervals over seeds, given one validation set."]
    if any(cell.score.n == 1 for cell in shown):
        text.append("Where n = 1 there is no interval.")
    return " ".join([*text, *more, *holes(shown), *([GUESSING] if chance else [])])


def holes(cells: Iterable[CellSummary]) -> list[str]:
    """How many planned runs have no score, and how that shows; nothing where all have."""
    short = {cell.digest: cell for cell in cells if cell.holes}
    if not short:
        return []
    empty = sum(not cell.score.n for cell in short.values())
    crosses = f"; cells without any ({empty}) are crosses on the axis" if empty else ""
    count = sum(cell.holes for cell in short.values())
    return [f"INCOMPLETE: planned runs without a score: {count}; their points are hollow{crosses}."]


def number(value: float | None) -> str:
    """Three decimals."""
    return "no score" if value is None else f"{value:.3f}"


def alt(what: str, panels: Sequence[Panel]) -> str:
    """The lines of a chart by their ends, the levels by their means."""
    text = [f"{what}: {'one panel' if len(panels) == 1 else f'{len(panels)} panels'}."]
    for panel in panels:
        lines = [_line(series) for series in panel.series]
        lines += [f"{level.label} {number(level.cell.score.mean)}" for level in panel.levels]
        text.append(f"{prose(panel.title)}: {'; '.join(lines)}.")
    if short := sum(cell.holes > 0 for panel in panels for cell in panel.cells):
        text.append(f"{short} points lack runs.")
    return " ".join(text)


def _line(series: Series) -> str:
    (first, low), *_, (last, high) = series.points
    return f"{series.label} from {number(low.score.mean)} at {first} to {number(high.score.mean)} at {last}"
