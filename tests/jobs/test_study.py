"""A study file becomes the cells that it means, each once; a wrong one becomes an error that names the place."""

# ruff: noqa: E501 - rows of the tables below stay on one line each

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import yaml

from jobs.cell import Permute, Probe, Recipe, Reinit, Treatment, Truncate
from jobs.errors import SpecError
from jobs.families import AnyFamily, Single, released_order
from jobs.plan import Plan, merged
from jobs.spec import PATTERNS
from jobs.study import Study, load_study, shipped_studies, study_of, study_schema
from jobs.tasks import GLUE, PackageSource
from jobs.yamlfile import parse_yaml

HEAD = f"""\
name: small
title: A small study
note: For tests.
model: {{name: some/model, revision: {"a" * 40}, layers: 4}}
tasks: [sst2, cola]
"""


def study(families: str, head: str = HEAD) -> Study:
    return study_of(parse_yaml(f"{head}families:\n{families}", "small.yaml"))


def plan(*families: str, more: str = "") -> Plan:
    return study("".join(f"  - {{{family}}}\n" for family in families) + more).plan()


def treatments(family: str) -> list[Treatment]:
    return [each.cell.treatment for each in plan(f"{family}, tasks: [sst2], sizes: [500], seeds: 1")]


def layers(family: str) -> list[tuple[int, ...]]:
    found = treatments(family)
    assert all(isinstance(treatment, Reinit) for treatment in found)
    return [treatment.layers for treatment in found if isinstance(treatment, Reinit)]


# ------------------------------------------------------------------------------------------------- shipped studies


def test_the_paper_is_368_cells_and_3651_runs() -> None:
    paper = load_study("paper").plan()
    assert len(paper) == 368
    assert paper.runs == 3_651
    assert paper.finetunes == 3_291
    assert paper.finetune_steps == 6_621_777


def test_the_paper_without_seeds_added_to_baselines_is_3609_runs() -> None:
    """Seven more seeds for each of two baselines of three tasks at 5,000, where blocks have ten."""
    paper = load_study("paper").plan()
    extended = [each for each in paper if each.cell.is_baseline and each.cell.size == 5000]
    assert [each.seeds for each in extended] == [tuple(range(1, 11))] * 6
    assert paper.runs - sum(len(each.seeds) - 3 for each in extended) == 3_609


def test_each_of_the_papers_experiments_adds_the_cells_it_says() -> None:
    firsts = Counter(each.families[0] for each in load_study("paper").plan())
    assert firsts == {
        "progressive": 143,
        "block": 27,
        "inverse-block": 27,
        "single": 33,
        "permutation": 30,
        "probe": 36,
        "keep-layernorm": 36,
        "lr-times-5": 36,
    }


def test_cells_of_the_paper_that_two_figures_share_are_planned_once() -> None:
    shared = {(each.cell.task.name, each.families) for each in load_study("paper").plan() if len(each.families) > 1}
    assert shared == {
        (task, families)
        for task in ("sst2", "qnli", "cola")
        for families in [
            ("progressive", "block"),
            ("progressive", "inverse-block"),
            ("progressive", "single"),
            ("progressive", "keep-layernorm", "lr-times-5"),
        ]
    }


def test_the_paper_runs_with_the_papers_recipe() -> None:
    assert {each.cell.recipe for each in load_study("paper").plan()} == {Recipe()}


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_say_every_number_of_their_recipe(name: str) -> None:
    assert load_study(name).recipe.model_fields_set == set(Recipe.model_fields)


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_named_as_their_files_and_read_by_name(name: str) -> None:
    found = load_study(name)
    assert found.name == name
    assert found.title == shipped_studies()[name]
    assert found.plan()


def test_the_demo_is_part_of_the_full_demo() -> None:
    small, full = ({each.cell for each in load_study(name).plan()} for name in ("demo", "demo-full"))
    assert small < full


def test_the_demo_says_that_its_model_is_not_bert_base_and_how_its_rows_are_cut() -> None:
    for name in ("demo", "demo-full"):
        note = load_study(name).note
        assert "no BERT-base" in note
        assert "fixed permutation" in note


