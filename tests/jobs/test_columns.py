"""Results by column are those results, and no check that they passed can be left out unnoticed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs.byheart
from jobs.byheart import Known, Line, known_of
from jobs.cell import Cell
from jobs.columns import Batch, Columns, Rows, keys_of
from jobs.found import NotVerifiedError, verify
from jobs.recall import Recall
from jobs.result import RunResult
from jobs.tasks import GLUE
from tests.make import a_cell, a_diverged, a_provenance, a_result

CELLS = [a_cell(11), a_cell(task=GLUE["mnli"]), a_cell(task=GLUE["mrpc"], size=100), a_cell(task=GLUE["stsb"], size=7)]
"""Scored on one split, on two, by two metrics, and by two others."""


def by_column(results: Sequence[RunResult]) -> tuple[Columns, list[str]]:
    """All of these in columns, and their keys by place; fails where one did not come by column."""
    columns, keys = Columns(), list[str]()
    for some in Recall({cell.digest: cell for cell in CELLS}).those_verified(
        (one.key, one.to_bytes()) for one in results
    ):
        assert isinstance(some, Batch)
        assert list(columns.extend(some.columns)) == list(range(len(keys), len(keys) + len(some.keys)))
        keys += some.keys
    return columns, keys


a_run = st.builds(
    lambda cell, seed, score, seconds, later, host: a_result(
        cell, seed, score=score, wall_seconds=seconds, later=later, provenance=a_provenance(host=host)
    ),
    st.sampled_from(CELLS),
    st.integers(0, 2**32 - 1),
    st.floats(-1, 1),
    st.floats(0, 1e9),
    st.integers(0, 10**6),
    st.sampled_from(["pod-1", "pod-2"]),
)


@given(st.lists(a_run, min_size=1, max_size=12, unique_by=lambda one: one.key))
@settings(deadline=None)
def test_what_is_made_of_columns_is_what_was_stored(results: list[RunResult]) -> None:
    columns, keys = by_column(results)
    stored = {one.key: one for one in results}
    assert sorted(keys) == sorted(stored)
    for place, key in enumerate(keys):
        made = columns.result(place)
        assert (made, made.to_bytes(), made.key) == (stored[key], stored[key].to_bytes(), key)
        assert (columns.seeds[place], columns.steps[place]) == (made.seed, made.steps)
        for name in ("validation/accuracy", "validation/f1", "validation_mismatched/accuracy", "no/metric"):
            assert columns.metric(name)[place] == made.metrics.get(name)


def test_rows_are_a_mapping_of_results_and_make_each_when_asked() -> None:
    results = {seed: a_result(CELLS[2], seed, score=seed / 10) for seed in (3, 1, 2)}
    columns, keys = by_column(list(results.values()))
    rows = Rows(columns, {columns.seeds[place]: place for place in range(len(keys))})
    assert rows == results
    assert results == rows
    assert dict(rows) == results
    assert (len(rows), set(rows), rows.get(4), 4 in rows) == (3, {1, 2, 3}, None, False)
    assert repr(rows) == repr({seed: rows[seed] for seed in rows})
    assert rows != {**results, 1: a_result(CELLS[2], 1, score=0.11)}


# ------------------------------------------------------------------------------------------------------- numbers


def as_python(texts: Sequence[str]) -> list[float] | None:
    """What a number's text is worth, where it is the text that Python writes for it."""
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return None
    return values if [repr(value + 0.0) for value in values] == list(texts) else None


written = st.floats(allow_nan=False, allow_infinity=False).map(repr)
near = st.one_of(
    written,
    st.floats(1e-5, 1e17).map(repr),
    st.sampled_from(
        ["-0.0", "0.0", "1e16", "1e+16", "1e-05", "0.00001", "0.0001", "1", "01.0", "1.", ".5", "+1.0", "1e999"]
    ),
    st.text("0123456789.-+e", min_size=1, max_size=8),
    st.floats(0, 1).map(lambda value: f"{value:.17f}"),
    st.floats(0, 1).map(lambda value: repr(value) + "0"),
)


@given(st.lists(near, min_size=1, max_size=5))
def test_numbers_are_read_as_python_writes_them_or_not_at_all(texts: list[str]) -> None:
    assert jobs.byheart._numbers(texts) == as_python(texts)


