"""What the runs took: time on the clock and on GPUs, and money where a price is given, for each cell, table and in all.

Law: sums count every result there is. Those that a table is made of, diverged ones too, stand in one column; results
that were paid for and count for nothing, since another of the same run does or since they contradict each other, in
another. A hole costs nothing here, and what an attempt took that left no result is not known.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from aggregate.coverage import Extras
from aggregate.frame import rows
from aggregate.tables import NONE, Sheet, to_csv
from aggregate.text import counted
from jobs.price import Price

HOUR: Final = 3600.0
SCHEMA_VERSION: Final = 1
"""Of `cost.json`."""


@dataclass(frozen=True)
class Cost:
    """Of some results together."""

    runs: int = 0
    wall_seconds: float = 0.0
    """Sum over runs, from the pristine network to the last prediction; runs side by side count each."""
    gpu_seconds: float = 0.0
    """Wall seconds times GPUs, over the workers that shared them; 0 for runs on a CPU."""

    def __add__(self, other: "Cost") -> "Cost":
        """Both."""
        return Cost(
            self.runs + other.runs, self.wall_seconds + other.wall_seconds, self.gpu_seconds + other.gpu_seconds
        )

    @property
    def text(self) -> str:
        """`58 runs, 1.25 hours one after another, 0.42 GPU-hours` as a reader says it."""
        gpu = f", {self.gpu_seconds / HOUR:,.2f} GPU-hours" if self.gpu_seconds else ", no GPU"
        return f"{counted(self.runs, 'run')}, {self.wall_seconds / HOUR:,.2f} hours one after another{gpu}"


@dataclass
class Spent:
    """On one cell, on one table, or in all: what it is about, and both kinds of results."""

    about: dict[str, Any]
    """Fields of the frame that all of it has in common."""
    used: Cost = field(default_factory=Cost)
    """Results that count, of seeds outside of the plan too."""
    unused: Cost = field(default_factory=Cost)
    """Results that were paid for and do not: later ones of one run, and all that contradict each other."""
    steps: int | None = None
    """Optimiser steps of the longest run."""


@dataclass(frozen=True)
class Costs:
    """Everything that was spent."""

    cells: tuple[Spent, ...]
    """In the order of the frame, those alone that have a result."""
    tables: tuple[Spent, ...]
    """One for each model, task, size and recipe, likewise."""
    total: Spent
    failed_attempts: int
    """Attempts that left a failure in place of a result; what they took is not recorded."""
    price: Price | None

    def money(self, cost: Cost) -> float | None:
        """What it cost; None without a price."""
        return None if self.price is None else self.price.of(cost.gpu_seconds / HOUR)


_OF_TABLE: Final = ("model", "task", "size", "recipe")
_OF_CELL: Final = (*_OF_TABLE, "treatment", "digest")


def costs(frame: pd.DataFrame, extras: Extras, price: Price | None = None) -> Costs:
    """What the frame's runs took, and the results besides them."""
    cells: dict[str, Spent] = {}
    tables: dict[tuple[str, str], Spent] = {}
    total = Spent({})
    unused: dict[str, Cost] = {}
    for result in extras.spare:
        before = unused.get(result.digest, Cost())
        unused[result.digest] = before + Cost(1, result.wall_seconds, result.gpu_seconds)
    for run in rows(frame):
        cell = cells.get(run["digest"])
        table = tables.setdefault((run["context"], run["size"]), Spent({name: run[name] for name in _OF_TABLE}))
        if cell is None:
            cell = cells[run["digest"]] = Spent({name: run[name] for name in _OF_CELL})
            cell.unused = unused.get(run["digest"], Cost())
            table.unused, total.unused = table.unused + cell.unused, total.unused + cell.unused
        if run["wall_seconds"] is not None:
            paid = Cost(1, run["wall_seconds"], run["gpu_seconds"] or 0.0)
            cell.used, table.used, total.used = cell.used + paid, table.used + paid, total.used + paid
            cell.steps = max(cell.steps or 0, run["steps"] or 0)
    return Costs(_with_results(cells.values()), _with_results(tables.values()), total, extras.failed_attempts, price)


def _with_results(spent: Iterable[Spent]) -> tuple[Spent, ...]:
    return tuple(each for each in spent if each.used.runs or each.unused.runs)