def test_the_demos_row_counts_are_those_of_its_data() -> None:
    task = load_study("demo").tasks[0]
    assert isinstance(task.source, PackageSource)
    assert task.holdout is not None
    source = task.source
    try:
        recorded = importlib.metadata.files(source.name) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the demo's data are not installed")
    data = next(file for file in recorded if str(file) == source.file).read_binary()
    assert source.revision == f"sha256:{hashlib.sha256(data).hexdigest()}"
    rows = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))
    kept = [
        row
        for row in rows
        if all(row[column] == text for column, text in task.where.items())
        and sum(len(row[column].split()) for column in task.text) <= (task.max_words or 10**9)
    ]
    assert {row[task.label] for row in kept} == set(task.labels or ())
    assert len(kept) - task.holdout.rows == task.train_rows
    assert task.validation_rows == (task.holdout.rows,)


# --------------------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("family: progressive", [(), (3,), (2, 3), (1, 2, 3), (0, 1, 2, 3)]),
        ("family: progressive, preserved: [0, 4, 3]", [(0, 1, 2, 3), (), (3,)]),
        ("family: block", [(0, 1, 2), (1, 2, 3)]),
        ("family: block, width: 2, starts: [2, 0]", [(2, 3), (0, 1)]),
        ("family: block, width: 4", [(0, 1, 2, 3)]),
        ("family: inverse-block", [(3,), (0,)]),
        ("family: inverse-block, width: 4", [()]),
        ("family: single", [(0,), (1,), (2,), (3,)]),
        ("family: single, layers: [2]", [(2,)]),
        ("family: alternate", [(0, 2), (1, 3)]),
        ("family: alternate, which: even", [(0, 2)]),
        ("family: alternate, which: odd", [(1, 3)]),
        ("family: reinit, layers: [[3, 0], []]", [(0, 3), ()]),
    ],
)
def test_families_list_the_layers_to_redraw(family: str, expected: list[tuple[int, ...]]) -> None:
    assert layers(family) == expected


def test_a_permutation_family_lists_orders() -> None:
    assert treatments("family: permutation, orders: [[3, 2, 1, 0], [0, 1, 2, 3]]") == [
        Permute(order=(3, 2, 1, 0)),
        Reinit(),
    ]
    assert treatments("family: permutation, released: 2") == [Permute(order=released_order(seed, 4)) for seed in (1, 2)]


def test_probe_and_truncate_families_list_depths() -> None:
    assert treatments("family: probe") == [Probe(depth=depth) for depth in (1, 2, 3, 4)]
    probe = treatments("family: probe, depths: [2], feature: cls, scored: released_reload, encoder_dropout: true")
    assert probe == [Probe(depth=2, feature="cls", scored="released_reload", encoder_dropout=True)]
    assert treatments("family: truncate") == [Truncate(depth=1), Truncate(depth=2), Truncate(depth=3), Reinit()]


def test_options_of_a_family_are_those_of_its_treatment() -> None:
    options = "init: released, keep_layernorm: true, lr_scale: 5, pooler: redraw, frozen_layers: [3]"
    expected = Reinit(
        layers=(1,), init="released", keep_layernorm=True, lr_scale=5, pooler="redraw", frozen_layers=(3,)
    )
    assert treatments(f"family: single, layers: [1], {options}") == [expected]


def test_families_know_every_option_of_their_treatment_and_its_default() -> None:
    for family, treatment in ((Single, Reinit), ("probe", Probe)):
        kind = (
            family
            if isinstance(family, type)
            else type(study(f"  - {{family: {family}, sizes: [9], seeds: 1}}\n").families[0])
        )
        for name, field in treatment.model_fields.items():
            if name not in ("kind", "layers", "depth"):
                assert kind.model_fields[name].default == field.default
                assert kind.model_fields[name].annotation == field.annotation


def test_a_model_of_one_layer_has_every_family_that_makes_sense() -> None:
    head = HEAD.replace("layers: 4", "layers: 1")
    families = [
        "progressive",
        "single",
        "alternate",
        "probe",
        "truncate",
        "block, width: 1",
        "permutation, released: 3",
    ]
    text = "".join(f"  - {{family: {family}, sizes: [9], seeds: 1}}\n" for family in families)
    found = {each.cell.treatment for each in study(text, head).plan()}
    assert found == {Reinit(), Reinit(layers=(0,)), Probe(depth=1)}


