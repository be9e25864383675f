"""The frame: one row per run of a study, whether it was planned, found or both.

Law: a pure function of what was planned and what was found. Everything downstream is a function of the frame, and a
run that is not there has a row that says so: nothing is dropped, filled in or averaged here.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter, methodcaller
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, get_args

import numpy as np
import pandas as pd

from aggregate.text import counted
from jobs.cell import Cell, Model, Recipe, Reinit, Treatment, canonical, treatment_name
from jobs.columns import Columns, Rows
from jobs.found import Found, State
from jobs.memory import no_collection
from jobs.plan import PlannedCell
from jobs.result import DivergedRun, Provenance, RunResult
from jobs.store import Failures
from jobs.tasks import Task

STATUSES: Final[tuple[State, ...]] = get_args(State)
"""What became of a run.

- `done`: it has a score. Only these enter a mean.
- `diverged`: its loss stopped being finite, which is a result, and has no score.
- `contradictory`: results of one numerics version disagree, so that none is believed.
- `failed`: no result, but the record of an attempt. `missing`: neither.
"""

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
    "redrawn": "object",
    "frozen": "object",
    "init": "string",
    "keep_layernorm": "boolean",
    "lr_scale": "Float64",
    "pooler": "string",
    "order": "object",
    "kept_depth": "Int64",
    "feature": "string",
    "fit": "string",
    "scored": "string",
    "encoder_dropout": "boolean",
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
    "device": "string",
    "weights_sha256": "string",
    "rows_sha256": "string",
    "git_commit": "string",
    "image": "string",
    "finished_at": "datetime64[us, UTC]",
    "reason": "string",
}
"""Columns and their types; after them one `metrics.<split>/<metric>` for each metric that any run has.

- `size` is the number of training examples or `full`, `rows` always the number.
- `context` hashes model, task and recipe: cells are compared within one context and size, and nowhere else.
- `variant` is what distinguishes a redraw from the plain one, in words; empty for the plain one.
- `redrawn` and `frozen` are tuples of layers, with `init`, `keep_layernorm`, `lr_scale` and `pooler` the fields of
  `Reinit`; `order` is that of `Permute`; `kept_depth` is the depth of `Probe` and `Truncate`, with `feature`, `fit`,
  `scored` and `encoder_dropout` the fields of `Probe`. Each is empty where the treatment has no such field.
