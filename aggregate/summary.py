"""The frame summarised: for each setting (model, task, recipe, size) one row per cell with its mean and intervals.

Law: a function of the frame and of nothing else. Only planned runs with a score enter a number, and every row says
how many were planned and what became of the others.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from aggregate.frame import STATUSES, rows
from aggregate.stats import (
    Interval,
    Paired,
    Unpaired,
    mean_interval,
    paired_difference,
    unit_means,
    welch_difference,
)
from aggregate.text import counted
from jobs.found import State


@dataclass(frozen=True)
class CellSummary:
    """One row of a table."""

    digest: str
    """Of the cell; empty for a row over several cells."""
    cell: str
    treatment_kind: str
    treatment: str
    variant: str
    families: tuple[str, ...]
    preserved_layers: int | None
    is_plain: bool
    planned: int
    """Units planned: seeds, or for a row over permutations orders."""
    runs: dict[State, int]
    """What became of the planned runs."""
    score: Interval
    difference: Paired | Unpaired | None
    """To plain finetuning: at the same seed, or for a row over orders of two means; None for plain finetuning itself,
    for a probe, and where the study has no plain finetuning."""
    unit: Literal["seed", "order"] = "seed"

    @property
    def holes(self) -> int:
        """Planned runs without a score."""
        return sum(self.runs.values()) - self.runs["done"]

    @property
    def marks(self) -> tuple[str, ...]:
        """What a reader must know before using the row: `n = 2 of 3`, `1 missing`, ..."""
        marks = [f"n = {self.score.n} of {self.planned}"] if self.score.n < self.planned else []
        marks += [f"{count} {status}" for status, count in self.runs.items() if count and status != "done"]
        if self.score.note and self.score.n:
            marks.append(self.score.note)
        return (*marks, *_difference_marks(self.difference, self.score))


@dataclass(frozen=True)
class Provenances:
    """How many of a setting's results come from each commit, image, device, numerics version, and from which data."""

    git_commits: dict[str, int]
    images: dict[str, int]
    devices: dict[str, int]
    numerics: dict[str, int]
    weights: dict[str, int]
    """By the hash of the weights that were read; a probe's and a finetune's are the same."""
    rows: dict[str, int]
    """By the hash of the rows that were read: a folder mapped in place of a hub data set is taken at its word."""

    @property
    def mixed(self) -> tuple[str, ...]:
        """One sentence for each kind of which there is more than one; empty where all results have the same."""
        kinds = {
            "git commit": self.git_commits,
            "image": self.images,
            "device": self.devices,
            "numerics version": self.numerics,
            "pretrained weight file": self.weights,
            "data revision": self.rows,
        }
        return tuple(
            f"Mixed provenance: {counted(len(counts), kind)}: "
            + ", ".join(f"{name} ({counted(count, 'run')})" for name, count in counts.items())
            for kind, counts in kinds.items()
            if len(counts) > 1
        )


@dataclass(frozen=True)
class Setting:
    """What is compared: cells of one model, task, recipe and size."""

    model: str
    task: str
    size: str
    rows: int
    recipe: str
    context: str
    depth: int
    metric: str
    chance: float | None
    cells: tuple[CellSummary, ...]
    provenances: Provenances
    unplanned: int
    """Results of seeds outside the plan, in no number."""

    @property
    def title(self) -> str:
        """Task, size, model and, where it is not the paper's, recipe."""
        size = f"all {self.rows:,} examples" if self.size == "full" else f"{self.rows:,} examples"
        return ", ".join(part for part in (self.task, size, self.model, self.recipe) if part)


Runs = list[dict[str, Any]]
"""Rows of the frame."""


def summarise(frame: pd.DataFrame) -> list[Setting]:
    """All settings of the frame, in its order; within one, cells in its order, then a row over permutations."""
    return [_setting(group) for group in _grouped(rows(frame), "context", "size")]


def count_statuses(frame: pd.DataFrame) -> dict[State, int]:
    """How many of the planned runs have each status, all statuses named."""
    counts = frame.loc[frame["planned"], "status"].value_counts()
    return {status: int(counts.get(status, 0)) for status in STATUSES}


def _grouped(runs: Runs, *columns: str) -> list[Runs]:
    groups: dict[tuple[Any, ...], Runs] = {}
    for run in runs:
        groups.setdefault(tuple(run[column] for column in columns), []).append(run)
    return list(groups.values())


def _done(runs: Runs) -> Runs:
    """The planned runs that have a score."""
    return [run for run in runs if run["planned"] and run["status"] == "done"]


def _scores(runs: Runs) -> dict[int, float]:
    return {run["seed"]: run["score"] for run in _done(runs)}


