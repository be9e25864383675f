"""Whole runs: bit-equal when repeated, when shared with others in one process, and from a fresh one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.cell import Cell, Permute, Probe, Reinit, Steps, Truncate
from jobs.errors import SpecError
from jobs.result import RESULT, DivergedRun, RunResult
from jobs.store import open_store
from reinit.environment import known
from reinit.run import Outcome
from reinit.worker import Worker
from tests.reinit.tiny import places_of, small_cell, tiny_cell, write_sentences, write_small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def worker(folder: Path) -> Worker:
    return Worker(places_of(folder))


def run(worker: Worker, cell: Cell, seed: int = 1) -> Outcome:
    return worker.run(cell, seed, lambda *_: None)


def test_a_run_says_what_was_done_and_what_came_of_it(worker: Worker, folder: Path) -> None:
    cell = tiny_cell(folder, 5)
    outcome = run(worker, cell)
    result = outcome.result
    assert isinstance(result, RunResult)
    assert (result.steps, result.train_rows, result.validation_rows) == (3, 10, {"dev.tsv": 8})
    assert result.score * 8 == round(result.score * 8)
    assert 0 < result.train_loss < 3
    assert outcome.predictions is not None
    assert hashlib.sha256(outcome.predictions).hexdigest() == result.predictions
    assert result.provenance.weights_sha256 == cell.model.revision.removeprefix("sha256:")
    assert result.provenance.data_revision == cell.task.source.revision
    assert result.provenance.threads == torch.get_num_threads()
    assert RESULT.validate_json(result.to_bytes()) == result


@pytest.mark.parametrize(
    "treatment",
    [
        Reinit(),
        Reinit(layers=(0, 3), init="released", keep_layernorm=True, lr_scale=5.0),
        Reinit(layers=(5,), init="architecture", pooler="redraw", frozen_layers=(1,)),
        Permute(order=(1, 0, 2, 3, 5, 4)),
        Truncate(depth=2),
        Probe(depth=3),
        Probe(depth=2, feature="mean", scored="released_reload", encoder_dropout=True),
        Probe(depth=6, feature="cls", fit="converged"),
    ],
    ids=lambda treatment: treatment.kind,
)
def test_every_treatment_repeats_its_bits_whatever_ran_before_in_the_process(
    worker: Worker, folder: Path, treatment: Reinit | Permute | Probe | Truncate
) -> None:
    cell = tiny_cell(folder, treatment=treatment)
    first = run(worker, cell)
    # Something that moves every weight, cuts layers off and draws dropout in between.
    run(worker, tiny_cell(folder, treatment=Truncate(depth=3)), seed=9)
    run(worker, tiny_cell(folder, *range(6)), seed=9)
    again = run(worker, cell)
    assert first.predictions == again.predictions
    assert first.result.science12 == again.result.science12


class BrokenOffError(Exception):
    """What a run is broken off with."""


def test_runs_in_any_order_have_the_bits_of_each_in_a_worker_of_its_own(folder: Path, tmp_path: Path) -> None:
    """Some of them broken off in the middle; some that train the whole embedding."""
    model = write_small_model(tmp_path / "small")
    places = places_of(folder, model)
    treatments: list[Any] = [
        Reinit(),
        Reinit(layers=(1,), init="released", keep_layernorm=True),
        Reinit(layers=(0, 1), init="architecture", pooler="redraw"),
        Reinit(layers=(0, 1), frozen_layers=(1,)),
        Permute(order=(1, 0)),
        Truncate(depth=1),
        Probe(depth=1),
        Probe(depth=1, feature="mean", scored="released_reload", encoder_dropout=True),
    ]
    cells = [small_cell(folder, model, treatment=treatment) for treatment in treatments]
    cells += [
        small_cell(folder, model, treatment=treatments[1], recipe={"weight_decay": 0.1}),
        small_cell(folder, model, 0, size=5),
    ]
    runs = [(cell, seed) for cell in cells for seed in (1, 2)]
    alone = {(cell.digest, seed): run(Worker(places), cell, seed).predictions for cell, seed in runs}
    assert len(set(alone.values())) == len(runs)
    worker, order = Worker(places), random.Random(1)

    def breaks_off(step: int, _: float) -> None:
        if step > 1:
            raise BrokenOffError

    for cell, seed in order.sample(runs, len(runs)) + order.sample(runs, len(runs)):
        other, its_seed = order.choice(runs)
        if not isinstance(other.treatment, Probe):
            with pytest.raises(BrokenOffError):
                worker.run(other, its_seed, breaks_off)
        assert run(worker, cell, seed).predictions == alone[cell.digest, seed], (cell.name, other.name)


def test_seeds_and_treatments_that_differ_give_different_predictions(worker: Worker, folder: Path) -> None:
    cells = [tiny_cell(folder), tiny_cell(folder, 5), tiny_cell(folder, 4, 5)]
    outcomes = [run(worker, cell, seed) for cell in cells for seed in (1, 2)]
    assert len({outcome.predictions for outcome in outcomes}) == 6


def test_a_run_that_blows_up_is_a_result_of_its_own_kind_without_predictions(worker: Worker, folder: Path) -> None:
    cell = tiny_cell(folder, *range(6), recipe={"learning_rate": 1e38, "duration": Steps(steps=12), "grad_clip": 1e30})
    outcome = run(worker, cell)
    assert isinstance(outcome.result, DivergedRun)
    assert 0 < outcome.result.diverged_step <= 12
    assert outcome.predictions is None
    # The next run starts from the checkpoint again.
    after = run(worker, tiny_cell(folder, 5)).result
    assert isinstance(after, RunResult)
    assert math.isfinite(after.train_loss)


def pod_environment(folder: Path, store: str, cells: list[Cell], seeds: list[int], **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "REINIT_CELLS": json.dumps([cell.model_dump(mode="json") for cell in cells]),
        "REINIT_SEEDS": json.dumps(seeds),
        "REINIT_STORE": store,
        "REINIT_PLACES": json.dumps({"tiny": str(folder)}),
        "REINIT_THREADS": str(torch.get_num_threads()),
        **more,
    }


def pod(folder: Path, store: str, cells: list[Cell], seeds: list[int], **more: str) -> subprocess.CompletedProcess[str]:
    environment = pod_environment(folder, store, cells, seeds, **more)
    return subprocess.run(
        [sys.executable, "-m", "reinit"], env=environment, capture_output=True, text=True, check=False, timeout=200
    )


@pytest.mark.slow
def test_a_fresh_process_per_run_gives_the_bits_of_the_warm_worker(
    worker: Worker, folder: Path, tmp_path: Path
) -> None:
    cell, store = tiny_cell(folder, 2, 3), f"file://{tmp_path}/store"
    for seed in (1, 2):
        done = pod(folder, store, [cell], [seed])
        assert done.returncode == 0, done.stdout + done.stderr
    fresh = open_store(store).results(cell.digest).results
    run(worker, tiny_cell(folder, treatment=Probe(depth=1)))
    for seed in (1, 2):
        warm = run(worker, cell, seed).result
        assert fresh[seed].science12 == warm.science12
        assert fresh[seed].provenance.numerics == warm.provenance.numerics


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_probe_in_a_process_of_its_own_gives_the_bits_that_it_has_among_others(
    folder: Path, tmp_path: Path, ranks: str
) -> None:
    """Every rank trains the whole classifier, so their number does not show either."""
    probes = [tiny_cell(folder, treatment=Probe(depth=depth), size="full") for depth in (1, 2, 6)]
    shared, store = Worker(places_of(folder)), f"file://{tmp_path}/store"
    shared.check(probes)
    warm = {seed: [run(shared, cell, seed).result for cell in probes][1] for seed in (1, 2)}
    done = pod(folder, store, [probes[1]], [1, 2], REINIT_GPUS=ranks, REINIT_DEVICE="cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    fresh = open_store(store).results(probes[1].digest).results
    assert {seed: result.science12 for seed, result in fresh.items()} == {
        seed: result.science12 for seed, result in warm.items()
    }
    assert "NaN" not in done.stdout


@pytest.mark.slow
def test_two_ranks_give_the_losses_of_one_and_write_one_result(worker: Worker, folder: Path, tmp_path: Path) -> None:
    """Nine examples in batches of four: the last batch has one, which leaves a rank without a share."""
    cell = tiny_cell(folder, 5, size=9, recipe={"dropout": 0.0})
    store = f"file://{tmp_path}/store"
    # The first seed is done already: ranks must agree on what is left.
    kept = run(worker, cell, seed=2)
    open_store(store).put(kept.result, kept.predictions)
    done = pod(folder, store, [cell], [2, 1], REINIT_GPUS="2", REINIT_DEVICE="cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events].count("finished") == 1
    results = open_store(store).results(cell.digest).results
    assert results[2] == kept.result
    two = results[1]
    one = run(worker, cell).result
    assert isinstance(one, RunResult)
    assert isinstance(two, RunResult)
    assert two.provenance.world_size == 2
    assert two.train_loss == pytest.approx(one.train_loss, rel=1e-5)
    assert two.score == one.score


@pytest.mark.slow
def test_two_ranks_stop_together_and_say_whether_anything_of_their_work_is_kept(folder: Path, tmp_path: Path) -> None:
    """SIGTERM to the launcher, as a pod's main process gets it, while the second seed trains."""
    cell = tiny_cell(folder, 5, recipe={"duration": Steps(steps=60)})
    store = f"file://{tmp_path}/store"
    events = []
    with subprocess.Popen(
        [sys.executable, "-m", "reinit"],
        env=pod_environment(folder, store, [cell], [1, 2], REINIT_GPUS="2", REINIT_DEVICE="cpu"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            events.append(json.loads(line))
            if (events[-1]["event"], events[-1].get("seed")) == ("started", 2):
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 143, events
    assert events[-1]["event"] == "stopped"
    assert set(open_store(store).results(cell.digest).results) == {1}


@pytest.mark.slow
def test_a_pod_of_several_gpus_whose_work_is_done_starts_no_rank(folder: Path, tmp_path: Path, worker: Worker) -> None:
    cell, store = tiny_cell(folder, 5), f"file://{tmp_path}/store"
    outcome = run(worker, cell)
    open_store(store).put(outcome.result, outcome.predictions)
    done = pod(folder, store, [cell], [1], REINIT_GPUS="8", REINIT_DEVICE="cuda")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "already" in done.stdout


@pytest.mark.slow
def test_ranks_that_cannot_start_their_work_end_with_one_code(folder: Path, tmp_path: Path) -> None:
    """Ten rows in batches of four do not divide among three ranks: each of them finds that out."""
    cell = tiny_cell(folder, 5)
    done = pod(folder, f"file://{tmp_path}/store", [cell], [1], REINIT_GPUS="3", REINIT_DEVICE="cpu")
    assert done.returncode == 78, done.stdout + done.stderr
    assert "does not divide" in done.stdout


@pytest.mark.slow
def test_a_pod_whose_work_is_done_ends_without_importing_torch(folder: Path, tmp_path: Path, worker: Worker) -> None:
    cell, store = tiny_cell(folder, 5), f"file://{tmp_path}/store"
    outcome = run(worker, cell)
    open_store(store).put(outcome.result, outcome.predictions)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('torch is not needed here')", encoding="utf-8")
    path = os.pathsep.join([str(blocked), os.environ.get("PYTHONPATH", "")])
    done = pod(folder, store, [cell], [1], PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "already" in done.stdout
    left = pod(folder, store, [cell], [1, 2], PYTHONPATH=path)
    assert "torch is not needed here" in left.stderr, "the block must block, or the test above proves nothing"


@pytest.mark.slow
def test_bad_data_ends_with_65_before_training_and_leaves_a_record(folder: Path, tmp_path: Path) -> None:
    other = write_sentences(tmp_path / "other")
    (other / "dev.tsv").write_text("sentence\tlabel\nx\t1\n", encoding="utf-8")
    cell, store = tiny_cell(folder, 5), f"file://{tmp_path}/store"
    done = pod(other, store, [cell], [1])
    assert done.returncode == 65
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["event"] == "failed"
    assert "not the ones the study names" in events[-1]["message"]
    (failure,) = open_store(store).all_failures([cell.digest])[cell.digest].records
    assert (failure.exit_code, failure.digest) == (65, cell.digest)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"treatment": Probe(depth=2), "model": {"layers": 5}}, "another depth"),
        ({"recipe": {"max_length": 4096}}, "more than"),
        ({"treatment": Permute(order=(1, 0, 2, 3, 4, 5)), "recipe": {"batch_size": 4}}, ""),
    ],
)
def test_what_a_later_cell_asks_for_is_checked_before_the_first_trains(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    model = changes.pop("model", {})
    cell = tiny_cell(folder, **changes)
    cell = cell.model_copy(update={"model": cell.model.model_copy(update=model)})
    cells = [tiny_cell(folder), tiny_cell(folder, 5), cell]
    if said:
        with pytest.raises(SpecError, match=said):
            Worker(places_of(folder)).check(cells)
    else:
        Worker(places_of(folder)).check(cells)


def test_a_cell_of_another_science_version_is_refused(folder: Path) -> None:
    cell = tiny_cell(folder, 5)
    assert known((cell,)) == (cell,)
    with pytest.raises(SpecError, match="another version"):
        known((cell.model_copy(update={"science": 2}),))


def test_a_gpu_that_was_promised_and_is_not_there_is_no_reason_to_train_on_the_cpu(
    folder: Path, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the GPU")
    done = pod(folder, f"file://{tmp_path}/store", [tiny_cell(folder)], [1], REINIT_DEVICE="cuda")
    assert done.returncode == 75
    assert "the GPU cannot be used" in done.stdout


def test_a_malformed_environment_ends_with_64_and_a_bad_store_with_78(folder: Path, tmp_path: Path) -> None:
    assert pod(folder, f"file://{tmp_path}/s", [], [], REINIT_CELLS="[1]").returncode == 64
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    assert pod(folder, f"file://{tmp_path}/file/store", [tiny_cell(folder)], [1]).returncode == 78
    assert pod(folder, "gs://bucket", [tiny_cell(folder)], [1]).returncode == 78
