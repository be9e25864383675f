"""Curves: the cells of a setting that a figure or a table sets in a row, told by what they do to the layers.

Law: a function of the frame's fields. A curve is recognised by the layers that a whole family redraws, never by the
family's name, so that a block that happens to reach the top layer is no point of a curve that was never planned.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pandas as pd

from aggregate.frame import rows
from aggregate.summary import CellSummary, Setting, summarise
from jobs.cell import Probe

Kind = Literal["progressive", "truncate", "probe", "block", "inverse"]

FEWEST_DEPTHS: Final = 3
"""Fewer make no curve over depths."""

FEWEST_STARTS: Final = 2
"""Fewer blocks compare nothing."""

REDRAW_FIELDS: Final = ("init", "keep_layernorm", "lr_scale", "pooler", "frozen")


@dataclass(frozen=True)
class Curve:
    """Cells of one setting that differ in one number alone, ascending in it."""

    setting: Setting
    kind: Kind
    variant: str
    """What distinguishes it from the plain kind, in words; empty for the plain one."""
    width: int | None
    """Layers of a block: redrawn, or for `inverse` kept; None for curves over depths."""
    points: tuple[tuple[int, CellSummary], ...]
    """The number is that of preserved layers, kept layers, or the block's first layer."""
    fields: Mapping[str, Any]
    """Columns of the frame that every point has in common, taken from one that is not plain finetuning."""

    @property
    def cells(self) -> tuple[CellSummary, ...]:
        """The cells alone."""
        return tuple(cell for _, cell in self.points)


def curves(frame: pd.DataFrame) -> list[Curve]:
    """All curves of a frame, settings in its order, in each the order of `Kind`, then of the frame."""
    facts = {row["digest"]: row for row in rows(frame.drop_duplicates("digest"))}
    return [curve for setting in summarise(frame) for curve in of_setting(setting, facts)]


def of_setting(setting: Setting, facts: Mapping[str, Mapping[str, Any]]) -> list[Curve]:
    """The curves of one setting; `facts` has a row of the frame for each digest."""
    return [*_over_depths(setting, facts), *_blocks(setting, facts)]


# --------------------------------------------------------------------------------------------------------- over depths


def _over_depths(setting: Setting, facts: Mapping[str, Mapping[str, Any]]) -> list[Curve]:
    plain = [(setting.depth, cell) for cell in setting.cells if cell.is_plain]
    families = progressive_families(setting)
    listed = [cell for cell in setting.cells if not cell.is_plain and families.intersection(cell.families)]
    redrawn = [cell for cell in listed if facts[cell.digest]["redrawn"]]
    found = []
    for variant, cells in _grouped(redrawn, lambda cell: cell.variant).items():
        frozen = facts[cells[0].digest]["frozen"]
        # Where layers are frozen, finetuning without them ends the curve, as plain finetuning ends all others.
        ends = [(setting.depth, cell) for cell in listed if not facts[cell.digest]["redrawn"]
                and facts[cell.digest]["frozen"] == frozen]  # fmt: skip
        points = [(cell.preserved_layers or 0, cell) for cell in cells] + (ends or plain)
        found.append(_curve(setting, "progressive", variant, points, facts))
    kinds: tuple[Kind, ...] = ("truncate", "probe")
    for kind in kinds:
        of_kind = [cell for cell in setting.cells if cell.treatment_kind == kind]
        for words, cells in _grouped(of_kind, lambda cell: probe_words(facts[cell.digest])).items():
            points = [(facts[cell.digest]["kept_depth"], cell) for cell in cells]
            points += plain if kind == "truncate" else []
            if len(points) >= FEWEST_DEPTHS:
                found.append(_curve(setting, kind, words, points, facts))
    return found


def progressive_families(setting: Setting) -> set[str]:
    """Families of three depths and more, all of whose cells keep the layers below some depth and redraw the others."""
    kept: dict[str, set[int | None]] = {}
    for cell in setting.cells:
        for family in cell.families:
            kept.setdefault(family, set()).add(cell.preserved_layers)
    return {family for family, depths in kept.items() if None not in depths and len(depths) >= FEWEST_DEPTHS}


def probe_words(row: Mapping[str, Any]) -> str:
    """How a probe is fitted and what it sees; empty for a truncated network."""
    if row["treatment_kind"] != "probe":
        return ""
    default, words = Probe(depth=1), ["fitted to convergence" if row["fit"] == "converged" else "by the recipe"]
    if row["feature"] != default.feature:
        words.append({"cls": "on the first token", "mean": "on the mean of tokens"}[row["feature"]])
    words += ["scored after a reload"] * (row["scored"] == "released_reload")
    words += ["with dropout"] * bool(row["encoder_dropout"])
    return ", ".join(words)