@given(st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=50))
def test_a_minus_before_zero_is_none_and_every_other_number_is_one(values: list[float]) -> None:
    values = [value + 0.0 for value in values]
    assert jobs.byheart._numbers([repr(value) for value in values]) == values


@pytest.mark.parametrize("text", ["-0.0", "0.00001"])
def test_python_judges_what_pydantic_would_write_in_another_way(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs.byheart._numbers([text]) is None
    monkeypatch.setattr(jobs.byheart, "_WRITTEN_OTHERWISE", ())
    assert jobs.byheart._numbers([text]) == [float(text)], "without it, this would have been believed"


# ---------------------------------------------------------------------------------------------- each check is needed


def altered(old: bytes, new: bytes) -> tuple[str, bytes]:
    """A result with this in place of that, under the key that has its body's hash."""
    result = a_result(CELLS[0])
    data = result.to_bytes().replace(old, new, 1)
    assert data != result.to_bytes()
    begin, _, end = result.key.rsplit(".", 2)
    return f"{begin}.{hashlib.sha256(data).hexdigest()[:12]}.{end}", data


def of_another_form(old: str, new: str) -> Callable[[Cell], Known]:
    """What there is to know of a cell, with this in place of that in the form of its lines."""

    def known(cell: Cell) -> Known:
        right = known_of(cell)
        assert old in right.form.pattern
        return right._replace(form=re.compile(right.form.pattern.replace(old, new), re.MULTILINE))

    return known


OTHERS = a_result(CELLS[0], 2).key
LEFT_OUT: dict[str, tuple[str, Any, tuple[str, bytes]]] = {
    "both hashes": ("jobs.byheart._keys", lambda *_: [OTHERS], (OTHERS, a_result(CELLS[0]).to_bytes())),
    "writing numbers again": (
        "jobs.byheart._numbers",
        lambda texts: list(map(float, texts)),
        altered(b":20.0}", b":2e+1}"),
    ),
    "a fraction that is not zero": (
        "jobs.recall.known_of",
        of_another_form("(?!000000)", ""),
        altered(b"05Z", b"05.000000Z"),
    ),
    "one line a result": (
        "jobs.recall.known_of",
        of_another_form(',"status"', '[^\n"]*,"status"'),
        altered(b'"seed":1,', b'"seed":1 ,'),
    ),
}


@pytest.mark.parametrize("left_out", LEFT_OUT)
def test_without_one_of_its_checks_something_would_be_believed_that_is_not(
    left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, instead, (key, data) = LEFT_OUT[left_out]
    cells = {CELLS[0].digest: CELLS[0]}
    for judge in (verify, Recall(cells).verify):
        with pytest.raises(NotVerifiedError):
            judge(key, data)
    monkeypatch.setattr(name, instead)
    assert Recall(cells).verify(key, data).key == key


@given(a_run, a_run, st.data())
@settings(deadline=None)
def test_halves_of_two_results_are_no_result(one: RunResult, other: RunResult, data: st.DataObject) -> None:
    first, second = one.to_bytes(), other.to_bytes()
    mixed = first[: data.draw(st.integers(0, len(first)))] + second[data.draw(st.integers(0, len(second))) :]
    begin, _, end = one.key.rsplit(".", 2)
    rows = [(one.key, first), (f"{begin}.{hashlib.sha256(mixed).hexdigest()[:12]}.{end}", mixed), (other.key, second)]
    right = {key for key, body in rows if is_verified(key, body)}
    several = Recall({cell.digest: cell for cell in CELLS}).those_verified(rows)
    assert {key for some in several for key in keys_of(some)} == right


def test_diverged_runs_among_many_are_set_aside_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [a_diverged(CELLS[0], seed) if seed % 10 == 3 else a_result(CELLS[0], seed) for seed in range(100)]
    judged: list[int] = []
    batch = jobs.byheart._batch

    def counted(lines: Sequence[Line]) -> Batch | None:
        judged.append(len(lines))
        return batch(lines)

    monkeypatch.setattr(jobs.byheart, "_batch", counted)
    several = list(Recall({CELLS[0].digest: CELLS[0]}).those_verified((one.key, one.to_bytes()) for one in results))
    assert {key for some in several for key in keys_of(some)} == {one.key for one in results}
    assert [len(some.keys) for some in several if isinstance(some, Batch)] == [90]
    assert judged == [100, 90]


def is_verified(key: str, data: bytes) -> bool:
    try:
        verify(key, data)
    except NotVerifiedError:
        return False
    return True
