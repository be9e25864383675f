import csv
import io
import math

import pandas as pd
import pytest
from scipy import stats

from aggregate import effects
from aggregate.effect_tables import HEADER, records, sheets
from aggregate.tables import to_csv
from tests.aggregate.world import HIGH, LINE, LOW, World, frame_of, scores

WORLD = World(weights={500: HIGH, 5000: LOW}, probe=LINE)
TABLE = frame_of(WORLD, "progressive", "block", "inverse", "single", "probe", "converged", sizes=(500, 5000))


def redrawn(table: pd.DataFrame, *layers: int) -> pd.DataFrame:
    return table[(table["size"] == "5000") & table["redrawn"].map(lambda each: each == layers)].sort_values("seed")


def test_necessity_is_the_loss_of_each_layer_and_block_paired_by_seed() -> None:
    found = {each.layers: each for each in effects.necessity(TABLE) if each.where.size == "5000"}
    singles, blocks = [(layer,) for layer in range(12)], [(start, start + 1, start + 2) for start in range(10)]
    assert set(found) == {*singles, *blocks, (10, 11)}  # k = 10 of the progressive curve redraws two neighbours
    effect = found[4, 5, 6]
    lost = scores(TABLE, 12) - redrawn(TABLE, 4, 5, 6)["score"].to_numpy(dtype=float)
    theirs = stats.ttest_1samp(lost, 0)
    assert effect.effect.mean == pytest.approx(lost.mean())
    assert (effect.effect.low, effect.effect.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert effect.p == pytest.approx(theirs.pvalue)
    assert effect.share.mean == pytest.approx(0.075, abs=0.02)  # three of LOW's upper layers


def test_sufficiency_is_the_gain_over_all_redrawn_of_each_block_kept_alone() -> None:
    found = {each.layers: each for each in effects.sufficiency(TABLE) if each.where.size == "5000"}
    assert set(found) == {(start, start + 1, start + 2) for start in range(10)} | {(0,), (0, 1)}
    assert found[0, 1, 2].share.mean == pytest.approx(0.6, abs=0.02)
    assert found[9, 10, 11].share.mean == pytest.approx(0.075, abs=0.02)


def test_p_values_are_holms_and_simultaneous_intervals_bonferronis_over_the_layers_of_one_width() -> None:
    singles = [each for each in effects.necessity(TABLE) if each.where.size == "5000" and len(each.layers) == 1]
    assert {each.family for each in singles} == {12}
    ordered = sorted(each.p for each in singles if each.p is not None)
    smallest = min(singles, key=lambda each: each.p or 1)
    assert smallest.p_holm == pytest.approx(min(1, 12 * ordered[0]))
    assert all((each.p_holm or 0) >= (each.p or 0) for each in singles)
    one = singles[0]
    lost = scores(TABLE, 12) - redrawn(TABLE, 0)["score"].to_numpy(dtype=float)
    assert one.simultaneous.low == pytest.approx(stats.ttest_1samp(lost, 0).confidence_interval(1 - 0.05 / 12).low)


def test_an_effect_that_cannot_be_tested_is_paid_for_like_those_beside_it() -> None:
    lost = (TABLE["size"] == "5000") & TABLE["redrawn"].map(lambda each: each == (3,)) & (TABLE["seed"] > 1)
    singles = [each for each in effects.necessity(TABLE[~lost]) if each.where.size == "5000" and len(each.layers) == 1]
    (alone,) = [each for each in singles if each.effect.n == 1]
    assert (alone.layers, alone.p, alone.p_holm, alone.family) == ((3,), None, None, 12)
    smallest = min(singles, key=lambda each: each.p or 1)
    assert smallest.p is not None
    assert smallest.p_holm == pytest.approx(min(1, smallest.family * smallest.p))


def test_alignment_has_gap_and_correlations_for_each_probe_and_size_and_warns_of_ranks() -> None:
    found = effects.alignment(TABLE)
    assert [(each.where.size, each.probe) for each in found] == [
        (size, probe) for size in ("500", "5000") for probe in ("probe by the recipe", "converged probe")
    ]
    at_5000 = found[2]
    assert at_5000.gap.mean == pytest.approx(0.6 / 0.8 - 3 / 11, abs=0.03)  # LOW is at its widest from LINE at k = 4
    assert "jackknife" in at_5000.gap.note
    assert effects.MONOTONE in at_5000.spearman.note
    assert (at_5000.pearson.high or 2) <= 1


def test_alignment_says_why_there_is_none() -> None:
    flat = effects.alignment(frame_of(World(probe=(0.5,) * 12), "progressive", "probe", sizes=(5000,)))
    assert "flat within its noise" in flat[0].gap.note
    assert flat[0].gap.mean is None
    assert effects.alignment(frame_of(WORLD, "progressive")) == ()


def test_orders_are_correlated_between_tasks_over_orders_with_seeds_averaged() -> None:
    tables = [
        frame_of(World(permuted=0.3, order_sd=0.05), "progressive", "permutation", tasks=(task,), sizes=(5000,))
        for task in ("sst2", "qnli")
    ]
    (found,) = effects.order_correlations(pd.concat(tables, ignore_index=True))
    permuted = [each[each["treatment_kind"] == "permute"] for each in tables]
    x, y = (each.groupby(each["order"].map(str))["score"].mean().to_numpy(dtype=float) for each in permuted)
    theirs = stats.pearsonr(x, y)
    assert (found.where.task, found.other_task, found.pearson.n) == ("sst2", "qnli", 6)
    assert found.pearson.mean == pytest.approx(theirs.statistic)
    assert (found.pearson.low, found.pearson.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    rho = stats.spearmanr(x, y).statistic
    assert found.spearman.mean == pytest.approx(rho)
    assert found.spearman.low == pytest.approx(math.tanh(math.atanh(rho) - 1.959964 * math.sqrt((1 + rho**2 / 2) / 3)))


def test_every_effect_is_a_row_of_the_csv_without_nan() -> None:
    text = to_csv(records(effects.measure(TABLE)), header=HEADER)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["effect"] for row in rows} == {"necessity", "sufficiency", "alignment"}
    assert {row["measure"] for row in rows} == {"loss", "gain", "largest gap", "pearson", "spearman"}
    assert "nan" not in text.lower()
    block = next(row for row in rows if row["layers"] == "4 5 6" and row["size"] == "5000" and row["measure"] == "loss")
    assert (block["n"], block["unit"], block["tested_together"]) == ("5", "seed", "10")


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_leave_effects_with_notes_and_no_p_values_below_two(seeds: int) -> None:
    few = frame_of(WORLD, "progressive", "single", "probe", sizes=(5000,), seeds=seeds)
    found = effects.necessity(few)
    assert all((each.p is None) == (seeds == 1) for each in found)
    assert all(each.effect.note or each.effect.low is not None for each in found)


def test_an_empty_frame_has_no_effects() -> None:
    nothing = TABLE.iloc[:0]
    assert records(effects.measure(nothing)) == []
    assert to_csv([], header=HEADER).startswith("effect,model")


def test_a_sheet_shows_each_kind_of_effect_that_there_is_and_no_empty_one() -> None:
    shown = sheets(effects.measure(TABLE))
    assert [sheet.title.split(":")[0] for sheet in shown] == [
        "Necessity",
        "Sufficiency",
        "Probing against the progressive curve",
    ]
    assert all(len(row) == len(sheet.header) for sheet in shown for row in sheet.rows)
    assert not [value for sheet in shown for row in sheet.rows for value in row if value in ("nan", "None")]
    assert sheets(effects.measure(TABLE.iloc[:0])) == []
