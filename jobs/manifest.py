"""(cell, seeds, Cluster) -> one batch/v1 Job as a plain dict.

Law: pure and deterministic, and never a function of what a store holds; laid out in the order a person reads a
manifest; names are built valid, never sanitised. A Job's name carries a hash of what cannot be changed on a Job that
exists: whatever changes it makes a new Job.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from jobs.cell import Cell, canonical, treatment_name
from jobs.cluster import CACHE, SHM, TMP, Cluster, Toleration
from jobs.environment import chunks, compact, pod_environment
from jobs.errors import SpecError
from jobs.yamltext import document

Manifest = dict[str, Any]

PREFIX: Final = "reinit.dev"
"""Prefix of this project's own labels and annotations."""

QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Label by which Kueue knows a Job as its own."""

STOPPED: Final = 143
"""Exit code of a stop after durable progress: ignored, so never counted."""

NEVER_RETRIED: Final = (64, 65, 78)
"""Exit codes of a bad spec, bad data and bad configuration."""

COMMAND: Final = ("python", "-m", "reinit")
"""Exec form, so that a signal reaches the process and not a shell."""

IMMUTABLE: Final = ("completions", "completionMode", "backoffLimitPerIndex", "podFailurePolicy", "template")
"""Fields of a Job's spec that the server refuses to change."""


