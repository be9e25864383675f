"""An estimate holds against what was measured afterwards, and says what it is made of."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jobs.cell import Cell, Epochs, Model, Probe, Recipe, Reinit, Steps
from jobs.cost import Estimate, estimate, lacking
from jobs.cost_views import estimate_json, estimate_lines, group_hours
from jobs.plan import Plan, PlannedCell
from jobs.price import Price
from jobs.result import RunResult
from jobs.study import load_study
from jobs.tasks import GLUE
from jobs.throughput import SHIPPED, Range, measured, work
from tests.jobs.test_throughput import ROOT, of_example
from tests.make import MODEL, a_cell, a_provenance, a_result

GPU = a_provenance(device="a GPU")
PAPER = load_study("paper").plan()


def on_gpu(cell: Cell, seed: int = 1, seconds: float = 10.0, **fields: Any) -> RunResult:
    return a_result(cell, seed, wall_seconds=seconds, gpu_seconds=seconds, provenance=GPU, **fields)


def plan_of(*cells: Cell, seeds: Sequence[int] = (1, 2, 3)) -> Plan:
    return Plan(PlannedCell(cell, tuple(seeds), ("family",)) for cell in cells)


def estimated(cell: Cell, results: Iterable[RunResult], **options: Any) -> Range:
    """Seconds of one run."""
    return estimate(plan_of(cell, seeds=[1]), {}, measured(results), **{"device": "a GPU"} | options).total


def shown(found: Estimate, price: Price | None = None) -> str:
    return "\n".join(estimate_lines(found, price, "demo"))


# --------------------------------------------------------------------------------------------------- against the real


@pytest.mark.parametrize("name", ["minilm-glue", "mpnet-sst2"])
@pytest.mark.parametrize("draw", range(20))
def test_half_of_a_stores_results_foretell_what_the_other_half_took(name: str, draw: int) -> None:
    """Finetunes that were really run, on machines with other work: each kind of twenty runs and more, halved by lot."""
    kinds: dict[object, list[RunResult]] = {}
    for each in of_example(name):
        if each.cell.treatment.kind != "probe":
            kinds.setdefault((each.provenance.device, each.cell.task.name, each.cell.size), []).append(each)
    checked = 0
    for kind in kinds.values():
        if len(kind) < 20:
            continue
        halves = random.Random(draw).sample(kind, len(kind))
        known, coming = halves[::2], halves[1::2]
        plan = Plan(PlannedCell(each.cell, (each.seed,), ("family",)) for each in coming)
        found = estimate(plan, {}, measured(known), device=known[0].provenance.device)
        took = sum(each.gpu_seconds or each.wall_seconds for each in coming)
        assert {each.rate.nearness for each in found.cells if each.rate} == {1}
        assert found.total.low <= took <= found.total.high
        checked += 1
    assert checked == {"minilm-glue": 2, "mpnet-sst2": 1}[name]


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("runs", [1, 2, 5, 10, 40])
def test_halves_foretell_each_other_nine_times_of_ten_however_few_runs_there_are(runs: int, spread: float) -> None:
    """Log-normal times with the spread that machines have; the other half is five runs or more of another size."""
    numbers, draws = random.Random(runs), min(100, max(400 // runs, 20))
    cell, within = a_cell(size=400), 0

    def took(cell: Cell) -> float:
        return work(cell) * numbers.lognormvariate(0, spread)

    for _ in range(draws):
        coming = max(runs, 5)
        known = [on_gpu(a_cell(), seed, took(a_cell())) for seed in range(runs)]
        found = estimate(plan_of(cell, seeds=range(coming)), {}, measured(known), device="a GPU").total
        within += found.low <= sum(took(cell) for _ in range(coming)) <= found.high
    assert within >= 0.9 * draws


def test_one_run_foretells_others_within_a_factor_of_two() -> None:
    assert estimated(a_cell(), [on_gpu(a_cell(), seconds=10.0)]) == close_to(5, 10, 20)


# --------------------------------------------------------------------------------------------------------- properties


cells = st.builds(
    lambda task, size, epochs, redrawn, probe: a_cell(
        task=GLUE[task],
        size=size,
        treatment=Probe(depth=redrawn + 1) if probe else Reinit(layers=tuple(range(redrawn))),
        recipe=Recipe(duration=Epochs(epochs=epochs)),
    ),
    st.sampled_from(["sst2", "cola", "rte", "qnli"]),
    st.sampled_from([100, 500, 1000, "full"]),
    st.integers(1, 5),
    st.integers(0, 11),
    st.booleans(),
)
plans = st.lists(cells, min_size=1, max_size=5, unique_by=lambda cell: cell.digest).map(lambda some: plan_of(*some))
results = st.lists(
    st.tuples(cells, st.integers(1, 9), st.floats(0.1, 1e4)),
    min_size=1,
    max_size=12,
    unique_by=lambda each: (each[0].digest, each[1]),
).map(lambda several: [on_gpu(cell, seed, seconds) for cell, seed, seconds in several])


@given(plans, results, st.data())
def test_what_remains_is_never_more_than_all_and_nothing_where_all_is_done(
    plan: Plan, known: list[RunResult], data: st.DataObject
) -> None:
    done = {each.cell.digest: data.draw(st.sets(st.sampled_from(each.seeds))) for each in plan}
    found = estimate(plan, done, measured(known))
    for end in ("low", "typical", "high"):
        assert 0 <= getattr(found.remaining, end) <= getattr(found.total, end)
    assert found.total.low <= found.total.typical <= found.total.high
    whole = estimate(plan, {each.cell.digest: each.seeds for each in plan}, measured(known))
    assert whole.remaining == Range(0, 0, 0)
    assert whole.total == found.total
    assert estimate(plan, {}, measured(known)).remaining == found.total


@given(results, st.sampled_from(["sst2", "qnli"]), st.integers(1, 500), st.integers(1, 500))
def test_more_steps_never_take_less(known: list[RunResult], task: str, few: int, more: int) -> None:
    def total(steps: int) -> Range:
        cell = a_cell(task=GLUE[task], recipe=Recipe(duration=Steps(steps=steps)))
        return estimate(plan_of(cell), {}, measured(known), device="a GPU").total

    fewer, longer = total(min(few, more)), total(max(few, more))
    assert fewer.low <= longer.low
    assert fewer.typical <= longer.typical
    assert fewer.high <= longer.high
    if few == more:
        assert fewer == longer


@given(plans, results, st.floats(0.01, 100))
def test_a_device_that_is_so_many_times_slower_takes_so_many_times_longer(
    plan: Plan, known: list[RunResult], factor: float
) -> None:
    slower = [on_gpu(each.cell, each.seed, each.gpu_seconds * factor) for each in known]
    quick, slow = (estimate(plan, {}, measured(some), device="a GPU").total for some in (known, slower))
    for end in ("low", "typical", "high"):
        assert getattr(slow, end) == pytest.approx(factor * getattr(quick, end))


@given(plans, results, st.floats(0, 1e4), st.floats(0, 100))
def test_money_is_hours_times_the_price_and_hours_know_of_none(
    plan: Plan, known: list[RunResult], amount: float, factor: float
) -> None:
    found = estimate(plan, {}, measured(known), device="a GPU")
    assume(found.is_gpu)
    without, once = estimate_json(found, None), estimate_json(found, Price(amount, "EUR"))
    times = estimate_json(found, Price(amount * factor, "EUR"))
    assert without["hours"] == once["hours"] == times["hours"]
    assert "cost" not in without
    for end in ("low", "typical", "high"):
        assert once["cost"][end] == pytest.approx(amount * once["hours"][end])
        assert times["cost"][end] == pytest.approx(factor * once["cost"][end])
        assert sum(group["cost_left"][end] for group in once["groups"]) == pytest.approx(once["cost_left"][end])
        assert sum(cell["hours"][end] for cell in once["cells"].values()) == pytest.approx(once["hours"][end])


@given(plans, results, st.randoms())
def test_the_order_of_results_changes_nothing(plan: Plan, known: list[RunResult], numbers: random.Random) -> None:
    shuffled = numbers.sample(known, len(known))
    one, other = (estimate(plan, {}, measured(some), device="a GPU").total for some in (known, shuffled))
    for end in ("low", "typical", "high"):
        assert getattr(one, end) == pytest.approx(getattr(other, end))


# ------------------------------------------------------------------------------------------------------ what is nearest


def a_step(cell: Cell, seconds: float, seeds: Iterable[int] = range(10)) -> list[RunResult]:
    """Enough runs whose steps take so long, that they have no spread."""
    return [on_gpu(cell, seed, seconds * work(cell)) for seed in seeds]


def step_of(cell: Cell, known: Iterable[RunResult]) -> Range:
    return estimated(cell, known).times(1 / work(cell))


def close_to(low: float, typical: float, high: float) -> Range:
    return Range(*(pytest.approx(each) for each in (low, typical, high)))  # type: ignore[arg-type]


def test_the_same_task_and_size_come_before_other_sizes_and_these_before_other_tasks() -> None:
    known = a_step(a_cell(task=GLUE["cola"]), 9.0)
    cell = a_cell(size=1000)
    assert step_of(cell, known).low == pytest.approx(9)
    known += a_step(a_cell(size=100), 2.0) + a_step(a_cell(size=500), 4.0)
    assert step_of(cell, known) == close_to(2, 3, 4)
    known += a_step(cell, 5.0)
    assert step_of(cell, known) == close_to(5, 5, 5)


def test_another_treatment_of_the_same_task_and_size_is_the_same_work() -> None:
    assert step_of(a_cell(0, 5, 7), a_step(a_cell(), 2.0)) == close_to(2, 2, 2)


def test_a_step_of_another_task_is_between_as_long_and_in_proportion_to_its_tokens() -> None:
    ratio = 66.56 / 13.32
    known = a_step(a_cell(), 2.0)
    assert step_of(a_cell(task=GLUE["rte"]), known) == close_to(2, 2 * ratio**0.5, 2 * ratio)
    known = a_step(a_cell(task=GLUE["rte"]), 2.0)
    assert step_of(a_cell(), known) == close_to(2 / ratio, 2 / ratio**0.5, 2)


def test_texts_of_unknown_length_are_between_a_word_and_all_that_fits() -> None:
    low, high = 4 / 13.32, 128 / 13.32
    expected = close_to(low, (low * high) ** 0.5, high)
    assert step_of(a_cell(task=GLUE["qnli"]), a_step(a_cell(), 1.0)) == expected


def test_a_larger_batch_is_between_as_long_and_in_proportion() -> None:
    known = a_step(a_cell(recipe=Recipe()), 1.0)
    assert step_of(a_cell(recipe=Recipe(batch_size=32)), known) == close_to(1, 2, 4)


def test_the_task_is_chosen_from_which_least_has_to_be_concluded() -> None:
    known = a_step(a_cell(task=GLUE["rte"]), 50.0) + a_step(a_cell(), 1.0)
    assert step_of(a_cell(task=GLUE["cola"]), known).high == pytest.approx(1)


def test_only_the_share_of_a_step_that_can_grow_does() -> None:
    """On the H200 1.08 of 4.13 ms move weights, gradients and AdamW's state, whatever the texts."""
    (kept,) = [each for each in SHIPPED if each.is_gpu and each.precision == "fp32"]
    cell = a_cell(task=GLUE["rte"])
    found = estimated(cell, [], device="NVIDIA H200").times(1 / work(cell))
    grown = 1 + (1 - 1.08 / 4.13) * (66.56 / 13.32 - 1)
    assert found == close_to(kept.step.low, kept.step.typical * grown**0.5, kept.step.high * grown)


