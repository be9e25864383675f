"""Metrics against their formulas, and predictions that keep every bit."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jobs.tasks import GLUE, Metric, Task
from reinit.evaluate import encode_predictions, score


def a_task(*metrics: Metric, classes: int | None = 2) -> Task:
    labels = None if classes is None else tuple(str(index) for index in range(classes))
    return GLUE["sst2"].model_copy(update={"metrics": metrics, "labels": labels})


def logits_of(guesses: list[int], classes: int = 2) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.eye(classes, dtype=np.float32)[guesses]


def test_accuracy_is_the_share_of_right_guesses() -> None:
    assert score(a_task("accuracy"), logits_of([0, 1, 1, 1]), [0, 1, 0, 1]) == {"accuracy": 0.75}


def test_matthews_is_the_correlation_of_two_binary_variables() -> None:
    truth, guesses = [0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0]
    got = score(a_task("matthews"), logits_of(guesses), [float(value) for value in truth])
    assert got["matthews"] == pytest.approx(np.corrcoef(truth, guesses)[0, 1])


def test_f1_is_that_of_class_1_and_f1_macro_the_mean_over_classes() -> None:
    truth, guesses = [0.0, 0.0, 1.0, 1.0], [0, 1, 1, 1]
    got = score(a_task("f1", "f1_macro"), logits_of(guesses), truth)
    assert got["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 0))
    assert got["f1_macro"] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_correlations_are_taken_from_the_one_output_of_a_regression_task() -> None:
    truth = [0.0, 1.0, 2.0, 3.0]
    logits = np.array([[0.1], [0.2], [0.9], [0.8]], dtype=np.float32)
    got = score(a_task("pearson", "spearman", classes=None), logits, truth)
    assert got["pearson"] == pytest.approx(np.corrcoef(truth, logits[:, 0])[0, 1])
    assert got["spearman"] == pytest.approx(0.8)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_constant_prediction_has_no_correlation_and_scores_zero(metric: Metric) -> None:
    logits = np.full((3, 1), 0.5, dtype=np.float32)
    assert score(a_task(metric, classes=None), logits, [1.0, 2.0, 3.0]) == {metric: 0.0}


def test_a_constant_class_scores_zero_by_matthews_and_by_f1() -> None:
    assert score(a_task("matthews", "f1"), logits_of([0, 0, 0]), [0.0, 1.0, 1.0]) == {"matthews": 0.0, "f1": 0.0}


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 4)), elements=st.floats(-9, 9, width=32)))
def test_the_predictions_object_keeps_every_bit_of_every_logit(
    logits: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> None:
    data = encode_predictions({"validation": logits})
    split = json.loads(data)["splits"]["validation"]
    back = np.frombuffer(base64.b64decode(split["logits"]), dtype="<f4").reshape(split["shape"])
    assert back.tobytes() == logits.tobytes()
    assert encode_predictions({"validation": logits}) == data
