"""Pod Security, profile "restricted": what a namespace that enforces it refuses to run.

Law: a Job that violates it is taken with a warning, and its pods are refused one after the other, so each violation is
a warning here. Controls in the order of the standard, which this file follows line by line.
Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from jobs.finding import At, Finding
from jobs.rules import Job, Rule

VOLUMES: Final = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
SYSCTLS: Final = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
)
NEWER_SYSCTLS: Final = ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem")
"""Allowed since 1.32."""
SELINUX: Final = ("container_t", "container_init_t", "container_kvm_t", "container_engine_t")
SECCOMP: Final = ("RuntimeDefault", "Localhost")
REMEDY: Final = "a namespace that enforces the restricted profile takes the Job and refuses every pod"


def _violation(at: At, problem: str, allowed: str) -> Finding:
    return at.warning("pod-security", f"Pod Security restricted: {problem}.", allowed, REMEDY)


def _contexts(job: Job) -> Iterator[At]:
    """The pod's security context and those of its containers."""
    yield job.pod["securityContext"]
    for container in job.containers():
        yield container["securityContext"]


def host(job: Job) -> Iterator[Finding]:
    """Nothing of the node is shared."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if job.pod[key].value is True:
            yield _violation(job.pod[key], "namespaces of the node are shared", "false, or unset")
    for context in _contexts(job):
        if (at := context.down("windowsOptions", "hostProcess")).value is True:
            yield _violation(at, "a process of the node", "false, or unset")
    for container in job.containers():
        for port in container["ports"]:
            if port["hostPort"].value:
                yield _violation(port["hostPort"], "a port of the node", "0, or unset")


def probes(job: Job) -> Iterator[Finding]:
    """Probes and hooks ask the pod itself; a rule since 1.34."""
    places = (
        ("livenessProbe",),
        ("readinessProbe",),
        ("startupProbe",),
        ("lifecycle", "postStart"),
        ("lifecycle", "preStop"),
    )
    for container in job.containers() if job.site.minor >= 34 else ():
        for place in places:
            for kind in ("httpGet", "tcpSocket"):
                if (at := container.down(*place, kind, "host")).text:
                    yield _violation(at, "a probe or hook that asks another host", "unset")


def volumes(job: Job) -> Iterator[Finding]:
    """Kinds of volumes that reach no further than the pod; no paths of the node."""
    for volume in job.pod["volumes"]:
        for key, at in volume.items():
            if key != "name" and key not in VOLUMES and at.present:
                yield _violation(at, f"a volume of the kind {key}", ", ".join(VOLUMES))


def privileges(job: Job) -> Iterator[Finding]:
    """No container is privileged, can become so, or keeps capabilities."""
    for container in job.containers():
        context = container["securityContext"]
        if context["privileged"].value is True:
            yield _violation(context["privileged"], "a privileged container", "false, or unset")
        if context["procMount"].text not in {"", "Default"}:
            yield _violation(context["procMount"], "an unmasked /proc", "Default, or unset")
        if not _windows(job):
            yield from _linux(context)


def _windows(job: Job) -> bool:
    return job.pod.down("os", "name").text == "windows"


def _linux(context: At) -> Iterator[Finding]:
    if (at := context["allowPrivilegeEscalation"]).value is not False:
        yield _violation(at, "the container may gain privileges", "false")
    drop, add = context.down("capabilities", "drop"), context.down("capabilities", "add")
    if "ALL" not in [each.text for each in drop]:
        yield _violation(drop, "capabilities are kept", '["ALL"]')
    for each in add:
        if each.text != "NET_BIND_SERVICE":
            yield _violation(each, "a capability is added", "NET_BIND_SERVICE")


def user(job: Job) -> Iterator[Finding]:
    """Every container runs as somebody other than root."""
    shared = job.pod["securityContext"]["runAsNonRoot"]
    if shared.value is False:
        yield _violation(shared, "the pod may run as root", "true")
    for container in job.containers():
        at = container.down("securityContext", "runAsNonRoot")
        if at.value is False or (not at.present and not shared.present):
            yield _violation(at, "the container may run as root", "true, here or for the pod")
    for context in _contexts(job):
        if context["runAsUser"].value == 0:
            yield _violation(context["runAsUser"], "the user is root", "any number but 0")


def seccomp(job: Job) -> Iterator[Finding]:
    """System calls are filtered."""
    for context in _contexts(job):
        at = context.down("seccompProfile", "type")
        if at.present and at.text not in SECCOMP:
            yield _violation(at, "system calls are not filtered", ", ".join(SECCOMP))
    if job.pod.down("securityContext", "seccompProfile", "type").present or _windows(job):
        return
    for container in job.containers():
        at = container.down("securityContext", "seccompProfile", "type")
        if not at.present:
            yield _violation(at, "system calls are not filtered", f"{', '.join(SECCOMP)}, here or for the pod")


def apparmor(job: Job) -> Iterator[Finding]:
    """The profile is not switched off, neither by field nor by the older annotation."""
    for context in _contexts(job):
        if (at := context.down("appArmorProfile", "type")).text not in {"", *SECCOMP}:
            yield _violation(at, "AppArmor is switched off", ", ".join(SECCOMP))
    for key, at in job.spec.down("template", "metadata", "annotations").items():
        old = key.startswith("container.apparmor.security.beta.kubernetes.io/")
        if old and at.text not in {"", "runtime/default"} and not at.text.startswith("localhost/"):
            yield _violation(at, "AppArmor is switched off", "runtime/default, localhost/*")


def selinux(job: Job) -> Iterator[Finding]:
    """Types of containers only, no user and no role."""
    for context in _contexts(job):
        options = context["seLinuxOptions"]
        if options["type"].text not in {"", *SELINUX}:
            yield _violation(options["type"], "the SELinux type", ", ".join(SELINUX))
        for key in ("user", "role"):
            if options[key].text:
                yield _violation(options[key], f"the SELinux {key}", "unset")


def sysctls(job: Job) -> Iterator[Finding]:
    """Kernel settings of the pod's own namespaces only."""
    allowed = (*SYSCTLS, *(NEWER_SYSCTLS if job.site.minor >= 32 else ()))
    for each in job.pod.down("securityContext", "sysctls"):
        if each["name"].text not in allowed:
            yield _violation(each["name"], "a setting of the kernel", ", ".join(allowed))


RULES: Final[tuple[Rule, ...]] = (
    host,
    probes,
    volumes,
    privileges,
    user,
    seccomp,
    apparmor,
    selinux,
    sysctls,
)
"""Every control of the profile."""
