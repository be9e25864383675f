"""`Snapshots`: results of a store packed into few objects, so that reading 100,000 of them is not 100,000 requests.

Law: a snapshot is a copy and proves nothing. Which results exist is what a listing of `runs/` says; of a result that is
listed a snapshot may supply the bytes, and these are verified against the result's own key as if they had come from
there. What is damaged, foreign or gone is passed over: whatever no snapshot supplies is read where it is.

    snapshots/<sha256>.<rows>.parquet       columns `key` and `body`, one row a result, sorted by key

Parquet is read and written by pyarrow, which the core does without: there results are read one by one.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain
from typing import Any, Final

from jobs.columns import Batch, keys_of
from jobs.errors import ConfigurationError, TransientError
from jobs.found import Damaged, NotVerifiedError, Verified
from jobs.patient import PatientObjects
from jobs.recall import Recall

PREFIX: Final = "snapshots/"
KEY: Final = re.compile(r"snapshots/(?P<sha256>[0-9a-f]{64})\.(?P<rows>[1-9][0-9]{0,7})\.parquet")

ROWS: Final = 50_000
"""Most results of one snapshot; they compress to 100 to 200 bytes each."""
GROUP_ROWS: Final = 2_000
"""Results that are unpacked at a time: some megabytes."""
GROUP_BYTES: Final = 2**24
"""The same, where results are far larger than usual; each has at most a megabyte."""
MOST_GROUP_BYTES: Final = 2**26
"""What claims to be more was not written here."""
AHEAD: Final = 5_000
"""A snapshot of so many is read while the results are still being listed; a listing of fewer is soon over."""
WORTH: Final = 200
"""A snapshot is read where one in so many of its results may be wanted: a request takes as long as unpacking these."""

Choice = Callable[[list[str | None]], list[int]]
"""The places of those among some keys that are wanted."""


class Snapshots:
    """The snapshots of a store.

    Args:
        objects: the store's objects.
        recall: what verifies results.
    """

    def __init__(self, objects: PatientObjects, recall: Recall) -> None:
        self._objects = objects
        self._recall = recall
        self._read: set[str] = set()

    def keys(self, foreign: list[Damaged]) -> list[str]:
        """Keys of snapshots, those of the most results first; `foreign` takes up what else is among them.

        Raises:
            TransientError, ConfigurationError: they cannot be listed.
        """
        listed = self._objects.keys(PREFIX)
        foreign += [Damaged(key, "the name is no snapshot's") for key in listed if not KEY.fullmatch(key)]
        return sorted((key for key in listed if KEY.fullmatch(key)), key=lambda key: (-rows_in(key), key))

    def ahead(self, digests: Collection[str]) -> Iterator[Batch | Verified]:
        """What large snapshots have of these cells, before it is known what is listed: so it is for the listing to say
        which of it exists. Nothing is an error, and nothing named: what is wrong with a snapshot is met by `supply`.
        """
        if not can_read():
            return
        with suppress(ConfigurationError, TransientError):
            for key in self.keys([]):
                if AHEAD <= rows_in(key) <= len(digests) * WORTH:
                    wrong: list[Damaged] = []
                    for rows in self._groups(key, _of_cells(digests), wrong):
                        yield from self._recall.those_verified(rows)
                    if not wrong:
                        self._read.add(key)

    def supply(self, wanted: set[str], damaged: list[Damaged]) -> Iterator[Batch | Verified]:
        """The results under `wanted`, as far as snapshots have them; each is taken out of `wanted` first.

        Args:
            wanted: keys of results, as listed.
            damaged: takes up snapshots that were passed over, and why.

        Nothing here is an error: whoever may not read snapshots, or cannot just now, reads the objects.
        """
        if not wanted:
            return
        try:
            keys = self.keys(damaged)
        except (ConfigurationError, TransientError) as error:
            damaged.append(Damaged(PREFIX, error.problem))
            return
        if not keys:
            return
        if not can_read():
            missing = "pyarrow, which reads snapshots, is not installed: pip install 'partial-reinit[aggregate]'"
            damaged.append(Damaged(PREFIX, missing))
            return
        # What was read ahead has nothing more to give.
        seen = set(self._read)
        keys = [key for key in keys if key not in seen]
        while keys:
            seen.add(key := keys.pop(0))
            if len(wanted) * WORTH < rows_in(key):
                continue
            wrong: list[Damaged] = []
            yield from self.verified(key, wanted, wrong)
            if wrong and key not in (now := self._listed(keys, key)):
                # Compacted away meanwhile, by a process that wrote what it held into another one.
                keys = [each for each in now if each not in seen]
            else:
                damaged += wrong

    def verified(self, key: str, wanted: set[str], damaged: list[Damaged]) -> Iterator[Batch | Verified]:
        """What one snapshot has of `wanted`, from which it is taken out."""
        for rows in self._groups(key, _among(wanted), damaged):
            # What is refused may be damage of the object: that is for a read of the object to say.
            for verified in self._recall.those_verified(rows):
                wanted.difference_update(keys_of(verified))
                yield verified

    def _listed(self, keys: list[str], key: str) -> list[str]:
        """What is there now; where that cannot be said, what was there before."""
        try:
            return self.keys([])
        except (ConfigurationError, TransientError):
            return [*keys, key]

    def bodies(self, key: str, wanted: Collection[str], damaged: list[Damaged]) -> Iterator[tuple[str, bytes]]:
        """What one snapshot says that the objects under `wanted` hold, not verified. Memory: one row group."""
        return chain.from_iterable(self._groups(key, _among(wanted), damaged))

    def _groups(self, key: str, choice: Choice, damaged: list[Damaged]) -> Iterator[Iterable[tuple[str, bytes]]]:
        """The same by row group."""
        try:
            read = self._objects.read(key, _whole)
        except (ConfigurationError, TransientError) as error:
            read = Damaged(key, error.problem)
        if isinstance(read, Damaged):
            damaged.append(read)
            return
        from pyarrow import ArrowException

        try:
            yield from _row_groups(key, read, choice)
        except (ArrowException, NotVerifiedError, OSError, ValueError) as error:
            damaged.append(Damaged(key, f"not a snapshot of this program: {' '.join(str(error).split())[:200]}"))

    def write(self, rows: Iterable[tuple[str, bytes]]) -> str:
        """One snapshot of these results, read back; returns its key.

        Raises:
            TransientError: not known to be kept.
            ConfigurationError: the store refuses.
        """
        data, count = packed(rows)
        return self._objects.write(f"{PREFIX}{hashlib.sha256(data).hexdigest()}.{count}.parquet", data)


def _of_cells(digests: Container[str]) -> Choice:
    """Keys of all results of some cells."""
    return lambda keys: [place for place, key in enumerate(keys) if key is not None and key[5:69] in digests]


def _among(wanted: Container[str]) -> Choice:
    """These keys."""
    return lambda keys: [place for place, key in enumerate(keys) if key in wanted]


def can_read() -> bool:
    """Whether pyarrow is installed."""
    return find_spec("pyarrow") is not None


def rows_in(key: str) -> int:
    """How many results a snapshot's key says it holds."""
    return int(key.split(".")[1])


