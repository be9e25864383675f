"""The paper's table: one row per number of preserved layers, one column per amount of data.

Law: every number of a table has its n: in its column's heading where all rows share it, in a note where some depart,
and beside the number where runs are missing.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from aggregate.curves import Curve, curves, main_variant, metric_name, same_task, size_key, size_words
from aggregate.summary import CellSummary
from aggregate.tables import NONE, Sheet, number


def paper_sheets(frame: pd.DataFrame) -> list[Sheet]:
    """A sheet for each task and variant of the progressive curves, probes beside the main variant."""
    found = [curve for curve in curves(frame) if curve.kind in {"progressive", "probe", "truncate"}]
    main = main_variant(found)
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in found:
        if curve.kind == "progressive":
            groups.setdefault((curve.setting.context, curve.variant), []).append(curve)
    sheets = []
    for (_, variant), group in groups.items():
        columns = sorted(group, key=lambda one: size_key(one.setting.size))
        if variant == main:
            columns += [one for one in found if one.kind != "progressive" and same_task(one, group[0])]
        sheets.append(_sheet(columns, found))
    return sheets


def _sheet(columns: Sequence[Curve], found: Iterable[Curve]) -> Sheet:
    first = columns[0]
    cells = [dict(curve.points) for curve in columns]
    depths = sorted({depth for column in cells for depth in column}, reverse=True)
    parts = [first.setting.task]
    parts += [first.setting.model] * (len({one.setting.model for one in found}) > 1)
    parts += [part for part in (first.setting.recipe, first.variant) if part]
    return Sheet(
        title=f"{', '.join(parts)}: {metric_name(first.setting.metric)} by preserved layers k and training examples",
        header=("k", *(f"{_heading(curve, columns)} (n = {_usual(curve.cells)})" for curve in columns)),
        rows=tuple((str(depth), *(_entry(column.get(depth)) for column in cells)) for depth in depths),
        numeric=frozenset(range(len(columns) + 1)),
        loud=frozenset(
            index
            for index, depth in enumerate(depths)
            if any(depth in column and column[depth].holes for column in cells)
        ),
        notes=_notes(columns),
    )


def _heading(curve: Curve, among: Iterable[Curve]) -> str:
    """`all`, `5,000`, `probe, all`; a probe's own words where there are several kinds."""
    kinds = {one.variant for one in among if one.kind == "probe"}
    probe = f"probe {curve.variant}, " if len(kinds) > 1 else "probe, "
    words = {"probe": probe, "truncate": "truncated, "}.get(curve.kind, "")
    return words + size_words(curve.setting.size).removesuffix(" examples")


def _usual(cells: Sequence[CellSummary]) -> int:
    """The commonest number of planned seeds; the smallest of equally common ones."""
    planned = [cell.planned for cell in cells]
    return min(planned, key=lambda n: (-planned.count(n), n))


def _entry(cell: CellSummary | None) -> str:
    """`0.924 ± 0.013`, with `(2 of 3)` where runs are missing."""
    if cell is None:
        return NONE
    score = cell.score
    text = number(score.mean)
    if score.mean is not None and score.high is not None:
        text += f" ± {number(score.high - score.mean)}"
    return f"{text} ({score.n} of {cell.planned})" if cell.holes else text


def _notes(columns: Sequence[Curve]) -> tuple[str, ...]:
    lines = ["Mean ± half the width of its 95% Student t interval over n seeds, given one validation set."]
    if any(cell.score.n == 1 for curve in columns for cell in curve.cells):
        lines.append("Where n = 1 there is no interval.")
    if any(curve.kind == "probe" for curve in columns):
        lines.append("For a probe k is its depth: the frozen layers below the classifier.")
    for curve in columns:
        if departing := _departing(curve):
            places = "; ".join(f"n = {n} at k = {', '.join(map(str, at))}" for n, at in departing.items())
            lines.append(f"{_heading(curve, columns)}: {places}.")
    missing = sum({cell.digest: cell.holes for curve in columns for cell in curve.cells}.values())
    if missing:
        lines.append(f"INCOMPLETE: planned runs without a score: {missing}; their rows say how many of how many.")
    return tuple(lines)


def _departing(curve: Curve) -> Mapping[int, list[int]]:
    """Depths whose planned seeds are not the usual number, by that number, from the deepest."""
    found: dict[int, list[int]] = {}
    for depth, cell in reversed(curve.points):
        if cell.planned != _usual(curve.cells):
            found.setdefault(cell.planned, []).append(depth)
    return found