@pytest.mark.parametrize("depth", [1, 2, 6, 12, 13, 24, 48])
def test_released_orders_are_numpys(depth: int) -> None:
    for seed in range(1, 21):
        assert released_order(seed, depth) == tuple(np.random.RandomState(seed).permutation(depth).tolist())


def test_the_papers_first_orders() -> None:
    assert released_order(1, 12) == (2, 3, 4, 10, 1, 6, 0, 7, 11, 9, 8, 5)
    assert released_order(2, 12) == (9, 5, 4, 7, 1, 10, 0, 3, 2, 6, 11, 8)
    assert released_order(10, 12) == (2, 6, 7, 5, 11, 8, 10, 3, 1, 0, 4, 9)


# ------------------------------------------------------------------------------------------------------------- plan


def test_cells_come_in_the_order_of_families_tasks_sizes_and_treatments() -> None:
    found = plan(
        "family: single, layers: [1, 0], sizes: [50, 9], seeds: 1",
        "family: progressive, preserved: [4, 3], tasks: [cola], sizes: [9], seeds: 1",
    )
    assert [each.cell.name.rsplit("-", 1)[0] for each in found] == [
        "sst2-50-reinit-1", "sst2-50-reinit-0", "sst2-9-reinit-1", "sst2-9-reinit-0",
        "cola-50-reinit-1", "cola-50-reinit-0", "cola-9-reinit-1", "cola-9-reinit-0",
        "cola-9-finetune", "cola-9-reinit-3",
    ]  # fmt: skip


def test_a_cell_that_families_share_has_the_union_of_their_seeds() -> None:
    found = plan(
        "family: single, layers: [3], tasks: [sst2], sizes: [9], seeds: [7, 2]",
        "family: progressive, preserved: [3], tasks: [sst2], sizes: [9], seeds: 3",
    )
    (only,) = found
    assert only.seeds == (1, 2, 3, 7)
    assert only.families == ("single", "progressive")


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ("3", {"full": (1, 2, 3), 500: (1, 2, 3)}),
        ("[5, 0]", {"full": (0, 5), 500: (0, 5)}),
        ("{default: 2, 500: [9]}", {"full": (1, 2), 500: (9,)}),
        ("{full: 1, 500: 2}", {"full": (1,), 500: (1, 2)}),
    ],
)
def test_seeds_are_a_number_a_list_or_by_size(seeds: str, expected: dict[Any, tuple[int, ...]]) -> None:
    found = plan(f"family: single, layers: [0], tasks: [sst2], sizes: [full, 500], seeds: {seeds}")
    assert {each.cell.size: each.seeds for each in found} == expected


def test_baselines_take_the_seeds_of_finetunes_beside_them_and_not_of_probes() -> None:
    found = plan(
        "family: progressive, tasks: [sst2, cola], sizes: [9, 50], seeds: 2",
        "family: single, tasks: [sst2], sizes: [9], seeds: [5]",
        "family: truncate, tasks: [sst2], sizes: [9], seeds: [6]",
        "family: permutation, released: 1, tasks: [sst2], sizes: [9], seeds: [7]",
        "family: probe, tasks: [sst2], sizes: [9], seeds: [8]",
        "family: block, name: steps, tasks: [sst2], sizes: [9], seeds: [9], recipe: {batch_size: 2}",
    )
    baselines = {
        (each.cell.task.name, each.cell.size, each.cell.treatment): each.seeds
        for each in found
        if each.cell.is_baseline
    }
    all_layers = Reinit(layers=(0, 1, 2, 3))
    assert baselines == {
        ("sst2", 9, Reinit()): (1, 2, 5, 6, 7),
        ("sst2", 9, all_layers): (1, 2, 5, 6, 7),
        **{("cola", size, treatment): (1, 2) for size in (9, 50) for treatment in (Reinit(), all_layers)},
        **{("sst2", 50, treatment): (1, 2) for treatment in (Reinit(), all_layers)},
    }


def test_a_familys_recipe_changes_only_the_numbers_it_names() -> None:
    head = HEAD + "recipe: {batch_size: 16, learning_rate: 1e-4}\n"
    family = "  - {family: single, layers: [0], tasks: [sst2], sizes: [9], seeds: 1, recipe: {learning_rate: 3e-5}}\n"
    (only,) = study(family, head).plan()
    assert only.cell.recipe == Recipe(batch_size=16, learning_rate=3e-5)


