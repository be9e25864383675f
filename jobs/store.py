"""`Store`: results, predictions, failures and logs of all studies under one root, `s3://...` or `file:///...`.

Law: a write is done when it has been read back, and a read that fails never means "absent" (`jobs.patient`).
Predictions come before the result that names them, so that a result never names what is not there. Keys of results
and predictions carry the hash of their bytes: an object is immutable and checks itself, and no two writers ever put
different bytes under one key. What an object says is believed only once it is verified (`jobs.found`).

    runs/<digest>/<seed>.<science12>.<body12>.json      predictions/<sha256>
    failures/<digest>/<attempt>.json                    logs/<digest>/<attempt>.txt         checks/<sha256>
    checkpoints/<digest>/<seed>/...                     (`jobs.checkpoints`)
    tokens/<what determines them>/<sha256>              (`jobs.tokens`)
    snapshots/<sha256>.<rows>.parquet                   (`jobs.snapshots`)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pydantic import ValidationError

from jobs.backends import open_objects
from jobs.cell import Cell
from jobs.checkpoints import Checkpoints, checkpoint_key
from jobs.compaction import Compacted, compact
from jobs.errors import DataError, SpecError, TransientError
from jobs.found import (
    Contradiction,
    Damaged,
    Duplicate,
    Found,
    NotVerifiedError,
    State,
    Verified,
    explain,
    require_schema,
    settle,
    verify,
)
from jobs.objects import Objects
from jobs.patient import PAUSES, PatientObjects, in_parallel
from jobs.recall import Recall
from jobs.result import DivergedRun, Failure, RunResult
from jobs.s3 import ATTEMPTS
from jobs.survey import Survey, survey
from jobs.tokens import TokenObjects

__all__ = [
    "Contradiction",
    "Damaged",
    "Duplicate",
    "Failures",
    "Found",
    "Log",
    "State",
    "Store",
    "Survey",
    "open_store",
]

PROBE: Final = b"written by `reinit` to see that this store can be written and read\n"
"""Content of the one object under `checks/`: the same from every host, so that checks never pile up."""


@dataclass(frozen=True, slots=True)
class Failures:
    """Records of attempts that ended without a result."""

    records: tuple[Failure, ...] = ()
    """Oldest first."""
    damaged: tuple[Damaged, ...] = ()


@dataclass(frozen=True, slots=True)
class Log:
    """What one attempt at a cell said: the tail of its log."""

    attempt: str
    """Name of the pod, or host and process."""
    text: str


def open_store(url: str, *, attempts: int = ATTEMPTS) -> Store:
    """The store at `url`. Touches neither disk nor network; `Store.check` does.

    Args:
        url: `file:///absolute/path` or `s3://bucket/prefix`.
        attempts: how often one request to a bucket is tried before it counts as failed.

    Raises:
        ConfigurationError: `url` is neither, or the environment holds a malformed setting.
    """
    return Store(open_objects(url, attempts=attempts))


class Store:
    """What the runs of all studies left behind.

    Args:
        objects: where the bytes are.
        pauses: seconds between the tries of one read or write.
    """

    def __init__(self, objects: Objects, *, pauses: tuple[float, ...] = PAUSES) -> None:
        self._objects = objects
        self._patient = PatientObjects(objects, pauses)

    def impatient(self) -> Store:
        """The same store, asked once and not again and again: of one that failed a moment ago no more is expected."""
        return Store(self._objects, pauses=())

    @property
    def url(self) -> str:
        """Where."""
        return self._objects.url

    def describe(self) -> str:
        """Where and as whom, in one line without secrets."""
        return self._objects.describe()

    def check(self) -> str:
        """Write, read back and list one small object, before anything is spent on results that cannot be kept.

        Returns:
            What was checked: where and as whom.

        Raises:
            ConfigurationError: wrong bucket, credentials, clock, folder or permissions.
            TransientError: no conclusive answer.
        """
        key = self._patient.write(f"checks/{hashlib.sha256(PROBE).hexdigest()}", PROBE)
        if key not in self._patient.keys("checks/"):
            raise TransientError(
                "the store does not list what was written to it",
                where=f"{self.url}/checks/",
                expected=f"a list with {key} from {self.describe()}",
                got="a list without it",
            )
        return self.describe()

    def checkpoints(self) -> Checkpoints:
        """Runs that are half done, under the same root.

        Raises:
            ConfigurationError: the site's key cannot be read.
        """
        return Checkpoints(self._patient, checkpoint_key())

    def tokens(self) -> TokenObjects:
        """Tokens of tasks' rows, under the same root; with little patience, since they can be made as well.

        Raises:
            ConfigurationError: the site's key cannot be read.
        """
        return TokenObjects(PatientObjects(self._objects, PAUSES[:2]), checkpoint_key())

    # ---------------------------------------------------------------------------------------------------- writing

    def put(self, result: RunResult | DivergedRun, predictions: bytes | None = None) -> str:
        """Keep a run for good: its predictions, then its result, each read back.

        Args:
            result: what came of the run.
            predictions: bytes that hash to `result.predictions`; None for a diverged run, which has none.

        Returns:
            The result's key.

        Raises:
            DataError: the predictions are not those that the result names. Nothing was written.
            TransientError: not known to be kept.
            ConfigurationError: the store refuses, and will again.
        """
        named = result.predictions if isinstance(result, RunResult) else None
        given = None if predictions is None else hashlib.sha256(predictions).hexdigest()
        if named != given:
            raise DataError("predictions are not those that the result names", expected=named, got=given)
        if predictions is not None:
            self._patient.write(f"predictions/{named}", predictions)
        self._patient.write(result.key, result.to_bytes())
        return result.key

    def put_failure(self, failure: Failure) -> str:
        """Keep the record of an attempt; returns its key.

        Raises:
            SpecError: the attempt's name cannot be part of a key.
            ConfigurationError: another attempt has the same name, or the store refuses.
            TransientError: not known to be kept.
        """
        return self._patient.write_once(failure.key, failure.model_dump_json(indent=1).encode())

    def put_log(self, digest: str, attempt: str, text: str) -> str:
        """Keep what an attempt said; returns its key.

        Raises:
            SpecError, ConfigurationError, TransientError: as in `put_failure`.
        """
        return self._patient.write_once(f"logs/{_checked(digest)}/{attempt}.txt", text.encode(errors="replace"))

    # ---------------------------------------------------------------------------------------------------- reading

    def results(self, digest: str) -> Found:
        """The runs of one cell, by one LIST and one verified read an object.

        Raises:
            SpecError: `digest` is none.
            TransientError: not all could be read.
            ConfigurationError: the store refuses.
        """
        keys = self._patient.keys(f"runs/{_checked(digest)}/")
        return self._settled(digest, in_parallel(self._read_result, keys))

    def survey(self, cells: Iterable[Cell]) -> Survey:
        """The runs of many cells by one LIST of all; objects of other cells are not read (`jobs.survey`).

        Raises:
            TransientError, ConfigurationError: as in `results`.
        """
        known = {cell.digest: cell for cell in cells}
        return survey(self._patient, known, Recall(known))

    def all_results(self, digests: Collection[str]) -> dict[str, Found]:
        """What `survey` finds of cells of which only the digests are known.

        Raises:
            SpecError, TransientError, ConfigurationError: as in `results`.
        """
        return survey(self._patient, list(map(_checked, digests)), Recall()).found

    def compact(self) -> Compacted:
        """Pack the results into snapshots, from which `survey` reads many of them at once.

        Raises:
            TransientError, ConfigurationError: as in `results`.
        """
        return compact(self._patient)

    def with_predictions(self, found: Mapping[str, Found]) -> dict[str, Found]:
        """What was found, without the results whose predictions are missing or altered: those are damaged.

        Raises:
            TransientError, ConfigurationError: as in `results`.
        """

        def reason(result: RunResult | DivergedRun) -> str:
            if isinstance(result, RunResult):
                try:
                    self.predictions(result.predictions)
                except DataError as error:
                    return f"its predictions, {result.predictions[:12]}: {error.got}"
            return ""

        every = [result for each in found.values() for result in each.results.values()]
        wrong = {result.key: why for result, why in zip(every, in_parallel(reason, every), strict=True) if why}
        return {
            digest: replace(
                each,
                results={seed: result for seed, result in each.results.items() if result.key not in wrong},
                damaged=(
                    *each.damaged,
                    *(Damaged(one.key, wrong[one.key]) for one in each.results.values() if one.key in wrong),
                ),
            )
            for digest, each in found.items()
        }

    def every_result(self) -> list[Verified | Damaged]:
        """Every object among the results, of whatever cell, by one LIST; sorted by key.

        Raises:
            TransientError, ConfigurationError: as in `results`.
        """
        return in_parallel(self._read_result, self._patient.keys("runs/"))

    def holds(self, result: RunResult | DivergedRun, predictions: bytes | None) -> bool:
        """Whether exactly this result is there, with its predictions.

        Raises:
            TransientError, ConfigurationError: as in `results`.
        """
        if self._patient.get(result.key) != result.to_bytes():
            return False
        return not isinstance(result, RunResult) or (
            self._patient.get(f"predictions/{result.predictions}") == predictions
        )

    def digests(self, prefix: str) -> list[str]:
        """The cells whose digest begins with `prefix` that have any object, sorted, by one LIST.

        Raises:
            TransientError, ConfigurationError: as in `results`.
        """
        return sorted({digest for key in self._patient.keys("runs/") if (digest := _digest_in(key)).startswith(prefix)})

    def all_failures(self, digests: Collection[str]) -> dict[str, Failures]:
        """Records of attempts for many cells, by one LIST.

        Returns:
            An entry for each of `digests`, in their order, also where nothing was found.

        Raises:
            SpecError, TransientError, ConfigurationError: as in `results`.
        """
        read: dict[str, list[Failure | Damaged]] = {_checked(digest): [] for digest in digests}
        keys = list(_of(read, self._patient.keys("failures/")))
        for key, each in zip(keys, in_parallel(self._read_failure, keys), strict=True):
            read[_digest_in(key)].append(each)
        return {
            digest: Failures(
                tuple(sorted((x for x in each if isinstance(x, Failure)), key=lambda x: (x.failed_at, x.attempt))),
                tuple(x for x in each if isinstance(x, Damaged)),
            )
            for digest, each in read.items()
        }

    def logs(self, digest: str) -> tuple[Log, ...]:
        """What the attempts at a cell said, in the order in which they began to; empty where none left a log.

        Names of pods say nothing of that order, but every event of `python -m reinit` begins with its time.

        Raises:
            SpecError, TransientError, ConfigurationError: as in `results`.
        """

        def parse(key: str, data: bytes) -> Log:
            return Log(key.rpartition("/")[2].removesuffix(".txt"), data.decode(errors="replace"))

        keys = sorted(self._patient.keys(f"logs/{_checked(digest)}/"))
        read = in_parallel(lambda key: self._patient.read(key, parse), keys)
        return tuple(sorted((each for each in read if isinstance(each, Log)), key=_begun))

    def predictions(self, sha256: str) -> bytes:
        """The predictions object that a result names.

        Raises:
            SpecError: `sha256` is not 64 hex digits.
            DataError: the object is not there, or its content has another hash.
            TransientError, ConfigurationError: as in `results`.
        """

        def parse(_: str, data: bytes) -> bytes:
            if (got := hashlib.sha256(data).hexdigest()) != sha256:
                raise NotVerifiedError(f"content hashes to {got[:12]}, the key says {sha256[:12]}")
            return data

        key = f"predictions/{_checked(sha256)}"
        read = self._patient.read(key, parse)
        if isinstance(read, Damaged):
            raise DataError(
                "predictions cannot be read",
                where=f"{self.url}/{key}",
                got=read.reason,
                remedy="remove the results that name them, and run those again",
            )
        return read

    def _settled(self, digest: str, read: Iterable[Verified | Damaged]) -> Found:
        objects = list(read)
        verified = [each for each in objects if isinstance(each, Verified)]
        return settle(digest, verified, [each for each in objects if isinstance(each, Damaged)])

    def _read_result(self, key: str) -> Verified | Damaged:
        return self._patient.read(key, verify)

    def _read_failure(self, key: str) -> Failure | Damaged:
        return self._patient.read(key, _failure)


def _failure(key: str, data: bytes) -> Failure:
    require_schema(data)
    try:
        failure = Failure.model_validate_json(data)
    except ValidationError as error:
        raise NotVerifiedError(explain(error)) from error
    if failure.key != key:
        raise NotVerifiedError(f"the record belongs under {failure.key}")
    return failure


def _begun(log: Log) -> str:
    """The first time in a log, in the one form that sorts as text; of a text without any, nothing."""
    found = re.search(r'^{"time": "([^"]+)"', log.text, re.MULTILINE)
    return found[1] if found else ""


def _of(digests: Collection[str], keys: Iterable[str]) -> Iterator[str]:
    """The keys of these cells, whether well-formed otherwise or not."""
    return (key for key in keys if _digest_in(key) in digests)


def _digest_in(key: str) -> str:
    return key.split("/")[1]


def _checked(digest: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise SpecError("not a sha256", expected="64 hex digits", got=repr(digest)[:100])
    return digest
