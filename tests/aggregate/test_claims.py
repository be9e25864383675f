import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aggregate import claims
from aggregate.claim import Claim, Part
from aggregate.grid import groups
from aggregate.rules import RULES, judged_by
from tests.aggregate.evil import EVIL
from tests.aggregate.world import EVEN, HIGH, LINE, LOW, STEP, World, filled, frame_of, plans, scores

LESS_DATA = World(weights={500: HIGH, 5000: LOW})
"""The paper's picture: with little data the upper half carries the gain, with much the first layers."""


def judged(number: int, table: pd.DataFrame) -> Claim:
    """One claim alone, on a frame of one model and recipe."""
    ((key, subjects),) = groups(table).items()
    return judged_by(RULES[number - 1], subjects, *key)


def without_scores(table: pd.DataFrame, which: Callable[[pd.DataFrame], Any]) -> pd.DataFrame:
    """The same frame with some of its runs missing."""
    changed = table.copy()
    changed.loc[which(changed), "status"] = "missing"
    changed.loc[which(changed), "score"] = pd.NA
    return changed


# ---------------------------------------------------------------------------------------------------- the whole set


def test_there_are_always_thirteen_claims_in_order_even_on_an_empty_frame() -> None:
    for table in (frame_of(World(), "progressive"), frame_of(World(), "probe"), filled([], World())):
        found = claims.evaluate(table)
        assert [claim.id for claim in found] == [f"E{number}" for number in range(1, 14)]
        for claim in found:
            assert claim.verdict == "not enough data" or claim.estimates
            assert claim.text
            assert claim.rule
            assert claim.reason


def test_claims_name_the_cells_that_they_need() -> None:
    found = {claim.id: claim.reason for claim in claims.evaluate(frame_of(World(), "progressive", sizes=(5000,)))}
    assert "at two sizes; the frame has them at: 5000" in found["E1"]
    assert "no probe cells of the pooler's feature in this frame" in found["E4"]
    assert "no probe cells" in found["E6"]
    assert "no task qnli in this frame" in found["E7"]
    assert "no permutation cells in this frame" in found["E8"]
    assert "no cells with keep_layernorm" in found["E10"]
    assert "no cells with lr_scale other than 1" in found["E10"]
    assert "init released" in found["E11"]
    assert "`Truncate` cells" in found["E12"]
    assert "released_reload" in found["E13"]


# ------------------------------------------------------------------------------------------- E1 to E3: size and gain


def test_e1_holds_where_the_first_third_brings_most_with_much_data_and_little_with_little() -> None:
    table = frame_of(LESS_DATA, "progressive")
    claim = judged(1, table)
    assert claim.verdict == "holds"
    # The world's own shares: .2 x 4 = .8 at 5,000 examples, .02 x 2 = .04 at 500.
    apart, at_500, at_5000 = claim.estimates
    assert apart.interval.mean == pytest.approx(0.76, abs=0.02)
    assert at_500.interval.mean == pytest.approx(0.04, abs=0.02)
    assert at_5000.interval.mean == pytest.approx(0.8, abs=0.02)
    parts, gains = scores(table, 4) - scores(table, 0), scores(table, 12) - scores(table, 0)
    assert at_5000.interval.mean == pytest.approx(parts.mean() / gains.mean())
    low = at_5000.interval.low or 0
    assert stats.ttest_1samp(parts - low * gains, 0).pvalue == pytest.approx(0.05, abs=1e-6)
    assert (apart.bound, apart.unit, apart.interval.n) == (0.1, "seed", 5)


def test_e1_fails_where_the_share_is_the_same_at_both_sizes() -> None:
    claim = judged(1, frame_of(World(), "progressive"))
    assert claim.verdict == "fails"
    assert claim.estimates[0].interval.mean == pytest.approx(0, abs=0.03)


