import csv
import io
import re
from typing import Any

import pandas as pd
import pytest
from scipy.stats import ttest_ind

from aggregate.coverage import Extras
from aggregate.stats import Paired, Unpaired, mean_interval
from aggregate.summary import CellSummary, summarise
from aggregate.tables import (
    bounds,
    coverage_csv,
    coverage_sheet,
    number,
    runs_csv,
    setting_sheets,
    table_csv,
    to_latex,
    to_markdown,
    to_rich,
)
from jobs.cell import Cell, Probe
from jobs.found import Contradiction
from jobs.plan import PlannedCell
from jobs.result import DivergedRun, RunResult
from jobs.tasks import GLUE
from tests.aggregate.runs import (
    a_frame,
    cell,
    permuted,
    planned,
    preserving,
    progressive_plans,
    result,
    rising,
    scored,
)
from tests.make import a_diverged, a_failure, a_provenance

PLAIN, HALF = planned(cell()), planned(cell(preserving(2)))
SCORES = {PLAIN.cell: (0.80, 0.90, 1.00), HALF.cell: (0.76, 0.85, 0.94)}


def known() -> list[RunResult | DivergedRun]:
    return [result(one, seed, value) for one, values in SCORES.items() for seed, value in enumerate(values, 1)]


def test_a_row_has_mean_interval_sd_and_the_paired_difference() -> None:
    (sheet,) = setting_sheets(a_frame([PLAIN, HALF], known()))
    assert sheet.title == "sst2, 500 examples, small: validation/accuracy"
    plain, half = sheet.rows
    assert plain[2:] == ("4", "3", "0.900", "0.652 to 1.148", "0.100", "baseline", "–", "–", "")
    assert half[2:] == ("2", "3", "0.850", "0.626 to 1.074", "0.090", "-0.050", "-0.075 to -0.025", "3", "")
    assert sheet.loud == frozenset()


def test_a_cell_short_of_a_run_is_loud_and_says_how_many_of_how_many() -> None:
    results = [each for each in known() if (each.cell, each.seed) != (HALF.cell, 2)]
    (sheet,) = setting_sheets(a_frame([PLAIN, HALF], results))
    assert sheet.rows[1][3] == "2 of 3"
    assert sheet.rows[1][-1] == "n = 2 of 3; 1 missing"
    assert sheet.loud == {1}
    assert any(note.startswith("INCOMPLETE: planned runs without a score: 1.") for note in sheet.notes)
    text = to_markdown([sheet], title="t")
    assert "**n = 2 of 3; 1 missing**" in text
    assert "INCOMPLETE" in text


def test_diverged_failed_and_contradictory_runs_are_marked_and_in_no_mean() -> None:
    one = cell(preserving(1))
    plan = planned(one, seeds=(1, 2, 3, 4))
    frame = a_frame(
        [plan],
        [result(one, 1, 0.5), a_diverged(one, 2), result(one, 4, 0.9)],
        failures=[a_failure(one, 3)],
        contradictions=[Contradiction(one.digest, 4, ("a", "b"))],
    )
    ((row,),) = [sheet.rows for sheet in setting_sheets(frame)]
    assert row[4:7] == ("0.500", "–", "–")
    assert row[-1] == "n = 1 of 4; 1 diverged; 1 contradictory; 1 failed; n = 1: no interval"


def test_a_cell_without_a_score_has_dashes() -> None:
    (sheet,) = setting_sheets(a_frame([PLAIN, HALF], known()[:3]))
    assert sheet.rows[1][2:] == ("2", "0 of 3", "–", "–", "–", "–", "–", "0", "n = 0 of 3; 3 missing")


def test_seeds_without_a_baseline_are_named() -> None:
    more = planned(HALF.cell, seeds=(1, 2, 3, 4))
    (sheet,) = setting_sheets(a_frame([PLAIN, more], [*known(), result(HALF.cell, 4, 0.9)]))
    assert sheet.rows[1][3] == "4"
    assert sheet.rows[1][9:] == ("3", "without baseline: seed 4")


