"""Products of matrices in this project's training, over what the same machine does with large square ones.

    python -m benchmarks.matmul [--glue FOLDER] [--quick]

A network of BERT-base's width (hidden 768, inner 3072, three layers, random weights) trains on rows of SST-2's lengths,
batch 8, and torch's profiler times every product of an activation with a weight or a gradient: forward and backward,
as training does them, at the shapes that it gives them. The rate is those shapes' operations over those products'
seconds, by the wall's clock, which is the profiler's. Attention's own products, which are of activations alone, are not
among them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from benchmarks.measure import Spent, product_rate
from benchmarks.rows import DATA, MINILM, task_of, write_lengths
from benchmarks.table import Line, main
from jobs.cell import Cell, Model, Recipe, Reinit, Steps
from reinit.batches import training_batches
from reinit.network import load_tokenizer
from reinit.places import Places, pin, resolve_model
from reinit.tokens import TaskTokens
from reinit.worker import Worker

LAYERS: Final = 3
NAME: Final = "width-of-bert-base"
PRODUCTS: Final = frozenset(
    {"aten::addmm", "aten::mm", "aten::mkldnn_linear", "aten::_mkl_linear", "mkldnn::_linear_pointwise"}
)
"""What torch calls a product with a weight, by the library that does it."""
WARM: Final = 3


def lines(options: argparse.Namespace) -> list[Line]:
    """The one line."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_verbosity_error()  # type: ignore[no-untyped-call]
    steps = WARM + (3 if options.quick else 40)
    with tempfile.TemporaryDirectory() as made:
        folder = write_lengths(Path(made), options.glue, 8 * steps + 8)
        model = _write_model(folder / "model")
        places = Places({DATA: folder, NAME: folder / "model", MINILM.name: resolve_model(MINILM, Places())})
        cell = Cell(
            model=model,
            task=task_of(folder),
            size=8 * steps,
            treatment=Reinit(),
            recipe=Recipe(duration=Steps(steps=steps)),
        )
        worker = Worker(places)
        torch.set_num_threads(options.threads)
        worker.check([cell])
        before = product_rate()
        rate = _profiled(worker, cell, steps)
        after = product_rate()
        tokenizer = load_tokenizer(folder / "model")
        tokens = TaskTokens.load(cell.task, tokenizer, cell.recipe.max_length, places)
        batches = list(training_batches(tokens.subset(cell.size, 1), cell.recipe, 1))[WARM:]
    real = sum(len(row.input_ids) for batch in batches for row in batch) / len(batches)
    ours = Spent(rate, rate) * 1e-9
    square = (before.wall + after.wall) / 2
    theirs = Spent(square, square) * 1e-9
    note = f"{real:.0f} real tokens a batch; both by the wall's clock"
    return [Line("products in training: large square ones", theirs, ours, 0.75, unit="GFLOP/s", notes=(note,))]


def _profiled(worker: Worker, cell: Cell, steps: int) -> float:
    """Operations a wall second in products, of all steps but the first few."""
    measured = profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True)

    def on_step(step: int, _loss: float) -> None:
        if step == WARM:
            measured.start()
        elif step == steps:
            measured.stop()

    worker.run(cell, 1, on_step)
    products: dict[tuple[str, str], list[Any]] = {}
    for event in measured.events() or ():  # type: ignore[no-untyped-call]
        if event.name in PRODUCTS:
            products.setdefault((event.name, str(event.input_shapes)), []).append(event)
    if not products:
        raise RuntimeError(f"training called none of {', '.join(sorted(PRODUCTS))}: name what it calls instead")
    # Of each shape the median, so that what others did to the machine meanwhile counts little.
    microseconds = sum(
        len(alike) * statistics.median(each.self_cpu_time_total for each in alike) for alike in products.values()
    )
    operations = sum(each.flops for alike in products.values() for each in alike)
    return float(operations / microseconds * 1e6)


def _write_model(folder: Path) -> Model:
    """Random weights, and the tokeniser that cuts the rows."""
    torch.manual_seed(0)
    network = BertModel(BertConfig(num_hidden_layers=LAYERS))
    network.save_pretrained(folder)
    load_tokenizer(resolve_model(MINILM, Places())).save_pretrained(folder)
    return Model(name=NAME, revision=pin(folder), layers=LAYERS)


if __name__ == "__main__":
    main(lines, __doc__)
