"""The Job schema of each Kubernetes version, as it is stored and as it is used."""

from __future__ import annotations

import inspect
import json
import time
from importlib.resources import files

import jsonschema_rs
import pytest

from jobs.cluster import Cluster
from jobs.cluster_commands import lint
from jobs.manifest import job
from jobs.schemas import DEFAULT_VERSION, VERSIONS, check_schema, definitions, validator
from tests.make import a_cell

JOB = "io.k8s.api.batch.v1.Job"
SITE = Cluster(image="registry.example/reinit@sha256:" + "0" * 64, store="s3://bucket/prefix")


def test_versions_are_those_that_the_file_holds() -> None:
    text = files("jobs.data").joinpath("job.json").read_text(encoding="utf-8")
    assert {version for changes in json.loads(text).values() for version in changes} <= set(VERSIONS)
    assert DEFAULT_VERSION in VERSIONS
    assert inspect.signature(lint).parameters["k8s_version"].default == DEFAULT_VERSION
    assert VERSIONS == ("1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_schema_is_whole_and_strict(version: str) -> None:
    known = definitions(version)
    jsonschema_rs.meta.validate({"$ref": f"#/$defs/{JOB}", "$defs": known})
    text = json.dumps(known)
    assert {part.split('"')[0] for part in text.split('"#/$defs/')[1:]} <= set(known)
    open_objects = {name for name, each in known.items() if "properties" in each and each["additionalProperties"]}
    assert not open_objects


def test_fields_come_and_go_with_versions() -> None:
    fields = {version: set(definitions(version)[f"{JOB}Spec"]["properties"]) for version in VERSIONS}
    assert "successPolicy" in fields["1.30"]
    assert "managedBy" in fields["1.30"]
    assert fields["1.37"] - fields["1.30"] == {"scheduling"}


def test_null_stands_for_absent_as_the_server_takes_it() -> None:
    manifest = job("paper", a_cell(6), (1,), SITE)
    manifest["status"] = None
    manifest["spec"]["template"]["spec"]["volumes"][0]["emptyDir"]["sizeLimit"] = None
    assert list(check_schema(manifest, "1.32")) == []


@pytest.mark.slow
def test_ten_thousand_jobs_are_validated_in_a_second_or_two() -> None:
    manifest = job("paper", a_cell(6), (1,), SITE)
    validator("1.37")
    started = time.process_time()
    for _ in range(10_000):
        assert not list(check_schema(manifest, "1.37"))
    assert time.process_time() - started < 5
