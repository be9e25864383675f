"""What the engine trains: a network called with a whole batch of training examples.

Two forms: packed (`reinit.packed`), for the architectures whose forward pass is written out there, and padded, the
library's own forward pass on any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reinit.batches import Batch, collate
from reinit.data import Example
from reinit.optimiser import Group
from reinit.packed import PackedClassifier


@dataclass(frozen=True)
class PaddedBatch:
    """B texts, and what each counts in the loss."""

    batch: Batch
    weights: Tensor
    """float32 [B]"""

    @property
    def labels(self) -> Tensor:
        """float32 [B]: class index or value."""
        return self.batch.labels


class PaddedClassifier(nn.Module):
    """A network of any architecture, on texts padded to the longest of the batch."""

    def __init__(self, network: nn.Module, pad_token: int) -> None:
        """Share the parameters of `network`."""
        super().__init__()
        self.network: Any = network
        self._pad_token = pad_token

    def forward(self, batch: PaddedBatch) -> Tensor:
        """Logits, [B, outputs]."""
        logits: Tensor = self.network(**batch.batch.inputs).logits
        return logits

    def fit_to(self, examples: Sequence[Example], groups: Sequence[Group]) -> list[Group]:  # noqa: ARG002
        """Nothing is left out: what other architectures do with an embedding is not known here."""
        return list(groups)

    def release(self) -> None:
        """Nothing was left out."""

    def collate(self, examples: Sequence[Example], weight: float, device: torch.device) -> PaddedBatch:
        """These texts on `device`, each with `weight` in the loss."""
        weights = torch.full((len(examples),), weight, device=device)
        return PaddedBatch(collate(examples, self._pad_token).to(device), weights)


Form = PackedClassifier | PaddedClassifier