def test_another_network_is_between_the_ratio_of_layers_and_that_of_weights() -> None:
    large = Model(name="google-bert/bert-large-uncased", revision="0" * 40, layers=24)
    weights = 335_141_888 / 109_482_240
    assert step_of(a_cell(model=large), a_step(a_cell(), 1.0)) == close_to(2, (2 * weights) ** 0.5, weights)
    own = large.model_copy(update={"name": "my/own"})
    assert estimate(plan_of(a_cell(model=own)), {}, measured(a_step(a_cell(), 1.0))).unknown


def test_a_probe_without_any_is_bounded_by_passes_of_its_own_at_the_steps_of_finetunes() -> None:
    probe = a_cell(treatment=Probe(depth=6))
    assert step_of(probe, a_step(a_cell(), 3.0)) == close_to(0, 3, 3)
    assert step_of(probe, a_step(a_cell(), 3.0) + a_step(probe, 0.5)) == close_to(0.5, 0.5, 0.5)


def test_results_of_the_store_come_before_figures_of_the_program_and_say_so() -> None:
    there = a_provenance(device="NVIDIA H200")
    known = [a_result(a_cell(), seed, gpu_seconds=1.0, wall_seconds=1.0, provenance=there) for seed in range(10)]
    found = estimate(plan_of(a_cell(size=100)), {}, measured(known))
    assert found.total.typical == pytest.approx(3 * work(a_cell(size=100)) / work(a_cell()))
    assert found.evidence == (
        "3 runs by 10 results of google-bert/bert-base-uncased on sst2 (sentence), fp32 in the store, at other sizes",
    )
    assert not any("docs" in line for line in found.meaning)