def test_include_keeps_and_exclude_drops_before_rows_are_checked() -> None:
    everything = "family: single, layers: [0], sizes: [50000, 500, full], seeds: 1"
    more = "include: [{size: 50000}, {task: cola}]\nexclude: [{task: cola, size: 50000}, {task: cola, size: full}]\n"
    found = [(each.cell.task.name, each.cell.size) for each in plan(everything, more=more)]
    assert found == [("sst2", 50000), ("cola", 500)]


def test_a_selector_names_a_family_by_its_name() -> None:
    found = plan(
        "family: single, sizes: [9], seeds: 1",
        "family: single, name: ln, keep_layernorm: true, sizes: [9], seeds: 1",
        more="exclude: [{family: ln}]\n",
    )
    assert {each.families for each in found} == {("single",)}


def test_families_that_treat_alike_may_share_a_name() -> None:
    found = plan(
        "family: single, tasks: [sst2], sizes: [9], seeds: 5",
        "family: single, keep_layernorm: false, tasks: [cola], layers: [0], sizes: [50], seeds: 1, recipe: {batch_size: 8}",
    )
    assert {each.families for each in found} == {("single",)}


def test_a_plan_knows_its_runs_and_steps() -> None:
    found = plan(
        "family: single, layers: [0], tasks: [sst2], sizes: [9], seeds: 2",
        "family: probe, depths: [1], tasks: [sst2], sizes: [9], seeds: 5",
    )
    assert (found.runs, found.finetunes, found.finetune_steps) == (7, 2, 2 * 3 * 2)
    assert [each.is_finetune for each in found] == [True, False]


@pytest.mark.slow
def test_merged_plans_have_each_cell_once_with_the_seeds_and_families_of_all() -> None:
    first = plan("family: progressive, tasks: [sst2], preserved: [4, 2], sizes: [500], seeds: 3")
    second = plan("family: progressive, name: mine, tasks: [sst2], preserved: [2, 0], sizes: [500], seeds: [2, 9]")
    both = merged([first, second])
    assert [each.cell.digest for each in both] == [*(each.cell.digest for each in first), second[1].cell.digest]
    assert [each.seeds for each in both] == [(1, 2, 3), (1, 2, 3, 9), (2, 9)]
    assert [each.families for each in both] == [("progressive",), ("progressive", "mine"), ("mine",)]
    assert merged([first]) == first
    assert merged([]) == Plan()


def test_a_hundred_thousand_cells_are_planned_in_seconds() -> None:
    sizes = ", ".join(map(str, range(100, 4_100)))
    text = f"  - {{family: progressive, tasks: [sst2], sizes: [{sizes}], seeds: 3}}\n"
    started = time.perf_counter()
    found = study(text, HEAD.replace("layers: 4", "layers: 24")).plan()
    assert len(found) == 100_000
    assert time.perf_counter() - started < 120  # 8 s on two idle cores


# ------------------------------------------------------------------------------------------------------------- find


def test_a_cell_is_found_by_any_unique_beginning_of_name_or_digest() -> None:
    demo = load_study("demo").plan()
    for each in demo:
        assert demo.find(each.cell.name) is each
        assert demo.find(each.cell.digest[:10]) is each
    assert demo.find("rotten-short-500-f").cell.treatment == Reinit()


def test_a_beginning_of_several_names_is_refused_with_the_candidates() -> None:
    with pytest.raises(SpecError, match="2 cells begin with 'sst2-9-r'") as caught:
        plan("family: single, layers: [0, 2], tasks: [sst2], sizes: [9, 50], seeds: 1").find("sst2-9-r")
    assert str(caught.value).count("sst2-9-reinit-") == 2
    assert "sst2-50" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "x", "sst2-9 ", "*", "\0"])
