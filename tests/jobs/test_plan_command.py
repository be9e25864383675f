"""`reinit plan` as a user meets it: hours and money by what the store and the site say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import plan_command
from jobs.cell import Cell
from jobs.plan import Plan
from jobs.store import Store, open_store
from jobs.study import load_study
from tests.jobs.test_cli import reinit
from tests.make import a_provenance, a_result, some_predictions

STUDY = "figure-permutations"
CARD = a_provenance(device="NVIDIA L4")
PLAN = load_study(STUDY).plan()


def ran(store: Store, cell: Cell, seed: int, seconds: float = 36.0) -> None:
    result = a_result(cell, seed, wall_seconds=seconds, gpu_seconds=seconds, provenance=CARD)
    store.put(result, some_predictions(seed))


def planned(*arguments: str) -> dict[str, Any]:
    done = reinit("plan", *arguments, "--output", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["estimate"]
    return found


def header(printed: str) -> list[str]:
    return next(line.split() for line in printed.splitlines() if line.startswith("family "))


def a_site(folder: Path, **fields: object) -> str:
    path = folder / "cluster.yaml"
    content = {"image": "registry.example/reinit@sha256:" + "0" * 64, "store": "s3://bucket/prefix", **fields}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def test_a_plan_without_a_store_says_hours_by_what_comes_with_the_program() -> None:
    done = reinit("plan", STUDY, "--price", "2.50 EUR")
    assert " GPU-hours (" in done.stdout
    assert "on one NVIDIA H200" in done.stdout
    assert "at 2.5 EUR a GPU-hour" in done.stdout
    assert header(done.stdout)[-1] == "GPU-hours"


def test_every_cell_has_its_hours() -> None:
    lines = reinit("plan", STUDY, "--cells").stdout.splitlines()
    assert lines[0].split()[-1] == "GPU-hours"
    assert len(lines) == 1 + len(PLAN)
    assert all(float(line.split()[-1]) > 0 for line in lines[1:])


def test_a_plan_prints_no_money_without_a_price() -> None:
    assert "a GPU-hour" not in reinit("plan", STUDY).stdout
    assert "cost" not in planned(STUDY)
    assert planned(STUDY)["price"] is None


def test_what_the_store_has_is_what_the_rest_is_estimated_by_and_is_not_paid_again(store: Store) -> None:
    first = PLAN[0]
    for seed in first.seeds:
        ran(store, first.cell, seed)
    found = planned(STUDY, "--store", store.url, "--price", "1 USD")
    assert found["device"] == "NVIDIA L4"
    own = found["cells"][first.cell.digest]
    assert own["hours"]["typical"] == pytest.approx(len(first.seeds) * 36 / 3600)
    assert own["hours_left"] == {"low": 0, "typical": 0, "high": 0}
    assert own["runs_left"] == 0
    assert found["hours_left"]["typical"] == pytest.approx(found["hours"]["typical"] - own["hours"]["typical"])
    assert found["cost_left"]["typical"] == pytest.approx(found["hours_left"]["typical"])
    said = reinit("plan", STUDY, "--store", store.url).stdout
    assert f"for the {PLAN.runs - len(first.seeds)} runs that are left" in said
    assert header(said)[-3:] == ["done", "GPU-hours", "left"]


def test_results_of_another_study_in_the_store_serve_where_there_are_none_of_ones_own(store: Store) -> None:
    others = [
        each for each in load_study("probing").plan() if each.cell.digest not in {one.cell.digest for one in PLAN}
    ]
    ran(store, others[0].cell, 1)
    finetuned = PLAN[0].cell.model_copy(update={"size": 123})
    ran(store, finetuned, 1)
    found = planned(STUDY, "--store", store.url)
    assert found["device"] == "NVIDIA L4"
    assert any("1 result of google-bert/bert-base-uncased on" in line for line in found["evidence"])
    assert found["hours_left"] == found["hours"]


def test_a_store_of_many_other_cells_is_read_in_part(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_command, "MOST_OTHER_CELLS", 2)
    for size in (101, 102, 103, 104):
        ran(store, PLAN[0].cell.model_copy(update={"size": size}), 1)
    asked: list[int] = []
    read = Store.all_results

    def counting(self: Store, digests: Any) -> Any:
        asked.append(len(digests))
        return read(self, digests)

    monkeypatch.setattr(Store, "all_results", counting)
    found = plan_command._estimated(Plan(PLAN), store, {}, None, None)
    assert asked == [2]
    assert found.device == "NVIDIA L4"


def test_something_in_the_store_that_is_no_cell_does_not_disturb(store: Store) -> None:
    ran(store, PLAN[0].cell.model_copy(update={"size": 123}), 1)
    stray = Path(store.url.removeprefix("file://")) / "runs" / "notes" / "a.txt"
    stray.parent.mkdir(parents=True)
    stray.write_text("x")
    assert planned(STUDY, "--store", store.url)["device"] == "NVIDIA L4"


def test_a_sites_file_names_the_card_and_its_price(tmp_path: Path) -> None:
    site = a_site(tmp_path, gpu_type="NVIDIA-H200", gpu_hour_price="3.00 USD")
    found = planned(STUDY, "--cluster", site)
    assert found["device"] == "NVIDIA H200"
    assert found["price"] == {"gpu_hour": 3.0, "currency": "USD"}
    assert found["cost"]["high"] == pytest.approx(3 * found["hours"]["high"])
    assert planned(STUDY, "--cluster", site, "--price", "1 EUR")["price"] == {"gpu_hour": 1.0, "currency": "EUR"}


def test_a_sites_card_that_nobody_measured_has_no_estimate(tmp_path: Path) -> None:
    site = a_site(tmp_path, gpu_type="NVIDIA-L4")
    said = reinit("plan", STUDY, "--cluster", site)
    assert said.returncode == 0
    assert f"{PLAN.runs} runs have no estimate" in said.stdout
    assert f"reinit run {STUDY} --only" in said.stdout
    assert all(line.endswith("?") for line in said.stdout.splitlines() if line.startswith("permutation"))
    assert planned(STUDY, "--cluster", site, "--device", "NVIDIA H200")["runs_without_estimate"] == 0


@pytest.mark.parametrize("command", ["plan", "aggregate"])
def test_a_malformed_price_is_refused_before_anything_is_read(command: str, tmp_path: Path) -> None:
    where = ["--store", tmp_path.as_uri(), *(["-o", str(tmp_path / "out")] if command == "aggregate" else [])]
    done = reinit(command, STUDY, *where, "--price", "2,50")
    assert done.returncode == 64
    assert "2.50 EUR" in done.stderr


def test_a_sites_malformed_price_is_refused(tmp_path: Path) -> None:
    done = reinit("plan", STUDY, "--cluster", a_site(tmp_path, gpu_hour_price="two euros"))
    assert done.returncode == 64
    assert "gpu_hour_price" in done.stderr