# -------------------------------------------------------------------------------------------------------------- blocks


def _blocks(setting: Setting, facts: Mapping[str, Mapping[str, Any]]) -> list[Curve]:
    """Blocks and inverse blocks; a family is one or the other as a whole."""
    by_family: dict[str, list[CellSummary]] = {}
    for cell in setting.cells:
        for family in cell.families:
            by_family.setdefault(family, []).append(cell)
    passed = progressive_families(setting)
    found: dict[tuple[Kind, str, int], dict[int, CellSummary]] = {}
    for family, cells in by_family.items():
        if family in passed or any(cell.treatment_kind != "reinit" or cell.is_plain for cell in cells):
            continue
        kind, blocks = _as_blocks([facts[cell.digest]["redrawn"] for cell in cells], setting.depth)
        for cell, (start, width) in zip(cells, blocks, strict=False):  # no blocks, no curve
            found.setdefault((kind, cell.variant, width), {})[start] = cell
    return [
        _curve(setting, kind, variant, points.items(), facts, width)
        for (kind, variant, width), points in sorted(found.items(), key=lambda item: (item[0][0], item[0][2]))
        if len(points) >= FEWEST_STARTS
    ]


def _as_blocks(redrawn: list[tuple[int, ...]], depth: int) -> tuple[Kind, list[tuple[int, int]]]:
    """First layer and width of each cell's block, if all of them redraw a block, or all keep one; else none."""
    blocks = [block for layers in redrawn if (block := _block(layers))]
    if len(blocks) == len(redrawn) and all(width < depth for _, width in blocks):
        return "block", blocks
    rest = [tuple(layer for layer in range(depth) if layer not in layers) for layers in redrawn]
    kept = [block for layers in rest if (block := _block(layers))]
    return "inverse", kept if len(kept) == len(redrawn) else []


def _block(layers: tuple[int, ...]) -> tuple[int, int] | None:
    """First layer and number of consecutive layers; None where they are not, or there are none."""
    if not layers or layers != tuple(range(layers[0], layers[0] + len(layers))):
        return None
    return layers[0], len(layers)


# --------------------------------------------------------------------------------------------------------------- parts


def _curve(
    setting: Setting,
    kind: Kind,
    variant: str,
    points: Iterable[tuple[int, CellSummary]],
    facts: Mapping[str, Mapping[str, Any]],
    width: int | None = None,
) -> Curve:
    ordered = sorted(points, key=lambda point: point[0])
    first = next(cell for _, cell in ordered if not cell.is_plain)
    return Curve(setting, kind, variant, width, tuple(ordered), facts[first.digest])


def _grouped(cells: Iterable[CellSummary], key: Callable[[CellSummary], str]) -> dict[str, list[CellSummary]]:
    groups: dict[str, list[CellSummary]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def main_variant(found: Iterable[Curve]) -> str:
    """The variant that others are compared with: the plain one, else the first that the study lists."""
    variants = [curve.variant for curve in found if curve.kind == "progressive"]
    return "" if "" in variants else next(iter(variants), "")


def differing_fields(one: Curve, other: Curve) -> set[str]:
    """The fields of a redraw in which two curves differ."""
    return {field for field in REDRAW_FIELDS if one.fields[field] != other.fields[field]}


def same_task(one: Curve, other: Curve) -> bool:
    """Whether both are of one model and task, and differ in the recipe at most.

    Equal names with equal recipes in different contexts are different tasks or weights, so they are kept apart.
    """
    a, b = one.setting, other.setting
    named = (a.model, a.task, a.metric, a.depth) == (b.model, b.task, b.metric, b.depth)
    return named and (a.context == b.context or a.recipe != b.recipe)


def size_key(size: str) -> float:
    """Sorts sizes from the largest down: `full` first."""
    return -float("inf") if size == "full" else -float(size)


def size_words(size: str) -> str:
    """`all examples`, `5,000 examples`."""
    return "all examples" if size == "full" else f"{int(size):,} examples"


_SPOKEN: Final = {
    "accuracy": "accuracy",
    "matthews": "Matthews correlation",
    "f1": "F1",
    "f1_macro": "macro F1",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}


def metric_name(metric: str) -> str:
    """`validation/matthews` as a reader says it: `Matthews correlation (validation)`."""
    split, _, name = metric.partition("/")
    return f"{_SPOKEN.get(name, name)} ({split.replace('_', ' ')})"
