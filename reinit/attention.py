"""Attention of packed texts, each token to those of its own text alone.

Written out, since at the sizes of this project that is faster than torch's fused kernels, on a CPU, where those have no
dropout, as on a GPU, where a few long rows leave most of it idle.

Shapes: N tokens of B texts, H = h heads of size d; R padded texts of T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reinit.rows import PackedBatch

Drop = Callable[[Tensor], Tensor]
Relative = Callable[[Tensor], Tensor]
"""What a network adds to the scores, [h, ., .], given by how many places a key is behind its query."""


def attention_of(batch: PackedBatch, heads: int, relative: Relative | None) -> Together | Apart:
    """The way to attend that suits the batch."""
    return Apart(batch, heads, relative) if batch.longest else Together(batch, heads, relative)


class Together:
    """All texts as one, with a mask between them."""

    def __init__(self, batch: PackedBatch, heads: int, relative: Relative | None) -> None:
        numbers = batch.numbers
        self._heads = heads
        self._firsts = batch.firsts
        is_other = numbers.unsqueeze(1) != numbers.unsqueeze(0)
        places = torch.arange(batch.tokens, device=numbers.device)
        self._bias = _masked(is_other, places, relative)

    def __call__(self, query: Tensor, key_NH: Tensor, value_NH: Tensor, drop: Drop, *, is_last: bool) -> Tensor:
        """What each query attends to, in the query's shape: [N, H], or [B, H] in the last layer."""
        bias = self._bias.index_select(1, self._firsts) if is_last else self._bias
        query, key, value = (
            each.view(len(each), self._heads, -1).transpose(0, 1) for each in (query, key_NH, value_NH)
        )
        scores = torch.baddbmm(
            bias.expand(self._heads, -1, -1), query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5
        )
        attended = torch.bmm(drop(scores.softmax(-1, dtype=torch.float32)), value)
        return attended.transpose(0, 1).flatten(1)


class Apart:
    """Each text by itself, padded: taken out of the row and put back."""

    def __init__(self, batch: PackedBatch, heads: int, relative: Relative | None) -> None:
        self._heads, self._texts = heads, batch.texts
        self._padded, self._sources = batch.padded, batch.sources
        # A text without a token, which fills up, attends to what nobody reads.
        is_missing = self._sources < 0
        is_missing[:, 0] = False
        places = torch.arange(batch.longest, device=batch.flat.device)
        self._bias = _masked(is_missing[:, None, None, :], places, relative)
        self._sources = self._sources.clamp(min=0).flatten()

    def __call__(self, query: Tensor, key_NH: Tensor, value_NH: Tensor, drop: Drop, *, is_last: bool) -> Tensor:
        """What each query attends to, in the query's shape: [N, H], or [B, H] in the last layer."""
        key, value = self._apart(key_NH), self._apart(value_NH)
        bias = self._bias
        if is_last:
            own = query.view(self._texts, self._heads, 1, -1)
            key, value = key[: self._texts], value[: self._texts]
            bias = bias[: self._texts] if len(bias) > 1 else bias
            # The first token of each text.
            bias = bias[:, :, :1]
        else:
            own = self._apart(query)
        scores = torch.matmul(own * own.shape[-1] ** -0.5, key.transpose(-1, -2)) + bias
        attended = torch.matmul(drop(scores.softmax(-1, dtype=torch.float32)), value)
        attended = attended.transpose(1, 2).flatten(0, 1).flatten(1)
        if is_last:
            return attended
        back: Tensor = _PutBack.apply(attended, self._padded)  # type: ignore[no-untyped-call]
        return back

    def _apart(self, values_NH: Tensor) -> Tensor:
        """[R, h, T, d]"""
        taken: Tensor = _TakeOut.apply(values_NH, self._sources, self._padded)  # type: ignore[no-untyped-call]
        texts = taken.view(-1, self._bias.shape[-1], self._heads, taken.shape[-1] // self._heads)
        return texts.transpose(1, 2)


def _masked(is_masked: Tensor, places: Tensor, relative: Relative | None) -> Tensor:
    """Zero or `relative`, and minus infinity where `is_masked`, in the precision of the products."""
    device = places.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    if relative is None:
        zeros = torch.zeros_like(is_masked, dtype=dtype).masked_fill_(is_masked, -torch.inf)
        return zeros if zeros.ndim == 4 else zeros.unsqueeze(0)
    bias = relative(places.unsqueeze(0) - places.unsqueeze(1)).to(dtype)
    return (bias.unsqueeze(0) if is_masked.ndim == 4 else bias).masked_fill(is_masked, -torch.inf)


class _TakeOut(torch.autograd.Function):
    """Tokens at their places in padded texts; a place without one holds another's, which is masked.

    The gradient of a masked place is zero, so that the way back reads each token's own place: torch's would add up what
    meets in one token, in an order that it has to sort for.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, sources: Tensor, padded: Tensor) -> Tensor:
        ctx.save_for_backward(padded)
        return values.index_select(0, sources)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (padded,) = ctx.saved_tensors
        return gradient.index_select(0, padded), None, None


class _PutBack(torch.autograd.Function):
    """The tokens of padded texts, one after another."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, padded: Tensor) -> Tensor:
        ctx.save_for_backward(padded)
        ctx.places = len(values)
        return values.index_select(0, padded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (padded,) = ctx.saved_tensors
        # What fills up shares a place, where nothing but zeros is written.
        return gradient.new_zeros(ctx.places, gradient.shape[1]).index_copy_(0, padded, gradient), None
