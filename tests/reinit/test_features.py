"""Features kept and shared: one pass serves many runs, and no run's bits show who else was served."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reinit.features
from jobs.cell import Cell, Epochs, Probe
from jobs.errors import ConfigurationError
from reinit.depths import Depths
from reinit.features import Features
from reinit.worker import Worker
from tests.reinit.tiny import places_of, tiny_cell, write_sentences

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each block had that went through the frozen network."""
    seen: list[int] = []
    read = Depths.read

    def counted(depths: Depths, inputs: Any) -> Any:
        seen.append(len(inputs["input_ids"]))
        return read(depths, inputs)

    monkeypatch.setattr(Depths, "read", counted)
    return seen


def cells_of(folder: Path, size: Any = 10, **options: Any) -> list[Cell]:
    recipe = {"duration": Epochs(epochs=2), "dropout": 0.2}
    probes = [Probe(depth=depth, feature=feature, **options) for depth in (1, 2, 5) for feature in ("pooler", "mean")]
    return [tiny_cell(folder, treatment=probe, size=size, recipe=recipe) for probe in probes]


def predictions(worker: Worker, cell: Cell, seed: int) -> bytes:
    found = worker.run(cell, seed, lambda *_: None).predictions
    assert found is not None
    return found


@pytest.mark.parametrize("size", ["full", 10])
def test_one_pass_over_the_training_rows_and_one_over_the_scored_serve_all_depths_and_features(
    folder: Path, blocks: list[int], size: Any
) -> None:
    """At size "full" also all seeds, in any order; a subset has other rows for each."""
    cells = cells_of(folder, size)
    worker = Worker(places_of(folder))
    worker.check(cells)
    for cell in cells:
        for seed in SEEDS:
            predictions(worker, cell, seed)
    # Twelve training rows, ten of them in a subset, and eight to score: each in a single block.
    assert sorted(blocks) == ([8, 12] if size == "full" else [8, 10, 10])


def test_dropout_in_the_encoder_takes_one_pass_for_each_epoch_and_seed(folder: Path, blocks: list[int]) -> None:
    cells = cells_of(folder, encoder_dropout=True)
    worker = Worker(places_of(folder))
    worker.check(cells)
    for seed in SEEDS:
        for cell in cells:
            predictions(worker, cell, seed)
    assert sorted(blocks) == [8, 10, 10, 10, 10]


@pytest.mark.parametrize(
    "options",
    [{}, {"encoder_dropout": True}, {"fit": "converged"}, {"scored": "released_reload"}, {"size": "full"}],
    ids=["still", "noisy", "converged", "reload", "full"],
)
def test_a_run_alone_has_the_bits_of_a_run_among_others(
    folder: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(folder, **options)
    shared = Worker(places_of(folder))
    shared.check(cells)
    together = {(cell, seed): predictions(shared, cell, seed) for seed in SEEDS for cell in cells}
    # Scratch for one depth alone, and every run after one of another depth: nothing can be shared.
    monkeypatch.setattr(reinit.features, "SCRATCH_BYTES", 4 * 12 * 384)
    cramped = Worker(places_of(folder))
    cramped.check(cells)
    for cell, seed in itertools.product(reversed(cells), SEEDS):
        assert predictions(cramped, cell, seed) == together[cell, seed]
    # A worker that was told of nothing, for its first run.
    alone = Worker(places_of(folder))
    assert predictions(alone, cells[3], 2) == together[cells[3], 2]
    assert len(set(together.values())) == 12


def test_the_oldest_set_of_rows_goes_first_when_there_is_no_room_for_another(
    folder: Path, blocks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cells_of(folder)[0]
    # Two sets of ten rows.
    monkeypatch.setattr(reinit.features, "SCRATCH_BYTES", 2 * 10 * 384 * 4)
    worker = Worker(places_of(folder))
    passes = []
    for seed in (1, 2, 1, 3, 2, 1):
        before = len(blocks)
        predictions(worker, cell, seed)
        passes.append(len(blocks) - before)
    # The first also passes the rows to score; seed 3 takes the place of seed 1.
    assert passes == [2, 1, 0, 1, 0, 1]


def test_a_depth_that_nobody_announced_is_made_when_it_comes(folder: Path, blocks: list[int]) -> None:
    cells = cells_of(folder)
    worker = Worker(places_of(folder))
    for cell in (cells[0], cells[5], cells[0]):
        predictions(worker, cell, 1)
    assert sorted(blocks) == [8, 8, 10, 10]


def test_tasks_and_recipes_that_differ_in_their_rows_or_tokens_share_nothing(folder: Path, blocks: list[int]) -> None:
    cell = cells_of(folder)[0]
    shorter = cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"max_length": 4})})
    slower = cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"learning_rate": 1e-5})})
    worker = Worker(places_of(folder))
    first = predictions(worker, cell, 1)
    assert predictions(worker, slower, 1) != first
    assert len(blocks) == 2
    assert predictions(worker, shorter, 1) != first
    assert len(blocks) == 4
    assert predictions(worker, cell, 1) == first


def test_a_pass_may_be_stopped_between_two_blocks(folder: Path) -> None:
    def stop(step: int, _: float) -> None:
        assert step == 0
        raise InterruptedError

    worker, cell = Worker(places_of(folder)), cells_of(folder)[0]
    with pytest.raises(InterruptedError):
        worker.run(cell, 1, stop)
    assert predictions(worker, cell, 1) == predictions(Worker(places_of(folder)), cell, 1)


def test_features_are_read_as_they_were_written_in_any_order_of_rows() -> None:
    features = Features([(1, "cls"), (3, "mean")], rows=5, hidden=4)
    one, other = torch.arange(20.0).reshape(5, 4), torch.arange(20.0, 40.0).reshape(5, 4)
    features.write([4, 0, 2], [one[[4, 0, 2]], other[[4, 0, 2]]])
    features.write([1, 3], [one[[1, 3]].bfloat16(), other[[1, 3]]])
    assert np.array_equal(features.read((1, "cls"), slice(None)), one.numpy())
    assert np.array_equal(features.read((3, "mean"), np.array([3, 0])), other.numpy()[[3, 0]])
    assert (1, "cls") in features
    assert (1, "mean") not in features


def test_features_leave_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    features = Features([(1, "cls")], rows=5, hidden=4)
    assert list(tmp_path.iterdir()) == []
    features.write([0], [torch.ones(1, 4)])


def test_scratch_without_room_is_told_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigurationError, match="no room") as refusal:
        Features([(1, "cls")], rows=67_349, hidden=768)
    assert refusal.value.expected == "0.2 GB"
    assert refusal.value.remedy is not None
    assert "TMPDIR" in refusal.value.remedy
