"""A Job's pods on this machine: what a kubelet makes of a manifest, with Linux alone and no container runtime.

Law: the manifest decides. A pod gets its command, environment, user and mounts from the Job it is given and from
nothing else; the image is this machine's Python with its packages, under the Dockerfile's own ENV and WORKDIR.
Namespaces, bind mounts and setpriv (util-linux) do it, so it takes root. Left out: limits, seccomp, own network.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from jobs.cluster import amount

DOCKERFILE: Final = Path(__file__).parents[1] / "Dockerfile"
BASE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VENV: Final = "/opt/reinit"
PACKAGES: Final = "/opt/packages"
"""Where folders of this machine's sys.path appear: their own may be below one that only root may enter."""
DEVICES: Final = ("null", "zero", "full", "random", "urandom")
NO_CONTAINER: Final = 125
"""Exit code when the pod could not be made, as container runtimes have it."""

_UNSHARE: Final = ("unshare", "--mount", "--pid", "--ipc", "--fork")
_PROBE: Final = ("mount", "-t", "tmpfs", "none", "/mnt")


@dataclass(frozen=True)
class Node:
    """What a cluster has, and a manifest only names."""

    folder: Path
    """The node's disk."""
    claims: Mapping[str, Path] = field(default_factory=dict)
    """Folder of each persistent volume claim."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Text of each Secret, by key."""
    commit: str = "0" * 40
    """What the image was built from."""
    lacks: tuple[str, ...] = ()
    """Packages that the image does not have."""


@dataclass
class Pod:
    """A pod that was started; leaving its `with` block ends it."""

    name: str
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def log(self) -> str:
        """As `kubectl logs` gives it."""
        return (self.folder / "log").read_text()

    @property
    def events(self) -> list[str]:
        """The kind of each event in the log."""
        return [json.loads(line)["event"] for line in self.log.splitlines() if line.startswith("{")]

    @property
    def last_word(self) -> str:
        """The container's termination message."""
        return (self.folder / "termination-log").read_text()

    def signal(self, number: int) -> None:
        """To the container's main process, which is PID 1 of its namespace and ignores what it has no handler for."""
        if self.process.poll() is None and (child := self._main()):
            # It may end meanwhile.
            with suppress(ProcessLookupError):
                os.kill(child, number)

    def wait(self) -> int:
        """The container's exit code; 128 and more after a signal.

        Raises:
            RuntimeError: the pod could not be made.
        """
        code = self.process.wait()
        if code == NO_CONTAINER:
            raise RuntimeError(f"no pod on this machine: {self.log}")
        # unshare ends by the signal that ended its child; some versions fail to with SIGKILL, and say so.
        if code == 1 and "unshare: sigprocmask unblock failed" in self.log[-80:]:
            return 128 + signal.SIGKILL
        return code if code >= 0 else 128 - code

    def _main(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while self.process.poll() is None and not (found := children.read_text().split()):
            time.sleep(0.01)
        return int(found[0]) if self.process.returncode is None else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


@functools.cache
def why_no_pods() -> str:
    """Why no pod can run on this machine; empty where one can."""
    if os.geteuid() != 0:
        return "pods take root: mounts, and another user's id"
    if lacking := [tool for tool in ("unshare", "setpriv", "mount", "chroot") if shutil.which(tool) is None]:
        return f"pods take {', '.join(lacking)}"
    done = subprocess.run([*_UNSHARE, *_PROBE], capture_output=True, text=True, check=False)
    return f"pods take namespaces and mounts: {done.stderr.strip()}" if done.returncode else ""


def start(job: Mapping[str, Any], node: Node, *, index: int | None = None, attempt: str = "00001") -> Pod:
    """Start the pod of a Job, or that of one index of an Indexed Job."""
    name = "-".join([job["metadata"]["name"], *([] if index is None else [str(index)]), attempt])
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=node.folder))
    (root := folder / "root").mkdir()
    # exec forgets the trap, so it speaks only of a pod that could not be made.
    script = [f"trap 'exit {NO_CONTAINER}' EXIT", "umask 022", f"cd {shlex.quote(str(root))}"]
    script += ["mount -t tmpfs -o mode=755 root .", 'cd "$PWD"', *_image(folder, node), *_volumes(spec, folder, node)]
    if container["securityContext"]["readOnlyRootFilesystem"]:
        script.append("mount -o remount,bind,ro .")
    script.append('exec chroot . "$@"')
    variables = environment(container, image_environment(node.commit) | {"HOSTNAME": name}, name, index)
    command = [expand(word, variables) for word in container["command"]]
    inside = [*_as_user(spec, container), "env", "-i", f"--chdir={_from_dockerfile('WORKDIR')}"]
    inside += [*(f"{key}={value}" for key, value in variables.items()), *command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*_UNSHARE, "sh", "-euc", "\n".join(script), "sh", *inside],
            env={"PATH": BASE_PATH}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    return Pod(name, process, folder)