- `preserved_layers` counts the pretrained layers left below the redrawn ones, where those reach up to the top.
- `weights_sha256` and `rows_sha256` are of what the run read, whatever the study calls it.
- `planned` is false for results of seeds that the study does not name: listed, and in no mean.
- `chance` is the score of a guess where the metric alone fixes it.
"""


def frame(
    planned: Iterable[PlannedCell],
    found: Mapping[str, Found],
    failures: Mapping[str, Failures] = MappingProxyType({}),
    *,
    study: str | Mapping[str, str],
) -> pd.DataFrame:
    """One row per run, cells in the order of the plan, in each cell planned seeds first.

    Args:
        planned: the study's cells with their seeds.
        found: what the store has of each cell, by digest; other cells are left out.
        failures: records of attempts by digest, of which the latest explains a run without a result.
        study: the study's name; of several studies, the names of those that have a cell, by its digest.
    """
    with no_collection():
        return _frame(planned, found, failures, study)


def _frame(
    planned: Iterable[PlannedCell],
    found: Mapping[str, Found],
    failures: Mapping[str, Failures],
    study: str | Mapping[str, str],
) -> pd.DataFrame:
    cells: list[dict[str, Any]] = []
    contexts: list[dict[str, Any]] = []
    treatments: list[dict[str, Any]] = []
    of_cell: list[int] = []
    parts: _Parts = []
    statuses: list[State] = []
    runs: dict[str, list[Any]] = {"seed": [], "planned": [], "status": statuses}
    reasons: dict[int, str] = {}
    for entry in planned:
        cell, digest = entry.cell, entry.cell.digest
        has = found.get(digest, Found(digest))
        named = study if isinstance(study, str) else study[digest]
        asked = set(entry.seeds)
        # Mostly there is what was asked for, and nothing else.
        seeds = dict.fromkeys(entry.seeds if has.done == asked else [*entry.seeds, *sorted(has.done)])
        runs["seed"] += seeds
        runs["planned"] += [seed in asked for seed in seeds]
        of_cell += [len(cells)] * len(seeds)
        cells.append({"study": named, "families": entry.families, **_cell_columns(cell)})
        contexts.append(_context_columns(cell.model, cell.task, cell.recipe))
        treatments.append(_treatment_columns(cell.treatment, cell.model.layers))
        if isinstance(has.results, Rows) and len(has.results) == len(seeds):
            statuses += ["done"] * len(seeds)
            _taken(parts, has.results.columns).places.extend(map(has.results.places.__getitem__, seeds))
            continue
        attempts = failures.get(digest, Failures()).records
        results: list[RunResult | DivergedRun | None] = []
        for seed in seeds:
            # Where results contradict each other there is none.
            results.append(result := has.results.get(seed))
            status = has.state(seed, attempts) if result is None else result.status
            if status == "failed":
                reasons[len(statuses)] = [each.reason for each in attempts if each.seed in (seed, None)][-1]
            elif isinstance(result, DivergedRun):
                reasons[len(statuses)] = _diverged(result)
            statuses.append(status)
        parts.append(results)
    runs["reason"] = [reasons.get(place) for place in range(len(statuses))]
    for name in ("wall_seconds", "gpu_seconds", "finished_at"):
        runs[name] = _each(parts, attrgetter(name), attrgetter(name))
    runs["steps"] = _each(
        parts,
        lambda result: result.steps if isinstance(result, RunResult) else result.diverged_step,
        attrgetter("steps"),
    )
    metrics = {name: _each(parts, _metric(name), methodcaller("metric", name)) for name in _metrics(parts)}
    headlines = [metrics.get(context["metric"]) for context in contexts]
    runs["score"] = [
        None if (headline := headlines[cell]) is None else headline[place] for place, cell in enumerate(of_cell)
    ]
    columns = {name: pd.Series(values, dtype=DTYPES[name]) for name, values in runs.items()}
    columns |= _spread(cells, of_cell, _CELL)
    columns |= _spread(contexts, of_cell, _CONTEXT)
    columns |= _spread(treatments, of_cell, _TREATMENT)
    provenances = _each(parts, attrgetter("provenance"), attrgetter("provenances"))
    known = {id(each): each for each in provenances if each is not None}
    places = {each: place for place, each in enumerate(known)}
    made = [_provenance_columns(each) for each in known.values()]
    columns |= _spread(made, [places.get(id(each), -1) for each in provenances], _PROVENANCE)
    columns |= {f"metrics.{name}": pd.Series(values, dtype="Float64") for name, values in metrics.items()}
    return pd.DataFrame({name: columns[name] for name in [*DTYPES, *(f"metrics.{name}" for name in metrics)]})


@dataclass(frozen=True, slots=True)
class _Taken:
    """Runs one below another that are taken from columns, and so need not be made."""

    columns: Columns
    places: list[int] = field(default_factory=list)


_Parts = list[_Taken | list[RunResult | DivergedRun | None]]


def _taken(parts: _Parts, columns: Columns) -> _Taken:
    """The last of the parts, if what comes next is from the same columns; else a new one."""
    last = parts[-1] if parts else None
    if not isinstance(last, _Taken) or last.columns is not columns:
        parts.append(last := _Taken(columns))
    return last


def _each(
    parts: _Parts,
    of_result: Callable[[RunResult | DivergedRun], Any],
    of_columns: Callable[[Columns], Sequence[Any]],
) -> list[Any]:
    """Something of every run, None where it has no result: had from a result, or from columns for all places."""
    values: list[Any] = []
    for part in parts:
        if isinstance(part, _Taken):
            values += map(of_columns(part.columns).__getitem__, part.places)
        else:
            values += [None if result is None else of_result(result) for result in part]
    return values


def _metrics(parts: _Parts) -> list[str]:
    """Names of all metrics that a run has, sorted."""
    named = _each(
        parts, lambda result: tuple(result.metrics) if isinstance(result, RunResult) else (), attrgetter("metrics")
    )
    return sorted({name for names in set(named) - {None} for name in names})


def _metric(name: str) -> Callable[[RunResult | DivergedRun], float | None]:
    return lambda result: result.metrics.get(name) if isinstance(result, RunResult) else None


_PROVENANCE: Final = ("numerics", "device", "weights_sha256", "rows_sha256", "git_commit", "image")
_RUN: Final = (
    "seed",
    "planned",
    "status",
    "score",
    "steps",
    "wall_seconds",
    "gpu_seconds",
    "finished_at",
    "reason",
)
_CELL: Final = ("study", "families", "digest", "cell", "size", "rows")
_CONTEXT: Final = ("model", "task", "recipe", "context", "depth", "metric", "chance")
_TREATMENT: Final = tuple(name for name in DTYPES if name not in {*_RUN, *_PROVENANCE, *_CELL, *_CONTEXT})
"""Columns by what they are of: each is made once for all the runs that have it in common."""


def _spread(records: list[dict[str, Any]], places: list[int], names: Iterable[str]) -> "dict[str, pd.Series[Any]]":
    """A row for each place, which is that of a record; of none for -1."""
    known = {id(record): record for record in records}
    numbers = {each: number for number, each in enumerate(known)}
    at = np.array([*(numbers[id(record)] for record in records), len(known)], dtype=np.intp)[places]
    spread: dict[str, pd.Series[Any]] = {}
    for name in names:
        column = pd.Series([*(record.get(name) for record in known.values()), None], dtype=DTYPES[name])
        spread[name] = column.take(at).reset_index(drop=True)
    return spread


def read_frame(source: Path | BinaryIO) -> pd.DataFrame:
    """The frame that `runs.parquet` holds, with the types that it was written with."""
    table = pd.read_parquet(source)
    for name, dtype in DTYPES.items():
        if dtype == "object":  # a list column comes back as arrays
            table[name] = pd.Series([None if each is None else tuple(each) for each in table[name]], dtype=dtype)
    return table.astype({name: DTYPES.get(str(name), "Float64") for name in table.columns})


def _cell_columns(cell: Cell) -> dict[str, Any]:
    """What is a cell's own."""
    return {"digest": cell.digest, "cell": cell.name, "size": str(cell.size), "rows": cell.rows}


