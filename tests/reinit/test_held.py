"""A pod whose store refuses a finished run: it holds it, goes on, says so, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.outbox import held_in
from jobs.store import open_store
from tests.faultproxy import FaultProxy
from tests.reinit.pod import Pod
from tests.reinit.tiny import tiny_cell, write_sentences
from tests.s3 import S3Server

pytestmark = pytest.mark.slow

NO_TORCH = "import sys; sys.modules['torch'] = None"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("data") / "sentences")


@pytest.fixture
def proxy(s3_server: S3Server, s3_bucket: str) -> Iterator[FaultProxy]:
    """Between the pod and the server; it refuses results of seed 1."""
    with FaultProxy(s3_server.endpoint, {"skewed": 1.0}) as running:
        running.applies = lambda method, path: method == "PUT" and "/1." in path
        yield running


@pytest.fixture
def url(s3_bucket: str) -> str:
    return f"s3://{s3_bucket}/results"


def a_pod(tmp_path: Path, data: Path, url: str, proxy: FaultProxy, seconds: float, *, named: bool = True) -> Pod:
    more = {"REINIT_OUTBOX": str(tmp_path / "outbox")} if named else {"TMPDIR": str(tmp_path)}
    environment = {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "REINIT_OUTBOX_SECONDS": str(seconds), **more}
    return Pod(tmp_path / "pod-1", url, [tiny_cell(data)], (1, 2), data=data, environment=environment)


def test_a_refused_run_is_held_the_next_is_trained_and_upload_completes_both(
    tmp_path: Path, data: Path, url: str, proxy: FaultProxy
) -> None:
    pod = a_pod(tmp_path, data, url, proxy, 1)
    (cell,) = pod.cells
    assert pod.run() == 75, pod.out + pod.errors
    assert open_store(url).results(cell.digest).done == {2}
    assert [each for each in pod.said if each not in ("loading", "step")] == [
        "started", "held", "finished", "started", "finished", "delivering", "failed",
    ]  # fmt: skip
    command = f"reinit upload {tmp_path / 'outbox'} --store {url}"
    assert command in pod.last_word
    assert "1 run is finished and not in the store" in pod.last_word
    assert pod.failures(cell)[0].exit_code == 75
    main = "import sys; from jobs.cli import main; sys.argv[1:] = sys.argv[2:]; main()"
    subprocess.run([sys.executable, "-c", main, *command.split()], check=True, env=os.environ)
    found = open_store(url).results(cell.digest)
    assert found.done == {1, 2}
    assert (found.duplicates, found.damaged) == ((), ())


def test_a_store_that_comes_back_before_the_deadline_gets_all_and_the_pod_is_done(
    tmp_path: Path, data: Path, url: str, proxy: FaultProxy
) -> None:
    pod = a_pod(tmp_path, data, url, proxy, 120, named=False)

    def mend() -> None:
        while proxy.suffered["skewed"] < 3:
            time.sleep(0.05)
        proxy.rates = {}

    mender = threading.Thread(target=mend, daemon=True)
    mender.start()
    assert pod.run() == 0, pod.out + pod.errors
    mender.join()
    assert open_store(url).results(pod.cells[0].digest).done == {1, 2}
    assert pod.said[-2:] == ["sent", "done"]
    (folder,) = (tmp_path / "reinit" / "outbox").iterdir()
    assert held_in(folder) == 0


def test_the_next_pod_sends_what_waits_on_a_volume_and_trains_nothing(
    tmp_path: Path, data: Path, url: str, proxy: FaultProxy
) -> None:
    assert a_pod(tmp_path, data, url, proxy, 0).run() == 75
    proxy.rates = {}
    (tmp_path / "pod-1").rename(tmp_path / "pod-0")
    again = a_pod(tmp_path, data, url, proxy, 0)
    again.before = NO_TORCH
    assert again.run() == 0, again.out + again.errors
    assert again.said == ["sent", "done"]
    assert open_store(url).results(again.cells[0].digest).done == {1, 2}


def test_a_signal_while_a_pod_waits_for_its_store_ends_it_with_75_and_what_is_held_stays(
    tmp_path: Path, data: Path, url: str, proxy: FaultProxy
) -> None:
    pod = a_pod(tmp_path, data, url, proxy, 3600)
    assert pod.stop_at("delivering", signal.SIGTERM) == 75, pod.out + pod.errors
    assert held_in(tmp_path / "outbox") == 1
    assert "not in the store" in pod.last_word


def test_an_outbox_that_nobody_can_read_later_is_not_promised(
    tmp_path: Path, data: Path, url: str, proxy: FaultProxy
) -> None:
    pod = a_pod(tmp_path, data, url, proxy, 0, named=False)
    assert pod.run() == 75, pod.out + pod.errors
    assert "reinit upload" not in pod.last_word
    assert "the next pod runs it again" in pod.last_word


def test_a_signal_while_a_server_keeps_silence_ends_the_pod_with_the_run_held(
    tmp_path: Path, data: Path, url: str, proxy: FaultProxy
) -> None:
    proxy.rates = {"silent": 1.0}
    pod = a_pod(tmp_path, data, url, proxy, 3600)
    process = pod.start()
    while not proxy.suffered["silent"]:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    pod.out, pod.errors = process.communicate(timeout=100)
    assert process.returncode == 75, pod.out + pod.errors
    assert held_in(tmp_path / "outbox") == 1
    assert "gave no answer within 10 s of the signal to stop" in pod.last_word
