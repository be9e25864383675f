"""A finished run is never dropped: held where its store would not take it, sent when it does, and sent by hand."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import outbox as module
from jobs.backends import open_objects
from jobs.errors import ConfigurationError, DataError, ReinitError, SpecError, TransientError
from jobs.objects import Objects
from jobs.outbox import Outbox, held_in, outbox_of, send_held
from jobs.store import Store, open_store
from jobs.upload import folder_store, upload
from tests.faultproxy import FaultProxy
from tests.make import a_cell, a_diverged, a_result, some_predictions
from tests.s3 import S3Server

DIGEST = a_cell().digest


class Gate:
    """A backend that refuses what is put into it while it is shut."""

    def __init__(self, inner: Objects) -> None:
        self.inner = inner
        self.url = inner.url
        self.error: ReinitError | None = None
        self.refuses = ""
        self.silent: threading.Event | None = None

    def describe(self) -> str:
        return self.inner.describe()

    def put(self, key: str, data: bytes) -> None:
        if self.silent:
            self.silent.wait(60)
        if self.error and self.refuses in key:
            raise self.error
        self.inner.put(key, data)

    def get(self, key: str) -> bytes | None:
        return self.inner.get(key)

    def keys(self, prefix: str) -> Iterator[str]:
        return self.inner.keys(prefix)

    def delete(self, key: str) -> None:
        self.inner.delete(key)


class Process:
    """An outbox as a process has it, with what it said."""

    def __init__(self, tmp_path: Path, store_url: str, *, seconds: float = 0.2, folder: Path | None = None) -> None:
        self.gate = Gate(open_objects(store_url))
        self.said: list[tuple[str, str]] = []
        self.is_stopping = False
        self.store = Store(self.gate, pauses=())
        self.outbox = Outbox(
            self.store,
            folder or tmp_path / "out box",
            lambda event, message: self.said.append((event, message)),
            lambda: self.is_stopping,
            seconds,
        )

    def put(self, seed: int) -> bool:
        return self.outbox.put(a_result(seed=seed), some_predictions(seed))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.said]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri() if request.param == "file" else str(request.getfixturevalue("s3_url"))


@pytest.fixture
def process(tmp_path: Path, url: str) -> Process:
    return Process(tmp_path, url)


REFUSALS = [TransientError("away"), ConfigurationError("an object cannot be written: NoSuchBucket", got="gone")]


def test_what_the_store_takes_leaves_no_outbox(process: Process) -> None:
    assert process.put(1)
    assert process.outbox.is_empty
    process.outbox.deliver()
    assert (process.said, process.outbox.folder.exists()) == ([], False)


@pytest.mark.parametrize("refusal", REFUSALS, ids=["transient", "lasting"])
def test_what_the_store_does_not_take_is_held_whole_and_sent_before_the_next(
    process: Process, url: str, refusal: ReinitError
) -> None:
    process.gate.error = refusal
    assert not process.put(1)
    assert not process.outbox.put(a_diverged(seed=2), None)
    held = open_store(process.outbox.folder.as_uri())
    assert held.results(DIGEST).results == {1: a_result(), 2: a_diverged(seed=2)}
    assert held.predictions(a_result().predictions) == some_predictions()
    assert process.events == ["held", "held"]
    process.gate.error = None
    assert process.put(3)
    assert open_store(url).results(DIGEST).done == {1, 2, 3}
    assert process.events == ["held", "held", "sent", "sent"]
    assert held_in(process.outbox.folder) == 0
    assert list((process.outbox.folder / "predictions").iterdir()) == []
    process.outbox.deliver()


def test_one_that_is_refused_for_its_own_sake_holds_up_no_other(process: Process, url: str) -> None:
    process.gate.error, process.gate.refuses = TransientError("not this one"), f"{DIGEST}/1."
    assert not process.put(1)
    assert [process.put(seed) for seed in (2, 3, 4)] == [True, True, True]
    assert open_store(url).results(DIGEST).done == {2, 3, 4}
    assert open_store(process.outbox.folder.as_uri()).results(DIGEST).done == {1}


def test_what_is_held_at_the_end_is_an_error_that_says_how_to_send_it(process: Process, url: str) -> None:
    process.gate.error = ConfigurationError("an object cannot be written: NoSuchBucket", got="gone")
    for seed in (1, 2):
        process.put(seed)
    with pytest.raises(TransientError, match="2 runs are finished and not in the store") as caught:
        process.outbox.deliver()
    assert caught.value.exit_code == 75
    assert caught.value.remedy is not None
    assert f"reinit upload '{process.outbox.folder}' --store {url}" in caught.value.remedy
    assert "NoSuchBucket; gone" in str(caught.value)
    assert held_in(process.outbox.folder) == 2


def test_the_end_waits_until_the_store_is_back(tmp_path: Path, url: str) -> None:
    process = Process(tmp_path, url, seconds=60)
    process.gate.error = TransientError("away")
    process.put(1)

    def back() -> None:
        process.gate.error = None

    timer = threading.Timer(0.5, back)
    timer.start()
    process.outbox.deliver()
    timer.join()
    assert open_store(url).results(DIGEST).done == {1}
    assert process.outbox.is_empty


def test_a_signal_ends_the_wait_and_what_is_held_stays(tmp_path: Path, url: str) -> None:
    process = Process(tmp_path, url, seconds=3600)
    process.gate.error = TransientError("away")
    process.put(1)

    def stop() -> None:
        process.is_stopping = True

    threading.Timer(0.3, stop).start()
    with pytest.raises(TransientError):
        process.outbox.deliver()
    assert held_in(process.outbox.folder) == 1


def test_a_server_that_is_silent_does_not_outlast_a_signal(process: Process) -> None:
    process.gate.silent = threading.Event()
    process.is_stopping = True
    assert not process.put(1)
    process.gate.silent.set()
    assert "gave no answer within" in process.said[0][1]
    assert held_in(process.outbox.folder) == 1


def test_a_folder_that_cannot_be_written_is_told_and_the_store_is_still_tried(tmp_path: Path, url: str) -> None:
    process = Process(tmp_path, url, folder=Path("/proc/no-outbox-here"))
    process.gate.error = TransientError("away")
    assert not process.put(1)
    assert process.events == ["unheld"]
    assert "/proc/no-outbox-here" in process.said[0][1]
    with pytest.raises(TransientError, match="1 run is finished and not in the store") as caught:
        process.outbox.deliver()
    assert "run again what no disk took (1)" in str(caught.value.remedy)
    process.gate.error = None
    assert process.put(2)
    assert open_store(url).results(DIGEST).done == {1, 2}
    process.outbox.deliver()


def test_predictions_that_are_not_those_of_the_result_are_a_mistake_and_not_held(process: Process) -> None:
    with pytest.raises(DataError):
        process.outbox.put(a_result(), b"others")


def test_a_mistake_in_a_library_costs_no_run(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise KeyError("a library's own")

    monkeypatch.setattr(process.gate, "put", breaks)
    assert not process.put(1)
    assert held_in(process.outbox.folder) == 1
    assert "KeyError" in process.said[0][1]


def test_what_an_earlier_process_held_is_sent_by_the_next(tmp_path: Path, process: Process, url: str) -> None:
    process.gate.error = TransientError("away")
    for seed in (1, 2):
        process.put(seed)
    (process.outbox.folder / a_result(seed=2).key).write_bytes(b"cut")
    later = Process(tmp_path, url)
    later.outbox.send_earlier()
    assert open_store(url).results(DIGEST).done == {1}
    assert later.events == ["sent", "unsent"]
    assert held_in(process.outbox.folder) == 1


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1e9"])
def test_a_malformed_wait_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    monkeypatch.setenv("REINIT_OUTBOX_SECONDS", text)
    with pytest.raises(SpecError, match="REINIT_OUTBOX_SECONDS"):
        Outbox.of_process(open_store(tmp_path.as_uri()), lambda *_: None, lambda: False)


def test_a_store_has_one_outbox_on_a_machine_however_its_url_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outbox_of("s3://bucket/a", tmp_path) == outbox_of("s3://bucket/a/", tmp_path)
    assert outbox_of("s3://bucket/a", tmp_path) != outbox_of("s3://bucket/b", tmp_path)
    monkeypatch.setenv("REINIT_OUTBOX", str(tmp_path / "mine"))
    assert outbox_of("s3://bucket/a", Path("/elsewhere")) == tmp_path / "mine"


# ------------------------------------------------------------------------------------------------------- upload


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two results and a diverged run."""
    store = open_store((tmp_path / "results").as_uri())
    for seed in (1, 2):
        store.put(a_result(seed=seed), some_predictions(seed))
    store.put(a_diverged(seed=3))
    return tmp_path / "results"


