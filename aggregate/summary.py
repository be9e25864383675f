"""The frame summarised: for each setting (model, task, recipe, size) one row per cell with its mean and intervals.

Law: a function of the frame and of nothing else. Only planned runs with a score enter a number, and every row says
how many were planned and what became of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from aggregate.frame import STATUSES
from aggregate.stats import Interval, Paired, differences, interval_over_units, paired_difference
from aggregate.text import counted
from jobs.found import State


@dataclass(frozen=True)
class CellSummary:
    """One row of a table."""

    digest: str
    """Of the cell; empty for a row over several cells."""
    cell: str
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
    difference: Paired | None
    """To plain finetuning at the same seed; None for plain finetuning itself, and where the study has none."""
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
        if self.difference is not None:
            if unpaired := self.difference.unpaired:
                marks.append(f"without baseline: {_seeds(unpaired)}")
            if (note := self.difference.interval.note) and note != self.score.note and self.score.n:
                marks.append(f"difference: {note}")
        return tuple(marks)


@dataclass(frozen=True)
class Provenances:
    """How many of a setting's results come from each commit, image and numerics version."""

    git_commits: dict[str, int]
    images: dict[str, int]
    numerics: dict[str, int]

    @property
    def mixed(self) -> tuple[str, ...]:
        """One sentence for each kind of which there is more than one; empty where all results have the same."""
        kinds = {"git commit": self.git_commits, "image": self.images, "numerics version": self.numerics}
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


def summarise(frame: pd.DataFrame) -> list[Setting]:
    """All settings of the frame, in its order; within one, cells in its order, then a row over permutations."""
    return [_setting(runs) for _, runs in frame.groupby(["context", "size"], sort=False, observed=True) if len(runs)]


def scores_by_seed(runs: pd.DataFrame) -> dict[int, float]:
    """Scores of the planned runs that have one."""
    done = runs[runs["planned"] & (runs["status"] == "done")]
    return {int(seed): float(score) for seed, score in zip(done["seed"], done["score"], strict=True)}


def count_statuses(runs: pd.DataFrame) -> dict[State, int]:
    """How many of the planned runs have each status, all statuses named."""
    counts = runs.loc[runs["planned"], "status"].value_counts()
    return {status: int(counts.get(status, 0)) for status in STATUSES}


def _setting(runs: pd.DataFrame) -> Setting:
    first = runs.iloc[0]
    plain = runs[runs["is_plain"]]
    baseline = scores_by_seed(plain) if len(plain) else None
    by_cell = [of_cell for _, of_cell in runs.groupby("digest", sort=False, observed=True)]
    cells = [_cell(of_cell, baseline) for of_cell in by_cell]
    permuted = [of_cell for of_cell in by_cell if of_cell.iloc[0]["treatment_kind"] == "permute"]
    if len(permuted) > 1:
        cells.append(_permutations(permuted, baseline))
    return Setting(
        model=str(first["model"]),
        task=str(first["task"]),
        size=str(first["size"]),
        rows=int(first["rows"]),
        recipe=str(first["recipe"]),
        context=str(first["context"]),
        depth=int(first["depth"]),
        metric=str(first["metric"]),
        chance=_optional(first["chance"]),
        cells=tuple(cells),
        provenances=_provenances(runs),
        unplanned=int((~runs["planned"]).sum()),
    )


def _cell(runs: pd.DataFrame, baseline: dict[int, float] | None) -> CellSummary:
    first = runs.iloc[0]
    scores = scores_by_seed(runs)
    kept = first["preserved_layers"]
    is_plain = bool(first["is_plain"])
    return CellSummary(
        digest=str(first["digest"]),
        cell=str(first["cell"]),
        treatment=str(first["treatment"]),
        variant=str(first["variant"]),
        families=tuple(first["families"]),
        preserved_layers=None if kept is pd.NA else int(kept),
        is_plain=is_plain,
        planned=int(runs["planned"].sum()),
        runs=count_statuses(runs),
        score=interval_over_units([[score] for score in scores.values()]),
        difference=None if is_plain or baseline is None else paired_difference(scores, baseline),
    )


def _permutations(permuted: Sequence[pd.DataFrame], baseline: dict[int, float] | None) -> CellSummary:
    """All orders of a setting as one row: seeds averaged first, n = number of orders."""
    scores = [scores_by_seed(runs) for runs in permuted]
    unpaired = {seed for of_order in scores for seed in of_order if seed not in (baseline or {})}
    difference = Paired(
        interval_over_units([differences(of_order, baseline or {}) for of_order in scores]), tuple(sorted(unpaired))
    )
    families = dict.fromkeys(name for runs in permuted for name in runs.iloc[0]["families"])
    return CellSummary(
        digest="",
        cell="",
        treatment=f"permute: mean over {len(permuted)} orders",
        variant="",
        families=tuple(families),
        preserved_layers=None,
        is_plain=False,
        planned=len(permuted),
        runs=count_statuses(pd.concat(permuted)),
        score=interval_over_units([list(of_order.values()) for of_order in scores]),
        difference=None if baseline is None else difference,
        unit="order",
    )


def _provenances(runs: pd.DataFrame) -> Provenances:
    done = runs[runs["planned"] & (runs["status"] == "done")]
    return Provenances(
        git_commits=_counts(done["git_commit"]),
        images=_counts(done["image"].fillna("no image")),
        numerics=_counts(done["numerics"]),
    )


def _counts(values: "pd.Series[Any]") -> dict[str, int]:
    counts = values.value_counts().sort_index()
    return {str(name): int(count) for name, count in counts.items()}


def _optional(value: object) -> float | None:
    return None if value is pd.NA else float(str(value))


def _seeds(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:5]))
    more = f" and {len(seeds) - 5} more" if len(seeds) > 5 else ""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {shown}{more}"
