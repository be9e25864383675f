"""AdamW's update as one kernel, for parameters whose gradients are where a captured graph leaves them.

Law: torch's own fused AdamW, up to floating-point order. On its way it clips and writes the copies of parameters that
products take.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from reinit.kernels import Launch

PIECE: Final = 2048
"""As in `kernels.cu`."""


class Update:
    """Updates of some parameters in one launch, whatever their number."""

    def __init__(
        self,
        launch: Launch,
        states: Sequence[tuple[Tensor, Mapping[str, Any]]],
        copies: Mapping[Tensor, Tensor],
    ) -> None:
        """Of parameters that have gradients, each with its state under torch's names.

        Their tensors, and those of their gradients, must stay where they are as long as this is used.
        """
        device = states[0][0].device
        rows, pieces = [], []
        for index, (parameter, state) in enumerate(states):
            gradient, copy = parameter.grad, copies.get(parameter)
            assert gradient is not None and gradient.is_contiguous()  # noqa: PT018, S101  as the caller has seen to
            tensors = (parameter, state["exp_avg"], state["exp_avg_sq"], state["step"], gradient, copy)
            addresses = [0 if each is None else each.data_ptr() for each in tensors]
            # Four values are read at a time.
            assert parameter.numel() < 4 or not any(address % 16 for address in addresses[:3] + addresses[4:5])  # noqa: S101
            rows.append([*addresses, parameter.numel(), int(copy is not None and copy.dtype == torch.bfloat16)])
            of_this = np.arange(-(-parameter.numel() // PIECE), dtype=np.int32)
            pieces.append(np.stack([np.full_like(of_this, index), of_this], axis=1))
        self._launch, self._count = launch, len(rows)
        self._trained = torch.tensor(rows, dtype=torch.int64, device=device)
        self._pieces = torch.from_numpy(np.concatenate(pieces)).to(device)
        self._corrections = torch.empty(len(rows), 2, device=device)
        self._divisor = torch.empty(1, device=device)

    def __call__(self, group: Mapping[str, Any], norm: Tensor, skip: Tensor, clip: float) -> None:
        """One step with the numbers of an optimiser's group, gradients clipped to `clip`; none where `skip` is 1."""
        beta1, beta2 = group["betas"]
        self._launch(
            "adamw_begin",
            (1,),
            (256,),
            *(self._trained, self._count, norm, skip, float(clip)),
            *(ctypes.c_double(beta1), ctypes.c_double(beta2), self._corrections, self._divisor),
        )
        self._launch(
            "adamw",
            (len(self._pieces),),
            (256,),
            *(self._trained, self._pieces, self._corrections, self._divisor, skip),
            *(float(number) for number in (group["lr"], group["weight_decay"], beta1, beta2, group["eps"])),
        )
