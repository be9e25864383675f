"""`Columns`: many finished runs by column, each a `RunResult` only when somebody asks for it.

Law: holds what `jobs.byheart` verified and nothing else, so that what it makes is what was stored. As an object a
result takes a kilobyte and some microseconds, and most readers want a column of all of them and no object.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel

from jobs.cell import Cell
from jobs.found import Verified
from jobs.result import Provenance, RunResult

M = TypeVar("M", bound=BaseModel)

_FIELDS: Final[dict[type[BaseModel], set[str]]] = {kind: set(kind.model_fields) for kind in (RunResult, Provenance)}
_HASH: Final = 64
"""Hex digits of a sha256."""


def _doubles() -> array[float]:
    return array("d")


@dataclass(slots=True, eq=False)
class Columns:
    """Runs by their place, from 0: what each has of its own, and references to what they share."""

    cells: list[Cell] = field(default_factory=list)
    provenances: list[Provenance] = field(default_factory=list)
    seeds: array[int] = field(default_factory=lambda: array("I"))
    steps: list[int] = field(default_factory=list)
    finished_at: list[datetime] = field(default_factory=list)
    wall_seconds: array[float] = field(default_factory=_doubles)
    gpu_seconds: array[float] = field(default_factory=_doubles)
    train_losses: array[float] = field(default_factory=_doubles)
    predictions: bytearray = field(default_factory=bytearray)
    """Hashes, one after another."""
    metrics: list[tuple[str, ...]] = field(default_factory=list)
    """Names of a run's metrics, sorted."""
    first_scores: array[int] = field(default_factory=lambda: array("Q"))
    """Where in `scores` the first of them is."""
    scores: array[float] = field(default_factory=_doubles)

    def __len__(self) -> int:
        return len(self.cells)

    def extend(self, more: Columns) -> range:
        """Take up all of another; returns their places here."""
        here = range(len(self), len(self) + len(more))
        moved = len(self.scores)
        self.first_scores.extend(first + moved for first in more.first_scores)
        for mine, theirs in (
            (self.cells, more.cells),
            (self.provenances, more.provenances),
            (self.seeds, more.seeds),
            (self.steps, more.steps),
            (self.finished_at, more.finished_at),
            (self.wall_seconds, more.wall_seconds),
            (self.gpu_seconds, more.gpu_seconds),
            (self.train_losses, more.train_losses),
            (self.predictions, more.predictions),
            (self.metrics, more.metrics),
            (self.scores, more.scores),
        ):
            mine.extend(theirs)  # type: ignore[arg-type]  # each pair is of one kind
        return here

    def metric(self, name: str) -> list[float | None]:
        """One metric of each run; None where a run has none of that name."""
        at = {names: names.index(name) for names in set(self.metrics) if name in names}
        firsts = zip(self.metrics, self.first_scores, strict=True)
        return [self.scores[first + at[names]] if names in at else None for names, first in firsts]

    def result(self, place: int) -> RunResult:
        """The run at a place."""
        cell, names, first = self.cells[place], self.metrics[place], self.first_scores[place]
        return unchecked(
            RunResult,
            {
                "schema_version": 1,
                "cell": cell,
                "digest": cell.digest,
                "seed": self.seeds[place],
                "wall_seconds": self.wall_seconds[place],
                "gpu_seconds": self.gpu_seconds[place],
                "finished_at": self.finished_at[place],
                "provenance": self.provenances[place],
                "status": "done",
                "metrics": dict(zip(names, self.scores[first : first + len(names)], strict=True)),
                "validation_rows": dict(zip(cell.task.splits, cell.task.validation_rows, strict=True)),
                "train_rows": cell.rows,
                "steps": self.steps[place],
                "train_loss": self.train_losses[place],
                "predictions": self.predictions[place * _HASH : (place + 1) * _HASH].decode(),
            },
        )


class Batch(NamedTuple):
    """Verified results with the keys that they agree with."""

    keys: Sequence[str]
    columns: Columns
    """At the places of the keys."""

    def each(self) -> Iterator[Verified]:
        """One by one."""
        return (Verified(key, self.columns.result(place)) for place, key in enumerate(self.keys))


def keys_of(verified: Batch | Verified) -> Sequence[str]:
    """Of many, or of one."""
    return verified.keys if isinstance(verified, Batch) else (verified.key,)


class Rows(Mapping[int, RunResult]):
    """Runs of one cell by seed, each made when it is asked for.

    Args:
        columns: where they are.
        places: by seed.
    """

    __slots__ = ("columns", "places")

    def __init__(self, columns: Columns, places: dict[int, int]) -> None:
        self.columns = columns
        self.places = places

    def __getitem__(self, seed: int) -> RunResult:
        return self.columns.result(self.places[seed])

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return repr(dict(self))


def moved(provenance: Provenance, host: str) -> Provenance:
    """The same on another host."""
    return unchecked(Provenance, {**provenance.__dict__, "host": host})


def unchecked(kind: type[M], values: dict[str, Any]) -> M:
    """A value of fields that need no validation, made the way that a copy is."""
    made = kind.__new__(kind)
    set_ = object.__setattr__
    set_(made, "__dict__", values)
    set_(made, "__pydantic_fields_set__", _FIELDS[kind])
    set_(made, "__pydantic_extra__", None)
    set_(made, "__pydantic_private__", None)
    return made