def test_many_seeds_without_a_baseline_are_all_named_as_ranges() -> None:
    plans = [planned(cell(), seeds=(2,)), planned(HALF.cell, seeds=(1, 2, 4, 5, 7, 8, 9))]
    (sheet,) = setting_sheets(a_frame(plans, scored(plans, rising)))
    assert "without baseline: seeds 1, 4, 5, 7 to 9" in sheet.rows[1][-1]


def test_equal_scores_state_that_their_interval_is_a_point() -> None:
    frame = a_frame([HALF], [result(HALF.cell, seed, 0.509) for seed in (1, 2, 3)])
    ((row,),) = [sheet.rows for sheet in setting_sheets(frame)]
    assert row[4:7] == ("0.509", "0.509 to 0.509", "0.000")
    assert row[-1] == "all 3 values equal: the interval is one point"


def test_without_plain_finetuning_there_is_no_difference_and_a_note() -> None:
    (sheet,) = setting_sheets(a_frame([HALF], known()[3:]))
    assert sheet.rows[0][7:10] == ("–", "–", "–")
    assert any("no plain finetuning" in note for note in sheet.notes)


def test_a_baseline_of_another_size_task_or_recipe_is_no_baseline() -> None:
    plans = [planned(cell(size=100)), planned(cell(task=GLUE["cola"])), planned(cell(learning_rate=1e-5)), HALF]
    *_, last = summarise(a_frame(plans, scored(plans, rising)))
    assert last.cells[0].difference is None


def test_permutations_are_summarised_over_orders_with_seeds_averaged_first() -> None:
    orders = [
        planned(cell(permuted(*order)), families=("permutation",))
        for order in [(1, 0, 2, 3), (3, 2, 1, 0), (0, 2, 1, 3)]
    ]
    means = dict(zip((plan.cell for plan in orders), (0.50, 0.60, 0.70), strict=True))
    results = scored(orders, lambda one, seed: means[one] + (seed - 2) / 100) + scored([PLAIN], lambda *_: 0.9)
    (setting,) = summarise(a_frame([PLAIN, *orders], results))
    row = setting.cells[-1]
    assert (row.unit, row.planned, row.score.n, row.digest) == ("order", 3, 3, "")
    assert row.score.mean == pytest.approx(0.60)
    assert row.score.sd == pytest.approx(0.10)
    (sheet,) = setting_sheets(a_frame([PLAIN, *orders], results))
    assert any("n counts orders" in note for note in sheet.notes)


ORDERS = [
    planned(cell(permuted(*order)), families=("permutation",)) for order in [(1, 0, 2, 3), (3, 2, 1, 0), (0, 2, 1, 3)]
]
ORDER_MEANS = dict(zip((plan.cell for plan in ORDERS), (0.68, 0.70, 0.72), strict=True))


def of_orders(one: Cell, seed: int) -> float:
    return ORDER_MEANS[one] + (seed - 2) / 100


def order_row(plans: list[PlannedCell], results: list[Any]) -> CellSummary:
    (setting,) = summarise(a_frame(plans, results))
    return setting.cells[-1]


def test_the_difference_of_a_row_over_orders_holds_the_baselines_error_too() -> None:
    results = scored(ORDERS, of_orders) + known()[:3]
    row = order_row([PLAIN, *ORDERS], results)
    expected = ttest_ind([0.68, 0.70, 0.72], [0.80, 0.90, 1.00], equal_var=False).confidence_interval(0.95)
    assert isinstance(row.difference, Unpaired)
    assert row.difference.interval.mean == pytest.approx(-0.20)
    assert (row.difference.interval.low, row.difference.interval.high) == pytest.approx((expected.low, expected.high))
    assert row.marks == ("difference: Welch, orders against seeds (n = 3 and 3)",)
    (sheet,) = setting_sheets(a_frame([PLAIN, *ORDERS], results))
    assert sheet.rows[-1][4:10] == ("0.700", "0.650 to 0.750", "0.020", "-0.200", "-0.436 to +0.036", "–")
    assert any("Welch's interval: orders against plain finetuning" in note for note in sheet.notes)
    *_, flat = csv.DictReader(io.StringIO(table_csv(a_frame([PLAIN, *ORDERS], results))))
    assert (flat["pairs"], flat["difference_sd"], flat["unit"]) == ("", "", "order")
    assert float(flat["difference_low"]) == pytest.approx(expected.low)


