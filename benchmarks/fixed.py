"""What one more run costs beside its steps: in a warm worker, and as a process of its own.

    python -m benchmarks.fixed [--glue FOLDER] [--quick]

The process is the released recipe's, from the start of Python to its first step (imports, model, tokens of 500 rows),
or this project's own. In a warm worker it is all of a run that is neither a step nor scoring: weights restored and
redrawn, the engine built, rows and their order, the result. Timed from the call to the first step's end and from the
last step's end to the return, less a steady step of as many tokens and the scoring of the one row.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.measure import Spent, ask, median
from benchmarks.ours import Run, timed_runs
from benchmarks.rows import DATA, MINILM, job_of, task_of, write_rows
from benchmarks.table import Line, main
from jobs.cell import Cell, Recipe, Reinit, Steps
from reinit.places import Places


def lines(options: argparse.Namespace) -> list[Line]:
    """A run in a warm worker beside processes of its own, with nothing redrawn and with half of the layers."""
    return [line for layers in ((), (3, 4, 5)) for line in _lines(options, layers)]


def _lines(options: argparse.Namespace, layers: tuple[int, ...]) -> list[Line]:
    runs = 3 if options.quick else 8
    with tempfile.TemporaryDirectory() as made:
        folder = write_rows(Path(made), options.glue, scored=1)
        recipe = Recipe(duration=Steps(steps=12))
        cell = Cell(model=MINILM, task=task_of(folder), size=500, treatment=Reinit(layers=layers), recipe=recipe)
        # The first run of a worker warms it, and the second collects what that left.
        timed, took = timed_runs(cell, list(range(1, runs + 3)), folder, options.threads)
        fixed = _fixed(timed)
        ours = median(fixed[2:])
        own = took - (timed[-1].ended - timed[0].began) + fixed[0]
        question = {**vars(job_of(cell, 1, Places({DATA: folder}))), "most_steps": 1}
        cold = []
        for _ in range(1 if options.quick else 3):
            answer, took = ask("benchmarks.peers.released", question, options.threads)
            first, second = (Spent(*each) for each in answer["readings"])
            # What came after the first reading is the step, and an exit of milliseconds.
            cold.append(took - (second - first))
    redrawn = f"{len(layers)} of 6 layers redrawn" if layers else "nothing redrawn"
    return [
        Line(f"one more run, its steps apart, {redrawn}: released recipe, a process", median(cold), ours, 100.0),
        Line(f"one more run, its steps apart, {redrawn}: this project, a process", own, ours, None),
    ]


def _fixed(runs: Sequence[Run]) -> list[Spent]:
    """Of each run. What its first step is by itself comes from the others, as a line in their tokens."""
    tokens = [each for run in runs for each in run.tokens[1:]]
    took = [after - before for run in runs for before, after in pairwise(run.steps)]
    lines = [np.polyfit(tokens, clock, 1) for clock in ([each.cpu for each in took], [each.wall for each in took])]
    return [
        run.steps[0]
        - run.began
        + (run.ended - run.steps[-1])
        - run.scoring
        - Spent(*(float(np.polyval(line, run.tokens[0])) for line in lines))
        for run in runs
    ]


if __name__ == "__main__":
    main(lines, __doc__)