# --------------------------------------------------------------------------------------------------------- which device


def test_without_a_store_the_paper_is_estimated_by_the_one_gpu_that_was_measured() -> None:
    found = estimate(PAPER, {}, [])
    assert (found.device, found.is_gpu, found.unit) == ("NVIDIA H200", True, "GPU-hours")
    assert found.unknown == ()
    assert any(line.startswith("docs/performance.md: one process on one NVIDIA H200") for line in found.meaning)
    assert "with fewer than 10 measurements it is from half of the fastest to twice the slowest" in found.meaning


def test_the_demo_is_estimated_by_the_processor_that_ran_its_network() -> None:
    found = estimate(load_study("demo").plan(), {}, [])
    assert found.device is not None
    assert found.device.startswith("AMD EPYC")
    assert found.unit == "hours of a CPU worker"


def test_the_stores_own_device_is_meant_unless_another_is_named() -> None:
    known = measured(a_step(a_cell(), 1.0))
    assert estimate(PAPER, {}, known).device == "a GPU"
    assert estimate(PAPER, {}, known, device="NVIDIA H200").device == "NVIDIA H200"


def test_a_device_may_be_written_as_nodes_are_labelled() -> None:
    assert estimate(PAPER, {}, [], device="NVIDIA-H200").device == "NVIDIA H200"