def _statuses(runs: Runs) -> dict[State, int]:
    counts = Counter(run["status"] for run in runs if run["planned"])
    return {status: counts[status] for status in STATUSES}


def _setting(runs: Runs) -> Setting:
    first = runs[0]
    plain = [run for run in runs if run["is_plain"]]
    baseline = _scores(plain) if plain else None
    by_cell = _grouped(runs, "digest")
    cells = [_cell(of_cell, baseline) for of_cell in by_cell]
    permuted = [of_cell for of_cell in by_cell if of_cell[0]["treatment_kind"] == "permute"]
    if len(permuted) > 1:
        cells.append(_permutations(permuted, baseline))
    return Setting(
        **{name: first[name] for name in ("model", "task", "size", "rows", "recipe", "context", "depth", "metric")},
        chance=first["chance"],
        cells=tuple(cells),
        provenances=_provenances(_done(runs)),
        unplanned=sum(not run["planned"] for run in runs),
    )


def _cell(runs: Runs, baseline: dict[int, float] | None) -> CellSummary:
    """One cell as a row. A probe has no difference: its score is never subtracted from a finetune's."""
    first, scores = runs[0], _scores(runs)
    alone = baseline is None or first["is_plain"] or first["treatment_kind"] == "probe"
    return CellSummary(
        digest=first["digest"],
        cell=first["cell"],
        treatment_kind=first["treatment_kind"],
        treatment=first["treatment"],
        variant=first["variant"],
        families=first["families"],
        preserved_layers=first["preserved_layers"],
        is_plain=first["is_plain"],
        planned=sum(run["planned"] for run in runs),
        runs=_statuses(runs),
        score=mean_interval(list(scores.values())),
        difference=None if alone else paired_difference(scores, baseline or {}),
    )


def _permutations(permuted: list[Runs], baseline: dict[int, float] | None) -> CellSummary:
    """All orders of a setting as one row: seeds averaged first, n = number of orders.

    Every order is compared with the same baseline, whose error is therefore no smaller for there being many orders, and
    does not show in how the orders' differences spread. The difference is one of two means over different units, the
    orders' and the baseline's at the seeds that the orders have, with Welch's interval (`stats.welch_difference`).

    What a seed does to both alike, through its rows and their order, is in the baseline's error although it cancels in
    the difference, so the interval is on the wide side. Baseline seeds that no order has are left out: against them
    it would not cancel, and the orders, which share their seeds, could not show it.
    """
    scores = [_scores(runs) for runs in permuted]
    means = unit_means(of_order.values() for of_order in scores)
    seeds = {seed for of_order in scores for seed in of_order}
    difference = welch_difference(means, [score for seed, score in (baseline or {}).items() if seed in seeds])
    return CellSummary(
        digest="",
        cell="",
        treatment_kind="permute",
        treatment=f"permute: mean over {len(permuted)} orders",
        variant="",
        families=tuple(dict.fromkeys(name for runs in permuted for name in runs[0]["families"])),
        preserved_layers=None,
        is_plain=False,
        planned=len(permuted),
        runs=_statuses([run for runs in permuted for run in runs]),
        score=mean_interval(means),
        difference=None if baseline is None else difference,
        unit="order",
    )


def _difference_marks(difference: Paired | Unpaired | None, score: Interval) -> tuple[str, ...]:
    """What a reader must know of a difference beyond what the row says of its score."""
    if difference is None:
        return ()
    interval, marks = difference.interval, []
    if isinstance(difference, Unpaired) and difference.degrees is not None:
        counts = f"n = {interval.n} and {difference.baseline_n}"
        marks.append(f"difference: Welch, orders against seeds ({counts})")
    if isinstance(difference, Paired) and difference.unpaired:
        marks.append(f"without baseline: {_seeds(difference.unpaired)}")
    if interval.note and interval.note != score.note and score.n:
        marks.append(f"difference: {interval.note}")
    return tuple(marks)


def _provenances(done: Runs) -> Provenances:
    def counts(column: str, most: int | None = None) -> dict[str, int]:
        names = Counter((run[column] or "none")[:most] for run in done)
        return dict(sorted(names.items()))

    return Provenances(
        git_commits=counts("git_commit"),
        images=counts("image"),
        devices=counts("device"),
        numerics=counts("numerics"),
        weights=counts("weights_sha256", 12),
        rows=counts("rows_sha256", 12),
    )


def _seeds(seeds: Sequence[int]) -> str:
    """`seed 4`, `seeds 1, 4 to 10`: all of them, neighbours as a range."""
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1].append(seed)
        else:
            ranges.append([seed])
    words = [f"{each[0]} to {each[-1]}" if len(each) > 2 else ", ".join(map(str, each)) for each in ranges]
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(words)}"
