"""The DeepSpeed engine's share of a training step: this project's training beside the same step in plain torch.

    python -m benchmarks.engine [--glue FOLDER] [--quick]

The packaged MiniLM at SST-2's lengths, batch 8. The inputs that training hands to the network are recorded, and plain
torch trains the same module on them: same optimiser, schedule, clipping, and loss read at each step. The two take
turns, an epoch each, so that a busy machine disturbs both alike; a step is the median over epochs of an epoch's mean.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Spent, median, reading, spent
from benchmarks.rows import DATA, MINILM, task_of, write_lengths
from benchmarks.table import Line, main
from jobs.cell import Cell, Epochs, Recipe, Reinit
from reinit.batches import training_orders
from reinit.data import Example, TaskTokens
from reinit.engine import build_optimiser, build_schedule
from reinit.network import Network, load_tokenizer
from reinit.places import Places, resolve_model
from reinit.ranks import Ranks, join_ranks
from reinit.train import losses_of, train

Recorded = tuple[dict[str, Any], Tensor]
"""Inputs of one step as the network was called, and the labels."""


def lines(options: argparse.Namespace) -> list[Line]:
    """The one line."""
    rows, turns = (32, 2) if options.quick else (160, 6)
    ranks = join_ranks()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as made:
        folder = write_lengths(Path(made), options.glue, rows + 8)
        recipe = Recipe(duration=Epochs(epochs=1))
        cell = Cell(model=MINILM, task=task_of(folder), size=rows, treatment=Reinit(), recipe=recipe)
        places = Places({DATA: folder})
        tokens = TaskTokens.load(cell.task, load_tokenizer(resolve_model(MINILM, places)), recipe.max_length, places)
        examples = tokens.subset(cell.size, 1)
        network = Network.load(cell.model, cell.task.outputs, recipe, places)
    batches = _record(network, examples, cell, ranks)
    ours, plain = [], []
    for _ in range(turns + 1):
        network.prepare(cell, 1)
        ours.append(_trained(network, examples, cell, ranks))
        network.prepare(cell, 1)
        plain.append(_plain(network, batches, cell))
    return [
        Line("a step in the engine: plain torch", median(plain[1:]), median(ours[1:]), 1.1, unit="ms", at_most=True)
    ]


def _trained(network: Network, examples: Sequence[Example], cell: Cell, ranks: Ranks) -> Spent:
    """Seconds of a step of this project's training, the first left out as its engine is new."""
    readings: list[Spent] = []
    train(network, examples, cell, 1, ranks, lambda *_: readings.append(reading()))
    return (readings[-1] - readings[0]) * (1 / (len(readings) - 1))


def _record(network: Network, examples: Sequence[Example], cell: Cell, ranks: Ranks) -> list[Recorded]:
    """What one epoch's training hands to the network, and the labels that its losses are of."""
    inputs: list[dict[str, Any]] = []
    network.prepare(cell, 1)
    hook = network.module.register_forward_pre_hook(
        lambda _module, _args, given: inputs.append(dict(given)), with_kwargs=True
    )
    try:
        train(network, examples, cell, 1, ranks, lambda *_: None)
    finally:
        hook.remove()
    labels = [
        torch.tensor([examples[row].label for row in order[first : first + cell.recipe.batch_size]])
        for order in training_orders(len(examples), cell.recipe, 1)
        for first in range(0, len(order), cell.recipe.batch_size)
    ]
    return list(zip(inputs, labels, strict=True))


def _plain(network: Network, batches: Sequence[Recorded], cell: Cell) -> Spent:
    """Seconds of a step of plain torch, the first left out as the optimiser's state is new."""
    optimiser = build_optimiser(network.groups, cell.recipe)
    schedule = build_schedule(optimiser, cell.recipe, len(batches))
    parameters = [parameter for group in network.groups for parameter in group.parameters]
    module = network.module.train()

    def step(inputs: dict[str, Any], labels: Tensor) -> float:
        loss = losses_of(module(**inputs).logits.float(), labels, regression=False).mean()
        value = loss.item()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, cell.recipe.grad_clip)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        return value

    step(*batches[0])
    took, _ = spent(lambda: [step(*batch) for batch in batches[1:]])
    return took * (1 / (len(batches) - 1))


if __name__ == "__main__":
    main(lines, __doc__)