@lru_cache(1024)
def _context_columns(model: Model, task: Task, recipe: Recipe) -> dict[str, Any]:
    """Cells of one context are many: what is the same in them is written once."""
    same = {"model": model, "task": task, "recipe": recipe}
    fields = {name: value.model_dump(mode="json") for name, value in same.items()}
    return {
        "model": model.name,
        "task": task.name,
        "recipe": recipe_name(recipe),
        "context": hashlib.sha256(canonical(fields)).hexdigest()[:12],
        "depth": model.layers,
        "metric": task.headline,
        "chance": chance(task),
    }


@lru_cache(1024)
def _treatment_columns(treatment: Treatment, depth: int) -> dict[str, Any]:
    """The treatment's own fields, so that whoever computes with them reads no name, and what they come to."""
    columns = {name: getattr(treatment, name) for name in type(treatment).model_fields if name != "kind"}
    for name, column in {"layers": "redrawn", "frozen_layers": "frozen", "depth": "kept_depth"}.items():
        if name in columns:
            columns[column] = columns.pop(name)
    return columns | {
        "treatment_kind": treatment.kind,
        "treatment": treatment_name(treatment),
        "variant": variant_name(treatment),
        "preserved_layers": preserved_layers(treatment, depth),
        "is_plain": treatment == Reinit(),
    }


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, None where there is no value: thousands of small groups are slow as frames."""
    columns = {str(name): column.astype(object).where(column.notna(), None).tolist() for name, column in table.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


_LOSS: Final = {"nan": "not a number", "inf": "infinite", "-inf": "minus infinity"}


def _diverged(result: DivergedRun) -> str:
    return f"the loss was {_LOSS[result.loss]} after {counted(result.diverged_step, 'step')}"


def _provenance_columns(provenance: Provenance) -> dict[str, Any]:
    return {name: getattr(provenance, name) for name in _PROVENANCE}


def preserved_layers(treatment: Treatment, depth: int) -> int | None:
    """The k such that exactly the layers k, k + 1, ... up to the top are redrawn; k = depth where none is."""
    if not isinstance(treatment, Reinit):
        return None
    k = depth - len(treatment.layers)
    return k if treatment.layers == tuple(range(k, depth)) else None


def variant_name(treatment: Treatment) -> str:
    """How a redraw departs from the plain one, whichever layers it takes; empty where it does not."""
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


def chance(task: Task) -> float | None:
    """Score of a guess that ignores the text, where labels need not be seen to know it.

    Accuracy: one over the number of classes, guessed evenly (always the commonest class scores a little more). Matthews
    correlation: 0. None for metrics whose guess depends on how common each label is.
    """
    return {"accuracy": 1 / task.outputs, "matthews": 0.0}.get(task.metrics[0])