def table_sheet(spent: Costs) -> Sheet:
    """A row for each table, with the sums, and a last one for all of them."""
    header = ["table", "model", "recipe", *_header(spent)]
    lines = []
    for each in spent.tables:
        what = f"{each.about['task']}, {each.about['size']}"
        lines.append((what, each.about["model"], each.about["recipe"] or NONE, *_numbers(each, spent)))
    lines.append(("all", NONE, NONE, *_numbers(spent.total, spent)))
    lost = counted(spent.failed_attempts, "attempt")
    failed = [f"{lost} left a failure and no result; what such an attempt took is not recorded."]
    return Sheet(
        title="Cost of each table",
        header=tuple(header),
        rows=tuple(lines),
        numeric=frozenset(range(3, len(header))),
        notes=(*_notes(spent), *(failed if spent.failed_attempts else [])),
    )


def cell_sheet(spent: Costs) -> Sheet:
    """A row per cell that has a result, in the order of the frame, with the mean time of a run and the sums."""
    header = ["task", "size", "treatment", "cell", "steps", "seconds a run", *_header(spent)]
    lines = []
    for each in spent.cells:
        about, used = each.about, each.used
        which = (about["task"], about["size"], about["treatment"], about["digest"][:8])
        mean = f"{used.wall_seconds / used.runs:,.1f}" if used.runs else NONE
        lines.append((*which, NONE if each.steps is None else f"{each.steps:,}", mean, *_numbers(each, spent)))
    return Sheet(
        title="Cost and time",
        header=tuple(header),
        rows=tuple(lines),
        numeric=frozenset(range(4, len(header))),
        notes=(f"Together: {spent.total.used.text}.", *_notes(spent)),
    )


def _header(spent: Costs) -> list[str]:
    """Columns that both sheets have; those of what does not count and of money where there is any."""
    names = ["runs", "hours", "GPU-hours"]
    names += [spent.price.currency] if spent.price else []
    return names + (["unused runs", "unused hours", "unused GPU-hours"] if spent.total.unused.runs else [])


def _numbers(each: Spent, spent: Costs) -> list[str]:
    cells = _three(each.used)
    money = spent.money(each.used + each.unused)
    cells += [] if money is None else [f"{money:,.2f}"]
    return cells + (_three(each.unused) if spent.total.unused.runs else [])


def _three(cost: Cost) -> list[str]:
    gpu = f"{cost.gpu_seconds / HOUR:,.3f}" if cost.gpu_seconds else NONE
    return [f"{cost.runs:,}", f"{cost.wall_seconds / HOUR:,.3f}", gpu]


def _notes(spent: Costs) -> list[str]:
    lines = ["From the pristine network to the last prediction; loading libraries, weights and rows is not counted."]
    if spent.total.unused.runs:
        lines.append(
            f"Unused: {spent.total.unused.text}, of results that count for nothing, since another of the same run does "
            "or since they contradict each other."
        )
    if spent.price is not None:
        lines.append(f"Money: GPU-hours, unused ones too, at {spent.price.text} each.")
    return lines


# -------------------------------------------------------------------------------------------------------------- files


def records(spent: Costs) -> list[dict[str, object]]:
    """Flat, in full precision: a record per cell, then one per table, then one of all; `level` says which."""
    levels: Sequence[tuple[str, Sequence[Spent]]] = (
        ("cell", spent.cells), ("table", spent.tables), ("all", [spent.total]),
    )  # fmt: skip
    return [{"level": level, **_record(each, spent)} for level, several in levels for each in several]


def _record(each: Spent, spent: Costs) -> dict[str, object]:
    money = spent.money(each.used + each.unused)
    return {
        **{name: each.about.get(name) for name in _OF_CELL},
        "steps": each.steps,
        "runs": each.used.runs,
        "hours": each.used.wall_seconds / HOUR,
        "gpu_hours": each.used.gpu_seconds / HOUR,
        "unused_runs": each.unused.runs,
        "unused_hours": each.unused.wall_seconds / HOUR,
        "unused_gpu_hours": each.unused.gpu_seconds / HOUR,
        "cost": money,
        "currency": spent.price.currency if spent.price else None,
    }


def cost_csv(spent: Costs) -> str:
    """`records` as CSV."""
    return to_csv(records(spent))


def cost_json(spent: Costs) -> str:
    """The same for programs, with the price and the number of attempts that failed."""
    price = None if spent.price is None else {"gpu_hour": spent.price.amount, "currency": spent.price.currency}
    content = {
        "schema_version": SCHEMA_VERSION,
        "price": price,
        "failed_attempts": spent.failed_attempts,
        "costs": records(spent),
    }
    return json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
