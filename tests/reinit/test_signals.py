"""A signal at any moment ends the real process in a known state, and none of its processes outlives the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cell import Steps
from reinit.stop import Stop
from tests.make import a_cell
from tests.pod import why_no_pods
from tests.reinit.pod import Pod
from tests.reinit.tiny import small_cell, write_sentences, write_small_model

BUSY = """
import time
from reinit.session import Session
def prepare(self, cells):
    self.stop.is_busy = {is_busy}
    self.log.emit("loading", "for long")
    {busy}
Session.prepare = prepare
"""
"""A pod that comes no further, as if a run were in progress or not yet."""
WAITS = BUSY.format(
    is_busy=True,
    busy="""
    from reinit.stop import StoppedError
    while not self.stop.requested:
        time.sleep(0.01)
    raise StoppedError""",
)
NEVER_LOOKS = BUSY.format(is_busy=True, busy="time.sleep(600)")
LOADS = BUSY.format(is_busy=False, busy="time.sleep(600)")
HOLDS_ON = BUSY.format(
    is_busy=True,
    busy="""
    import sqlite3
    # One call of C that lets other threads run and never comes back to the interpreter.
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) "
    sqlite3.connect(":memory:").execute(numbers + "SELECT max(x) FROM n")""",
)
"""A rank that is stuck in a library."""
BREAKS = """
import reinit.ranks
def join_ranks():
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
reinit.ranks.join_ranks = join_ranks
"""


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has waited for has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --------------------------------------------------------------------------------------------------- the first second


def test_a_signal_during_the_first_imports_ends_with_75_and_a_last_word(tmp_path: Path, store: str) -> None:
    """The program's own module waits until the signal is there: no luck is needed to hit it."""
    early = """
import sys, time
class Wait:
    def find_spec(self, name, path=None, target=None):
        if name == "reinit.pod":
            open(__file__ + ".imports", "w").close()
            while not __import__("os").path.exists(__file__ + ".sent"):
                time.sleep(0.01)
sys.meta_path.insert(0, Wait())
"""
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=early)
    process = pod.start()
    wait_for((tmp_path / "pod-1" / "sitecustomize.py.imports").exists)
    process.send_signal(signal.SIGTERM)
    (tmp_path / "pod-1" / "sitecustomize.py.sent").touch()
    pod.out, pod.errors = process.communicate(timeout=100)
    assert process.returncode == 75, pod.out + pod.errors
    assert pod.last_word == "stopped by a signal"
    assert pod.said == ["stopped"]


def test_while_it_loads_there_is_nothing_to_wait_for(tmp_path: Path, store: str) -> None:
    """The grace is longer than this test may take."""
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=LOADS, environment={"REINIT_GRACE_SECONDS": "3600"})
    assert pod.stop_at("loading", signal.SIGTERM) == 75
    assert pod.said == ["loading", "stopped"]
    assert pod.last_word == "stopped by a signal"
    assert len(pod.logs(a_cell(6))) == 1


def test_a_second_signal_ends_at_once(tmp_path: Path, store: str) -> None:
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=NEVER_LOOKS)
    with pod.start() as process:
        assert process.stdout is not None
        assert "loading" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 75


@pytest.mark.parametrize("before", [NEVER_LOOKS, HOLDS_ON], ids=["sleeps", "is in a library"])
def test_a_process_that_reaches_no_step_ends_by_itself_before_it_would_be_killed(
    tmp_path: Path, store: str, before: str
) -> None:
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=before, environment={"REINIT_GRACE_SECONDS": "2"})
    assert pod.stop_at("loading", signal.SIGTERM) == 75
    assert pod.said == ["loading", "stopped"]
    assert pod.last_word == "stopped by a signal"
    assert len(pod.logs(a_cell(6))) == 1


@pytest.mark.skipif(bool(why_no_pods()), reason=why_no_pods() or "runs here")
def test_as_the_main_process_of_a_container_it_hears_a_signal_that_others_have_to_ask_for(
    tmp_path: Path, store: str
) -> None:
    """PID 1 of a namespace never gets a signal that it has no handler for."""
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=WAITS)
    process = pod.start(["unshare", "--pid", "--fork", "--mount-proc"])
    assert process.stdout is not None
    assert "loading" in process.stdout.readline()
    (main,) = children(process.pid)
    assert "NSpid:\t" in Path(f"/proc/{main}/status").read_text()
    os.kill(main, signal.SIGTERM)
    pod.out, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert pod.last_word == "stopped by a signal"


