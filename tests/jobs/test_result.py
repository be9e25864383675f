"""A result embeds its cell, checks its own digest, names itself by its content, and never scores NaN."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.cell import Reinit
from jobs.result import RESULT, DivergedRun, RunResult, now
from jobs.tasks import GLUE
from tests.make import FINISHED, a_cell, a_diverged, a_failure, a_provenance, a_result

scores = st.floats(-1, 1)


@settings(deadline=None)  # a busy machine is no failure
@given(score=scores, seed=st.integers(0, 2**32 - 1), seconds=st.floats(0, 1e9))
def test_a_result_read_back_is_the_same_object(score: float, seed: int, seconds: float) -> None:
    result = a_result(score=score, seed=seed, wall_seconds=seconds)
    back = RESULT.validate_json(result.to_bytes())
    assert isinstance(back, RunResult)
    assert back == result
    assert (back.key, back.to_bytes()) == (result.key, result.to_bytes())


def test_a_diverged_run_read_back_is_a_diverged_run() -> None:
    diverged = a_diverged()
    back = RESULT.validate_json(diverged.to_bytes())
    assert isinstance(back, DivergedRun)
    assert back == diverged


def test_the_time_of_finishing_keeps_its_instant_in_any_zone() -> None:
    elsewhere = FINISHED.astimezone(timezone(timedelta(hours=5, minutes=30)))
    back = RESULT.validate_json(a_result(finished_at=elsewhere).to_bytes())
    assert back.finished_at == FINISHED


def test_the_key_holds_digest_seed_and_the_hash_of_the_objects_own_bytes() -> None:
    result = a_result(seed=7)
    body = hashlib.sha256(result.to_bytes()).hexdigest()[:12]
    assert result.key == f"runs/{result.cell.digest}/7.{result.science12}.{body}.json"


def test_equal_science_at_another_time_and_place_differs_only_in_the_body() -> None:
    one, other = a_result(), a_result(later=60, provenance=a_provenance(host="pod-2"))
    assert one.science12 == other.science12
    assert one.key != other.key


def test_another_score_or_other_predictions_are_other_science() -> None:
    results = [a_result(), a_result(score=0.91), a_result(predictions="0" * 64), a_diverged(), a_diverged(loss="inf")]
    assert len({result.science12 for result in results}) == len(results)


def test_the_bytes_are_canonical_json() -> None:
    data = a_result().to_bytes()
    assert json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data


def test_the_score_is_the_headline_metric() -> None:
    cell = a_cell(task=GLUE["mrpc"])
    result = a_result(cell, metrics={"validation/accuracy": 0.8, "validation/f1": 0.9})
    assert result.score == 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"validation/accuracy": float("nan")}}, "finite"),
        ({"metrics": {"validation/accuracy": float("inf")}}, "finite"),
        ({"metrics": {}}, "at least 1"),
        ({"metrics": {"validation/f1": 0.5}}, "metrics lack"),
        ({"metrics": {"validation/accuracy": 90.5}}, "are beyond 1"),
        ({"validation_rows": {"validation": 10}}, "validation_rows is"),
        ({"train_rows": 499}, "train_rows is 499, the cell says 500"),
        ({"steps": 1}, "steps is 1, the cell says"),
        ({"train_loss": float("nan")}, "finite"),
        ({"wall_seconds": float("inf")}, "finite"),
        ({"wall_seconds": -1}, "greater than or equal to 0"),
        ({"wall_seconds": 1.1e9}, "less than or equal to 1000000000"),
        ({"metrics": {"validation/accuracy": 0.5, **dict.fromkeys(map(str, range(33)), 0.5)}}, "33 metrics more"),
        ({"gpu_seconds": 1e308}, "less than or equal to 1000000000"),
        ({"digest": "0" * 64}, "is not the cell's"),
        ({"digest": "short"}, "pattern"),
        ({"finished_at": datetime(2026, 1, 1)}, "timezone"),  # noqa: DTZ001
        ({"finished_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))}, "has none in UTC"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"seed": 2**32}, "less than"),
        ({"predictions": "../x"}, "pattern"),
        ({"status": "finished"}, "done"),
        ({"schema_version": 2}, "1"),
        ({"accuracy": 1.0}, "Extra inputs"),
    ],
    ids=repr,
)
def test_a_result_that_cannot_be_true_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        a_result(**changes)


def test_a_run_diverges_within_its_steps_or_by_the_last() -> None:
    assert a_diverged(diverged_step=a_cell().steps).diverged_step == 63
    with pytest.raises(ValidationError, match="diverged_step is 64, the cell has 63 steps"):
        a_diverged(diverged_step=64)


def test_a_diverged_run_has_no_score() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        a_diverged(metrics={"validation/accuracy": 0.5})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"status": "done"}', '{"status": "lost"}', "\0"])
def test_bytes_that_are_no_result_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValidationError):
        RESULT.validate_json(text)


def test_a_stored_cell_that_was_edited_is_noticed() -> None:
    fields = json.loads(a_result().to_bytes())
    fields["cell"]["size"] = 501
    with pytest.raises(ValidationError, match="is not the cell's"):
        RESULT.validate_python(fields)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"host": "pod-2"}, True),
        ({"image": "x@sha256:0"}, True),
        ({"device": "another"}, False),
        ({"threads": 2}, False),
        ({"world_size": 2}, False),
        ({"git_commit": "b" * 40}, False),
        ({"versions": {"torch": "2.13.1"}}, False),
    ],
    ids=repr,
)
def test_the_numerics_version_is_what_can_move_bits(changes: dict[str, Any], same: bool) -> None:
    assert (a_provenance(**changes).numerics == a_provenance().numerics) is same


def test_a_failure_is_filed_under_its_cell_and_attempt() -> None:
    failure = a_failure(a_cell(1), attempt="pod-7")
    assert failure.key == f"failures/{a_cell(1).digest}/pod-7.json"


@pytest.mark.parametrize("attempt", ["", "../x", "a/b", "a b", ".", ".."])
def test_an_attempt_cannot_lead_out_of_its_folder(attempt: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        a_failure(attempt=attempt)


def test_now_knows_its_zone() -> None:
    assert now().utcoffset() == timedelta(0)


def test_results_of_plain_finetuning_are_results_of_one_cell() -> None:
    plain = a_cell(treatment=Reinit(keep_layernorm=True))
    assert a_result(plain).digest == a_cell().digest
