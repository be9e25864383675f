"""This project's runs in a fresh process, timed step by step through the worker that every run goes through."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Spent, ask, reading
from benchmarks.rows import DATA
from jobs.cell import Cell
from reinit.places import Places
from reinit.worker import Worker


@dataclass(frozen=True)
class Run:
    """Readings of the clocks of one run."""

    began: Spent
    steps: list[Spent]
    """After each step."""
    ended: Spent


def timed_runs(cell: Cell, seeds: list[int], folder: Path, threads: int) -> tuple[list[Run], Spent]:
    """Runs of a cell one after another in one warm worker, and what its process took from start to end.

    `folder` holds the cell's rows.
    """
    question = {"cell": cell.model_dump(mode="json"), "seeds": seeds, "folder": str(folder)}
    answer, took = ask("benchmarks.ours", question, threads)
    runs = [
        Run(Spent(*each["began"]), [Spent(*step) for step in each["steps"]], Spent(*each["ended"])) for each in answer
    ]
    return runs, took


def main() -> None:
    """Be the process."""
    asked, answered = map(Path, sys.argv[1:3])
    question = json.loads(asked.read_text(encoding="utf-8"))
    cell = Cell.model_validate(question["cell"])
    worker = Worker(Places({DATA: Path(question["folder"])}))
    worker.check([cell])
    answer = []
    for seed in question["seeds"]:
        steps: list[Spent] = []
        began = reading()
        worker.run(cell, seed, lambda *_, steps=steps: steps.append(reading()))
        ended = reading()
        pairs = [[each.cpu, each.wall] for each in (began, *steps, ended)]
        answer.append({"began": pairs[0], "steps": pairs[1:-1], "ended": pairs[-1]})
    answered.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