# ------------------------------------------------------------------------------------------------ nobody is left behind


def test_ranks_end_when_their_launcher_is_killed(tmp_path: Path, store: str) -> None:
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=WAITS, environment={"REINIT_GPUS": "3"})
    with pod.start() as process:
        assert process.stdout is not None
        assert "loading" in process.stdout.readline()
        wait_for(lambda: len(children(process.pid)) == 3)
        ranks = children(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda: all(gone(rank) for rank in ranks))


@pytest.mark.parametrize("is_waited_for", [True, False], ids=["waited for", "not waited for yet"])
def test_a_rank_whose_launcher_died_before_it_could_ask_ends_too(
    tmp_path: Path, store: str, *, is_waited_for: bool
) -> None:
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    if is_waited_for:
        dead.wait()
    else:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=WAITS, environment={"REINIT_PARENT": str(dead.pid)})
    assert pod.run() == 75, pod.out + pod.errors
    dead.wait()


@pytest.mark.slow
def test_workers_end_when_reinit_run_is_killed(tmp_path: Path) -> None:
    data = write_sentences(tmp_path / "data")
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "sitecustomize.py").write_text(WAITS)
    script = f"""
import sys
from pathlib import Path
from rich.console import Console
from jobs.local import Run, run_locally, this_machine
from tests.reinit.tiny import tiny_cell
runs = [Run(tiny_cell(Path({str(data)!r})), seed) for seed in (1, 2)]
run_locally(runs, "file://{tmp_path}/store", {{}}, this_machine(2, 1), Path({str(tmp_path / "logs")!r}), Console())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": f"{tmp_path / 'before'}:{Path.cwd()}"}
    )
    wait_for(lambda: len(children(process.pid)) == 2)
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: all(gone(worker) for worker in workers))


# ------------------------------------------------------------------------------------------------------ progress


@pytest.mark.slow
def test_a_stop_in_mid_training_keeps_a_checkpoint_and_the_next_pod_finishes_and_deletes_it(
    tmp_path: Path, store: str
) -> None:
    data, model = write_sentences(tmp_path / "data"), write_small_model(tmp_path / "model")
    cell = small_cell(data, model, 1, recipe={"duration": Steps(steps=300)})
    whole = Pod(tmp_path / "pod-0", f"file://{tmp_path}/other", [cell], data=data, model=model)
    assert whole.run() == 0, whole.out + whole.errors
    first = Pod(tmp_path / "pod-1", store, [cell], data=data, model=model, before=EVERY_STEP)
    assert first.stop_at("step", signal.SIGTERM, 5) == 143, first.out + first.errors
    assert first.said[-3:] == ["checkpointing", "checkpointed", "stopped"]
    assert first.last_word == "stopped by a signal"
    again = Pod(tmp_path / "pod-2", store, [cell], data=data, model=model)
    assert again.run() == 0, again.out + again.errors
    assert "resumed" in again.said
    (one,), (other,) = (pod.store.results(cell.digest).results.values() for pod in (whole, again))
    assert one.science12 == other.science12
    assert list((tmp_path / "store" / "checkpoints").rglob("*.json")) == []


EVERY_STEP = """
import reinit.session
reinit.session.POD_SECONDS = 0.0
"""


def test_only_progress_that_outlives_the_process_makes_a_stop_free() -> None:
    stop = Stop()
    assert stop.exit_code == 75
    stop.has_progress = True
    assert stop.exit_code == 143


# ------------------------------------------------------------------------------------------------------- hardware


def test_a_gpu_that_breaks_in_the_middle_is_tried_again(tmp_path: Path, store: str) -> None:
    pod = Pod(tmp_path / "pod-1", store, [a_cell(6)], before=BREAKS)
    assert pod.run() == 75
    assert "uncorrectable ECC error" in pod.failures(a_cell(6))[0].reason
