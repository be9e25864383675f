"""This project's runs in a fresh process, timed step by step through the worker that every run goes through."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reinit.run
import reinit.train
from benchmarks.measure import Spent, ask, reading
from benchmarks.rows import DATA
from jobs.cell import Cell
from reinit.batches import training_batches
from reinit.data import Example
from reinit.places import Places
from reinit.worker import Worker


@dataclass(frozen=True)
class Run:
    """Readings of the clocks of one run."""

    began: Spent
    steps: list[Spent]
    """After each step."""
    tokens: list[int]
    """Of each step."""
    scoring: Spent
    """What scoring took."""
    ended: Spent


def timed_runs(cell: Cell, seeds: list[int], folder: Path, threads: int) -> tuple[list[Run], Spent]:
    """Runs of a cell one after another in one warm worker, and what its process took from start to end.

    `folder` holds the cell's rows.
    """
    question = {"cell": cell.model_dump(mode="json"), "seeds": seeds, "folder": str(folder)}
    answer, took = ask("benchmarks.ours", question, threads)
    runs = [
        Run(
            Spent(*each["began"]),
            [Spent(*step) for step in each["steps"]],
            each["tokens"],
            Spent(*each["scoring"]),
            Spent(*each["ended"]),
        )
        for each in answer
    ]
    return runs, took


def main() -> None:
    """Be the process."""
    asked, answered = map(Path, sys.argv[1:3])
    question = json.loads(asked.read_text(encoding="utf-8"))
    cell = Cell.model_validate(question["cell"])
    worker = Worker(Places({DATA: Path(question["folder"])}))
    worker.check([cell])
    answer: list[dict[str, Any]] = []
    scoring: list[Spent] = []
    score = reinit.run._predict  # noqa: SLF001  nobody else asks when scoring begins

    def timed(*arguments: Any) -> Any:
        before = reading()
        logits = score(*arguments)
        scoring.append(reading() - before)
        return logits

    tokens: list[int] = []

    def counted(*arguments: Any) -> Iterator[list[Example]]:
        for batch in training_batches(*arguments):
            tokens.append(sum(len(example.input_ids) for example in batch))
            yield batch

    reinit.run._predict = timed  # type: ignore[assignment]  # noqa: SLF001
    reinit.train.training_batches = counted  # type: ignore[assignment, attr-defined]
    for seed in question["seeds"]:
        steps: list[Spent] = []
        tokens.clear()
        began = reading()
        worker.run(cell, seed, lambda *_, steps=steps: steps.append(reading()))
        ended = reading()
        pairs = [[each.cpu, each.wall] for each in (began, *steps, scoring[-1], ended)]
        answer.append(
            {"began": pairs[0], "steps": pairs[1:-2], "tokens": tokens[:], "scoring": pairs[-2], "ended": pairs[-1]}
        )
    answered.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
