"""What a site applies around the Jobs: every folder builds, and every pod in it passes the restricted profile."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cluster import read_cluster

K8S = Path(__file__).parents[2] / "k8s"
FOLDERS = sorted(path.parent for path in K8S.rglob("kustomization.yaml"))

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which builds the folders")


def built(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return list(yaml.safe_load_all(done.stdout))


def name(folder: Path) -> str:
    return str(folder.relative_to(K8S))


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_every_folder_builds_and_names_each_object_once(folder: Path) -> None:
    objects = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in built(folder)]
    assert objects
    assert len(set(objects)) == len(objects)


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_every_pod_passes_the_restricted_profile_and_has_limits(folder: Path) -> None:
    pods = [each["spec"]["template"]["spec"] for each in built(folder) if each["kind"] in ("Job", "StatefulSet")]
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "@sha256:" in container["image"]
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_the_namespace_of_the_base_enforces_the_restricted_profile_and_lets_nothing_in() -> None:
    objects = {each["kind"]: each for each in built(K8S / "base")}
    labels = objects["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {}
    assert not policy.get("ingress")
    assert "Ingress" in policy["policyTypes"]


def test_the_example_site_is_a_cluster_in_the_namespace_and_with_the_account_of_the_base() -> None:
    site = read_cluster(K8S / "cluster.yaml")
    objects = {each["kind"]: each for each in built(K8S / "base")}
    assert site.namespace == objects["Namespace"]["metadata"]["name"]
    assert site.service_account == objects["ServiceAccount"]["metadata"]["name"]
