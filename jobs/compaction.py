"""`compact`: puts the results of a store into snapshots, for whoever reads many of them at once.

Law: results stay where they are; what is written and removed here are copies. Several compactions at once do no harm: a
snapshot is written whole and read back, and only then are those removed whose results it holds. Killed at any instant,
it leaves snapshots that overlap at worst, which the next one puts right.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Final

from jobs.columns import keys_of
from jobs.found import Damaged, NotVerifiedError
from jobs.patient import PatientObjects
from jobs.recall import Recall
from jobs.snapshots import ROWS, Snapshots, rows_in
from jobs.streaming import streamed

Row = tuple[str, bytes]
"""Key and body of a result."""

MOST_BODIES: Final = 2**28
"""Bytes of all results of one snapshot; it is reached only where results are far larger than usual."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction came to."""

    results: int
    """In snapshots now."""
    packed: int
    """Of these, those that no snapshot held before."""
    written: tuple[str, ...] = ()
    """Keys of new snapshots."""
    removed: tuple[str, ...] = ()
    """Keys of snapshots whose results are all in others now, or gone."""
    damaged: tuple[Damaged, ...] = ()
    """Objects among the results that are none, so that no snapshot has them."""
    passed_over: tuple[Damaged, ...] = ()
    """What is among the snapshots and is none; left where it is."""


@dataclass(frozen=True, slots=True)
class _Survey:
    """What the snapshots hold, before."""

    kept: int
    """Results in snapshots that stay."""
    again: dict[str, set[str]]
    """Snapshots to write anew, small or with much in them that is gone, and what each alone holds."""
    needless: tuple[str, ...]
    """Snapshots that hold nothing which is not in another."""
    missing: list[str]
    """Keys of results in no snapshot, sorted."""
    passed_over: tuple[Damaged, ...]


def compact(objects: PatientObjects) -> Compacted:
    """Bring the snapshots up to date with `runs/`. Memory: keys, and one snapshot.

    Raises:
        TransientError: the store gave no conclusive answer. What was written until then is of use.
        ConfigurationError: the store refuses.
    """
    recall = Recall()
    snapshots = Snapshots(objects, recall)
    before = _survey(snapshots, set(objects.keys("runs/")))
    again = before.again
    if not before.missing and len(again) == 1:
        # The one small snapshot would be written again as it is, unless something in it is gone.
        again = {key: live for key, live in again.items() if len(live) < rows_in(key)}
    damaged: list[Damaged] = []
    unread: list[Damaged] = []
    old = [_sound(recall, snapshots.bodies(key, live, unread), live) for key, live in again.items()]
    counts: list[int] = []
    rows = heapq.merge(*old, _read(objects, recall, before.missing, damaged), key=itemgetter(0))
    written = [snapshots.write(_counted(chain([first], rows), counts)) for first in rows]
    spared = {*written, *(each.key for each in unread)}
    removed = [key for key in (*before.needless, *again) if key not in spared]
    for key in removed:
        objects.delete(key)
    unmoved = sum(len(live) for key, live in before.again.items() if key not in again)
    return Compacted(
        results=before.kept + unmoved + sum(counts),
        packed=len(before.missing) - len(damaged),
        written=tuple(written),
        removed=tuple(removed),
        damaged=tuple(damaged),
        passed_over=before.passed_over,
    )


def _survey(snapshots: Snapshots, missing: set[str]) -> _Survey:
    kept = 0
    again: dict[str, set[str]] = {}
    needless: list[str] = []
    passed_over: list[Damaged] = []
    for key in snapshots.keys(passed_over):
        wrong: list[Damaged] = []
        live = set(chain.from_iterable(map(keys_of, snapshots.verified(key, missing, wrong))))
        if wrong:
            passed_over += wrong
        if len(live) * 4 >= rows_in(key) * 3 and rows_in(key) * 2 >= ROWS:
            kept += len(live)
        elif live:
            again[key] = live
        elif not wrong:
            needless.append(key)
    return _Survey(kept, again, tuple(needless), sorted(missing), tuple(passed_over))


def _read(objects: PatientObjects, recall: Recall, keys: list[str], damaged: list[Damaged]) -> Iterator[Row]:
    def whole(key: str, data: bytes) -> Row:
        recall.verify(key, data)
        return key, data

    for each in streamed(lambda key: objects.read(key, whole), keys):
        if isinstance(each, Damaged):
            damaged.append(each)
        else:
            yield each


def _sound(recall: Recall, rows: Iterator[Row], live: set[str]) -> Iterator[Row]:
    """Each result that is live, once: a snapshot of a stranger may say of one several things, of which one is so."""
    for key, data in rows:
        if key in live:
            try:
                recall.verify(key, data)
            except NotVerifiedError:
                continue
            live.remove(key)
            yield key, data


def _counted(rows: Iterator[Row], counts: list[int]) -> Iterator[Row]:
    """As many rows as one snapshot holds; then their number is the last of `counts`."""
    counts.append(0)
    size = 0
    for row in rows:
        yield row
        counts[-1] += 1
        size += len(row[1])
        if counts[-1] == ROWS or size > MOST_BODIES:
            return
