"""(cell, seeds, Cluster) -> one batch/v1 Job as a plain dict.

Law: pure and deterministic; laid out in the order a person reads a manifest; names are built valid, never sanitised.
A Job's name carries a hash of its template, since a template is immutable: whatever changes it makes a new Job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import yaml

from jobs.cell import Cell, canonical, treatment_name
from jobs.cluster import Cluster

Manifest = dict[str, Any]

PREFIX: Final = "reinit.dev"
"""Prefix of this project's own labels and annotations."""

USER: Final = 10_001
"""Numeric user of the container; scanners ask for at least 10,000."""

GRACE_SECONDS: Final = 120

NEVER_RETRIED: Final = (64, 65, 78)
"""Exit codes of a bad spec, bad data and bad configuration."""


def job(study: str, cell: Cell, seeds: Sequence[int], cluster: Cluster) -> Manifest:
    """One Job that runs every seed of the cell in one warm process."""
    labels = {
        "app.kubernetes.io/name": "reinit",
        "app.kubernetes.io/component": "cell",
        "app.kubernetes.io/part-of": study,
        "app.kubernetes.io/managed-by": "reinit",
        f"{PREFIX}/study": study,
        f"{PREFIX}/digest": cell.digest[:32],
        f"{PREFIX}/task": cell.task.name,
        f"{PREFIX}/size": str(cell.size),
        f"{PREFIX}/treatment": treatment_name(cell.treatment),
    }
    template = {"metadata": {"labels": labels}, "spec": _pod(cell, seeds, cluster)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(study, cell, template),
            "namespace": cluster.namespace,
            "labels": labels,
            "annotations": {f"{PREFIX}/cell": _json(cell.model_dump(mode="json"))},
        },
        "spec": {
            "backoffLimit": cluster.retries,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    _on_exit("Ignore", (143,)),
                    _on_exit("FailJob", NEVER_RETRIED),
                ]
            },
            **({} if cluster.ttl_seconds is None else {"ttlSecondsAfterFinished": cluster.ttl_seconds}),
            "template": template,
        },
    }


def job_name(study: str, cell: Cell, template: Manifest) -> str:
    """`<study, at most 20>-<task, at most 14>-<hash10>`: at most 46 characters, so that affixes still fit in 63."""
    digest = hashlib.sha256(canonical(template)).hexdigest()[:10]
    return f"{study[:20].rstrip('-')}-{cell.task.name[:14].rstrip('-')}-{digest}"


def _on_exit(action: str, codes: Sequence[int]) -> Manifest:
    return {"action": action, "onExitCodes": {"containerName": "main", "operator": "In", "values": list(codes)}}


def _pod(cell: Cell, seeds: Sequence[int], cluster: Cluster) -> Manifest:
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]
    volumes: list[Manifest] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": cluster.scratch}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shm}},
    ]
    if cluster.cache_claim is not None:
        mounts.append({"name": "cache", "mountPath": "/cache", "readOnly": True})
        claim = {"claimName": cluster.cache_claim, "readOnly": True}
        volumes.append({"name": "cache", "persistentVolumeClaim": claim})
    return {
        "restartPolicy": "Never",
        "serviceAccountName": cluster.service_account,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": cluster.image,
                "command": _command(cluster),
                "env": [{"name": name, "value": _literal(value)} for name, value in _env(cell, seeds, cluster).items()],
                "resources": _resources(cluster),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _command(cluster: Cluster) -> list[str]:
    """Exec form, so that a signal reaches the process and not a shell; several GPUs through DeepSpeed's launcher."""
    if cluster.gpus > 1:
        return ["deepspeed", "--num_gpus", str(cluster.gpus), "--module", "reinit"]
    return ["python", "-m", "reinit"]


def _env(cell: Cell, seeds: Sequence[int], cluster: Cluster) -> dict[str, str]:
    hub = {"HF_HOME": "/cache", "HF_HUB_OFFLINE": "1"} if cluster.cache_claim else {"HF_HOME": "/tmp/huggingface"}
    return {
        "REINIT_CELLS": _json([cell.model_dump(mode="json")]),
        "REINIT_SEEDS": _json(list(seeds)),
        "REINIT_STORE": cluster.store,
        "REINIT_PLACES": _json(cluster.places),
        "REINIT_IMAGE": cluster.image,
        "REINIT_DEVICE": "cuda" if cluster.gpus else "cpu",
        # A library would count the node's cores, not the pod's.
        "REINIT_THREADS": str(_threads(cluster)),
        **hub,
        # DeepSpeed and Triton keep caches under the home folder, which is read-only here.
        "HOME": "/tmp",
        "XDG_CACHE_HOME": "/tmp/cache",
        "TORCH_EXTENSIONS_DIR": "/tmp/torch-extensions",
        "TRITON_CACHE_DIR": "/tmp/triton",
        "TOKENIZERS_PARALLELISM": "false",
        **cluster.env,
    }


def _threads(cluster: Cluster) -> int:
    """Whole cores of one process of the pod."""
    cpu = float(cluster.cpu.removesuffix("m")) / 1000 if cluster.cpu.endswith("m") else float(cluster.cpu)
    return max(1, int(cpu / max(1, cluster.gpus)))


def _resources(cluster: Cluster) -> Manifest:
    """Requests equal limits: the pod is Guaranteed, and a GPU allows nothing else."""
    amounts = {"cpu": cluster.cpu, "memory": cluster.memory}
    if cluster.gpus:
        amounts[cluster.gpu_resource] = str(cluster.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _literal(value: str) -> str:
    """Kubernetes expands `$(NAME)` in values; `$$(` stands for itself."""
    return value.replace("$(", "$$(")


class _Quoted(str):
    """Text that YAML writes in double quotes: left bare, `1e5` and `y` become other types in some parsers."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Quotes every value that is text; writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  the library's signature
        return True


_Dumper.add_representer(
    _Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')
)


def _quoted(value: Any) -> Any:
    if isinstance(value, str):
        return _Quoted(value)
    if isinstance(value, Mapping):
        return {key: _quoted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_quoted(inner) for inner in value]
    return value


def to_yaml(manifests: Iterable[Manifest]) -> str:
    """The manifests as one YAML stream, byte-stable."""
    parts = [
        yaml.dump(_quoted(manifest), Dumper=_Dumper, sort_keys=False, width=2**20, allow_unicode=True)
        for manifest in manifests
    ]
    return "".join(f"---\n{part}" for part in parts)