def test_e1_is_open_with_one_seed_with_noise_and_without_a_gain() -> None:
    assert "n = 1" in judged(1, frame_of(LESS_DATA, "progressive", seeds=1)).reason
    noisy = replace(LESS_DATA, noise_sd=0.3)
    assert judged(1, frame_of(noisy, "progressive")).verdict == "not enough data"
    nothing = judged(1, frame_of(replace(LESS_DATA, gain={500: 0.0, 5000: 0.4}), "progressive"))
    assert nothing.verdict == "not enough data"
    assert "no gain to share" in nothing.reason


def test_e1_needs_every_task_and_one_that_differs_makes_it_fail() -> None:
    two = pd.concat([frame_of(LESS_DATA, "progressive"), frame_of(World(), "progressive", tasks=("qnli",))])
    claim = judged(1, two)
    assert [part.verdict for part in claim.parts] == ["holds", "fails"]
    assert claim.verdict == "fails"
    assert claim.reason == "Holds for sst2. Fails for qnli."


def test_e2_holds_where_two_layers_help_at_the_large_size_and_bring_nothing_at_the_small() -> None:
    claim = judged(2, frame_of(LESS_DATA, "progressive"))
    assert claim.verdict == "holds"
    helps, nothing = claim.estimates
    assert helps.interval.mean == pytest.approx(0.4, abs=0.02)
    assert nothing.interval.mean == pytest.approx(0, abs=0.02)


def test_e2_needs_one_task_only_and_fails_where_every_task_refutes_it() -> None:
    refuted = frame_of(World(), "progressive", tasks=("qnli",))
    assert judged(2, refuted).verdict == "fails"  # two of twelve equal layers bring 17% at the small size
    assert judged(2, pd.concat([refuted, frame_of(LESS_DATA, "progressive")])).verdict == "holds"


def test_e2_is_open_where_the_small_size_is_noise() -> None:
    table = frame_of(replace(LESS_DATA, noise_sd=0.05), "progressive", seeds=3)
    assert judged(2, table).verdict == "not enough data"


def test_e3_holds_where_the_upper_half_matters_more_with_less_data() -> None:
    table = frame_of(LESS_DATA, "progressive")
    claim = judged(3, table)
    assert claim.verdict == "holds"
    # .92 of .3 at 500 examples, 6 x .025 = .15 of .4 at 5,000: .276 - .06.
    assert claim.estimates[0].interval.mean == pytest.approx(0.216, abs=0.01)
    losses = [scores(table, 12, size=size) - scores(table, 6, size=size) for size in ("500", "5000")]
    theirs = stats.ttest_rel(*losses).confidence_interval(0.95)
    assert claim.estimates[0].interval.low == pytest.approx(theirs.low)
    assert claim.estimates[0].interval.high == pytest.approx(theirs.high)


def test_e3_fails_where_it_is_the_other_way_round() -> None:
    assert judged(3, frame_of(World(weights={500: LOW, 5000: HIGH}), "progressive")).verdict == "fails"


def test_e3_compares_sizes_of_different_seeds_by_welch() -> None:
    many, few = frame_of(LESS_DATA, "progressive", sizes=(500,), seeds=9), frame_of(LESS_DATA, "progressive", seeds=3)
    table = pd.concat([many, few[few["size"] == "5000"]])
    interval = judged(3, table).estimates[0].interval
    losses = [scores(table, 12, size=size) - scores(table, 6, size=size) for size in ("500", "5000")]
    theirs = stats.ttest_ind(*losses, equal_var=False).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high))


def test_e3_lists_every_neighbouring_pair_of_sizes() -> None:
    third = replace(LESS_DATA, gain={500: 0.3, 5000: 0.4, 50000: 0.4}, weights={500: HIGH, 5000: EVEN, 50000: LOW})
    claim = judged(3, frame_of(third, "progressive", sizes=(500, 5000, 50000)))
    assert claim.verdict == "holds"
    assert [each.what.partition(", ")[2] for each in claim.estimates[:3]] == [
        "sst2, 500 examples minus sst2, 50,000 examples",
        "sst2, 500 examples minus sst2, 5,000 examples",
        "sst2, 5,000 examples minus sst2, 50,000 examples",
    ]


