"""`Recall`: verifies results like `jobs.found.verify`, and quicker where cell and provenance have verified before.

Law: what it accepts, `verify` accepts, as the same result; whatever it does not know by heart is `verify`'s to judge.
Results of one cell share all but a few numbers, and those of one pod their provenance. Both are learned once, as bytes
and as values. Of each result the numbers are read, and the object is written again from them: where that gives the same
bytes, they are in the one form that results are written in, with nothing besides and no key twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

from pydantic import ValidationError

from jobs.byheart import Known, Line, by_heart, known_of
from jobs.cell import Cell, canonical
from jobs.columns import Batch, moved, unchecked
from jobs.found import NotVerifiedError, Verified, verify
from jobs.result import Provenance, RunResult

_PROVENANCE: Final = b',"provenance":'
_SCHEMA: Final = b',"schema_version":1,'

_HOST: Final = re.compile(rb',"host":"([A-Za-z0-9_.-]*)"')
"""A host that JSON writes as it is. Before it there are only texts, in which a quote is never without a backslash."""

MOST_KNOWN: Final = 4096
"""Cells, and provenances, that are remembered at a time. Keys come sorted, so the results of a cell come together."""


class Recall:
    """Verifies many results, from one thread or several; quickest for those of one cell one after another.

    Args:
        cells: cells that need not be learned, since a study has them, by digest.
    """

    def __init__(self, cells: Mapping[str, Cell] = MappingProxyType({})) -> None:
        self._given = cells
        self._cells: dict[str, Known] = {}
        self._provenances: dict[bytes, Provenance] = {}
        self._elsewhere: dict[tuple[bytes, bytes], Provenance] = {}

    def verify(self, key: str, data: bytes) -> Verified:
        """What `jobs.found.verify` gives.

        Raises:
            NotVerifiedError: as `jobs.found.verify` does.
        """
        for lines in self._lines([(key, data)], lambda *_: None):
            for batch in by_heart(lines)[0]:
                return Verified(key, batch.columns.result(0))
        return self._in_full(key, data)

    def those_verified(self, rows: Iterable[tuple[str, bytes]]) -> Iterator[Batch | Verified]:
        """What `verify` gives of these, in any order, without those that it refuses. Memory: all of them."""
        in_full: list[Verified] = []

        def at_length(key: str, data: bytes) -> None:
            with suppress(NotVerifiedError):
                in_full.append(self._in_full(key, data))

        for lines in self._lines(rows, at_length):
            batches, odd = by_heart(lines)
            yield from batches
            for line in odd:
                at_length(line[0], line[1])
        yield from in_full

    def _known(self, digest: str) -> Known | None:
        if (known := self._cells.get(digest)) is None and (cell := self._given.get(digest)) is not None:
            known = self._learn(cell)
        return known

    def _learn(self, cell: Cell) -> Known:
        if len(self._cells) >= MOST_KNOWN:
            self._cells.clear()
        self._cells[cell.digest] = known = known_of(cell)
        return known

    def _in_full(self, key: str, data: bytes) -> Verified:
        verified = verify(key, data)
        result = verified.result
        if not isinstance(result, RunResult):
            return verified
        known = self._known(result.digest) or self._learn(result.cell)
        provenance = self._provenance(canonical(result.provenance.model_dump(mode="json"))) or result.provenance
        # However many results of one cell come, the cell is in memory once.
        return Verified(key, unchecked(RunResult, {**result.__dict__, "cell": known.cell, "provenance": provenance}))

    def _provenance(self, data: bytes) -> Provenance | None:
        """What these bytes are the one form of; None where they are of nothing."""
        if (provenance := self._provenances.get(data)) is None:
            host = _HOST.search(data)
            without = None if host is None else (data[: host.start(1)], data[host.end(1) :])
            # Another thread may forget it at any time: it is looked up once.
            if host and without and (known := self._elsewhere.get(without)):
                provenance = moved(known, host[1].decode())
            elif (provenance := _provenance(data)) is None:
                return None
            for remembered in (self._provenances, self._elsewhere):
                if len(remembered) >= MOST_KNOWN:
                    remembered.clear()
            self._provenances[data] = provenance
            # A host with a letter that JSON writes in another way is none of those that take another's place.
            if without and host and host[1].decode() == provenance.host:
                self._elsewhere[without] = provenance
        return provenance

    def _lines(self, rows: Iterable[tuple[str, bytes]], odd: Callable[[str, bytes], None]) -> list[list[Line]]:
        """Results without what is known of them, those of one form together. Each whose cell is not known, or whose
        provenance is none, is given to `odd` before the next is looked at, for which it may be learned.
        """
        alike: dict[int, list[Line]] = {}
        lines: list[Line] = []
        digest, known, head, length = "", None, b"", 0
        middle, provenance = b"", None
        for key, data in rows:
            if known is None or key[5:69] != digest:
                digest = key[5:69]
                if (known := self._cells.get(digest) or self._known(digest)) is not None:
                    head, length = known.head, len(known.head)
                    lines = alike.setdefault(id(known.form), [])
            if known is None or not data.startswith(head):
                odd(key, data)
                continue
            begin = data.find(_PROVENANCE, length)
            # Results of one pod mostly come one after another, too.
            if provenance is None or not data.startswith(middle, begin):
                middle = data[begin : data.rfind(_SCHEMA)]
                said = middle[len(_PROVENANCE) :]
                if (provenance := self._provenances.get(said) or self._provenance(said)) is None:
                    odd(key, data)
                    continue
            lines.append((key, data, known, provenance, data[length:begin] + b"\t" + data[begin + len(middle) :]))
        return [lines for lines in alike.values() if lines]


def _provenance(data: bytes) -> Provenance | None:
    try:
        provenance = Provenance.model_validate_json(data, strict=True)
    except ValidationError:
        return None
    return provenance if canonical(provenance.model_dump(mode="json")) == data else None
