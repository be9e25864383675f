"""The DeepSpeed engine's share of a training step: this project's training in it, and with plain torch in its place.

    python -m benchmarks.engine [--glue FOLDER] [--quick]

The packaged MiniLM at SST-2's lengths, batch 8. Module, batches, optimiser, schedule and loop are the same, the
project's own; only what `deepspeed.initialize` returns is replaced, by the few lines of plain torch that do a step.
The two take turns, an epoch each, so that a busy machine disturbs both alike; a step is the median over epochs of an
epoch's mean, the first step left out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.measure import Spent, median, reading
from benchmarks.rows import DATA, MINILM, task_of, write_lengths
from benchmarks.table import Line, main
from jobs.cell import Cell, Epochs, Recipe, Reinit
from reinit.data import Example
from reinit.network import Network, load_tokenizer
from reinit.places import Places, resolve_model
from reinit.ranks import Ranks, join_ranks
from reinit.tokens import TaskTokens
from reinit.train import train


def lines(options: argparse.Namespace) -> list[Line]:
    """The one line."""
    rows, turns = (32, 2) if options.quick else (160, 6)
    ranks = join_ranks()
    import deepspeed  # after the ranks have joined and chosen the accelerator

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as made:
        folder = write_lengths(Path(made), options.glue, rows + 8)
        recipe = Recipe(duration=Epochs(epochs=1))
        cell = Cell(model=MINILM, task=task_of(folder), size=rows, treatment=Reinit(), recipe=recipe)
        places = Places({DATA: folder})
        tokens = TaskTokens.load(cell.task, load_tokenizer(resolve_model(MINILM, places)), recipe.max_length, places)
        examples = tokens.subset(cell.size, 1)
        network = Network.load(cell.model, cell.task.outputs, recipe, places)
    plain = mock.patch.object(deepspeed, "initialize", _initialise)
    took: dict[str, list[Spent]] = {"ours": [], "theirs": []}
    losses = set()
    for _ in range(turns + 1):
        for side, engine in (("ours", nullcontext()), ("theirs", plain)):
            with engine:
                seconds, loss = _trained(network, examples, cell, ranks)
            took[side].append(seconds)
            losses.add(round(loss, 4))
    if len(losses) > 1:
        raise SystemExit(f"the two do not do the same: training losses {sorted(losses)}")
    ours, theirs = (median(took[side][1:]) for side in ("ours", "theirs"))
    return [Line("a step in the engine: plain torch", theirs, ours, 1.1, unit="ms", at_most=True)]


def _trained(network: Network, examples: Sequence[Example], cell: Cell, ranks: Ranks) -> tuple[Spent, float]:
    """Seconds of a step, and the training loss."""
    readings: list[Spent] = []
    network.prepare(cell, 1)
    loss = train(network, examples, cell, 1, ranks, lambda *_: readings.append(reading()))
    return (readings[-1] - readings[0]) * (1 / (len(readings) - 1)), loss


class PlainEngine:
    """What training asks of an engine, in plain torch."""

    enable_backward_allreduce = False

    def __init__(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, schedule: Any, config: dict[str, Any]
    ) -> None:
        """Clip where the engine was to clip."""
        self.optimizer = optimiser
        self.module_forward_pre_hook = self.module_forward_post_hook = mock.Mock()
        self._module, self._schedule = module, schedule
        self._clip = config["gradient_clipping"]
        self._parameters = tuple(module.parameters())

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The forward pass."""
        return self._module(*inputs, **named)

    def train(self) -> None:
        """Dropout on."""
        self._module.train()

    def backward(self, loss: Tensor) -> None:
        """The backward pass."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Clip, update, go on in the schedule."""
        if self._clip:
            nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self.optimizer.step()
        self._schedule.step()
        self.optimizer.zero_grad()

    def destroy(self) -> None:
        """Nothing to let go of."""


def _initialise(*, model: nn.Module, optimizer: Any, lr_scheduler: Any, config: dict[str, Any], **_: Any) -> tuple[Any]:
    return (PlainEngine(model, optimizer, lr_scheduler, config),)


if __name__ == "__main__":
    main(lines, __doc__)