def test_e3_is_open_where_nothing_is_learnt_at_the_small_size() -> None:
    claim = judged(3, frame_of(replace(LESS_DATA, gain={500: 0.0, 5000: 0.4}), "progressive"))
    assert claim.verdict == "not enough data"
    assert "sst2, 500 examples: no gain to share" in claim.reason


# ------------------------------------------------------------------------------------------------ E4 to E6: probing

TOP_HEAVY = World(weights={5000: HIGH}, gain={5000: 0.4}, probe=STEP)
FOOT_HEAVY = replace(TOP_HEAVY, weights={5000: LOW})
AT_5000 = ("progressive", "block", "inverse", "single", "probe")


def test_e4_holds_where_some_layer_that_probes_high_can_be_redrawn_for_little() -> None:
    # STEP is within a tenth of its range of the top from depth 4 on: layers 3 to 11. Under LOW each of layers 4 to
    # 11 carries 2.5% of the gain, so that a block of three of them costs 7.5%.
    claim = judged(4, frame_of(FOOT_HEAVY, *AT_5000, sizes=(5000,)))
    assert claim.verdict == "holds"
    by_layers = {each.what.partition(" as a share")[0]: each.interval.mean for each in claim.estimates[:-1]}
    assert len(by_layers) == 9 + 7
    assert by_layers["loss of redrawing layers 6 to 8 alone"] == pytest.approx(0.075, abs=0.02)
    assert by_layers["loss of redrawing layers 3 to 5 alone"] == pytest.approx(0.25, abs=0.02)
    assert not any("layer 2 " in name or "layers 2 " in name for name in by_layers)


def test_e4_fails_where_every_layer_that_probes_high_costs_more_than_a_tenth() -> None:
    late = replace(TOP_HEAVY, probe=(*[0.0] * 6, 0.95, *[1.0] * 5))  # layers 6 to 11, each with 15% of the gain
    assert judged(4, frame_of(late, *AT_5000, sizes=(5000,))).verdict == "fails"


def test_e4_is_open_where_the_probe_is_flat_or_without_blocks() -> None:
    flat = judged(4, frame_of(replace(FOOT_HEAVY, probe=(0.5,) * 12), *AT_5000, sizes=(5000,)))
    assert flat.verdict == "not enough data"
    assert "flat within its noise" in flat.reason
    bare = judged(4, frame_of(replace(FOOT_HEAVY, probe=LINE), "progressive", "probe", sizes=(5000,)))
    assert [part.verdict for part in bare.parts] == ["holds"]  # k = 11 redraws layer 11 alone
    lone = frame_of(FOOT_HEAVY, "progressive", "probe", sizes=(5000,))
    bare = judged(4, lone[~lone["preserved_layers"].isin([9, 11]) | lone["preserved_layers"].isna()])
    assert "no redrawn single layers or blocks of three in this frame" in bare.reason


def test_e5_holds_where_a_block_that_probes_high_brings_little_when_kept_alone() -> None:
    claim = judged(5, frame_of(FOOT_HEAVY, *AT_5000, sizes=(5000,)))
    assert claim.verdict == "holds"
    by_layers = {each.what.partition(" as a share")[0]: each.interval.mean for each in claim.estimates[:-1]}
    assert by_layers["gain over k = 0 of keeping layers 9 to 11 alone"] == pytest.approx(0.075, abs=0.02)
    assert len(by_layers) == 7


def test_e5_fails_where_every_such_block_brings_more_and_is_open_without_inverse_blocks() -> None:
    late = replace(TOP_HEAVY, probe=(*[0.0] * 6, 0.95, *[1.0] * 5))
    assert judged(5, frame_of(late, *AT_5000, sizes=(5000,))).verdict == "fails"
    claim = judged(5, frame_of(late, "progressive", "probe", sizes=(5000,)))
    assert "no blocks of three kept alone (inverse blocks) among the high-probing layers" in claim.reason


def law(weights: tuple[float, ...]) -> np.ndarray:
    """The world's own progressive curve from k = 1 to 12, rescaled."""
    curve = np.cumsum(weights)
    return np.asarray((curve - curve[0]) / (curve[-1] - curve[0]))


