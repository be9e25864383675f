"""`by_heart`: results of known cells and provenances, verified by column.

Law: what is given here, `jobs.found.verify` gives too; of whatever is odd nothing is said, and that is for `verify`.
Without its cell and its provenance a result is a short line, of which the form is known but for some numbers, a time
and a hash. A line of that form, with each number and time written in the one way that they are, is the only way to
write that result: no field besides, none twice, none in another order.

Results are judged many at a time, and all of them are sound or nothing is said of any: then halves of them are judged.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple

from pydantic_core import from_json, to_json

from jobs.cell import Cell, Model, Recipe, Treatment, canonical
from jobs.columns import Batch, Columns
from jobs.result import LARGEST_SCORE, LONGEST_SECONDS, Provenance
from jobs.tasks import Task

_CELL_FIELDS: Final = sorted(Cell.model_fields)
_LARGEST_SEED: Final = 2**32 - 1
_NUMBER: Final = r"([-+.e0-9]+)"
"""What a number is made of; that it is one, and written in the one way, is seen by writing it again."""
# Without a fraction, or with one of six digits that are not all zero: as pydantic writes it.
_TIME: Final = r"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.(?!000000)[0-9]{6})?Z)"
_WRITTEN_OTHERWISE: Final = ("e", "0.0000", "-0.0")
"""Where one of these is among numbers, pydantic's JSON may not be Python's: 1e-05, or 1e-5. Else it is (`_numbers`)."""


class Known(NamedTuple):
    """What all finished runs of one cell share."""

    head: bytes
    """The object up to and with its digest."""
    cell: Cell
    digest: str
    metrics: tuple[str, ...]
    """Names of the task's metrics, in the order of canonical JSON."""
    form: re.Pattern[str]
    """Of lines, one below another: its groups are `finished_at`, `gpu_seconds`, all metrics, each metric,
    `predictions`, `seed`, `steps`, `train_loss`, `train_rows` and `wall_seconds`."""
    steps: int
    said: tuple[str, str]
    """`steps` and `train_rows`, as a line has them."""


Line = tuple[str, bytes, Known, Provenance, bytes]
"""A result without what is known of it: its key, its bytes, both of what is known, and of its bytes what comes before
the provenance, a tab, and what comes after."""


def known_of(cell: Cell) -> Known:
    """What there is to know of a cell."""
    metrics, form = _of_task(cell.task)
    steps = cell.steps
    return Known(
        head=b'{"cell":%s,"digest":"%s"' % (_written(cell), cell.digest.encode()),
        cell=cell,
        digest=cell.digest,
        metrics=metrics,
        form=form,
        steps=steps,
        said=(str(steps), str(cell.rows)),
    )


@lru_cache(1024)
def _of_task(task: Task) -> tuple[tuple[str, ...], re.Pattern[str]]:
    metrics = tuple(sorted(f"{split}/{metric}" for split in task.splits for metric in task.metrics))
    validation_rows = dict(zip(task.splits, task.validation_rows, strict=True))
    return metrics, _form(metrics, canonical(validation_rows).decode())


def _written(cell: Cell) -> bytes:
    """Canonical JSON of a cell; of its parts, which cells have in common, each is written once."""
    each = []
    for name in _CELL_FIELDS:
        value = getattr(cell, name)
        each.append(f'"{name}":{value if type(value) is int else _part(value)}')
    return f"{{{','.join(each)}}}".encode()


@lru_cache(1024)
def _part(value: Model | Recipe | Task | Treatment | str) -> str:
    return canonical(value if isinstance(value, str) else value.model_dump(mode="json")).decode()


@lru_cache(256)
def _form(metrics: tuple[str, ...], validation_rows: str) -> re.Pattern[str]:
    each = ",".join(f"{re.escape(json.dumps(name, ensure_ascii=False))}:{_NUMBER}" for name in metrics)
    return re.compile(
        rf'^,"finished_at":"{_TIME}","gpu_seconds":{_NUMBER},"metrics":(\{{{each}\}}),"predictions":"([0-9a-f]{{64}})"'
        rf'\t,"schema_version":1,"seed":(0|[1-9][0-9]{{0,9}}),"status":"done","steps":([0-9]+),"train_loss":{_NUMBER},'
        rf'"train_rows":([0-9]+),"validation_rows":{re.escape(validation_rows)},"wall_seconds":{_NUMBER}\}}$',
        re.MULTILINE,
    )


