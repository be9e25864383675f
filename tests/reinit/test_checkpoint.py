"""Checkpoints of real runs through DeepSpeed: a resumed run has the bits of one that was never interrupted."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import reinit.checkpoint
from jobs.cell import Permute, Reinit, Steps, Truncate
from jobs.checkpoints import Binding, Checkpoints, checkpoint_key
from jobs.errors import ConfigurationError, TransientError
from jobs.objects import FileObjects
from jobs.patient import PatientObjects
from jobs.result import DivergedRun
from reinit import restricted
from reinit.checkpoint import Keeper
from reinit.provenance import code_commit
from reinit.stop import Stop, StoppedError
from reinit.worker import Worker
from tests.reinit.bench import DAMAGE, Bench, Bomb, measured, plant
from tests.reinit.tiny import places_of, small_cell, write_sentences, write_small_model

STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def worker(data: Path, model: Path) -> Worker:
    return Worker(places_of(data, model))


@pytest.fixture
def bench(worker: Worker, data: Path, model: Path, tmp_path: Path) -> Callable[..., Bench]:
    def make(**changes: Any) -> Bench:
        recipe = {"duration": Steps(steps=STEPS), "warmup": 0.25} | changes.pop("recipe", {})
        return Bench(worker, small_cell(data, model, recipe=recipe, **changes), tmp_path / "store")

    return make


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "treatment",
    [Reinit(layers=(1,), lr_scale=2.0, frozen_layers=(0,)), Permute(order=(1, 0)), Truncate(depth=1)],
    ids=lambda treatment: treatment.kind,
)
def test_a_run_stopped_twice_and_resumed_has_the_bits_of_one_that_never_was(
    bench: Callable[..., Bench], treatment: Reinit | Permute | Truncate, precision: str
) -> None:
    # Three batches an epoch: steps 2 and 5 are in the middle of the first and of the second.
    one = bench(treatment=treatment, recipe={"precision": precision})
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    assert one.attempt(until=2) is None
    assert one.attempt(until=5) is None
    outcome = one.attempt()
    assert measured(outcome) == whole
    assert one.events("resumed") == ["goes on after step 2 of 8", "goes on after step 5 of 8"]
    assert one.stop.has_progress


def test_a_run_that_keeps_checkpoints_has_the_bits_of_one_that_keeps_none(bench: Callable[..., Bench]) -> None:
    one = bench()
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    assert measured(one.attempt(keep=(1, 2, 4, 8))) == whole
    assert len(one.events("checkpointed")) == 4


def test_without_the_random_states_a_resumed_run_has_other_bits(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    one.attempt(until=3)
    monkeypatch.setattr(reinit.checkpoint, "set_random_state", lambda *_: None)
    assert measured(one.attempt()) != whole


def test_a_stop_after_the_last_step_leaves_only_the_scoring(bench: Callable[..., Bench]) -> None:
    one = bench()
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    assert one.attempt(until=STEPS) is None
    assert measured(one.attempt()) == whole
    assert one.events("resumed") == ["goes on after step 8 of 8"]


def test_a_resumed_run_counts_the_seconds_that_led_to_where_it_began(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.attempt(until=4)
    (manifest,) = one.manifests
    body = json.loads(manifest.read_bytes())["manifest"]
    outcome = one.attempt()
    assert outcome is not None
    assert 0 < body["seconds"] < outcome.result.wall_seconds


def test_the_last_two_are_kept_and_none_once_the_result_is_there(bench: Callable[..., Bench]) -> None:
    one = bench()
    keeper = one.keeper()
    one.attempt(keep=(1, 2, 3, 5))
    assert [path.name.split(".")[0] for path in one.manifests] == ["000000003", "000000005"]
    parts = [path for path in one.store.glob("checkpoints/*/*/*") if path.suffix != ".json"]
    named = {
        part
        for path in one.manifests
        for file in json.loads(path.read_bytes())["manifest"]["files"]
        for part in file["parts"]
    }
    assert {path.name for path in parts} == named
    keeper.begin(Binding(digest=one.cell.digest, seed=one.seed, numerics="0" * 12, steps=STEPS), one.worker._ranks)
    keeper.clear()
    assert list(one.store.glob("checkpoints/*/*/*")) == []


def test_a_diverged_run_leaves_its_checkpoints_to_be_deleted_and_diverges_again(bench: Callable[..., Bench]) -> None:
    one = bench(recipe={"learning_rate": 1e38, "grad_clip": 1e30, "warmup": 0.0})
    first = one.attempt(keep=(1,))
    again = one.attempt()
    assert first is not None
    assert again is not None
    assert isinstance(first.result, DivergedRun)
    assert isinstance(again.result, DivergedRun)
    assert first.result.science12 == again.result.science12


# ------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_named_and_the_one_before_is_used(bench: Callable[..., Bench], kind: str) -> None:
    one = bench()
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    one.attempt(keep=(2, 4), until=5)
    one.manifests[-1].unlink()
    assert len(one.manifests) == 1
    one.attempt(keep=(4,), until=5)
    damaged = one.manifests[-1].name
    DAMAGE[kind](one)
    outcome = one.attempt()
    assert measured(outcome) == whole
    assert damaged in one.events("ignored")[-1]
    assert one.events("resumed")[-1] == "goes on after step 4 of 8"


@pytest.mark.parametrize("file", [reinit.checkpoint.WEIGHTS, "random_0.pt"])
@pytest.mark.parametrize("form", ["pickle", "torch", "within"])
def test_a_planted_pickle_whose_manifest_fits_is_never_executed(
    bench: Callable[..., Bench], tmp_path: Path, file: str, form: str
) -> None:
    one = bench()
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    one.attempt(until=5)
    bomb = tmp_path / "executed"

    def change(folder: Path) -> None:
        path = folder / file
        if form == "pickle":
            path.write_bytes(pickle.dumps(Bomb(bomb), protocol=2))
        elif form == "torch":
            torch.save(Bomb(bomb), path, _use_new_zipfile_serialization=False)
        else:
            torch.save({**restricted.read(str(path)), "more": Bomb(bomb)}, path)

    planted = plant(one, change, tmp_path / "planted")
    assert measured(one.attempt()) == whole
    assert not bomb.exists()
    assert planted.name in one.events("ignored")[-1]
    assert "UnpicklingError" in one.events("ignored")[-1]
    assert one.events("resumed")[-1] == "goes on after step 5 of 8"
    # It would have gone off in a reader that trusts, which may then find that it was no checkpoint.
    with suppress(RuntimeError):
        torch.load(tmp_path / "planted" / file, weights_only=False)
    assert bomb.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "random_0.pt").unlink(), "it holds mp_rank_00_model_states.pt"),
        (lambda folder: (folder / "mp_rank_01_model_states.pt").write_bytes(b"x"), "it holds mp_rank_00"),
        (lambda folder: torch.save({}, folder / reinit.checkpoint.WEIGHTS), "KeyError"),
        (lambda folder: torch.save({}, folder / "random_0.pt"), "is not used: "),
        (lambda folder: None, "5 losses, 5 steps; the manifest says 7"),
    ],
    ids=["a file too few", "a file too many", "no state", "no random state", "another step"],
)
def test_what_fits_its_manifest_but_not_the_run_is_passed_over(
    bench: Callable[..., Bench], tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    one = bench()
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    one.attempt(until=5)
    planted = plant(one, change, tmp_path / "planted")
    assert measured(one.attempt()) == whole
    assert planted.name in one.events("ignored")[-1]
    assert said in one.events("ignored")[-1]


@pytest.mark.parametrize("name", ["../x.pt", "/x.pt", "a/b.pt", ".x.pt", "x", "latest", "x.pt/..", ""])
def test_a_manifest_that_names_a_path_is_refused(bench: Callable[..., Bench], name: str) -> None:
    one = bench()
    one.attempt(until=3)
    (path,) = one.manifests
    body = json.loads(path.read_bytes())
    body["manifest"]["files"][0]["name"] = name
    path.write_bytes(json.dumps(body).encode())
    one.attempt(until=1)
    assert "files.0.name" in one.events("ignored")[0]
    assert one.events("resumed") == []


def test_a_checkpoint_of_another_numerics_version_is_named_and_not_loaded(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    one.attempt(until=3)
    monkeypatch.setenv("REINIT_GIT_COMMIT", "another")
    code_commit.cache_clear()
    try:
        one.attempt()
    finally:
        monkeypatch.undo()
        code_commit.cache_clear()
    assert "it is of numerics" in one.events("ignored")[0]
    assert one.events("resumed") == []


# ---------------------------------------------------------------------------------------------------------- key


def test_with_a_key_only_what_was_signed_with_it_counts(bench: Callable[..., Bench], tmp_path: Path) -> None:
    one = bench()
    one.key = b"a secret of the site"
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    one.attempt(until=4)
    planted = plant(one, lambda _: None, tmp_path / "planted")
    assert measured(one.attempt()) == whole
    assert one.events("ignored") == [
        f"checkpoint {planted.relative_to(one.store)} is not used: it is not signed with this site's key"
    ]
    assert one.events("resumed") == ["goes on after step 4 of 8"]
    one.key = b"a secret of another site"
    one.attempt(until=1)
    assert len(one.events("ignored")) == 3


def test_the_key_is_the_content_of_a_file_and_no_key_is_none(tmp_path: Path) -> None:
    assert checkpoint_key({}) is None
    file = tmp_path / "key"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        checkpoint_key({"REINIT_CHECKPOINT_KEY_FILE": str(file)})
    file.write_text("short\n")
    with pytest.raises(ConfigurationError, match="too short"):
        checkpoint_key({"REINIT_CHECKPOINT_KEY_FILE": str(file)})
    file.write_text("0123456789abcdef\n")
    assert checkpoint_key({"REINIT_CHECKPOINT_KEY_FILE": str(file)}) == b"0123456789abcdef"


# -------------------------------------------------------------------------------------------- what never fails a run


def test_a_store_that_takes_no_checkpoint_fails_no_run_and_is_tried_again(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    put, refused = FileObjects.put, list[str]()

    def refuses(self: FileObjects, key: str, data: bytes) -> None:
        # One part, as often as it is tried; others are sent at the same time.
        if len(refused) < 4 and key == [*refused, key][0]:
            refused.append(key)
            raise TransientError("no")
        put(self, key, data)

    monkeypatch.setattr(FileObjects, "put", refuses)
    assert measured(one.attempt(keep=(2, 4))) == whole
    assert [event for event, _ in one.said] == [
        *("checkpointing", "unkept", "checkpointing", "checkpointed", "evaluating"),
    ]


def test_a_disk_that_is_full_when_one_is_written_fails_no_run(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = bench()
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))

    def full() -> Path:
        (folder := tmp_path / "full" / "checkpoint").mkdir(parents=True)
        (folder / reinit.checkpoint.WEIGHTS).symlink_to("/dev/full")
        return folder.parent

    monkeypatch.setattr(reinit.checkpoint, "_new_folder", full)
    assert measured(one.attempt(keep=(2,))) == whole
    assert one.events("checkpointing")
    assert "no checkpoint was kept" in one.events("unkept")[0]
    assert one.manifests == []
    assert not one.stop.has_progress
    assert not (tmp_path / "full").exists()


def test_a_disk_that_is_full_when_one_is_read_makes_the_run_begin_anew(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    whole = measured(one.worker.run(one.cell, one.seed, lambda *_: None))
    one.attempt(until=4)

    def full(**_: str) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    assert measured(one.attempt()) == whole
    assert "No space left" in one.events("ignored")[0]
    assert one.events("resumed") == []


def test_a_store_that_lists_no_checkpoints_lets_the_run_begin(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()

    def refuses(self: FileObjects, prefix: str) -> None:
        raise ConfigurationError("denied")

    monkeypatch.setattr(FileObjects, "keys", refuses)
    assert one.attempt() is not None
    assert "denied" in one.events("unkept")[0]


def test_a_store_that_does_not_answer_is_no_store_without_checkpoints(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()

    def fails(self: FileObjects, prefix: str) -> None:
        raise TransientError("no answer")

    monkeypatch.setattr(FileObjects, "keys", fails)
    with pytest.raises(TransientError):
        one.attempt()


# ---------------------------------------------------------------------------------------------------------- when


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_is_due_after_the_interval_where_half_of_it_or_more_is_left(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    clock = Clock()
    keeper = Keeper(Checkpoints(PatientObjects(FileObjects(tmp_path)), None), Stop(), lambda *_, **__: None, 300, clock)
    keeper.begin(Binding(digest="0" * 64, seed=1, numerics="0" * 12, steps=1000), bench().worker._ranks)
    due = []
    for step in range(1, 1000):
        clock.now += 1
        keeper.stepped(step)
        if keeper.is_due():
            due.append(step)
            keeper._tried_at, keeper._cost = clock.now, 18.0
    # Then, since the last took 18 s, after 20 times as much; and not in the last 150 s.
    assert due == [300, 660]


def test_no_checkpoints_are_kept_or_looked_for_where_the_site_wants_none(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    one.attempt(until=3)
    none = Keeper(one.checkpoints, one.stop, lambda event, message, **_: one.said.append((event, message)), 0.0)
    one.said.clear()
    monkeypatch.setattr(one, "keeper", lambda: none)
    one.attempt(keep=(2, 4))
    assert [event for event, _ in one.said] == ["evaluating"]


def test_what_a_killed_process_left_on_the_disk_is_removed_and_what_a_living_one_has_is_not(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    dead.wait()
    folders = [tmp_path / "tmp" / f"reinit-checkpoint-{each}-x" for each in (dead.pid, os.getpid(), "y")]
    for folder in folders:
        (folder / "checkpoint").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    bench().attempt(until=1)
    assert [folder.exists() for folder in folders] == [False, True, True]
    assert len(list((tmp_path / "tmp").iterdir())) == 2, "and nothing of its own is left"


@pytest.mark.parametrize(("is_asked", "left", "goes_on"), [(False, 0, True), (True, 100, True), (True, 8, False)])
def test_after_a_signal_scoring_goes_on_if_it_ends_in_time(
    bench: Callable[..., Bench], is_asked: bool, left: float, goes_on: bool
) -> None:
    one, clock = bench(), Clock()
    keeper = Keeper(one.checkpoints, one.stop, lambda *_, **__: None, 300, clock)
    keeper.begin(Binding(digest="0" * 64, seed=1, numerics="0" * 12, steps=8), one.worker._ranks)
    keeper.scored(0.0)
    one.stop.requested, one.stop._deadline = is_asked, time.monotonic() + left if is_asked else math.inf
    clock.now += 5.0
    # A third took 5 s, so the rest takes 10.
    if goes_on:
        keeper.scored(1 / 3)
    else:
        with pytest.raises(StoppedError):
            keeper.scored(1 / 3)