def test_e6_holds_where_the_small_sizes_curve_is_nearer_to_the_probe() -> None:
    world = World(weights={500: EVEN, 5000: LOW}, probe=LINE)
    claim = judged(6, frame_of(world, "progressive", "probe", "converged"))
    assert claim.verdict == "holds"
    assert [part.where for part in claim.parts] == ["sst2, probe by the recipe", "sst2, converged probe"]
    gaps = [abs(law(weights) - np.array(LINE)).max() for weights in (EVEN, LOW)]
    assert claim.estimates[0].interval.mean == pytest.approx(gaps[0] - gaps[1], abs=0.03)
    correlation = claim.estimates[2].interval.mean
    assert claim.estimates[2].what.startswith("Pearson's r")
    assert correlation == pytest.approx(np.corrcoef(law(EVEN), LINE)[0, 1], abs=0.01)


def test_e6_fails_the_other_way_round_and_is_open_for_a_flat_probe_and_few_seeds() -> None:
    world = World(weights={500: LOW, 5000: EVEN}, probe=LINE)
    assert judged(6, frame_of(world, "progressive", "probe")).verdict == "fails"
    flat = judged(6, frame_of(replace(world, probe=(0.5,) * 12), "progressive", "probe"))
    assert flat.verdict == "not enough data"
    assert "probe curve: flat within its noise" in flat.reason
    two = judged(6, frame_of(world, "progressive", "probe", seeds=2))
    assert "n = 2: no interval below n = 3" in two.reason
    one = judged(6, frame_of(world, "progressive", "probe", sizes=(5000,)))
    assert "at two sizes" in one.reason


def test_e6_takes_a_converged_probe_that_has_one_score_whatever_the_seed() -> None:
    world = World(weights={500: EVEN, 5000: LOW}, probe=LINE, probe_sd=0.0)
    assert judged(6, frame_of(world, "progressive", "converged")).verdict == "holds"


# ------------------------------------------------------------------------------------------------------- E7: tasks


def by_task(qnli: tuple[float, ...], others: tuple[float, ...], **which: Any) -> pd.DataFrame:
    return pd.concat(
        [
            frame_of(World(weights={500: EVEN, 5000: weights}), "progressive", tasks=(task,), **which)
            for task, weights in (("qnli", qnli), ("cola", others), ("sst2", others))
        ]
    )


def test_e7_holds_where_qnli_needs_the_first_third_and_the_others_the_middle() -> None:
    claim = judged(7, by_task(LOW, EVEN))
    assert claim.verdict == "holds"
    assert [part.where for part in claim.parts] == [f"{task}, 5,000 examples" for task in ("qnli", "cola", "sst2")]
    qnli, cola, _ = claim.estimates
    assert [qnli.interval.mean, cola.interval.mean] == pytest.approx([0.8, 1 / 3], abs=0.02)
    assert (qnli.bound, cola.bound) == (0.5, 0.1)


def test_e7_fails_where_qnli_needs_more_or_another_task_less_and_is_open_without_a_task() -> None:
    assert judged(7, by_task(EVEN, EVEN)).verdict == "fails"
    assert judged(7, by_task(LOW, (0.5, 0.4, *[0.0] * 6, *[0.025] * 4))).verdict == "fails"
    table = by_task(LOW, EVEN)
    assert judged(7, table[table["task"] != "cola"]).verdict == "not enough data"
    assert judged(7, by_task(LOW, EVEN, seeds=1)).verdict == "not enough data"


# ------------------------------------------------------------------------------------------------- E8, E9: orders


def test_e8_and_e9_hold_where_permuted_networks_keep_a_third_of_the_gain() -> None:
    table = frame_of(World(permuted=0.3), "progressive", "permutation", sizes=(5000,))
    harmed, short = judged(8, table), judged(9, table)
    assert (harmed.verdict, short.verdict) == ("holds", "holds")
    orders = table[table["treatment_kind"] == "permute"].groupby("digest")["score"].mean().to_numpy(dtype=float)
    plain, none = scores(table, 12), scores(table, 0)
    for claim, baseline in ((harmed, plain), (short, 0.9 * plain + 0.1 * none)):
        theirs = stats.ttest_ind(orders, baseline, equal_var=False).confidence_interval(0.95)
        interval = claim.estimates[0].interval
        assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high))
        assert (claim.estimates[0].unit, interval.n) == ("order", 6)


