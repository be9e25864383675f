"""`survey`: what a store holds of many cells, by one listing of its results.

Law: what exists is what is listed. Snapshots supply what they have of it, the rest is read object by object, and each
result is verified, wherever it came from.
"""

from __future__ import annotations

import re
from collections.abc import Collection
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
    read = _Read(digests)
    snapshots = Snapshots(objects, recall)
    with no_collection(), ThreadPoolExecutor(1) as pool:
        # The server is at work on the listing, or far away: that time is ours.
        listing = pool.submit(objects.keys, "runs/")
        for some in snapshots.ahead(read.of_cell):
            read.take(some)
        listed = listing.result()
        read.keep(set(listed))
        others = [key for key in listed if key not in read.at]
        left = {key for key in others if key[69:70] == "/" and key[5:69] in read.of_cell}
        for some in snapshots.supply(set(left), passed_over):
            read.take(some)
        for one in streamed(lambda key: objects.read(key, recall.verify), sorted(left.difference(read.at))):
            read.add(one.key, one)
        found = {digest: read.found(digest) for digest in read.of_cell}
    strays = [key for key in others if key not in left and not _OF_A_CELL.fullmatch(key)]
    return Survey(found, tuple(Damaged(key, "it is under no cell's digest") for key in strays), tuple(passed_over))


class _Read:
    """What was read of some cells: by column where it came so."""

    def __init__(self, digests: Collection[str]) -> None:
        self.columns = Columns()
        self.at: dict[str, int | Verified | Damaged] = {}
        """By key: the place in the columns, or what is there."""
        self.of_cell: dict[str, list[int | Verified | Damaged]] = {digest: [] for digest in digests}
        """The same by cell."""

    def take(self, verified: Batch | Verified) -> None:
        """Of what comes twice the first counts: it is the same."""
        if isinstance(verified, Verified):
            self.add(verified.key, verified)
            return
        at, of_cell = self.at, self.of_cell
        for key, place in zip(verified.keys, self.columns.extend(verified.columns), strict=True):
            if key not in at:
                at[key] = place
                of_cell[key[5:69]].append(place)

    def add(self, key: str, what: int | Verified | Damaged) -> None:
        """What is under a key."""
        if key not in self.at:
            self.at[key] = what
            self.of_cell[key[5:69]].append(what)

    def keep(self, listed: set[str]) -> None:
        """Without what is not there any more."""
        for key in self.at.keys() - listed:
            self.of_cell[key[5:69]].remove(self.at.pop(key))

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
