"""A cell's identity is its content: what moves a digest, what does not, and which digests are pinned for ever."""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from jobs import cell as cell_module
from jobs.cell import (
    Cell,
    Digest,
    Epochs,
    Init,
    Model,
    Permute,
    Probe,
    Recipe,
    Reinit,
    Seed,
    Steps,
    Treatment,
    Truncate,
    canonical,
    layer_ranges,
    treatment_name,
)
from jobs.tasks import GLUE, Holdout, PackageSource, Task
from tests.make import a_cell

LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
"""A Kubernetes label value: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/."""

BERT = Model(name="google-bert/bert-base-uncased", revision="86b5e0934494bd15c9632b12f734a8a67f723594", layers=12)
SCRAMBLED = (2, 3, 4, 10, 1, 6, 0, 7, 11, 9, 8, 5)


def paper_cell(treatment: Treatment, **changes: Any) -> Cell:
    fields: dict[str, Any] = {"model": BERT, "task": GLUE["sst2"], "size": 5000, "recipe": Recipe()}
    return Cell(**{**fields, "treatment": treatment, **changes})


PINNED: dict[str, Cell] = {
    "e9cdd420bdd90192a44b25278dfe5ac8a8794670cac49144fd016fdd00273c77": paper_cell(Reinit()),
    "c1e7fec795be541ef3b7f4479f71e73f5ed57d4d590e71eb379947a70b928b33": paper_cell(Reinit(layers=(9, 10, 11))),
    "262dad7e7a25650b1f167768c025c655405562104d8b69b9ec144f42dd8c3cac": paper_cell(
        Reinit(
            layers=(3, 4, 5),
            init="released",
            keep_layernorm=True,
            lr_scale=5.0,
            pooler="redraw",
            frozen_layers=(11,),
        )
    ),
    "7b1628527e9ad411167f0ed72d9c2c90af2e565118b0ad6bc3cef9cf384c3a14": paper_cell(Permute(order=SCRAMBLED)),
    "4b91966194ae3162fb00410257420b447932b8b43743914a9c45c7d20cf37634": paper_cell(Probe(depth=6), size="full"),
    "5ecc34dd9bc2d2b7a4f83be57267e82ad6bbae066fac40088e5dea306010726f": paper_cell(
        Probe(depth=12, feature="mean", scored="released_reload", encoder_dropout=True)
    ),
    "3db7c4715b4c5557a02f2777e5e1ca89264b15f41fe6952af20619d2c1db359d": paper_cell(Truncate(depth=8)),
    "6c61e51f4cbad4f06318dd13db75719af3a3479178359b303e377be6b732a319": paper_cell(
        Reinit(layers=(0,)), recipe=Recipe(duration=Steps(steps=200), precision="bf16")
    ),
    "6971479816a1b7f7b2b4ded75eac8e5a50ae88e0999cb553c93b5aaf82556c25": paper_cell(
        Reinit(layers=(0,)), task=GLUE["mnli"], size="full"
    ),
}


@pytest.mark.parametrize(("digest", "cell"), PINNED.items())
def test_digests_are_what_they_always_were(digest: str, cell: Cell) -> None:
    assert cell.digest == digest, "a change here orphans every result that was ever stored"


def test_the_digest_is_the_hash_of_the_canonical_json_without_science_version_one() -> None:
    cell = paper_cell(Reinit(layers=(1,)))
    fields = json.loads(cell.model_dump_json())
    assert fields.pop("science") == 1
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert cell.digest == hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------------------------------- what moves a digest


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if isinstance(value, int):
        return value + 1
    return OTHER_WORDS[value] if isinstance(value, str) else OTHER_VALUES[value]


OTHER_WORDS: dict[str, str] = {
    "linear": "constant",
    "fp32": "bf16",
    "truncated_normal": "normal",
    "keep": "redraw",
    "pooler": "cls",
    "recipe": "converged",
    "in_memory": "released_reload",
}
OTHER_VALUES: dict[Any, Any] = {Epochs(epochs=3): Epochs(epochs=4), (): (11,), (1, 2): (1, 3)}


