"""Jobs as a value: deterministic, quoted, named within Kubernetes' limits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.cell import Cell
from jobs.cluster import Cluster, read_cluster
from jobs.errors import SpecError
from jobs.manifest import job, to_yaml
from tests.make import a_cell

SITE = Cluster(image="registry.example/reinit@sha256:" + "0" * 64, store="s3://bucket/prefix")


def test_the_same_cell_and_site_make_the_same_bytes() -> None:
    first, second = (to_yaml([job("paper", a_cell(6, 7), (1, 2, 3), SITE)]) for _ in range(2))
    assert first == second


def test_yaml_reads_back_as_the_same_manifest_by_a_reader_that_guesses_types() -> None:
    manifest = job("1e5", a_cell(6), (1,), SITE.model_copy(update={"env": {"A": "y", "B": "1e-5", "C": "0o7"}}))
    assert yaml.safe_load(to_yaml([manifest])) == manifest


def test_every_value_that_is_text_is_quoted() -> None:
    for line in to_yaml([job("paper", a_cell(6), (1,), SITE)]).splitlines():
        _, colon, value = line.partition(": ")
        assert not colon or re.fullmatch(r'".*"|-?[0-9]+|true|false|\[\]|\{\}', value), line


def test_the_pod_gets_its_cell_and_seeds_back_exactly() -> None:
    cell = a_cell(6, 7)
    container = job("paper", cell, (1, 2, 3), SITE)["spec"]["template"]["spec"]["containers"][0]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    (back,) = json.loads(env["REINIT_CELLS"])
    assert Cell.model_validate(back).digest == cell.digest
    assert json.loads(env["REINIT_SEEDS"]) == [1, 2, 3]
    assert env["REINIT_STORE"] == "s3://bucket/prefix"


def test_dollar_brackets_in_values_are_not_expanded_by_kubernetes() -> None:
    site = SITE.model_copy(update={"env": {"A": "$(HOME)"}})
    container = job("paper", a_cell(6), (1,), site)["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "A", "value": "$$(HOME)"} in container["env"]


def test_more_seeds_or_another_image_make_another_job_name_and_the_same_digest_label() -> None:
    one = job("paper", a_cell(6), (1,), SITE)
    more = job("paper", a_cell(6), (1, 2), SITE)
    image = job("paper", a_cell(6), (1,), SITE.model_copy(update={"image": "r/x@sha256:" + "1" * 64}))
    assert len({each["metadata"]["name"] for each in (one, more, image)}) == 3
    assert len({each["metadata"]["labels"]["reinit.dev/digest"] for each in (one, more, image)}) == 1


@given(study=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True))
def test_names_leave_room_for_what_queues_and_pods_append(study: str) -> None:
    name = job(study, a_cell(6), (1,), SITE)["metadata"]["name"]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,44}[a-z0-9])?", name)


def test_labels_are_valid_values() -> None:
    for value in job("paper", a_cell(*range(0, 12, 2)), (1,), SITE)["metadata"]["labels"].values():
        assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value)


def test_several_gpus_start_through_the_launcher_and_none_asks_for_no_gpu() -> None:
    four = job("paper", a_cell(6), (1,), SITE.model_copy(update={"gpus": 4}))["spec"]["template"]["spec"]
    assert four["containers"][0]["command"][:3] == ["deepspeed", "--num_gpus", "4"]
    assert four["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    none = job("paper", a_cell(6), (1,), SITE.model_copy(update={"gpus": 0}))["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in none["containers"][0]["resources"]["limits"]


def test_an_image_by_tag_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("image: registry.example/reinit:latest\nstore: s3://bucket\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"cluster.yaml:1"):
        read_cluster(path)
