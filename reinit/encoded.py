"""Tokens of a whole split in a few arrays: the ids of all rows one after another, and where each row begins.

Law: of what comes as bytes nothing is believed: sizes are compared before anything is allocated, and every number is
checked against the task and the vocabulary. No pickle. Rows are views; a row's ids are Python's ints once asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, StringConstraints, ValidationError

from jobs.cell import canonical
from jobs.found import NotVerifiedError, explain
from jobs.tasks import Frozen, Task

FORMAT: Final = 1
"""Of the bytes, and of what they mean: raised when rows of the same revision come to be read or tokenised otherwise."""

MOST_HEADER_BYTES: Final = 2**16

Width = Literal[2, 4]
"""Bytes of an id."""

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Encoded:
    """N rows of T tokens together."""

    ids: NDArray[np.uint16] | NDArray[np.uint32]
    """[T]"""
    types: NDArray[np.uint8] | None
    """[T]: which of a pair's texts a token is of; None where the tokeniser does not say."""
    starts: NDArray[np.int64]
    """[N + 1]: row i is the tokens from `starts[i]` to `starts[i + 1]`."""
    labels: NDArray[np.float64]
    """[N]: class index or value."""

    @classmethod
    def of(
        cls, rows: Iterable[tuple[Sequence[int], Sequence[int] | None]], labels: Sequence[float], width: Width
    ) -> Self:
        """Pack the ids and types of rows, taking one row at a time."""
        all_ids: list[NDArray[Any]] = []
        all_types: list[NDArray[np.uint8]] = []
        for ids, types in rows:
            all_ids.append(np.array(ids, f"u{width}"))
            if types is not None:
                all_types.append(np.array(types, np.uint8))
        starts = np.cumsum([0, *map(len, all_ids)])
        packed_types = np.concatenate(all_types) if all_types else None
        return cls(np.concatenate(all_ids), packed_types, starts, np.array(labels, np.float64))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def row(self, index: int) -> tuple[memoryview, memoryview | None, float]:
        """Ids, types and label of one row."""
        ids, types, starts = self._views
        row = slice(starts[index], starts[index + 1])
        return ids[row], None if types is None else types[row], float(self.labels[index])

    @cached_property
    def _views(self) -> tuple[memoryview, memoryview | None, memoryview]:
        # Many times as fast to slice as arrays.
        return self.ids.data, None if self.types is None else self.types.data, self.starts.data


class _Split(Frozen):
    """What the header says of a split."""

    name: str
    rows: NonNegativeInt
    tokens: NonNegativeInt
    id_bytes: Width
    has_types: bool

    @property
    def size(self) -> int:
        return self.rows * (4 + 8) + self.tokens * (self.id_bytes + self.has_types)


class _Header(Frozen):
    """The first line."""

    schema_version: Literal[1] = FORMAT
    determined_by: Hash
    rows_sha256: Hash
    splits: Annotated[tuple[_Split, ...], Field(min_length=1)]


def encode(splits: dict[str, Encoded], determined_by: str, rows_sha256: str) -> bytes:
    """A line of JSON, then of each split, little-endian: lengths uint32 [N], labels float64 [N], ids [T], types [T]."""
    header = _Header(
        determined_by=determined_by,
        rows_sha256=rows_sha256,
        splits=tuple(
            _Split(
                name=name,
                rows=len(each),
                tokens=len(each.ids),
                id_bytes=2 if each.ids.itemsize == 2 else 4,
                has_types=each.types is not None,
            )
            for name, each in splits.items()
        ),
    )
    parts = [canonical(header.model_dump(mode="json")), b"\n"]
    for each in splits.values():
        ids = each.ids.astype(f"<u{each.ids.itemsize}")
        parts += [np.diff(each.starts).astype("<u4").tobytes(), each.labels.astype("<f8").tobytes(), ids.tobytes()]
        parts += [] if each.types is None else [each.types.tobytes()]
    return b"".join(parts)


def decode(
    data: bytes, determined_by: str, task: Task, max_length: int, vocabulary: int
) -> tuple[dict[str, Encoded], str]:
    """The splits, train first, and the rows' sha256, if they are what this task can have.

    Raises:
        NotVerifiedError: they are not, or these are no tokens at all.
    """
    line = data[:MOST_HEADER_BYTES].partition(b"\n")[0]
    try:
        header = _Header.model_validate_json(line)
    except ValidationError as error:
        raise NotVerifiedError(explain(error)) from error
    if header.determined_by != determined_by:
        raise NotVerifiedError("they are of other rows, another tokeniser or another length")
    expected = [("train", task.train_rows), *zip(task.splits, task.validation_rows, strict=True)]
    if (got := [(split.name, split.rows) for split in header.splits]) != expected:
        raise NotVerifiedError(f"they have the rows {got}, the task {expected}")
    size = len(line) + 1 + sum(split.size for split in header.splits)
    if len(data) != size:
        raise NotVerifiedError(f"they have {len(data):,} bytes, their header says {size:,}")
    arrays = _Arrays(data, len(line) + 1)
    splits = {split.name: _read(split, arrays) for split in header.splits}
    for name, each in splits.items():
        _check(name, each, task, max_length, vocabulary)
    return splits, header.rows_sha256


class _Arrays:
    """Arrays that follow one another in bytes."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = data, start

    def take(self, dtype: str, count: int) -> NDArray[Any]:
        # A copy, in the machine's own order of bytes, that libraries may take for their own.
        array = np.frombuffer(self._data, dtype, count, self._start).astype(dtype[1:])
        self._start += array.nbytes
        return array


def _read(split: _Split, arrays: _Arrays) -> Encoded:
    lengths, labels = arrays.take("<u4", split.rows), arrays.take("<f8", split.rows)
    ids = arrays.take(f"<u{split.id_bytes}", split.tokens)
    types = arrays.take("<u1", split.tokens) if split.has_types else None
    starts = np.zeros(split.rows + 1, np.int64)
    np.cumsum(lengths, dtype=np.int64, out=starts[1:])
    return Encoded(ids, types, starts, labels)


def _check(name: str, split: Encoded, task: Task, max_length: int, vocabulary: int) -> None:
    def wrong() -> Iterator[str]:
        lengths = np.diff(split.starts)
        if split.starts[-1] != len(split.ids) or lengths.min() < 1 or lengths.max() > max_length:
            yield f"its rows have {lengths.min():,} to {lengths.max():,} and together {split.starts[-1]:,} tokens"
        if len(split.ids) and split.ids.max() >= vocabulary:
            yield f"it has the token {split.ids.max()} of a vocabulary of {vocabulary:,}"
        classes = None if task.labels is None else np.arange(len(task.labels))
        if not (np.isfinite(split.labels) if classes is None else np.isin(split.labels, classes)).all():
            yield "it has a label that the task has not"

    if reason := next(wrong(), ""):
        raise NotVerifiedError(f"split {name}: {reason}")
