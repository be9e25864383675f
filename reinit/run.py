"""The story of one run: prepare, train, score, tell.

Law: a run is a pure function of (cell, seed) within one numerics version; what ran before it in the same process
never shows.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jobs.cell import Cell
from jobs.result import DivergedRun, Provenance, RunResult, now
from reinit.data import Example, TaskTokens
from reinit.evaluate import Logits, encode_predictions, predict, score
from reinit.network import Network
from reinit.probe import ProbeNetwork
from reinit.ranks import Ranks
from reinit.train import DivergedError, OnStep, fit_probe, train


@dataclass(frozen=True)
class Outcome:
    """A result, with the bytes of its predictions object where it has one."""

    result: RunResult | DivergedRun
    predictions: bytes | None


def run_cell(
    cell: Cell,
    seed: int,
    network: Network,
    tokens: TaskTokens,
    ranks: Ranks,
    provenance: Provenance,
    on_step: OnStep,
) -> Outcome:
    """One run, from a pristine network to scores.

    Raises:
        ReinitError: the cell cannot be run: see `Network.prepare`.
    """
    started = time.perf_counter()
    try:
        network.prepare(cell, seed)
        examples = tokens.subset(cell.size, seed)
        train_loss = _fit(cell, seed, network, examples, ranks, on_step)
        network.before_scoring(cell, seed)
        logits = _predict(cell, network, tokens.scored, ranks)
    except DivergedError as error:
        loss: Literal["nan", "inf", "-inf"] = "nan" if math.isnan(error.loss) else "inf" if error.loss > 0 else "-inf"
        about = _about(cell, seed, ranks, provenance, started)
        return Outcome(DivergedRun(**about, diverged_step=error.step, loss=loss), None)
    predictions = encode_predictions(logits)
    labels = {split: [example.label for example in rows] for split, rows in tokens.scored.items()}
    result = RunResult(
        **_about(cell, seed, ranks, provenance, started),
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


def _fit(cell: Cell, seed: int, network: Network, examples: list[Example], ranks: Ranks, on_step: OnStep) -> float:
    """Train, or fit a probe that goes to convergence in one go; returns the training loss."""
    if isinstance(network.module, ProbeNetwork) and cell.steps == 0:
        bf16 = cell.recipe.precision == "bf16"
        return fit_probe(network.module, examples, network.pad_token, ranks, bf16=bf16)
    return train(network, examples, cell, seed, ranks, on_step)


def _predict(cell: Cell, network: Network, scored: dict[str, list[Example]], ranks: Ranks) -> dict[str, Logits]:
    bf16 = cell.recipe.precision == "bf16"
    logits = {
        split: predict(network.module, examples, network.pad_token, ranks, bf16=bf16)
        for split, examples in scored.items()
    }
    for values in logits.values():
        # A finite loss can still leave weights that are not: the last update has no later loss to betray it.
        if not np.isfinite(values).all():
            raise DivergedError(cell.steps, math.nan)
    return logits


def _about(cell: Cell, seed: int, ranks: Ranks, provenance: Provenance, started: float) -> dict[str, Any]:
    """The fields that every kind of result has."""
    seconds = time.perf_counter() - started
    return {
        "cell": cell,
        "digest": cell.digest,
        "seed": seed,
        "wall_seconds": seconds,
        "gpu_seconds": seconds * ranks.world_size if ranks.device.type == "cuda" else 0.0,
        "finished_at": now(),
        "provenance": provenance,
    }
