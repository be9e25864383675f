"""Scoring: every validation example once, after the last step; no selection, no early stopping.

Law: metrics are GLUE's, computed by scikit-learn and scipy from the logits that are kept; a constant prediction scores
0 wherever a correlation is undefined.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from jobs.cell import canonical
from jobs.tasks import Metric, Task
from reinit.batches import evaluation_batches
from reinit.data import Example
from reinit.forms import Form
from reinit.ranks import Ranks

Logits = NDArray[np.float32]
"""[rows, classes], or [rows, 1] for a regression task; rows in the order of the data."""


def predict(
    form: Form,
    examples: Sequence[Example],
    ranks: Ranks,
    *,
    bf16: bool,
    on_scored: Callable[[float], None] = lambda _: None,
) -> Logits:
    """Logits of every example, dropout off; every rank takes every n-th batch and every rank gets all of them.

    `on_scored` hears the share of batches that are done, on every rank at the same batch; it may raise to stop.
    """
    form.eval()
    parts: list[tuple[list[int], Logits]] = []
    batches = list(evaluation_batches(examples))
    with torch.inference_mode(), torch.autocast(ranks.device.type, torch.bfloat16, enabled=bf16):
        for number, indices in enumerate(batches):
            if number % ranks.world_size == 0:
                on_scored(number / len(batches))
            if number % ranks.world_size == ranks.rank:
                batch: Any = form.collate([examples[index] for index in indices], 1.0, ranks.device)
                parts.append((indices, form(batch).float().cpu().numpy()))
    if ranks.world_size > 1:
        gathered: list[list[tuple[list[int], Logits]]] = [[] for _ in range(ranks.world_size)]
        torch.distributed.all_gather_object(gathered, parts)
        parts = [part for share in gathered for part in share]
    logits: Logits = np.empty((len(examples), parts[0][1].shape[1]), dtype=np.float32)
    for indices, values in parts:
        logits[indices] = values
    return logits


def score(task: Task, logits: Logits, labels: Sequence[float]) -> dict[Metric, float]:
    """The task's metrics on one split."""
    truth = np.asarray(labels, dtype=np.float64)
    if task.labels is None:
        values = logits[:, 0].astype(np.float64)
        return {metric: _correlation(metric, truth, values) for metric in task.metrics}
    classes, guesses = truth.astype(np.int64), logits.argmax(axis=1)
    return {metric: _agreement(metric, classes, guesses) for metric in task.metrics}


def _correlation(metric: Metric, truth: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    if np.ptp(truth) == 0 or np.ptp(values) == 0:
        return 0.0
    if metric == "pearson":
        return float(stats.pearsonr(truth, values).statistic)
    return float(stats.spearmanr(truth, values).statistic)


def _agreement(metric: Metric, classes: NDArray[np.int64], guesses: NDArray[np.int64]) -> float:
    if metric == "accuracy":
        return float(sk.accuracy_score(classes, guesses))
    if metric == "matthews":
        return float(sk.matthews_corrcoef(classes, guesses))
    average = "binary" if metric == "f1" else "macro"
    return float(sk.f1_score(classes, guesses, average=average, zero_division=0))


def encode_predictions(logits: Mapping[str, Logits]) -> bytes:
    """The predictions object: canonical JSON, per split the shape and the little-endian float32 logits in base64."""
    splits = {
        split: {
            "shape": list(values.shape),
            "logits": base64.b64encode(values.astype("<f4").tobytes()).decode("ascii"),
        }
        for split, values in logits.items()
    }
    return canonical({"schema_version": 1, "splits": splits})
