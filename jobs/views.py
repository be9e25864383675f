"""What the commands of `reinit` print: tables for people, JSON for programs.

Law: nothing here computes. Names and reasons are somebody's text, so they are escaped before they meet markup.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.table import Table

from jobs.finding import printable
from jobs.plan import Plan, PlannedCell
from jobs.shown import visible
from jobs.study import Study

if TYPE_CHECKING:
    from jobs.compaction import Compacted
    from jobs.found import Damaged, Found
    from jobs.lint import Report
    from jobs.reproduce import Command, Comparison
    from jobs.result import DivergedRun, RunResult
    from jobs.upload import Sent

# Piped output is read by programs and logs, which need no line breaks of ours.
console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 200)
errors = Console(stderr=True, highlight=False, emoji=False)
BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())


def escape(text: str) -> str:
    """Foreign text between markup: shown as it is, whatever a terminal or Rich would make of it, on one line."""
    return escape_markup(visible(text))


def escape_lines(text: str) -> str:
    """The same for a text whose lines are ours, such as an error's."""
    return escape_markup(visible(text, keep="\n"))


def plain_table(*columns: str) -> Table:
    """A table without lines; numbers are on the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", no_wrap=True)
    return table


_NUMBERS = {"cells", "runs", "steps", "seeds", "done", "layers"}


Columns = Mapping[str, Callable[[Sequence[PlannedCell]], str]]
"""Further columns of numbers: for each name the text for some cells."""


def plan_table(study: Study, planned: Plan, found: Mapping[str, Found] | None, more: Columns) -> Table:
    """A line for each family, task and size."""
    table = _numbered(["family", "task", "size", "cells", "runs", "steps"], found, more)
    table.title, table.title_justify = f"{study.name}: {escape(study.title)}", "left"
    for (family, task, size), group in _groups(planned).items():
        runs = sum(len(each.seeds) for each in group)
        steps = sum(len(each.seeds) * each.cell.steps for each in group)
        row = [escape(family), task, size, f"{len(group):,}", f"{runs:,}", f"{steps:,}"]
        if found is not None:
            row.append(f"{sum(_done(each, found) for each in group):,}")
        table.add_row(*row, *(text(group) for text in more.values()))
    return table


def plan_notes(planned: Plan) -> str:
    """Why there are fewer cells than the families list, and more runs."""
    notes = []
    if shared := planned.shared_cells:
        notes.append(f"{shared:,} cells that families share run once")
    if added := planned.added_runs:
        without = planned.runs - added
        notes.append(f"{added:,} runs give baselines every seed of the cells beside them ({without:,} without)")
    return "; ".join(notes)


def _groups(planned: Plan) -> dict[tuple[str, str, str], list[PlannedCell]]:
    """Cells by family, task and size; a cell that families share counts once, with those that share it."""
    groups: dict[tuple[str, str, str], list[PlannedCell]] = {}
    for each in planned:
        key = (" + ".join(each.families), each.cell.task.name, str(each.cell.size))
        groups.setdefault(key, []).append(each)
    return groups


def _numbered(columns: Sequence[str], found: Mapping[str, Found] | None, more: Columns) -> Table:
    table = plain_table(*columns, *(["done"] if found is not None else []))
    for column in more:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def cell_table(planned: Plan, found: Mapping[str, Found] | None, more: Columns) -> Table:
    """A line for each cell."""
    table = _numbered(["cell", "family", "seeds", "steps"], found, more)
    for each in planned:
        row = [each.cell.name, escape(" + ".join(each.families)), f"{len(each.seeds):,}", f"{each.cell.steps:,}"]
        if found is not None:
            row.append(f"{_done(each, found):,}")
        table.add_row(*row, *(text([each]) for text in more.values()))
    return table


def _done(each: PlannedCell, found: Mapping[str, Found]) -> int:
    return len(set(each.seeds) & set(found[each.cell.digest].done))


def plan_json(study: Study, planned: Plan, found: Mapping[str, Found] | None) -> dict[str, Any]:
    """The plan for programs."""
    return {
        "study": study.name,
        "cells": [
            {
                "name": each.cell.name,
                "digest": each.cell.digest,
                "families": each.families,
                "seeds": each.seeds,
                "steps": each.cell.steps,
                **({} if found is None else {"done": sorted(set(each.seeds) & set(found[each.cell.digest].done))}),
                "cell": each.cell.model_dump(mode="json"),
            }
            for each in planned
        ],
        "runs": planned.runs,
        "shared_cells": planned.shared_cells,
        "added_runs": planned.added_runs,
        "finetunes": planned.finetunes,
        "finetune_steps": planned.finetune_steps,
    }


_ALIKE = 3
"""Findings of one rule on one field that are shown in full."""


def show_findings(report: Report, version: str) -> None:
    """What lint found, and of many alike the first few."""
    alike: dict[tuple[str, str], int] = {}
    for each in report.findings:
        key = (each.rule, each.field)
        alike[key] = alike.get(key, 0) + 1
        if alike[key] <= _ALIKE:
            first, *rest = str(each).splitlines()
            console.print(escape(first), style="bold red" if each.level == "refused" else "bold yellow", soft_wrap=True)
            console.print(escape_lines("\n".join(rest)), soft_wrap=True)
    for (rule, field), times in alike.items():
        if times > _ALIKE:
            console.print(escape(f"and {times - _ALIKE:,} more of [{rule}] at {field}"), soft_wrap=True)
    console.print(_lint_summary(report, version), soft_wrap=True)


def _lint_summary(report: Report, version: str) -> str:
    levels = Counter(each.level.value for each in report.findings)
    kinds = ", ".join(f"{times} {kind}" for kind, times in sorted(report.skipped.items()))
    skipped = f"; not looked at: {kinds}" if kinds else ""
    counts = f"{levels['refused']:,} refused, {levels['warning']:,} warnings"
    return escape(f"{report.jobs:,} Jobs against Kubernetes {version}: {counts}{skipped}")


def lint_json(report: Report, version: str) -> dict[str, Any]:
    """What lint found, for programs."""
    return {
        "kubernetes": version,
        "jobs": report.jobs,
        "skipped": dict(sorted(report.skipped.items())),
        "findings": [each.as_dict() for each in report.findings],
    }


def show_checks(checks: Sequence[Any]) -> None:
    """What `reinit doctor` looked at."""
    table = plain_table("", "what", "found")
    for check in checks:
        mark = "[red]no[/red]" if check.exit_code else "[green]ok[/green]"
        table.add_row(mark, escape(check.what), escape(check.found))
    for column in table.columns:
        column.no_wrap = False
    console.print(table)


def show_command(found: RunResult | DivergedRun, made: Command) -> None:
    """For people: what is made again, and how; lines to paste are printed whole."""
    score = f"{found.cell.task.headline} {found.score!r}" if found.status == "done" else "diverged"
    console.print(f"[bold]{escape(found.cell.name)}[/bold] seed {found.seed}: {escape(score)}")
    provenance = found.provenance
    console.print(
        escape(f"made with commit {provenance.git_commit} on {provenance.device}, numerics {provenance.numerics}")
    )
    if provenance.git_commit.endswith("+dirty"):
        console.print(
            "the code had uncommitted changes, so the commit alone may not give the same bits", style="yellow"
        )
    for name, (then, now) in made.differences.items():
        console.print(escape(f"{name} was {then}, here it is {now}"), style="yellow")
    if not made.code:
        console.print("which commit made it is not known", style="yellow")
    for line in filter(None, (made.code, "mkdir -p again", made.run)):
        print(line)  # noqa: T201  to paste: no console, no wrapping


def show_comparison(comparison: Comparison) -> None:
    """Scores before and again, and what else differs."""
    table = plain_table("measured", "before", "again")
    for name, (before, after) in comparison.scores.items():
        table.add_row(*map(escape, (name, before, after)))
    console.print(table)
    if comparison.is_equal:
        console.print("equal, bit by bit", style="green")
        return
    if comparison.is_one_version:
        console.print("NOT EQUAL, although both are of one numerics version: one of the two is wrong", style="bold red")
        return
    console.print("not equal; they are of different numerics versions:", style="yellow")
    for name, (before, after) in comparison.moved.items():
        console.print(escape(f"  {name}: {before} before, {after} now"))


def warn(found: Mapping[str, Found], strays: Iterable[Damaged] = (), passed_over: Iterable[Damaged] = ()) -> None:
    """What the store holds that no table will be made of, while there is still time to look."""
    for each in found.values():
        for contradiction in each.contradictions:
            keys = ", ".join(contradiction.keys)
            errors.print(f"[yellow]two results of one run disagree:[/yellow] {escape(keys)}", soft_wrap=True)
    for damaged in chain(chain.from_iterable(each.damaged for each in found.values()), strays):
        text = escape(printable(f"{damaged.key}: {damaged.reason}"))
        errors.print(f"[yellow]not a result, so not counted:[/yellow] {text}", soft_wrap=True)
    for damaged in passed_over:
        text = escape(printable(f"{damaged.key}: {damaged.reason}"))
        errors.print(f"[yellow]not a snapshot, so passed over:[/yellow] {text}", soft_wrap=True)


def show_compacted(compacted: Compacted) -> None:
    """What a compaction came to, and what it could not use."""
    warn({}, compacted.damaged, compacted.passed_over)
    console.print(
        f"{compacted.results:,} results in snapshots, {compacted.packed:,} of them new; "
        f"{len(compacted.written)} snapshots written, {len(compacted.removed)} removed"
    )


def show_sent(sent: Sent) -> None:
    """A line for each result that went from a folder to a store, and for each that did not."""
    for result in sent.sent:
        console.print(f"sent {escape(result.cell.name)} seed {result.seed}", soft_wrap=True)
    for damaged in sent.refused:
        text = escape(printable(f"{damaged.key}: {damaged.reason}"))
        errors.print(f"[yellow]not a result, so not sent:[/yellow] {text}", soft_wrap=True)


def print_json(value: object) -> None:
    """For programs: no wrapping, no markup."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
