"""Rows of a task, checked, and the seeded nested subset of a run; `reinit.tokens` makes tokens of them.

Law: the rows of a run depend on the task, the size and the seed's subset stream alone, so every treatment at one seed
sees the same rows, and 500 is nested in 5,000. Reading never trusts: revision, columns, labels and row counts are
checked against the task before anything trains.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jobs.cell import canonical
from jobs.errors import DataError, SpecError
from jobs.tasks import FolderSource, HubSource, PackageSource, Task
from reinit.hubdata import bound_to, described, each_row, open_splits
from reinit.places import Places, find_package_file
from reinit.streams import stream_seed

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One tokenised text or pair, with its class index or value."""

    input_ids: Sequence[int]
    token_type_ids: Sequence[int] | None
    label: float


@dataclass(frozen=True)
class Rows:
    """One split as the task defines it: `texts[i]` has one string per text column, `labels[i]` its class or value."""

    texts: list[tuple[str, ...]]
    labels: list[float]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)


@dataclass(frozen=True)
class TaskRows:
    """All rows of a task: the training split and each scored split."""

    train: Rows
    validation: dict[str, Rows]

    @property
    def characters(self) -> int:
        """Of every text."""
        return sum(
            len(text) for rows in (self.train, *self.validation.values()) for texts in rows.texts for text in texts
        )

    @property
    def sha256(self) -> str:
        """Hash of every text and label, in order."""
        digest = hashlib.sha256()
        for name, rows in {"train": self.train, **self.validation}.items():
            digest.update(canonical([name, len(rows)]))
            for row in zip(rows.texts, rows.labels, strict=True):
                digest.update(canonical(row))
        return digest.hexdigest()


def read_task(task: Task, places: Places) -> TaskRows:
    """Every row of the task, checked.

    Raises:
        DataError: a file, column, label, revision or row count is not what the task declares.
        ConfigurationError: the source's name has no place on this machine.
    """
    train, validation = _read_splits(task, places)
    if task.holdout is not None:
        if task.holdout.rows >= len(train):
            raise DataError(
                f"the holdout of task {task.name} leaves no row to train on",
                expected=f"fewer than {len(train)} rows",
                got=task.holdout.rows,
            )
        order = np.random.RandomState(task.holdout.seed).permutation(len(train))
        held = sorted(order[: task.holdout.rows].tolist())
        kept = sorted(order[task.holdout.rows :].tolist())
        validation = {task.splits[0]: _take(train, held)}
        train = _take(train, kept)
    _check_rows(task, "train", len(train), task.train_rows)
    for split, expected in zip(task.splits, task.validation_rows, strict=True):
        _check_rows(task, split, len(validation[split]), expected)
    return TaskRows(train, validation)


def rows_from(task: Task, places: Places) -> str:
    """What the rows of a task are bound to: the revision, which is checked, or where it cannot be, their files' hash.

    Raises:
        DataError: the files are not those that the task names.
        ConfigurationError: the source's name has no place on this machine.
    """
    source = task.source
    if isinstance(source, FolderSource):
        _checked_folder(task, source, places)
    elif isinstance(source, PackageSource):
        _checked_file(task, source, places)
    else:
        return bound_to(source, places)
    return source.revision


def subset(task: Task, size: int | str, seed: int) -> NDArray[np.int64]:
    """Indices of the training rows of one run: the first `size` of the seed's permutation, all of them for "full".

    One permutation per (seed, number of rows), so smaller subsets are nested in larger ones.
    """
    state = np.random.RandomState(words(stream_seed(seed, "subset")))
    order: NDArray[np.int64] = state.permutation(task.train_rows)
    return order if size == "full" else order[: int(size)]


def words(seed: int) -> list[int]:
    """A 63-bit seed as the 32-bit words that `numpy.random.RandomState` takes."""
    return [seed & 0xFFFFFFFF, seed >> 32]