def test_each_order_alone_stays_paired_by_seed() -> None:
    (setting,) = summarise(a_frame([PLAIN, *ORDERS], scored(ORDERS, of_orders) + known()[:3]))
    assert all(isinstance(one.difference, Paired) for one in setting.cells[1:-1])


def test_baseline_seeds_that_no_order_has_are_not_in_the_orders_difference() -> None:
    more = planned(cell(), seeds=(1, 2, 3, 4, 5))
    results = scored(ORDERS, of_orders)
    with_more = order_row([more, *ORDERS], [*results, *known()[:3], *scored([more], lambda *_: 0.1)[3:]])
    assert with_more.difference == order_row([PLAIN, *ORDERS], results + known()[:3]).difference


@pytest.mark.parametrize(
    ("orders", "baseline", "marks"),
    [
        (3, 2, ("difference: Welch, orders against seeds (n = 3 and 2)",)),
        (3, 1, ("difference: n = 3 and 1: no interval",)),
        (3, 0, ("difference: no baseline value",)),
        (1, 3, ("n = 1 of 3", "6 missing", "n = 1: no interval", "difference: n = 1 and 3: no interval")),
        (0, 3, ("n = 0 of 3", "9 missing")),
    ],
)
def test_a_row_over_orders_says_what_its_difference_lacks(orders: int, baseline: int, marks: tuple[str, ...]) -> None:
    row = order_row([PLAIN, *ORDERS], scored(ORDERS[:orders], of_orders) + known()[:baseline])
    assert row.marks == marks


def test_orders_and_baseline_without_any_spread_state_that_their_difference_is_a_point() -> None:
    row = order_row([PLAIN, *ORDERS], scored(ORDERS, lambda *_: 0.5) + scored([PLAIN], lambda *_: 0.75))
    assert isinstance(row.difference, Unpaired)
    assert (row.difference.interval.low, row.difference.interval.high) == (-0.25, -0.25)
    assert row.marks[-1] == "difference: n = 3 and 3, all equal on each side: the interval is one point"


def test_a_probe_is_never_subtracted_from_a_finetune() -> None:
    probes = [planned(cell(Probe(depth=depth)), seeds=(1, 2, 3, 4), families=("probe",)) for depth in (1, 2)]
    frame = a_frame([PLAIN, *probes, HALF], [*known(), *scored(probes, rising)])
    (setting,) = summarise(frame)
    assert [one.difference is None for one in setting.cells] == [True, True, True, False]
    assert setting.cells[1].marks == ()
    (sheet,) = setting_sheets(frame)
    assert sheet.rows[1][7:] == ("–", "–", "–", "")
    assert any("A probe trains no network" in note for note in sheet.notes)
    assert not any("A probe" in note for note in setting_sheets(a_frame([PLAIN, HALF], known()))[0].notes)


def test_an_order_without_a_score_is_counted_as_absent() -> None:
    orders = [planned(cell(permuted(*order)), seeds=(1,)) for order in [(1, 0, 2, 3), (3, 2, 1, 0), (0, 2, 1, 3)]]
    (setting,) = summarise(a_frame(orders, scored(orders[:2], rising)))
    assert setting.cells[-1].marks == ("n = 2 of 3", "1 missing")


def test_results_of_two_commits_and_images_are_noted_with_both() -> None:
    new = a_provenance(git_commit="f" * 40, image="an/image@sha256:2")
    results = [result(HALF.cell, 1, 0.5), result(HALF.cell, 2, 0.6), result(HALF.cell, 3, 0.7, provenance=new)]
    (sheet,) = setting_sheets(a_frame([HALF], results))
    mixed = [note for note in sheet.notes if note.startswith("Mixed provenance")]
    assert len(mixed) == 3
    assert mixed[0] == f"Mixed provenance: 2 git commits: {'a' * 40} (2 runs), {'f' * 40} (1 run)"
    assert "none (2 runs)" in mixed[1]