def test_e8_and_e9_fail_where_reordering_helps_and_e9_alone_where_it_costs_little() -> None:
    better = frame_of(World(permuted=1.2), "progressive", "permutation", sizes=(5000,))
    assert [judged(number, better).verdict for number in (8, 9)] == ["fails", "fails"]
    little = frame_of(World(permuted=0.95, order_sd=0.002), "progressive", "permutation", sizes=(5000,), seeds=9)
    assert [judged(number, little).verdict for number in (8, 9)] == ["holds", "fails"]


def test_e8_and_e9_are_open_with_one_order_and_e9_without_a_gain() -> None:
    table = frame_of(World(), "progressive", "permutation", sizes=(5000,))
    orders = table.loc[table["treatment_kind"] == "permute", "digest"].unique()
    one = table[~table["digest"].isin(orders[1:])]
    for number in (8, 9):
        assert judged(number, one).verdict == "not enough data"
        assert "n = 1 and 5: no interval" in judged(number, one).reason
    flat = frame_of(World(gain={5000: -0.1}), "progressive", "permutation", sizes=(5000,))
    assert "no gain to share" in judged(9, flat).reason


# --------------------------------------------------------------------------------------------- E10 to E13: the same?

VARIANTS = ("progressive", "keep-layernorm", "lr")


def test_e10_holds_where_both_variants_are_within_a_tenth_at_every_k() -> None:
    table = frame_of(World(keep_layernorm=0.03), *VARIANTS, sizes=(5000,))
    claim = judged(10, table)
    assert claim.verdict == "holds"
    assert len(claim.estimates) == 24
    kept = table[table["keep_layernorm"].fillna(False) & (table["preserved_layers"] == 4)].sort_values("seed")
    apart = kept["score"].to_numpy(dtype=float) - scores(table, 4)
    gain = scores(table, 12) - scores(table, 0)
    estimate = next(each for each in claim.estimates if each.what.startswith("LayerNorm kept: difference at k = 4 "))
    assert estimate.interval.mean == pytest.approx(apart.mean() / gain.mean())


def test_e10_fails_where_one_variant_moves_the_curve_and_is_open_with_noise_or_without_a_variant() -> None:
    moved = judged(10, frame_of(World(lr_scale=-0.2), *VARIANTS, sizes=(5000,)))
    assert moved.verdict == "fails"
    assert [part.verdict for part in moved.parts] == ["holds", "fails"]
    assert judged(10, frame_of(World(noise_sd=0.03), *VARIANTS, sizes=(5000,))).verdict == "not enough data"
    alone = judged(10, frame_of(World(), "progressive", "keep-layernorm", sizes=(5000,)))
    assert alone.verdict == "not enough data"
    assert "no cells with lr_scale other than 1" in alone.reason


def test_e11_holds_where_the_inits_agree_fails_where_not_and_shows_e1_to_e3_under_both() -> None:
    same = judged(11, frame_of(LESS_DATA, "progressive", "released"))
    assert same.verdict == "holds"
    assert [part.where for part in same.parts if not part.judged] == [
        f"{claim} under init {init}" for init in ("truncated_normal", "released") for claim in ("E1", "E2", "E3")
    ]
    assert {part.verdict for part in same.parts} == {"holds"}
    other = judged(11, frame_of(replace(LESS_DATA, released=-0.3), "progressive", "released"))
    assert other.verdict == "fails"
    assert judged(11, frame_of(LESS_DATA, "progressive", "released", seeds=1)).verdict == "not enough data"


def test_the_released_init_is_the_main_curve_where_it_is_the_only_one() -> None:
    table = frame_of(replace(LESS_DATA, released=0.01), "released")
    assert judged(1, table).verdict == "holds"
    assert judged(3, table).verdict == "holds"


