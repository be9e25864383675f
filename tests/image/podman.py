"""A manifest's pod as a podman line: the container runtime's half of what a kubelet does.

Law: the manifest decides, and what is not understood here is refused, not left out. Nodes are those of `tests.pod`,
which runs the same pods without an image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from jobs.cluster import amount
from tests.pod import Node, environment

Json = Mapping[str, Any]

_POLICIES: Final = {"IfNotPresent": "missing", "Never": "never"}
_LEFT_TO_THE_CLUSTER: Final = {
    # Of these a single container on one machine knows nothing.
    "restartPolicy",
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
}


def podman_run(pod: Json, node: Node, name: str) -> list[str]:
    """`podman run` of a pod's one container.

    Args:
        pod: the pod's `spec`.
        node: folders of claims and texts of secrets; its disk takes the secrets' files.
        name: of the pod and the container.
    """
    fields = dict(pod)
    user, (container,), volumes = fields.pop("securityContext"), fields.pop("containers"), fields.pop("volumes")
    grace = fields.pop("terminationGracePeriodSeconds")
    _refuse(set(fields) - _LEFT_TO_THE_CLUSTER)
    own = dict(container)
    variables = environment(own, {}, name, None)
    words = ["podman", "run", "--rm", "--name", name, "--hostname", name, "--stop-timeout", str(grace)]
    words += ["--pull", _POLICIES[own.pop("imagePullPolicy")], *_user(user), *_privileges(own.pop("securityContext"))]
    words += _limits(own.pop("resources"))
    sources = {volume["name"]: volume for volume in volumes}
    for mount in own.pop("volumeMounts"):
        words += _mount(mount, sources.pop(mount["name"]), node, user["fsGroup"])
    words += [f"--env={key}={value}" for key, value in variables.items()]
    image, command = own.pop("image"), own.pop("command")
    _refuse({*own, *sources} - {"name", "env", "terminationMessagePolicy"})
    return [*words, "--entrypoint", json.dumps(command), image]


def _user(context: Json) -> Iterator[str]:
    fields = dict(context)
    user, group = fields.pop("runAsUser"), fields.pop("runAsGroup")
    assert fields.pop("runAsNonRoot") is True
    assert user != 0
    # podman's default seccomp profile is what RuntimeDefault names.
    assert fields.pop("seccompProfile") == {"type": "RuntimeDefault"}
    yield from ("--user", f"{user}:{group}", "--group-add", str(fields.pop("fsGroup")))
    _refuse(set(fields) - {"fsGroupChangePolicy"})


def _privileges(context: Json) -> list[str]:
    # podman makes /run and /var/tmp writable below a read-only root, a kubelet does not.
    expected = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert context == expected
    return ["--security-opt=no-new-privileges", "--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL"]


def _limits(resources: Json) -> list[str]:
    limits = dict(resources["limits"])
    assert resources["requests"] == limits
    words = ["--cpus", f"{amount(limits.pop('cpu')):g}", "--memory", str(int(amount(limits.pop("memory"))))]
    _refuse(set(limits) - {"ephemeral-storage"})
    return words


def _mount(mount: Json, volume: Json, node: Node, group: int) -> Iterator[str]:
    """The options of one mount; its volume has one key besides its name."""
    (kind,) = set(volume) - {"name"}
    source, path = volume[kind], mount["mountPath"]
    if kind == "emptyDir":
        # On disk or in memory: a container cannot tell.
        yield from ("--tmpfs", f"{path}:rw,exec,nosuid,nodev,mode=2777,size={int(amount(source['sizeLimit']))}")
        return
    read_only = mount.get("readOnly", False) or source.get("readOnly", False)
    if kind == "secret":
        folder = _secret(source, node, node.folder / volume["name"], group)
    else:
        assert kind == "persistentVolumeClaim"
        folder = node.claims[source["claimName"]] / mount.get("subPath", "")
    yield from ("--mount", f"type=bind,source={folder},target={path}{',readonly' if read_only else ''}")


def _secret(source: Json, node: Node, folder: Path, group: int) -> Path:
    """A Secret's files, which the container's group alone may read."""
    folder.mkdir(exist_ok=True)
    texts = node.secrets[source["secretName"]]
    for item in source.get("items") or [{"key": key, "path": key} for key in texts]:
        (path := folder / item["path"]).write_text(texts[item["key"]], encoding="utf-8")
        os.chown(path, 0, group)
        path.chmod(source["defaultMode"])
    return folder


def _refuse(unknown: set[str]) -> None:
    if unknown:
        raise NotImplementedError(f"the pod asks for what this test does not know: {sorted(unknown)}")
