"""What pods, readers and submitters may do: what the program does, and nothing more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cluster import read_cluster
from tests.kube_api import allowed

K8S = Path(__file__).parents[2] / "k8s"


def granted(name: str) -> set[tuple[str, str]]:
    """Action and resource of a policy, all of whose statements allow."""
    policy = json.loads((K8S / "policies" / f"{name}.json").read_text(encoding="utf-8"))
    found = set()
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        actions = statement["Action"]
        found |= {(action, statement["Resource"]) for action in ([actions] if isinstance(actions, str) else actions)}
        if actions == "s3:ListBucket":
            # Listing is of a bucket; the condition keeps it below the prefix.
            assert statement["Condition"] == {"StringLike": {"s3:prefix": "reinit/*"}}
    return found


def test_a_reader_may_list_and_read_below_the_prefix_and_nothing_else() -> None:
    assert granted("reader") == {
        ("s3:ListBucket", "arn:aws:s3:::bucket"),
        ("s3:GetObject", "arn:aws:s3:::bucket/reinit/*"),
    }


def test_a_pod_may_write_too_and_delete_checkpoints_alone() -> None:
    assert granted("pods") - granted("reader") == {
        ("s3:PutObject", "arn:aws:s3:::bucket/reinit/*"),
        ("s3:DeleteObject", "arn:aws:s3:::bucket/reinit/checkpoints/*"),
    }


def test_the_policies_are_for_the_store_of_the_example_site() -> None:
    assert read_cluster(K8S / "cluster.yaml").store == "s3://bucket/reinit"


def role() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((K8S / "base" / "submitter.yaml").read_text(encoding="utf-8"))
    return found


def test_a_submitter_may_do_no_more_than_the_commands_do() -> None:
    """That it may do all of it is shown by the tests of the commands: their server enforces the role."""
    every = {(resource, verb) for rule in role()["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    jobs = {("jobs", verb) for verb in ("get", "list", "create", "patch", "delete")}
    assert every == {*jobs, ("pods", "list"), ("events", "list"), ("pods/log", "get")}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/reinit/secrets"),
        ("GET", "/api/v1/namespaces/reinit/secrets/s3"),
        ("DELETE", "/apis/batch/v1/namespaces/reinit/jobs"),
        ("POST", "/api/v1/namespaces/reinit/pods/x/exec"),
        ("PATCH", "/api/v1/namespaces/reinit/pods/x"),
    ],
)
def test_the_tests_server_refuses_what_the_role_does_not_grant(method: str, path: str) -> None:
    assert not allowed(method, path)


def test_the_pods_account_has_no_role() -> None:
    bindings = [
        path for path in K8S.rglob("*.yaml") if "RoleBinding" in path.read_text(encoding="utf-8").split("kind: ")
    ]
    assert bindings == []
