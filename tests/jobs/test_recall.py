"""What `Recall` makes of an object is what `verify` makes of it: the same result, or the same refusal."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs.recall
from jobs.cell import Cell
from jobs.columns import Batch
from jobs.found import NotVerifiedError, Verified, verify
from jobs.recall import Recall
from jobs.result import LONGEST_SECONDS, DivergedRun, RunResult
from jobs.tasks import GLUE
from tests.make import a_cell, a_diverged, a_provenance, a_result

CELL = a_cell(11)
MNLI = a_cell(task=GLUE["mnli"])
"""Scored on two splits."""
MRPC = a_cell(task=GLUE["mrpc"], size=100)
"""Scored by two metrics."""


def outcome(reader: Any, key: str, data: bytes) -> Any:
    """A verified result, or why there is none."""
    try:
        return reader(key, data)
    except NotVerifiedError as error:
        return str(error)


def each_of(several: Iterable[Batch | Verified]) -> Iterator[Verified]:
    for some in several:
        yield from some.each() if isinstance(some, Batch) else [some]


def rekeyed(key: str, data: bytes) -> str:
    """The key, as far as a hash of the body goes."""
    body = hashlib.sha256(data).hexdigest()[:12]
    *parts, _, end = key.split(".")
    return ".".join([*parts, body, end])


def readers(cell: Cell) -> list[Recall]:
    """One that was told of the cell, one that has learned it, one that knows nothing."""
    learned = Recall()
    result = a_result(cell, seed=77)
    learned.verify(result.key, result.to_bytes())
    return [Recall({cell.digest: cell}), learned, Recall()]


def assert_alike(cell: Cell, key: str, data: bytes) -> None:
    expected = outcome(verify, key, data)
    for reader in readers(cell):
        for _ in range(2):
            assert outcome(reader.verify, key, data) == expected


finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def results(draw: st.DrawFn) -> RunResult:
    cell = draw(st.sampled_from([CELL, MNLI, MRPC]))
    names = [f"{split}/{metric}" for split in cell.task.splits for metric in cell.task.metrics]
    metrics = {name: draw(st.floats(-1, 1)) for name in names}
    if draw(st.booleans()):
        metrics["validation/another"] = draw(finite)
    earliest, latest = datetime(1, 1, 2), datetime(9999, 12, 30)  # noqa: DTZ001  hypothesis adds the zone
    times = st.datetimes(earliest, latest, timezones=st.just(UTC))
    return a_result(
        cell,
        draw(st.integers(0, 2**32 - 1)),
        metrics=metrics,
        wall_seconds=draw(st.floats(0, LONGEST_SECONDS)),
        gpu_seconds=draw(st.floats(0, LONGEST_SECONDS)),
        train_loss=draw(finite),
        finished_at=draw(times),
        predictions=draw(st.binary(min_size=32, max_size=32)).hex(),
        provenance=a_provenance(host=draw(st.text(max_size=5)), threads=draw(st.integers(1, 64))),
    )


@given(result=results())
@settings(deadline=None)
def test_every_result_is_read_as_it_was_written(result: RunResult) -> None:
    key, data = result.key, result.to_bytes()
    for reader in readers(result.cell):
        for _ in range(2):
            read = reader.verify(key, data)
            assert read == verify(key, data)
            assert (read.result, read.result.to_bytes(), read.result.key) == (result, data, key)


@given(result=results(), data=st.data())
@settings(deadline=None)
def test_whatever_is_altered_in_it_is_judged_as_verify_does(result: RunResult, data: st.DataObject) -> None:
    body = result.to_bytes()
    begin = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(begin, min(len(body), begin + 8)))
    piece = data.draw(st.sampled_from([b"", b"0", b"-", b" ", b'"', b"1e5", b"e", b",", b"}", b"\xff", b"true"]))
    altered = body[:begin] + piece + body[end:]
    assert_alike(result.cell, rekeyed(result.key, altered), altered)


@given(several=st.lists(results(), min_size=1, max_size=8), data=st.data())
@settings(deadline=None)
def test_many_at_a_time_are_judged_like_each_by_itself(several: list[RunResult], data: st.DataObject) -> None:
    rows = []
    for result in several:
        key, body = result.key, result.to_bytes()
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(body) - 1))
            body = body[:place] + data.draw(st.sampled_from([b"0", b"-", b"\t", b"\n", b'"', b"e"])) + body[place + 1 :]
            key = data.draw(st.sampled_from([key, rekeyed(key, body)]))
        rows.append((key, body))
    each = [outcome(verify, key, body) for key, body in rows]
    expected = {(one.key, one.result.to_bytes()) for one in each if not isinstance(one, str)}
    for reader in (Recall({cell.digest: cell for cell in (CELL, MNLI, MRPC)}), Recall()):
        for _ in range(2):
            assert {(one.key, one.result.to_bytes()) for one in each_of(reader.those_verified(rows))} == expected


def test_hosts_of_one_provenance_are_told_apart_whatever_they_are_called() -> None:
    reader = Recall({CELL.digest: CELL})
    for host in ("pod-1", "pod-2", "", 'a "pod"', "pod-\u00fc", "a\\b", "pod-3", '","host":"x'):
        for device in ("a processor", 'one named ,"host":"x"', "a processor"):
            result = a_result(CELL, provenance=a_provenance(host=host, device=device))
            read = reader.verify(result.key, result.to_bytes()).result
            assert read.provenance == result.provenance
            assert read.to_bytes() == result.to_bytes()


TWISTED = {
    "a key twice": (b'"seed":1,', b'"seed":1,"seed":1,'),
    "a key twice, another value first": (b'"gpu_seconds":0.0,', b'"gpu_seconds":1.0,"gpu_seconds":0.0,'),
    "a blank": (b'"seed":1,', b'"seed": 1,'),
    "true for one": (b'"seed":1,', b'"seed":true,'),
    "a float for an integer": (b'"seed":1,', b'"seed":1.0,'),
    "an integer for a float": (b'"gpu_seconds":0.0', b'"gpu_seconds":0'),
    "minus zero": (b'"gpu_seconds":0.0', b'"gpu_seconds":-0.0'),
    "a negative time": (b'"wall_seconds":20.0', b'"wall_seconds":-20.0'),
    "thirty years": (b'"wall_seconds":20.0', b'"wall_seconds":1000000000.0'),
    "more than thirty years": (b'"wall_seconds":20.0', b'"wall_seconds":1000000000.1'),
    "more than thirty years of a GPU": (b'"gpu_seconds":0.0', b'"gpu_seconds":1e+300'),
    "another form of a number": (b'"wall_seconds":20.0', b'"wall_seconds":2e1'),
    "no number": (b'"train_loss":0.25', b'"train_loss":NaN'),
    "an infinite number": (b'"train_loss":0.25', b'"train_loss":1e999'),
    "a huge integer": (b'"train_loss":0.25', b'"train_loss":1' + b"0" * 400),
    "a score beyond one": (b'"validation/accuracy":0.9', b'"validation/accuracy":1.5'),
    "a score that is text": (b'"validation/accuracy":0.9', b'"validation/accuracy":"0.9"'),
    "no metric": (b'"validation/accuracy":0.9', b""),
    "another metric besides": (b'"validation/accuracy":0.9', b'"validation/accuracy":0.9,"validation/f1":0.5'),
    "upper case in a hash": (b'"predictions":"a', b'"predictions":"A'),
    "a short hash": (b'"predictions":"a', b'"predictions":"'),
    "a fraction of zeros": (b"03:04:05Z", b"03:04:05.000000Z"),
    "half a fraction": (b"03:04:05Z", b"03:04:05.5Z"),
    "another time zone": (b"03:04:05Z", b"03:04:05+02:00"),
    "no time zone": (b"03:04:05Z", b"03:04:05"),
    "a day that is none": (b"2026-01-02", b"2026-02-30"),
    "another form of a time": (b"2026-01-02T", b"2026-01-02 "),
    "other steps": (b'"steps":63', b'"steps":64'),
    "other rows": (b'"train_rows":500', b'"train_rows":501'),
    "another schema": (b'"schema_version":1', b'"schema_version":2'),
    "a schema of long ago": (b'"schema_version":1,', b'"schema_version":0,'),
    "no schema": (b'"schema_version":1,', b""),
    "a status that is none": (b'"status":"done"', b'"status":"more"'),
    "a provenance of another order": (b'"threads":1,"versions"', b'"versions"'),
    "a field of a newer program": (b'"wall_seconds":20.0}', b'"wall_seconds":20.0,"watts":3.0}'),
    "a field in the provenance": (b'"world_size":1}', b'"world_size":1,"zone":1}'),
    "a word in the provenance": (b'"threads":1', b'"threads":true'),
    "a blank at the end": (b"", b" "),
}


@pytest.mark.parametrize("twist", TWISTED)
def test_each_known_twist_is_judged_as_verify_does(twist: str) -> None:
    result = a_result(CELL)
    old, new = TWISTED[twist]
    body = result.to_bytes()
    if b'"predictions":"a' in old:
        body = body.replace(result.predictions.encode(), b"a" * 64)
    altered = body.replace(old, new) if old else body + new
    assert altered != body
    science = hashlib.sha256(
        json.dumps(
            {name: json.loads(body)[name] for name in ("metrics", "predictions", "status")},
            sort_keys=True,
            separators=(",", ":"),
        ).encode()
    ).hexdigest()[:12]
    key = re.sub(r"\.\w{12}\.", f".{science}.", rekeyed(result.key, altered), count=1)
    assert_alike(CELL, key, altered)


@pytest.mark.parametrize("part", ["digest", "seed", "science", "body"])
def test_another_key_is_refused_with_the_reason_that_verify_gives(part: str) -> None:
    result = a_result(CELL, seed=3)
    other = {
        "digest": result.key.replace(CELL.digest, "0" * 64),
        "seed": result.key.replace("/3.", "/4."),
        "science": result.key.replace(result.science12, "0" * 12),
        "body": rekeyed(result.key, b"another"),
    }[part]
    assert_alike(CELL, other, result.to_bytes())
    assert isinstance(outcome(Recall({CELL.digest: CELL}).verify, other, result.to_bytes()), str)


def test_a_diverged_run_is_read_too() -> None:
    run: DivergedRun = a_diverged(CELL)
    assert_alike(CELL, run.key, run.to_bytes())


def test_results_of_a_known_cell_are_not_verified_in_full_again(monkeypatch: pytest.MonkeyPatch) -> None:
    full: list[str] = []

    def counted(key: str, data: bytes) -> Any:
        full.append(key)
        return verify(key, data)

    monkeypatch.setattr(jobs.recall, "verify", counted)
    reader = Recall()
    for seed in range(5):
        for host in ("pod-1", "pod-2"):
            result = a_result(CELL, seed=seed, provenance=a_provenance(host=host))
            assert reader.verify(result.key, result.to_bytes()).result == result
    assert len(full) == 1


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.recall, "MOST_KNOWN", 2)
    reader = Recall()
    for layer in range(8):
        result = a_result(a_cell(layer), provenance=a_provenance(host=f"pod-{layer}"))
        assert reader.verify(result.key, result.to_bytes()).result == result
        assert max(len(reader._cells), len(reader._provenances)) <= 2
