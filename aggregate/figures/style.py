"""How figures look: sizes as printed, colours and markers that differ in grey and for the colour-blind, and letters.

Law: every length is in inches or points as printed, so that 7 points are 7 points in a paper; nothing here knows of
runs.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import LoadFlags

from aggregate.text import clipped, prose

# Okabe and Ito's palette in an order that also falls from dark to light, so that neighbours differ in grey.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = "osD^vPX*"
Dash = tuple[float, Sequence[float]]
DASHES: Final[tuple[Dash, ...]] = ((0, ()), (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
GREY: Final = "#777777"

FONT: Final = "DejaVu Sans"
TITLE_POINTS: Final = 8.0
PANEL_POINTS: Final = 7.5
LABEL_POINTS: Final = 7.0
SMALL_POINTS: Final = 6.5
LINE: Final = 1.3
"""Height of a line of text over the size of its letters."""

STYLE: Final[Mapping[str, object]] = {
    "font.family": FONT,
    "font.size": LABEL_POINTS,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.6,
    "axes.labelcolor": "#222222",
    "axes.labelpad": 2.5,
    "axes.titlesize": PANEL_POINTS,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "xtick.labelsize": SMALL_POINTS,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.color": "#444444",
    "ytick.labelsize": SMALL_POINTS,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.5,
    "legend.fontsize": SMALL_POINTS,
    "legend.frameon": False,
    "legend.labelspacing": 0.35,
    "legend.columnspacing": 1.4,
    "legend.handlelength": 2.6,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0,
    "pdf.fonttype": 42,  # letters stay letters: searchable, and accepted by publishers
    "svg.fonttype": "none",  # the same, and read aloud
    "svg.hashsalt": "reinit",
    "text.parse_math": False,  # a name with dollar signs is a name
}


@dataclass(frozen=True)
class Look:
    """What tells a line from its neighbours: never the colour alone."""

    colour: str
    marker: str
    dash: Dash


def look(colour: int, form: int, colours: int) -> Look:
    """The colour of one thing and the form of another: of `colours` things, so that no two pairs share a marker."""
    marker = MARKERS[(form * colours + colour) % len(MARKERS)]
    return Look(COLOURS[colour % len(COLOURS)], marker, DASHES[form % len(DASHES)])


PLAIN_LOOK: Final = Look("#000000", "None", (0, (6, 1.5, 1.5, 1.5)))
SCRATCH_LOOK: Final = Look(GREY, "None", (0, (3, 2)))
CHANCE_LOOK: Final = Look("#999999", "None", (0, (1, 1.5)))


def drawable(text: str) -> str:
    """Text that the font can draw, on one line; other characters become the replacement character."""
    known = get_font(findfont(FontProperties(family=FONT))).get_charmap()
    return "".join(char if ord(char) in known else "\N{REPLACEMENT CHARACTER}" for char in clipped(prose(text), 90))


def text_inches(text: str, points: float, *, bold: bool = False) -> float:
    """Width of one line of text as it is set, and a little more: hinting at low resolution widens letters."""
    return _HINTED * sum(_ems(char, bold) for char in text) * points / 72


_HINTED = 1.05


@functools.cache
def _ems(char: str, bold: bool) -> float:  # noqa: FBT001  cached calls are positional
    font = get_font(findfont(FontProperties(family=FONT, weight="bold" if bold else "normal")))
    font.set_size(1000, 72)
    return float(font.load_char(ord(char), LoadFlags.NO_HINTING).linearHoriAdvance) / 65536 / 1000


def wrapped(text: str, inches: float, points: float, *, bold: bool = False) -> str:
    """Lines that fit the width; a word that is wider than a line is cut, and `n = 3` is one word."""
    lines = [""]
    for word in re.sub(r"\bn = (?=\d)", "n\u00a0=\u00a0", text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if text_inches(longer, points, bold=bold) <= inches:
            lines[-1] = longer
            continue
        *full, last = _cut(word, inches, points, bold=bold)
        lines += [*full, last]
    return "\n".join(line.replace("\u00a0", " ") for line in lines if line)


def _cut(word: str, inches: float, points: float, *, bold: bool) -> list[str]:
    pieces = [""]
    for char in word:
        if text_inches(pieces[-1] + char, points, bold=bold) > inches and pieces[-1]:
            pieces.append("")
        pieces[-1] += char
    return pieces


def lines_inches(text: str, points: float) -> float:
    """Height of wrapped text."""
    return (text.count("\n") + 1) * points * LINE / 72 if text else 0.0


def natural_range(metric: str) -> tuple[float, float]:
    """Lowest and highest score that the metric can have."""
    return (-1.0 if metric.rpartition("/")[2] in {"matthews", "pearson", "spearman"} else 0.0), 1.0