def test_a_site_with_gpus_of_any_model_gets_no_processors_hours() -> None:
    demo = load_study("demo").plan()
    assert estimate(demo, {}, [], gpu=True).is_gpu
    assert not estimate(demo, {}, [], gpu=False).is_gpu


def test_a_device_that_was_never_measured_has_no_estimate_and_is_told_what_to_do() -> None:
    found = estimate(PAPER, {}, [], device="NVIDIA A100-SXM4-80GB")
    assert len(found.unknown) == len(PAPER)
    assert found.total == Range(0, 0, 0)
    said = shown(found, Price(2.0, "EUR"))
    assert "3,651 runs have no estimate" in said
    assert "was measured on one NVIDIA A100-SXM4-80GB" in said
    assert "NVIDIA H200" in said
    assert "reinit run demo --only sst2-full-finetune" in said
    assert "EUR" not in said
    assert estimate_json(found, None)["runs_without_estimate"] == 3651


def test_what_nobody_measured_is_in_no_sum_and_counted() -> None:
    bf16 = a_cell(recipe=Recipe(precision="bf16"))
    found = estimate(plan_of(a_cell(), bf16), {}, measured(a_step(a_cell(), 1.0)), device="a GPU")
    assert [each.planned.cell for each in found.unknown] == [bf16]
    assert found.total.typical == pytest.approx(3 * work(a_cell()))
    assert "3 runs have no estimate: no google-bert/bert-base-uncased in bf16" in shown(found)
    (column,) = group_hours(found, left=False).values()
    plan = plan_of(a_cell(), bf16)
    assert column(plan) == "> 0.083"
    assert column(plan[1:]) == "?"


