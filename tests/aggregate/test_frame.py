from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.frame import DTYPES, chance, frame, preserved_layers, read_frame, recipe_name, variant_name
from jobs.cell import Cell, Epochs, Probe, Recipe, Reinit, Steps, Treatment
from jobs.columns import Batch, Columns, Rows
from jobs.found import Contradiction, Found
from jobs.recall import Recall
from jobs.result import RunResult
from jobs.tasks import GLUE
from tests.aggregate.runs import (
    a_frame,
    cell,
    permuted,
    planned,
    preserving,
    result,
)
from tests.make import FINISHED, MODEL, a_diverged, a_failure, a_provenance


def test_each_planned_run_has_one_row_in_the_order_of_the_plan() -> None:
    plans = [planned(cell(), seeds=(3, 1)), planned(cell(preserving(2)), seeds=(1,))]
    frame = a_frame(plans, [])
    assert list(zip(frame["digest"], frame["seed"], strict=True)) == [
        (plans[0].cell.digest, 3),
        (plans[0].cell.digest, 1),
        (plans[1].cell.digest, 1),
    ]


def test_every_status_is_told_from_the_others() -> None:
    one = cell()
    frame = a_frame(
        [planned(one, seeds=(1, 2, 3, 4, 5))],
        [result(one, 1, 0.9), a_diverged(one, 2), result(one, 4, 0.8)],
        failures=[a_failure(one, 3)],
        contradictions=[Contradiction(one.digest, 4, ("a", "b"))],
    )
    assert frame["status"].tolist() == ["done", "diverged", "failed", "contradictory", "missing"]
    assert frame["score"].isna().tolist() == [False, True, True, True, True]


def test_a_failure_before_any_run_explains_every_run_without_a_result() -> None:
    one = cell()
    frame = a_frame([planned(one)], [result(one, 1, 0.9)], failures=[a_failure(one, None, reason="no such model")])
    assert frame["status"].tolist() == ["done", "failed", "failed"]
    assert frame["reason"].tolist()[1:] == ["no such model"] * 2


def test_the_latest_failure_of_a_run_is_its_reason() -> None:
    one = cell()
    old, new = (
        a_failure(one, 1, reason="old"),
        a_failure(one, 1, reason="new").model_copy(update={"failed_at": FINISHED + timedelta(1)}),
    )
    assert a_frame([planned(one, seeds=(1,))], [], failures=[old, new])["reason"].tolist() == ["new"]


def test_results_of_other_seeds_are_rows_that_are_not_planned() -> None:
    one = cell()
    frame = a_frame([planned(one, seeds=(2,))], [result(one, 1, 0.9), result(one, 2, 0.8)])
    assert list(zip(frame["seed"], frame["planned"], strict=True)) == [(2, True), (1, False)]


def test_results_of_other_cells_are_left_out() -> None:
    assert len(a_frame([planned(cell(), seeds=(1,))], [result(cell(preserving(1)), 1, 0.9)])) == 1


def test_a_row_holds_what_the_run_left_behind() -> None:
    one = cell(preserving(3), size="full")
    metrics = {"validation/accuracy": 0.75, "validation/loss": 0.5}
    run = result(one, 1, 0, metrics=metrics, provenance=a_provenance(image="an/image@sha256:1"))
    row = a_frame([planned(one, seeds=(1,), families=("progressive", "single"))], [run]).iloc[0].to_dict()
    expected = {
        "study": "a-study",
        "cell": one.name,
        "model": "small",
        "task": "sst2",
        "size": "full",
        "rows": 67_349,
        "treatment_kind": "reinit",
        "treatment": "reinit-3",
        "families": ("progressive", "single"),
        "preserved_layers": 3,
        "depth": 4,
        "is_plain": False,
        "score": 0.75,
        "metric": "validation/accuracy",
        "steps": 25_257,
        "numerics": run.provenance.numerics,
        "git_commit": "a" * 40,
        "image": "an/image@sha256:1",
        "finished_at": pd.Timestamp(run.finished_at),
        "metrics.validation/accuracy": 0.75,
        "metrics.validation/loss": 0.5,
    }
    assert {name: row[name] for name in expected} == expected


def test_columns_have_their_types_even_when_nothing_was_found() -> None:
    frame = a_frame([planned(cell())], [])
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == DTYPES
    assert not frame.isna().all(axis=1).any()


def test_the_frame_is_the_same_whatever_order_results_come_in() -> None:
    plans = [planned(cell()), planned(cell(preserving(0)))]
    results = [result(plan.cell, seed, 0.5 + seed / 10) for plan in plans for seed in (1, 2, 3)]
    pd.testing.assert_frame_equal(a_frame(plans, results), a_frame(plans, results[::-1]))


@pytest.mark.parametrize(
    ("treatment", "k"),
    [
        (Reinit(), 4),
        (preserving(3), 3),
        (preserving(0), 0),
        (preserving(2, keep_layernorm=True), 2),
        (Reinit(layers=(0, 1)), None),
        (Reinit(layers=(1, 3)), None),
        (permuted(1, 0, 2, 3), None),
        (Probe(depth=2), None),
    ],
)
def test_preserved_layers_are_counted_below_a_redrawn_top(treatment: Reinit, k: int | None) -> None:
    assert preserved_layers(treatment, 4) == k


def test_cells_of_one_model_task_and_recipe_share_a_context_and_no_others_do() -> None:
    cells = [
        cell(),
        cell(preserving(1), size="full"),
        cell(learning_rate=1e-5),
        cell(task=GLUE["cola"]),
        cell(model=MODEL),
    ]
    contexts = a_frame([planned(one, seeds=(1,)) for one in cells], [])["context"].tolist()
    assert contexts[0] == contexts[1]
    assert len(set(contexts)) == 4


