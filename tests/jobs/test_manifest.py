"""Jobs as a value: deterministic, quoted, named within Kubernetes' limits."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.cell import Cell
from jobs.cluster import Cluster, DataVolume, Secret, Toleration
from jobs.errors import ConfigurationError, DataError, SpecError, TransientError
from jobs.manifest import NEVER_RETRIED, STOPPED, Version, job, to_yaml
from jobs.tasks import GLUE
from tests.make import a_cell

SITE = Cluster(image="registry.example/reinit@sha256:" + "0" * 64, store="s3://bucket/prefix")
GOLDEN = Path(__file__).parents[1] / "golden" / "manifests"
SITES = {
    "gpu": SITE,
    "cpu": SITE.model_copy(update={"gpus": 0, "cpu": "2500m", "memory": "8Gi"}),
    "gpus": SITE.model_copy(update={"gpus": 4, "cpu": "16", "gpu_type": "NVIDIA-A100-SXM4-80GB"}),
    "indexed": SITE.model_copy(update={"seeds_per_pod": 2}),
    "queue": SITE.model_copy(
        update={
            "queue": "team-gpus",
            "secrets": (Secret(name="s3", path="/secrets/s3", keys={"credentials": "credentials"}),),
            "env": {"AWS_SHARED_CREDENTIALS_FILE": "/secrets/s3/credentials", "AWS_REGION": "eu-west-1"},
            "cache_claim": "hub",
            "tolerations": (Toleration(key="nvidia.com/gpu", effect="NoSchedule"),),
        }
    ),
    "full": SITE.model_copy(
        update={
            "image_pull_policy": "IfNotPresent",
            "image_pull_secret": "registry",
            "store": "file:///results/reinit",
            "store_claim": "results",
            "run_as_user": 20_000,
            "gpu_resource": "amd.com/gpu",
            "node_selector": {"node.kubernetes.io/instance-type": "1e5"},
            "tolerations": (
                Toleration(key="spot", operator="Equal", value="y", effect="NoExecute", seconds=0),
                Toleration(),
            ),
            "priority_class": "low",
            "ephemeral_storage": "12Gi",
            "deadline_seconds": 86_400,
            "retries": 0,
            "grace_seconds": 30,
            "ttl_seconds": None,
            "seeds_per_pod": 1,
            "places": {"glue/SST-2": "/data/SST-2"},
            "cache_claim": "hub",
            "data_volumes": (DataVolume(claim="datasets", path="/data", sub_path="nlp/glue"),),
            "secrets": (Secret(name="hub-token", path="/secrets/hub"),),
            "env": {"HF_TOKEN_PATH": "/secrets/hub/token", "NOTE": "$(HOME) costs 1e-5"},
            "labels": {"cost-centre": "0123"},
            "annotations": {"example.com/note": "“quoted”: yes"},
        }
    ),
}


def pod_of(site: Cluster) -> dict[str, Any]:
    spec: dict[str, Any] = job("paper", a_cell(6), (1, 2), site)["spec"]["template"]["spec"]
    return spec


def env_of(pod: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"] if "value" in entry}


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


def test_several_gpus_are_asked_for_and_told_and_none_asks_for_none() -> None:
    four = pod_of(SITE.model_copy(update={"gpus": 4}))
    assert four["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert env_of(four)["REINIT_GPUS"] == "4"
    assert env_of(four)["REINIT_THREADS"] == "1"
    none = pod_of(SITE.model_copy(update={"gpus": 0}))
    assert "nvidia.com/gpu" not in none["containers"][0]["resources"]["limits"]
    assert env_of(none)["REINIT_DEVICE"] == "cpu"


def test_the_command_is_a_program_and_no_shell() -> None:
    for gpus in (0, 1, 4):
        assert pod_of(SITE.model_copy(update={"gpus": gpus}))["containers"][0]["command"] == ["python", "-m", "reinit"]


def test_the_failure_policy_ignores_disruptions_then_stops_then_fails_what_no_retry_mends() -> None:
    rules = job("paper", a_cell(6), (1,), SITE)["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "Ignore", "FailJob"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[1]["onExitCodes"]["values"] == [143]
    assert rules[2]["onExitCodes"]["values"] == [64, 65, 78]


def test_the_exit_codes_are_those_that_the_pod_gives() -> None:
    assert {SpecError.exit_code, DataError.exit_code, ConfigurationError.exit_code} == set(NEVER_RETRIED)
    assert not {TransientError.exit_code, STOPPED} & set(NEVER_RETRIED)


def test_the_pod_security_profile_restricted_is_met_and_no_token_is_mounted() -> None:
    spec = pod_of(SITE)
    container = spec["containers"][0]["securityContext"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_the_digest_and_the_seeds_are_annotated_in_full() -> None:
    manifest = job("paper", a_cell(6), (1, 2), SITE)
    annotations = manifest["metadata"]["annotations"]
    assert annotations["reinit.dev/digest"] == a_cell(6).digest
    assert annotations["reinit.dev/seeds"] == "[1,2]"
    assert Cell.model_validate_json(annotations["reinit.dev/cell"]).digest == a_cell(6).digest
    assert manifest["spec"]["template"]["metadata"]["labels"].items() <= manifest["metadata"]["labels"].items()


def test_seeds_split_over_pods_make_an_indexed_job_with_tries_for_each_index() -> None:
    spec = job("paper", a_cell(6), range(1, 6), SITE.model_copy(update={"seeds_per_pod": 2}))["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["backoffLimitPerIndex"] == SITE.retries
    assert not {"backoffLimit", "maxFailedIndexes"} & spec.keys()
    assert spec["podFailurePolicy"] == job("paper", a_cell(6), (1,), SITE)["spec"]["podFailurePolicy"]
    names = {entry["name"]: entry.get("valueFrom") for entry in spec["template"]["spec"]["containers"][0]["env"]}
    assert names["REINIT_POD"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert env_of(spec["template"]["spec"])["REINIT_SEEDS"] == "[1,2,3,4,5]"


@pytest.mark.parametrize("size", [3, 4, None])
def test_seeds_that_fit_one_pod_make_a_plain_job(size: int | None) -> None:
    plain = job("paper", a_cell(6), (1, 2, 3), SITE)
    assert job("paper", a_cell(6), (1, 2, 3), SITE.model_copy(update={"seeds_per_pod": size})) == plain
    assert "completionMode" not in plain["spec"]


def test_an_older_server_gets_only_fields_that_it_knows() -> None:
    site = SITE.model_copy(update={"seeds_per_pod": 1})
    old = job("paper", a_cell(6), (1, 2), site, Version.parse("1.28"))["spec"]
    assert not {"backoffLimitPerIndex", "podReplacementPolicy"} & old.keys()
    assert old["backoffLimit"] == 2 * SITE.retries
    beta = job("paper", a_cell(6), (1, 2), site, Version.parse("v1.29.3"))["spec"]
    assert (beta["backoffLimitPerIndex"], beta["podReplacementPolicy"]) == (SITE.retries, "Failed")


@pytest.mark.parametrize("text", ["", "1", "1.25", "2.0", "1.x", "latest", "1.32 "])
def test_no_version_is_guessed(text: str) -> None:
    with pytest.raises(SpecError, match="Kubernetes"):
        Version.parse(text)


def test_whatever_cannot_be_changed_on_a_job_changes_its_name_and_nothing_else_does() -> None:
    def name(**changes: Any) -> str:
        found: str = job("paper", a_cell(6), (1, 2), SITE.model_copy(update=changes))["metadata"]["name"]
        return found

    assert name(ttl_seconds=5) == name(retries=9) == name(queue="q") == name(namespace="other") == name()
    split = name(seeds_per_pod=1)
    others = [name(cpu="2"), split, name(seeds_per_pod=1, retries=9), name(env={"A": "b"}), name(labels={"a": "b"})]
    assert len({name(), *others}) == 6


def test_a_queue_is_a_label_of_the_job_alone_and_nothing_is_suspended() -> None:
    manifest = job("paper", a_cell(6), (1,), SITE.model_copy(update={"queue": "gpus"}))
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "kueue.x-k8s.io/queue-name" not in manifest["spec"]["template"]["metadata"]["labels"]
    assert "suspend" not in manifest["spec"]


def test_the_deadline_is_the_pods_so_that_waiting_in_a_queue_does_not_count() -> None:
    manifest = job("paper", a_cell(6), (1,), SITE.model_copy(update={"deadline_seconds": 60}))
    assert manifest["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 60
    assert "activeDeadlineSeconds" not in manifest["spec"]


def test_every_mount_has_a_volume_and_only_scratch_and_the_store_are_written_to() -> None:
    pod = pod_of(SITES["full"])
    mounts = pod["containers"][0]["volumeMounts"]
    assert [mount["name"] for mount in mounts] == [volume["name"] for volume in pod["volumes"]]
    writable = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm", "/results/reinit"}
    assert env_of(pod)["HF_HUB_OFFLINE"] == "1"


@given(
    study=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True),
    task=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True),
    redrawn=st.sets(st.integers(0, 11)),
    seeds=st.integers(1, 7),
    size=st.one_of(st.none(), st.integers(1, 7)),
)
@settings(max_examples=50, deadline=None)
def test_names_and_labels_are_valid_and_twice_the_same(
    study: str, task: str, redrawn: set[int], seeds: int, size: int | None
) -> None:
    cell = a_cell(*sorted(redrawn), task=GLUE["sst2"].model_copy(update={"name": task}))
    site = SITE.model_copy(update={"seeds_per_pod": size})
    manifest = job(study, cell, range(1, seeds + 1), site)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,44}[a-z0-9])?", manifest["metadata"]["name"])
    labels = manifest["metadata"]["labels"] | manifest["spec"]["template"]["metadata"]["labels"]
    assert all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value) for value in labels.values())
    assert to_yaml([manifest]) == to_yaml([job(study, cell, range(1, seeds + 1), site)])
    assert yaml.safe_load(to_yaml([manifest])) == manifest


@pytest.mark.parametrize("name", SITES)
def test_manifests_are_the_golden_ones(name: str) -> None:
    """`WRITE_GOLDEN=1 pytest tests/jobs/test_manifest.py` writes the files anew."""
    path = GOLDEN / f"{name}.yaml"
    made = to_yaml([job("paper", a_cell(6, 7), (1, 2, 3), SITES[name])])
    if os.environ.get("WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.encode())
    assert made == path.read_bytes().decode()


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(SITES)
