"""`reinit upload`: results of a folder, sent to the store that they belong in.

Law: what is sent is verified first and read back last, and where it came from is left as it is. To send again what was
sent changes nothing, so it can be broken off and repeated at any time. What does not verify is named and not sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from jobs.errors import DataError, SpecError
from jobs.found import Damaged, Verified
from jobs.patient import in_parallel
from jobs.result import DivergedRun, RunResult
from jobs.store import Store, open_store

Result: TypeAlias = RunResult | DivergedRun


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of each object of the folder, in the order of keys."""

    sent: tuple[Result, ...] = ()
    there: tuple[Result, ...] = ()
    """What the store had already, byte for byte."""
    refused: tuple[Damaged, ...] = ()


def upload(source: Store, store: Store) -> Sent:
    """Send every verified result of `source`, with its predictions.

    Raises:
        TransientError: not all are known to be in the store; those that are, stay.
        ConfigurationError: the store refuses, or the source cannot be read.
    """
    read = source.every_result()
    verified = [each for each in read if isinstance(each, Verified)]
    outcomes = list(zip(verified, in_parallel(lambda each: _send(each, source, store), verified), strict=True))
    refused = [each for each in (*read, *(outcome for _, outcome in outcomes)) if isinstance(each, Damaged)]
    return Sent(
        sent=tuple(each.result for each, outcome in outcomes if outcome is True),
        there=tuple(each.result for each, outcome in outcomes if outcome is False),
        refused=tuple(sorted(refused, key=lambda each: each.key)),
    )


def folder_store(folder: Path) -> Store:
    """The folder as a store to read results from.

    Raises:
        SpecError: it holds no results and never did.
    """
    folder = folder.expanduser().resolve()
    if not (folder / "runs").is_dir():
        raise SpecError(
            "no results are in this folder",
            where=str(folder),
            expected="a folder `runs` with results, and `predictions`, as a store or an outbox has them",
            got="no folder `runs`" if folder.is_dir() else "no such folder",
        )
    return open_store(folder.as_uri())


def _send(each: Verified, source: Store, store: Store) -> bool | Damaged:
    """Whether it had to be sent."""
    predictions = None
    if isinstance(each.result, RunResult):
        try:
            predictions = source.predictions(each.result.predictions)
        except DataError as missing:
            # Two results may name the same predictions, and the outbox forgets what the store has.
            try:
                predictions = store.predictions(each.result.predictions)
            except DataError:
                return Damaged(each.key, f"its predictions, {each.result.predictions[:12]}: {missing.got}")
    if store.holds(each.result, predictions):
        return False
    store.put(each.result, predictions)
    return True
