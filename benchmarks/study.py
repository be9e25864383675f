"""A whole study on a CPU, start-up included: `reinit run` beside the peers' processes, one a run; and all scores.

    python -m benchmarks.study [--glue FOLDER] [--preserved 6 3 0] [--seeds 5] [--quick]

The packaged MiniLM finetuned by the paper's recipe on 500 rows for three epochs, 6, 3 and 0 of its layers preserved,
five seeds: 15 runs, each scored on SST-2's 872 rows (or as many reviews). Ours is one `reinit run` of a study file,
every run of it. The peers run the five of all layers preserved, whose scores are compared, and their cost is
multiplied: a run costs the same wherever its weights come from. The Trainer is faster than what people run, and has
no target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aggregate.contrasts import student, welch
from benchmarks.measure import Spent, ask, install, process, total
from benchmarks.rows import DATA, MINILM, job_of, task_of, write_rows
from benchmarks.step import ACCELERATE
from benchmarks.table import Line, main
from jobs.cell import Cell, Recipe, Reinit
from jobs.store import open_store
from jobs.study import load_study
from reinit.places import Places


@dataclass(frozen=True)
class Side:
    """One way to do the study."""

    took: Spent
    """For all of its runs."""
    scores: list[float]
    """Of the runs without a redrawn layer, by seed."""


def lines(options: argparse.Namespace) -> list[Line]:
    """The study beside each peer's."""
    install(ACCELERATE)
    size, seeds, preserved = (48, 2, [6]) if options.quick else (500, options.seeds, options.preserved)
    with tempfile.TemporaryDirectory() as made:
        folder = write_rows(Path(made), options.glue, *([40] if options.quick else []))
        cell = Cell(model=MINILM, task=task_of(folder), size=size, treatment=Reinit(), recipe=Recipe())
        ours = _ours(cell, folder, preserved, seeds, options.threads)
        runs = len(preserved) * seeds
        released, trainer = (
            _theirs(name, cell, folder, seeds, runs, options.threads) for name in ("released", "trainer")
        )
    about = f"{runs} runs, of which the peers ran {seeds}, multiplied"
    return [
        Line("a study: the released recipe", released.took, ours.took, 8.0, notes=(about, *_compared(released, ours))),
        Line("a study: the library's Trainer", trainer.took, ours.took, None, notes=_compared(trainer, ours)),
    ]


def _ours(cell: Cell, folder: Path, preserved: Sequence[int], seeds: int, threads: int) -> Side:
    written, store = folder / "study.yaml", f"file://{folder}/store"
    written.write_text(yaml.safe_dump(_study(cell, preserved, seeds)), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "reinit"), "run", str(written), "--store", store]
    command += ["--workers", "1", "--threads", str(threads), "--place", f"{DATA}={folder}"]
    took = process(command, threads)
    print(f"ours, {len(preserved) * seeds} runs: {took.cpu:.1f} s of CPU", file=sys.stderr)
    digests = {each.cell.digest for each in load_study(str(written)).plan()}
    found = open_store(store).all_results(digests)[cell.digest].results
    return Side(took, [result.score for result in found.values() if result.status == "done"])


def _study(cell: Cell, preserved: Sequence[int], seeds: int) -> dict[str, Any]:
    """The study file: what a user would write."""
    return {
        "name": "benchmark",
        "title": "A study of 500 rows",
        "note": "Made by benchmarks/study.py to be timed.",
        "model": cell.model.model_dump(mode="json"),
        "recipe": cell.recipe.model_dump(mode="json"),
        "tasks": [cell.task.model_dump(mode="json")],
        "families": [{"family": "progressive", "preserved": list(preserved), "sizes": [cell.size], "seeds": seeds}],
    }


def _theirs(name: str, cell: Cell, folder: Path, seeds: int, runs: int, threads: int) -> Side:
    """A fresh process for each seed."""
    done = []
    for seed in range(1, seeds + 1):
        job = job_of(cell, seed, Places({DATA: folder}))
        done.append(ask(f"benchmarks.peers.{name}", vars(job), threads))
        print(f"{name}, seed {seed}: {done[-1][0]['score']:.4f}, {done[-1][1].cpu:.1f} s of CPU", file=sys.stderr)
    return Side(total(took for _, took in done) * (runs / seeds), [answer["score"] for answer, _ in done])


def _compared(theirs: Side, ours: Side) -> tuple[str, ...]:
    """Both sides' scores, and whether they differ by more than seeds do."""
    sides = [student(side.scores).interval for side in (theirs, ours)]
    said = [f"{each.mean:.4f} (sd {each.sd:.4f}, n {each.n})" for each in sides]
    between = welch(theirs.scores, ours.scores).interval
    if between.low is None or between.high is None:
        return (f"accuracy theirs {said[0]}, ours {said[1]}",)
    verdict = "within seed noise" if between.low <= 0 <= between.high else "MORE than seed noise"
    difference = f"{between.mean:+.4f}, 95% interval {between.low:+.4f} to {between.high:+.4f}"
    return (f"accuracy theirs {said[0]}, ours {said[1]}; theirs less ours {difference}: {verdict}",)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preserved", type=int, nargs="*", default=[6, 3, 0], help="6 among them, which is compared")
    parser.add_argument("--seeds", type=int, default=5)


if __name__ == "__main__":
    main(lines, __doc__, _add)