def invoked(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from jobs.cli import main; main()", *arguments],
        env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_upload_sends_once_and_finds_it_there_afterwards(folder: Path, s3_url: str) -> None:
    before = sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    code, said = invoked("upload", str(folder), "--store", s3_url)
    assert (code, said.splitlines()[-1]) == (0, "3 results sent, 0 already there, 0 not sent")
    assert f"sent {a_cell().name} seed 2" in said
    sent = open_store(s3_url)
    assert sent.results(DIGEST).results == {1: a_result(), 2: a_result(seed=2), 3: a_diverged(seed=3)}
    assert [sent.predictions(a_result(seed=seed).predictions) for seed in (1, 2)] == list(map(some_predictions, (1, 2)))
    code, said = invoked("upload", str(folder), "--store", s3_url)
    assert (code, said) == (0, "0 results sent, 3 already there, 0 not sent\n")
    assert sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file()) == before


def test_upload_mends_what_is_missing_at_its_destination(folder: Path, s3_url: str, s3_server: S3Server) -> None:
    store = open_store(s3_url)
    upload(folder_store(folder), store)
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    s3_server.client.delete_object(Bucket=bucket, Key=f"{prefix}/predictions/{a_result().predictions}")
    sent = upload(folder_store(folder), store)
    assert [result.seed for result in sent.sent] == [1]
    assert store.predictions(a_result().predictions) == some_predictions()


