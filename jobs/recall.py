"""`Recall`: verifies results like `jobs.found.verify`, and quicker where cell and provenance have verified before.

Law: what it accepts, `verify` accepts, as the same result; whatever it does not know by heart is `verify`'s to judge.
Results of one cell share all but a few numbers, and those of one pod their provenance. Both are learned once, as bytes
and as values. Of each result the numbers are read, and the object is written again from them: where that gives the same
bytes, they are in the one form that results are written in, with nothing besides and no key twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from jobs.cell import Cell, canonical
from jobs.found import Verified, verify
from jobs.result import LARGEST_SCORE, Provenance, RunResult

_FIELDS: Final = set(RunResult.model_fields)
_PROVENANCE: Final = b',"provenance":'
_SCHEMA: Final = b',"schema_version":1,'
_HEX: Final = "0123456789abcdef"
_LARGEST_SEED: Final = 2**32 - 1

MOST_KNOWN: Final = 4096
"""Cells, and provenances, that are remembered at a time. Keys come sorted, so the results of a cell come together."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What all finished runs of one cell share."""

    head: bytes
    """The object up to and with its digest."""
    cell: Cell
    metrics: tuple[str, ...]
    """Names of the task's metrics, in the order of canonical JSON."""
    pattern: str
    """Metrics as JSON, to fill in with their values."""
    rows: str
    """`train_rows` and `validation_rows` as they end an object."""
    validation_rows: dict[str, int]
    steps: int


class Recall:
    """Verifies many results, from one thread or several; quickest for those of one cell one after another.

    Args:
        cells: cells that need not be learned, since a study has them, by digest.
    """

    def __init__(self, cells: Mapping[str, Cell] = MappingProxyType({})) -> None:
        self._given = cells
        self._cells: dict[str, _Known] = {}
        self._provenances: dict[bytes, Provenance] = {}

    def verify(self, key: str, data: bytes) -> Verified:
        """What `jobs.found.verify` gives.

        Raises:
            NotVerifiedError: as `jobs.found.verify` does.
        """
        digest = key[5:69]
        known = self._cells.get(digest) or self._known(digest)
        result = None if known is None else self._by_heart(known, key, data)
        return self._in_full(key, data) if result is None else Verified(key, result)

    def _known(self, digest: str) -> _Known | None:
        if (known := self._cells.get(digest)) is None and (cell := self._given.get(digest)) is not None:
            known = self._learn(cell)
        return known

    def _learn(self, cell: Cell) -> _Known:
        if len(self._cells) >= MOST_KNOWN:
            self._cells.clear()
        self._cells[cell.digest] = known = _of(cell)
        return known

    def _in_full(self, key: str, data: bytes) -> Verified:
        verified = verify(key, data)
        result = verified.result
        if not isinstance(result, RunResult):
            return verified
        known = self._known(result.digest) or self._learn(result.cell)
        provenance = self._provenance(canonical(result.provenance.model_dump(mode="json"))) or result.provenance
        # However many results of one cell come, the cell is in memory once.
        return Verified(key, _made({**result.__dict__, "cell": known.cell, "provenance": provenance}))

    def _provenance(self, data: bytes) -> Provenance | None:
        """What these bytes are the one form of; None where they are of nothing."""
        if (provenance := self._provenances.get(data)) is None:
            try:
                provenance = Provenance.model_validate_json(data, strict=True)
            except ValidationError:
                return None
            if canonical(provenance.model_dump(mode="json")) != data:
                return None
            if len(self._provenances) >= MOST_KNOWN:
                self._provenances.clear()
            self._provenances[data] = provenance
        return provenance

    def _by_heart(self, known: _Known, key: str, data: bytes) -> RunResult | None:
        """The result, if all that is unknown of it are its numbers, and these are sound; else None."""
        head = len(known.head)
        begin = data.find(_PROVENANCE, head)
        end = data.rfind(_SCHEMA)
        if not data.startswith(known.head) or (provenance := self._provenance(data[begin + 14 : end])) is None:
            return None
        try:
            read: dict[str, Any] = from_json(b"{" + data[head + 1 : begin] + data[end:])
            metrics: dict[str, float] = read["metrics"]
            predictions, finished_at, seed = read["predictions"], read["finished_at"], read["seed"]
            values = [metrics[name] + 0.0 for name in known.metrics]
            train_loss, wall, gpu = read["train_loss"] + 0.0, read["wall_seconds"] + 0.0, read["gpu_seconds"] + 0.0
            # Without a fraction, or with one of six digits that are not all zero: as pydantic writes it.
            when = datetime.fromisoformat(finished_at)
            measured = known.pattern % tuple(map(repr, values))
            if not (
                finished_at == when.isoformat()[:-6] + "Z"
                and len(predictions) == 64
                and not predictions.strip(_HEX)
                and type(seed) is int
                and 0 <= seed <= _LARGEST_SEED
                and wall >= 0
                and gpu >= 0
                and min(values) >= -LARGEST_SCORE
                and max(values) <= LARGEST_SCORE
                and math.isfinite(train_loss + wall + gpu)
            ):
                return None
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            return None
        text = (
            f',"finished_at":"{finished_at}","gpu_seconds":{gpu!r},"metrics":{measured},"predictions":"{predictions}"'
        )
        rest = (
            f'"seed":{seed},"status":"done","steps":{known.steps},"train_loss":{train_loss!r},'
            f'{known.rows},"wall_seconds":{wall!r}}}'
        )
        if data[head:begin] != text.encode() or data[end + len(_SCHEMA) :] != rest.encode():
            return None
        body = hashlib.sha256(data).hexdigest()[:12]
        science = hashlib.sha256(
            f'{{"metrics":{measured},"predictions":"{predictions}","status":"done"}}'.encode()
        ).hexdigest()[:12]
        if key != f"runs/{known.cell.digest}/{seed}.{science}.{body}.json":
            return None
        return _made(
            {
                "schema_version": 1,
                "cell": known.cell,
                "digest": known.cell.digest,
                "seed": seed,
                "wall_seconds": wall,
                "gpu_seconds": gpu,
                "finished_at": when,
                "provenance": provenance,
                "status": "done",
                "metrics": dict(zip(known.metrics, values, strict=True)),
                "validation_rows": known.validation_rows,
                "train_rows": known.cell.rows,
                "steps": known.steps,
                "train_loss": train_loss,
                "predictions": predictions,
            }
        )


def _of(cell: Cell) -> _Known:
    task = cell.task
    metrics = tuple(sorted(f"{split}/{metric}" for split in task.splits for metric in task.metrics))
    validation_rows = dict(zip(task.splits, task.validation_rows, strict=True))
    quoted = [json.dumps(name, ensure_ascii=False).replace("%", "%%") for name in metrics]
    return _Known(
        head=b'{"cell":' + canonical(cell.model_dump(mode="json")) + f',"digest":"{cell.digest}"'.encode(),
        cell=cell,
        metrics=metrics,
        pattern="{" + ",".join(f"{name}:%s" for name in quoted) + "}",
        rows=f'"train_rows":{cell.rows},"validation_rows":{canonical(validation_rows).decode()}',
        validation_rows=validation_rows,
        steps=cell.steps,
    )


def _made(values: dict[str, Any]) -> RunResult:
    """A result of values that need no validation, made the way that a copy is."""
    made = RunResult.__new__(RunResult)
    made.__setstate__(
        {
            "__dict__": values,
            "__pydantic_fields_set__": _FIELDS,
            "__pydantic_extra__": None,
            "__pydantic_private__": None,
        }
    )
    return made
