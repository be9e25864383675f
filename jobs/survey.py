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
    read: dict[str, list[Verified | Damaged]] = {digest: [] for digest in digests}
    left: set[str] = set()
    strays: list[Damaged] = []
    passed_over: list[Damaged] = []
    snapshots = Snapshots(objects, recall)
    with no_collection(), ThreadPoolExecutor(1) as pool:
        # The server is at work on the listing, or far away: that time is ours.
        listing = pool.submit(objects.keys, "runs/")
        ahead = {each.key: each for each in snapshots.ahead(read)}
        for key in listing.result():
            if key[69:70] == "/" and key[5:69] in read:
                if (each := ahead.get(key)) is not None:
                    read[key[5:69]].append(each)
                else:
                    left.add(key)
            elif not _OF_A_CELL.fullmatch(key):
                strays.append(Damaged(key, "it is under no cell's digest"))
        for each in snapshots.supply(left, passed_over):
            read[each.result.digest].append(each)
        for one in streamed(lambda key: objects.read(key, recall.verify), sorted(left)):
            read[one.key.split("/")[1]].append(one)
        found = {digest: _settled(digest, of_cell) for digest, of_cell in read.items()}
    return Survey(found, tuple(strays), tuple(passed_over))


def _settled(digest: str, read: list[Verified | Damaged]) -> Found:
    verified = [each for each in read if isinstance(each, Verified)]
    results = {each.result.seed: each.result for each in verified}
    if len(results) == len(read):
        # One object a run, as nearly always: nothing to settle.
        return Found(digest, dict(sorted(results.items())))
    return settle(digest, verified, [each for each in read if isinstance(each, Damaged)])
