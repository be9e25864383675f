"""A manifest's pod, run from the text that `reinit render` wrote, gives what `reinit run` gives."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from jobs.result import RunResult
from jobs.store import open_store
from tests.pod import Node, Pod, action_on_exit, expand, start, why_no_pods
from tests.reinit.tiny import write_sentences
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.test_local_runs import a_study, command, finished

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_no_pods()), reason=why_no_pods() or "runs here")]

SITE: Final = {
    "image": "registry.example/reinit@sha256:" + "0" * 64,
    "store": "file:///results/reinit",
    "store_claim": "results",
    "gpus": 0,
    "cpu": "1",
    "places": {"tiny": "/data/tiny"},
    "data_volumes": [{"claim": "datasets", "path": "/data", "sub_path": "nlp"}],
}
COMMIT: Final = "c" * 40
VARYING: Final[dict[str, Any]] = {"wall_seconds": True, "finished_at": True, "provenance": {"host", "image"}}
"""What may differ between a pod and `reinit run`."""


def rendered(folder: Path, study: Path, **site: Any) -> dict[str, Any]:
    """The Job of the study's cell with redrawn layers, as read from the YAML that `reinit render` wrote."""
    cluster = folder / "cluster.yaml"
    cluster.write_text(yaml.safe_dump(SITE | site), encoding="utf-8")
    out = folder / "manifests"
    done = CliRunner().invoke(app, ["render", str(study), "--cluster", str(cluster), "-o", str(out)])
    assert done.exit_code == 0, done.output
    jobs = list(yaml.safe_load_all((out / "0001.yaml").read_text(encoding="utf-8")))
    (job,) = [each for each in jobs if each["metadata"]["labels"]["reinit.dev/treatment"] == "reinit-2to5"]
    found: dict[str, Any] = job
    return found


def a_node(folder: Path, **changes: Any) -> Node:
    """With the tiny data set and an empty volume for results, in which only root may write until a pod gets it."""
    write_sentences(folder / "datasets" / "nlp" / "tiny")
    (folder / "results").mkdir()
    claims = {"datasets": folder / "datasets", "results": folder / "results"}
    return Node(folder, **{"claims": claims, "commit": COMMIT} | changes)


def ended(pod: Pod) -> tuple[int, Pod]:
    with pod:
        return pod.wait(), pod


