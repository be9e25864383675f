"""A store that refuses for good while a study is at work: told with its exit code, kept, sent later, completed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from jobs.outbox import held_in
from jobs.plan import Plan
from jobs.store import Store, open_store
from jobs.study import load_study
from tests.faultproxy import FaultProxy
from tests.figures import full, record
from tests.reinit.pod import Pod
from tests.reinit.tiny import write_sentences
from tests.s3 import S3Server
from tests.test_local_runs import a_study, command, environment

TARGET: Final = "a clear error and exit code; finished work kept, and uploaded later"
SEEDS: Final = full(6, 2)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts take root, whom no mode of a file refuses anything")


class Study:
    """Two cells with a few seeds each, and how it is run here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_sentences(folder / "data")
        self.path = a_study(self.data, seeds=SEEDS)
        self.plan: Plan = load_study(str(self.path)).plan()

    def start(self, url: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(self.path, url, self.data, "--workers", "1"),
            env=environment(self.folder) | {"REINIT_OUTBOX_SECONDS": "1"} | more,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, url: str, **more: str) -> tuple[int, str]:
        process = self.start(url, **more)
        out, errors = process.communicate(timeout=250)
        return process.returncode, out + errors

    def run_until(self, runs: int, then: Callable[[], None], url: str, **more: str) -> tuple[int, str]:
        """Let something happen to the store when so many runs are done."""
        process = self.start(url, **more)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if f"{runs}/{self.plan.runs} " in line:
                then()
                break
        out, errors = process.communicate(timeout=250)
        return process.returncode, said + out + errors

    def done(self, store: Store) -> int:
        found = store.all_results([each.cell.digest for each in self.plan])
        assert not [one for each in found.values() for one in (*each.damaged, *each.duplicates, *each.contradictions)]
        return sum(len(each.results) for each in found.values())

    def pod(self, url: str, **more: str) -> Pod:
        cell, seeds = self.plan[0].cell, self.plan[0].seeds
        return Pod(self.folder / "pod", url, [cell], seeds, data=self.data, environment=more)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@contextmanager
