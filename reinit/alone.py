"""DeepSpeed's engine in a process that has no peers, without what it does at its start for them.

Law: the engine that `deepspeed.initialize` would return, in the same state. Should a method that is left out here go by
another name one day, it is not left out: that takes a few milliseconds a run and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import deepspeed
from torch.optim import Optimizer


class LoneEngine(deepspeed.DeepSpeedEngine):  # type: ignore[misc]  # DeepSpeed ships no types
    """What `deepspeed.initialize` makes within `alone`."""

    def _broadcast_model(self) -> None:
        """Nobody is there to hear every parameter."""

    def _check_for_duplicates(self, optimizer: Optimizer) -> None:
        """Torch has refused a parameter in two groups already, without comparing each with all others."""


@contextmanager
def alone() -> Iterator[None]:
    """Let `deepspeed.initialize` make a `LoneEngine`, which it has no way of being asked for."""
    usual = deepspeed.DeepSpeedEngine
    deepspeed.DeepSpeedEngine = LoneEngine
    try:
        yield
    finally:
        deepspeed.DeepSpeedEngine = usual