def results(store: str, job: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """What the store holds of the Job's cell, by seed, without what may differ; each object's hashes were checked."""
    opened = open_store(store)
    found = opened.results(job["metadata"]["annotations"]["reinit.dev/digest"]).results
    for result in found.values():
        assert isinstance(result, RunResult)
        assert opened.predictions(result.predictions)
    return {
        seed: {"science": result.science12, "numerics": result.provenance.numerics}
        | result.model_dump(mode="json", exclude=VARYING)
        for seed, result in found.items()
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_study(write_sentences(tmp_path_factory.mktemp("study") / "data"))


@pytest.fixture(scope="module")
def expected(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What `reinit run` makes of the same cell and seeds."""
    folder = tmp_path_factory.mktemp("expected")
    job = rendered(folder, study)
    only = ("--only", job["metadata"]["annotations"]["reinit.dev/digest"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REINIT_GIT_COMMIT", COMMIT)
        done = finished(command(study, f"file://{folder}/store", study.parent / "data", *only), folder)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(f"file://{folder}/store", job)
    assert set(found) == {1, 2}
    return found


def test_a_pod_writes_the_results_of_reinit_run_and_a_second_one_needs_no_torch(
    tmp_path: Path, study: Path, expected: dict[int, dict[str, Any]]
) -> None:
    job, node = rendered(tmp_path, study), a_node(tmp_path)
    code, pod = ended(start(job, node))
    assert (code, pod.events[-1]) == (0, "done"), pod.log
    store = f"file://{tmp_path}/results"
    assert results(store, job) == expected
    before = sorted((tmp_path / "results").rglob("*"))
    code, pod = ended(start(job, replace(node, lacks=("torch",)), attempt="00002"))
    assert (code, pod.events) == (0, ["done"]), pod.log
    assert sorted((tmp_path / "results").rglob("*")) == before


def test_the_pods_of_an_indexed_job_write_a_chunk_each_and_together_the_results_of_reinit_run(
    tmp_path: Path, study: Path, expected: dict[int, dict[str, Any]]
) -> None:
    job, node = rendered(tmp_path, study, seeds_per_pod=1), a_node(tmp_path)
    assert job["spec"]["completions"] == 2
    store = f"file://{tmp_path}/results"
    for index, seeds in enumerate([{1}, {1, 2}]):
        code, pod = ended(start(job, node, index=index))
        assert code == 0, pod.log
        assert set(results(store, job)) == seeds
    assert results(store, job) == expected


def test_a_bucket_is_reached_with_a_key_from_a_secret_and_with_nothing_of_this_process(
    tmp_path: Path, study: Path, expected: dict[int, dict[str, Any]], s3_server: S3Server, s3_url: str
) -> None:
    site: dict[str, Any] = {
        "store": s3_url,
        "store_claim": None,
        "secrets": [{"name": "s3", "path": "/secrets/s3", "keys": {"credentials": "credentials"}}],
        "env": {
            "AWS_SHARED_CREDENTIALS_FILE": "/secrets/s3/credentials",
            "AWS_ENDPOINT_URL_S3": s3_server.endpoint,
            "AWS_REGION": "us-east-1",
        },
    }
    job = rendered(tmp_path, study, **site)
    key = f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    node = a_node(tmp_path, secrets={"s3": {"credentials": key.replace(SECRET_KEY, "another")}})
    # This process could write to the bucket: had the pod its environment, it could, too.
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET_KEY
    code, pod = ended(start(job, node))
    assert (code, action_on_exit(job, code)) == (78, "FailJob"), pod.log
    assert "/secrets/s3/credentials" not in pod.log
    assert SECRET_KEY not in pod.log
    code, pod = ended(start(job, replace(node, secrets={"s3": {"credentials": key}}), attempt="00002"))
    assert code == 0, pod.log
    assert results(s3_url, job) == expected


@pytest.mark.parametrize(("missing", "code"), [("nlp/tiny/train.tsv", 65), ("nlp/tiny", 78)])
def test_data_that_are_not_on_their_volume_fail_the_job_at_once(
    tmp_path: Path, study: Path, missing: str, code: int
) -> None:
    job, node = rendered(tmp_path, study), a_node(tmp_path)
    (tmp_path / "datasets" / missing).rename(tmp_path / "elsewhere")
    got, pod = ended(start(job, node))
    assert (got, action_on_exit(job, got)) == (code, "FailJob"), pod.log
    assert "tiny" in pod.last_word
    assert results(f"file://{tmp_path}/results", job) == {}


def test_a_volume_that_the_pod_may_not_write_to_fails_the_job_before_any_training(tmp_path: Path, study: Path) -> None:
    job, node = rendered(tmp_path, study), a_node(tmp_path)
    (volume,) = [each for each in job["spec"]["template"]["spec"]["volumes"] if each["name"] == "store"]
    volume["persistentVolumeClaim"]["readOnly"] = True
    code, pod = ended(start(job, node))
    assert action_on_exit(job, code) == "FailJob", pod.log
    assert "loading" not in pod.events
    assert "/results/reinit" in pod.last_word


LOOK: Final = r"""
for name in Uid Gid Groups CapPrm CapBnd NoNewPrivs; do sed -n "s/^$name:[[:space:]]*/$name /p" /proc/self/status; done
for folder in / /data /tmp /dev/shm /results/reinit /secrets/key; do
  touch $folder/probe 2>/dev/null && echo "$folder is writable" || echo "$folder is not"
done
cat /secrets/key/*
stat -f -c '%T of %b pages' /dev/shm
echo $(env | cut -d= -f1)
"""


def test_a_pod_is_as_locked_up_as_its_manifest_says(tmp_path: Path, study: Path) -> None:
    """The executor itself: the tests above would not notice what it does not enforce."""
    key = [{"name": "key", "path": "/secrets/key", "keys": {"a": "b"}}]
    job = rendered(tmp_path, study, secrets=key, shm="1Mi", run_as_user=12_345)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["command"] = ["sh", "-c", LOOK.replace("$(", "$$(")]
    node = a_node(tmp_path, secrets={"key": {"a": "the key's text\n", "other": "not asked for\n"}})
    code, pod = ended(start(job, node))
    *seen, variables = pod.log.splitlines()
    assert code == 0, pod.log
    assert [" ".join(line.split()) for line in seen] == [
        "Uid 12345 12345 12345 12345",
        "Gid 12345 12345 12345 12345",
        "Groups 12345",
        "CapPrm 0000000000000000",
        "CapBnd 0000000000000000",
        "NoNewPrivs 1",
        "/ is not",
        "/data is not",
        "/tmp is writable",
        "/dev/shm is writable",
        "/results/reinit is writable",
        "/secrets/key is not",
        "the key's text",
        "tmpfs of 256 pages",
    ]
    of_the_image = {"HOSTNAME", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "REINIT_GIT_COMMIT"}
    of_the_shell = {"PWD"}
    assert set(variables.split()) == {entry["name"] for entry in container["env"]} | of_the_image | of_the_shell


def test_a_pod_is_signalled_as_pid_1_and_killed_with_all_that_it_started(tmp_path: Path, study: Path) -> None:
    job = rendered(tmp_path, study)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["command"] = ["sh", "-c", "trap 'echo asked' TERM; sleep 1000 & echo up; wait; wait"]
    with start(job, a_node(tmp_path)) as pod:
        for said, number in (("up", signal.SIGTERM), ("asked", signal.SIGKILL)):
            while said not in pod.log:
                sleep(0.01)
            pod.signal(number)
        assert pod.wait() == 128 + signal.SIGKILL
    assert action_on_exit(job, 128 + signal.SIGKILL) == "Count"


def test_variables_are_expanded_as_kubernetes_does() -> None:
    known = {"A": "1", "B": "$(A)"}
    for text, want in {
        "$(A)": "1", "$(B)": "$(A)", "$$(A)": "$(A)", "$$$(A)": "$1", "$(C)": "$(C)", "$A $(A": "$A $(A", "a$": "a$",
    }.items():  # fmt: skip
        assert expand(text, known) == want
