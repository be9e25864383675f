"""Features of a task's texts, made once by the frozen encoder and shared by depths, features and seeds.

Law: a row is always passed in the same block of rows, made of what (task, size, seed) says and of nothing else: a
subset's rows in blocks of similar length, or at size "full" all training rows, the same blocks for every seed. So a
feature's bits never depend on which depths, features, seeds or runs are asked for, or on what is kept. Nothing of this
is ever written to the store.

Kept on local scratch are the features of training rows that were made last, up to `SCRATCH_BYTES`, and of one task's
scored rows. Float32 at hidden size 768, a depth and a feature of all of SST-2 are 207 MB, twelve depths 2.5 GB; of QNLI
322 MB and 3.9 GB. A Probe Job needs its own depth alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.cell import Cell, Probe, canonical
from jobs.errors import ConfigurationError
from reinit.batches import collate, evaluation_batches
from reinit.data import Example, subset
from reinit.depths import Depths, Wanted
from reinit.network import Network
from reinit.ranks import Ranks
from reinit.streams import stream_seed
from reinit.tokens import TaskTokens

SCRATCH_BYTES: Final = 8 * 2**30
"""Most that features of training rows may take; of a set that needs more, only those of the run at hand are made."""

Values = NDArray[np.float32]
"""Features in memory, [rows, hidden]."""

Tick = Callable[[], None]
"""Called after every block; may raise to stop the pass."""


class Features:
    """Features of `rows` texts in a file on local scratch that has no name, so that it never outlives the process."""

    def __init__(self, wanted: Sequence[Wanted], rows: int, hidden: int) -> None:
        """Room for every wanted depth and feature.

        Raises:
            ConfigurationError: there is not that much scratch.
        """
        self._place = {each: number for number, each in enumerate(wanted)}
        shape = (len(self._place), rows, hidden)
        with tempfile.TemporaryFile(prefix="reinit-features-") as file:
            try:
                # Taken now: a file that cannot grow when it is written to through memory kills the process.
                os.posix_fallocate(file.fileno(), 0, max(1, 4 * int(np.prod(shape))))
            except OSError as error:
                raise ConfigurationError(
                    "local scratch has no room for the features of a probe",
                    where=tempfile.gettempdir(),
                    expected=f"{4 * np.prod(shape) / 1e9:.1f} GB",
                    got=error.strerror,
                    remedy="make room there, raise the cluster's scratch, or set TMPDIR to another folder",
                ) from error
            self._values = np.memmap(file, np.float32, "r+", shape=shape)

    @property
    def nbytes(self) -> int:
        """What they take of the scratch."""
        return self._values.nbytes

    def __contains__(self, wanted: Wanted) -> bool:
        """Whether this depth and feature is here."""
        return wanted in self._place

    def write(self, rows: Sequence[int], values: Sequence[Tensor]) -> None:
        """Put in the features of `rows`, one tensor [rows, hidden] for each wanted in their order."""
        for place, value in zip(self._values, values, strict=True):
            place[rows] = value.float().cpu().numpy()

    def read(self, wanted: Wanted, rows: NDArray[np.int64] | slice) -> Values:
        """A copy in memory of the features of `rows`, [rows, hidden]."""
        values: Values = np.array(self._values[self._place[wanted]][rows])
        return values


class FeatureCache:
    """Makes features when a run first needs them and keeps those that the next run is likely to share."""

    def __init__(self, ranks: Ranks) -> None:
        """Every rank makes all features itself: a classifier is too small to share out."""
        self._ranks = ranks
        self._announced: dict[bytes, dict[Wanted, None]] = {}
        # By what they depend on, the oldest first, then by epoch.
        self._training: dict[bytes, dict[int, Features]] = {}
        self._scored_key, self._scored = b"", dict[str, Features]()

    def announce(self, cell: Cell) -> None:
        """A probe that may come: whoever makes the pass that it needs reads its depth and feature on the way."""
        own = wanted_by(cell)
        for key in (_training_rows(cell, None), _scored_rows(cell)):
            self._announced.setdefault(key, {})[own] = None

    def training(
        self, cell: Cell, seed: int, network: Network, tokens: TaskTokens, tick: Tick
    ) -> Callable[[int], Values]:
        """The features of a run's examples in their order, [rows, hidden], by epoch.

        With dropout in the encoder each epoch has its own; else all have the same.
        """

        def of_epoch(epoch: int) -> Values:
            features = self._features_of_epoch(cell, seed, epoch, network, tokens, tick)
            # At size "full" all seeds share the features of all rows and differ in order.
            rows = subset(cell.task, cell.size, seed) if cell.size == "full" else slice(None)
            return features.read(wanted_by(cell), rows)

        if _is_noisy(cell):
            return of_epoch
        values = of_epoch(0)
        return lambda _epoch: values

    def scored(self, cell: Cell, network: Network, tokens: TaskTokens, tick: Tick) -> dict[str, Values]:
        """The features of every scored example, [rows, hidden], by split; dropout off."""
        own, key = wanted_by(cell), _scored_rows(cell)
        if key != self._scored_key or not all(own in features for features in self._scored.values()):
            self.announce(cell)
            # None rather than half of them, should a pass be stopped.
            self._scored_key, self._scored = b"", {}
            scored = {}
            for split, examples in tokens.scored.items():
                network.prepare(cell, seed=0)
                scored[split] = self._pass(cell, network, examples, self._announced[key], tick)
            self._scored_key, self._scored = key, scored
        return {split: features.read(own, slice(None)) for split, features in self._scored.items()}

    def _features_of_epoch(
        self, cell: Cell, seed: int, epoch: int, network: Network, tokens: TaskTokens, tick: Tick
    ) -> Features:
        own, key = wanted_by(cell), _training_rows(cell, seed)
        kept = self._training.setdefault(key, {})
        if epoch not in kept or own not in kept[epoch]:
            # Refused where the network lacks the feature, before a pass for others would look for it.
            network.prepare(cell, seed)
            self.announce(cell)
            asked = self._announced[_training_rows(cell, None)]
            set_bytes = 4 * cell.rows * network.stack.network.config.hidden_size * len(asked)
            epochs = -(-cell.steps * cell.recipe.batch_size // cell.rows) if _is_noisy(cell) else 1
            fits = set_bytes * epochs <= SCRATCH_BYTES
            if not fits:
                kept.clear()
            self._make_room(set_bytes if fits else set_bytes // len(asked), key)
            examples = tokens.train.all() if cell.size == "full" else tokens.subset(cell.size, seed)
            stream = (seed, epoch) if _is_noisy(cell) else None
            kept[epoch] = self._pass(cell, network, examples, asked if fits else [own], tick, stream)
        return kept[epoch]

    def _make_room(self, wanted_bytes: int, key: bytes) -> None:
        """Forget the oldest sets of rows, but for `key`, until as much fits beside the others."""
        for other in list(self._training):
            kept_bytes = sum(features.nbytes for epochs in self._training.values() for features in epochs.values())
            if other != key and kept_bytes + wanted_bytes > SCRATCH_BYTES:
                del self._training[other]

    def _pass(
        self,
        cell: Cell,
        network: Network,
        examples: Sequence[Example],
        wanted: Iterable[Wanted],
        tick: Tick,
        stream: tuple[int, int] | None = None,
    ) -> Features:
        """One pass of all examples through the prepared network; `stream` is seed and epoch of its dropout."""
        device = self._ranks.device
        wanted = sorted(wanted)
        features = Features(wanted, len(examples), network.stack.network.config.hidden_size)
        with torch.autocast(device.type, torch.bfloat16, enabled=cell.recipe.precision == "bf16"):
            depths = Depths(network.stack, wanted, dropout=stream is not None)
            for block, rows in enumerate(evaluation_batches(examples)):
                batch = collate([examples[row] for row in rows], network.pad_token).to(device)
                if stream is not None:
                    # Anew for each block: how many draws the block before took depends on the depths asked for.
                    torch.manual_seed(stream_seed(stream[0], "dropout", "encoder", stream[1], block))
                features.write(rows, depths.read(batch.inputs))
                tick()
        return features


def wanted_by(cell: Cell) -> Wanted:
    """The depth and feature of a probe."""
    treatment = _probe(cell)
    return treatment.depth, treatment.feature


def _probe(cell: Cell) -> Probe:
    if not isinstance(cell.treatment, Probe):
        raise TypeError(f"{cell.name} is no probe")
    return cell.treatment


def _is_noisy(cell: Cell) -> bool:
    """Whether the encoder's dropout is on while the classifier trains."""
    return _probe(cell).encoder_dropout


def _scored_rows(cell: Cell) -> bytes:
    """What the features of scored rows depend on, besides depth and feature."""
    return canonical([cell.model.model_dump(), cell.task.model_dump(), cell.recipe.max_length, cell.recipe.precision])


def _training_rows(cell: Cell, seed: int | None) -> bytes:
    """The same for training rows; with None for all seeds together."""
    shares_seeds = cell.size == "full" and not _is_noisy(cell)
    dropout = cell.recipe.dropout if _is_noisy(cell) else None
    return _scored_rows(cell) + canonical([cell.size, None if shares_seeds else seed, dropout])