def by_heart(lines: Sequence[Line]) -> tuple[list[Batch], list[Line]]:
    """The results of these lines, and the lines of which something is odd, whatever it is. Lines are of one form."""
    if (batch := _batch(lines)) is not None:
        return [batch], []
    # Diverged runs, and results with more metrics than asked for, are of another form and no rarity.
    plain: list[Line] = []
    others: list[Line] = []
    for line in lines:
        is_plain = line[2].form.fullmatch(line[4].decode("ascii", "replace"))
        (plain if is_plain else others).append(line)
    batches, odd = _by_halves(plain)
    return batches, odd + others


def _by_halves(lines: Sequence[Line]) -> tuple[list[Batch], list[Line]]:
    """The same, where it has to be found out which of them is odd."""
    if not lines:
        return [], []
    if (batch := _batch(lines)) is not None:
        return [batch], []
    if len(lines) == 1:
        return [], list(lines)
    half = len(lines) // 2
    (batches, odd), (more, odder) = _by_halves(lines[:half]), _by_halves(lines[half:])
    return batches + more, odd + odder


def _batch(lines: Sequence[Line]) -> Batch | None:
    """All results of lines of one form; None if one of them is not sound."""
    keys, bodies, known, provenances, texts = zip(*lines, strict=True)
    try:
        text = b"\n".join(texts).decode("ascii")
    except UnicodeDecodeError:
        return None
    # The form holds for one line at a time. So where it is found as often as there are lines, it is that of each.
    read = known[0].form.findall(text)
    if len(read) != len(lines) or text.count("\n") != len(lines) - 1:
        return None
    times, gpu, measured, *scores, predictions, seed, steps, loss, rows, wall = zip(*read, strict=True)
    try:
        finished_at = list(map(datetime.fromisoformat, times))
    except ValueError:
        return None
    numbers = [_numbers(each) for each in (*scores, loss, gpu, wall)]
    seeds = list(map(int, seed))
    if (
        list(zip(steps, rows, strict=True)) != [each.said for each in known]
        or None in numbers
        or max(seeds) > _LARGEST_SEED
    ):
        return None
    *metrics, train_losses, gpu_seconds, wall_seconds = (each for each in numbers if each is not None)
    if (
        min(map(min, metrics)) < -LARGEST_SCORE
        or max(map(max, metrics)) > LARGEST_SCORE
        or min(map(min, (gpu_seconds, wall_seconds))) < 0
        or max(map(max, (gpu_seconds, wall_seconds))) > LONGEST_SECONDS
        or _keys(known, seeds, measured, predictions, bodies) != list(keys)
    ):
        return None
    columns = Columns(
        cells=[each.cell for each in known],
        provenances=list(provenances),
        seeds=array("I", seeds),
        steps=[each.steps for each in known],
        finished_at=finished_at,
        wall_seconds=array("d", wall_seconds),
        gpu_seconds=array("d", gpu_seconds),
        train_losses=array("d", train_losses),
        predictions=bytearray("".join(predictions), "ascii"),
        metrics=[each.metrics for each in known],
        first_scores=array("Q", range(0, len(lines) * len(metrics), len(metrics))),
        scores=array("d", chain.from_iterable(zip(*metrics, strict=True))),
    )
    return Batch(keys, columns)


def _keys(
    known: Sequence[Known],
    seeds: Sequence[int],
    measured: Sequence[str],
    predictions: Sequence[str],
    bodies: Sequence[bytes],
) -> list[str]:
    """Where these results belong, by what is in them."""
    sha256 = hashlib.sha256
    science = [
        sha256(f'{{"metrics":{metrics},"predictions":"{hash_}","status":"done"}}'.encode()).hexdigest()[:12]
        for metrics, hash_ in zip(measured, predictions, strict=True)
    ]
    return [
        f"runs/{each.digest}/{seed}.{hash_}.{sha256(body).hexdigest()[:12]}.json"
        for each, seed, hash_, body in zip(known, seeds, science, bodies, strict=True)
    ]


def _numbers(texts: Sequence[str]) -> list[float] | None:
    """The floats that these are the one form of, which is Python's; None where one is not.

    pydantic reads and writes a list several times as quickly as Python does. Both write the shortest decimal that is
    read as the same float, and of several the nearest, with an exponent only outside of 1e-4 to 1e16. What it would
    write in another way than it came is for Python to judge.
    """
    joined = f"[{','.join(texts)}]"
    if not any(each in joined for each in _WRITTEN_OTHERWISE):
        with suppress(ValueError):
            values: list[float] = from_json(joined)
            if set(map(type, values)) == {float} and to_json(values) == joined.encode():
                return values
    try:
        # A minus before zero is written by nothing here.
        values = [float(text) + 0.0 for text in texts]
    except ValueError:
        return None
    return values if list(map(repr, values)) == list(texts) else None