def test_e12_holds_where_the_released_curve_is_the_cut_network_and_fails_where_it_is_not() -> None:
    table = frame_of(World(released=0.2), "progressive", "released", "truncate", sizes=(5000,))
    claim = judged(12, table)
    assert claim.verdict == "holds"
    assert len(claim.estimates) == 11
    apart = frame_of(World(truncation=0.3), "progressive", "released", "truncate", sizes=(5000,))
    assert judged(12, apart).verdict == "fails"
    assert judged(12, frame_of(World(), "progressive", "truncate", sizes=(5000,))).verdict == "not enough data"
    noisy = frame_of(World(noise_sd=0.03), "released", "truncate", sizes=(5000,))
    assert judged(12, noisy).verdict == "not enough data"


@pytest.mark.parametrize("finetunes", [("progressive",), ()])
def test_e13_holds_without_an_effect_of_the_reload_and_fails_with_one(finetunes: tuple[str, ...]) -> None:
    claim = judged(13, frame_of(World(), *finetunes, "probe", "reload", sizes=(5000,)))
    assert claim.verdict == "holds"
    assert len(claim.estimates) == 12
    expected = "finetuning gain" if finetunes else "probe's own range"
    assert all(expected in each.what for each in claim.estimates)
    fault = judged(13, frame_of(World(reload=-0.4), *finetunes, "probe", "reload", sizes=(5000,)))
    assert fault.verdict == "fails"


def test_e13_compares_probes_with_the_gain_as_two_samples() -> None:
    table = frame_of(World(reload=0.02), "progressive", "probe", "reload", sizes=(5000,))
    estimate = judged(13, table).estimates[3]
    probes = table[table["kept_depth"] == 4].sort_values("seed")
    by_scored = {
        name: probes[probes["scored"] == name]["score"].to_numpy(dtype=float)
        for name in ("in_memory", "released_reload")
    }
    moved = by_scored["released_reload"] - by_scored["in_memory"]
    tenth = 0.1 * (scores(table, 12) - scores(table, 0))
    theirs = stats.ttest_ind(moved, tenth, equal_var=False).confidence_interval(0.95)
    assert estimate.what.startswith("depth 4: reloaded minus in memory, less 10% of the finetuning gain")
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx((theirs.low, theirs.high))


def test_e13_is_open_with_few_seeds_and_probes_that_differ_in_more_than_scoring() -> None:
    few = judged(13, frame_of(World(), "progressive", "probe", "reload", sizes=(5000,), seeds=1))
    assert few.verdict == "not enough data"
    table = frame_of(World(), "progressive", "probe", "reload", sizes=(5000,))
    table.loc[table["scored"] == "released_reload", "encoder_dropout"] = True
    assert "alike in depth, size, feature" in judged(13, table).reason


# --------------------------------------------------------------------------------------------------- what must not be

EVERYTHING = frame_of(
    LESS_DATA, *AT_5000, "converged", "reload", "permutation", "keep-layernorm", "lr", "released", "truncate", seeds=3
)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table,
        lambda table: table.assign(score=pd.array([0.509] * len(table), dtype="Float64")),  # a constant prediction
        lambda table: table.assign(score=pd.array([0.0] * len(table), dtype="Float64")),
        lambda table: without_scores(table, lambda each: each["seed"] > 0),
        lambda table: without_scores(table, lambda each: each["seed"] > 1),
        lambda table: without_scores(table, lambda each: each["seed"] > 2),
        lambda table: without_scores(table, lambda each: each["is_plain"]),
        lambda table: without_scores(table, lambda each: each["preserved_layers"].fillna(-1) == 0),
        lambda table: without_scores(table, lambda each: (each["seed"] != 1) == each["is_plain"]),
        lambda table: table.assign(status=pd.array(["diverged"] * len(table), dtype="string")),
        lambda table: table.assign(planned=pd.array([False] * len(table), dtype="boolean")),
    ],
)
def test_whatever_the_frame_holds_every_number_is_finite_and_every_claim_says_why(
    change: Callable[[pd.DataFrame], pd.DataFrame],
) -> None:
    found = claims.evaluate(change(EVERYTHING))
    document = json.loads(claims.to_json(found))
    assert all(math.isfinite(number) for number in numbers(document))
    assert len(document["claims"]) == 13
    for claim in found:
        assert claim.reason
        assert all(part.reason for part in claim.parts)
        assert all(each.interval.note or each.interval.low is not None for each in claim.estimates)