def action_on_exit(job: Mapping[str, Any], code: int) -> str:
    """What the Job's podFailurePolicy says of a container's exit code; Count where no rule speaks."""
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        if (codes := rule.get("onExitCodes")) and (code in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
    return "Count"


def environment(container: Mapping[str, Any], image: Mapping[str, str], name: str, index: int | None) -> dict[str, str]:
    """The image's variables, then the manifest's, then what the Job controller adds."""
    declared: dict[str, str] = {}
    for entry in container["env"]:
        if "valueFrom" in entry:
            declared[entry["name"]] = {"metadata.name": name}[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            declared[entry["name"]] = expand(entry["value"], declared)
    return {**image, **declared, **({} if index is None else {"JOB_COMPLETION_INDEX": str(index)})}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` of a variable that is known already, and `$$` for a dollar; anything else stays as it is."""

    def replaced(found: re.Match[str]) -> str:
        return "$" if found[1] == "$" else variables.get(found[2], found[0])

    return re.sub(r"\$(\$|\(([^)]*)\))", replaced, text)


def image_environment(commit: str) -> dict[str, str]:
    """ENV of the Dockerfile's last stage, on top of what the base image has."""
    found = {"PATH": BASE_PATH}
    known = {"GIT_COMMIT": commit}
    for word in shlex.split(_from_dockerfile("ENV")):
        name, _, value = word.partition("=")
        found[name] = string.Template(value).substitute(known | found)
    return found


def _from_dockerfile(instruction: str) -> str:
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    return " ".join(re.findall(rf"^{instruction} (.*)$", text[text.rindex("\nFROM ") :], flags=re.MULTILINE))


def _image(folder: Path, node: Node) -> Iterator[str]:
    """The root's content, all of it read-only: system, Python, packages, devices. Paths are relative to the root."""
    yield "mkdir proc dev && mount -t proc proc proc"
    for path in ["/etc", "/sys", "/usr", *({sys.base_prefix} - {"/usr", "/usr/local"})]:
        yield from _bind(Path(path), path)
    for system in (Path("/bin"), Path("/lib"), Path("/lib64"), Path("/sbin")):
        if system.is_symlink():
            yield f"ln -s {system.readlink()} .{system}"
        elif system.exists():
            yield from _bind(system, str(system))
    for device in DEVICES:
        yield f"touch dev/{device} && mount --bind /dev/{device} dev/{device}"
    (word := folder / "termination-log").touch()
    word.chmod(0o666)
    yield f"touch dev/termination-log && mount --bind {shlex.quote(str(word))} dev/termination-log"
    packages = _packages()
    for number, package in enumerate(packages):
        seen = f"{PACKAGES}/{number}"
        yield from _bind(package, seen)
        yield from (f"mount -t tmpfs none .{seen}/{name}" for name in node.lacks if (package / name).is_dir())
    yield from _bind(_venv(folder / "venv", len(packages)), VENV)


def _packages() -> list[Path]:
    """Folders that this process imports from, besides the interpreter's own."""
    folders = [path for path in dict.fromkeys(map(Path, sys.path)) if path.is_absolute() and path.is_dir()]
    return [path for path in folders if not path.is_relative_to(sys.base_prefix)]


def _venv(folder: Path, packages: int) -> Path:
    """A virtual environment with this machine's packages where the pod sees them."""
    python = Path(sys.executable).resolve()
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for each in (site, folder / "bin"):
        each.mkdir(parents=True)
    (site / "packages.pth").write_text("".join(f"{PACKAGES}/{number}\n" for number in range(packages)))
    (folder / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
    (folder / "bin" / "python").symlink_to(python)
    return folder


def _volumes(spec: Mapping[str, Any], folder: Path, node: Node) -> Iterator[str]:
    (container,) = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    group: int = spec["securityContext"]["fsGroup"]
    for mount in sorted(container["volumeMounts"], key=lambda each: str(each["mountPath"])):
        volume, path = volumes[mount["name"]], mount["mountPath"]
        read_only = mount.get("readOnly", False)
        if (empty := volume.get("emptyDir")) is not None and empty.get("medium") == "Memory":
            options = f"mode=2777,gid={group},size={int(amount(empty['sizeLimit']))}"
            yield f"mkdir -p .{path} && mount -t tmpfs -o {options} {volume['name']} .{path}"
            continue
        if empty is not None:
            (source := folder / "volumes" / volume["name"]).mkdir(parents=True)
            _give_to(group, source, 0o2777)
        elif (secret := volume.get("secret")) is not None:
            source = _secret(secret, node.secrets[secret["secretName"]], folder / volume["name"], group)
            read_only = True
        else:
            claim = volume["persistentVolumeClaim"]
            source = node.claims[claim["claimName"]]
            read_only = read_only or claim.get("readOnly", False)
            if not claim.get("readOnly", False):
                for each in (source, *source.rglob("*")):
                    _give_to(group, each, 0o2770 if each.is_dir() else 0o660)
        yield from _bind(source / mount.get("subPath", ""), path, read_only=read_only)


def _secret(secret: Mapping[str, Any], text: Mapping[str, str], folder: Path, group: int) -> Path:
    folder.mkdir()
    for item in secret.get("items") or [{"key": key, "path": key} for key in text]:
        (folder / item["path"]).write_text(text[item["key"]])
        _give_to(group, folder / item["path"], 0)
        (folder / item["path"]).chmod(secret["defaultMode"])
    return folder


def _give_to(group: int, path: Path, more: int) -> None:
    os.chown(path, -1, group)
    path.chmod(path.stat().st_mode & 0o7777 | more)


def _bind(source: Path, path: str, *, read_only: bool = True) -> Iterator[str]:
    """Without what is mounted below the source, as a volume comes."""
    yield f"mkdir -p .{shlex.quote(path)}"
    options = "bind,ro" if read_only else "bind"
    yield f"mount -o {options} {shlex.quote(str(source))} .{shlex.quote(path)}"


def _as_user(spec: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
    user, own = spec["securityContext"], container["securityContext"]
    assert user["runAsNonRoot"] is (user["runAsUser"] != 0)
    flags = [f"--reuid={user['runAsUser']}", f"--regid={user['runAsGroup']}", f"--groups={user['fsGroup']}"]
    if own["capabilities"] == {"drop": ["ALL"]}:
        flags += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    if own["allowPrivilegeEscalation"] is False:
        flags.append("--no-new-privs")
    return ["setpriv", *flags]
