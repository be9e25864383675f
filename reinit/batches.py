"""Examples -> padded tensors, in a training run's order or sorted by length for evaluation.

Law: a training batch is the next `batch_size` examples of the epoch's permutation, whatever their lengths; padding
goes to the longest of the batch and is masked, so it moves no score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.cell import Recipe
from reinit.data import Example
from reinit.streams import stream

TOKENS_PER_EVALUATION_BATCH = 4096
"""Padded tokens of one evaluation batch; moves no score beyond floating-point order."""


@dataclass(frozen=True)
class Batch:
    """B examples padded to T tokens."""

    inputs: dict[str, Tensor]
    """`input_ids`, `attention_mask` and perhaps `token_type_ids`, each int64 [B, T]."""
    labels: Tensor
    """float32 [B]: class index or value."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels.to(device, non_blocking=True))


def collate(examples: Sequence[Example], pad_token: int) -> Batch:
    """Pad on the right to the longest example."""
    longest = max(len(example.input_ids) for example in examples)

    def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.int64)

    inputs = {
        "input_ids": padded([example.input_ids for example in examples], pad_token),
        "attention_mask": padded([[1] * len(example.input_ids) for example in examples], 0),
    }
    types = [example.token_type_ids for example in examples if example.token_type_ids is not None]
    if len(types) == len(examples):
        inputs["token_type_ids"] = padded(types, 0)
    return Batch(inputs, torch.tensor([example.label for example in examples], dtype=torch.float32))


def training_batches(examples: Sequence[Example], recipe: Recipe, seed: int) -> Iterator[list[Example]]:
    """The global batches of a whole run, one per optimiser step; each epoch has an order of its own."""
    for order in training_orders(len(examples), recipe, seed):
        for start in range(0, len(order), recipe.batch_size):
            yield [examples[index] for index in order[start : start + recipe.batch_size].tolist()]


def training_orders(rows: int, recipe: Recipe, seed: int) -> Iterator[NDArray[np.int64]]:
    """Indices of the examples of each epoch in their order; the last epoch ends with the run's last step."""
    left, epoch = recipe.steps(rows), 0
    while left > 0:
        order = torch.randperm(rows, generator=stream(seed, "order", epoch))[: left * recipe.batch_size]
        yield order.numpy()
        left -= -(-len(order) // recipe.batch_size)
        epoch += 1


def evaluation_batches(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Indices of wide batches of similar length, longest first."""
    by_length = sorted(range(len(examples)), key=lambda index: -len(examples[index].input_ids))
    start = 0
    while start < len(by_length):
        longest = len(examples[by_length[start]].input_ids)
        width = max(1, TOKENS_PER_EVALUATION_BATCH // longest)
        yield by_length[start : start + width]
        start += width
