"""Examples -> padded or packed tensors, in a training run's order or sorted by length for evaluation.

Law: a training batch is the next `batch_size` examples of the epoch's permutation, whatever their lengths. Padding, to
the longest of the batch, and filling, behind the last text, are masked, so they move no score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


@dataclass(frozen=True)
class PackedBatch:
    """B texts of N tokens in all, as one tensor, so that it goes to a device in one copy."""

    flat: Tensor
    """int64 [4 N + 3 B]: of each token its id, type, position and text's number; of each text where its first
    token is, and the bits of its label and of its weight in the loss as float64."""
    texts: int

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on `device`; a GPU is not waited for."""
        if device.type == "cpu":
            return self
        return PackedBatch(self.flat.pin_memory().to(device, non_blocking=True), self.texts)

    @property
    def tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids, types, positions and text numbers, each int64 [N]."""
        ids, types, positions, texts = self.flat[: len(self.flat) - 3 * self.texts].view(4, -1).unbind()
        return ids, types, positions, texts

    @property
    def firsts(self) -> Tensor:
        """Index of each text's first token, int64 [B]."""
        return self._of_texts(0)

    @property
    def labels(self) -> Tensor:
        """float32 [B]: class index or value."""
        return self._of_texts(1).view(torch.float64).float()

    @property
    def weights(self) -> Tensor:
        """float32 [B]: what each text's loss counts."""
        return self._of_texts(2).view(torch.float64).float()

    def _of_texts(self, row: int) -> Tensor:
        return self.flat[len(self.flat) - 3 * self.texts :].view(3, -1)[row]


def pack(
    examples: Sequence[Example],
    weight: float,
    rows_of: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda ids: ids,
    room: Callable[[int], int] = lambda tokens: tokens,
    texts: int | None = None,
    padding: int | None = None,
) -> PackedBatch:
    """One row of these texts, each with `weight` in the loss.

    Args:
        examples: at least one.
        weight: of each.
        rows_of: the rows of the embedding that token ids have.
        room: how many tokens there are to be; the rest is a text of its own that nobody reads.
        texts: how many there are to be; the rest has no weight.
        padding: where positions are counted from the padding token's id on, that id. There a padding token that a text
            happens to spell out has no position of its own.
    """
    lengths = np.array([len(example.input_ids) for example in examples])
    used = int(lengths.sum())
    width, rows = room(used), texts or len(examples)
    flat = np.zeros(4 * width + 3 * rows, np.int64)
    of_tokens, of_texts = flat[: 4 * width].reshape(4, width), flat[4 * width :].reshape(3, rows)
    ids = np.concatenate([example.input_ids for example in examples])
    of_tokens[0, :used] = rows_of(ids)
    if examples[0].token_type_ids is not None:
        of_tokens[1, :used] = np.concatenate([example.token_type_ids for example in examples])
    starts = lengths.cumsum() - lengths
    if padding is None:
        of_tokens[2, :used] = np.arange(used) - np.repeat(starts, lengths)
    else:
        counted = ids != padding
        counts = counted.cumsum()
        before = counts[starts] - counted[starts]
        of_tokens[2] = padding
        of_tokens[2, :used] += counted * (counts - np.repeat(before, lengths))
    of_tokens[3, :used] = np.repeat(np.arange(len(examples)), lengths)
    of_tokens[3, used:] = rows
    of_texts[0, : len(examples)] = starts
    of_texts[1, : len(examples)] = np.array([example.label for example in examples], np.float64).view(np.int64)
    of_texts[2, : len(examples)] = np.array([weight] * len(examples), np.float64).view(np.int64)
    return PackedBatch(torch.from_numpy(flat), rows)


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
