"""The shipped studies: what each comes to, which results they share, and what the released code did against ours."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from jobs.cell import Cell, Epochs, Permute, Probe, Recipe, Reinit, Steps, Truncate
from jobs.cluster import Cluster
from jobs.errors import SpecError
from jobs.families import released_order
from jobs.lint import lint_text
from jobs.manifest import job, to_yaml
from jobs.plan import Plan
from jobs.rules import Site
from jobs.study import load_study, shipped_studies

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
SITE = Cluster(image="registry.example/reinit@sha256:" + "0" * 64, store="s3://bucket/reinit")

COUNTS: dict[str, tuple[int, int, int]] = {
    # cells, runs, optimiser steps of all finetunes
    "controls": (288, 2_565, 3_704_211),
    "demo": (8, 24, 2_280),
    "demo-full": (14, 42, 3_990),
    "few-sample": (28, 560, 269_220),
    "figure-blocks": (66, 660, 1_237_500),
    "figure-layernorm": (75, 225, 421_875),
    "figure-learning-rate": (75, 225, 421_875),
    "figure-permutations": (36, 108, 202_500),
    "figure-progressive": (179, 2_622, 4_692_402),
    "figure-seeds": (39, 1_950, 368_550),
    "figure-single-layers": (42, 126, 236_250),
    "fixed-steps": (117, 624, 1_170_000),
    "layer-heat-map": (154, 1_176, 4_815_216),
    "paper": (368, 3_651, 6_621_777),
    "paper-released": (371, 3_138, 6_132_402),
    "probing": (36, 360, 0),
}
PARTS = [name for name in COUNTS if name.startswith("figure-") or name == "probing"]
"""Studies that are parts of `paper`."""


@cache
def plan(name: str) -> Plan:
    return load_study(name).plan()


@cache
def seeds(name: str) -> dict[Cell, set[int]]:
    return {each.cell: set(each.seeds) for each in plan(name)}


def cells(name: str, family: str) -> list[Cell]:
    return [each.cell for each in plan(name) if family in each.families]


def redraws(name: str, family: str) -> list[Reinit]:
    """The family's treatments that redraw something."""
    found = [cell.treatment for cell in cells(name, family)]
    return [treatment for treatment in found if isinstance(treatment, Reinit) and treatment.layers]


# ------------------------------------------------------------------------------------------------------- all of them


def test_every_shipped_study_has_its_counts_here() -> None:
    assert COUNTS.keys() == shipped_studies().keys()


@pytest.mark.parametrize(("name", "counts"), COUNTS.items())
def test_a_shipped_study_comes_to_what_its_header_says(name: str, counts: tuple[int, int, int]) -> None:
    assert (len(plan(name)), plan(name).runs, plan(name).finetune_steps) == counts


@pytest.mark.parametrize("name", [name for name in COUNTS if not name.startswith("demo")])
def test_the_header_of_a_shipped_study_says_its_counts(name: str) -> None:
    text = (files("jobs") / "studies" / f"{name}.yaml").read_text(encoding="utf-8")
    header = " ".join(line.removeprefix("#").strip() for line in text[: text.index("\nname:")].splitlines())
    assert f"{len(plan(name))} cells and {plan(name).runs:,} runs" in header


@pytest.mark.parametrize("name", COUNTS)
def test_the_guide_lists_every_shipped_study_with_its_counts(name: str) -> None:
    (row,) = [line for line in GUIDE.splitlines() if line.startswith("| `") and f"`{name}`" in line.split("|")[1]]
    _, names, _, cells, runs, _ = row.split("|")
    index = names.replace("`", "").replace(" ", "").split(",").index(name)
    assert cells.strip().split(", ")[index] == f"{len(plan(name))}"
    assert runs.strip().split(", ")[index] == f"{plan(name).runs:,}"


@pytest.mark.parametrize("name", COUNTS)
def test_every_shipped_study_renders_to_jobs_that_lint_finds_nothing_wrong_with(name: str) -> None:
    jobs = [job(name, each.cell, each.seeds, SITE) for each in plan(name)]
    names = [manifest["metadata"]["name"] for manifest in jobs]
    assert len(set(names)) == len(names)
    report = lint_text(to_yaml(jobs), f"{name}.yaml", Site("1.32"))
    assert report.jobs == len(jobs)
    assert report.findings == []


# ---------------------------------------------------------------------------------------------------- shared results


@pytest.mark.parametrize("name", PARTS)
def test_a_figure_is_a_part_of_the_paper_with_the_same_cells_and_no_other_seeds(name: str) -> None:
    paper = seeds("paper")
    assert seeds(name).keys() <= paper.keys()
    assert not [cell.name for cell, asked in seeds(name).items() if not asked <= paper[cell]]


def test_the_figures_together_are_the_paper() -> None:
    assert set().union(*(seeds(name) for name in PARTS)) == seeds("paper").keys()


