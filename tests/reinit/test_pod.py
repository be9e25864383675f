"""The pod's contract by the real process: every exit code, and what it leaves for whoever asks why."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.cell import Epochs
from jobs.store import open_store
from tests.make import a_cell, a_result, some_predictions
from tests.reinit.pod import Pod
from tests.reinit.tiny import tiny_cell, write_sentences
from tests.s3 import SECRET_KEY, free_ports
from tests.test_local_runs import a_study

NO_TORCH = """
import sys
for name in ("torch", "transformers", "datasets", "deepspeed"):
    sys.modules[name] = None
"""
BREAKS = """
import sys, warnings
from reinit.session import Session
def prepare(self, cells):
    print("a library's line")
    warnings.warn("a library's warning")
    print("key", os.environ.get("AWS_SECRET_ACCESS_KEY"), file=sys.stderr)
    raise ZeroDivisionError("a mistake")
import os
Session.prepare = prepare
"""
RANKS = """
import os, signal, time
from jobs.errors import DataError
from reinit.session import Session, StoppedError
first_is_ready = os.environ["PYTHONPATH"] + "/ready"
def prepare(self, cells):
    if os.environ["RANK"] == "0":
        open(first_is_ready, "w").close()
    else:
        self.log.emit("loading", "not heard of this rank")
        while not os.path.exists(first_is_ready):
            time.sleep(0.05)
        {failing}
    while not self.stop.requested:
        time.sleep(0.05)
    raise StoppedError
