"""Finetuning: the loop over optimiser steps.

Law: the loss is the mean over the global batch, however many ranks share it; a loss that is not finite stops the run
before the optimiser steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed
from torch import Tensor, nn

from jobs.cell import Cell
from reinit.batches import training_batches
from reinit.data import Example
from reinit.engine import build_engine, close_engine, norm_of
from reinit.forms import Form, PaddedBatch
from reinit.network import Network
from reinit.packed import PackedClassifier
from reinit.ranks import Ranks
from reinit.rows import PackedBatch
from reinit.stop import StoppedError
from reinit.streams import stream_seed

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from reinit.checkpoint import Keeper

STEPS_TOGETHER: Final = 16
"""On a GPU: waiting for it after each step would leave it without work while the next one is launched."""

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
    recipe = cell.recipe
    steps = recipe.steps(len(examples))
    form = network.form
    groups = form.fit_to(examples, network.groups)
    try:
        engine = build_engine(form, groups, recipe, steps, ranks, network.moments)
        try:
            losses = _train(engine, form, examples, cell, seed, ranks, on_step, keeper)
        finally:
            close_engine(engine)
    finally:
        form.release()
    last_epoch = min(steps, -(-len(examples) // recipe.batch_size))
    return math.fsum(losses[-last_epoch:]) / last_epoch


def _train(
    engine: DeepSpeedEngine,
    form: Form,
    examples: Sequence[Example],
    cell: Cell,
    seed: int,
    ranks: Ranks,
    on_step: OnStep,
    keeper: Keeper | None,
) -> list[float]:
    """All steps; the loss of each."""
    engine.train()
    torch.manual_seed(stream_seed(seed, "dropout", ranks.rank))
    losses = keeper.resume(engine) if keeper else []
    step = Step(engine, form, cell, ranks)
    batches = islice(training_batches(examples, cell.recipe, seed), len(losses), None)
    while together := list(islice(batches, steps_together(ranks.device))):
        first = len(losses)
        losses += _finite(torch.stack([step(batch) for batch in together]).tolist(), first)
        try:
            wishes = [on_step(done, losses[done - 1]) for done in range(first + 1, len(losses) + 1)]
        except StoppedError:
            if keeper:
                keeper.save(engine, losses)
            raise
        if keeper and any(wishes):
            keeper.save(engine, losses)
    return losses


def steps_together(device: torch.device) -> int:
    """Steps whose losses are read together, and after which a run can stop or keep a checkpoint."""
    return STEPS_TOGETHER if device.type == "cuda" else 1


def _finite(losses: list[float], done: int) -> list[float]:
    """The losses, if all are; `done` steps went before them."""
    for step, loss in enumerate(losses, start=done):
        if not math.isfinite(loss):
            raise DivergedError(step, loss)
    return losses


class Step:
    """The optimiser step of one run.

    On a GPU nothing waits for it: a step whose loss is not finite changes nothing there, and losses are read some steps
    at a time.
    """

    def __init__(self, engine: DeepSpeedEngine, form: Form, cell: Cell, ranks: Ranks) -> None:
        """Of a run whose engine trains `form`."""
        self._engine, self._form, self._ranks = engine, form, ranks
        self._regression = cell.task.labels is None
        self._bf16 = cell.recipe.precision == "bf16"
        self._texts = cell.recipe.batch_size
        self._parameters = [parameter for parameter in form.parameters() if parameter.requires_grad]
        # Ranks talk to each other between the gradients and the update, in a way that is the engine's.
        can_capture = ranks.device.type == "cuda" and ranks.world_size == 1
        self._captured = form if can_capture and isinstance(form, PackedClassifier) else None
        self._fused = None if self._captured is None else self._captured.fused(cell.recipe.precision)
        if self._captured is not None:
            self._captured.graphs.keep_if((self._captured.layout(), self._regression, self._bf16))
        if self._fused is not None:
            # The optimiser keeps them so from here on.
            self._fused.copies.refresh()

    def __call__(self, examples: Sequence[Example]) -> Tensor:
        """One step on one global batch; its mean loss, float32 [], on the device."""
        ranks = self._ranks
        # A rank without a share of the last partial batch takes part with an example that weighs nothing.
        share = examples[ranks.rank :: ranks.world_size]
        weight = bool(share) / len(examples)
        if self._captured is not None:
            batch = self._captured.collate(examples, weight, ranks.device, self._texts)
            graphs = self._captured.graphs
            optimiser = self._engine.optimizer
            whole, optimiser.norm, optimiser.skip = graphs(batch, self._parameters, self._captured_loss, self._finish)
            optimiser.fused, optimiser.at = self._fused, (id(self), batch.shape)
        else:
            loss = self._loss(self._engine, self._form.collate(share or examples[:1], weight, ranks.device))
            whole = loss.detach().clone()
            if ranks.world_size > 1:
                torch.distributed.all_reduce(whole)
            # DeepSpeed averages gradients over ranks; the mean over the global batch is the sum of the shares.
            self._engine.backward(loss * ranks.world_size)
            self._engine.optimizer.skip = _is_bad(whole)
        self._engine.step()
        return whole

    def _loss(self, forward: Callable[[Any], Tensor], batch: PackedBatch | PaddedBatch) -> Tensor:
        losses = losses_of(forward(batch).float(), batch.labels, regression=self._regression)
        return (losses * batch.weights).sum()

    def _captured_loss(self, batch: PackedBatch) -> Tensor:
        """As the engine computes it; its own way in counts and times on the host, which a graph cannot repeat."""
        assert self._captured is not None  # noqa: S101
        with torch.autocast("cuda", torch.bfloat16, enabled=self._bf16):
            if self._fused is None:
                logits = self._captured(batch)
                return self._loss(lambda _: logits, batch)
            logits = self._captured.by(self._fused, batch)
        return self._fused.loss(logits, batch, regression=self._regression)

    def _finish(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        if self._fused is None:
            return norm_of(self._parameters), _is_bad(loss)
        return self._fused.finish(self._parameters, loss)


def _is_bad(loss: Tensor) -> Tensor:
    """1 where the loss is not finite, else 0; float32 []."""
    return (~loss.isfinite()).float()


def losses_of(logits: Tensor, labels: Tensor, *, regression: bool) -> Tensor:
    """Loss of each example, [B]: cross-entropy of logits [B, C] with classes, or squared error of logits [B, 1]."""
    if regression:
        return nn.functional.mse_loss(logits.squeeze(-1), labels, reduction="none")
    return nn.functional.cross_entropy(logits, labels.long(), reduction="none")
