"""What comes with the program was measured, and can be taken from its sources again."""

from __future__ import annotations

import functools
from pathlib import Path
from statistics import mean

import pytest

from jobs.cell import Cell, Epochs, Probe, Recipe, Steps, Truncate
from jobs.found import Verified
from jobs.result import RunResult
from jobs.store import open_store
from jobs.tasks import GLUE
from jobs.throughput import FEW, FEW_FACTOR, MEAN_TOKENS, SHIPPED, SOURCES, Kept, measured, spread, texts_of, work
from tests.make import a_cell, a_diverged, a_provenance, a_result

ROOT = Path(__file__).parents[2]
STEPS, SCORED, BATCH = 63, 872, 8
"""Of `a_cell()`."""


@functools.cache
def of_example(name: str) -> tuple[RunResult, ...]:
    store = open_store((ROOT / "examples" / name / "store").as_uri())
    every = [each.result for each in store.every_result() if isinstance(each, Verified)]
    assert every
    return tuple(each for each in every if isinstance(each, RunResult))


def shipped_of(source: str) -> list[Kept]:
    return [each for each in SHIPPED if each.source == source]


def test_every_shipped_figure_names_a_source_that_is_here() -> None:
    assert {each.source for each in SHIPPED} == set(SOURCES)
    assert all((ROOT / source).exists() for source in SOURCES)
    assert all(each.measured >= 1 for each in SHIPPED)


@pytest.mark.parametrize("kept", shipped_of("examples/minilm-glue"), ids=lambda each: f"{each.texts.task} {each.size}")
def test_figures_of_the_example_are_those_of_its_results(kept: Kept) -> None:
    of_results = {
        (each.device, each.texts, each.size): each
        for each in measured(of_example("minilm-glue"))
        if each.kind == "finetune"
    }
    again = of_results[kept.device, kept.texts, kept.size]
    assert (again.measured, again.model, again.layers, again.precision, again.is_gpu) == (
        *(kept.measured, kept.model, kept.layers, kept.precision),
        False,
    )
    assert [again.step.low, again.step.typical, again.step.high] == pytest.approx(
        [kept.step.low, kept.step.typical, kept.step.high], rel=1e-3
    )


def test_every_kind_of_finetune_that_the_example_has_is_shipped() -> None:
    kinds = [each for each in measured(of_example("minilm-glue")) if each.kind == "finetune"]
    assert len(kinds) == len(shipped_of("examples/minilm-glue"))


def test_figures_of_the_gpu_stand_on_the_page_that_they_name() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert "| ours, fp32 | 4.13 |" in page
    assert "| ours, bf16 | 2.12 |" in page
    assert "which are 1.08 ms" in page
    fp32, bf16 = shipped_of("docs/performance.md")
    assert fp32.step.typical == pytest.approx(0.00413)
    assert bf16.step.high == pytest.approx(2 * 0.00212)
    assert fp32.grows == pytest.approx(0.738, abs=0.001)
    assert bf16.grows == pytest.approx(0.491, abs=0.001)


def test_the_factor_for_few_measurements_covers_nineteen_of_twenty_runs_of_the_examples() -> None:
    ratios = []
    for name in ("minilm-glue", "mpnet-sst2"):
        kinds: dict[object, list[float]] = {}
        for each in of_example(name):
            if each.cell.treatment.kind != "probe":
                key = (each.provenance.device, each.cell.task.name, each.cell.size)
                kinds.setdefault(key, []).append(each.wall_seconds)
        ratios += [max(mean(kind) / one, one / mean(kind)) for kind in kinds.values() for one in kind]
    assert len(ratios) == 97
    assert sum(ratio <= 1.25 for ratio in ratios) >= 0.95 * len(ratios)
    assert 1.32 < max(ratios) < 1.33 < FEW_FACTOR


def test_tokens_are_known_for_built_in_tasks_whole_and_for_no_part_of_them() -> None:
    assert len(MEAN_TOKENS) == 3
    assert texts_of(a_cell()).tokens == pytest.approx((8 * 13.32, 8 * 13.32))
    short = GLUE["sst2"].model_copy(update={"max_words": 8})
    assert texts_of(a_cell(task=short)).tokens == (8 * 4, 8 * 128)
    assert texts_of(a_cell(task=GLUE["qnli"], recipe=Recipe(max_length=64))).tokens == (8 * 4, 8 * 64)
    assert texts_of(a_cell(recipe=Recipe(max_length=8))).tokens == (8 * 8, 8 * 8)


