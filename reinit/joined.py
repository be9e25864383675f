"""Weights of several linear maps copied together: side by side, in another precision, or both.

Law: gradients go back to the parameters themselves, in their precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Weights = dict[nn.Module, tuple[Tensor, Tensor]]
"""Weight [outputs, inputs] and bias [outputs] by module."""


def joined_weights(groups: Sequence[Sequence[nn.Linear]], dtype: torch.dtype) -> Weights:
    """One weight and one bias for each group, under its first module: those of its modules one below the other."""
    members: list[list[Tensor]] = []
    for group in groups:
        members += [[each.weight for each in group], [each.bias for each in group]]
    sizes = [[len(part) for part in parts] for parts in members]
    flat: Any = _Joined.apply(sizes, dtype, *(part for parts in members for part in parts))  # type: ignore[no-untyped-call]
    return {group[0]: (flat[2 * index], flat[2 * index + 1]) for index, group in enumerate(groups)}


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sizes: list[list[int]], dtype: torch.dtype, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.sizes, ctx.dtypes = sizes, [part.dtype for part in parts]
        joined, places, first = [], list[Tensor](), 0
        for own in sizes:
            whole = parts[first].new_empty((sum(own), *parts[first].shape[1:]), dtype=dtype)
            joined.append(whole)
            places += torch.split(whole, own)
            first += len(own)
        torch._foreach_copy_(places, list(parts))
        return tuple(joined)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        parts = [part for whole, own in zip(gradients, ctx.sizes, strict=True) for part in torch.split(whole, own)]
        back = [torch.empty_like(part, dtype=dtype) for part, dtype in zip(parts, ctx.dtypes, strict=True)]
        torch._foreach_copy_(back, parts)
        return None, None, *back