def packed(rows: Iterable[tuple[str, bytes]]) -> tuple[bytes, int]:
    """A snapshot's bytes, and how many results it holds. Memory: one row group and the compressed whole.

    Args:
        rows: key and body of each result, sorted by key: results of one cell, which are alike, then compress together.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("body", pa.binary(), nullable=False)])
    buffer, count = io.BytesIO(), 0
    options: dict[str, Any] = {
        "compression": "zstd",
        "use_dictionary": False,
        "write_statistics": False,
        "data_page_size": 2**24,
    }
    with ParquetWriter(buffer, schema, **options) as writer:
        for group in _groups(rows):
            writer.write_table(pa.table(list(zip(*group, strict=True)), schema=schema))
            count += len(group)
    return buffer.getvalue(), count


def _groups(rows: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    group: list[tuple[str, bytes]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row[1])
        if len(group) == GROUP_ROWS or size > GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _whole(key: str, data: bytes) -> bytes:
    if (got := hashlib.sha256(data).hexdigest()) not in key:
        raise NotVerifiedError(f"content hashes to {got[:12]}, the key says {key.removeprefix(PREFIX)[:12]}")
    return data


def _row_groups(key: str, data: bytes, choice: Choice) -> Iterator[list[tuple[str, bytes]]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    # Whoever wrote this may mean harm: what it claims about itself bounds what is unpacked.
    file = ParquetFile(pa.BufferReader(data), pre_buffer=False)
    names = {field.name: field.type for field in file.schema_arrow}
    if names != {"key": pa.string(), "body": pa.binary()}:
        raise NotVerifiedError(f"its columns are {names}")
    if file.metadata.num_rows != rows_in(key):
        raise NotVerifiedError(f"it has {file.metadata.num_rows} rows, the key says {rows_in(key)}")
    for number in range(file.metadata.num_row_groups):
        if (size := file.metadata.row_group(number).total_byte_size) > MOST_GROUP_BYTES:
            raise NotVerifiedError(f"a row group of {size:,} bytes")
        # By way of numpy, which is several times as quick as `to_pylist`.
        keys = file.read_row_group(number, columns=["key"])["key"].to_numpy().tolist()
        chosen = choice(keys)
        if not chosen:
            continue
        bodies = file.read_row_group(number, columns=["body"])["body"]
        if len(chosen) < len(keys):
            bodies = bodies.take(pa.array(chosen))
            keys = [keys[place] for place in chosen]
        yield [(name, body) for name, body in zip(keys, bodies.to_numpy().tolist(), strict=True) if body is not None]