def variants(value: BaseModel) -> list[Any]:
    """One for each field but the tag: the same value with this field changed."""
    fields = [name for name in type(value).model_fields if name != "kind"]
    return [value.model_copy(update={name: changed(getattr(value, name))}) for name in fields]


@pytest.mark.parametrize("recipe", variants(Recipe()), ids=repr)
def test_every_number_of_the_recipe_is_in_the_digest(recipe: Recipe) -> None:
    assert recipe != Recipe()
    assert paper_cell(Reinit(layers=(1,)), recipe=recipe).digest != paper_cell(Reinit(layers=(1,))).digest


@pytest.mark.parametrize("plain", [Reinit(layers=(1, 2)), Probe(depth=3), Truncate(depth=3)], ids=repr)
def test_every_option_of_a_treatment_is_in_the_digest(plain: Any) -> None:
    digests = {paper_cell(treatment).digest for treatment in [plain, *variants(plain)]}
    assert len(digests) == len(type(plain).model_fields)


@pytest.mark.parametrize("kind", [Recipe, Reinit, Probe])
def test_changing_a_default_changes_the_digest_of_cells_that_relied_on_it(kind: type[BaseModel]) -> None:
    """A default is written out before hashing: a cell that says it and one that leaves it out are the same."""
    plain: Any = {Recipe: Recipe(), Reinit: Reinit(layers=(1, 2)), Probe: Probe(depth=3)}[kind]
    dumped = json.loads(plain.model_dump_json())
    assert dumped.keys() == kind.model_fields.keys()
    explicit = kind.model_validate(dumped)
    assert canonical(explicit.model_dump(mode="json")) == canonical(dumped)


def test_two_kinds_of_one_depth_are_two_cells() -> None:
    assert paper_cell(Probe(depth=3)).digest != paper_cell(Truncate(depth=3)).digest


def test_model_task_and_size_are_in_the_digest() -> None:
    cell = paper_cell(Reinit(layers=(1,)))
    others: list[dict[str, Any]] = [
        {"size": "full"},
        {"size": 4999},
        {"task": GLUE["qnli"]},
        {"task": GLUE["sst2"].model_copy(update={"label": "labels"})},
        {"task": GLUE["sst2"].model_copy(update={"max_words": 9})},
        {"model": BERT.model_copy(update={"revision": "0" * 40})},
        {"model": BERT.model_copy(update={"layers": 13})},
    ]
    digests = {cell.model_copy(update=other).digest for other in others}
    assert len(digests | {cell.digest}) == len(others) + 1


def test_science_version_one_is_left_out_and_version_two_is_not() -> None:
    cell = paper_cell(Reinit(layers=(1,)))
    assert cell.model_copy(update={"science": 1}).digest == cell.digest
    assert cell.model_copy(update={"science": 2}).digest != cell.digest


def test_a_raised_science_version_renames_only_the_cells_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    reinit, probe = paper_cell(Reinit(layers=(1,))), paper_cell(Probe(depth=1))
    monkeypatch.setitem(cell_module.SCIENCE, "probe", 2)
    assert paper_cell(Reinit(layers=(1,))).digest == reinit.digest
    assert paper_cell(Probe(depth=1)).digest != probe.digest
    old = Cell.model_validate_json(probe.model_dump_json())
    assert old.digest == probe.digest, "a stored cell keeps the version that it was run with"


