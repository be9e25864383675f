"""Coverage: how much of what was planned is there, and whether that is enough to publish.

Law: a hole is loud. With one planned run short of a score, a contradiction or a damaged object, nothing is written
unless the caller says that a partial picture is wanted, and then it is marked wherever it shows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import pandas as pd

from aggregate.frame import STATUSES
from aggregate.summary import count_statuses
from aggregate.text import clipped, prose
from jobs.errors import DataError
from jobs.found import Contradiction, Damaged, Duplicate, Found
from jobs.result import DivergedRun, RunResult
from jobs.store import Failures

ALL: Final = "all"
"""Family of the rows that count every cell once."""

_NAMED = 5
"""Problems that an error names; the rest are counted."""


@dataclass(frozen=True)
class Extras:
    """What the store holds of a study besides one good result per run."""

    contradictions: tuple[Contradiction, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    damaged: tuple[Damaged, ...] = ()
    damaged_records: tuple[Damaged, ...] = ()
    """Damaged records of failures; they can hide why a run has no result and move no number."""
    strays: tuple[Damaged, ...] = ()
    """Objects that are no cell's: of nobody's run, or of one whose key was mangled."""
    spare: tuple[RunResult | DivergedRun, ...] = ()
    """Results that count for nothing and took their time."""
    failed_attempts: int = 0
    """Attempts that left the record of a failure."""


def extras_in(found: Mapping[str, Found], failures: Mapping[str, Failures], strays: Sequence[Damaged] = ()) -> Extras:
    """What is besides the results, of all cells, in their order."""
    return Extras(
        contradictions=tuple(chain.from_iterable(each.contradictions for each in found.values())),
        duplicates=tuple(chain.from_iterable(each.duplicates for each in found.values())),
        damaged=tuple(chain.from_iterable(each.damaged for each in found.values())),
        damaged_records=tuple(chain.from_iterable(each.damaged for each in failures.values())),
        strays=tuple(strays),
        spare=tuple(chain.from_iterable(each.spare for each in found.values())),
        failed_attempts=sum(len(each.records) for each in failures.values()),
    )


def coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Planned runs by what became of them, per model, task and size, each as a whole and by family, and in total.

    Columns: model, task, size, recipe, family, planned, then for each status its count and its share in per cent.
    Shares of scores are rounded down and all others up, so that 100 % means all and 0 % none. A cell of two families
    counts in both, and once in `all`.
    """
    planned = frame[frame["planned"]]
    records = []
    for _, runs in planned.groupby(["context", "size"], sort=False, observed=True):
        where = {name: str(runs.iloc[0][name]) for name in ("model", "task", "size", "recipe")}
        families = dict.fromkeys(name for names in runs["families"] for name in names)
        records.append(where | {"family": ALL} | _counts(runs))
        for family in families:
            of_family = runs[[family in names for names in runs["families"]]]
            records.append(where | {"family": family} | _counts(of_family))
    total = dict.fromkeys(("model", "task", "size"), ALL) | {"recipe": "", "family": ALL}
    return pd.DataFrame([*records, total | _counts(planned)])


def _counts(runs: pd.DataFrame) -> dict[str, int | float]:
    counts = count_statuses(runs)
    planned = sum(counts.values())
    columns: dict[str, int | float] = {"planned": planned}
    for status in STATUSES:
        columns[status] = counts[status]
        columns[f"{status}_percent"] = _percent(counts[status], planned, up=status != "done")
    return columns


def _percent(count: int, planned: int, *, up: bool) -> float:
    if not planned:
        return 0.0
    return (math.ceil if up else math.floor)(count * 1000 / planned) / 10


