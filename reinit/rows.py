"""Texts one after another in one row, as tensors.

Law: every token is there once. What fills a row up, so that a captured graph has one shape for many batches, is a text
of its own that weighs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinit.data import Example

MOST_TOGETHER: Final = 256
"""Tokens that attend as one text with a mask. More are taken apart first: the scores grow with the square."""
TOKENS: Final = 32
"""A filled-up batch has a multiple of this many tokens, and of a larger one where that is not more than a sixteenth."""

Rows = Callable[[NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True)
class PackedBatch:
    """B texts of N tokens in all, as one tensor, so that it goes to a device in one copy.

    Of N > `MOST_TOGETHER` tokens it also says where they are in R padded texts of T tokens.
    """

    flat: Tensor
    """int64, one after another what the properties say."""
    tokens: int
    texts: int
    longest: int
    """T, 0 where the texts attend together."""

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on `device`; a GPU is not waited for."""
        if device.type == "cpu":
            return self
        flat = self.flat.pin_memory().to(device, non_blocking=True)
        return PackedBatch(flat, self.tokens, self.texts, self.longest)

    @property
    def shape(self) -> tuple[int, ...]:
        """What a graph that is captured for this batch fits."""
        return self.tokens, self.texts, self.longest, len(self.flat)

    @property
    def ids(self) -> Tensor:
        """int64 [N]"""
        return self._of_tokens(0)

    @property
    def types(self) -> Tensor:
        """int64 [N]"""
        return self._of_tokens(1)

    @property
    def positions(self) -> Tensor:
        """int64 [N], as the network's own embedding counts them."""
        return self._of_tokens(2)

    @property
    def numbers(self) -> Tensor:
        """The text of each token, int64 [N]."""
        return self._of_tokens(3)

    @property
    def padded(self) -> Tensor:
        """Where each token is in the padded texts, int64 [N]; all that fills up in one place that no other has."""
        return self._of_tokens(4)

    @property
    def firsts(self) -> Tensor:
        """Index of each text's first token, int64 [B]."""
        return self._of_texts(0)

    @property
    def labels(self) -> Tensor:
        """float32 [B]: class index or value."""
        return self.labels_and_weights[0].float()

    @property
    def weights(self) -> Tensor:
        """float32 [B]: what each text's loss counts."""
        return self.labels_and_weights[1].float()

    @property
    def labels_and_weights(self) -> tuple[Tensor, Tensor]:
        """The same as they were packed, float64 [B] each."""
        return self._of_texts(1).view(torch.float64), self._of_texts(2).view(torch.float64)

    @property
    def sources(self) -> Tensor:
        """The token at each place of the padded texts, int64 [R, T]; -1 where there is none."""
        return self.flat[5 * self.tokens + 3 * self.texts :].view(-1, self.longest)

    def _of_tokens(self, row: int) -> Tensor:
        return self.flat[row * self.tokens : (row + 1) * self.tokens]

    def _of_texts(self, row: int) -> Tensor:
        first = 5 * self.tokens + row * self.texts
        return self.flat[first : first + self.texts]


def pack(
    examples: Sequence[Example],
    weight: float,
    rows_of: Rows = lambda ids: ids,
    fill_to: int | None = None,
    padding: int | None = None,
) -> PackedBatch:
    """One row of these texts, each with `weight` in the loss.

    Args:
        examples: at least one.
        weight: of each.
        rows_of: the rows of the embedding that token ids have.
        fill_to: so many texts, and tokens so that many batches have as many; None for no more than there are.
        padding: where positions are counted from the padding token's id on, that id. There a padding token that a text
            happens to spell out has no position of its own.
    """
    lengths = np.array([len(example.input_ids) for example in examples])
    used, longest = int(lengths.sum()), int(lengths.max())
    tokens, texts = (used, len(examples)) if fill_to is None else (room_for(used), fill_to)
    starts = lengths.cumsum() - lengths
    ids = np.concatenate([example.input_ids for example in examples])
    numbers = np.repeat(np.arange(len(examples)), lengths)
    places = np.arange(used) - starts[numbers]

    of_tokens, of_texts = np.zeros((5, tokens), np.int64), np.zeros((3, texts), np.int64)
    of_tokens[0, :used] = rows_of(ids)
    if examples[0].token_type_ids is not None:
        of_tokens[1, :used] = np.concatenate([example.token_type_ids for example in examples])
    of_tokens[2] = 0 if padding is None else padding
    of_tokens[2, :used] = places if padding is None else padding + _counted(ids != padding, starts, numbers)
    of_tokens[3, :used], of_tokens[3, used:] = numbers, texts
    of_texts[0, : len(examples)] = starts
    of_texts[1:, : len(examples)] = np.array([[example.label, weight] for example in examples]).T.view(np.int64)
    parts = [of_tokens.ravel(), of_texts.ravel()]

    if tokens <= MOST_TOGETHER:
        longest = 0
    else:
        longest = longest if fill_to is None else -(-longest // TOKENS) * TOKENS
        of_tokens[4, :used], of_tokens[4, used:] = numbers * longest + places, texts * longest
        # One text more than there are, for what fills up.
        sources = np.full((texts + (fill_to is not None)) * longest, -1, np.int64)
        sources[of_tokens[4, :used]] = np.arange(used)
        parts.append(sources)
    return PackedBatch(torch.from_numpy(np.concatenate(parts)), tokens, texts, longest)


def room_for(tokens: int) -> int:
    """The number of tokens that a batch of `tokens` is filled up to."""
    multiple = TOKENS
    while tokens > 16 * multiple:
        multiple *= 2
    return -(-tokens // multiple) * multiple


def _counted(is_counted: NDArray[np.bool_], starts: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """1, 2, ... for those tokens of each text that count, 0 for the others."""
    counts = is_counted.cumsum()
    before = counts[starts] - is_counted[starts]
    places: NDArray[np.int64] = is_counted * (counts - before[numbers])
    return places