def test_a_variant_is_named_by_what_departs() -> None:
    assert variant_name(preserving(1)) == ""
    assert variant_name(permuted(1, 0, 2, 3)) == ""
    odd = preserving(1, init="released", keep_layernorm=True, lr_scale=5, pooler="redraw", frozen_layers=(3,))
    assert variant_name(odd) == "init released, LayerNorm kept, learning rate ×5, pooler redrawn, frozen layers 3"


def test_a_recipe_is_named_by_what_departs_from_the_papers() -> None:
    assert recipe_name(Recipe()) == ""
    assert recipe_name(Recipe(duration=Epochs(epochs=1))) == "1 epoch"
    assert recipe_name(Recipe(duration=Steps(steps=20), dropout=0)) == "20 steps, dropout 0.0"


def test_chance_is_known_where_the_metric_alone_fixes_it() -> None:
    assert chance(GLUE["cola"]) == 0
    assert chance(GLUE["mnli"]) == 1 / 3
    assert chance(GLUE["stsb"]) is None
    assert chance(GLUE["mrpc"]) is None


def test_a_treatments_fields_are_columns_and_each_is_empty_for_other_treatments() -> None:
    treatments: list[Treatment] = [
        preserving(3, init="released", lr_scale=5),
        permuted(1, 0, 2, 3),
        Probe(depth=2, fit="converged"),
    ]
    frame = a_frame([planned(cell(treatment), seeds=(1,)) for treatment in treatments], [])
    assert frame["redrawn"].tolist() == [(3,), None, None]
    assert frame["order"].tolist() == [None, (1, 0, 2, 3), None]
    for column, values in {
        "init": ["released", None, None],
        "lr_scale": [5.0, None, None],
        "kept_depth": [None, None, 2],
        "fit": [None, None, "converged"],
        "encoder_dropout": [None, None, False],
    }.items():
        assert [None if pd.isna(value) else value for value in frame[column]] == values


def test_the_frame_comes_back_from_parquet_as_it_was(tmp_path: Path) -> None:
    treatments: list[Treatment] = [Reinit(), preserving(1), permuted(1, 0, 2, 3), Probe(depth=2)]
    plans = [planned(cell(treatment)) for treatment in treatments]
    before = a_frame(plans, [result(plans[0].cell, 1, 0.5)])
    before.to_parquet(tmp_path / "runs.parquet", index=False)
    pd.testing.assert_frame_equal(read_frame(tmp_path / "runs.parquet"), before)


# ------------------------------------------------------------------------------------- from columns and from objects


def by_column(results: Iterable[RunResult]) -> dict[str, Rows]:
    """Results by cell, all in the same columns."""
    columns, places = Columns(), defaultdict[str, dict[int, int]](dict)
    for each in results:
        (batch,) = Recall({each.digest: each.cell}).those_verified([(each.key, each.to_bytes())])
        assert isinstance(batch, Batch)
        (places[each.digest][each.seed],) = columns.extend(batch.columns)
    return {digest: Rows(columns, of_cell) for digest, of_cell in places.items()}


CELLS = [cell(), cell(preserving(1), task=GLUE["mrpc"]), cell(Probe(depth=2), task=GLUE["mnli"]), cell(size="full")]
"""Of other metrics, and with other numbers of steps."""


@given(
    st.lists(st.tuples(st.sampled_from(CELLS), st.integers(1, 3), st.floats(-1, 1)), max_size=12),
    st.lists(st.sampled_from(["object", "one survey", "another survey", "diverged"]), min_size=4, max_size=4),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_a_row_is_the_same_whether_its_result_came_as_an_object_or_by_column(
    runs: list[tuple[Cell, int, float]], kinds: list[str], asked: int
) -> None:
    results = {(one.digest, seed): result(one, seed, score) for one, seed, score in runs}
    kind = dict(zip((one.digest for one in CELLS), kinds, strict=True))
    plans = [planned(one, seeds=tuple(range(1, asked + 1))) for one in CELLS]
    objects: dict[str, Found] = {}
    columns: dict[str, Found] = {}
    for one in CELLS:
        of_cell: dict[int, Any] = {seed: each for (digest, seed), each in results.items() if digest == one.digest}
        if kind[one.digest] == "diverged" and 1 in of_cell:
            of_cell[1] = a_diverged(one, 1)
        objects[one.digest] = columns[one.digest] = Found(one.digest, dict(sorted(of_cell.items())))
    for survey in ("one survey", "another survey"):
        rows = by_column(each for (digest, _), each in results.items() if kind[digest] == survey)
        columns |= {digest: Found(digest, of_cell) for digest, of_cell in rows.items()}
    expected = frame(plans, objects, study="a-study")
    pd.testing.assert_frame_equal(frame(plans, columns, study="a-study"), expected, check_exact=True)


def test_another_number_in_the_columns_is_another_frame() -> None:
    one = cell()
    plans, results = [planned(one)], [result(one, seed, 0.5) for seed in (1, 2, 3)]
    expected = a_frame(plans, results)
    rows = by_column(results)[one.digest]
    for column in ("wall_seconds", "gpu_seconds", "scores"):
        numbers = getattr(rows.columns, column)
        numbers[1] += 1e-9
        assert not frame(plans, {one.digest: Found(one.digest, rows)}, study="a-study").equals(expected)
        numbers[1] = getattr(by_column(results)[one.digest].columns, column)[1]
    assert frame(plans, {one.digest: Found(one.digest, rows)}, study="a-study").equals(expected)
