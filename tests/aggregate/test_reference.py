"""The authors' values: matched by what was done, never by what it is called."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D

from aggregate import figures
from aggregate.curves import curves
from aggregate.reference import (
    CONDITIONS,
    Comparison,
    compare,
    load_authors,
    reference_records,
    reference_sheet,
)
from aggregate.tables import to_csv
from jobs.cell import Model, Probe, Reinit
from jobs.errors import DataError
from jobs.plan import PlannedCell
from jobs.tasks import GLUE
from tests.aggregate.runs import a_frame, cell, planned, rising, scored
from tests.make import MODEL

AUTHORS = load_authors()


def bert(treatments: Sequence[Any], name: str = "any", *, model: Model = MODEL, **fields: Any) -> list[PlannedCell]:
    options: dict[str, Any] = {"size": 5000, "model": model} | fields
    return [planned(cell(treatment, **options), (1, 2, 3), (name,)) for treatment in treatments]


def redraws(**fields: Any) -> list[Reinit]:
    return [Reinit(layers=tuple(range(k, 12)), **fields) for k in range(13)]


RELEASED = redraws(init="released", keep_layernorm=True)


def frame(plans: list[PlannedCell], score: float = 0.0) -> pd.DataFrame:
    """Every run scores the same, or rises where no score is given."""
    return a_frame(plans, scored(plans, rising if score == 0 else lambda one, seed: score + seed / 1000))


def compared(plans: list[PlannedCell], score: float = 0.0) -> list[Comparison]:
    return compare(frame(plans, score), AUTHORS)


def test_the_file_has_the_values_of_the_plots() -> None:
    kept = AUTHORS.sets["sst2", "50000", "LN kept"]
    check = {12: 0.924, 8: 0.915, 6: 0.904, 4: 0.891, 2: 0.862, 1: 0.851, 0: 0.817}
    assert {k: dict(kept.points)[k] for k in check} == pytest.approx(check, abs=0.001)
    assert kept.runs == 3
    assert round(dict(AUTHORS.sets["cola", "full", "LN kept, first code version"].points)[6], 3) == 0.409
    assert {name for _, _, name in AUTHORS.sets} == set(CONDITIONS)


def test_the_same_treatment_is_compared_whatever_its_family_is_called() -> None:
    found = compared(bert(RELEASED, "zebra"))
    assert len(found) == 13
    assert {each.differs for each in found} == {()}
    assert {each.beside.condition.words for each in found} == {"LayerNorm kept"}


@pytest.mark.parametrize(
    ("fields", "differs"),
    [
        ({"init": "truncated_normal", "keep_layernorm": True}, ("initialisation",)),
        ({"init": "released"}, ("LayerNorm",)),
        ({"pooler": "redraw", "init": "released", "keep_layernorm": True}, ("pooler",)),
        ({}, ("initialisation", "LayerNorm")),
    ],
)
def test_another_treatment_is_an_orientation_that_says_what_differs(
    fields: dict[str, Any], differs: tuple[str, ...]
) -> None:
    *redrawn, plain = sorted(compared(bert(redraws(**fields))), key=lambda each: each.layers)
    assert {each.differs for each in redrawn} == {differs}
    assert {each.inside for each in redrawn} == {None}
    assert plain.differs == ()  # nothing is redrawn, so there is nothing to differ in
    assert plain.inside is not None


def test_another_recipe_is_an_orientation_down_to_plain_finetuning() -> None:
    assert {each.differs for each in compared(bert(RELEASED, weight_decay=0.1))} == {("recipe",)}


def test_the_released_learning_rate_experiment_is_the_one_that_loses_its_last_layer() -> None:
    faster = redraws(init="released", lr_scale=2, frozen_layers=(11,))
    found = compared(bert(faster, learning_rate=5e-5))
    assert {each.beside.condition.words for each in found} == {"learning rate ×5"}
    # Down to k = 12, which redraws nothing: the released code does not train layer 11 there either.
    assert sorted(each.layers for each in found) == list(range(13))
    assert {each.differs for each in found} == {()}
    meant = compared(bert(redraws(lr_scale=5)))
    assert {each.beside.condition.words for each in meant} == {"learning rate ×5"}
    assert all("recipe" in each.differs for each in meant)


def test_the_released_probe_is_the_one_that_is_scored_after_a_reload_with_dropout() -> None:
    probes = [Probe(depth=k, scored="released_reload", encoder_dropout=True) for k in range(1, 13)]
    assert {each.differs for each in compared(bert(probes, size="full"))} == {()}
    others = compared(bert([Probe(depth=k) for k in range(1, 13)], size="full"))
    assert {each.differs for each in others} == {("scoring", "dropout in the encoder")}


def test_the_first_version_of_the_code_is_never_a_verdict_and_gives_way_to_the_later_one() -> None:
    found = compared(bert(RELEASED, task=GLUE["qnli"], size="full"))
    assert {each.differs for each in found} == {("first version of their code",)}
    assert {each.beside.condition for each in compared(bert(RELEASED, size="full"))} == {CONDITIONS["LN kept"]}


def test_layernorm_reset_in_every_layer_is_comparable_to_nothing() -> None:
    assert not [name for name in CONDITIONS if name.startswith("all LN reset")]


@pytest.mark.parametrize(
    "plans",
    [
        bert(RELEASED, model=MODEL.model_copy(update={"name": "another"})),
        bert([Reinit(layers=tuple(range(k, 6))) for k in range(7)], model=MODEL.model_copy(update={"layers": 6})),
        bert(RELEASED, task=GLUE["rte"], size=500),
        bert(RELEASED, task=GLUE["sst2"].model_copy(update={"metrics": ("f1",)})),
        bert(RELEASED, size=700),
        bert([Reinit(layers=(k,)) for k in range(12)]),
    ],
    ids=("model", "depth", "task", "metric", "size", "treatment"),
)
def test_a_study_with_nothing_to_compare_is_refused(plans: list[PlannedCell]) -> None:
    with pytest.raises(DataError, match="nothing to compare with the authors' values") as caught:
        compared(plans)
    assert "google-bert/bert-base-uncased" in str(caught.value)
    assert "leave out --reference" in str(caught.value)


def test_inside_means_inside_our_interval_give_or_take_the_reading_error() -> None:
    (theirs,) = {value for layers, value in AUTHORS.sets["sst2", "5000", "LN kept"].points if layers == 12}
    for score, inside in ((theirs - 0.002, True), (theirs - 0.0048, True), (theirs + 0.05, False)):
        (plain,) = [each for each in compared(bert(RELEASED), score) if each.layers == 12]
        assert plain.inside is inside
        assert plain.difference == pytest.approx(score + 0.002 - theirs)


def test_the_table_says_yes_no_or_that_the_two_differ_and_no_is_loud() -> None:
    found = compared(bert(RELEASED), 0.5)
    sheet = reference_sheet(found)
    assert {row[11:] for row in sheet.rows} == {("no", "nothing")}
    assert sheet.loud == frozenset(range(13))
    assert any("reading error 0.0004" in note for note in sheet.notes)
    orientation = reference_sheet(compared(bert(redraws())))
    assert {row[11:] for row in orientation.rows} >= {("–", "initialisation, LayerNorm")}


def test_a_cell_without_a_score_has_no_difference_and_is_loud() -> None:
    plans = bert(RELEASED)
    found = compare(a_frame(plans, scored(plans[:-1], rising)), AUTHORS)
    sheet = reference_sheet(found)
    assert sheet.rows[-1][7:12] == ("–", "–", "0 of 3", "–", "–")
    assert 12 in sheet.loud
    assert to_csv(reference_records(found)).count("\n") == 14


def lines(name: figures.Name, plans: list[PlannedCell]) -> list[Line2D]:
    drawing = figures.draw_all(frame(plans), reference=AUTHORS)[name]
    return [line for axes in drawing.figure.axes for line in axes.lines if line.get_marker() in {"+", "1"}]


def test_their_values_are_drawn_once_beside_the_line_that_is_nearest() -> None:
    both = bert(redraws(init="released"), "a") + bert(RELEASED, "b")
    plans = list({plan.cell.digest: plan for plan in both}.values())
    plans = [planned(plan.cell, plan.seeds, ("a", "b")) if plan.cell.treatment == Reinit() else plan for plan in plans]
    (line,) = lines("layernorm", plans)
    assert line.get_color() == "#D55E00"  # the second line's, which keeps LayerNorm
    assert np.asarray(line.get_ydata())[0] == AUTHORS.sets["sst2", "5000", "LN kept"].points[0][1]


def test_a_caption_calls_an_orientation_an_orientation() -> None:
    same = figures.draw_all(frame(bert(RELEASED)), reference=AUTHORS)["progressive"]
    assert "read from plots of their released code (reading error 0.0004)" in same.caption
    assert "orientation" not in same.caption
    other = figures.draw_all(frame(bert(redraws())), reference=AUTHORS)["progressive"]
    assert "an orientation: they differ in initialisation, LayerNorm." in other.caption
    assert "Authors" not in figures.draw_all(frame(bert(redraws())))["progressive"].caption


def test_the_values_know_nothing_of_curves_that_they_have_no_counterpart_of() -> None:
    (one,) = curves(frame(bert([Reinit(layers=(k, k + 1)) for k in range(11)])))
    assert AUTHORS.beside(one) is None
