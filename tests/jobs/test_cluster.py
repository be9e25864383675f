"""A site's file: every field explained, and what cannot hang together refused before a Job exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from jobs.cluster import Cluster, DataVolume, Secret, Toleration, amount, read_cluster
from jobs.errors import SpecError

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/reinit@sha256:" + "0" * 64


def a_site(**changes: Any) -> Cluster:
    return Cluster(**{"image": IMAGE, "store": "s3://bucket/prefix", **changes})


def test_the_shipped_file_shows_every_field_with_its_default() -> None:
    shown = read_cluster(ROOT / "k8s" / "cluster.yaml")
    assert shown.model_fields_set == set(Cluster.model_fields)
    assert shown == Cluster(image=shown.image, store=shown.store)


@pytest.mark.parametrize("model", [Cluster, Secret, DataVolume, Toleration])
def test_every_field_says_what_it_is(model: type[Cluster]) -> None:
    assert not [name for name, field in model.model_fields.items() if not field.description]


def test_an_image_by_tag_is_refused_with_the_line_and_in_words(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("image: registry.example/reinit:latest\nstore: s3://bucket\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"cluster.yaml:1") as refused:
        read_cluster(path)
    assert "by digest" in str(refused.value)


def test_an_unknown_field_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"image: {IMAGE}\nstore: s3://bucket\npriorityclass: high\n", encoding="utf-8")
    with pytest.raises(SpecError, match="priority_class"):
        read_cluster(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"store": "file:///results"}, "store_claim"),
        ({"store_claim": "results"}, "store_claim"),
        ({"store": "file:///../results", "store_claim": "c"}, "below the root"),
        ({"store": "file:///tmp/results", "store_claim": "c"}, "mounted at /tmp and /tmp/results"),
        ({"secrets": (Secret(name="a", path="/s"), Secret(name="b", path="/s/b"))}, "mounted at /s and /s/b"),
        ({"cache_claim": "c", "data_volumes": (DataVolume(claim="d", path="/cache"),)}, "/cache"),
        ({"shm": "16Gi"}, "below memory"),
        ({"ephemeral_storage": "1Gi"}, "at least scratch"),
        ({"gpus": 0, "gpu_type": "NVIDIA-L4"}, "gpu_type"),
        ({"gpu_type": "NVIDIA-L4", "node_selector": {"nvidia.com/gpu.product": "NVIDIA-T4"}}, "gpu_type"),
        ({"labels": {"reinit.dev/digest": "x"}}, "set by the manifest"),
        ({"annotations": {"app.kubernetes.io/name": "x"}}, "set by the manifest"),
        ({"env": {"REINIT_SEEDS": "[1]"}}, "set by the manifest"),
        ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, "mount it as a file"),
        ({"env": {"NOT-A-NAME": "x"}}, "env"),
        ({"labels": {"team": "-x"}}, "labels"),
        ({"secrets": ({"name": "a", "path": "/a/../b"},)}, "path"),
        ({"data_volumes": ({"claim": "d", "path": "/a", "sub_path": "a/../b"},)}, "sub_path"),
        ({"store": "file:///a:b", "store_claim": "c"}, "without colons"),
        ({"queue": "Has Spaces"}, "queue"),
        ({"cpu": "9" * 400}, "than a machine can have"),
        ({"cpu": "0"}, "above 0"),
        ({"scratch": "9" * 30 + "Ti"}, "than a machine can have"),
        ({"grace_seconds": 2**31}, "grace_seconds"),
        ({"store": "s3://user:secret@bucket/p"}, "not the URL of a store"),
        ({"store": "s3://bucket/../p"}, "not the URL of a store"),
        ({"store": "file:///a%00b", "store_claim": "c"}, "not the URL of a store"),
        ({"store": "file:///a%0ab", "store_claim": "c"}, "not the URL of a store"),
        ({"image": "--privileged@sha256:" + "0" * 64}, "image"),
        ({"env": {"WANDB_API_KEY": "x"}}, "mount it as a file"),
        ({"env": {"my_password": "x"}}, "mount it as a file"),
        ({"env": {"HTTPS_PROXY": "http://user:secret@proxy:3128"}}, "a URL with a user in it"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_hang_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        a_site(**changes)


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "a", "operator": "Equal"},
        {"key": "a", "value": "b"},
        {"operator": "Equal", "value": "b"},
        {"key": "a", "seconds": 5},
    ],
)
def test_a_toleration_that_the_server_would_refuse_is_refused(toleration: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="toleration"):
        Toleration(**toleration)


@pytest.mark.parametrize(
    ("quantity", "number"),
    [("1.5Gi", 1536 * 2**20), ("2G", 2e9), ("500m", 0.5), ("4", 4), ("1Ki", 1024), ("3k", 3000)],
)
def test_quantities_are_read_as_kubernetes_reads_them(quantity: str, number: float) -> None:
    assert amount(quantity) == number


def test_the_shipped_file_reads_the_same_by_a_common_parser() -> None:
    assert set(yaml.safe_load((ROOT / "k8s" / "cluster.yaml").read_text())) == set(Cluster.model_fields)


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "HF_TOKEN_PATH",
        "TOKENIZERS_PARALLELISM",
        "AWS_ACCESS_KEY_ID",
    ],
)
def test_a_variable_that_only_names_a_secrets_file_is_allowed(name: str) -> None:
    assert a_site(env={name: "x"}).env == {name: "x"}


@pytest.mark.parametrize(
    "line",
    ["store: s3://user:hunter2@bucket", "env: {HTTPS_PROXY: 'http://user:hunter2@proxy'}", "env: {HF_TOKEN: hunter2}"],
)
def test_a_refusal_of_a_secret_does_not_show_it(line: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"image: {IMAGE}\n" + ("" if "store" in line else "store: s3://bucket\n") + line, encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        read_cluster(path)
    assert "hunter2" not in str(refused.value)
