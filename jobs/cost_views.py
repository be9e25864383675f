"""What `reinit plan` prints of an estimate: lines for people, JSON for programs.

Law: nothing here computes. Money stands only where a price was given, and for GPUs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from jobs.cost import HOUR, CellEstimate, Estimate, summed
from jobs.plan import PlannedCell
from jobs.price import Price, rounded
from jobs.throughput import ZERO, Range
from jobs.views import escape

MOST_EVIDENCE: Final = 6
"""Lines that say by what runs are estimated."""

UNKNOWN: Final = "?"
"""Where nothing was measured."""


def group_hours(estimate: Estimate, *, left: bool) -> dict[str, Callable[[Sequence[PlannedCell]], str]]:
    """Columns for a group of cells: hours in two digits, and with `left` of what is left.

    `?` where nothing was measured of any cell, `>` before the sum of the others where of some.
    """
    by_digest = {each.planned.cell.digest: each for each in estimate.cells}

    def column(of: Callable[[CellEstimate], Range]) -> Callable[[Sequence[PlannedCell]], str]:
        def text(group: Sequence[PlannedCell]) -> str:
            cells = [by_digest[each.cell.digest] for each in group]
            known = [each for each in cells if each.rate is not None]
            more = "> " if len(known) < len(cells) else ""
            return f"{more}{rounded(summed(map(of, known)).typical / HOUR)}" if known else UNKNOWN

        return text

    name = "GPU-hours" if estimate.is_gpu else "hours"
    columns = {name: column(lambda each: each.total)}
    return columns | ({"left": column(lambda each: each.remaining)} if left else {})


def estimate_lines(estimate: Estimate, price: Price | None, study: str) -> list[str]:
    """The sums, by what they are estimated, and what is not in them; markup for Rich."""
    lines = []
    if estimate.device is not None and len(estimate.unknown) < len(estimate.cells):
        lines += [f"[bold]about {_spoken(estimate.total, estimate.unit)} on one {escape(estimate.device)}[/bold]"]
        lines[0] += _left(estimate)
        if price is not None and estimate.is_gpu:
            lines.append(f"[bold]about {_money(estimate.total, price)}[/bold] at {price.text} a GPU-hour")
            if estimate.remaining not in (estimate.total, ZERO):
                lines[-1] += f"; {_money(estimate.remaining, price)} for what is left"
        elif price is not None:
            lines.append("no money: what was measured is a CPU, and the price is a GPU's")
        shown = estimate.evidence[:MOST_EVIDENCE]
        lines += [f"  {escape(each)}" for each in shown]
        if more := len(estimate.evidence) - len(shown):
            lines.append(f"  and {more:,} more such lines, in --output json")
        lines += [f"  {escape(each)}" for each in estimate.meaning]
        lines.append("  without what results do not hold: starts of processes, attempts that fail, GPUs that wait")
    if estimate.unknown:
        lines += _unmeasured(estimate, study)
    return lines


def _left(estimate: Estimate) -> str:
    runs = sum(each.left for each in estimate.cells)
    if runs in (0, sum(len(each.planned.seeds) for each in estimate.cells)):
        return "" if runs else "; nothing is left"
    return f"; {_spoken(estimate.remaining, estimate.unit)} for the {runs:,} runs that are left"


def _unmeasured(estimate: Estimate, study: str) -> list[str]:
    runs = sum(len(each.planned.seeds) for each in estimate.unknown)
    first = estimate.unknown[0].planned.cell
    where = f" on one {estimate.device}" if estimate.device else ""
    what = f"{runs:,} runs have no estimate: no {first.model.name} in {first.recipe.precision} was measured{where}"
    known = f"measured are {', '.join(estimate.measured_devices)}"
    todo = (
        f"to have one, run one cell there: reinit run {study} --only {first.name} --store URL, then plan with --store"
    )
    return [f"[yellow]{escape(what)}[/yellow]", f"  {escape(known)}", f"  {escape(todo)}"]


def _spoken(seconds: Range, unit: str) -> str:
    low, typical, high = (rounded(each / HOUR) for each in (seconds.low, seconds.typical, seconds.high))
    return f"{typical} {unit} ({low} to {high})"


def _money(seconds: Range, price: Price) -> str:
    low, typical, high = (rounded(price.of(each / HOUR)) for each in (seconds.low, seconds.typical, seconds.high))
    return f"{typical} {price.currency} ({low} to {high})"


def estimate_json(estimate: Estimate, price: Price | None) -> dict[str, Any]:
    """All of it, not rounded; hours as `low`, `typical` and `high`."""
    groups: dict[tuple[tuple[str, ...], str, str], list[CellEstimate]] = {}
    for each in estimate.cells:
        cell = each.planned.cell
        groups.setdefault((each.planned.families, cell.task.name, str(cell.size)), []).append(each)
    return {
        "device": estimate.device,
        "is_gpu": estimate.is_gpu,
        "unit": estimate.unit,
        "price": None if price is None else {"gpu_hour": price.amount, "currency": price.currency},
        **_sums(estimate, estimate.cells, price),
        "groups": [
            {"families": families, "task": task, "size": size, **_sums(estimate, cells, price)}
            for (families, task, size), cells in groups.items()
        ],
        "cells": {each.planned.cell.digest: _sums(estimate, [each], price) for each in estimate.cells},
        "evidence": list(estimate.evidence),
        "meaning": list(estimate.meaning),
        "measured_devices": list(estimate.measured_devices),
    }


def _sums(estimate: Estimate, cells: Iterable[CellEstimate], price: Price | None) -> dict[str, Any]:
    several = list(cells)
    total, remaining = summed(each.total for each in several), summed(each.remaining for each in several)
    without = sum(len(each.planned.seeds) for each in several if each.rate is None)
    sums: dict[str, Any] = {
        "runs": sum(len(each.planned.seeds) for each in several),
        "runs_left": sum(each.left for each in several),
        "runs_without_estimate": without,
        "hours": _three(total, 1 / HOUR),
        "hours_left": _three(remaining, 1 / HOUR),
    }
    if price is not None and estimate.is_gpu:
        sums |= {"cost": _three(total, price.amount / HOUR), "cost_left": _three(remaining, price.amount / HOUR)}
    return sums


def _three(seconds: Range, factor: float) -> dict[str, float]:
    return {"low": seconds.low * factor, "typical": seconds.typical * factor, "high": seconds.high * factor}
