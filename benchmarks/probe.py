"""Probing every depth of the packaged MiniLM at three seeds: a pass at every step, as the released recipe, beside ours.

    python -m benchmarks.probe [--rows 500] [--epochs 40] [--seeds 3] [--glue FOLDER] [--whole] [--quick]

The released recipe in plain torch: texts padded to 128 tokens, batches of 8, and the frozen network of each depth run
anew at every step of every epoch, for each depth and seed, then over the scored rows. Its dropout is off, as ours. All
its steps cost alike, so a few of each depth are timed and multiplied; `--whole` runs all of them (hours on two cores)
and shows both accuracies. Ours: the warm worker's own runs, all passes counted. The floor is one pass of the whole
network over each seed's rows and one over the scored rows. The authors probe for 40 epochs in their script and for 10
in their figures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from benchmarks.measure import Spent, spent
from benchmarks.peers.job import Job
from benchmarks.rows import DATA, MINILM, job_of, task_of, write_rows
from benchmarks.table import Line, main
from jobs.cell import Cell, Epochs, Probe, Recipe, Reinit
from jobs.result import RunResult
from reinit.batches import collate, evaluation_batches
from reinit.data import Example
from reinit.network import load_tokenizer
from reinit.places import Places, resolve_model
from reinit.tokens import TaskTokens
from reinit.worker import Worker

SAMPLED_STEPS = 6

T = TypeVar("T")


def lines(options: argparse.Namespace) -> list[Line]:
    """The one line."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_verbosity_error()  # type: ignore[no-untyped-call]
    rows, epochs, seeds = (
        (48, 2, range(1, 2)) if options.quick else (options.rows, options.epochs, range(1, options.seeds + 1))
    )
    with tempfile.TemporaryDirectory() as made:
        folder = write_rows(Path(made), options.glue, *([40] if options.quick else []))
        places, recipe = Places({DATA: folder}), Recipe(duration=Epochs(epochs=epochs))
        plain = Cell(model=MINILM, task=task_of(folder), size=rows, treatment=Reinit(), recipe=recipe)
        depths = range(1, MINILM.layers + 1)
        cells = [plain.model_copy(update={"treatment": Probe(depth=depth)}) for depth in depths]
        worker = Worker(places)
        torch.set_num_threads(options.threads)
        worker.check(cells)
        tokens = TaskTokens.load(plain.task, load_tokenizer(resolve_model(MINILM, places)), recipe.max_length, places)
        # Tokens and libraries are warm for all.
        examples = {seed: tokens.subset(rows, seed) for seed in seeds}
        scored = tokens.scored["dev.tsv"]
        ours, results = spent(
            lambda: [worker.run(cell, seed, lambda *_: None).result for cell in cells for seed in seeds]
        )
        floor, _ = spent(partial(_passes, _encoder(places, MINILM.layers), [*examples.values(), scored]))
        chosen = seeds if options.whole else seeds[:1]
        theirs = [
            _released(_encoder(places, depth), job_of(plain, seed, places), whole=options.whole)
            for depth in depths
            for seed in chosen
        ]
    took = sum((each for each, _ in theirs), Spent(0, 0)) * (1 if options.whole else len(seeds))
    accuracies = [result.score for result in results if isinstance(result, RunResult)]
    notes = [
        f"depths 1 to {MINILM.layers}, {len(seeds)} seeds, {rows} rows, {epochs} epochs, {len(scored)} scored",
        f"mean accuracy by depth, ours {_by_depth(accuracies, len(seeds))}",
    ]
    if options.whole:
        notes.append(f"mean accuracy by depth, theirs {_by_depth([accuracy for _, accuracy in theirs], len(seeds))}")
    else:
        notes.append(f"theirs from {SAMPLED_STEPS} steps of each depth, multiplied")
    return [Line("probing: a pass at every step", took, ours, 100.0, floor=floor.cpu, notes=tuple(notes))]


def _by_depth(accuracies: Sequence[float], seeds: int) -> str:
    means = (sum(accuracies[first : first + seeds]) / seeds for first in range(0, len(accuracies), seeds))
    return " ".join(f"{mean:.3f}" for mean in means)


def _encoder(places: Places, depth: int) -> nn.Module:
    encoder: nn.Module = AutoModel.from_pretrained(resolve_model(MINILM, places), num_hidden_layers=depth)
    return encoder.eval()


def _released(encoder: nn.Module, job: Job, *, whole: bool) -> tuple[Spent, float]:
    """Seconds and accuracy of one run in plain torch; of a part of its steps where not `whole`."""
    torch.manual_seed(job.seed)
    classifier = nn.Linear(384, 2)
    nn.init.normal_(classifier.weight, std=0.02)
    nn.init.zeros_(classifier.bias)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=job.learning_rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / job.steps)
    tokenizer: Any = load_tokenizer(Path(job.model))
    padded = partial(tokenizer, padding="max_length", truncation=True, max_length=job.max_length, return_tensors="pt")
    texts, scored = dict(padded(job.texts)), dict(padded(job.scored_texts))
    labels, truths = torch.tensor(job.labels), torch.tensor(job.scored_labels)

    def features(inputs: dict[str, Tensor], rows: list[int]) -> Tensor:
        with torch.no_grad():
            pooled: Tensor = encoder(**{name: values[rows] for name, values in inputs.items()}).pooler_output
        return pooled

    def step(rows: list[int]) -> None:
        logits = classifier(nn.functional.dropout(features(texts, rows), 0.1))
        loss = nn.functional.cross_entropy(logits, labels[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(classifier.parameters(), job.grad_clip)
        optimiser.step()
        schedule.step()

    def rights(rows: list[int]) -> int:
        with torch.no_grad():
            return int((classifier(features(scored, rows)).argmax(1) == truths[rows]).sum())

    training = [batch for order in job.orders for batch in _batches(order, job.batch_size)]
    scoring = _batches(list(range(len(job.scored_labels))), job.batch_size)
    trained, _ = _sampled(step, training, whole=whole)
    tested, right = _sampled(rights, scoring, whole=whole)
    return trained + tested, sum(right) / len(job.scored_labels)


def _batches(order: Sequence[int], size: int) -> list[list[int]]:
    return [list(order[first : first + size]) for first in range(0, len(order), size)]


def _sampled(what: Callable[[list[int]], T], batches: Sequence[list[int]], *, whole: bool) -> tuple[Spent, list[T]]:
    """Seconds for all batches, measured on all or on a few, and what came of those."""
    chosen = batches if whole else batches[:SAMPLED_STEPS]
    took, came = spent(lambda: [what(batch) for batch in chosen])
    return took * (len(batches) / len(chosen)), came


def _passes(encoder: nn.Module, sets: Sequence[Sequence[Example]]) -> None:
    with torch.no_grad():
        for examples in sets:
            for rows in evaluation_batches(examples):
                encoder(**collate([examples[row] for row in rows], 0).inputs)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--whole", action="store_true", help="run every step of the released recipe")


if __name__ == "__main__":
    main(lines, __doc__, _add)
