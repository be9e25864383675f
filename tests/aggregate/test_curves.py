import pytest

from aggregate.curves import Curve, curves, main_variant, metric_name, size_key, size_words
from jobs.cell import Probe, Reinit, Truncate
from jobs.plan import PlannedCell
from tests.aggregate.runs import (
    a_frame,
    every_family,
    family,
    merged,
    planned,
    preserving,
    progressive_plans,
    rising,
    scored,
)


def found(plans: list[PlannedCell]) -> list[Curve]:
    return curves(a_frame(plans, scored(plans, rising)))


def shapes(plans: list[PlannedCell]) -> list[tuple[str, str, int | None, list[int]]]:
    return [(one.kind, one.variant, one.width, [x for x, _ in one.points]) for one in found(plans)]


def test_every_family_is_told_by_the_layers_that_it_redraws() -> None:
    assert shapes(every_family()) == [
        ("progressive", "", None, [0, 1, 2, 3, 4]),
        ("progressive", "LayerNorm kept", None, [0, 1, 2, 3, 4]),
        ("progressive", "learning rate ×5", None, [0, 1, 2, 3, 4]),
        ("probe", "by the recipe", None, [1, 2, 3, 4]),
        ("probe", "fitted to convergence", None, [1, 2, 3, 4]),
        ("block", "", 1, [0, 1, 2, 3]),
        ("block", "", 2, [0, 1, 2]),
        ("inverse", "", 2, [0, 1, 2]),
        ("progressive", "", None, [0, 1, 2, 3, 4]),
    ]


def test_names_of_families_do_not_matter() -> None:
    plans = [planned(plan.cell, plan.seeds, tuple(name[::-1] for name in plan.families)) for plan in every_family()]
    assert shapes(plans) == shapes(every_family())


def test_a_block_at_the_top_is_no_point_of_a_curve_that_was_never_planned() -> None:
    blocks = family("block", [Reinit(layers=(k, k + 1)) for k in (0, 1, 2)])
    ends = family("ends", [Reinit(), Reinit(layers=(0, 1, 2, 3))])
    assert shapes(merged(blocks, ends)) == [("block", "", 2, [0, 1, 2])]


def test_two_depths_make_no_curve_and_one_block_no_comparison() -> None:
    assert shapes(family("progressive", [preserving(2), preserving(0)])) == []
    assert shapes(family("block", [Reinit(layers=(0, 1))])) == []
    assert shapes(family("probe", [Probe(depth=1), Probe(depth=2)])) == []


def test_two_widths_under_one_name_are_two_curves() -> None:
    blocks = [Reinit(layers=layers) for layers in ((0, 1), (1, 2), (0, 1, 2), (1, 2, 3))]
    assert shapes(family("block", blocks)) == [("block", "", 2, [0, 1]), ("block", "", 3, [0, 1])]


def test_layers_that_are_neither_block_nor_inverse_make_no_curve() -> None:
    assert shapes(family("alternate", [Reinit(layers=(0, 2)), Reinit(layers=(1, 3))])) == []


def test_a_truncated_network_of_full_depth_is_plain_finetuning() -> None:
    (one,) = found(family("truncate", [Truncate(depth=k) for k in range(1, 5)]))
    assert (one.kind, [x for x, _ in one.points], one.cells[-1].is_plain) == ("truncate", [1, 2, 3, 4], True)


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (Probe(depth=1), "by the recipe"),
        (Probe(depth=1, fit="converged", feature="cls"), "fitted to convergence, on the first token"),
        (Probe(depth=1, feature="mean"), "by the recipe, on the mean of tokens"),
        (
            Probe(depth=1, scored="released_reload", encoder_dropout=True),
            "by the recipe, scored after a reload, with dropout",
        ),
    ],
)
def test_probes_that_differ_are_told_apart(probe: Probe, words: str) -> None:
    plans = family("probe", [probe.model_copy(update={"depth": depth}) for depth in (1, 2, 3)])
    assert [one.variant for one in found(plans)] == [words]


def test_the_main_variant_is_the_plain_one_or_the_first() -> None:
    kept, plain = progressive_plans(keep_layernorm=True), progressive_plans()
    assert main_variant(found(merged(kept, plain))) == ""
    assert main_variant(found(kept)) == "LayerNorm kept"
    assert main_variant([]) == ""


def test_sizes_go_from_all_down() -> None:
    assert sorted(["500", "full", "50000"], key=size_key) == ["full", "50000", "500"]
    assert [size_words(size) for size in ("full", "50000")] == ["all examples", "50,000 examples"]


def test_metrics_are_named_as_a_reader_says_them() -> None:
    assert metric_name("validation_matched/f1_macro") == "macro F1 (validation matched)"


def test_a_curve_has_the_fields_of_its_redraw_and_not_of_plain_finetuning() -> None:
    (one,) = found(progressive_plans(init="released", keep_layernorm=True))
    assert (one.fields["init"], one.fields["keep_layernorm"], one.fields["is_plain"]) == ("released", True, False)
