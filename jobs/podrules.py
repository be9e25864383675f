"""What the API server refuses in a Job's pods, and what it takes and somebody regrets.

Law: as in `jobs.rules`. Source: kubernetes/pkg/apis/core/validation, and the recorded answers in tests/jobs/recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Final

from jobs.finding import At, Finding
from jobs.names import dns_label, dns_subdomain, qualified_name
from jobs.quantity import FORM, quantity
from jobs.rules import Job, Rule

STANDARD: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
SHELLS: Final = frozenset({"sh", "bash", "ash", "dash", "zsh", "ksh"})

CHOICES: Final = {
    "dnsPolicy": ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    "preemptionPolicy": ("Never", "PreemptLowerPriority"),
}
CONTAINER_CHOICES: Final = {
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "terminationMessagePolicy": ("FallbackToLogsOnError", "File"),
}
EFFECTS: Final = ("NoExecute", "NoSchedule", "PreferNoSchedule")

_DIGEST = re.compile(r"\S+@sha256:[0-9a-f]{64}")
_OLD_ENV = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_NEW_ENV = re.compile(r"[ -<>-~]+")
_SHELL_OPTION = re.compile(r"-[a-z]*c[a-z]*")


def containers(job: Job) -> Iterator[Finding]:
    """There is one at least, and each has a name of its own and an image."""
    if not list(job.pod["containers"]):
        yield job.pod["containers"].refused("containers", "The pod has no container.", "one or more")
    if job.pod["ephemeralContainers"].value:
        problem = "Ephemeral containers are added to running pods only."
        yield job.pod["ephemeralContainers"].refused("ephemeral-containers", problem, "nothing")
    yield from _unique((each["name"] for each in job.containers()), "container-name", "container")
    for container in job.containers():
        image = container["image"]
        if not image.text or image.text != image.text.strip():
            yield image.refused("image-missing", "The container has no image.", "registry/name@sha256:...")
        elif not _DIGEST.fullmatch(image.text):
            problem = "A tag may name another image tomorrow: two pods of one Job may differ."
            yield image.warning("image-digest", problem, "registry/name@sha256:...")
        yield from _choices(container, CONTAINER_CHOICES)


def _unique(names: Iterable[At], rule: str, kind: str) -> Iterator[Finding]:
    seen: dict[str, At] = {}
    for at in names:
        if allowed := dns_label(at.text):
            yield at.refused(rule, f"The name of a {kind} is malformed.", allowed)
        elif at.text in seen:
            yield at.refused(rule, f"Two {kind}s have one name.", f"each name once in a pod's {kind}s")
        seen[at.text] = at


def _choices(at: At, choices: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    for key, allowed in choices.items():
        if at[key].present and at[key].text not in allowed:
            yield at[key].refused("choice", f"There is no such {key}.", ", ".join(allowed))


def environment(job: Job) -> Iterator[Finding]:
    """Names are possible and each stands once; a value comes from one place."""
    relaxed = job.site.minor >= 32
    for container in job.containers():
        seen: set[str] = set()
        for entry in container["env"]:
            at = entry["name"]
            if not (_NEW_ENV if relaxed else _OLD_ENV).fullmatch(at.text):
                allowed = (
                    "printable ASCII without =" if relaxed else "A-Z, a-z, 0-9, -, _ and ., not beginning with a digit"
                )
                yield at.refused("env-name", "The name of a variable is malformed.", allowed)
            if at.text in seen:
                problem = "A variable stands twice: the last one counts, and apply may drop one."
                yield at.warning("env-duplicate", problem, "each name once in a container")
            seen.add(at.text)
            yield from _source(entry)


def _source(entry: At) -> Iterator[Finding]:
    source = entry["valueFrom"]
    if not source.present:
        return
    kinds = [key for key, at in source.items() if at.present]
    if entry["value"].text:
        yield source.refused("env-source", "A variable has a value and a source.", "value or valueFrom", got="both")
    if len(kinds) != 1:
        got = ", ".join(kinds) or "none"
        yield source.refused("env-source", "A variable has one source.", "one of those that valueFrom has", got=got)


def resources(job: Job) -> Iterator[Finding]:
    """Amounts can be read; requests stay within limits; what cannot be shared is asked for whole."""
    for container in job.containers():
        at = container["resources"]
        for part in ("requests", "limits"):
            for resource, amount in at[part].items():
                yield from _amount(resource, amount)
        yield from _requests(at)
        if not at.down("limits", "memory").present and not job.pod.down("resources", "limits", "memory").present:
            problem = "Without a limit the container may take the node's memory, and others are killed for it."
            yield at.down("limits", "memory").warning("memory-limit", problem, 'a quantity, for example "16Gi"')


def _amount(resource: str, at: At) -> Iterator[Finding]:
    if resource not in STANDARD and not resource.startswith("hugepages-"):
        if "/" not in resource or qualified_name(resource):
            allowed = f"{', '.join(sorted(STANDARD))}, hugepages-SIZE, or domain/name such as nvidia.com/gpu"
            yield at.refused("resource-name", "There is no such resource.", allowed, got=resource)
            return
        whole = True
    else:
        whole = False
    amount = quantity(at.value)
    if amount is None:
        yield at.refused("quantity", "The quantity cannot be read.", FORM)
    elif amount < 0:
        yield at.refused("quantity", "The quantity is negative.", "0 or more")
    elif whole and amount != amount.to_integral_value():
        yield at.refused("whole-devices", f"{resource} cannot be divided.", "a whole number")
    elif resource != "cpu" and amount != amount.to_integral_value():
        yield at.warning("fractional-bytes", "The amount is no whole number.", FORM, "m means thousandths: M or Mi?")


def _requests(at: At) -> Iterator[Finding]:
    for resource, request in at["requests"].items():
        limit = at["limits"][resource]
        asked, most = quantity(request.value), quantity(limit.value)
        shared = resource in STANDARD
        if asked is None or (limit.present and most is None):
            continue
        if most is None:
            if not shared and asked:
                problem = f"{resource} cannot be shared, so a request needs a limit."
                yield limit.refused("device-limit", problem, f"{request.value}, as requested")
        elif not shared and asked != most:
            problem = f"{resource} cannot be shared: request and limit must be equal."
            yield request.refused("device-limit", problem, f"{limit.value}, the limit")
        elif asked > most:
            problem = f"The request of {resource} is above its limit."
            yield request.refused("request-above-limit", problem, f"at most {limit.value}, the limit")


def volumes(job: Job) -> Iterator[Finding]:
    """Each volume has a name of its own and one source; every mount has its volume."""
    yield from _unique((each["name"] for each in job.pod["volumes"]), "volume-name", "volume")
    known = {each["name"].text for each in job.pod["volumes"]}
    for volume in job.pod["volumes"]:
        kinds = [key for key, at in volume.items() if key != "name" and at.present]
        if len(kinds) != 1:
            got = ", ".join(kinds) or "none"
            yield volume.refused("volume-source", "A volume has one source.", "one, for example emptyDir", got=got)
        yield from _modes(volume)
    for container in job.containers():
        yield from _mounts(container, known)


def _modes(volume: At) -> Iterator[Finding]:
    for kind, source in volume.items():
        if kind not in {"configMap", "downwardAPI", "projected", "secret"}:
            continue
        for at in (source["defaultMode"], *(item["mode"] for item in source["items"])):
            if at.number is not None and not 0 <= at.number <= 0o777:
                remedy = "YAML reads 0644 as octal and 644 as decimal"
                yield at.refused("file-mode", "The mode is out of range.", "0 to 0777, which is 511", remedy)


def _mounts(container: At, known: set[str]) -> Iterator[Finding]:
    paths: set[str] = set()
    for mount in (*container["volumeMounts"], *container["volumeDevices"]):
        at = mount["name"]
        if at.text not in known:
            remedy = "add the volume to spec.template.spec.volumes"
            yield at.refused(
                "mount-volume", "No volume has this name.", ", ".join(sorted(known)) or "no volume", remedy
            )
        path = mount["mountPath"] if mount["mountPath"].present else mount["devicePath"]
        if not path.text or (":" in path.text and mount["mountPath"].present):
            yield path.refused("mount-path", "The path of a mount is malformed.", "a path without :")
        if path.text in paths:
            yield path.refused("mount-path", "Two mounts have one path.", "each path once in a container")
        paths.add(path.text)
        for key in ("subPath", "subPathExpr"):
            if mount[key].text.startswith("/") or ".." in mount[key].text.split("/"):
                yield mount[key].refused(
                    "mount-subpath", "The path within the volume leaves it.", "relative, without .."
                )


def memory_volumes(job: Job) -> Iterator[Finding]:
    """What is written to a volume in memory counts as the container's memory."""
    for volume in job.pod["volumes"]:
        at = volume["emptyDir"]
        size, medium = at["sizeLimit"], at["medium"]
        if medium.text not in {"", "Memory", "HugePages"} and not medium.text.startswith("HugePages-"):
            yield medium.refused("medium", "There is no such medium.", '"", Memory, HugePages, HugePages-SIZE')
        amount = quantity(size.value)
        if size.present and (amount is None or amount < 0):
            yield size.refused("quantity", "The size cannot be read, or is negative.", FORM)
        if medium.text != "Memory":
            continue
        if amount is None:
            yield size.warning("memory-volume", "A volume in memory without a size may fill it.", FORM)
        elif (most := _memory_of(volume["name"].text, job)) is not None and amount > most:
            problem = "A volume in memory is larger than the memory of a container that mounts it."
            yield size.warning("memory-volume", problem, f"at most {most} bytes, the memory limit")


