"""Figures: the paper's, and one of layers by tasks and amounts of data.

Law: a figure is a function of the frame down to its bytes: no time stamps, no global state of the plotting library. It
is drawn where the study has its cells and nowhere else, and says in its caption what its bars cover, what n is, and
what is not there.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, get_args

import pandas as pd

from aggregate.figures.depths import layernorm, learning_rate, progressive
from aggregate.figures.drawing import Drawing, Material, Name, material
from aggregate.figures.files import KINDS, FileKind, Rendered, render, to_bytes, to_svg
from aggregate.figures.heatmap import heatmap
from aggregate.figures.layers import blocks, single_layers
from aggregate.figures.page import styled
from aggregate.figures.permutations import permutations
from aggregate.figures.seeds import seeds
from aggregate.reference import Authors

__all__ = [
    "KINDS",
    "NAMES",
    "Drawing",
    "FileKind",
    "Name",
    "Rendered",
    "draw_all",
    "drawn",
    "render",
    "to_bytes",
    "to_svg",
]

NAMES: Final[tuple[Name, ...]] = get_args(Name)
"""In the order in which a report shows them; they are file names too."""

_DRAW: Final[Mapping[Name, Callable[[Material], Drawing | None]]] = {
    "progressive": progressive,
    "blocks": blocks,
    "permutations": permutations,
    "seeds": seeds,
    "single-layers": single_layers,
    "learning-rate": learning_rate,
    "layernorm": layernorm,
    "heatmap": heatmap,
}


def draw_all(frame: pd.DataFrame, *, title: str = "", reference: Authors | None = None) -> dict[Name, Drawing]:
    """Every figure of `drawn` together, by its name."""
    return {drawing.name: drawing for drawing in drawn(frame, title=title, reference=reference)}


def drawn(frame: pd.DataFrame, *, title: str = "", reference: Authors | None = None) -> Iterator[Drawing]:
    """Every figure that the frame has the cells of, in the order of `NAMES`, each when it is asked for.

    A figure of hundreds of panels takes hundreds of megabytes: whoever is done with one lets go of it.

    Args:
        frame: of one study.
        title: the study's, set under each figure's own.
        reference: values to draw beside the study's, where they belong.
    """
    made = material(frame, title=title, authors=reference)
    for name in NAMES:
        with styled():
            drawing = _DRAW[name](made)
        if drawing is not None:
            yield drawing