def test_a_beginning_of_no_name_or_of_all_is_refused_on_one_screen(prefix: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_study("paper").plan().find(prefix)
    assert "... and 358 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 24


# ------------------------------------------------------------------------------------------------------------ tasks


def test_a_task_is_a_name_a_changed_built_in_or_a_whole_definition() -> None:
    whole = json.dumps(GLUE["rte"].model_dump(mode="json") | {"name": "mine"})
    head = HEAD.replace("[sst2, cola]", f"[sst2, {{task: cola, metrics: [accuracy], name: cola-acc}}, {whole}]")
    family = "  - {family: single, sizes: [9], seeds: 1}\n"
    first, changed, mine = study(family, head).tasks
    assert first == GLUE["sst2"]
    assert changed == GLUE["cola"].model_copy(update={"metrics": ("accuracy",), "name": "cola-acc"})
    assert mine == GLUE["rte"].model_copy(update={"name": "mine"})


def test_a_built_in_task_may_come_from_a_folder() -> None:
    source = f"{{kind: folder, name: SST-2, revision: 'sha256:{'0' * 64}'}}"
    head = HEAD.replace("[sst2, cola]", f"[{{task: sst2, source: {source}}}]")
    (task,) = study("  - {family: single, sizes: [9], seeds: 1}\n", head).tasks
    assert task.headline == "dev.tsv/accuracy"
    assert task.train_rows == GLUE["sst2"].train_rows


# ------------------------------------------------------------------------------------------------------ bad studies

GOOD = HEAD + "# which layers\nfamilies:\n  - family: single\n    layers: [0]\n    sizes: [9]\n    seeds: 1\n"


@pytest.mark.parametrize(
    ("old", "new", "where", "parts"),
    [
        ("layers: [0]", "layers: [4]", "9 families[0].layers[0]", ["4 does not fit a model of 4 layers", "at most 3"]),
        ("layers: [0]", "layers: [-1]", "9 families[0].layers[0]", ["a number of at least 0", "-1"]),
        ("layers: [0]", "layers: []", "9 families[0].layers", ["a list of at least 1"]),
        ("layers: [0]", "layers: [1, 1]", "9 families[0].layers", ["at most once, got 1 again"]),
        ("layers: [0]", "layers: most", "9 families[0].layers", ["a list or `all`", "most"]),
        ("layers: [0]", "frozen_layers: [4]", "9 families[0].frozen_layers[0]", ["at most 3"]),
        ("layers: [0]", "frozen_layers: [1, 1]", "9 families[0].frozen_layers", ["got 1 again"]),
        ("layers: [0]", "lr_scale: 0", "9 families[0].lr_scale", ["a number above 0"]),
        ("layers: [0]", "keep_layernorm: yes", "9 families[0].keep_layernorm", ["true or false", "yes"]),
        ("layers: [0]", "init: realeased", "9 families[0].init", ["`released`", "realeased"]),
        ("sizes: [9]", "sizes: [-1]", "10 families[0].sizes[0]", ["a number above 0 or `full`", "-1"]),
        ("sizes: [9]", "sizes: [0]", "10 families[0].sizes[0]", ["a number above 0 or `full`"]),
        ("sizes: [9]", "sizes: ['9']", "10 families[0].sizes[0]", ["a whole number or `full`", '"9"']),
        ("sizes: [9]", "sizes: [true]", "10 families[0].sizes[0]", ["a whole number or `full`", "true"]),
        ("sizes: [9]", "sizes: [9.5]", "10 families[0].sizes[0]", ["a whole number or `full`"]),
        ("sizes: [9]", "sizes: 9", "10 families[0].sizes", ["a list"]),
        ("sizes: [9]", "sizes:", "10 families[0].sizes", ["a list", "null"]),
        ("sizes: [9]", "size: [9]", "10 families[0].size", ["unknown key `size`", "did you mean `sizes`?"]),
        ("sizes: [9]", "sizes: [9, 8551]", "10 families[0].sizes[1]", ["8551 training rows of cola", "exclude {task: cola, size: 8551}"]),
        ("seeds: 1", "seeds: 0", "11 families[0].seeds", ["a number of at least 1"]),
        ("seeds: 1", "seeds: 10001", "11 families[0].seeds", ["a number of at most 10000"]),
        ("seeds: 1", "seeds: [-1]", "11 families[0].seeds[0]", ["a number of at least 0"]),
        ("seeds: 1", "seeds: [1, 1]", "11 families[0].seeds", ["got 1 again"]),
        ("seeds: 1", "seeds: {default: 0}", "11 families[0].seeds.default", ["a number of at least 1"]),
        ("seeds: 1", "seeds: {9: 1, 50: 1}", "11 families[0].seeds.50", ["50 is no size here", "9, default"]),
        ("seeds: 1", "seeds: {}", "11 families[0].seeds", ["no seeds for size 9"]),
        ("seeds: 1", "seeds: 1\n    tasks: [qnli]", "12 families[0].tasks[0]", ["no task `qnli`", "sst2, cola"]),
        ("seeds: 1", "seeds: 1\n    name: A b", "12 families[0].name", ["lower-case letters", "A b"]),
        ("seeds: 1", "seeds: 1\n    recipe: {dropuot: 0}", "12 families[0].recipe.dropuot", ["did you mean `dropout`?"]),
        ("seeds: 1", "seeds: 1\n    recipe: {dropout: 1}", "12 families[0].recipe.dropout", ["a number below 1"]),
        ("seeds: 1", "seeds: 1\n    seeds: 2", "12", ["the key `seeds` stands twice", "line 11"]),
        ("seeds: 1", "seeds: 1\nexclude: [{task: colla}]", "12 exclude[0]", ["matches no cell", "task sst2, cola"]),
        ("seeds: 1", "seeds: 1\ninclude: [{size: 10}]", "12 include[0]", ["matches no cell", "size 9"]),
        ("seeds: 1", "seeds: 1\nexclude: [{}]", "12 exclude[0]", ["at least one of task, size, family"]),
        ("seeds: 1", "seeds: 1\nexclude: [{family: single}]", "12 exclude", ["leave no cell"]),
        ("family: single", "family: singel", "8 families[0].family", ["unknown family `singel`", "did you mean `single`?"]),
        ("family: single", "name: x", "8 families[0]", ["a mapping with the key `family`"]),
        ("family: single\n    layers: [0]", "family: progressive\n    preserved: [5]", "9 families[0].preserved[0]", ["at most 4"]),
        ("family: single\n    layers: [0]", "family: block\n    starts: [2]", "9 families[0].starts[0]", ["at most 1"]),
        ("family: single\n    layers: [0]", "family: block\n    width: 5", "9 families[0].width", ["at most 4"]),
        ("family: single\n    layers: [0]", "family: block\n    width: 0", "9 families[0].width", ["a number above 0"]),
        ("family: single\n    layers: [0]", "family: probe\n    depths: [5]", "9 families[0].depths[0]", ["at most 4"]),
        ("family: single\n    layers: [0]", "family: probe\n    depths: [0]", "9 families[0].depths[0]", ["above 0"]),
        ("family: single\n    layers: [0]", "family: probe\n    fit: converged\n    encoder_dropout: true", "8 families[0]", ["fit: converged takes none"]),
        ("family: single\n    layers: [0]", "family: truncate\n    depths: [5]", "9 families[0].depths[0]", ["at most 4"]),
        ("family: single\n    layers: [0]", "family: reinit\n    layers: [[0], [1, 4]]", "9 families[0].layers[1]", ["at most 3"]),
        ("family: single\n    layers: [0]", "family: reinit\n    layers: [[0, 0]]", "9 families[0].layers[0]", ["got 0 again"]),
        ("family: single\n    layers: [0]", "family: reinit", "8 families[0].layers", ["`layers` is missing"]),
        ("family: single\n    layers: [0]", "family: permutation\n    orders: [[1, 0]]", "9 families[0].orders[0]", ["not an order of 4 layers", "each of 0 to 3 once"]),
        ("family: single\n    layers: [0]", "family: permutation\n    orders: [[0, 1, 2, 2]]", "9 families[0].orders[0]", ["not an order"]),
        ("family: single\n    layers: [0]", "family: permutation", "8 families[0]", ["either `orders` or `released`"]),
        ("family: single\n    layers: [0]", "family: permutation\n    released: 0", "9 families[0].released", ["at least 1"]),
        ("[sst2, cola]", "[sst-2]", "5 tasks[0]", ["no such built-in task", "did you mean `sst2`?"]),
        ("[sst2, cola]", "[{task: [sst2]}]", "5 tasks[0].task", ["no such built-in task"]),
        ("[sst2, cola]", "[7]", "5 tasks[0]", ["no such built-in task"]),
        ("[sst2, cola]", "[sst2, sst2]", "5 tasks[1]", ["two tasks are called `sst2`"]),
        ("[sst2, cola]", "[{task: sst2, metric: accuracy}]", "5 tasks[0].metric", ["did you mean `metrics`?"]),
        ("[sst2, cola]", "[{task: sst2, labels: [0, 1]}]", "5 tasks[0].labels[0]", ["quote it", "labels[1]"]),
        ("[sst2, cola]", "[{task: sst2, source: {kind: hubb}}]", "5 tasks[0].source.kind", ["did you mean `hub`?"]),
        ("[sst2, cola]", "[{task: sst2, source: {kind: hub, name: x, revision: main}}]", "5 tasks[0].source.revision", ["a full commit, 40 hex digits"]),
        ("[sst2, cola]", "[{name: x}]", "5 tasks[0].source", ["`source` is missing"]),
        ("[sst2, cola]", "[{task: sst2, labels: null}]", "5 tasks[0]", ["a regression task"]),
        ("[sst2, cola]", "[]", "5 tasks", ["a list of at least 1"]),
        ("[sst2, cola]", "sst2", "5 tasks", ["a list"]),
        ("layers: 4}", "layers: 0}", "4 model.layers", ["a number of at least 1"]),
        ("layers: 4}", "layers: 10000000000}", "4 model.layers", ["a number of at most 1000"]),
        ("revision: aaa", "revision: xaaa", "4 model.revision", ["a full commit, 40 hex digits or `sha256:` and 64 hex digits"]),
        ("name: small", "name: Small_1", "1 name", ["lower-case letters, digits and inner hyphens, at most 32"]),
        ("name: small\n", "", "1 name", ["the key `name` is missing"]),
        ("title: A", "title: ' '\ntitel: A", "3 titel", ["did you mean `title`?"]),
        ("note: For", "recipe: {learning_rate: '1e-5'}\nnote: For", "3 recipe.learning_rate", ["a number", "1e-5"]),
        ("note: For", "recipe: {learning_rate: 1e999}\nnote: For", "3 recipe.learning_rate", ["a finite number"]),
        ("note: For", "recipe: {duration: {epochs: 1}}\nnote: For", "3 recipe.duration", ["a mapping with the key `kind`"]),
        ("note: For", "recipe: {duration: 3}\nnote: For", "3 recipe.duration", ["a mapping"]),
        ("note: For", "recipe: []\nnote: For", "3 recipe", ["a mapping"]),
    ],
    ids=lambda value: value.replace("\n", " ")[:40] if isinstance(value, str) else None,
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, where: str, parts: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        study_of(parse_yaml(GOOD.replace(old, new, 1), "small.yaml"))
    message = str(caught.value)
    assert f"small.yaml:{where}" in message
    assert not [part for part in parts if part not in message], message
    assert len(message.splitlines()) < 24
    assert "pydantic" not in message
    assert "Input" not in message


def test_the_good_study_is_good() -> None:
    assert len(study_of(parse_yaml(GOOD, "small.yaml")).plan()) == 2


def test_two_families_of_one_name_that_treat_differently_are_refused() -> None:
    with pytest.raises(SpecError, match="two families are called `single`"):
        plan("family: single, sizes: [9], seeds: 1", "family: single, lr_scale: 5, sizes: [9], seeds: 1")
    with pytest.raises(SpecError, match="two families are called `single`"):
        plan("family: single, sizes: [9], seeds: 1", "family: single, recipe: {dropout: 0}, sizes: [9], seeds: 1")


def test_many_mistakes_fit_one_screen_and_are_counted() -> None:
    text = GOOD.replace("sizes: [9]", f"sizes: [{', '.join(['-1'] * 50)}]")
    with pytest.raises(SpecError) as caught:
        study_of(parse_yaml(text, "small.yaml"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "50 mistakes in small.yaml"
    assert lines[-1] == "... and 46 more"
    assert len(lines) < 24


def test_a_long_wrong_value_is_cut_short() -> None:
    with pytest.raises(SpecError) as caught:
        study_of(parse_yaml(GOOD.replace("layers: [0]", f"layers: {'x' * 10_000}"), "small.yaml"))
    assert len(str(caught.value)) < 600


def test_a_study_that_lists_too_many_cells_is_refused_before_they_are_made() -> None:
    sizes = ", ".join(map(str, range(1, 2_001)))
    text = f"  - {{family: inverse-block, tasks: [sst2], sizes: [{sizes}], seeds: 1}}\n"
    with pytest.raises(SpecError, match="1,996,000 cells"):
        study(text, HEAD.replace("layers: 4", "layers: 1000"))


def test_a_study_made_in_python_names_the_field_where_there_is_no_file() -> None:
    good = study_of(parse_yaml(GOOD, "small.yaml"))
    family: AnyFamily = Single(layers=(9,), sizes=(9,), seeds=1)
    with pytest.raises(SpecError, match="9 does not fit") as caught:
        good.model_copy(update={"families": (family,)}).plan()
    assert caught.value.where == "families[0].layers[0]"


@pytest.mark.parametrize(
    "ref", ["", "papr", "demo.yml", "/", "./", "none/x.yaml", "a\0.yaml", "x" * 5000, "./" + "x" * 5000]
)
def test_a_study_that_is_not_there_is_refused(ref: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_study(ref)
    assert len(str(caught.value)) < 600


def test_a_misspelt_shipped_study_brings_the_right_name() -> None:
    with pytest.raises(SpecError) as caught:
        load_study("papr")
    assert caught.value.remedy == "did you mean `paper`?"
    assert caught.value.allowed == ", ".join(shipped_studies())


def test_a_study_is_loaded_from_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    assert load_study(str(tmp_path / "mine.yaml")).name == "small"
    (tmp_path / "mine.yaml").write_text("")
    with pytest.raises(SpecError, match="not a mapping") as caught:
        load_study(str(tmp_path / "mine.yaml"))
    assert caught.value.where == str(tmp_path / "mine.yaml")


# ----------------------------------------------------------------------------------------------------------- schema


def plain(text: str) -> Any:
    return parse_yaml(text, "a.yaml").data


@pytest.mark.parametrize("name", shipped_studies())
def test_the_schema_accepts_shipped_studies(name: str) -> None:
    text = (Path(load_study.__code__.co_filename).parent / "studies" / f"{name}.yaml").read_text()
    jsonschema_rs.validate(study_schema(), plain(text))


@pytest.mark.parametrize(
    "tasks", ["[sst2]", "[{task: cola, metrics: [accuracy]}]", json.dumps([GLUE["rte"].model_dump(mode="json")])]
)
def test_the_schema_accepts_each_way_to_say_a_task(tasks: str) -> None:
    assert jsonschema_rs.is_valid(study_schema(), plain(GOOD.replace("[sst2, cola]", tasks)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sizes: [9]", "sizes: [-1]"),
        ("sizes: [9]", "sizess: [9]"),
        ("seeds: 1", "seeds: {default: x}"),
        ("family: single", "family: singel"),
        ("[sst2, cola]", "[sst-2]"),
        ("[sst2, cola]", "[{task: sst2, metric: accuracy}]"),
        ("title: A", "titel: A"),
    ],
)
def test_the_schema_refuses_what_reading_refuses(old: str, new: str) -> None:
    assert jsonschema_rs.is_valid(study_schema(), plain(GOOD))
    assert not jsonschema_rs.is_valid(study_schema(), plain(GOOD.replace(old, new)))


def test_the_schema_is_a_schema_and_describes_its_fields() -> None:
    schema = study_schema()
    jsonschema_rs.meta.validate(schema)
    undescribed = [name for name, field in schema["properties"].items() if not field.get("description")]
    assert undescribed == ["name", "model"]


def test_every_pattern_that_a_file_can_offend_is_known_in_words() -> None:
    def patterns(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(patterns, node))
        if not isinstance(node, dict):
            return set()
        own = {node["pattern"]} if isinstance(node.get("pattern"), str) else set()
        return own.union(*map(patterns, node.values()))

    assert patterns(study_schema()) <= PATTERNS.keys()


def test_shipped_files_read_the_same_to_other_yaml_readers_but_for_floats() -> None:
    """A list of seeds or a word is never at the mercy of the reader; `2e-5` is, and PyYAML calls it text."""
    for name in shipped_studies():
        text = (Path(load_study.__code__.co_filename).parent / "studies" / f"{name}.yaml").read_text()
        other = json.loads(json.dumps(yaml.safe_load(text)))
        for recipe in (other["recipe"], *(family.get("recipe", {}) for family in other["families"])):
            recipe.update({key: float(recipe[key]) for key in ("learning_rate", "epsilon") if key in recipe})
        assert other == plain(text)