def problems(frame: pd.DataFrame, extras: Extras) -> list[str]:
    """Everything that keeps a study from being complete, one line each, in the order of the plan."""
    open_runs = frame[frame["planned"] & (frame["status"] != "done")]
    lines = []
    for cell, seed, status, reason in zip(
        open_runs["cell"], open_runs["seed"], open_runs["status"], open_runs["reason"].fillna(""), strict=True
    ):
        because = f": {clipped(prose(reason))}" if reason else ""
        lines.append(f"{status}: {cell}, seed {seed}{because}")
    lines += [f"contradiction: {' against '.join(map(prose, each.keys))}" for each in extras.contradictions]
    lines += [f"damaged: {_damage(each)}" for each in extras.damaged]
    return lines


def _damage(damaged: Damaged) -> str:
    return f"{prose(damaged.key)}: {clipped(prose(damaged.reason))}"


def refuse_holes(frame: pd.DataFrame, extras: Extras, *, studies: Sequence[str]) -> None:
    """Raise unless every planned run has a score and every object in the store is sound.

    Raises:
        DataError: naming the first few problems, counting the others, and saying what to do about each kind.
    """
    found = problems(frame, extras)
    if not found:
        return
    planned = int(frame["planned"].sum())
    scores = count_statuses(frame)["done"]
    more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
    raise DataError(
        f"{_called(studies)} is not complete: {planned - scores} of {planned} runs have no score",
        expected="a score for every planned run, no contradictions and no damaged objects",
        got="\n            ".join([*found[:_NAMED], *more]),
        remedy=_remedy(frame, extras, studies),
    )


def _called(studies: Sequence[str]) -> str:
    names = ", ".join(map(prose, studies))
    return f"study {names}" if len(studies) == 1 else f"the union of studies {names}"


def _remedy(frame: pd.DataFrame, extras: Extras, studies: Sequence[str]) -> str:
    counts = count_statuses(frame)
    steps = []
    if counts["missing"] + counts["failed"]:
        commands = " and ".join(f"`reinit run {prose(study)} --store URL`" for study in studies)
        steps.append(f"{commands} {'runs' if len(studies) == 1 else 'run'} what has no result, and nothing else")
    if counts["diverged"]:
        steps.append("a diverged run diverges again: change the study's recipe, or publish it marked")
    if extras.contradictions or counts["contradictory"]:
        steps.append("of two contradictory results remove the one that cannot be trusted")
    if extras.damaged:
        steps.append("remove the damaged objects, and run again what they stood for")
    steps.append("`--allow-partial` writes everything with the holes marked")
    return "; ".join(steps)


def holes(frame: pd.DataFrame) -> str:
    """How many planned runs have no score, as a sentence that nobody overlooks; empty where all have one."""
    without = int((frame["planned"] & (frame["status"] != "done")).sum())
    return f"INCOMPLETE: planned runs without a score: {without} of {int(frame['planned'].sum())}." if without else ""


def notes(frame: pd.DataFrame, extras: Extras) -> list[str]:
    """What the coverage table cannot say in numbers, one sentence each; first what is not there."""
    lines = [holes(frame)] if holes(frame) else []
    lines += problems(frame, extras)
    if unplanned := int((~frame["planned"]).sum()):
        lines.append(f"Results of seeds outside the plan, listed in runs.csv and in no mean: {unplanned}.")
    lines += [f"damaged record of a failure: {_damage(each)}" for each in extras.damaged_records]
    lines += [f"not counted: {_damage(each)}" for each in extras.strays]
    lines += [_duplicate(duplicate, frame) for duplicate in extras.duplicates]
    if any(len(names) > 1 for names in frame["families"]):
        lines.append(f"A cell of several families counts in each of them, and once in `{ALL}`.")
    return lines


def _duplicate(duplicate: Duplicate, frame: pd.DataFrame) -> str:
    names: Sequence[str] = frame.loc[frame["digest"] == duplicate.digest, "cell"].tolist()
    difference = (
        "not comparable"
        if duplicate.largest_difference is None
        else f"largest difference of a metric {duplicate.largest_difference:.4g}"
    )
    name = names[0] if names else duplicate.digest
    return (
        f"duplicate: {name}, seed {duplicate.seed}: {len(duplicate.keys)} results, {difference}; the earliest counts."
    )
