"""The frame: one row per run of a study, whether it was planned, found or both.

Law: a pure function of what was planned and what was found. Everything downstream is a function of the frame, and a
run that is not there has a row that says so: nothing is dropped, filled in or averaged here.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, Protocol

import pandas as pd

from jobs.cell import Cell, Recipe, Reinit, canonical, treatment_name
from jobs.result import DivergedRun, Failure, RunResult

Status = Literal["done", "diverged", "contradictory", "failed", "missing"]
STATUSES: Final[tuple[Status, ...]] = ("done", "diverged", "contradictory", "failed", "missing")
"""What became of a run.

- `done`: it has a score. Only these enter a mean.
- `diverged`: its loss stopped being finite, which is a result, and has no score.
- `contradictory`: two results of one numerics version disagree, so that neither is believed.
- `failed`: no result, but the record of an attempt. `missing`: neither.
"""

Run = tuple[str, int]
"""A run by (cell digest, seed)."""


class Planned(Protocol):
    """A cell of a study's plan."""

    @property
    def cell(self) -> Cell: ...  # noqa: D102
    @property
    def seeds(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def families(self) -> Sequence[str]: ...  # noqa: D102


DTYPES: Final[dict[str, str]] = {
    "study": "string",
    "digest": "string",
    "cell": "string",
    "model": "string",
    "task": "string",
    "size": "string",
    "rows": "Int64",
    "recipe": "string",
    "context": "string",
    "treatment_kind": "string",
    "treatment": "string",
    "variant": "string",
    "families": "object",
    "depth": "Int64",
    "preserved_layers": "Int64",
    "is_plain": "boolean",
    "seed": "Int64",
    "planned": "boolean",
    "status": "string",
    "score": "Float64",
    "metric": "string",
    "chance": "Float64",
    "steps": "Int64",
    "wall_seconds": "Float64",
    "gpu_seconds": "Float64",
    "numerics": "string",
    "git_commit": "string",
    "image": "string",
    "finished_at": "datetime64[us, UTC]",
    "reason": "string",
}
"""Columns and their types; after them one `metrics.<split>/<metric>` for each metric that any run has.

- `size` is the number of training examples or `full`, `rows` always the number.
- `context` hashes model, task and recipe: cells are compared within one context and size, and nowhere else.
- `variant` is what distinguishes a redraw from the plain one, in words; empty for the plain one.
- `preserved_layers` counts the pretrained layers left below the redrawn ones, where those reach up to the top.
- `planned` is false for results of seeds that the study does not name: listed, and in no mean.
- `chance` is the score of a guess where the metric alone fixes it.
"""


def frame(
    planned: Iterable[Planned],
    results: Mapping[Run, RunResult | DivergedRun],
    failures: Iterable[Failure] = (),
    *,
    study: str,
    contradictions: Collection[Run] = (),
) -> pd.DataFrame:
    """One row per run, cells in the order of the plan, in each cell planned seeds first.

    Args:
        planned: the study's cells with their seeds.
        results: the accepted result of each run; results of other cells are left out.
        failures: records of attempts, of which the latest explains a run without a result.
        study: the study's name.
        contradictions: runs of which two results disagree.
    """
    reasons = {(failure.digest, failure.seed): failure.reason for failure in sorted(failures, key=_failed_at)}
    found: dict[str, list[int]] = {}
    for digest, seed in sorted({*results, *contradictions}):
        found.setdefault(digest, []).append(seed)
    records = []
    for entry in planned:
        of_cell = {"study": study, "families": tuple(entry.families)} | _cell_columns(entry.cell)
        digest = entry.cell.digest
        for seed in dict.fromkeys([*entry.seeds, *found.get(digest, [])]):
            record = of_cell | {"seed": seed, "planned": seed in entry.seeds}
            if (digest, seed) in contradictions:
                record["status"] = "contradictory"
            elif (result := results.get((digest, seed))) is not None:
                record |= _result_columns(result)
            else:
                reason = reasons.get((digest, seed), reasons.get((digest, None)))
                record |= {"status": "missing" if reason is None else "failed", "reason": reason}
            records.append(record)
    return _typed(records)


def _failed_at(failure: Failure) -> datetime:
    return failure.failed_at


def _typed(records: list[dict[str, Any]]) -> pd.DataFrame:
    metrics = sorted({name for record in records for name in record if name.startswith("metrics.")})
    dtypes = DTYPES | dict.fromkeys(metrics, "Float64")
    columns = {
        name: pd.Series([record.get(name) for record in records], dtype=dtype) for name, dtype in dtypes.items()
    }
    return pd.DataFrame(columns)


def _cell_columns(cell: Cell) -> dict[str, Any]:
    same = canonical(cell.model_dump(mode="json", include={"model", "task", "recipe"}))
    return {
        "digest": cell.digest,
        "cell": cell.name,
        "model": cell.model.name,
        "task": cell.task.name,
        "size": str(cell.size),
        "rows": cell.rows,
        "recipe": recipe_name(cell.recipe),
        "context": hashlib.sha256(same).hexdigest()[:12],
        "treatment_kind": cell.treatment.kind,
        "treatment": treatment_name(cell.treatment),
        "variant": variant_name(cell),
        "depth": cell.model.layers,
        "preserved_layers": preserved_layers(cell),
        "is_plain": cell.treatment == Reinit(),
        "metric": cell.task.headline,
        "chance": chance(cell),
    }


def _result_columns(result: RunResult | DivergedRun) -> dict[str, Any]:
    columns = {
        "status": result.status,
        "wall_seconds": result.wall_seconds,
        "gpu_seconds": result.gpu_seconds,
        "numerics": result.provenance.numerics,
        "git_commit": result.provenance.git_commit,
        "image": result.provenance.image,
        "finished_at": result.finished_at,
    }
    if isinstance(result, DivergedRun):
        return columns | {"steps": result.diverged_step, "reason": f"loss {result.loss} after {result.diverged_step} steps"}
    metrics = {f"metrics.{name}": value for name, value in result.metrics.items()}
    return columns | {"steps": result.steps, "score": result.score} | metrics


def preserved_layers(cell: Cell) -> int | None:
    """k where exactly the layers k, k + 1, ... up to the top are redrawn (all of them pretrained: k = depth)."""
    if not isinstance(cell.treatment, Reinit):
        return None
    depth = cell.model.layers
    k = depth - len(cell.treatment.layers)
    return k if cell.treatment.layers == tuple(range(k, depth)) else None


def variant_name(cell: Cell) -> str:
    """How a redraw departs from the plain one, whichever layers it takes; empty where it does not."""
    treatment = cell.treatment
    if not isinstance(treatment, Reinit):
        return ""
    words = {
        f"init {treatment.init.replace('_', ' ')}": treatment.init != Reinit().init,
        "LayerNorm kept": treatment.keep_layernorm,
        f"learning rate ×{treatment.lr_scale:g}": treatment.lr_scale != 1,
        "pooler redrawn": treatment.pooler == "redraw",
        f"frozen layers {', '.join(map(str, treatment.frozen_layers))}": bool(treatment.frozen_layers),
    }
    return ", ".join(word for word, applies in words.items() if applies)


def recipe_name(recipe: Recipe) -> str:
    """The fields in which a recipe departs from the paper's, and their values; empty where it does not."""
    values, paper = recipe.model_dump(mode="json"), Recipe().model_dump(mode="json")
    duration = values.pop("duration")
    words = []
    if duration != paper["duration"]:
        count = duration[duration["kind"]]
        words.append(f"{count} {duration['kind'].removesuffix('s') if count == 1 else duration['kind']}")
    return ", ".join(words + [f"{name} {value}" for name, value in values.items() if value != paper[name]])


def chance(cell: Cell) -> float | None:
    """Score of a guess that ignores the text, where labels need not be seen to know it.

    Accuracy: one over the number of classes, guessed evenly (always the commonest class scores a little more). Matthews
    correlation: 0. None for metrics whose guess depends on how common each label is.
    """
    return {"accuracy": 1 / cell.task.outputs, "matthews": 0.0}.get(cell.task.metrics[0])