class Version(NamedTuple):
    """Version of Kubernetes that manifests are written for."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """`1.32`, `v1.32` or `1.32.4` as a version.

        Raises:
            SpecError: it is none, or older than `OLDEST`.
        """
        found = re.fullmatch(r"v?1\.([0-9]{1,3})([.+-].*)?", text)
        if found is None or (version := cls(1, int(found[1]))) < OLDEST:
            raise SpecError("no Kubernetes version", expected=f"{OLDEST} or newer", got=text)
        return version

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


OLDEST: Final = Version(1, 26)
"""The first with podFailurePolicy on by default."""
TARGET: Final = Version(1, 32)
"""What manifests are written for, unless told."""
_BETA: Final = Version(1, 29)
"""The first with backoffLimitPerIndex and podReplacementPolicy on by default."""


def job(study: str, cell: Cell, seeds: Sequence[int], cluster: Cluster, version: Version = TARGET) -> Manifest:
    """One Job that runs every seed of the cell, in one warm process or, split by `seeds_per_pod`, in one a chunk."""
    labels = _labels(study, cell)
    template: Manifest = {
        "metadata": {"labels": {**labels, **cluster.labels}, **_if_any("annotations", cluster.annotations)},
        "spec": _pod(cell, seeds, cluster),
    }
    spec = _spec(template, chunks(seeds, cluster), cluster, version)
    own = {
        f"{PREFIX}/digest": cell.digest,
        f"{PREFIX}/seeds": compact(list(seeds)),
        f"{PREFIX}/cell": compact(cell.model_dump(mode="json")),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(study, cell, spec),
            "namespace": cluster.namespace,
            "labels": {**labels, **({QUEUE: cluster.queue} if cluster.queue else {}), **cluster.labels},
            "annotations": {**own, **cluster.annotations},
        },
        "spec": spec,
    }


def job_name(study: str, cell: Cell, spec: Manifest) -> str:
    """`<study, at most 20>-<task, at most 14>-<hash10>`: at most 46 characters, so that affixes still fit in 63."""
    fixed = {field: spec[field] for field in IMMUTABLE if field in spec}
    digest = hashlib.sha256(canonical(fixed)).hexdigest()[:10]
    return f"{study[:20].rstrip('-')}-{cell.task.name[:14].rstrip('-')}-{digest}"


def to_yaml(manifests: Iterable[Manifest]) -> str:
    """The manifests as one YAML stream, byte-stable."""
    return "".join(f"---\n{document(manifest)}" for manifest in manifests)


def _labels(study: str, cell: Cell) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "reinit",
        "app.kubernetes.io/component": "cell",
        "app.kubernetes.io/part-of": study,
        "app.kubernetes.io/managed-by": "reinit",
        f"{PREFIX}/study": study,
        # A label's value has room for half of it; the annotation has it whole.
        f"{PREFIX}/digest": cell.digest[:32],
        f"{PREFIX}/task": cell.task.name,
        f"{PREFIX}/size": str(cell.size),
        f"{PREFIX}/treatment": treatment_name(cell.treatment),
    }


def _spec(template: Manifest, pods: int, cluster: Cluster, version: Version) -> Manifest:
    if pods == 1:
        counts: Manifest = {"backoffLimit": cluster.retries}
    else:
        counts = {"completionMode": "Indexed", "completions": pods, "parallelism": pods}
        # Each index has its own tries; where the server cannot count so, all share as many in sum.
        counts |= {"backoffLimitPerIndex": cluster.retries} if version >= _BETA else {}
        counts |= {"backoffLimit": cluster.retries * pods} if version < _BETA else {}
    return {
        **counts,
        **({"podReplacementPolicy": "Failed"} if version >= _BETA else {}),
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                _on_exit("Ignore", (STOPPED,)),
                # FailJob for an index, too: what one chunk of a cell's seeds finds impossible, all do.
                _on_exit("FailJob", NEVER_RETRIED),
            ]
        },
        **({} if cluster.ttl_seconds is None else {"ttlSecondsAfterFinished": cluster.ttl_seconds}),
        "template": template,
    }


def _on_exit(action: str, codes: Sequence[int]) -> Manifest:
    """The server wants the codes sorted."""
    return {"action": action, "onExitCodes": {"containerName": "main", "operator": "In", "values": sorted(codes)}}


def _pod(cell: Cell, seeds: Sequence[int], cluster: Cluster) -> Manifest:
    gpu_type = {"nvidia.com/gpu.product": cluster.gpu_type} if cluster.gpu_type else {}
    pull_secret = [{"name": cluster.image_pull_secret}] if cluster.image_pull_secret else []
    return {
        "restartPolicy": "Never",
        "serviceAccountName": cluster.service_account,
        "automountServiceAccountToken": False,
        # Services of the namespace would come as variables, and one called `reinit-store` would change a run.
        "enableServiceLinks": False,
        **_if_any("imagePullSecrets", pull_secret),
        **_if_any("priorityClassName", cluster.priority_class),
        **_if_any("nodeSelector", {**gpu_type, **cluster.node_selector}),
        **_if_any("tolerations", [_toleration(each) for each in cluster.tolerations]),
        **_if_any("activeDeadlineSeconds", cluster.deadline_seconds),
        "terminationGracePeriodSeconds": cluster.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.run_as_user,
            "runAsGroup": cluster.run_as_user,
            "fsGroup": cluster.run_as_user,
            # Without it every start walks a volume of any size to change its owner.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(cell, seeds, cluster)],
        "volumes": [volume for volume, _ in _volumes(cluster)],
    }


def _container(cell: Cell, seeds: Sequence[int], cluster: Cluster) -> Manifest:
    variables = pod_environment(cell, seeds, cluster)
    env: list[Manifest] = [{"name": name, "value": _literal(value)} for name, value in variables.items()]
    if chunks(seeds, cluster) > 1:
        # The host name of an indexed pod is that of its index, so two attempts would record a failure under one name.
        env.append({"name": "REINIT_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
    return {
        "name": "main",
        "image": cluster.image,
        "imagePullPolicy": cluster.image_pull_policy,
        "command": list(COMMAND),
        "env": env,
        "resources": _resources(cluster),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount for _, mount in _volumes(cluster)],
    }


def _volumes(cluster: Cluster) -> list[tuple[Manifest, Manifest]]:
    """Each volume with its mount."""
    found: list[tuple[Manifest, Manifest]] = [
        _volume("tmp", TMP, {"emptyDir": {"sizeLimit": cluster.scratch}}, read_only=False),
        _volume("shm", SHM, {"emptyDir": {"medium": "Memory", "sizeLimit": cluster.shm}}, read_only=False),
    ]
    if cluster.cache_claim:
        found.append(_volume("cache", CACHE, _claim(cluster.cache_claim, read_only=True), read_only=True))
    if cluster.store_claim and cluster.store_folder:
        found.append(
            _volume("store", cluster.store_folder, _claim(cluster.store_claim, read_only=False), read_only=False)
        )
    for number, data in enumerate(cluster.data_volumes):
        volume, mount = _volume(f"data-{number}", data.path, _claim(data.claim, read_only=True), read_only=True)
        found.append((volume, {**mount, **_if_any("subPath", data.sub_path)}))
    for number, secret in enumerate(cluster.secrets):
        items = [{"key": key, "path": name} for key, name in secret.keys.items()]
        # 0440: the group is the container's, nobody else reads it.
        source = {"secret": {"secretName": secret.name, "defaultMode": 0o440, **_if_any("items", items)}}
        found.append(_volume(f"secret-{number}", secret.path, source, read_only=True))
    return found


def _volume(name: str, path: str, source: Manifest, *, read_only: bool) -> tuple[Manifest, Manifest]:
    return {"name": name, **source}, {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


def _claim(name: str, *, read_only: bool) -> Manifest:
    return {"persistentVolumeClaim": {"claimName": name, **({"readOnly": True} if read_only else {})}}


def _toleration(toleration: Toleration) -> Manifest:
    return {
        **_if_any("key", toleration.key),
        "operator": toleration.operator,
        **_if_any("value", toleration.value),
        **_if_any("effect", toleration.effect),
        **({} if toleration.seconds is None else {"tolerationSeconds": toleration.seconds}),
    }


def _resources(cluster: Cluster) -> Manifest:
    """Requests equal limits: the pod is Guaranteed, and a GPU allows nothing else."""
    amounts = {"cpu": cluster.cpu, "memory": cluster.memory, **_if_any("ephemeral-storage", cluster.ephemeral_storage)}
    if cluster.gpus:
        amounts[cluster.gpu_resource] = str(cluster.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


def _if_any(key: str, value: Mapping[str, Any] | Sequence[Any] | int | None) -> Manifest:
    """The entry, unless there is nothing to say."""
    return {key: value} if value else {}


def _literal(value: str) -> str:
    """Kubernetes expands `$(NAME)` in values; `$$(` stands for itself."""
    return value.replace("$(", "$$(")
