"""A drawing: a figure with its name, caption and text alternative, and the material that all drawings are made of.

Law: material is a function of the frame; it is made once, and every figure reads it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aggregate.curves import Curve, main_variant, of_setting
from aggregate.figures.page import Margins, Words, lay_out
from aggregate.frame import rows
from aggregate.reference import Authors
from aggregate.summary import CellSummary, Setting, summarise

Name = Literal[
    "progressive", "blocks", "permutations", "seeds", "single-layers", "learning-rate", "layernorm", "heatmap"
]


@dataclass(frozen=True)
class Drawing:
    """A figure and what stands for it where it cannot be seen."""

    name: Name
    title: str
    caption: str
    """What is drawn, what intervals cover, n, and every hole; plain text, also part of the figure."""
    alt: str
    """The figure in words, with its main numbers; plain text."""
    figure: Figure


@dataclass(frozen=True)
class Material:
    """What figures are made of."""

    settings: tuple[Setting, ...]
    facts: Mapping[str, Mapping[str, Any]]
    """A row of the frame for each digest: the fields of its cell."""
    scores: Mapping[str, Mapping[int, float]]
    """Scores by seed for each digest, of planned runs that have one."""
    study: str
    """The study's title."""
    authors: Authors | None = None

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """All curves, settings in the frame's order."""
        return tuple(curve for setting in self.settings for curve in of_setting(setting, self.facts))

    @property
    def main(self) -> str:
        """The variant that others are compared with."""
        return main_variant(self.curves)

    def scratch(self, setting: Setting) -> CellSummary | None:
        """The cell that redraws every layer: as the main variant does, else as the first that does."""
        whole = [cell for cell in setting.cells if cell.preserved_layers == 0]
        return next((cell for cell in whole if cell.variant == self.main), next(iter(whole), None))

    def panel_title(self, setting: Setting, among: Iterable[Setting], *more: str) -> str:
        """The task, and whatever else differs between the panels of one figure."""
        others = list(among)
        parts = [setting.task]
        parts += [setting.model] * (len({one.model for one in others}) > 1)
        parts += [setting.recipe or "the paper's recipe"] * (len({one.recipe for one in others}) > 1)
        return ", ".join(part for part in (*parts, *more) if part)

    def draw(
        self,
        name: Name,
        title: str,
        titles: Sequence[str],
        handles: Sequence[Artist],
        *,
        caption: str,
        alt: str,
        **shape: float | Sequence[float] | Margins,
    ) -> tuple[Drawing, list[Axes]]:
        """The page with its axes still empty, panels titled."""
        figure, axes = lay_out(titles, Words(title, self.study, caption), handles, **shape)  # type: ignore[arg-type]
        return Drawing(name, title, caption, alt, figure), axes


def plain_cell(setting: Setting) -> CellSummary | None:
    """Plain finetuning of a setting."""
    return next((cell for cell in setting.cells if cell.is_plain), None)


def material(frame: pd.DataFrame, *, title: str, authors: Authors | None) -> Material:
    """Everything that figures need of a frame."""
    scores: dict[str, dict[int, float]] = {}
    done = frame[frame["planned"] & (frame["status"] == "done")]
    for digest, seed, score in zip(done["digest"], done["seed"], done["score"], strict=True):
        scores.setdefault(digest, {})[int(seed)] = float(score)
    facts = {row["digest"]: row for row in rows(frame.drop_duplicates("digest"))}
    return Material(tuple(summarise(frame)), facts, scores, title, authors)
