"""Small valid cells, results and failures for tests: each builder takes only what the test is about.

Law: everything here is valid and deterministic; a test that needs something broken breaks it itself.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.cell import Cell, Epochs, Model, Recipe, Reinit
from jobs.result import DivergedRun, Failure, Provenance, RunResult
from jobs.tasks import GLUE

FINISHED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""When made runs finish, unless told."""

MODEL = Model(name="google-bert/bert-base-uncased", revision="0" * 40, layers=12)


def a_cell(*redrawn: int, **changes: Any) -> Cell:
    """SST-2 at 500 rows for one epoch with these layers redrawn; `changes` replace fields of the cell."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "task": GLUE["sst2"],
        "size": 500,
        "treatment": Reinit(layers=redrawn),
        "recipe": Recipe(duration=Epochs(epochs=1)),
    }
    return Cell(**fields | changes)


def a_provenance(**changes: Any) -> Provenance:
    """A CPU run in a container; `device`, `threads` or `versions` change its numerics version, `host` does not."""
    fields: dict[str, Any] = {
        "git_commit": "a" * 40,
        "image": None,
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "device": "a processor",
        "threads": 1,
        "world_size": 1,
        "weights_sha256": "b" * 64,
        "data_revision": "c" * 40,
        "rows_sha256": "d" * 64,
        "host": "pod-1",
    }
    return Provenance(**fields | changes)


def some_predictions(seed: int = 1) -> bytes:
    """The bytes that `a_result` of this seed names by their hash."""
    return f"logits of seed {seed}\n".encode()


def a_result(
    cell: Cell | None = None, seed: int = 1, *, score: float = 0.9, later: float = 0, **changes: Any
) -> RunResult:
    """A finished run of `cell` (default `a_cell()`) that scores `score`, finished `later` seconds after `FINISHED`."""
    cell = cell or a_cell()
    splits = cell.task.splits
    fields: dict[str, Any] = {
        "cell": cell,
        "digest": cell.digest,
        "seed": seed,
        "wall_seconds": 20.0,
        "gpu_seconds": 0.0,
        "finished_at": FINISHED + timedelta(seconds=later),
        "provenance": a_provenance(),
        "metrics": {f"{split}/{metric}": score for split in splits for metric in cell.task.metrics},
        "validation_rows": dict(zip(splits, cell.task.validation_rows, strict=True)),
        "train_rows": cell.rows,
        "steps": cell.steps,
        "train_loss": 0.25,
        "predictions": hashlib.sha256(some_predictions(seed)).hexdigest(),
    }
    return RunResult(**fields | changes)


def a_diverged(cell: Cell | None = None, seed: int = 1, *, later: float = 0, **changes: Any) -> DivergedRun:
    """A run whose loss became NaN after 7 steps, or all where there are fewer."""
    cell = cell or a_cell()
    fields: dict[str, Any] = {
        "cell": cell,
        "digest": cell.digest,
        "seed": seed,
        "wall_seconds": 2.0,
        "gpu_seconds": 0.0,
        "finished_at": FINISHED + timedelta(seconds=later),
        "provenance": a_provenance(),
        "diverged_step": min(7, cell.steps),
        "loss": "nan",
    }
    return DivergedRun(**fields | changes)


def a_failure(cell: Cell | None = None, seed: int | None = 1, **changes: Any) -> Failure:
    """An attempt that ended without a result."""
    fields: dict[str, Any] = {
        "digest": (cell or a_cell()).digest,
        "seed": seed,
        "attempt": "pod-1",
        "exit_code": 65,
        "reason": "Rows are not what the task declares.",
        "failed_at": FINISHED,
    }
    return Failure(**fields | changes)
