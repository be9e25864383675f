"""Planned cells and results for the tests of `aggregate`, built from the types alone."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from aggregate.frame import Run, frame
from jobs.cell import Cell, Model, Permute, Recipe, Reinit, Treatment
from jobs.result import DivergedRun, Failure, Provenance, RunResult
from jobs.tasks import GLUE, Task

MODEL = Model(name="google-bert/bert-base-uncased", revision="0" * 40, layers=12)
SMALL = Model(name="small", revision="1" * 40, layers=4)
STARTED = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Plan:
    cell: Cell
    seeds: tuple[int, ...] = (1, 2, 3)
    families: tuple[str, ...] = ("progressive",)


def cell(
    treatment: Treatment | None = None, *, task: Task = GLUE["sst2"], size: Any = 500, model: Model = SMALL, **recipe: Any
) -> Cell:
    return Cell(model=model, task=task, size=size, treatment=treatment or Reinit(), recipe=Recipe(**recipe))


def preserving(k: int, *, model: Model = SMALL, **fields: Any) -> Reinit:
    return Reinit(layers=tuple(range(k, model.layers)), **fields)


def permuted(*order: int) -> Permute:
    return Permute(order=order)


def provenance(**fields: Any) -> Provenance:
    known = {
        "git_commit": "c" * 40,
        "image": None,
        "versions": {"torch": "2.13.0"},
        "device": "a processor",
        "threads": 1,
        "world_size": 1,
        "weights_sha256": None,
        "data_revision": "d" * 40,
        "host": "a host",
    }
    return Provenance.model_validate(known | fields)


def result(cell: Cell, seed: int, score: float, **fields: Any) -> RunResult:
    known = {
        "cell": cell,
        "digest": cell.digest,
        "seed": seed,
        "wall_seconds": 12.5,
        "gpu_seconds": 0.0,
        "finished_at": STARTED + timedelta(minutes=seed),
        "provenance": provenance(),
        "metrics": {cell.task.headline: score},
        "validation_rows": {split: 100 for split in cell.task.splits},
        "train_rows": cell.rows,
        "steps": cell.steps,
        "train_loss": 0.25,
        "predictions": "e" * 64,
    }
    return RunResult.model_validate(known | fields)


def diverged(cell: Cell, seed: int, **fields: Any) -> DivergedRun:
    known = {
        "cell": cell,
        "digest": cell.digest,
        "seed": seed,
        "wall_seconds": 1.0,
        "gpu_seconds": 0.0,
        "finished_at": STARTED,
        "provenance": provenance(),
        "diverged_step": 7,
        "loss": "nan",
    }
    return DivergedRun.model_validate(known | fields)


def failure(cell: Cell, seed: int | None, reason: str = "out of memory", *, attempt: str = "a-pod") -> Failure:
    return Failure(
        digest=cell.digest, seed=seed, attempt=attempt, exit_code=75, reason=reason, failed_at=STARTED
    )


def by_run(results: Iterable[RunResult | DivergedRun]) -> dict[Run, RunResult | DivergedRun]:
    return {(one.digest, one.seed): one for one in results}


def scored(plans: Sequence[Plan], score: Callable[[Cell, int], float | None]) -> list[RunResult | DivergedRun]:
    """A result for every planned run; none where `score` says None."""
    return [
        result(plan.cell, seed, value)
        for plan in plans
        for seed in plan.seeds
        if (value := score(plan.cell, seed)) is not None
    ]


def a_frame(plans: Sequence[Plan], results: Iterable[RunResult | DivergedRun], **fields: Any) -> pd.DataFrame:
    return frame(plans, by_run(results), **({"study": "a-study"} | fields))


def progressive_plans(*, model: Model = SMALL, task: Task = GLUE["sst2"], size: Any = 500, **fields: Any) -> list[Plan]:
    return [
        Plan(cell(preserving(k, model=model, **fields), task=task, size=size, model=model))
        for k in range(model.layers, -1, -1)
    ]


def rising(cell: Cell, seed: int) -> float:
    """Scores that rise with the preserved layers and the size, with noise that depends on cell and seed alone."""
    noise = np.random.default_rng([int(cell.digest[:8], 16), seed]).normal()
    k = cell.model.layers - len(getattr(cell.treatment, "layers", ()))
    share = k / cell.model.layers
    gain = np.log10(cell.rows) / 5 * share ** (20 / np.log2(cell.rows) - 0.6)
    return float(0.52 + 0.38 * gain + noise * 0.06 / np.log10(cell.rows))