def test_a_frame_where_everything_is_equal_decides_nothing() -> None:
    constant = EVERYTHING.assign(score=pd.array([0.509] * len(EVERYTHING), dtype="Float64"))
    assert {claim.verdict for claim in claims.evaluate(constant)} == {"not enough data"}


SMALL = filled(plans("progressive", "permutation", "probe", seeds=3), LESS_DATA)
VERDICTS = [claim.verdict for claim in claims.evaluate(SMALL)]


@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
def test_verdicts_do_not_depend_on_the_order_of_the_rows(random: Any) -> None:
    rows = list(range(len(SMALL)))
    random.shuffle(rows)
    found = claims.evaluate(SMALL.iloc[rows].reset_index(drop=True))
    assert [claim.verdict for claim in found] == VERDICTS


@settings(max_examples=5, deadline=None)
@given(st.permutations([4, 17, 23]))
def test_verdicts_do_not_depend_on_what_the_seeds_are_called(names: list[int]) -> None:
    called = dict(zip([1, 2, 3], names, strict=True))
    renamed = SMALL.assign(seed=pd.array([called[seed] for seed in SMALL["seed"]], dtype="Int64"))
    assert [claim.verdict for claim in claims.evaluate(renamed)] == VERDICTS


@settings(max_examples=5, deadline=None)
@given(st.floats(0.2, 5), st.floats(-1, 1))
def test_verdicts_do_not_depend_on_the_unit_of_the_scores(scale: float, shift: float) -> None:
    changed = SMALL.assign(score=SMALL["score"] * scale + shift)
    assert [claim.verdict for claim in claims.evaluate(changed)] == VERDICTS


# --------------------------------------------------------------------------------------------------------- as files


def test_the_json_has_each_estimate_with_its_part_interval_and_unit() -> None:
    document = json.loads(claims.to_json(claims.evaluate(SMALL), holes="INCOMPLETE"))
    assert (document["schema_version"], document["holes"]) == (1, "INCOMPLETE")
    first = document["claims"][0]
    assert set(first) == {
        "id", "text", "verdict", "rule", "estimates", "reason", "parts", "model", "recipe",
    }  # fmt: skip
    assert set(first["estimates"][0]) == {
        "part", "what", "unit", "bound", "meaning", "mean", "low", "high", "n", "sd", "note", "level",
    }  # fmt: skip
    assert set(first["parts"][0]) == {"where", "verdict", "reason", "p_holds", "p_fails", "judged"}
    assert {each["part"] for each in first["estimates"]} <= {part["where"] for part in first["parts"]}


def test_the_sheets_have_a_summary_with_every_verdict_and_the_rule_beside_the_numbers() -> None:
    found = claims.evaluate(SMALL)
    summary, *details = claims.sheets(found, "INCOMPLETE: one run.")
    assert [row[0] for row in summary.rows] == [claim.id for claim in found]
    assert [row[2] for row in summary.rows] == VERDICTS
    assert summary.notes[0] == "INCOMPLETE: one run."
    assert details[0].notes[1] == found[0].rule
    assert all(len(row) == len(sheet.header) for sheet in (summary, *details) for row in sheet.rows)


def test_a_claim_with_hostile_text_shows_as_text() -> None:
    for text in EVIL.values():
        claim = Claim("E1", text, "holds", text, (), text, (Part(text, "holds", text),), text, text)
        for sheet in claims.sheets([claim]):
            assert len(sheet.rows) == 1
        assert json.loads(claims.to_json([claim]))["claims"][0]["text"] == text
