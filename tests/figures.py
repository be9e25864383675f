"""The size of a torture test, and the figure that it leaves behind.

Law: a figure is what this run counted, never a wish: it is recorded after the test's last assertion, one JSON line with
the commit and machine that it was counted on. `tests/torture/table.py` makes the table of docs/reliability.md of them.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SHORT = os.environ.get("REINIT_SHORT", "") not in ("", "0")
"""Whether this is the short form, which a CI runs."""


def full(big: T, small: T) -> T:
    """`big` in the full form, `small` in the short one."""
    return small if SHORT else big


def record(row: str, figure: str, target: str) -> None:
    """Keep what a test counted.

    Args:
        row: the row of the table, which is the name of the test's module.
        figure: what was counted, for people; several of one row stand one after another.
        target: what it must be.
    """
    print(f"{row}: {figure}")  # noqa: T201  a figure is for people who watch, too
    if not (folder := os.environ.get("REINIT_FIGURES")):
        return
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    line = {"row": row, "figure": figure, "target": target, "measured": _measured()}
    # One short append is one write: several test processes do not mix their lines.
    with (path / "figures.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _measured() -> str:
    """Day, commit, form and machine."""
    form = "short" if SHORT else "full"
    cores = len(os.sched_getaffinity(0))
    return f"{datetime.now(UTC):%Y-%m-%d}, {_commit()}, {form} form, {cores} cores of {_processor()}"


def _commit() -> str:
    root = Path(__file__).parents[1]
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=8", "--exclude=*"],
        cwd=root, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    return said or "no checkout"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else os.uname().machine
