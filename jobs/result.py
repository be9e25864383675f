"""What one run leaves behind: `RunResult`, its provenance, its place in the store.

Law: a result embeds the whole cell, checks its own digest, and never holds NaN as a score: a run whose loss is
not finite is a `DivergedRun`, a result of its own kind that counts as done (same seed and code diverge again).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final, Literal

from pydantic import (
    AwareDatetime,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    TypeAdapter,
    field_validator,
    model_validator,
)

from jobs.cell import Cell, Digest, Seed, canonical
from jobs.tasks import Frozen

LONGEST_SECONDS: Final = 1e9
"""Thirty years: no run takes longer, and sums of what is said to are not finite."""

Seconds = Annotated[FiniteFloat, Field(ge=0, le=LONGEST_SECONDS)]
PredictionsHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


LARGEST_SCORE: Final = 1 + 1e-9
"""No metric of a task is larger; a correlation may be rounded to a hair above 1."""


MOST_MORE_METRICS: Final = 32
"""Metrics that a result may have besides its task's; each is a column of every table of runs."""


class Provenance(Frozen):
    """Where and with what a number was made; the fields that can move bits make up the numerics version."""

    git_commit: str = Field(min_length=1)
    """Commit of this project's code, with `+dirty` when the tree had changes; `unknown` outside a checkout."""
    image: str | None
    """Container image by digest, None outside a container."""
    versions: dict[str, str]
    """Versions of Python and of what computes: torch, transformers, deepspeed, numpy, tokenizers."""
    device: str
    """Device model, for example `NVIDIA H100 80GB HBM3` or the processor's name."""
    threads: PositiveInt
    world_size: PositiveInt
    weights_sha256: str | None
    """Hash of the weights that were read, whatever the cell names them by; None when nothing was trained."""
    data_revision: str
    """What the cell calls its data; a mapped folder is taken at its word, and `rows_sha256` tells."""
    rows_sha256: str
    """Hash of the rows that were read, after filters and holdout, as texts and labels."""
    host: str
    """Host or pod; not part of the numerics version."""

    @property
    def numerics(self) -> str:
        """Twelve hex digits; equal seeds give equal bits within one numerics version."""
        return _numerics(tuple(getattr(self, name) for name in _MOVING), tuple(sorted(self.versions.items())))


_MOVING: Final = ("git_commit", "device", "threads", "world_size", "weights_sha256", "rows_sha256")


@lru_cache(1024)
def _numerics(moving: tuple[object, ...], versions: tuple[tuple[str, str], ...]) -> str:
    """Results of one image on one kind of machine are many, and have the same."""
    fields = dict(zip(_MOVING, moving, strict=True)) | {"versions": dict(versions)}
    return hashlib.sha256(canonical(fields)).hexdigest()[:12]


class _Run(Frozen):
    schema_version: Literal[1] = 1
    cell: Cell
    digest: Digest
    """The cell's digest, stored so that a reader without this code can group by it; checked on reading."""
    seed: Seed
    wall_seconds: Seconds
    """From the pristine network to the last prediction. Weights and rows are read before; rows are tokenised by the
    first run that needs them, and that is counted. Of a resumed run: with what earlier attempts took up to the
    checkpoint that it went on from, and without what they did after it."""
    gpu_seconds: Seconds
    """`wall_seconds` times GPUs, over the number of workers that shared them; 0 on a CPU."""
    finished_at: AwareDatetime
    provenance: Provenance

    @model_validator(mode="after")
    def _digest_is_the_cells(self) -> _Run:
        if self.digest != self.cell.digest:
            raise ValueError(f"digest {self.digest[:12]} is not the cell's, {self.cell.digest[:12]}")
        return self

    @field_validator("finished_at")
    @classmethod
    def _has_a_time_in_utc(cls, finished_at: datetime) -> datetime:
        """The first hours of year 1 in a zone to the east are before all times that a table can hold."""
        try:
            finished_at.astimezone(UTC)
        except OverflowError as error:
            raise ValueError("a time that has none in UTC") from error
        return finished_at

    def to_bytes(self) -> bytes:
        """The object's bytes: canonical JSON, so that equal results are equal objects."""
        return canonical(self.model_dump(mode="json"))

    @property
    def key(self) -> str:
        """`runs/<digest>/<seed>.<science12>.<body12>.json`."""
        body = hashlib.sha256(self.to_bytes()).hexdigest()[:12]
        return f"runs/{self.digest}/{self.seed}.{self.science12}.{body}.json"

    @property
    def science12(self) -> str:
        """Hash of what was measured: equal for equal metrics and predictions, whoever computed them."""
        fields = self.model_dump(mode="json", include=self._measured())
        return hashlib.sha256(canonical(fields)).hexdigest()[:12]

    def _measured(self) -> set[str]:
        raise NotImplementedError