def test_other_studies_are_asked_where_ones_own_results_say_too_little() -> None:
    assert lacking(plan_of(a_cell()), [])
    own = measured(a_step(a_cell(), 1.0))
    assert not lacking(plan_of(a_cell(), a_cell(size=100)), own)
    assert lacking(plan_of(a_cell(task=GLUE["rte"])), own)
    assert lacking(plan_of(a_cell(treatment=Probe(depth=1))), own)


# --------------------------------------------------------------------------------------------------------------- words


def test_people_read_two_digits_with_a_range_and_money_where_there_is_a_price() -> None:
    known = measured(a_step(a_cell(), 36.0))
    plan = plan_of(a_cell(), seeds=range(1, 101))
    done = {a_cell().digest: range(1, 51)}
    lines = estimate_lines(estimate(plan, done, known), Price(2.5, "EUR"), "demo")
    assert lines[0] == (
        "[bold]about 99 GPU-hours (99 to 99) on one a GPU[/bold]; 50 GPU-hours (50 to 50) for the 50 runs that are left"
    )
    assert lines[1] == (
        "[bold]about 250 EUR (250 to 250)[/bold] at 2.5 EUR a GPU-hour; 120 EUR (120 to 120) for what is left"
    )
    assert not [line for line in estimate_lines(estimate(plan, {}, known), None, "demo") if "EUR" in line]
    everything = {a_cell().digest: range(1, 101)}
    assert estimate_lines(estimate(plan, everything, known), None, "demo")[0].endswith("; nothing is left")


def test_a_price_of_gpus_prints_no_money_for_a_processor() -> None:
    found = estimate(load_study("demo").plan(), {}, [])
    said = shown(found, Price(2.5, "EUR"))
    assert "no money" in said
    assert "EUR" not in said
    assert "cost" not in estimate_json(found, Price(2.5, "EUR"))


def test_evidence_of_many_tasks_is_cut_for_people_and_whole_for_programs() -> None:
    tasks = [GLUE["sst2"].model_copy(update={"name": f"task-{number}"}) for number in range(9)]
    of_tasks = [a_cell(task=task) for task in tasks]
    found = estimate(plan_of(*of_tasks), {}, measured(each for cell in of_tasks for each in a_step(cell, 1.0)))
    assert "  and 3 more such lines, in --output json" in estimate_lines(found, None, "demo")
    assert len(estimate_json(found, None)["evidence"]) == 9


def test_a_devices_name_takes_no_effect_on_the_terminal() -> None:
    evil = a_provenance(device="[red]x[/red]\x1b[2J")
    known = [a_result(a_cell(), seed, gpu_seconds=1.0, provenance=evil) for seed in range(10)]
    said = shown(estimate(plan_of(a_cell()), {}, measured(known)))
    assert "\x1b" not in said
    assert r"\[red]" in said


def test_models_of_the_studies_that_come_with_the_program_are_known_by_weights() -> None:
    for study in ("demo", "paper", "few-sample", str(ROOT / "examples/mpnet-sst2/study.yaml")):
        assert not estimate(load_study(study).plan(), {}, [], device="NVIDIA H200").unknown
    assert MODEL.name == "google-bert/bert-base-uncased"