def test_what_does_not_verify_is_named_and_everything_else_is_sent(folder: Path, url: str) -> None:
    cut, bare = a_result(seed=1), a_result(seed=2)
    (folder / cut.key).write_bytes(cut.to_bytes()[:-9])
    (folder / "predictions" / bare.predictions).unlink()
    code, said = invoked("upload", str(folder), "--store", url)
    assert code == DataError.exit_code
    assert f"{cut.key}: content hashes to" in said
    assert f"{bare.key}: its predictions, {bare.predictions[:12]}: it is not there" in said
    assert "1 results sent, 0 already there, 2 not sent" in said
    assert open_store(url).results(DIGEST).done == {3}


def test_results_that_contradict_each_other_are_sent_both_and_shown(folder: Path, url: str) -> None:
    source = open_store(folder.as_uri())
    source.put(a_result(seed=1, score=0.1, later=5), some_predictions(1))
    upload(source, open_store(url))
    assert [each.seed for each in open_store(url).results(DIGEST).contradictions] == [1]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_results_is_refused(tmp_path: Path, name: str, url: str) -> None:
    (tmp_path / "empty").mkdir()
    code, said = invoked("upload", str(tmp_path / name), "--store", url)
    assert code == SpecError.exit_code
    assert "no results are in this folder" in said


def test_an_upload_that_breaks_off_is_repeated(
    folder: Path, s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(s3_server.endpoint, {"500": 1.0}) as proxy:
        proxy.applies = lambda method, path: method == "PUT" and "/2." in path
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        store = Store(open_objects(s3_url, attempts=1), pauses=())
        with pytest.raises(TransientError):
            upload(folder_store(folder), store)
        proxy.rates = {}
        upload(folder_store(folder), store)
        assert store.results(DIGEST).done == {1, 2, 3}


def test_what_an_earlier_call_held_is_sent_first_and_gone_afterwards(folder: Path, url: str) -> None:
    damaged = a_result(seed=1)
    (folder / damaged.key).write_bytes(b"cut")
    sent = send_held(folder, open_store(url))
    assert [result.seed for result in sent.sent] == [2, 3]
    assert [each.key for each in sent.refused] == [damaged.key]
    assert held_in(folder) == 1, "what does not verify is left where it is"
    assert send_held(folder / "none", open_store(url)).sent == ()