class RunResult(_Run):
    """A finished run."""

    status: Literal["done"] = "done"
    metrics: Annotated[dict[str, FiniteFloat], Field(min_length=1)]
    """Scores by `split/metric`; the cell's task names the headline."""
    validation_rows: dict[str, PositiveInt]
    """Scored rows by split."""
    train_rows: PositiveInt
    steps: NonNegativeInt
    """Optimiser steps taken."""
    train_loss: FiniteFloat
    """Mean training loss over the last epoch."""
    predictions: PredictionsHash
    """sha256 of the object `predictions/<sha256>` with every logit."""

    @model_validator(mode="after")
    def _scores_the_whole_task(self) -> RunResult:
        task = self.cell.task
        wanted = {f"{split}/{metric}" for split in task.splits for metric in task.metrics}
        if missing := wanted - set(self.metrics):
            raise ValueError(f"metrics lack {sorted(missing)}, got {sorted(self.metrics)}")
        if (more := len(self.metrics) - len(wanted)) > MOST_MORE_METRICS:
            raise ValueError(f"{more} metrics more than the task's, at most {MOST_MORE_METRICS} are allowed")
        if wrong := {name for name in wanted if abs(self.metrics[name]) > LARGEST_SCORE}:
            raise ValueError(f"{sorted(wrong)} are beyond 1")
        rows = dict(zip(task.splits, task.validation_rows, strict=True))
        numbers = {"validation_rows": rows, "train_rows": self.cell.rows, "steps": self.cell.steps}
        for name, value in numbers.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)}, the cell says {value}")
        return self

    @property
    def score(self) -> float:
        """The headline metric."""
        return self.metrics[self.cell.task.headline]

    def _measured(self) -> set[str]:
        return {"status", "metrics", "predictions"}


class DivergedRun(_Run):
    """A run whose training loss stopped being finite; stopped before that step's update."""

    status: Literal["diverged"] = "diverged"
    diverged_step: NonNegativeInt
    """Optimiser steps done before the loss was not finite."""
    loss: Literal["nan", "inf", "-inf"]

    @model_validator(mode="after")
    def _within_its_steps(self) -> DivergedRun:
        if self.diverged_step > self.cell.steps:
            raise ValueError(f"diverged_step is {self.diverged_step}, the cell has {self.cell.steps} steps")
        return self

    def _measured(self) -> set[str]:
        return {"status", "diverged_step", "loss"}


Result = Annotated[RunResult | DivergedRun, Field(discriminator="status")]
RESULT: TypeAdapter[RunResult | DivergedRun] = TypeAdapter(Result)
"""Reads a result object of either kind: `RESULT.validate_json(data)`."""


class Failure(Frozen):
    """A record of an attempt that ended without a result, for `status`; never counts as done."""

    schema_version: Literal[1] = 1
    digest: Digest
    seed: Seed | None
    """The run that failed; None when the attempt failed before any."""
    attempt: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,246}$")]
    """Pod name, or host and process; a file name with its ending, so at most 247 characters."""
    exit_code: int
    reason: str
    """The first line of the error."""
    failed_at: AwareDatetime

    @property
    def key(self) -> str:
        """`failures/<digest>/<attempt>.json`."""
        return f"failures/{self.digest}/{self.attempt}.json"


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)
