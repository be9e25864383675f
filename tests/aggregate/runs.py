"""Planned cells and results for the tests of `aggregate`, built from the types alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from aggregate.frame import frame
from jobs.cell import Cell, Model, Permute, Probe, Recipe, Reinit, Treatment
from jobs.found import Contradiction, Found
from jobs.plan import PlannedCell
from jobs.result import DivergedRun, Failure, RunResult
from jobs.store import Failures
from jobs.tasks import GLUE, Task
from tests.make import a_result

SMALL = Model(name="small", revision="1" * 40, layers=4)


def planned(
    cell: Cell, seeds: tuple[int, ...] = (1, 2, 3), families: tuple[str, ...] = ("progressive",)
) -> PlannedCell:
    return PlannedCell(cell, seeds, families)


def cell(
    treatment: Treatment | None = None,
    *,
    task: Task = GLUE["sst2"],
    size: Any = 500,
    model: Model = SMALL,
    **recipe: Any,
) -> Cell:
    return Cell(model=model, task=task, size=size, treatment=treatment or Reinit(), recipe=Recipe(**recipe))


def preserving(k: int, *, model: Model = SMALL, **fields: Any) -> Reinit:
    return Reinit(layers=tuple(range(k, model.layers)), **fields)


def permuted(*order: int) -> Permute:
    return Permute(order=order)


def result(cell: Cell, seed: int, score: float, **fields: Any) -> RunResult:
    return a_result(cell, seed, score=score, later=60 * seed, **fields)


def scored(plans: Sequence[PlannedCell], score: Callable[[Cell, int], float | None]) -> list[RunResult | DivergedRun]:
    """A result for every planned run; none where `score` says None."""
    return [
        result(plan.cell, seed, value)
        for plan in plans
        for seed in plan.seeds
        if (value := score(plan.cell, seed)) is not None
    ]


def found(results: Iterable[RunResult | DivergedRun], contradictions: Iterable[Contradiction] = ()) -> dict[str, Found]:
    by_cell: dict[str, dict[int, RunResult | DivergedRun]] = {}
    against = list(contradictions)
    for one in results:
        if (one.digest, one.seed) not in {(each.digest, each.seed) for each in against}:
            by_cell.setdefault(one.digest, {})[one.seed] = one
    digests = dict.fromkeys([*by_cell, *(one.digest for one in against)])
    return {
        digest: Found(digest, by_cell.get(digest, {}), tuple(one for one in against if one.digest == digest))
        for digest in digests
    }


def a_frame(
    plans: Sequence[PlannedCell],
    results: Iterable[RunResult | DivergedRun],
    *,
    failures: Iterable[Failure] = (),
    contradictions: Iterable[Contradiction] = (),
) -> pd.DataFrame:
    by_cell: dict[str, tuple[Failure, ...]] = {}
    for one in failures:
        by_cell[one.digest] = (*by_cell.get(one.digest, ()), one)
    records = {digest: Failures(several) for digest, several in by_cell.items()}
    return frame(plans, found(results, contradictions), records, study="a-study")


def progressive_plans(
    *, model: Model = SMALL, task: Task = GLUE["sst2"], size: Any = 500, **fields: Any
) -> list[PlannedCell]:
    return [
        planned(cell(preserving(k, model=model, **fields), task=task, size=size, model=model))
        for k in range(model.layers, -1, -1)
    ]


def rising(cell: Cell, seed: int) -> float:
    """Scores that rise with the preserved layers and the size, with noise that depends on cell and seed alone."""
    noise = np.random.default_rng([int(cell.digest[:8], 16), seed]).normal()
    k = cell.model.layers - len(getattr(cell.treatment, "layers", ()))
    share = k / cell.model.layers
    gain = np.log10(cell.rows) / 5 * share ** (20 / np.log2(cell.rows) - 0.6)
    return float(0.52 + 0.38 * gain + noise * 0.06 / np.log10(cell.rows))


def merged(*groups: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Plans of several families: a cell that two of them list is one, with the seeds and families of both."""
    plans: dict[str, PlannedCell] = {}
    for plan in (plan for group in groups for plan in group):
        before = plans.get(plan.cell.digest, planned(plan.cell, (), ()))
        seeds = tuple(sorted({*before.seeds, *plan.seeds}))
        plans[plan.cell.digest] = planned(plan.cell, seeds, tuple(dict.fromkeys([*before.families, *plan.families])))
    return list(plans.values())


def family(
    name: str, treatments: Iterable[Treatment], seeds: tuple[int, ...] = (1, 2, 3), **fields: Any
) -> list[PlannedCell]:
    """One family of cells."""
    return [planned(cell(treatment, **fields), seeds, (name,)) for treatment in treatments]


MANY_SEEDS = tuple(range(1, 11))
ORDERS = ((1, 0, 2, 3), (3, 2, 1, 0), (0, 2, 1, 3), (2, 0, 3, 1), (1, 3, 0, 2))


def every_family(**fields: Any) -> list[PlannedCell]:
    """A study of four layers that has the cells of every figure."""
    redraw = [preserving(k) for k in range(4, -1, -1)]
    return merged(
        family("progressive", redraw, **fields),
        family("progressive", redraw, MANY_SEEDS, **fields | {"size": 100}),
        family("block", [Reinit(layers=(k, k + 1)) for k in range(3)], **fields),
        family("inverse-block", [Reinit(layers=layers) for layers in ((2, 3), (0, 3), (0, 1))], **fields),
        family("single", [Reinit(layers=(k,)) for k in range(4)], **fields),
        family("permutation", [permuted(*order) for order in ORDERS], **fields),
        family("probe", [Probe(depth=k) for k in range(1, 5)], **fields),
        family("converged", [Probe(depth=k, fit="converged") for k in range(1, 5)], **fields),
        family("keep-layernorm", [preserving(k, keep_layernorm=True) for k in range(5)], **fields),
        family("lr-times-5", [preserving(k, lr_scale=5) for k in range(5)], **fields),
    )
