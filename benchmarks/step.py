"""A steady training step of the packaged MiniLM at SST-2's lengths, batch 8: the peers' and ours.

    python -m benchmarks.step [--glue FOLDER] [--quick]

All train 160 rows for four epochs in a fresh process each. A step is the median over the last three epochs of an
epoch's mean, since steps differ in length and epochs do not. The released recipe and this project take the same
batches; the library's Trainer groups the same rows by length. Without `--glue` the rows are packaged reviews cut to
SST-2's lengths.

The floor is what no step can avoid: arithmetic of the real tokens, at the rate of a product of large matrices, and the
bytes of clipping and AdamW, at the rate of a copy, of the parameters that the rows reach: embeddings of words that none
of them has cannot change.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from transformers import AutoConfig

from benchmarks.measure import Spent, ask, copy_rate, epoch_steps, install, product_rate
from benchmarks.ours import timed_runs
from benchmarks.peers.job import Job
from benchmarks.rows import DATA, MINILM, job_of, task_of, write_lengths
from benchmarks.table import Line, main
from jobs.cell import Cell, Epochs, Recipe, Reinit
from reinit.network import load_tokenizer
from reinit.places import Places, resolve_model

PARAMETER_BYTES = 36
"""Float32: gradient written, and read for its norm; AdamW reads p, g, m, v and writes p, m, v. Zeroing is free."""
ACCELERATE = "accelerate==1.15.0"


def lines(options: argparse.Namespace) -> list[Line]:
    """The step beside each peer's."""
    rows, epochs = (32, 2) if options.quick else (160, 4)
    install(ACCELERATE)
    with tempfile.TemporaryDirectory() as made:
        folder = write_lengths(Path(made), options.glue, rows + 8)
        recipe = Recipe(duration=Epochs(epochs=epochs))
        cell = Cell(model=MINILM, task=task_of(folder), size=rows, treatment=Reinit(), recipe=recipe)
        places = Places({DATA: folder})
        job = job_of(cell, 1, places)
        per_epoch = rows // recipe.batch_size
        (run,), _ = timed_runs(cell, [1], folder, options.threads)
        ours = epoch_steps([run.began, *run.steps], per_epoch)
        released, trainer = (peer_step(name, job, per_epoch, options.threads) for name in ("released", "trainer"))
        note, floor = _floor(job, places, recipe.batch_size)
    return [
        Line("a step: the released recipe", released, ours, 6.0, unit="ms", floor=floor, notes=(note,)),
        Line("a step: the library's Trainer", trainer, ours, 1.6, unit="ms", floor=floor),
    ]


def peer_step(name: str, job: Job, per_epoch: int, threads: int) -> Spent:
    """Seconds of a step of a peer's."""
    question = {**vars(job), "most_steps": job.steps}
    answer, _ = ask(f"benchmarks.peers.{name}", question, threads)
    return epoch_steps([Spent(*each) for each in answer["readings"]], per_epoch)


def _floor(job: Job, places: Places, batch: int) -> tuple[str, float]:
    """How it was computed, and the seconds."""
    config = AutoConfig.from_pretrained(resolve_model(MINILM, places))
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    per_token, matrices = 2 * hidden * hidden, 4 * hidden * hidden + 2 * hidden * inner
    encoded = load_tokenizer(resolve_model(MINILM, places))(job.texts)["input_ids"]
    lengths = [len(ids) for ids in encoded]
    tokens, squares = (sum(each**power for each in lengths) / len(lengths) * batch for power in (1, 2))
    # Forward once and backward twice: two operations a weight and token, four a pair of tokens and channel. Of the last
    # layer only first tokens are read: of the others it needs keys and values.
    weighed = ((layers - 1) * matrices + per_token) * tokens + (matrices - per_token + hidden * hidden) * batch
    operations = 6 * weighed + 12 * hidden * ((layers - 1) * squares + tokens)
    words = {token for ids in encoded for token in ids}
    reached = layers * matrices + hidden * hidden + (len(words) + max(lengths)) * hidden
    products, copies = product_rate().cpu, copy_rate().cpu
    arithmetic, traffic = operations / products, PARAMETER_BYTES * reached / copies
    note = (
        f"{tokens:.1f} tokens a batch; products {products / 1e9:.0f} GFLOP/s, copies {copies / 1e9:.1f} GB/s; floor: "
        f"{operations / 1e9:.1f} GFLOP in {1e3 * arithmetic:.0f} ms and {PARAMETER_BYTES * reached / 1e6:.0f} MB in "
        f"{1e3 * traffic:.0f} ms"
    )
    return note, arithmetic + traffic


if __name__ == "__main__":
    main(lines, __doc__)
