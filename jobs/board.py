"""What people see of a cluster: tables and lines of `Status`, of submissions and of Jobs.

Law: nothing is decided here, and no text of a pod or a server is taken for markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.kube import Submitted
from jobs.manifest import PREFIX
from jobs.state import ACTIVE
from jobs.status import Observed, RowState, Status, label

COLOURS: Final[dict[RowState, str]] = {
    "done": "green",
    "running": "cyan",
    "failed": "bold red",
    "refused": "bold red",
    "pending": "yellow",
    "retrying": "yellow",
    "disrupted": "yellow",
}

MOST_LINES: Final = 10


def age(since: datetime | None, now: datetime) -> str:
    """How long ago, in the largest whole unit."""
    if since is None:
        return ""
    seconds = max(0, int((now - since).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def status_line(status: Status) -> str:
    """One line: runs done, cells by state."""
    done, runs = status.runs
    states = ", ".join(f"{count:,} {state}" for state, count in status.counts.items())
    return f"{status.study}: {done:,} of {runs:,} runs done; cells: {states}"


def board(status: Status, now: datetime, *, everything: bool = False) -> Group:
    """The cells to look at (all of them with `everything`), then the sums."""
    done, runs = status.runs
    rows = [row for row in status.rows if everything or row.state != "done"]
    table = _columns("cell", "runs", "state", "since", "why")
    for row in rows:
        why = Text(row.reason)
        if row.remedy:
            why.append(f"\n-> {row.remedy}", style="dim")
        diverged = f" ({row.diverged} diverged)" if row.diverged else ""
        state = Text(row.state, style=COLOURS.get(row.state, ""))
        table.add_row(Text(row.cell), f"{row.done}/{row.runs}{diverged}", state, age(row.since, now), why)
    parts: list[Any] = [table] if rows else []
    shown = [each for each in status.stale if each.state in ACTIVE or everything]
    if shown:
        stale = _columns("stale Job", "state", "why")
        for each in shown:
            stale.add_row(Text(each.job), Text(each.state), Text(each.reason))
        parts.append(stale)
    bar = ProgressBar(total=runs, completed=done, width=40)
    return Group(*parts, bar, Text(status_line(status), style="bold"))


def status_json(status: Status) -> dict[str, Any]:
    """The same for programs: every cell, whatever its state."""
    rows = [asdict(row) | {"since": row.since.isoformat() if row.since else None} for row in status.rows]
    done, runs = status.runs
    stale = [asdict(each) for each in status.stale]
    return {
        "study": status.study,
        "done": done,
        "runs": runs,
        "states": status.counts,
        "cells": rows,
        "stale": stale,
    }


def jobs_table(observed: Observed, names: Sequence[str]) -> Table:
    """Jobs by name, with what they are at."""
    table = _columns("Job", "cell", "state", "why")
    for name in names:
        state, thing = observed.state(name), observed.jobs[name]
        cell = "-".join(label(thing, f"{PREFIX}/{part}") for part in ("task", "size", "treatment"))
        table.add_row(Text(name), Text(cell), Text(state.state), Text(state.reason))
    return table


def submitted_lines(submitted: Iterable[Submitted], *, dry_run: bool) -> list[str]:
    """Sums by outcome, then what was left alone and why, then the server's warnings, each once."""
    all_of_them = list(submitted)
    counts = Counter(each.outcome for each in all_of_them)
    words = {
        "created": "would be created" if dry_run else "created",
        "recreated": "would be deleted and created again" if dry_run else "deleted and created again",
        "done": "already done",
        "active": "already at work",
        "failed": "failed before and left alone",
        "complete": "complete without all results and left alone",
    }
    lines = [f"{count:,} {words[outcome]}" for outcome, count in counts.items()]
    notes = [f"  {each.cell}: {each.note}" for each in all_of_them if each.note and each.outcome != "done"]
    warnings = Counter(warning for each in all_of_them for warning in each.warnings)
    lines += notes[:MOST_LINES]
    if len(notes) > MOST_LINES:
        lines.append(f"  ... and {len(notes) - MOST_LINES} more")
    return lines + [f"the server warns, of {count} Jobs: {warning}" for warning, count in warnings.items()]


def _columns(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=name != "why", overflow="fold")
    return table