def _memory_of(volume: str, job: Job) -> Decimal | None:
    """The smallest memory limit of the containers that mount a volume."""
    mounting = [each for each in job.containers() if volume in {mount["name"].text for mount in each["volumeMounts"]}]
    limits = [quantity(each.down("resources", "limits", "memory").value) for each in mounting]
    return min((limit for limit in limits if limit is not None), default=None)


def pod(job: Job) -> Iterator[Finding]:
    """The rest of the pod: choices, names of other objects, tolerations, grace."""
    yield from _choices(job.pod, CHOICES)
    yield from _unique_references(job.pod)
    if (at := job.pod["terminationGracePeriodSeconds"]).number is not None and at.number < 0:
        yield at.refused("negative", "The number must not be negative.", "0 or more")
    if job.pod["dnsPolicy"].text == "None" and not job.pod.down("dnsConfig", "nameservers").value:
        at = job.pod.down("dnsConfig", "nameservers")
        yield at.refused("dns", "dnsPolicy None needs name servers.", "one or more addresses")
    for toleration in job.pod["tolerations"]:
        yield from _toleration(toleration)
    if (at := job.pod["automountServiceAccountToken"]).value is not False:
        problem = "A token of the cluster is mounted into every pod; one that does not call the API needs none."
        yield at.warning("service-account-token", problem, "false")