def test_results_of_one_provenance_have_no_such_note() -> None:
    (sheet,) = setting_sheets(a_frame([PLAIN, HALF], known()))
    assert not [note for note in sheet.notes if "provenance" in note]


def test_seeds_outside_the_plan_move_no_number() -> None:
    without = setting_sheets(a_frame([PLAIN, HALF], known()))[0]
    with_more = setting_sheets(a_frame([PLAIN, HALF], [*known(), result(HALF.cell, 9, 0.1)]))[0]
    assert with_more.rows == without.rows
    assert "Results of seeds outside the plan, in no number: 1." in with_more.notes


def partial_frame() -> pd.DataFrame:
    plans = progressive_plans() + progressive_plans(task=GLUE["cola"], size="full")
    one = plans[1].cell
    results = [each for each in scored(plans[:-1], rising) if each.digest != one.digest]
    return a_frame(plans, [*results, result(one, 1, 0.5), a_diverged(one, 2)])


def test_no_table_ever_says_nan_or_none_or_na() -> None:
    frame = partial_frame()
    sheets = [*setting_sheets(frame), coverage_sheet(frame, Extras())]
    texts = [to_markdown(sheets, title="t"), to_latex(sheets, title="t")]
    texts += [table_csv(frame), runs_csv(frame), coverage_csv(frame)]
    for text in texts:
        assert not re.search(r"\b(nan|none|nat|inf)\b|<NA>|\\textless\{\}NA", text, re.IGNORECASE)


def test_the_csv_of_the_table_has_full_precision_and_empty_fields() -> None:
    results = [result(HALF.cell, 1, 1 / 3)]
    (row,) = csv.DictReader(io.StringIO(table_csv(a_frame([planned(HALF.cell, seeds=(1,))], results))))
    assert float(row["mean"]) == 1 / 3
    assert (row["low"], row["difference"], row["n"], row["planned"]) == ("", "", "1", "1")
    assert row["marks"] == "n = 1: no interval"
    assert row["digest"] == HALF.cell.digest


def test_the_csv_of_runs_has_a_row_per_run_and_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO(runs_csv(a_frame([PLAIN, HALF], known()[:4])))))
    assert [row["status"] for row in rows] == ["done"] * 4 + ["missing"] * 2
    assert rows[0]["finished_at"] == "2026-01-02T03:05:05+00:00"
    assert rows[0]["planned"] == "true"
    assert rows[-1]["score"] == ""


def test_the_coverage_sheet_is_loud_where_a_run_is_short_and_only_there() -> None:
    plans = progressive_plans(size=100) + progressive_plans(size=500)
    sheet = coverage_sheet(a_frame(plans, scored(plans, rising)[:-1]), Extras())
    assert [sheet.rows[index][1:5] for index in sorted(sheet.loud)] == [
        ("sst2", "500", "", "all"),
        ("sst2", "500", "", "progressive"),
        ("all", "all", "", "all"),
    ]
    assert sheet.rows[-1][5:7] == ("30", "29 (96.6%)")
    assert sheet.notes[0] == "INCOMPLETE: planned runs without a score: 1 of 30."


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.5, False, "0.500"),
        (-0.0001, True, "0.000"),
        (0.0123, True, "+0.012"),
        (-0.02, True, "-0.020"),
        (None, True, "–"),
    ],
)
def test_numbers_have_three_decimals_and_zero_no_sign(value: float | None, sign: bool, text: str) -> None:
    assert number(value, sign=sign) == text


def test_bounds_say_low_to_high() -> None:
    assert bounds(mean_interval([-0.1, 0.1]), sign=True) == "-1.271 to +1.271"
    assert bounds(mean_interval([0.1])) == "–"


def test_a_terminal_shows_the_first_notes_and_counts_the_others() -> None:
    sheet = coverage_sheet(a_frame([planned(cell(), seeds=tuple(range(99)))], []), Extras())
    lines = str(to_rich(sheet).caption).splitlines()
    assert lines[0] == "INCOMPLETE: planned runs without a score: 99 of 99."
    assert lines[-1] == "... and 88 more"
    assert len(to_markdown([sheet], title="t").splitlines()) > 99
