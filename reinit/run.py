"""The story of one run: prepare, train, score, tell.

Law: a run is a pure function of (cell, seed) within one numerics version; what ran before it in the same process
never shows.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from jobs.cell import Cell, Probe
from jobs.result import DivergedRun, Provenance, RunResult, now
from reinit.classifier import Classifier, fit_classifier, train_classifier
from reinit.data import Example
from reinit.features import FeatureCache
from reinit.network import Network
from reinit.ranks import Ranks
from reinit.tokens import TaskTokens
from reinit.train import DivergedError, OnStep, train

if TYPE_CHECKING:
    from reinit.checkpoint import Keeper
    from reinit.evaluate import Logits
    from reinit.probe import ProbeNetwork


@dataclass(frozen=True)
class Outcome:
    """A result, with the bytes of its predictions object where it has one."""

    result: RunResult | DivergedRun
    predictions: bytes | None


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run: with what it is made, who hears of it, and who keeps where it is."""

    provenance: Provenance
    on_step: OnStep
    keeper: Keeper | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Of the run so far, with what earlier attempts spent on the way to where this one began."""
        earlier = self.keeper.earlier_seconds if self.keeper else 0.0
        return earlier + time.perf_counter() - self.started


def run_cell(
    cell: Cell,
    seed: int,
    network: Network,
    tokens: TaskTokens,
    features: FeatureCache,
    ranks: Ranks,
    attempt: Attempt,
) -> Outcome:
    """One run, from a pristine network or its last checkpoint to scores.

    Raises:
        ReinitError: the cell cannot be run: see `Network.prepare`.
        StoppedError: a signal came.
    """
    examples = tokens.subset(cell.size, seed)
    try:
        if isinstance(cell.treatment, Probe):
            train_loss, logits = _probe(cell, seed, examples, network, tokens, features, ranks, attempt.on_step)
        else:
            train_loss = _finetune(cell, seed, examples, network, ranks, attempt)
            logits = _predict(cell, network, tokens, ranks, attempt.keeper)
        _check_finite(cell, logits)
    except DivergedError as error:
        loss: Literal["nan", "inf", "-inf"] = "nan" if math.isnan(error.loss) else "inf" if error.loss > 0 else "-inf"
        about = _about(cell, seed, ranks, attempt)
        return Outcome(DivergedRun(**about, diverged_step=error.step, loss=loss), None)
    from reinit.evaluate import encode_predictions, score

    predictions = encode_predictions(logits)
    labels = {split: [example.label for example in rows] for split, rows in tokens.scored.items()}
    result = RunResult(
        **_about(cell, seed, ranks, attempt),
        metrics={
            f"{split}/{metric}": value
            for split, values in logits.items()
            for metric, value in score(cell.task, values, labels[split]).items()
        },
        validation_rows={split: len(values) for split, values in logits.items()},
        train_rows=len(examples),
        steps=cell.steps,
        train_loss=train_loss,
        predictions=hashlib.sha256(predictions).hexdigest(),
    )
    return Outcome(result, predictions)


def _finetune(
    cell: Cell, seed: int, examples: Sequence[Example], network: Network, ranks: Ranks, attempt: Attempt
) -> float:
    """Train the network, and return the training loss."""
    from reinit.checkpoint import UnusableError

    while True:
        network.prepare(cell, seed)
        try:
            return train(network, examples, cell, seed, ranks, attempt.on_step, attempt.keeper)
        except UnusableError:
            # The keeper passes over it from now on, so that this ends.
            continue


def _probe(
    cell: Cell,
    seed: int,
    examples: Sequence[Example],
    network: Network,
    tokens: TaskTokens,
    features: FeatureCache,
    ranks: Ranks,
    on_step: OnStep,
) -> tuple[float, dict[str, Logits]]:
    """Train or fit the classifier on features, and score it; returns the training loss and the logits by split."""
    assert isinstance(cell.treatment, Probe)  # noqa: S101  `run_cell` asked

    def tick() -> None:
        on_step(0, math.nan)

    values = features.training(cell, seed, network, tokens, tick)
    labels = np.array([example.label for example in examples], np.float32)
    if cell.treatment.fit == "converged":
        classifier, loss = fit_classifier(values(0), labels, cell.task.outputs)
    else:
        hidden = network.stack.network.config.hidden_size
        start = Classifier.fresh(cell.task.outputs, hidden, seed)
        classifier, loss = train_classifier(start, values, labels, cell.recipe, seed, on_step)
    if cell.treatment.scored == "released_reload":
        network.prepare(cell, seed)
        cast("ProbeNetwork", network.module).set_classifier(classifier.weight, classifier.bias)
        network.before_scoring(cell, seed)
        return loss, _predict(cell, network, tokens, ranks)
    bf16 = cell.recipe.precision == "bf16"
    scored = features.scored(cell, network, tokens, tick)
    return loss, {split: classifier.logits(rows, bf16=bf16) for split, rows in scored.items()}


def _predict(
    cell: Cell, network: Network, tokens: TaskTokens, ranks: Ranks, keeper: Keeper | None = None
) -> dict[str, Logits]:
    from reinit.evaluate import predict  # scikit-learn and scipy, a second that the first step need not wait for

    bf16 = cell.recipe.precision == "bf16"
    more = {"on_scored": keeper.scored} if keeper else {}
    if keeper:
        keeper.scores()
    return {
        split: predict(network.form, examples, ranks, bf16=bf16, **more) for split, examples in tokens.scored.items()
    }


def _check_finite(cell: Cell, logits: dict[str, Logits]) -> None:
    """A finite loss can still leave weights that are not: the last update has no later loss to betray it."""
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise DivergedError(cell.steps, math.nan)


def _about(cell: Cell, seed: int, ranks: Ranks, attempt: Attempt) -> dict[str, Any]:
    """The fields that every kind of result has."""
    seconds = attempt.seconds
    return {
        "cell": cell,
        "digest": cell.digest,
        "seed": seed,
        "wall_seconds": seconds,
        "gpu_seconds": seconds * ranks.world_size / ranks.sharers if ranks.device.type == "cuda" else 0.0,
        "finished_at": now(),
        "provenance": attempt.provenance,
    }