def _unique_references(pod: At) -> Iterator[Finding]:
    names = [pod[key] for key in ("serviceAccountName", "priorityClassName", "runtimeClassName", "nodeName")]
    names += [each["name"] for each in pod["imagePullSecrets"]]
    for at in names:
        if at.text and (allowed := dns_subdomain(at.text)):
            yield at.refused("reference-name", "The name of another object is malformed.", allowed)
    host = pod["hostname"]
    if host.text and (allowed := dns_label(host.text)):
        yield host.refused("hostname", "The hostname is malformed.", allowed)


def _toleration(at: At) -> Iterator[Finding]:
    operator, effect, value = at["operator"], at["effect"], at["value"]
    if effect.text and effect.text not in EFFECTS:
        yield effect.refused("toleration", "There is no such effect.", ", ".join(EFFECTS))
    if operator.text not in {"", "Exists", "Equal", "Lt", "Gt"}:
        yield operator.refused("toleration", "There is no such operator.", "Exists, Equal")
    if operator.text == "Exists" and value.text:
        yield value.refused("toleration", "Exists compares no value.", "nothing")
    if not at["key"].text and operator.text != "Exists":
        yield operator.refused("toleration", "Without a key everything is tolerated.", "Exists, without a key")
    if at["tolerationSeconds"].present and effect.text != "NoExecute":
        yield effect.refused("toleration", "tolerationSeconds is about eviction.", "NoExecute")


