"""What the store holds of one cell: objects verified one by one, and which of them counts.

Law: pure, independent of the order of reading, and never moved by a score: of several objects for one run the earliest
`finished_at` counts (ties: the smallest hash). Results of one numerics version that disagree are a `Contradiction`:
the run is done, since one more opinion settles nothing, but it has no accepted result, so that no mean can hold it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Final, Literal, NoReturn

from pydantic import ValidationError

from jobs.result import RESULT, DivergedRun, Failure, RunResult

KEY: Final = re.compile(
    r"runs/(?P<digest>[0-9a-f]{64})/(?P<seed>0|[1-9][0-9]*)\.(?P<science>\w{12})\.(?P<body>\w{12})\.json"
)
"""Key of a result: `runs/<digest>/<seed>.<science12>.<body12>.json`."""

SCHEMA_VERSION: Final = 1
"""The only version of a result's and a failure's schema that this program reads."""

State = Literal["done", "diverged", "contradictory", "failed", "missing"]
"""What became of a run; the first three count as done. An attempt that was killed leaves no record: missing."""


class NotVerifiedError(Exception):
    """An object is not what its key says; `str(error)` is the reason."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """An object that is not what its key says: not counted as done, listed, and left where it is."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Results of one run under one numerics version that measured different things: not all can be true."""

    digest: str
    seed: int
    keys: tuple[str, ...]
    """All of them, the earliest first."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Several results of one run that need not agree, or do: the first counts, the others are shown."""

    digest: str
    seed: int
    keys: tuple[str, ...]
    """All of them, the earliest, which counts, first."""
    largest_difference: float | None
    """Between any metric of any two; 0 where all agree, None where a diverged run is among them."""


@dataclass(frozen=True, slots=True)
class Found:
    """The runs of one cell that the store has."""

    digest: str
    results: Mapping[int, RunResult | DivergedRun] = field(default_factory=dict)
    """The accepted result by seed, seeds ascending; no entry where results contradict each other."""
    contradictions: tuple[Contradiction, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    damaged: tuple[Damaged, ...] = ()

    @property
    def done(self) -> frozenset[int]:
        """Seeds not to run again: with a result, diverged ones too, or with contradictory ones."""
        return frozenset(self.results) | {contradiction.seed for contradiction in self.contradictions}

    def state(self, seed: int, failures: Iterable[Failure] = ()) -> State:
        """What became of the run with this seed; `failures` are the cell's, one without a seed speaks for all."""
        if any(seed == contradiction.seed for contradiction in self.contradictions):
            return "contradictory"
        if seed in self.results:
            return self.results[seed].status
        return "failed" if any(failure.seed in (seed, None) for failure in failures) else "missing"


@dataclass(frozen=True, slots=True)
class Verified:
    """A result with the key that it agrees with."""

    key: str
    result: RunResult | DivergedRun

    @property
    def order(self) -> tuple[object, ...]:
        """Smallest counts: the earliest, then the smallest hash. No score."""
        return self.result.finished_at, self.key.split(".")[2], self.key


def verify(key: str, data: bytes) -> Verified:
    """The result that `data` holds, if it is the one that `key` names.

    Raises:
        NotVerifiedError: a hash, the digest, the seed, the schema or the form is wrong.
    """
    if (name := KEY.fullmatch(key)) is None:
        raise NotVerifiedError("the key is not runs/<digest>/<seed>.<science12>.<body12>.json")
    body = hashlib.sha256(data).hexdigest()[:12]
    if body != name["body"]:
        raise NotVerifiedError(f"content hashes to {body}, the key says {name['body']}: {_looks_like(data)}")
    require_schema(data)
    try:
        # Strict: a seed is never true, "1" or 1.0.
        result = RESULT.validate_json(data, strict=True)
    except ValidationError as error:
        raise NotVerifiedError(explain(error)) from error
    said = (name["digest"], name["seed"], name["science"])
    for what, in_key, in_body in zip(
        ("digest", "seed", "science hash"), said, (result.digest, str(result.seed), result.science12), strict=True
    ):
        if in_key != in_body:
            raise NotVerifiedError(f"{what} in the object is {in_body[:12]}, the key says {in_key[:12]}")
    if result.to_bytes() != data:
        raise NotVerifiedError("not in the one form that results are written in: blanks, another order, or a key twice")
    return Verified(key, result)


def require_schema(data: bytes) -> None:
    """Refuse what is not a JSON object of the schema that this program reads.

    Raises:
        NotVerifiedError: says which version came instead, so that an object of a newer program is known as one.
    """
    try:
        fields = json.loads(data, object_pairs_hook=_each_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise NotVerifiedError(f"not JSON: {_looks_like(data)}") from error
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise NotVerifiedError(f"schema_version is {version!r:.40}, this program reads {SCHEMA_VERSION}")


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two values under one key another reader would take the other one."""
    if len(found := dict(pairs)) < len(pairs):
        raise NotVerifiedError("a key stands twice in it")
    return found


def _no_constant(text: str) -> NoReturn:
    raise NotVerifiedError(f"a number in it is not finite: {text}")


def explain(error: ValidationError) -> str:
    """The first thing that is wrong, on one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'result'}: {first['msg']}"[:300]


def is_page(data: bytes | None) -> bool:
    """Whether these bytes look like what a server or proxy says for itself, and not like an object of ours."""
    return data is not None and data.lstrip()[:1] == b"<"


def _looks_like(data: bytes) -> str:
    if not data:
        return "it is empty"
    if is_page(data):
        return "it looks like a server's XML or HTML answer"
    return f"{len(data)} bytes, cut short or altered"


def settle(digest: str, verified: Iterable[Verified], damaged: Iterable[Damaged] = ()) -> Found:
    """Which object counts for each run of the cell, and what else there is; any order of `verified` gives the same."""
    by_seed: dict[int, list[Verified]] = {}
    for each in sorted({one.key: one for one in verified}.values(), key=lambda one: one.order):
        by_seed.setdefault(each.result.seed, []).append(each)
    results: dict[int, RunResult | DivergedRun] = {}
    contradictions: list[Contradiction] = []
    duplicates: list[Duplicate] = []
    for seed in sorted(by_seed):
        several = by_seed[seed]
        keys = tuple(each.key for each in several)
        if against := _contradictory(several):
            contradictions += [Contradiction(digest, seed, each) for each in against]
            continue
        results[seed] = several[0].result
        if len(several) > 1:
            duplicates.append(Duplicate(digest, seed, keys, _largest_difference([each.result for each in several])))
    in_order = tuple(sorted(set(damaged), key=lambda each: (each.key, each.reason)))
    return Found(digest, results, tuple(contradictions), tuple(duplicates), in_order)


def _contradictory(several: list[Verified]) -> list[tuple[str, ...]]:
    """For each numerics version under which results differ, the keys of all its results."""

    def numerics(each: Verified) -> str:
        return each.result.provenance.numerics

    groups = [list(group) for _, group in groupby(sorted(several, key=numerics), key=numerics)]
    return [tuple(each.key for each in group) for group in groups if len({each.result.science12 for each in group}) > 1]


def _largest_difference(results: Collection[RunResult | DivergedRun]) -> float | None:
    finished = [result.metrics for result in results if isinstance(result, RunResult)]
    if len(finished) < len(results):
        return None
    differences = []
    for metric in set(chain.from_iterable(finished)):
        values = [metrics[metric] for metrics in finished if metric in metrics]
        differences.append(max(values) - min(values))
    return max(differences)
