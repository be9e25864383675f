"""Finetuning: the loop over optimiser steps.

Law: the loss is the mean over the global batch, however many ranks share it; a loss that is not finite stops the run
before the optimiser steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor, nn

from jobs.cell import Cell
from reinit.batches import collate, training_batches
from reinit.data import Example
from reinit.engine import build_engine, close_engine
from reinit.network import Network
from reinit.ranks import Ranks
from reinit.stop import StoppedError
from reinit.streams import stream_seed

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from reinit.checkpoint import Keeper

OnStep = Callable[[int, float], bool | None]
"""Called after each optimiser step with the number of steps done and the step's loss; may raise to stop the run, and
says whether a checkpoint is to be kept now: the same on every rank.

Where time passes without a step it may also be called with 0 and NaN."""


class DivergedError(Exception):
    """The loss, or a prediction, is not finite. A result of its own kind, not a failure."""

    def __init__(self, step: int, loss: float) -> None:
        """`step` optimiser steps were done when `loss` came out."""
        super().__init__(f"loss {loss} after {step} steps")
        self.step = step
        self.loss = loss


def train(
    network: Network,
    examples: Sequence[Example],
    cell: Cell,
    seed: int,
    ranks: Ranks,
    on_step: OnStep,
    keeper: Keeper | None = None,
) -> float:
    """Train the prepared network in place, from the keeper's last checkpoint on if there is one.

    Returns:
        The mean loss over the steps of the last epoch.

    Raises:
        DivergedError: a loss is not finite.
        StoppedError: a signal came; the keeper was asked to keep where the run is.
        UnusableError: a checkpoint could not be loaded; the network has to be prepared again.
    """
    recipe, task = cell.recipe, cell.task
    steps = recipe.steps(len(examples))
    engine = build_engine(network.module, network.groups, recipe, steps, ranks)
    try:
        engine.train()
        torch.manual_seed(stream_seed(seed, "dropout", ranks.rank))
        losses = keeper.resume(engine) if keeper else []
        for step, batch in islice(enumerate(training_batches(examples, recipe, seed)), len(losses), None):
            losses.append(_step(engine, network, batch, ranks, step, regression=task.labels is None))
            try:
                is_due = on_step(step + 1, losses[-1])
            except StoppedError:
                if keeper:
                    keeper.save(engine, losses)
                raise
            if keeper and is_due:
                keeper.save(engine, losses)
    finally:
        close_engine(engine)
    last_epoch = min(steps, -(-len(examples) // recipe.batch_size))
    return math.fsum(losses[-last_epoch:]) / last_epoch


def _step(
    engine: DeepSpeedEngine,
    network: Network,
    examples: Sequence[Example],
    ranks: Ranks,
    step: int,
    *,
    regression: bool,
) -> float:
    """One optimiser step on one global batch; returns its mean loss."""
    # A rank without a share of the last partial batch takes part with an example that weighs nothing.
    share = examples[ranks.rank :: ranks.world_size]
    batch = collate(share or examples[:1], network.pad_token).to(ranks.device)
    logits = engine(**batch.inputs).logits.float()
    loss = losses_of(logits, batch.labels, regression=regression).sum() * bool(share) / len(examples)
    whole = loss.detach().clone()
    if ranks.world_size > 1:
        torch.distributed.all_reduce(whole)
    value = float(whole)
    if not math.isfinite(value):
        raise DivergedError(step, value)
    # DeepSpeed averages gradients over ranks; the mean over the global batch is the sum of the shares.
    engine.backward(loss * ranks.world_size)
    engine.step()
    return value


def losses_of(logits: Tensor, labels: Tensor, *, regression: bool) -> Tensor:
    """Loss of each example, [B]: cross-entropy of logits [B, C] with classes, or squared error of logits [B, 1]."""
    if regression:
        return nn.functional.mse_loss(logits.squeeze(-1), labels, reduction="none")
    return nn.functional.cross_entropy(logits, labels.long(), reduction="none")