# ------------------------------------------------------------------------------------------------------------ work


def test_a_scored_row_is_a_third_of_a_trained_one() -> None:
    assert work(a_cell()) == pytest.approx(STEPS + SCORED / 3 / BATCH)


def test_every_scored_split_counts() -> None:
    mnli = a_cell(task=GLUE["mnli"])
    assert work(mnli) == pytest.approx(STEPS + (9_815 + 9_832) / 3 / BATCH)


def test_a_truncated_network_takes_the_share_of_its_layers() -> None:
    assert work(a_cell(treatment=Truncate(depth=3))) == pytest.approx(work(a_cell()) / 4)


def test_a_probe_passes_over_its_rows_once_and_with_dropout_each_epoch() -> None:
    recipe = Recipe(duration=Epochs(epochs=5))

    def passes(**fields: object) -> float:
        return work(a_cell(treatment=Probe(depth=6, **fields), recipe=recipe))  # type: ignore[arg-type]

    assert passes() == pytest.approx((500 + SCORED) / 3 / BATCH / 2)
    assert passes(fit="converged") == passes()
    assert passes(encoder_dropout=True) == pytest.approx((5 * 500 + SCORED) / 3 / BATCH / 2)
    by_steps = a_cell(treatment=Probe(depth=6, encoder_dropout=True), recipe=Recipe(duration=Steps(steps=9)))
    assert work(by_steps) == passes()


# --------------------------------------------------------------------------------------------------------- measured


def test_seconds_of_a_step_are_those_of_the_run_over_its_work() -> None:
    (kept,) = measured([a_result(seed=seed, wall_seconds=10.0 * seed) for seed in range(1, 12)])
    assert kept.measured == 11
    assert kept.step.typical == pytest.approx(60 / work(a_cell()))
    assert kept.step.low == pytest.approx(20 / work(a_cell()))
    assert kept.step.high == pytest.approx(100 / work(a_cell()))
    assert (kept.device, kept.is_gpu, kept.size, kept.source) == ("a processor", False, "500", "")


def test_on_a_gpu_it_is_the_gpus_time_that_counts() -> None:
    (kept,) = measured([a_result(wall_seconds=12.0, gpu_seconds=3.0)])
    assert kept.is_gpu
    assert kept.step.typical == pytest.approx(3 / work(a_cell()))


def test_few_measurements_make_a_wide_range() -> None:
    few = spread([1.0] * (FEW - 1))
    assert (few.low, few.typical, few.high) == (0.5, 1.0, 2.0)
    enough = spread([1.0] * FEW)
    assert (enough.low, enough.typical, enough.high) == (1.0, 1.0, 1.0)


def test_a_diverged_run_says_nothing_of_throughput() -> None:
    assert measured([a_diverged()]) == []
    assert measured([a_result(wall_seconds=0.0)]) == []


@pytest.mark.parametrize(
    "other",
    [
        a_cell(recipe=Recipe(precision="bf16")),
        a_cell(recipe=Recipe(batch_size=16)),
        a_cell(recipe=Recipe(max_length=64)),
        a_cell(task=GLUE["cola"]),
        a_cell(size=400),
        a_cell(treatment=Probe(depth=12)),
    ],
    ids=["precision", "batch", "length", "task", "size", "probe"],
)
def test_runs_that_differ_in_what_makes_a_step_long_are_kept_apart(other: Cell) -> None:
    same = a_cell(recipe=Recipe())
    assert len(measured([a_result(same), a_result(other)])) == 2
    assert len(measured([a_result(same), a_result(a_cell(3, recipe=Recipe(learning_rate=1.0)))])) == 1
    there = a_provenance(device="another")
    assert len(measured([a_result(same), a_result(same, 2, provenance=there)])) == 2


def test_probes_of_one_seed_share_what_the_first_of_them_paid_for() -> None:
    cells = [a_cell(treatment=Probe(depth=depth)) for depth in (1, 2, 3)]
    seconds = {1: 9.0, 2: 0.5, 3: 0.5}
    (kept,) = measured(
        [
            a_result(cell, seed, wall_seconds=seconds[depth])
            for depth, cell in zip((1, 2, 3), cells, strict=True)
            for seed in (1, 2)
        ]
    )
    assert kept.measured == 2
    assert kept.step.typical == pytest.approx(10 / sum(map(work, cells)))