Session.prepare = prepare
"""
EVERY_STEP = """
import reinit.session
reinit.session.POD_SECONDS = 0.0
"""

LONG = {"duration": Epochs(epochs=6)}


def keys(store: str, kind: str) -> list[str]:
    folder = Path(store.removeprefix("file://"))
    return sorted(str(path.relative_to(folder)) for path in (folder / kind).glob("*/*"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("data") / "sentences")


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.mark.slow
def test_a_pod_that_does_its_work_leaves_its_log_and_one_applied_again_loads_no_torch_and_leaves_none(
    tmp_path: Path, data: Path, store: str
) -> None:
    cells = (tiny_cell(data, 5), tiny_cell(data))
    pod = Pod(tmp_path / "pod-1", store, cells, data=data, before=EVERY_STEP)
    assert pod.run() == 0, pod.out + pod.errors
    one_run = ["started", "step", "step", "step", "evaluating", "uploading", "finished"]
    assert pod.said == ["loading", "tokens", *one_run, *one_run, "done"]
    assert pod.events[10]["message"].startswith(f"1 of 2 runs done; {cells[1].name} seed 1: step 1 of 3, loss ")
    assert pod.last_word == "2 runs finished"
    for cell in cells:
        assert open_store(store).results(cell.digest).done == {1}
        (log,) = pod.logs(cell)
        assert log.attempt.startswith("pod-1-")
        assert [line for line in log.text.splitlines() if line.startswith('{"time"')] == pod.out.splitlines()

    again = Pod(tmp_path / "pod-2", store, cells, data=data, before=NO_TORCH)
    assert again.run() == 0, again.out + again.errors
    assert again.said == ["done"]
    assert again.last_word == "every run of this Job is in the store already"
    assert len(keys(store, "logs")) == 2

    more = Pod(tmp_path / "pod-3", store, cells, seeds=(1, 2), before=NO_TORCH)
    assert more.run() == 78, "with work left, torch is needed"
    assert "a library is missing; got: torch" in more.last_word
    assert [log.attempt[:5] for log in more.logs(cells[0])] == ["pod-1", "pod-3"]


@pytest.mark.slow
def test_a_library_that_is_needed_only_for_scoring_is_missed_before_anything_is_trained(
    tmp_path: Path, data: Path, store: str
) -> None:
    pod = Pod(
        tmp_path / "pod-1", store, [tiny_cell(data)], data=data, before="import sys\nsys.modules['sklearn'] = None"
    )
    assert pod.run() == 78, pod.out + pod.errors
    assert pod.said == ["loading", "failed"]
    assert "a library is missing; got: sklearn" in pod.last_word


@pytest.mark.slow
def test_a_log_that_a_pod_left_is_what_reinit_logs_prints(tmp_path: Path, data: Path, store: str) -> None:
    study = a_study(data, seeds=1)
    cell = tiny_cell(data, size=8)
    pod = Pod(tmp_path / "pod-1", store, [cell], before=BREAKS)
    assert pod.run() == 1
    command = ["logs", str(study), cell.digest[:12], "--store", store]
    program = [sys.executable, "-c", "from jobs.cli import main; main()", *command]
    printed = subprocess.run(program, capture_output=True, text=True, check=True)
    assert printed.stdout == pod.logs(cell)[0].text
    assert "attempt pod-1-" in printed.stderr


def test_a_mistake_of_the_program_leaves_what_libraries_said_and_its_traceback(tmp_path: Path, store: str) -> None:
    cell = a_cell(6)
    pod = Pod(tmp_path / "pod-1", store, [cell], seeds=(1, 2), before=BREAKS)
    assert pod.run() == 1
    (log,) = pod.logs(cell)
    for text in (pod.errors, log.text):
        assert "a library's line\n" in text
        assert "UserWarning: a library's warning\n" in text
        assert "Traceback (most recent call last)" in text
        assert "ZeroDivisionError: a mistake\n" in text
    assert json.loads(log.text.splitlines()[-1]) == pod.events[-1]
    assert pod.said == ["failed"]
    assert pod.last_word == "a mistake"
    (failure,) = pod.failures(cell)
    assert (failure.exit_code, failure.reason, failure.attempt) == (1, "a mistake", log.attempt)


def test_a_log_in_a_bucket_holds_no_key_of_it(tmp_path: Path, s3_url: str) -> None:
    cell = a_cell(6)
    pod = Pod(tmp_path / "pod-1", s3_url, [cell], before=BREAKS)
    assert pod.run() == 1, pod.out + pod.errors
    (log,) = pod.logs(cell)
    assert SECRET_KEY not in pod.errors + log.text
    assert "key <AWS_SECRET_ACCESS_KEY>\n" in log.text
    assert "ZeroDivisionError: a mistake\n" in log.text


def test_a_library_that_ends_the_process_does_not_complete_the_job(tmp_path: Path, store: str) -> None:
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=BREAKS.replace("raise ZeroDivisionError", "sys.exit(0) #"))
    assert pod.run() == 1
    assert "SystemExit" in pod.logs(a_cell(6))[0].text


def test_where_no_run_was_begun_the_log_is_the_first_cells_that_had_runs_left(tmp_path: Path, store: str) -> None:
    open_store(store).put(a_result(a_cell(6)), some_predictions())
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6), a_cell(7), a_cell(8)], before=BREAKS)
    assert pod.run() == 1
    assert [len(pod.logs(cell)) for cell in pod.cells] == [0, 1, 0]
    assert [len(pod.failures(cell)) for cell in pod.cells] == [0, 1, 0]


@pytest.mark.parametrize(
    ("name", "value"), [("REINIT_CELLS", "[{}]"), ("REINIT_STORE", ""), ("REINIT_SEEDS", "x"), ("REINIT_GPUS", "all")]
)
def test_what_the_environment_says_impossibly_is_refused_without_torch(
    tmp_path: Path, store: str, name: str, value: str
) -> None:
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=NO_TORCH, environment={name: value})
    assert pod.run() == (78 if name == "REINIT_STORE" else 64)
    assert pod.said == ["failed"]
    assert pod.last_word == "; ".join(" ".join(line.split()) for line in pod.events[0]["message"].splitlines())
    assert keys(store, "logs") == [], "no cell is known to keep it under"


@pytest.mark.slow
def test_data_that_do_not_fit_are_refused_with_a_log(tmp_path: Path, data: Path, store: str) -> None:
    fits = tiny_cell(data)
    cell = fits.model_copy(update={"task": fits.task.model_copy(update={"train_rows": 13})})
    pod = Pod(tmp_path / "pod-1", store, [cell], data=data)
    assert pod.run() == 65, pod.out + pod.errors
    assert pod.said == ["loading", "failed"]
    assert "another number of rows" in pod.last_word
    assert "expected: 13" in pod.last_word
    assert pod.failures(cell)[0].exit_code == 65
    assert "another number of rows" in pod.logs(cell)[0].text


def test_a_store_that_refuses_ends_the_pod_and_that_it_takes_no_log_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    pod = Pod(tmp_path / "pod-1", f"file://{tmp_path}/file", [a_cell(6)], before=NO_TORCH)
    assert pod.run() == 78
    assert pod.said == ["failed", "unkept"]
    assert pod.events[0]["exit_code"] == 78
    assert pod.last_word.startswith("the store's folder cannot be written")


@pytest.mark.slow
def test_a_store_that_cannot_be_reached_is_tried_again_later(tmp_path: Path, s3_url: str) -> None:
    (port,) = free_ports(1)
    closed = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}
    pod = Pod(tmp_path / "pod-1", s3_url, [a_cell(6)], before=NO_TORCH, environment=closed)
    assert pod.run() == 75, pod.out + pod.errors
    assert pod.said == ["failed", "unkept"]
    assert "EndpointConnectionError" in pod.last_word


def test_a_store_that_hangs_delays_the_end_only_so_long(tmp_path: Path, store: str) -> None:
    hangs = """
