"""The rows of a token embedding that a run's texts have, in the place of all of them while it trains.

Law: exact. A row that never occurs has no gradient, and without weight decay AdamW leaves it as it is; so it need not
be in the optimiser's memory, nor in its passes over that, nor be restored after the run. The rows that do occur are
trained at every step, also where a batch lacks them, since AdamW moves a row after its last gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reinit.data import Example
from reinit.optimiser import Group

TOGETHER: Final = 1024


class UsedRows:
    """Of one embedding, taken out with `take` and put back with `put_back`.

    Runs share their memory, a multiple of `TOGETHER` rows. On a GPU the rows taken are filled up to that, and runs of
    one shape share the parameter too: captured graphs refer to it.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        """Of an embedding that is looked up by token ids and used for nothing else."""
        self.embedding = embedding
        self._places: NDArray[np.int64] | None = None
        self._whole: nn.Parameter | None = None
        self._padding: int | None = None
        self._rows = torch.empty(0, dtype=torch.int64)
        self._taken: nn.Parameter | None = None
        self._memory = torch.empty(0, 0)
        # Torch's count of changes of the whole embedding: when it was restored and since not used; and when after that
        # only `self._rows` were trained. A fused optimiser's changes are not counted, so neither is kept for long.
        self._restored: int | None = None
        self._trained: int | None = None

    @torch.no_grad()
    def take(self, examples: Sequence[Example], groups: Sequence[Group]) -> list[Group]:
        """Leave only the rows of these texts in the embedding, and return the optimiser's groups with them.

        Nothing happens where it would not be exact, or would save nothing.
        """
        whole = _weight(self.embedding)
        is_used = np.zeros(len(whole), np.bool_)
        is_used[np.fromiter(chain.from_iterable(example.input_ids for example in examples), np.int64)] = True
        used = np.flatnonzero(is_used)
        together = -(-len(used) // TOGETHER) * TOGETHER
        room = together if whole.is_cuda else len(used)
        decays = {group.weight_decay for group in groups if any(each is whole for each in group.parameters)}
        if decays != {0.0} or room >= len(whole) or self.embedding.max_norm is not None:
            self._restored = None
            return list(groups)
        self._places = np.zeros(len(whole), np.int64)
        self._places[used] = np.arange(len(used))
        rows = torch.from_numpy(used).to(whole.device)
        if together > len(self._memory) or (whole.is_cuda and together != len(self._memory)):
            self._memory, self._taken = whole.new_empty(together, whole.shape[1]), None
        if self._taken is None or len(self._taken) != room:
            self._taken = nn.Parameter(self._memory[:room])
        taken = self._taken
        torch.index_select(whole, 0, rows, out=taken[: len(used)])
        taken[len(used) :].zero_()
        self._whole, self._rows, self.embedding.weight = whole, rows, taken
        self._padding = padding = self.embedding.padding_idx
        self.embedding.num_embeddings = room
        self.embedding.padding_idx = None if padding not in used else int(self._places[padding])
        return [_with(group, whole, taken) for group in groups]

    @torch.no_grad()
    def put_back(self) -> None:
        """The whole embedding again, the trained rows in their places."""
        if self._whole is None:
            return
        whole, taken = self._whole, _weight(self.embedding)
        was_restored = _changes(whole) == self._restored
        whole[self._rows] = taken[: len(self._rows)]
        self._restored, self._trained = None, _changes(whole) if was_restored else None
        taken.grad = None
        self.embedding.weight = whole
        self.embedding.num_embeddings, self.embedding.padding_idx = len(whole), self._padding
        self._places = self._whole = None

    @torch.no_grad()
    def restore(self, start: Tensor) -> None:
        """The values `start` again, always the same: in the rows alone that were trained, where that is known."""
        whole = _weight(self.embedding)
        if _changes(whole) == self._trained:
            whole[self._rows] = start.index_select(0, self._rows)
        else:
            whole.copy_(start)
        self._restored, self._trained = _changes(whole), None

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each token id as the embedding is now."""
        return ids if self._places is None else self._places[ids]


def _weight(embedding: nn.Embedding) -> nn.Parameter:
    weight = embedding.weight
    assert isinstance(weight, nn.Parameter)  # noqa: S101  torch declares a tensor
    return weight


def _changes(tensor: Tensor) -> int:
    """How often torch has counted that it was written to."""
    return tensor._version  # noqa: SLF001  has no public name


def _with(group: Group, old: Tensor, new: nn.Parameter) -> Group:
    return replace(group, parameters=tuple(new if each is old else each for each in group.parameters))
