"""`by_heart`: results of known cells and provenances, verified by column.

Law: what is given here, `jobs.found.verify` gives too; of whatever is odd nothing is said, and that is for `verify`.
Without its cell and its provenance a result is a short line, of which the form is known but for some numbers, a time
and a hash. A line of that form, with each number and time written in the one way that they are, is the only way to
write that result: no field besides, none twice, none in another order.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel

from jobs.cell import Cell, Model, Recipe, Treatment, canonical
from jobs.found import Verified
from jobs.result import LARGEST_SCORE, Provenance, RunResult
from jobs.tasks import Task

M = TypeVar("M", bound=BaseModel)

_FIELDS: Final[dict[type[BaseModel], set[str]]] = {kind: set(kind.model_fields) for kind in (RunResult, Provenance)}

_LARGEST_SEED: Final = 2**32 - 1
_NUMBER: Final = r"(-?[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?)"
# Without a fraction, or with one of six digits that are not all zero: as pydantic writes it.
_TIME: Final = r"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.(?!000000)[0-9]{6})?Z)"


@dataclass(frozen=True, slots=True)
class Known:
    """What all finished runs of one cell share."""

    head: bytes
    """The object up to and with its digest."""
    cell: Cell
    digest: str
    metrics: tuple[str, ...]
    """Names of the task's metrics, in the order of canonical JSON."""
    form: re.Pattern[str]
    """Of a line: its groups are `finished_at`, `gpu_seconds`, all metrics, each metric, `predictions`, `seed`, `steps`,
    `train_loss`, `rows` and `wall_seconds`."""
    steps: int
    train_rows: int
    validation_rows: dict[str, int]
    said: tuple[str, str]
    """`steps`, and both kinds of rows, as a line has them."""


class Line(NamedTuple):
    """A result without what is known of it."""

    key: str
    data: bytes
    known: Known
    provenance: Provenance
    text: str
    """What is before the provenance, a tab, and what is after it."""


def known_of(cell: Cell) -> Known:
    """What there is to know of a cell."""
    metrics, form, validation_rows, written_rows = _of_task(cell.task)
    rows, steps = cell.rows, cell.steps
    return Known(
        head=b'{"cell":%s,"digest":"%s"' % (_written(cell), cell.digest.encode()),
        cell=cell,
        digest=cell.digest,
        metrics=metrics,
        form=form,
        steps=steps,
        train_rows=rows,
        validation_rows=validation_rows,
        said=(str(steps), f'"train_rows":{rows},"validation_rows":{written_rows}'),
    )


@lru_cache(1024)
def _of_task(task: Task) -> tuple[tuple[str, ...], re.Pattern[str], dict[str, int], str]:
    metrics = tuple(sorted(f"{split}/{metric}" for split in task.splits for metric in task.metrics))
    validation_rows = dict(zip(task.splits, task.validation_rows, strict=True))
    return metrics, _form(metrics), validation_rows, canonical(validation_rows).decode()


def _written(cell: Cell) -> bytes:
    """Canonical JSON of a cell; of its parts, which cells have in common, each is written once."""
    parts = {"model": cell.model, "recipe": cell.recipe, "task": cell.task, "treatment": cell.treatment}
    fields = {name: _part(value) for name, value in parts.items()}
    fields |= {name: json.dumps(getattr(cell, name)) for name in Cell.model_fields if name not in parts}
    return ("{" + ",".join(f'"{name}":{fields[name]}' for name in sorted(fields)) + "}").encode()


@lru_cache(1024)
def _part(value: Model | Recipe | Task | Treatment) -> str:
    return canonical(value.model_dump(mode="json")).decode()


@lru_cache(256)
def _form(metrics: tuple[str, ...]) -> re.Pattern[str]:
    each = ",".join(f"{re.escape(json.dumps(name, ensure_ascii=False))}:{_NUMBER}" for name in metrics)
    return re.compile(
        rf',"finished_at":"{_TIME}","gpu_seconds":{_NUMBER},"metrics":(\{{{each}\}}),"predictions":"([0-9a-f]{{64}})"'
        rf'\t,"schema_version":1,"seed":(0|[1-9][0-9]{{0,9}}),"status":"done","steps":([0-9]+),"train_loss":{_NUMBER},'
        rf'("train_rows":[^\t]*),"wall_seconds":{_NUMBER}\}}'
    )


def by_heart(lines: Sequence[Line]) -> list[Verified | None]:
    """The results of these lines; None where something is odd about one, whatever it is. Lines are of one form."""
    read: list[tuple[str, ...]] = []
    plain: list[Line] = []
    for line in lines:
        if (match := line.known.form.fullmatch(line.text)) is not None:
            groups = match.groups()
            if (groups[-4], groups[-2]) == line.known.said:
                plain.append(line)
                read.append(groups)
    made = _results(plain, read) if plain else []
    if made is None:
        # Which of them it was is found out by halves.
        half = len(plain) // 2
        made = [None] if half == 0 else by_heart(plain[:half]) + by_heart(plain[half:])
    if len(plain) == len(lines):
        return made
    by_key = dict(zip((id(line) for line in plain), made, strict=True))
    return [by_key.get(id(line)) for line in lines]


def _results(lines: Sequence[Line], read: Sequence[tuple[str, ...]]) -> list[Verified | None] | None:
    """All results of lines that are of their form; None if one of them is not sound."""
    times, gpu, measured, *scores, predictions, seed, _, loss, _, wall = zip(*read, strict=True)
    try:
        finished_at = list(map(datetime.fromisoformat, times))
    except ValueError:
        return None
    numbers: list[list[float]] = []
    for texts in (*scores, loss, gpu, wall):
        # A minus before zero is written by nothing here.
        numbers.append(values := [float(text) + 0.0 for text in texts])
        if list(map(repr, values)) != list(texts):
            return None
    *metrics, train_loss, gpu_seconds, wall_seconds = numbers
    seeds = list(map(int, seed))
    if (
        min(map(min, metrics)) < -LARGEST_SCORE
        or max(map(max, metrics)) > LARGEST_SCORE
        or min(gpu_seconds) < 0
        or min(wall_seconds) < 0
        or max(seeds) > _LARGEST_SEED
    ):
        return None
    sha256 = hashlib.sha256
    made: list[Verified | None] = []
    for (key, data, known, provenance, _), number, text, hash_, values, loss_, gpu_, wall_, time in zip(
        lines, seeds, measured, predictions, zip(*metrics, strict=True),
        train_loss, gpu_seconds, wall_seconds, finished_at, strict=True,
    ):  # fmt: skip
        science = sha256(f'{{"metrics":{text},"predictions":"{hash_}","status":"done"}}'.encode()).hexdigest()
        if key != f"runs/{known.digest}/{number}.{science[:12]}.{sha256(data).hexdigest()[:12]}.json":
            return None
        result = {
            "schema_version": 1,
            "cell": known.cell,
            "digest": known.digest,
            "seed": number,
            "wall_seconds": wall_,
            "gpu_seconds": gpu_,
            "finished_at": time,
            "provenance": provenance,
            "status": "done",
            "metrics": dict(zip(known.metrics, values, strict=True)),
            "validation_rows": known.validation_rows,
            "train_rows": known.train_rows,
            "steps": known.steps,
            "train_loss": loss_,
            "predictions": hash_,
        }
        made.append(Verified(key, unchecked(RunResult, result)))
    return made


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
