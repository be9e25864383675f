"""The table of docs/reliability.md, of the figures that the torture tests recorded.

Law: the rows are the test modules and nothing else; a row without a figure says so. A row that was not measured this
time keeps what it said, with the day, commit and machine of that time.

    python -m tests.torture.table [--write | --check]    prints the table; puts it into the page; compares the rows
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
FIGURES: Final = Path(os.environ.get("REINIT_FIGURES", "out/torture")) / "figures.jsonl"
HEAD: Final = "| row | figure | target | command | measured |\n|---|---|---|---|---|\n"
NOT_RUN: Final = "not run"

TARGETS: Final = {
    "test_kills": "at least 200 kills over at least 100 runs: every run exactly once, all equal to an unkilled study's",
    "test_stages": "SIGTERM at every stage: an end in grace (143 after progress, else 75), resumed to equal bits",
    "test_resume": "killed in mid-training, 1 and 2 ranks, fp32 and bf16: bit-equal metrics and predictions",
    "test_damaged_checkpoints": "each damage detected, none executed, the older one used, resumed bit-equal",
    "test_store_faults": "a server that dies and a proxy that errs: nothing lost, nothing doubled",
    "test_refusals": "a clear error and exit code; finished work kept, and uploaded later",
    "test_duplicates": "several pods on one run: one result, or a conflict that is shown and never averaged",
    "test_controller": "random schedules of a Job controller: every run exactly once",
    "test_foreign_objects": "at least 30 kinds: each named, none in a table",
    "test_fast_reading": "altered results and snapshots: read quickly, what is believed and named is as read plainly",
    "test_malformed": "at least 10,000 files: no traceback, no hang, no growth of memory",
    "test_mutants": "survivors listed, each with its reason",
    "test_scale": "10,000 cells on 2 cores: memory bounded, times printed",
}
"""What each row must show, in the order of the table."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    figure: str
    target: str
    measured: str

    def __str__(self) -> str:
        command = f"`make torture ARGS=tests/torture/{self.name}.py`"
        return f"| {self.name} | {self.figure} | {self.target} | {command} | {self.measured} |\n"


def table(page: str, lines: list[str]) -> str:
    """The table, of the page as it is and the recorded lines."""
    before = {row.name: row for row in rows_of(page)}
    rows = {name: before.get(name, Row(name, NOT_RUN, target, "")) for name, target in TARGETS.items()}
    fresh: dict[str, Row] = {}
    for line in lines:
        read = {key: value.replace("|", "/").replace("\n", " ") for key, value in json.loads(line).items()}
        new = Row(read["row"], read["figure"], read["target"], read["measured"])
        if new.name not in TARGETS:
            raise SystemExit(f"a figure of an unknown row: {new.name}")
        if was := fresh.get(new.name):
            measured = "; ".join(dict.fromkeys([*was.measured.split("; "), new.measured]))
            new = replace(new, figure=f"{was.figure}; {new.figure}", measured=measured)
        fresh[new.name] = new
    return HEAD + "".join(map(str, (rows | fresh).values()))


def rows_of(page: str) -> list[Row]:
    """The rows that a page has."""
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| test_")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [Row(name, figure, target, at) for name, figure, target, _, at in cells]


def problems(page: str) -> list[str]:
    """Where the page's table is not that of the tests."""
    there = [path.stem for path in Path(__file__).parent.glob("test_*.py")]
    found = [f"tests/torture/{name}.py has no row" for name in there if name not in TARGETS]
    names = [row.name for row in rows_of(page)]
    if names != list(TARGETS):
        found.append(f"the rows are {names}, the tests' are {list(TARGETS)}")
    found += [f"{row.name} has a figure and no test" for row in rows_of(page) if row.measured and row.name not in there]
    if table(page, []) not in page:
        found.append("the table is not as it is generated: python -m tests.torture.table --write")
    return found


def main(arguments: list[str]) -> int:
    """Print the table, or write or check the page."""
    page = PAGE.read_text(encoding="utf-8")
    if arguments == ["--check"]:
        found = problems(page)
        print("\n".join(found) or "the table has the tests' rows")  # noqa: T201
        return bool(found)
    new = table(page, FIGURES.read_text(encoding="utf-8").splitlines() if FIGURES.exists() else [])
    if arguments == ["--write"]:
        start = page.index(HEAD)
        end = start + sum(len(line) for line in _table_lines(page[start:]))
        PAGE.write_text(page[:start] + new + page[end:], encoding="utf-8")
        return 0
    print(new)  # noqa: T201
    return 0


def _table_lines(text: str) -> list[str]:
    lines = text.splitlines(keepends=True)
    return lines[: next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
