"""What runs took is summed once, for each cell and table, and what counts for nothing stands apart."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from aggregate.aggregate import aggregate_studies
from aggregate.cost import Cost, Costs, cell_sheet, cost_csv, cost_json, costs, records, table_sheet
from aggregate.coverage import Extras, extras_in
from aggregate.frame import frame
from jobs.cell import Cell, Reinit
from jobs.found import Verified, settle
from jobs.plan import Plan, PlannedCell
from jobs.price import Price
from jobs.result import DivergedRun, RunResult
from jobs.store import Failures
from jobs.tasks import GLUE
from tests.aggregate.evil import EVIL
from tests.aggregate.runs import cell as a_cell
from tests.aggregate.runs import planned
from tests.make import a_diverged, a_failure, a_provenance, a_result

EURO = Price(2.0, "EUR")
THERE = a_provenance(device="there")
ONE, OTHER, COLA = a_cell(Reinit()), a_cell(Reinit(layers=(3,))), a_cell(Reinit(), task=GLUE["cola"])


def an_hour(cell: Cell, seed: int, *, gpus: float = 1.0, **fields: Any) -> RunResult:
    return a_result(cell, seed, wall_seconds=3600.0, gpu_seconds=3600.0 * gpus, **fields)


def spent(*results: RunResult | DivergedRun, price: Price | None = None, failures: int = 0) -> Costs:
    cells = list({each.digest: each.cell for each in results}.values()) or [ONE]
    by_cell: dict[str, list[Verified]] = {}
    for each in results:
        by_cell.setdefault(each.digest, []).append(Verified(each.key, each))
    found = {digest: settle(digest, several) for digest, several in by_cell.items()}
    attempts = {ONE.digest: Failures(tuple(a_failure(ONE, 9, attempt=f"pod-{number}") for number in range(failures)))}
    runs = frame([planned(each, (1, 2)) for each in cells], found, study="a-study")
    return costs(runs, extras_in(found, attempts), price)


def test_a_cell_a_table_and_all_have_the_sums_of_their_runs() -> None:
    found = spent(an_hour(ONE, 1), an_hour(ONE, 2, gpus=0.5), an_hour(OTHER, 1), an_hour(COLA, 1))
    assert [each.used for each in found.cells] == [Cost(2, 7200, 5400), Cost(1, 3600, 3600), Cost(1, 3600, 3600)]
    assert [each.used for each in found.tables] == [Cost(3, 10800, 9000), Cost(1, 3600, 3600)]
    assert [each.about["task"] for each in found.tables] == ["sst2", "cola"]
    assert found.total.used == Cost(4, 14400, 12600)


def test_a_diverged_run_was_paid_for() -> None:
    found = spent(a_diverged(ONE, 1, wall_seconds=60.0, gpu_seconds=60.0))
    assert found.total.used == Cost(1, 60, 60)
    assert found.cells[0].steps == 7


def test_a_later_result_of_one_run_counts_apart() -> None:
    found = spent(an_hour(ONE, 1), an_hour(ONE, 1, later=9, gpus=2, provenance=THERE), an_hour(OTHER, 1))
    assert found.total.used == Cost(2, 7200, 7200)
    assert found.total.unused == Cost(1, 3600, 7200)
    assert [each.unused.runs for each in found.cells] == [1, 0]
    assert [each.unused.runs for each in found.tables] == [1]


def test_results_that_contradict_each_other_were_all_for_nothing() -> None:
    found = spent(an_hour(ONE, 1, score=0.5), an_hour(ONE, 1, score=0.6, later=1))
    assert found.total.used == Cost()
    assert found.total.unused == Cost(2, 7200, 7200)
    assert found.cells[0].steps is None
    assert len(found.tables) == 1


def test_a_seed_outside_of_the_plan_was_paid_for_too() -> None:
    assert spent(an_hour(ONE, 77)).total.used.runs == 1


def test_a_cell_without_results_has_no_row() -> None:
    empty = spent()
    assert (empty.cells, empty.tables, empty.total.used) == ((), (), Cost())
    assert table_sheet(empty).rows == (("all", "–", "–", "0", "0.000", "–"),)
    assert cell_sheet(empty).rows == ()


def test_sheets_have_money_and_unused_time_where_there_is_any_and_no_column_otherwise() -> None:
    plain = spent(an_hour(ONE, 1), an_hour(COLA, 1))
    assert table_sheet(plain).header == ("table", "model", "recipe", "runs", "hours", "GPU-hours")
    assert [row[0] for row in table_sheet(plain).rows] == ["sst2, 500", "cola, 500", "all"]
    assert table_sheet(plain).rows[-1][3:] == ("2", "2.000", "2.000")
    both = spent(an_hour(ONE, 1), an_hour(ONE, 1, later=9, provenance=THERE), price=EURO)
    unused = ("unused runs", "unused hours", "unused GPU-hours")
    assert table_sheet(both).header[3:] == ("runs", "hours", "GPU-hours", "EUR", *unused)
    assert table_sheet(both).rows[-1][3:] == ("1", "1.000", "1.000", "4.00", "1", "1.000", "1.000")
    assert cell_sheet(both).header[4:6] == ("steps", "seconds a run")
    assert cell_sheet(both).rows[0][4:] == ("189", "3,600.0", *table_sheet(both).rows[-1][3:])
    assert any(note.startswith("Unused: 1 run, 1.00 hours") for note in table_sheet(both).notes)
    assert "Money: GPU-hours, unused ones too, at 2 EUR each." in table_sheet(both).notes


def test_attempts_that_failed_are_counted_and_their_time_is_said_to_be_unknown() -> None:
    notes = table_sheet(spent(an_hour(ONE, 1), failures=2)).notes
    assert "2 attempts left a failure and no result; what such an attempt took is not recorded." in notes
    assert not [note for note in table_sheet(spent(an_hour(ONE, 1))).notes if "attempt" in note]


@pytest.mark.parametrize("price", [None, EURO])
def test_the_csv_has_a_record_per_cell_then_tables_then_all_and_they_add_up(price: Price | None) -> None:
    found = spent(an_hour(ONE, 1), an_hour(ONE, 1, later=9, provenance=THERE), an_hour(COLA, 1), price=price)
    lines = list(csv.DictReader(io.StringIO(cost_csv(found))))
    assert [line["level"] for line in lines] == ["cell", "cell", "table", "table", "all"]
    for name in ("runs", "hours", "gpu_hours", "unused_runs", "unused_hours", "unused_gpu_hours"):
        sums = {
            level: sum(float(line[name]) for line in lines if line["level"] == level) for level in ("cell", "table")
        }
        assert sums["cell"] == sums["table"] == float(lines[-1][name])
    assert lines[-1]["cost"] == ("" if price is None else "6.0")
    assert lines[-1]["currency"] == ("" if price is None else "EUR")
    assert lines[0]["digest"] == ONE.digest


def test_the_json_has_the_same_with_its_price() -> None:
    found = spent(an_hour(ONE, 1), price=EURO, failures=3)
    document = json.loads(cost_json(found))
    assert document["costs"] == records(found)
    assert document["price"] == {"gpu_hour": 2.0, "currency": "EUR"}
    assert (document["schema_version"], document["failed_attempts"]) == (1, 3)
    assert json.loads(cost_json(spent(an_hour(ONE, 1))))["price"] is None


def test_aggregate_writes_both_and_the_report_says_the_money(tmp_path: Path) -> None:
    class About:
        name, title, note = "a-study", "A study", EVIL["reads a file in LaTeX"]

    plans = Plan([PlannedCell(ONE, (1, 2), ("f",)), PlannedCell(OTHER, (1, 2), ("f",))])
    results = [an_hour(each.cell, seed) for each in plans for seed in each.seeds]
    found = {
        each.cell.digest: settle(each.cell.digest, [Verified(one.key, one) for one in results if one.cell == each.cell])
        for each in plans
    }
    aggregate_studies([(About(), plans)], found, {}, tmp_path, price=EURO)
    assert json.loads((tmp_path / "cost.json").read_text())["costs"][-1]["cost"] == 8.0
    assert (tmp_path / "cost.csv").read_text().startswith("level,model,task")
    page = (tmp_path / "report.html").read_text()
    assert "8.00 EUR" in page
    assert "Cost of each table" in page


def test_costs_of_no_extras_are_those_of_the_frame() -> None:
    runs = frame([planned(ONE, (1,))], {}, study="a-study")
    assert costs(runs, Extras()).total.used == Cost()