import time, jobs.objects, reinit.session
reinit.session.KEEP_SECONDS = 1.0
whole = jobs.objects.FileObjects.put
def put(self, key, data):
    time.sleep(600 * key.startswith("logs/"))
    whole(self, key, data)
jobs.objects.FileObjects.put = put
"""
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=BREAKS + hangs)
    began = time.monotonic()
    assert pod.run() == 1
    assert time.monotonic() - began < 60
    assert pod.said == ["failed", "unkept"]
    assert len(pod.failures(a_cell(6))) == 1, "the record comes first"


@pytest.mark.slow
def test_a_stop_after_a_finished_run_is_free_of_charge_and_leaves_a_log(tmp_path: Path, data: Path, store: str) -> None:
    cell = tiny_cell(data, recipe=LONG)
    pod = Pod(tmp_path / "pod-1", store, [cell], seeds=(1, 2), data=data)
    assert pod.stop_at("finished", signal.SIGTERM) == 143, pod.out + pod.errors
    assert pod.said[-1] == "stopped"
    assert pod.last_word == "stopped by a signal"
    assert pod.store.results(cell.digest).done == {1}
    assert pod.failures(cell) == ()
    assert json.loads(pod.logs(cell)[0].text.splitlines()[-1])["exit_code"] == 143


@pytest.mark.slow
def test_a_stop_in_a_run_without_checkpoints_counts_as_a_try_and_leaves_a_log(
    tmp_path: Path, data: Path, store: str
) -> None:
    cell = tiny_cell(data, recipe=LONG)
    none = {"REINIT_CHECKPOINT_SECONDS": "0"}
    pod = Pod(tmp_path / "pod-1", store, [cell], seeds=(1, 2), data=data, environment=none)
    assert pod.stop_at("started", signal.SIGTERM) == 75, pod.out + pod.errors
    assert pod.said[-1] == "stopped"
    assert pod.store.results(cell.digest).done == frozenset()
    assert json.loads(pod.logs(cell)[0].text.splitlines()[-1])["exit_code"] == 75


@pytest.mark.parametrize(
    ("failing", "code", "word"),
    [
        ('raise DataError("rank 1 found the rows wrong")', 65, "rank 1 found the rows wrong"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "a rank was killed by signal 9 (out of memory?)"),
    ],
)
def test_of_several_ranks_the_one_that_fails_is_told_and_kept_beside_the_first(
    tmp_path: Path, store: str, failing: str, code: int, word: str
) -> None:
    cell = a_cell(6)
    pod = Pod(tmp_path / "pod-1", store, [cell], before=RANKS.format(failing=failing), environment={"REINIT_GPUS": "2"})
    assert pod.run() == code, pod.out + pod.errors
    assert pod.last_word == word
    first, second = pod.logs(cell)
    assert first.attempt != second.attempt
    assert sorted(json.loads(log.text.splitlines()[-1])["event"] for log in (first, second)) == ["failed", "stopped"]
    assert any(word in log.text for log in (first, second))
    assert not any("not heard" in log.text for log in (first, second))
    (failure,) = pod.failures(cell)
    assert (failure.exit_code, failure.reason) == (code, word)


def test_ranks_that_are_stopped_leave_the_first_ones_log(tmp_path: Path, store: str) -> None:
    failing = 'print("ready", file=__import__("sys").stderr, flush=True)'
    pod = Pod(
        tmp_path / "pod-1", store, [a_cell(6)], before=RANKS.format(failing=failing), environment={"REINIT_GPUS": "2"}
    )
    process = pod.start()
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    pod.out, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert pod.last_word == "stopped by a signal"
    assert len(pod.logs(a_cell(6))) == 1


def test_a_worker_behind_a_pipe_leaves_a_log_only_of_the_run_that_failed(tmp_path: Path, store: str) -> None:
    breaks = """
from reinit.session import Session
Session.prepare = lambda self, cells: None
def run(self, cell, seed):
    self.current = (cell.digest, seed)
    self.begun[cell.digest] = None
    if seed == 2:
        raise ZeroDivisionError("a mistake")
Session.run = run
"""
    cells = [a_cell(6), a_cell(7)]
    first = json.dumps([cell.model_dump(mode="json") for cell in cells])
    good = Pod(tmp_path / "pod-1", store, cells, before=breaks, arguments=["--from-pipe"])
    assert good.run(f"{first}\n[0, 1]\n") == 0, good.errors
    assert keys(store, "logs") == []
    bad = Pod(tmp_path / "pod-2", store, cells, before=breaks, arguments=["--from-pipe"])
    assert bad.run(f"{first}\n[0, 1]\n[1, 2]\n") == 1
    assert bad.said == ["ready", "ready", "failed"]
    assert [len(bad.logs(cell)) for cell in cells] == [0, 1]
    assert "ZeroDivisionError: a mistake" in bad.logs(cells[1])[0].text