def test_a_later_field_is_left_out_at_the_value_that_means_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here `schedule` plays a field that schema 1 did not have, and `keep_layernorm` one inside a union."""
    recipe = Recipe(schedule="constant")
    before, after = paper_cell(Reinit(layers=(1,))), paper_cell(Reinit(layers=(1,)), recipe=recipe)
    monkeypatch.setitem(cell_module.AS_BEFORE, ("recipe", "schedule"), "linear")
    monkeypatch.setitem(cell_module.AS_BEFORE, ("treatment", "keep_layernorm"), False)
    same, other = paper_cell(Reinit(layers=(1,))), paper_cell(Reinit(layers=(1,)), recipe=recipe)
    assert same.digest == hashlib.sha256(canonical(without(before, "schedule", "keep_layernorm"))).hexdigest()
    assert other.digest == hashlib.sha256(canonical(without(after, "keep_layernorm"))).hexdigest()


def without(cell: Cell, *names: str) -> dict[str, Any]:
    fields = cell.model_dump(mode="json", exclude={"science"})
    for part in ("recipe", "treatment"):
        fields[part] = {name: value for name, value in fields[part].items() if name not in names}
    return fields


@pytest.mark.parametrize("path", [("treatment", "init", "deeper"), ("task", "holdout", "rows"), ("nowhere", "x")])
def test_a_path_that_leads_nowhere_in_this_cell_is_no_error(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cell_module.AS_BEFORE, path, None)
    digests = {paper_cell(treatment).digest for treatment in (Probe(depth=6), Reinit(layers=(9, 10, 11)))}
    assert "c1e7fec795be541ef3b7f4479f71e73f5ed57d4d590e71eb379947a70b928b33" in digests


# ------------------------------------------------------------------------------------- what does not move a digest


def test_the_order_of_fields_and_layers_does_not_matter() -> None:
    cell = paper_cell(Reinit(layers=(3, 1, 2)), task=a_task(where={"a": "1", "b": "2"}), size=50)
    fields = json.loads(cell.model_dump_json())
    turned = json.loads(json.dumps(reversed_keys(fields)))
    turned["treatment"]["layers"] = [2, 3, 1]
    assert Cell.model_validate(turned) == cell
    assert Cell.model_validate(turned).digest == cell.digest
    assert hash(Cell.model_validate(turned)) == hash(cell)


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return value


def a_task(**changes: Any) -> Task:
    source = PackageSource(name="reviews", file="reviews.csv", revision=f"sha256:{'0' * 64}")
    fields: dict[str, Any] = {
        "name": "reviews",
        "source": source,
        "text": ("text",),
        "label": "label",
        "labels": ("0", "1"),
        "metrics": ("accuracy",),
        "train_rows": 100,
        "validation_rows": (10,),
        "holdout": Holdout(rows=10, seed=0),
    }
    return Task(**{**fields, **changes})


def test_minus_zero_is_zero() -> None:
    negative, positive = Recipe(weight_decay=-0.0, dropout=-0.0), Recipe(weight_decay=0.0, dropout=0.0)
    assert paper_cell(Reinit(), recipe=negative).digest == paper_cell(Reinit(), recipe=positive).digest
    assert canonical([-0.0, {"a": (-0.0,)}]) == b'[0.0,{"a":[0.0]}]'


def test_whole_numbers_and_floats_of_one_value_are_one_cell() -> None:
    assert paper_cell(Reinit(), recipe=Recipe(warmup=0)).digest == paper_cell(Reinit()).digest


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_canonical_json_refuses_what_json_does_not_have(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": value})


@pytest.mark.parametrize(
    "treatment",
    [
        Reinit(init="released", keep_layernorm=True, lr_scale=5, pooler="redraw"),
        Permute(order=tuple(range(12))),
        {"kind": "permute", "order": list(range(12))},
        {"kind": "reinit", "layers": []},
    ],
    ids=repr,
)
def test_plain_finetuning_is_one_cell_however_written(treatment: Any) -> None:
    cell = paper_cell(treatment)
    assert cell.treatment == Reinit()
    assert cell == paper_cell(Reinit())
    assert cell.digest == "e9cdd420bdd90192a44b25278dfe5ac8a8794670cac49144fd016fdd00273c77"


def test_finetuning_all_but_a_frozen_layer_is_not_plain_finetuning() -> None:
    cell = paper_cell(Reinit(init="released", lr_scale=2, frozen_layers=(11,)))
    assert cell.treatment == Reinit(frozen_layers=(11,))
    assert cell.digest != paper_cell(Reinit()).digest
    assert not cell.is_baseline


def test_a_changed_copy_has_a_digest_of_its_own_and_is_validated() -> None:
    cell = paper_cell(Reinit(layers=(1,)))
    assert cell.digest == paper_cell(Reinit(layers=(1,))).digest  # computed and kept
    assert cell.model_copy(update={"size": 500}).digest == paper_cell(Reinit(layers=(1,)), size=500).digest
    with pytest.raises(ValidationError, match="not below"):
        cell.model_copy(update={"size": 10**6})


# ------------------------------------------------------------------------------------------------- in all generality

layer_sets = st.lists(st.integers(0, 11), unique=True).map(tuple)
treatments: st.SearchStrategy[Treatment] = st.one_of(
    st.builds(
        Reinit,
        layers=layer_sets,
        init=st.sampled_from(["truncated_normal", "released", "normal", "architecture"]),
        keep_layernorm=st.booleans(),
        lr_scale=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        pooler=st.sampled_from(["keep", "redraw"]),
        frozen_layers=layer_sets,
    ),
    st.builds(Permute, order=st.permutations(range(12)).map(tuple)),
    st.builds(
        Probe,
        depth=st.integers(1, 12),
        feature=st.sampled_from(["pooler", "cls", "mean"]),
        fit=st.sampled_from(["recipe", "converged"]),
        scored=st.sampled_from(["in_memory", "released_reload"]),
    ),
    st.builds(Probe, depth=st.integers(1, 12), encoder_dropout=st.just(True)),
    st.builds(Truncate, depth=st.integers(1, 12)),
)
rates = st.floats(min_value=0, max_value=1, exclude_max=True)
recipes = st.builds(
    Recipe,
    duration=st.one_of(st.builds(Epochs, epochs=st.integers(1, 99)), st.builds(Steps, steps=st.integers(1, 10**7))),
    batch_size=st.integers(1, 10**4),
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    warmup=rates,
    dropout=rates,
    weight_decay=st.floats(min_value=0, allow_infinity=False),
)
cells = st.builds(
    Cell,
    model=st.just(BERT),
    task=st.sampled_from(list(GLUE.values())),
    size=st.one_of(st.just("full"), st.integers(1, 600)),
    treatment=treatments,
    recipe=recipes,
)


@settings(deadline=None)  # a busy machine is no failure
@given(cells)
def test_a_cell_read_back_is_the_same_cell(cell: Cell) -> None:
    back = Cell.model_validate_json(cell.model_dump_json())
    assert back == cell
    assert back.digest == cell.digest
    assert Cell.model_validate(json.loads(canonical(cell.model_dump(mode="json")))).digest == cell.digest


@settings(deadline=None)  # a busy machine is no failure
@given(cells, cells)
def test_cells_are_equal_exactly_when_their_digests_are(one: Cell, other: Cell) -> None:
    assert (one == other) == (one.digest == other.digest)
    near = one.model_copy(update={"recipe": other.recipe})
    assert (near == one) == (near.digest == one.digest)


@settings(deadline=None)  # a busy machine is no failure
@given(treatments)
def test_a_treatments_name_is_a_label_value(treatment: Treatment) -> None:
    assert LABEL.fullmatch(treatment_name(treatment))


@settings(deadline=None)  # a busy machine is no failure
@given(cells)
def test_a_cells_name_says_task_size_treatment_and_ends_in_the_digest(cell: Cell) -> None:
    name = treatment_name(cell.treatment)
    assert cell.name == f"{cell.task.name}-{cell.size}-{name}-{cell.digest[:8]}"


@pytest.mark.parametrize("depth", [1, 24, 48, 1000])
def test_names_of_deep_models_are_label_values_too(depth: int) -> None:
    order = list(range(depth))
    random.Random(0).shuffle(order)
    every_other = tuple(range(0, depth, 2))
    init: Init = "architecture"
    long = Reinit(
        layers=every_other,
        init=init,
        keep_layernorm=True,
        lr_scale=1.2345678e123,
        pooler="redraw",
        frozen_layers=every_other,
    )
    for treatment in (Permute(order=tuple(order)), Reinit(layers=tuple(range(depth))), long):
        assert LABEL.fullmatch(treatment_name(treatment))


@pytest.mark.parametrize(
    ("treatment", "name"),
    [
        (Reinit(), "finetune"),
        (Reinit(frozen_layers=(11,)), "finetune-frozen1"),
        (Reinit(layers=(9, 10, 11)), "reinit-9to11"),
        (Reinit(layers=(0, 4, 5)), "reinit-0_4to5"),
        (Reinit(layers=(1,), init="released", keep_layernorm=True, lr_scale=5), "reinit-1-released-ln-lr5"),
        (Reinit(layers=(1,), lr_scale=1e20), "reinit-1-lr1e20"),
        (Reinit(layers=(1,), pooler="redraw", frozen_layers=(2, 3)), "reinit-1-pooler-frozen2"),
        (Reinit(layers=tuple(range(0, 24, 2))), "reinit-12layers"),
        (Permute(order=SCRAMBLED), "permute-2_3_4_10_1_6_0_7_11_9_8_5"),
        (Probe(depth=3), "probe-3"),
        (
            Probe(depth=3, feature="cls", scored="released_reload", encoder_dropout=True),
            "probe-3-cls-released-reload-dropout",
        ),
        (Truncate(depth=4), "truncate-4"),
    ],
)
def test_treatments_have_names_for_people(treatment: Treatment, name: str) -> None:
    assert treatment_name(treatment) == name


def test_layer_ranges_of_nothing_and_of_gaps() -> None:
    assert layer_ranges(()) == ""
    assert layer_ranges((0, 1, 2, 7)) == "0to2_7"


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"treatment": Permute(order=(1, 0))}, "order has 2 entries"),
        ({"treatment": Permute(order=(0, 1))}, "order has 2 entries"),
        ({"treatment": Permute(order=())}, "order has 0 entries"),
        ({"treatment": Reinit(layers=(12,))}, r"layers \[12\] not in"),
        ({"treatment": Reinit(layers=(1,), frozen_layers=(12, 13))}, r"frozen_layers \[12, 13\] not in"),
        ({"treatment": Probe(depth=13)}, "depth 13 is more than the 12 layers"),
        ({"treatment": Truncate(depth=13)}, "depth 13 is more than the 12 layers"),
        ({"size": 67_349}, "not below the 67349 training rows"),
        ({"size": 0}, "greater than 0"),
        ({"size": "all"}, "full"),
        ({"seed": 1}, "Extra inputs"),
        ({"treatment": {"kind": "reinnit"}}, "does not match any of the expected tags"),
        ({"treatment": {"kind": "probe"}}, "Field required"),
    ],
    ids=repr,
)
def test_a_cell_that_cannot_be_run_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Cell.model_validate(
            {
                "model": BERT,
                "task": GLUE["sst2"],
                "size": 5,
                "treatment": Reinit(),
                "recipe": Recipe(),
                **fields,
            }
        )


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Reinit, {"layers": [1, 1]}, "at most once"),
        (Reinit, {"layers": [-1]}, "greater than or equal to 0"),
        (Reinit, {"lr_scale": 0}, "greater than 0"),
        (Permute, {"order": [0, 0, 1]}, "each of 0..2 once"),
        (Permute, {"order": [1, 2]}, "each of 0..1 once"),
        (Probe, {"depth": 0}, "greater than 0"),
        (Probe, {"depth": 1, "fit": "converged", "encoder_dropout": True}, "takes none"),
        (Recipe, {"learning_rate": float("nan")}, "finite"),
        (Recipe, {"learning_rate": float("inf")}, "finite"),
        (Recipe, {"warmup": 1}, "less than 1"),
        (Recipe, {"learning-rate": 1}, "Extra inputs"),
        (Model, {"name": "x", "revision": "main", "layers": 12}, "pattern"),
        (Model, {"name": "x", "revision": "a" * 40, "layers": 1001}, "less than or equal to 1000"),
        (Model, {"name": "x", "revision": "a" * 40, "layers": 0}, "greater than or equal to 1"),
        (Model, {"name": "", "revision": "a" * 40, "layers": 1}, "at least 1 character"),
        (Recipe, {"max_length": 3}, "greater than or equal to 4"),
        (Recipe, {"dropout": 1}, "less than 1"),
        (Recipe, {"beta1": 1}, "less than 1"),
        (Recipe, {"beta2": 1}, "less than 1"),
        (Recipe, {"beta1": -0.1}, "greater than or equal to 0"),
        (Reinit, {"layers": [0, 1, 2, 1, 3, 3, 3]}, r"got \[1, 3\] more than once"),
    ],
    ids=repr,
)
def test_impossible_parts_are_refused(kind: type[BaseModel], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(fields)


def test_values_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        paper_cell(Reinit()).size = 3  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------ what it costs


@pytest.mark.parametrize(
    ("task", "size", "steps"),
    [
        ("sst2", 500, 189),
        ("sst2", 5_000, 1_875),
        ("sst2", 50_000, 18_750),
        ("sst2", "full", 25_257),
        ("qnli", "full", 39_279),
        ("cola", "full", 3_207),
    ],
)
def test_the_last_partial_batch_counts_as_a_step(task: str, size: int | str, steps: int) -> None:
    assert paper_cell(Reinit(), task=GLUE[task], size=size).steps == steps


def test_a_duration_in_steps_is_those_steps_at_any_size() -> None:
    recipe = Recipe(duration=Steps(steps=200))
    assert {paper_cell(Reinit(), size=size, recipe=recipe).steps for size in (10, 5000, "full")} == {200}


@pytest.mark.parametrize(
    ("treatment", "baseline"),
    [
        (Reinit(), True),
        (Reinit(layers=tuple(range(12))), True),
        (Reinit(layers=tuple(range(12)), init="released"), True),
        (Reinit(layers=tuple(range(12)), pooler="redraw"), True),
        (Reinit(layers=tuple(range(12)), keep_layernorm=True), False),
        (Reinit(layers=tuple(range(12)), lr_scale=5), False),
        (Reinit(layers=tuple(range(12)), frozen_layers=(11,)), False),
        (Reinit(layers=tuple(range(1, 12))), False),
        (Permute(order=SCRAMBLED), False),
        (Probe(depth=12), False),
        (Truncate(depth=11), False),
        # Cutting nothing off is plain finetuning.
        (Truncate(depth=12), True),
    ],
    ids=repr,
)
def test_baselines_redraw_nothing_or_every_layer_and_nothing_else(treatment: Treatment, baseline: bool) -> None:
    assert paper_cell(treatment).is_baseline is baseline


def test_cells_key_dictionaries() -> None:
    assert {a_cell(1): "one"}[a_cell(1)] == "one"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Model, {"name": "x", "revision": "a" * 40, "layers": 1}),
        (Model, {"name": "x", "revision": "a" * 40, "layers": 1000}),
        (Recipe, {"max_length": 4, "warmup": 0, "dropout": 0, "beta1": 0, "beta2": 0, "batch_size": 1}),
        (Recipe, {"duration": {"kind": "steps", "steps": 1}}),
        (Probe, {"depth": 1}),
        (Truncate, {"depth": 1}),
        (Permute, {"order": [0]}),
        (Reinit, {"layers": [0], "frozen_layers": [0]}),
    ],
    ids=repr,
)
def test_the_edges_of_what_is_possible_are_allowed(kind: type[BaseModel], fields: dict[str, Any]) -> None:
    assert kind.model_validate(fields)


def test_a_probe_fitted_to_convergence_takes_no_steps_and_any_other_cell_its_recipes() -> None:
    assert paper_cell(Probe(depth=1, fit="converged")).steps == 0
    for treatment in (Probe(depth=1), Reinit(), Truncate(depth=2)):
        cell = paper_cell(treatment)
        assert cell.steps == cell.recipe.steps(cell.rows) > 0


@pytest.mark.parametrize(("seed", "possible"), [(0, True), (2**32 - 1, True), (-1, False), (2**32, False)])
def test_a_seed_is_a_word_of_32_bits(seed: int, possible: bool) -> None:
    if possible:
        assert TypeAdapter(Seed).validate_python(seed) == seed
    else:
        with pytest.raises(ValidationError):
            TypeAdapter(Seed).validate_python(seed)


def test_canonical_json_holds_text_as_utf_8_and_not_as_escapes() -> None:
    assert canonical({"é": "ü 日本"}) == '{"é":"ü 日本"}'.encode()


@pytest.mark.parametrize(
    ("text", "possible"), [("0" * 64, True), ("f" * 64, True), ("0" * 63, False), ("F" * 64, False), ("0" * 65, False)]
)
def test_a_digest_is_64_hexadecimal_digits(text: str, possible: bool) -> None:
    if possible:
        assert TypeAdapter(Digest).validate_python(text) == text
    else:
        with pytest.raises(ValidationError):
            TypeAdapter(Digest).validate_python(text)