@pytest.mark.parametrize("name", PARTS)
def test_a_figure_has_the_baselines_that_its_differences_need(name: str) -> None:
    finetuned = [each.cell for each in plan(name) if each.is_finetune]
    for task, size in {(cell.task.name, cell.size) for cell in finetuned}:
        here = [cell for cell in finetuned if (cell.task.name, cell.size) == (task, size)]
        assert {
            len(cell.treatment.layers) for cell in here if cell.is_baseline and isinstance(cell.treatment, Reinit)
        } == {0, 12}


def test_controls_run_nothing_again_that_paper_or_paper_released_has() -> None:
    paper, released = seeds("paper"), seeds("paper-released")
    new = [cell for cell in seeds("controls") if cell not in paper and cell not in released]
    assert len(new) == 105
    assert {type(cell.treatment) for cell in new} == {Truncate, Probe}
    known = {cell: paper.get(cell, set()) | released.get(cell, set()) for cell in seeds("controls")}
    assert not [cell.name for cell, asked in seeds("controls").items() if cell not in new and not asked <= known[cell]]


def test_the_init_is_compared_at_the_depths_and_sizes_that_the_claims_about_data_need() -> None:
    for label, init in (("progressive", "truncated_normal"), ("released-init", "released")):
        found: dict[tuple[str, Any], set[int]] = {}
        for cell in cells("controls", label):
            assert isinstance(cell.treatment, Reinit)
            assert cell.treatment.init == init or not cell.treatment.layers
            found.setdefault((cell.task.name, cell.size), set()).add(12 - len(cell.treatment.layers))
        assert len(found) == 11
        assert all(kept >= {0, 2, 4, 6, 12} for kept in found.values())


def test_truncation_has_a_released_curve_beside_it_at_every_depth_and_seed() -> None:
    curve = {
        (cell.task.name, 12 - len(cell.treatment.layers)): asked
        for cell, asked in seeds("controls").items()
        if isinstance(cell.treatment, Reinit) and cell.size == 5000 and cell.treatment.init == "released"
    }
    truncated = [cell for cell in seeds("controls") if isinstance(cell.treatment, Truncate)]
    assert {cell.treatment.depth for cell in truncated if isinstance(cell.treatment, Truncate)} == set(range(1, 12))
    for cell in truncated:
        assert isinstance(cell.treatment, Truncate)
        assert curve[cell.task.name, cell.treatment.depth] == seeds("controls")[cell] == {1, 2, 3}


def test_the_two_ways_to_score_a_probe_differ_in_nothing_else() -> None:
    reloaded = cells("controls", "probe-reloaded")
    in_memory = [
        cell.model_copy(update={"treatment": cell.treatment.model_copy(update={"scored": "in_memory"})})
        for cell in reloaded
    ]
    assert in_memory == cells("controls", "probe") == cells("paper", "probe")
    assert {frozenset(seeds("controls")[cell]) for cell in reloaded + in_memory} == {frozenset(range(1, 11))}


def test_fixed_steps_are_those_of_5000_examples_in_the_papers_epochs() -> None:
    (recipe,) = {each.cell.recipe for each in plan("fixed-steps")}
    assert recipe == Recipe(duration=Steps(steps=Recipe().steps(5000)))
    assert {each.cell.steps for each in plan("fixed-steps")} == {1_875}


def test_few_sample_has_zhangs_init_pooler_and_recipe() -> None:
    (recipe,) = {each.cell.recipe for each in plan("few-sample")}
    assert recipe == Recipe(batch_size=32, warmup=0.1)
    assert {(each.init, each.pooler, each.keep_layernorm) for each in redraws("few-sample", "top-layers")} == {
        ("normal", "redraw", False)
    }
    assert {len(each.layers) for each in redraws("few-sample", "top-layers")} == {1, 2, 3, 4, 5, 6}
    assert {each.layers[-1] for each in redraws("few-sample", "top-layers")} == {23}
    rte = next(each.cell for each in plan("few-sample") if each.cell.task.name == "rte")
    assert rte.steps == 234


# --------------------------------------------------------------------------------- the released code against the paper

REDRAWING = ["progressive", "block", "inverse-block", "single", "keep-layernorm", "lr-times-5"]


@pytest.mark.parametrize("family", REDRAWING)
def test_the_released_code_redraws_by_its_own_init_and_the_paper_by_the_one_it_describes(family: str) -> None:
    assert {each.init for each in redraws("paper-released", family)} == {"released"}
    assert {each.init for each in redraws("paper", family)} == {"truncated_normal"}


@pytest.mark.parametrize("family", REDRAWING)
def test_both_redraw_the_same_layers(family: str) -> None:
    def layers(name: str) -> list[tuple[str, Any, tuple[int, ...]]]:
        found = [(cell, cell.treatment) for cell in cells(name, family)]
        return [(cell.task.name, cell.size, each.layers) for cell, each in found if isinstance(each, Reinit)]

    assert sorted(layers("paper-released"), key=str) == sorted(layers("paper"), key=str)


