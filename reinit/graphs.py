"""Loss, gradients and their norm as CUDA graphs: one for each number of tokens, replayed in one launch.

Law: a replay computes what the same code computes kernel by kernel, dropout drawn from the same generator. A graph is
captured without moving a weight or the generator, so that it makes no difference when that happens.

At the paper's batch of 8 short texts a GPU waits for its host: launching a step's thousand kernels one by one takes
several times as long as running them (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from jobs.memory import no_collection
from reinit.rows import PackedBatch

WARM = 2
"""Steps before a capture: libraries make their workspaces when first used."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    batch: PackedBatch
    loss: Tensor
    norm: Tensor
    is_bad: Tensor
    gradients: list[tuple[nn.Parameter, Tensor]]


class Graphs:
    """Of one module's loss; kept as long as its parameters are the same tensors."""

    def __init__(self) -> None:
        self._key: object = None
        self._captured: dict[tuple[int, ...], _Captured] = {}
        self._pool: Any = None
        self._stream: Any = None

    def keep_if(self, key: object) -> None:
        """Forget every graph that was captured for another `key`: of parameters, layers, precision and loss."""
        if key != self._key:
            self._key, self._pool = key, None
            self._captured.clear()

    def __call__(
        self,
        batch: PackedBatch,
        parameters: list[nn.Parameter],
        loss_of: Callable[[PackedBatch], Tensor],
        finish: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of `batch`, the norm of its gradients, and 1 where the loss is not finite; each float32 [].

        The gradients are in `parameters`, at the same place for each batch of one shape; they and all but the loss hold
        until the next call.

        Args:
            batch: on the device.
            parameters: that a gradient is asked for.
            loss_of: the loss of a batch.
            finish: what follows the way back from a loss: the norm and the flag.
        """
        captured = self._captured.get(batch.shape)
        if captured is None:
            captured = self._captured[batch.shape] = self._capture(batch, parameters, loss_of, finish)
        captured.batch.flat.copy_(batch.flat, non_blocking=True)
        captured.graph.replay()
        for parameter, gradient in captured.gradients:
            parameter.grad = gradient
        return captured.loss.clone(), captured.norm, captured.is_bad

    def _capture(
        self,
        batch: PackedBatch,
        parameters: list[nn.Parameter],
        loss_of: Callable[[PackedBatch], Tensor],
        finish: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> _Captured:
        static = replace(batch, flat=batch.flat.clone())
        device = static.flat.device
        random = torch.cuda.get_rng_state(device)

        def step() -> tuple[Tensor, Tensor, Tensor]:
            for parameter in parameters:
                parameter.grad = None
            loss = loss_of(static)
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
            return loss, *finish(loss)

        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM):
                step()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if self._stream is None:
            # Before others: what the way back does not wait for is done where there is room beside it.
            self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
        # What garbage frees on the device, other graphs among it, would spoil a capture.
        with no_collection(), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            loss, norm, is_bad = step()
        self._pool = graph.pool()
        torch.cuda.set_rng_state(random, device)
        gradients = [(each, each.grad) for each in parameters if each.grad is not None]
        return _Captured(graph, static, loss, norm, is_bad, gradients)