def disk(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A small disk of its own; called with options, it is mounted anew with them."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield lambda options: mount_again(place, options)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def mount_again(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def upload(folder: Path, url: str) -> tuple[int, str]:
    main = [sys.executable, "-c", "from jobs.cli import main; main()", "upload", str(folder), "--store", url]
    done = subprocess.run(main, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def upload_command(said: str) -> tuple[Path, str]:
    """Folder and store of the command that a message names."""
    (line,) = {line for line in said.splitlines() if "reinit upload" in line}
    words = line[line.index("reinit upload") :].partition(";")[0].split()
    assert (words[:2], words[3]) == (["reinit", "upload"], "--store")
    return Path(words[2]), words[4]


def test_a_disk_that_is_full_keeps_what_it_has_and_the_rest_is_held_and_sent(tmp_path: Path, study: Study) -> None:
    store = f"file://{tmp_path}/disk/store"
    # A page each: the check, predictions and result of the first run, predictions of the second.
    with disk(tmp_path / "disk", "16k") as again:
        code, said = study.run(store)
        assert code == 75, said
        assert "No space left on device" in said
        kept = study.done(open_store(store))
        folder, url = upload_command(said)
        assert (kept, held_in(folder), url) == (1, study.plan.runs - 1, store)
        again("size=8m")
        code, said = upload(folder, url)
        assert code == 0, said
        assert f"{study.plan.runs - 1} results sent" in said
        assert study.done(open_store(store)) == study.plan.runs
        code, said = study.run(store)
        assert (code, "already done" in said) == (0, True)
    record(
        "test_refusals", f"disk full: exit 75, {study.plan.runs - kept} of {study.plan.runs} held, all uploaded", TARGET
    )


def test_a_folder_that_becomes_read_only_is_told_and_the_same_command_sends_what_it_held(
    tmp_path: Path, study: Study
) -> None:
    store = f"file://{tmp_path}/disk/store"
    with disk(tmp_path / "disk", "8m") as again:
        code, said = study.run_until(1, lambda: again("ro"), store)
        assert code == 75, said
        assert "Read-only file system" in said
        folder, _ = upload_command(said)
        held = held_in(folder)
        code, refused = study.run(store)
        assert code == 78, refused
        assert "Read-only file system" in refused
        assert held_in(folder) == held, "nothing was trained for a store that refuses"
        again("rw")
        code, said = study.run(store)
        assert code == 0, said
        assert said.count("sent ") == held
        assert study.done(open_store(store)) == study.plan.runs
        assert held_in(folder) == 0
    assert held
    record(
        "test_refusals", f"read-only: exit 75, then 78; {held} of {study.plan.runs} held, sent by the next call", TARGET
    )


def test_a_bucket_that_is_deleted_is_told_and_what_was_finished_is_uploaded_to_a_new_one(
    study: Study, s3_server: S3Server, s3_bucket: str
) -> None:
    client, url = s3_server.client, f"s3://{s3_bucket}/results"

    def delete() -> None:
        for key in [each["Key"] for each in client.list_objects_v2(Bucket=s3_bucket)["Contents"]]:
            client.delete_object(Bucket=s3_bucket, Key=key)
        client.delete_bucket(Bucket=s3_bucket)

    code, said = study.run_until(1, delete, url)
    assert code == 75, said
    assert "NoSuchBucket" in said
    folder, named = upload_command(said)
    held = held_in(folder)
    assert named == url
    code, refused = upload(folder, url)
    assert code == 78, refused
    assert "create the bucket or correct its name" in refused
    client.create_bucket(Bucket=s3_bucket)
    code, sent = upload(folder, url)
    assert (code, f"{held} results sent" in sent) == (0, True), sent
    code, said = study.run(url)
    assert code == 0, said
    assert study.done(open_store(url)) == study.plan.runs
    record("test_refusals", f"bucket deleted: exit 75, then 78; {held} of {study.plan.runs} held, all uploaded", TARGET)


@pytest.mark.parametrize(
    ("fault", "said"),
    full(
        [("revoked", "InvalidAccessKeyId"), ("expired", "ExpiredToken"), ("skewed", "RequestTimeTooSkewed")],
        [("expired", "ExpiredToken")],
    ),
)
def test_a_pod_whose_credentials_are_revoked_holds_what_it_finishes(
    study: Study, s3_server: S3Server, s3_bucket: str, fault: str, said: str
) -> None:
    url, outbox = f"s3://{s3_bucket}/results", study.folder / "volume"
    with FaultProxy(s3_server.endpoint) as proxy:
        pod = study.pod(url, AWS_ENDPOINT_URL_S3=proxy.endpoint, REINIT_OUTBOX=str(outbox), REINIT_OUTBOX_SECONDS="1")
        process = pod.start()
        assert process.stdout is not None
        for line in process.stdout:
            pod.out += line
            if json.loads(line)["event"] == "finished":
                proxy.rates = {fault: 1.0}
                break
        out, pod.errors = process.communicate(timeout=250)
        pod.out += out
    assert process.returncode == 75, pod.out + pod.errors
    assert said in pod.last_word
    assert f"reinit upload {outbox} --store {url}" in pod.last_word
    held = held_in(outbox)
    assert 1 <= held < SEEDS
    code, sent = upload(outbox, url)
    assert code == 0, sent
    assert open_store(url).results(pod.cells[0].digest).done == set(pod.seeds)
    record("test_refusals", f"{said}: exit 75, {held} of {SEEDS} held by a pod, all uploaded", TARGET)


def test_where_no_disk_takes_a_run_either_it_says_so_and_the_next_call_runs_it_again(
    tmp_path: Path, study: Study
) -> None:
    store = f"file://{tmp_path}/disk/store"
    with disk(tmp_path / "disk", "16k") as again, disk(tmp_path / "outbox", "4k"):
        code, said = study.run(store, REINIT_OUTBOX=f"{tmp_path}/outbox")
        assert code == 75, said
        assert "No space left on device" in said
        assert "run again what no disk took" in said
        again("size=8m")
        code, said = study.run(store, REINIT_OUTBOX=f"{tmp_path}/outbox")
        assert code == 0, said
        assert study.done(open_store(store)) == study.plan.runs
    record("test_refusals", "disk and outbox full: exit 75, told what is lost, complete after the next call", TARGET)
