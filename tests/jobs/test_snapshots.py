"""Snapshots change how results are read and never what is read: whatever happens to them, and whoever wrote them."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs.compaction
import jobs.snapshots
from aggregate.frame import frame
from jobs.errors import ConfigurationError, ReinitError, TransientError
from jobs.found import Damaged
from jobs.plan import Plan, PlannedCell
from jobs.result import DivergedRun, RunResult
from jobs.snapshots import PREFIX
from jobs.store import Survey, open_store
from tests.make import a_cell, a_diverged, a_provenance, a_result
from tests.memory import Memory, snapshot, store_of

CELLS: Final = [a_cell(layer) for layer in range(3)]
PLAN: Final = Plan(PlannedCell(cell, (1, 2, 3), ("family",)) for cell in CELLS)


@pytest.fixture(autouse=True, scope="module", params=["listed first", "ahead of the listing"])
def order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether snapshots are read when it is known what is listed, or at the same time, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "ahead of the listing":
            patch.setattr(jobs.snapshots, "AHEAD", 1)
        yield


def one_by_one(memory: Memory) -> Survey:
    """What there is, without any snapshot."""
    held = {key: data for key, data in memory.held.items() if not key.startswith(PREFIX)}
    return store_of(Memory(held)).survey(CELLS)


def assert_same(memory: Memory) -> Survey:
    """What is read with snapshots is what is read without; returns it."""
    survey, alone = store_of(memory).survey(CELLS), one_by_one(memory)
    assert (survey.found, survey.strays) == (alone.found, alone.strays)
    assert frame(PLAN, survey.found, study="s").equals(frame(PLAN, alone.found, study="s"))
    return survey


def put(memory: Memory, *results: RunResult | DivergedRun) -> None:
    for result in results:
        memory.held[result.key] = result.to_bytes()


def some(count: int = 9) -> list[RunResult]:
    return [a_result(CELLS[n % 3], n // 3 + 1, score=n / 20, later=n) for n in range(count)]


def filled(count: int = 9) -> Memory:
    memory = Memory()
    put(memory, *some(count))
    return memory


def named(data: bytes, rows: int = 1) -> str:
    return f"{PREFIX}{hashlib.sha256(data).hexdigest()}.{rows}.parquet"


def parquet(table: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------- reading


def test_after_a_compaction_no_object_is_read_and_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = filled()
    compacted = store_of(memory).compact()
    assert (compacted.results, compacted.packed, len(compacted.written), compacted.removed) == (9, 9, 1, ())
    memory.actions.clear()
    survey = store_of(memory).survey(CELLS)
    assert [key for action, key in memory.actions if action == "get"] == list(compacted.written)
    assert {result.key for found in survey.found.values() for result in found.results.values()} == memory.of("runs/")
    assert survey.passed_over == ()
    assert_same(memory)


def test_one_survey_lists_the_results_once() -> None:
    memory = filled()
    store_of(memory).survey(CELLS)
    assert memory.actions.count(("keys", "runs/")) == 1


def test_a_result_that_is_gone_is_not_in_the_survey_although_it_is_in_a_snapshot() -> None:
    memory = filled()
    store_of(memory).compact()
    gone = some()[0]
    del memory.held[gone.key]
    assert gone.seed not in assert_same(memory).found[gone.digest].results


def test_what_came_after_a_compaction_is_read_from_its_object() -> None:
    memory = filled(6)
    store_of(memory).compact()
    put(memory, *some(9))
    memory.actions.clear()
    assert sum(len(found.results) for found in store_of(memory).survey(CELLS).found.values()) == 9
    assert {key for action, key in memory.actions if action == "get" and key.startswith("runs/")} == {
        result.key for result in some(9)[6:]
    }


def test_a_few_results_are_not_worth_a_large_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.snapshots, "WORTH", 2)
    memory = filled()
    store_of(memory).compact()
    memory.actions.clear()
    found = store_of(memory).survey(CELLS[:1]).found
    assert len(found[CELLS[0].digest].results) == 3
    assert not [key for action, key in memory.actions if action == "get" and key.startswith(PREFIX)]


def test_without_pyarrow_objects_are_read_one_by_one_and_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = filled()
    store_of(memory).compact()
    monkeypatch.setattr(jobs.snapshots, "find_spec", lambda name: None)
    survey = assert_same(memory)
    assert "pip install 'partial-reinit[aggregate]'" in survey.passed_over[0].reason


@pytest.mark.parametrize("where", ["file", "s3"])
def test_real_stores_are_compacted_and_read(where: str, tmp_path: Any, request: pytest.FixtureRequest) -> None:
    store = open_store((tmp_path / "store").as_uri() if where == "file" else request.getfixturevalue("s3_url"))
    assert store.compact().results == 0
    for result in some():
        store._patient.write(result.key, result.to_bytes())
    before = store.survey(CELLS)
    assert store.compact().results == 9
    assert store.survey(CELLS) == before
    put_later = a_result(CELLS[0], 9)
    store._patient.write(put_later.key, put_later.to_bytes())
    compacted = store.compact()
    assert (compacted.results, compacted.packed, len(compacted.written), len(compacted.removed)) == (10, 1, 1, 1)
    assert store.survey(CELLS).found[put_later.digest].results[9] == put_later


# -------------------------------------------------------------------------------------------------- whatever happens


@st.composite
def objects(draw: st.DrawFn) -> tuple[str, bytes]:
    """A result, a duplicate or contradiction of another, a diverged run, something damaged, or a stray."""
    cell, seed = draw(st.sampled_from(CELLS)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["result", "result", "result", "diverged", "damaged", "twisted", "old", "stray"]))
    score, later = draw(st.sampled_from([0.5, 0.6])), draw(st.integers(0, 3))
    threads = draw(st.integers(1, 2))
    result = a_result(cell, seed, score=score, later=later, provenance=a_provenance(threads=threads))
    data = result.to_bytes()
    if kind == "diverged":
        diverged = a_diverged(cell, seed, later=later)
        return diverged.key, diverged.to_bytes()
    if kind == "damaged":
        return result.key, data[: draw(st.integers(0, len(data) - 1))]
    if kind in ("twisted", "old"):
        changed = data + b" " if kind == "twisted" else data.replace(b'"schema_version":1', b'"schema_version":0')
        body = hashlib.sha256(changed).hexdigest()[:12]
        return f"runs/{cell.digest}/{seed}.{result.science12}.{body}.json", changed
    if kind == "stray":
        return f"runs/{draw(st.sampled_from(['README.md', 'x/y.json']))}", b"stray"
    return result.key, data


STEP = st.one_of(
    st.tuples(st.just("put"), objects()),
    st.tuples(st.just("delete"), st.integers(0, 99)),
    st.tuples(st.just("compact"), st.none()),
    st.tuples(st.just("harm"), st.integers(0, 99)),
    st.tuples(st.just("lose"), st.integers(0, 99)),
)


def act(memory: Memory, step: tuple[str, Any]) -> None:
    what, which = step
    results, snapshots = sorted(memory.of("runs/")), sorted(memory.of(PREFIX))
    if what == "put":
        memory.held.setdefault(*which)
    elif what == "delete" and results:
        del memory.held[results[which % len(results)]]
    elif what == "compact":
        store_of(memory).compact()
    elif what == "harm" and snapshots:
        key = snapshots[which % len(snapshots)]
        memory.held[key] = memory.held[key][: which * len(memory.held[key]) // 100]
    elif what == "lose" and snapshots:
        del memory.held[snapshots[which % len(snapshots)]]


@given(st.lists(STEP, max_size=25))
@settings(deadline=None)
def test_reading_with_snapshots_is_reading_each_object_whatever_happened_before(steps: list[tuple[str, Any]]) -> None:
    memory = Memory()
    # So few to a snapshot that a handful of results make several.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.compaction, "ROWS", 4)
        patch.setattr(jobs.snapshots, "GROUP_ROWS", 2)
        for step in [*steps, ("compact", None)]:
            act(memory, step)
            assert_same(memory)
    results = memory.of("runs/")
    store_of(memory).compact()
    assert memory.of("runs/") == results, "a compaction touches no result"


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9, 23])
def test_compactions_one_after_another_keep_few_snapshots_that_do_not_overlap(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.compaction, "ROWS", 8)
    memory = Memory()
    for number in range(count):
        put(memory, a_result(CELLS[number % 3], number))
        store_of(memory).compact()
        held = [name for key in memory.of(PREFIX) for name in keys_in(memory.held[key])]
        assert sorted(held) == sorted(memory.of("runs/"))
    assert len(memory.of(PREFIX)) <= count / 4 + 1
    memory.actions.clear()
    again = store_of(memory).compact()
    assert (again.packed, again.written, again.removed) == (0, (), ())


def keys_in(data: bytes) -> list[str]:
    return list(pq.read_table(io.BytesIO(data))["key"].to_pylist())


def test_a_snapshot_whose_results_are_gone_is_removed_and_one_that_is_mostly_so_is_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs.compaction, "ROWS", 9)
    memory = filled(9)
    store_of(memory).compact()
    for result in some(9)[:4]:
        del memory.held[result.key]
    compacted = store_of(memory).compact()
    assert (compacted.results, compacted.packed, len(compacted.written), len(compacted.removed)) == (5, 0, 1, 1)
    assert_same(memory)
    for key in memory.of("runs/"):
        del memory.held[key]
    compacted = store_of(memory).compact()
    assert (compacted.results, len(compacted.written), len(compacted.removed)) == (0, 0, 1)
    assert memory.held == {}


# ------------------------------------------------------------------------------------------ killed, and at once


class Killed(BaseException):
    """The end of a process."""


def prepared() -> Memory:
    """Two small snapshots that overlap, results in none, and something damaged."""
    memory = filled(4)
    store_of(memory).compact()
    first = dict(memory.held)
    del memory.held[next(iter(memory.of(PREFIX)))]
    put(memory, *some(6))
    store_of(memory).compact()
    memory.held |= first
    put(memory, *some(9))
    memory.held[a_result(CELLS[0], 7).key] = b"half"
    return memory


def test_a_compaction_that_is_killed_at_any_action_leaves_what_the_next_one_puts_right() -> None:
    for number in itertools.count():
        memory = prepared()
        left = [number]

        def kill(action: str, key: str, done: bool, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        memory.happens = kill
        try:
            store_of(memory).compact()
        except Killed:
            memory.happens = lambda action, key, done: None
            assert_same(memory)
            store_of(memory).compact()
            assert_same(memory)
            assert len(memory.of(PREFIX)) == 1
        else:
            assert number > 20
            return


def test_two_compactions_and_a_reader_at_once_do_no_harm_wherever_they_meet() -> None:
    for number in itertools.count():
        memory, left = prepared(), [number]

        def meet(action: str, key: str, done: bool, memory: Memory = memory, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                store_of(memory).compact()
                assert_same(memory)
                put(memory, a_result(CELLS[1], 8))

        memory.happens = meet
        store_of(memory).compact()
        memory.happens = lambda action, key, done: None
        assert_same(memory)
        store_of(memory).compact()
        assert_same(memory)
        assert len(memory.of(PREFIX)) == 1
        if left[0] >= 0:
            assert number > 20
            return


def test_a_reader_whose_snapshots_are_compacted_away_under_it_reads_the_new_ones() -> None:
    for number in itertools.count():
        memory, left = prepared(), [number]

        def compacted(action: str, key: str, done: bool, memory: Memory = memory, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                store_of(memory).compact()

        alone = one_by_one(memory)
        memory.happens = compacted
        survey = store_of(memory).survey(CELLS)
        assert (survey.found, survey.passed_over) == (alone.found, ())
        if left[0] >= 0:
            assert number > 5
            return


def test_compactions_readers_and_writers_in_threads_do_no_harm() -> None:
    memory = prepared()
    before = {result.key for result in some(9)}

    def write() -> None:
        for number in range(30):
            result = a_result(CELLS[number % 3], 100 + number)
            store_of(memory)._patient.write(result.key, result.to_bytes())

    def read() -> None:
        for _ in range(10):
            found = store_of(memory).survey(CELLS).found.values()
            assert before <= {result.key for each in found for result in each.results.values()}

    def compact() -> None:
        for _ in range(5):
            store_of(memory).compact()

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(work) for work in (write, read, read, compact, compact)]:
            done.result()
    assert_same(memory)
    assert len(memory.of("runs/")) == 40


def test_a_store_that_fails_while_it_is_compacted_loses_nothing() -> None:
    for number in itertools.count():
        memory, left = prepared(), [number]

        def fail(action: str, key: str, done: bool, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise TransientError("no answer")

        memory.happens = fail
        try:
            store_of(memory).compact()
        except TransientError:
            memory.happens = lambda action, key, done: None
            assert_same(memory)
        else:
            assert number > 20
            return


@pytest.mark.parametrize("refused", ["keys", "get"])
@pytest.mark.parametrize("error", [ConfigurationError, TransientError])
def test_whoever_may_not_read_snapshots_reads_the_objects(refused: str, error: type[ReinitError]) -> None:
    memory = filled()
    store_of(memory).compact()

    def refuse(action: str, key: str, done: bool) -> None:
        if action == refused and key.startswith(PREFIX):
            raise error("an object cannot be read: AccessDenied")

    alone = one_by_one(memory)
    memory.happens = refuse
    survey = store_of(memory).survey(CELLS)
    assert survey.found == alone.found
    assert [each.reason for each in survey.passed_over] == ["an object cannot be read: AccessDenied"]


# ----------------------------------------------------------------------------------------- damaged, foreign, hostile


def hostile() -> dict[str, tuple[str, bytes]]:
    """Snapshots that lie, by what about."""
    true, false = a_result(CELLS[0], 1, score=0.1), a_result(CELLS[0], 1, score=1.0)
    other = a_result(CELLS[1], 1, score=0.1)
    good = [(true.key, true.to_bytes()), (other.key, other.to_bytes())]
    schema = pa.schema([("key", pa.string()), ("body", pa.binary())])
    columns: list[list[Any]] = [[key for key, _ in good], [body for _, body in good]]
    whole = parquet(pa.table(columns, schema=schema))
    rng = random.Random(1)
    noise = rng.randbytes(2000)
    nulls = parquet(pa.table([[true.key, None], [None, other.to_bytes()]], schema=schema))
    more = parquet(pa.table([*columns, [1, 2]], names=["key", "body", "score"]))
    texts = parquet(pa.table([columns[0], [body.decode() for body in columns[1]]], names=["key", "body"]))
    middle = len(whole) // 2
    broken = whole[:100] + bytes(200) + whole[300:]
    return {
        "another score under a key": snapshot([(true.key, false.to_bytes())]),
        "the bodies of two results exchanged": snapshot([(true.key, other.to_bytes()), (other.key, true.to_bytes())]),
        "a result that no object holds": snapshot([(false.key, false.to_bytes())]),
        "one right and one wrong": snapshot([(true.key, true.to_bytes()), (other.key, false.to_bytes())]),
        "a result twice, first with another score": snapshot([(true.key, false.to_bytes()), good[0]]),
        "keys that are none": snapshot([("../../etc/passwd", b"root"), ("", b""), ("runs/", b"{}")]),
        "an empty body": snapshot([(true.key, b"")]),
        "bytes of nothing": (named(noise), noise),
        "nothing": (named(b""), b""),
        "a page of a server": (named(b"<html>busy</html>"), b"<html>busy</html>"),
        "half of it": (named(whole[:middle], 2), whole[:middle]),
        "zeros in it": (named(broken, 2), broken),
        "more rows than it has": (named(whole, 3), whole),
        "no values": (named(nulls, 2), nulls),
        "another column": (named(more, 2), more),
        "a column of text": (named(texts, 2), texts),
        "other bytes than its name says": (named(whole, 2), whole[:-1] + b"x"),
        "a name that is none": (f"{PREFIX}latest.parquet", whole),
    }


@pytest.mark.parametrize("lie", hostile())
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a good one"])
def test_a_snapshot_that_lies_moves_no_number(lie: str, beside: bool) -> None:
    memory = Memory()
    put(memory, a_result(CELLS[0], 1, score=0.1), a_result(CELLS[1], 1, score=0.1))
    if beside:
        store_of(memory).compact()
    key, data = hostile()[lie]
    memory.held[key] = data
    survey = assert_same(memory)
    assert survey.found[CELLS[0].digest].results[1].metrics == {"validation/accuracy": 0.1}  # type: ignore[union-attr]
    assert len(survey.found[CELLS[0].digest].results) == 1
    store_of(memory).compact()
    assert_same(memory)


PASSED_OVER: Final = {
    "bytes of nothing": "not a snapshot",
    "half of it": "not a snapshot",
    "zeros in it": "not a snapshot",
    "more rows than it has": "it has 2 rows, the key says 3",
    "another column": "its columns are",
    "a column of text": "its columns are",
    "other bytes than its name says": "content hashes to",
    "a name that is none": "the name is no snapshot's",
    "nothing": "not a snapshot",
}


@pytest.mark.parametrize("lie", list(PASSED_OVER))
def test_what_is_no_snapshot_is_named_and_left_where_it_is(lie: str) -> None:
    memory = filled(3)
    key, data = hostile()[lie]
    memory.held[key] = data
    for passed_over in (store_of(memory).survey(CELLS).passed_over, store_of(memory).compact().passed_over):
        assert [each.key for each in passed_over] == [key]
        assert PASSED_OVER[lie] in passed_over[0].reason
    assert memory.held[key] == data


def test_of_a_snapshot_that_says_several_things_of_a_result_a_compaction_keeps_what_is_so_once() -> None:
    memory = Memory()
    put(memory, *some(2))
    (first, one), (second, other) = [(result.key, result.to_bytes()) for result in some(2)]
    key, data = snapshot([(first, other), (first, one), (second, other), (first, one), (second, one)])
    memory.held[key] = data
    compacted = store_of(memory).compact()
    assert (compacted.results, compacted.packed, compacted.removed) == (2, 0, (key,))
    (left,) = memory.of(PREFIX)
    assert sorted(keys_in(memory.held[left])) == sorted([first, second])
    again = store_of(memory).compact()
    assert (again.results, again.written, again.removed) == (2, (), ())
    assert_same(memory)


def test_a_snapshot_that_would_not_fit_into_memory_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = filled()
    store_of(memory).compact()
    monkeypatch.setattr(jobs.snapshots, "MOST_GROUP_BYTES", 1000)
    survey = assert_same(memory)
    assert "a row group of" in survey.passed_over[0].reason


def test_results_of_a_schema_that_is_not_ours_are_damaged_with_a_snapshot_as_without() -> None:
    memory = filled(3)
    result = a_result(CELLS[0], 9)
    old = result.to_bytes().replace(b'"schema_version":1', b'"schema_version":0')
    key = f"runs/{result.digest}/9.{result.science12}.{hashlib.sha256(old).hexdigest()[:12]}.json"
    memory.held[key] = old
    assert [each.key for each in store_of(memory).compact().damaged] == [key]
    foreign, data = snapshot([(key, old)])
    memory.held[foreign] = data
    found = assert_same(memory).found[result.digest]
    assert found.damaged == (Damaged(key, "schema_version is 0, this program reads 1"),)
