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
        for some in snapshots.ahead(read.places):
            read.take(some)
        listed = listing.result()
        read.keep(set(listed))
        others = [key for key in listed if key not in read.at]
        left = {key for key in others if key[69:70] == "/" and key[5:69] in read.places}
        for some in snapshots.supply(set(left), passed_over):
            read.take(some)
        for one in streamed(lambda key: objects.read(key, recall.verify), sorted(left.difference(read.at))):
            read.add(one)
        found = {digest: read.found(digest) for digest in read.places}
    strays = [key for key in others if key not in left and not _OF_A_CELL.fullmatch(key)]
    return Survey(found, tuple(Damaged(key, "it is under no cell's digest") for key in strays), tuple(passed_over))


class _Read:
    """What was read of some cells, by column where it came so. Of what comes twice the first counts: it is the same."""

    def __init__(self, digests: Collection[str]) -> None:
        self.columns = Columns()
        self.at: dict[str, int | Verified | Damaged] = {}
        """By key: the place in the columns, or what is there."""
        self.places: dict[str, list[int]] = {digest: [] for digest in digests}
        """Those of a cell."""
        self.others: dict[str, list[Verified | Damaged]] = {}
        """What else there is of a cell."""

    def take(self, verified: Batch | Verified) -> None:
        """From a snapshot."""
        if isinstance(verified, Verified):
            self.add(verified)
            return
        at, places = self.at, self.places
        for key, place in zip(verified.keys, self.columns.extend(verified.columns), strict=True):
            if key not in at:
                at[key] = place
                places[key[5:69]].append(place)

    def add(self, one: Verified | Damaged) -> None:
        """By itself."""
        if one.key not in self.at:
            self.at[one.key] = one
            self.others.setdefault(one.key[5:69], []).append(one)

    def keep(self, listed: set[str]) -> None:
        """Without what is not there any more."""
        for key in self.at.keys() - listed:
            gone = self.at.pop(key)
            if isinstance(gone, int):
                self.places[key[5:69]].remove(gone)
            else:
                self.others[key[5:69]].remove(gone)

    def found(self, digest: str) -> Found:
        """What that comes to."""
        places, others = self.places[digest], self.others.get(digest, [])
        seeds = dict(zip(map(self.columns.seeds.__getitem__, places), places, strict=True))
        if len(seeds) == len(places) and not others:
            # One object a run, as nearly always: nothing to settle.
            return Found(digest, Rows(self.columns, dict(sorted(seeds.items()))))
        verified = [each for each in others if isinstance(each, Verified)]
        results = [*map(self.columns.result, places), *(each.result for each in verified)]
        by_seed = {result.seed: result for result in results}
        if len(by_seed) == len(places) + len(others):
            return Found(digest, dict(sorted(by_seed.items())))
        verified += [Verified(result.key, result) for result in results[: len(places)]]
        return settle(digest, verified, [each for each in others if isinstance(each, Damaged)])