def folder_revision(folder: Path, files: Sequence[str]) -> str:
    """`sha256:` of the lines `<sha256 of the file>  <file name>` in the order given: the revision of a FolderSource.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in files]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 in hex of a file's bytes.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path.name}", where=str(path), got=error.strerror) from error


def _read_splits(task: Task, places: Places) -> tuple[Rows, dict[str, Rows]]:
    source = task.source
    if isinstance(source, HubSource):
        return _read_hub(task, source, places)
    if isinstance(source, FolderSource):
        return _read_folder(task, source, places)
    return _read_package(task, source, places)


def _read_folder(task: Task, source: FolderSource, places: Places) -> tuple[Rows, dict[str, Rows]]:
    folder = _checked_folder(task, source, places)

    def read(name: str) -> Rows:
        # GLUE's quotes are literal text, never field quotes.
        return _read_table(task, folder / name, source.columns, delimiter="\t", quoting=csv.QUOTE_NONE)

    validation = {} if task.holdout else {split: read(split) for split in source.validation}
    return read(source.train), validation


def _checked_folder(task: Task, source: FolderSource, places: Places) -> Path:
    folder = places.folder(source.name)
    files = [source.train, *(split for split in source.validation if split != source.train)]
    if outside := [name for name in files if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise SpecError(
            f"a file of task {task.name} leads out of its folder",
            expected="a relative path without `..`",
            got=outside[0],
        )
    _check_revision(task, source.revision, folder_revision(folder, files), str(folder))
    return folder


def _read_package(task: Task, source: PackageSource, places: Places) -> tuple[Rows, dict[str, Rows]]:
    path = _checked_file(task, source, places)
    return _read_table(task, path, None, delimiter=",", quoting=csv.QUOTE_MINIMAL), {}


def _checked_file(task: Task, source: PackageSource, places: Places) -> Path:
    path = places.file(source.name, source.file) or find_package_file(source.name, source.file)
    _check_revision(task, source.revision, "sha256:" + file_sha256(path), str(path))
    return path


def _read_table(
    task: Task, path: Path, columns: Sequence[str] | None, *, delimiter: str, quoting: Literal[0, 3]
) -> Rows:
    """The task's rows of one text file; `columns` stands in for a header line."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
            header = list(columns or next(reader, []))
            return _rows(task, _dicts(reader, header, path), header, str(path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is not a table in UTF-8", where=str(path), got=str(error)) from error


def _read_hub(task: Task, source: HubSource, places: Places) -> tuple[Rows, dict[str, Rows]]:
    with open_splits(source, places) as load:

        def read(split: str) -> Rows:
            table = load(split)
            return _rows(task, each_row(table), list(table.column_names), f"{described(source)}, split {split}")

        validation = {} if task.holdout else {split: read(split) for split in source.validation}
        return read(source.train), validation


def _dicts(reader: Iterator[list[str]], header: Sequence[str], path: Path) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    for number, fields in enumerate(reader, start=1):
        if len(fields) != len(header):
            raise DataError(
                "a row has the wrong number of fields",
                where=f"{path}, row {number}",
                expected=f"{len(header)} ({', '.join(header)})",
                got=len(fields),
            )
        yield dict(zip(header, fields, strict=True))


def _rows(task: Task, rows: Iterable[Row], columns: list[str], where: str) -> Rows:
    """The rows that pass the task's filters, labels as class indices or values."""
    needed = [*task.text, task.label, *task.where]
    if absent := [column for column in needed if column not in columns]:
        raise DataError(f"task {task.name} names columns that the data lacks", where=where, got=absent, allowed=columns)
    classes = None if task.labels is None else {value: float(index) for index, value in enumerate(task.labels)}
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    for number, row in enumerate(rows, start=1):
        if any(str(row[column]) != value for column, value in task.where.items()):
            continue
        text = tuple(str(row[column]) for column in task.text)
        if task.max_words is not None and sum(len(part.split()) for part in text) > task.max_words:
            continue
        texts.append(text)
        labels.append(_label(task, classes, row[task.label], f"{where}, row {number}"))
    return Rows(texts, labels)


def _label(task: Task, classes: dict[str, float] | None, value: object, where: str) -> float:
    if classes is None:
        try:
            number = float(str(value))
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            raise DataError(f"label of task {task.name} is not a number", where=where, got=repr(value))
        return number
    if str(value) not in classes:
        raise DataError(f"unknown label of task {task.name}", where=where, got=repr(value), allowed=list(classes))
    return classes[str(value)]


def _take(rows: Rows, indices: Sequence[int]) -> Rows:
    return Rows([rows.texts[index] for index in indices], [rows.labels[index] for index in indices])


def _check_rows(task: Task, split: str, got: int, expected: int) -> None:
    if got != expected:
        raise DataError(
            f"task {task.name} has another number of rows than it declares", where=split, expected=expected, got=got
        )


def _check_revision(task: Task, expected: str, got: str, where: str) -> None:
    if got != expected:
        raise DataError(
            f"the data of task {task.name} are not the ones the study names",
            where=where,
            expected=expected,
            got=got,
            remedy="use the same files, or change the study's revision to the one got (other data, other cells)",
        )