def security(job: Job) -> Iterator[Finding]:
    """Settings that contradict each other."""
    shared = job.pod["securityContext"]
    for container in job.containers():
        own = container["securityContext"]
        escalation = own["allowPrivilegeEscalation"]
        if escalation.value is False and own["privileged"].value is True:
            yield escalation.refused("privileged", "A privileged container can escalate.", "true, or privileged: false")
        added = [each.text for each in own.down("capabilities", "add")]
        if escalation.value is False and {"CAP_SYS_ADMIN"} & set(added):
            yield escalation.refused("privileged", "CAP_SYS_ADMIN can escalate.", "true, or without CAP_SYS_ADMIN")
        group = own["runAsGroup"] if own["runAsGroup"].present else shared["runAsGroup"]
        if group.present and not own["runAsUser"].present and not shared["runAsUser"].present:
            problem = "A group without a user: container runtimes refuse to start it."
            yield group.warning("group-without-user", problem, "runAsGroup together with runAsUser")
    for context in (shared, *(each["securityContext"] for each in job.containers())):
        for key in ("runAsUser", "runAsGroup", "fsGroup"):
            if (at := context[key]).number is not None and not 0 <= at.number < 2**31:
                yield at.refused("user-id", "The number is out of range.", f"0 to {2**31 - 1}")


def command(job: Job) -> Iterator[Finding]:
    """A signal reaches the first process; a shell in between keeps it."""
    for container in job.containers():
        words = [each.text for each in (*container["command"], *container["args"])]
        script = _script(words)
        if script and not re.search(r"(^|[;&\n])\s*exec\s", script):
            at = container["command"] if container["command"].present else container["args"]
            problem = "SIGTERM stops at the shell: the program is killed after the grace period without a warning."
            yield at.warning(
                "shell-command", problem, 'the program itself, or "exec program" in the shell', got=" ".join(words)
            )


def _script(words: list[str]) -> str:
    """What a shell is told to run: the word after `-c`; nothing where no shell is started."""
    if not words or words[0].rpartition("/")[2] not in SHELLS:
        return ""
    option = next((index for index, word in enumerate(words[1:-1], 1) if _SHELL_OPTION.fullmatch(word)), None)
    return "" if option is None else words[option + 1]


def ports(job: Job) -> Iterator[Finding]:
    """Ports are in range and their names are possible."""
    for container in job.containers():
        for port in container["ports"]:
            for key in ("containerPort", "hostPort"):
                at = port[key]
                if at.number is not None and not (1 if key == "containerPort" else 0) <= at.number <= 65535:
                    yield at.refused("port", "The port is out of range.", "1 to 65535")
            protocol = port["protocol"]
            if protocol.present and protocol.text not in {"TCP", "UDP", "SCTP"}:
                yield protocol.refused("port", "There is no such protocol.", "TCP, UDP, SCTP")


RULES: Final[tuple[Rule, ...]] = (
    containers,
    environment,
    resources,
    volumes,
    memory_volumes,
    pod,
    security,
    command,
    ports,
)
"""Every rule about the pod, without Pod Security."""