def test_only_the_layernorm_experiment_keeps_layernorm_in_both() -> None:
    for name in ("paper", "paper-released"):
        kept = {family: {each.keep_layernorm for each in redraws(name, family)} for family in REDRAWING}
        assert kept == {family: {family == "keep-layernorm"} for family in REDRAWING}


def test_the_released_learning_rate_experiment_never_trains_layer_11_and_the_rest_learn_at_5e_5() -> None:
    for cell in cells("paper-released", "lr-times-5"):
        assert isinstance(cell.treatment, Reinit)
        assert cell.treatment.frozen_layers == (11,)
        assert cell.recipe == Recipe(learning_rate=5e-5)
        if cell.treatment.layers:
            assert cell.recipe.learning_rate * cell.treatment.lr_scale == pytest.approx(1e-4)
    assert len(cells("paper-released", "lr-times-5")) == 39
    for treatment in redraws("paper", "lr-times-5"):
        assert treatment.frozen_layers == ()
        assert Recipe().learning_rate * treatment.lr_scale == pytest.approx(1e-4)


def test_released_probes_train_40_epochs_with_dropout_in_the_encoder_and_are_scored_after_a_reload() -> None:
    released, ours = cells("paper-released", "probe"), cells("paper", "probe")
    assert {cell.recipe for cell in released} == {Recipe(duration=Epochs(epochs=40))}
    assert {cell.recipe for cell in ours} == {Recipe()}
    for depth in range(1, 13):
        assert Probe(depth=depth, scored="released_reload", encoder_dropout=True) in {c.treatment for c in released}
        assert Probe(depth=depth, scored="in_memory", encoder_dropout=False) in {c.treatment for c in ours}


def test_seeds_are_those_of_the_released_scripts_or_of_their_figures() -> None:
    """The scripts say 3, 10 for blocks, one data seed for every order; the figures 50 at 500, 3 for inverse blocks."""
    asked = {
        family: {len(seeds("paper-released")[cell]) for cell in cells("paper-released", family) if not cell.is_baseline}
        for family in ("inverse-block", "permutation", "probe", "keep-layernorm", "lr-times-5")
    }
    # k = 3, which keeps layers 0 to 2, and nothing else is in both.
    assert asked == {"inverse-block": {3}, "permutation": {1}, "probe": {3}, "keep-layernorm": {3}, "lr-times-5": {3}}
    new_blocks = [each for each in plan("paper-released") if each.families == ("block",)]
    assert {len(each.seeds) for each in new_blocks} == {10}
    at_500 = [each for each in plan("paper-released") if each.cell.size == 500]
    assert {len(each.seeds) for each in at_500} == {50}


def test_permutations_and_plain_finetuning_are_one_cell_in_both() -> None:
    both = seeds("paper").keys() & seeds("paper-released").keys()
    assert len(both) == 41
    assert {type(cell.treatment) for cell in both} == {Permute, Reinit}
    assert all(cell.treatment == Reinit() for cell in both if isinstance(cell.treatment, Reinit))
    orders = [
        cell.treatment.order for cell in cells("paper-released", "permutation") if isinstance(cell.treatment, Permute)
    ]
    assert orders == [released_order(seed, 12) for seed in range(1, 11)] * 3
    assert orders[0] == (2, 3, 4, 10, 1, 6, 0, 7, 11, 9, 8, 5)
    assert orders[1] == (9, 5, 4, 7, 1, 10, 0, 3, 2, 6, 11, 8)
    assert orders[9] == (2, 6, 7, 5, 11, 8, 10, 3, 1, 0, 4, 9)


# ------------------------------------------------------------------------------------------- probes that have no seed

CONVERGED = {"family": "probe", "name": "probe-converged", "fit": "converged"}


@pytest.mark.parametrize(("sizes", "asked"), [(["full"], 10), (["full", 500], 2), (["full"], {"full": [3, 4]})])
def test_a_probe_fitted_to_convergence_on_all_rows_has_one_seed(sizes: list[Any], asked: Any) -> None:
    family = {**CONVERGED, "sizes": sizes, "seeds": asked}
    with pytest.raises(SpecError, match="comes out the same whatever the seed") as refusal:
        with_family(family).plan()
    assert refusal.value.expected == "one seed at size full"
    assert refusal.value.where == "families[0].seeds"


def test_below_all_rows_the_seed_of_a_converged_probe_chooses_the_rows() -> None:
    family = {**CONVERGED, "sizes": ["full", 500], "seeds": {"full": [7], "default": 10}}
    assert {(each.cell.size, len(each.seeds)) for each in with_family(family).plan()} == {("full", 1), (500, 10)}
    recipe = {"family": "probe", "sizes": ["full"], "seeds": 10}
    assert {len(each.seeds) for each in with_family(recipe).plan()} == {10}


def with_family(family: dict[str, Any]) -> Any:
    study = load_study("probing")
    return type(study).model_validate({**study.model_dump(exclude={"families"}), "families": [family]})
