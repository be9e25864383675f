"""`survey`: what a store holds of many cells, by one listing of its results.

Law: what exists is what is listed. Snapshots supply what they have of it, the rest is read object by object, and each
result is verified, wherever it came from.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from jobs.columns import Batch, Columns, Rows
from jobs.found import Damaged, Found, Verified, settle
from jobs.memory import no_collection
from jobs.patient import PatientObjects
from jobs.recall import Recall
from jobs.snapshots import Snapshots
from jobs.streaming import streamed

_OF_A_CELL: Final = re.compile(r"runs/[0-9a-f]{64}/.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a store holds of some cells."""

    found: dict[str, Found]
    """Their runs, by digest: an entry for each cell asked for, in that order, also where there is nothing."""
    strays: tuple[Damaged, ...] = ()
    """Objects among the results that are no cell's; what they hold was not read."""
    passed_over: tuple[Damaged, ...] = ()
    """Snapshots that could not be used; what they may hold was read object by object."""


def survey(objects: PatientObjects, digests: Collection[str], recall: Recall) -> Survey:
    """The runs of these cells; objects of other cells are not read.

    Raises:
        TransientError: not all could be read.
        ConfigurationError: the store refuses.
    """
    passed_over: list[Damaged] = []
    strays: list[Damaged] = []
    left: set[str] = set()
    read = _Read(digests)
    snapshots = Snapshots(objects, recall)
    with no_collection(), ThreadPoolExecutor(1) as pool:
        # The server is at work on the listing, or far away: that time is ours.
        listing = pool.submit(objects.keys, "runs/")
        ahead: dict[str, int | Verified] = {}
        for some in snapshots.ahead(digests):
            ahead.update(read.taken(some))
        for key in listing.result():
            if (digest := key[5:69]) in read.of_cell and key[69:70] == "/":
                if (each := ahead.get(key)) is not None:
                    read.of_cell[digest].append(each)
                else:
                    left.add(key)
            elif not _OF_A_CELL.fullmatch(key):
                strays.append(Damaged(key, "it is under no cell's digest"))
        for some in snapshots.supply(left, passed_over):
            for key, each in read.taken(some):
                read.of_cell[key[5:69]].append(each)
        for one in streamed(lambda key: objects.read(key, recall.verify), sorted(left)):
            read.of_cell[one.key.split("/")[1]].append(one)
        found = {digest: read.found(digest) for digest in digests}
    return Survey(found, tuple(strays), tuple(passed_over))


class _Read:
    """What was read of some cells: by column where it came so."""

    def __init__(self, digests: Collection[str]) -> None:
        self.columns = Columns()
        self.of_cell: dict[str, list[int | Verified | Damaged]] = {digest: [] for digest in digests}
        """For each object the place in the columns, or what it is."""

    def taken(self, verified: Batch | Verified) -> Iterable[tuple[str, int | Verified]]:
        """The same, and for each key where it is now."""
        if isinstance(verified, Verified):
            return [(verified.key, verified)]
        return zip(verified.keys, self.columns.extend(verified.columns), strict=True)

    def found(self, digest: str) -> Found:
        """What that comes to."""
        seeds = self.columns.seeds
        of_cell = self.of_cell[digest]
        places = {seeds[each]: each for each in of_cell if isinstance(each, int)}
        if len(places) == len(of_cell):
            # One object a run, as nearly always: nothing to settle.
            return Found(digest, Rows(self.columns, dict(sorted(places.items()))))
        objects = [self._object(each) if isinstance(each, int) else each for each in of_cell]
        verified = [each for each in objects if isinstance(each, Verified)]
        results = {each.result.seed: each.result for each in verified}
        if len(results) == len(objects):
            return Found(digest, dict(sorted(results.items())))
        return settle(digest, verified, [each for each in objects if isinstance(each, Damaged)])

    def _object(self, place: int) -> Verified:
        result = self.columns.result(place)
        return Verified(result.key, result)
