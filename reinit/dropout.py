"""Dropout on a CPU at a third of torch's price.

Law: each value is zero with probability p, to 1 in 16 million, else divided by 1 - p; drawn from torch's generator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def drop(values: Tensor, probability: float) -> Tensor:
    """`values` with some of them zero.

    Torch draws each as a Bernoulli variable from 53 random bits, which takes a tenth of a small network's step; its
    uniform numbers have 24.
    """
    if values.device.type != "cpu" or not probability:
        return F.dropout(values, probability)
    dropped: Tensor = _Dropout.apply(values, probability)  # type: ignore[no-untyped-call]
    return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, probability: float) -> Tensor:
        scale = torch.rand(values.shape).ge_(probability).mul_(1 / (1 - probability)).to(values.dtype)
        ctx.save_for_backward(scale)
        return values * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradient * scale, None
