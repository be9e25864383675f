"""One table for all benchmarks: a line has what the other takes, what this project takes, ratio, floor and target."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from benchmarks.measure import PACKAGES, ROOT, Spent

VERSIONS: Final = ("torch", "transformers", "deepspeed", "PyYAML", "jsonschema-rs")


@dataclass(frozen=True)
class Line:
    """One comparison."""

    name: str
    """What is compared, and with whom."""
    theirs: Spent
    ours: Spent
    target: float | None
    """Of the ratio; None where nothing is aimed at."""
    unit: str = "s"
    """Of both figures: `s`, `ms`, or a rate, of which more is better."""
    at_most: bool = False
    """The ratio is ours over theirs and should be small: an overhead."""
    floor: float | None = None
    """The least CPU that ours could take, in seconds, where that can be computed."""
    notes: tuple[str, ...] = ()
    """What else was measured, and what the figures leave out."""

    @property
    def ratio(self) -> Spent:
        """How many times better ours is on each clock; of an overhead, how many times worse."""
        inverted = self.at_most or self.unit not in ("s", "ms")
        upper, lower = (self.ours, self.theirs) if inverted else (self.theirs, self.ours)
        return Spent(upper.cpu / lower.cpu, upper.wall / lower.wall)

    @property
    def is_met(self) -> bool:
        """Whether the ratio of CPU-seconds reaches the target, where there is one."""
        if self.target is None:
            return True
        return self.ratio.cpu <= self.target if self.at_most else self.ratio.cpu >= self.target


LINES: Final = TypeAdapter(list[Line])

HEAD: Final = (
    "line",
    "theirs, CPU",
    "wall",
    "ours, CPU",
    "wall",
    "ratio, CPU",
    "wall",
    "floor",
    "to floor",
    "target",
)


def render(lines: Sequence[Line]) -> str:
    """The table in Markdown, aligned, with the notes of each line below it."""
    rows = [HEAD, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]

    def written(row: Sequence[str]) -> str:
        first, *others = (
            text.ljust(width) if not at else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = (
        "| " + " | ".join("-" * width if not at else "-" * (width - 1) + ":" for at, width in enumerate(widths)) + " |"
    )
    table = [written(rows[0]), rule, *(written(row) for row in rows[1:])]
    notes = [f"- {line.name}: {note}" for line in lines for note in line.notes]
    return "\n".join([*table, "", *notes]).rstrip()


def _cells(line: Line) -> tuple[str, ...]:
    scale = 1000 if line.unit == "ms" else 1
    numbers = [
        f"{_short(value * scale)} {line.unit}" for each in (line.theirs, line.ours) for value in (each.cpu, each.wall)
    ]
    floor, gap = (
        ("", "")
        if line.floor is None
        else (f"{_short(line.floor * scale)} {line.unit}", f"{line.ours.cpu / line.floor:.1f}")
    )
    target = "" if line.target is None else f"{'≤' if line.at_most else '≥'} {line.target:g}"
    target += "" if line.is_met else ", missed"
    return (line.name, *numbers, _short(line.ratio.cpu), _short(line.ratio.wall), floor, gap, target)


def _short(value: float) -> str:
    """Three digits, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine(threads: int) -> str:
    """Where, when and with what the figures were measured."""
    versions = ", ".join(f"{name} {_version(name)}" for name in VERSIONS)
    peers = sorted(path.name.removesuffix(".dist-info").replace("-", " ") for path in PACKAGES.glob("*.dist-info"))
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return "\n".join(
        [
            f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {threads} threads a process; load before: {load}",
            f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {versions}",
            *([f"of the peers alone: {', '.join(peers)}"] if peers else []),
            f"commit {_commit()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        ]
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603, S607
        return done.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        " with changes" if git("status", "--porcelain", "-uno") else ""
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark takes."""
    parser.add_argument(
        "--quick", action="store_true", help="a small form, to see that it runs; its figures mean little"
    )
    parser.add_argument(
        "--glue", type=Path, help="folder with SST-2/train.tsv and SST-2/dev.tsv; else packaged reviews"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each process, on both sides (default 1)")
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)


def main(
    lines: Callable[[argparse.Namespace], Iterable[Line]],
    description: str | None,
    add: Callable[[argparse.ArgumentParser], object] = lambda _: None,
) -> None:
    """Be a script: measure these lines and print their table, or write them where the runner asks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add(parser)
    options = parser.parse_args()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(options.threads)
    head = machine(options.threads)
    made = list(lines(options))
    if options.json:
        options.json.write_bytes(LINES.dump_json(made))
    else:
        print(head, render(made), sep="\n\n")
