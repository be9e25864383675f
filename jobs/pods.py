"""What one pod does or died of, in words, from the pod and the Events about it.

Law: pure, and made of what a real API server answers: `reason` fields before exit codes, a pod's own status before
Events, Events only where nothing else tells. Messages are other programs' text: one line, bounded, without controls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

Object = Mapping[str, Any]
"""An object of the API as plain JSON."""

State = Literal[
    "done",
    "running",
    "queued",
    "pending",
    "refused",
    "retrying",
    "disrupted",
    "terminating",
    "deleting",
    "deleted",
    "failed",
    "unknown",
]
"""`pending`: a pod waits for a node or its container. `refused`: the API server does not let the pod be created.
`retrying`: between two tries. `disrupted`: the cluster took the pod away, which does not count. `terminating`: a pod is
asked to stop. `deleting`: the Job is. `deleted`: it is gone."""

MOST_TEXT: Final = 240


@dataclass(frozen=True, slots=True)
class JobState:
    """Where a Job stands, for people."""

    state: State
    reason: str
    """One line."""
    since: datetime | None = None
    remedy: str | None = None
    """What to do about it, one line; None where there is nothing to do but wait."""

    @property
    def line(self) -> str:
        """Reason and remedy."""
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


EXITS: Final[Mapping[int, str]] = {
    64: "the specification is impossible",
    65: "the data is not what the cell declares",
    75: "store or device failed in a way that may pass",
    78: "the pod lacks something: a package, a place, a permission",
    137: "killed, as far as known not by its memory limit",
    143: "stopped from outside",
}
"""What the pod's contract says by each exit code."""

IMAGE_TROUBLE: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ErrImageInspect",
        "RegistryUnavailable",
    }
)
CONFIG_TROUBLE: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})

DISRUPTIONS: Final[Mapping[str, str]] = {
    "EvictionByEvictionAPI": "evicted, as a drained node does",
    "DeletionByTaintManager": "removed from its node by a taint",
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByPodGC": "removed with its node",
    "TerminationByKubelet": "stopped by its node, which ran short of something or shuts down",
}

PENDING_REMEDIES: Final = (
    (r"node affinity|selector", "label a node so, or correct the node selector in the cluster file"),
    (r"untolerated taint", "wait for the node, or tolerate the taint in the cluster file"),
    (r"Insufficient", "wait for room, or ask for less in the cluster file"),
    (r"(secret|configmap) \"?[^\s\"]*\"? not found", "create it in the Job's namespace, or correct its name"),
    (r"runAsNonRoot", "build the image with a numeric user, or set runAsUser"),
    (r"specified without user", "set runAsUser beside runAsGroup"),
    (r"persistentvolumeclaim", "create the claim, or correct cache_claim in the cluster file"),
)


def printable(text: str) -> str:
    """A line of another program without what a terminal would obey."""
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).expandtabs()
    return "".join(c if c.isprintable() else " " for c in line)


def one_line(text: str | None, most: int = MOST_TEXT) -> str:
    """Text of another program as one bounded line of printable characters."""
    line = " ".join(printable(text or "").split())
    return line if len(line) <= most else line[: most - 3] + "..."


def when(text: str | None) -> datetime | None:
    """A time as the API writes it, with or without fractions of a second."""
    return datetime.fromisoformat(text) if text else None


def event_time(event: Object) -> datetime:
    """The scheduler writes `eventTime` and `series`; everybody else `lastTimestamp`."""
    series = event.get("series") or {}
    for text in (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime")):
        if text:
            return when(text) or _NEVER
    return when(event["metadata"].get("creationTimestamp")) or _NEVER


_NEVER: Final = datetime.min.replace(tzinfo=UTC)


def by_age(pods: Iterable[Object]) -> list[Object]:
    """Oldest first; a List of the API is in order of names."""
    return sorted(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))


def events_of(kind: str, name: str, events: Iterable[Object]) -> list[Object]:
    """Events about one object, oldest first; some carry no uid, so kind and name decide."""
    about = [each for each in events if _is_about(each.get("involvedObject") or {}, kind, name)]
    return sorted(about, key=lambda event: (event_time(event), len(event.get("message") or "")))


def _is_about(involved: Object, kind: str, name: str) -> bool:
    return (involved.get("kind"), involved.get("name")) == (kind, name)


def condition(thing: Object, kind: str) -> Object | None:
    """The condition of this type whose status is True; it may be present and False."""
    for each in thing.get("status", {}).get("conditions") or ():
        if each["type"] == kind and each["status"] == "True":
            found: Object = each
            return found
    return None


def container(pod: Object) -> Object:
    """Status of the container `main`, or of the only one; empty before it has one."""
    statuses: Sequence[Object] = pod.get("status", {}).get("containerStatuses") or ()
    named = [each for each in statuses if each.get("name") == "main"]
    return (named or [*statuses] or [{}])[0]


def live_state(pod: Object, events: Iterable[Object], now: datetime) -> JobState:
    """What a pod that has not ended does, or waits for."""
    if pod["metadata"].get("deletionTimestamp"):
        return _leaving(pod, now)
    since = when(pod["metadata"].get("creationTimestamp"))
    placed = next((c for c in pod["status"].get("conditions") or () if c["type"] == "PodScheduled"), None)
    if placed is not None and placed["status"] == "False":
        return _unplaced(placed, since)
    state = container(pod).get("state") or {}
    if "running" in state:
        return _running(pod, when(state["running"].get("startedAt")))
    return _waiting(pod, state.get("waiting") or {}, events_of("Pod", pod["metadata"]["name"], events))


def _waiting(pod: Object, waiting: Object, about: Sequence[Object]) -> JobState:
    """A pod on a node whose container does not run; only Events tell about volumes and sandboxes."""
    since = when(pod["metadata"].get("creationTimestamp"))
    reason = waiting.get("reason")
    if reason == "CrashLoopBackOff":
        return JobState("retrying", f"restarts in place: {ended(container(pod).get('lastState') or {}, pod)}", since)
    if reason in IMAGE_TROUBLE:
        why = f"image cannot be had: {one_line(waiting.get('message'))} ({reason})"
        return JobState("pending", why, since, "check image and pull secret in the cluster file")
    trouble = waiting.get("message") if reason in CONFIG_TROUBLE else _newest_warning(about)
    if trouble:
        return _pending(f"container cannot be made: {one_line(trouble)}", since)
    return JobState("pending", "its container is being made", since)


def _unplaced(placed: Object, since: datetime | None) -> JobState:
    if placed.get("reason") == "SchedulingGated":
        return JobState("queued", "a queue holds its pod back", since)
    message = one_line((placed.get("message") or "the scheduler has not looked yet").partition(" preemption:")[0])
    return _pending(f"no node for its pod: {message}", since)


def _pending(reason: str, since: datetime | None) -> JobState:
    remedy = next((remedy for pattern, remedy in PENDING_REMEDIES if re.search(pattern, reason)), None)
    return JobState("pending", reason, since, remedy)


def _running(pod: Object, since: datetime | None) -> JobState:
    node = pod["spec"].get("nodeName") or "a node"
    ready = next((c for c in pod["status"].get("conditions") or () if c["type"] == "Ready"), None)
    # A container that is merely not ready has a reason here; the node controller, which speaks for a node that is
    # silent, gives none.
    if ready is not None and ready["status"] == "False" and not ready.get("reason"):
        return JobState("disrupted", f"its node {node} stopped answering", when(ready.get("lastTransitionTime")), _LOST)
    return JobState("running", f"pod {pod['metadata']['name']} runs on {node}", since)


_LOST: Final = "wait for the node, or taint it node.kubernetes.io/out-of-service so that the pod is replaced"


def _leaving(pod: Object, now: datetime) -> JobState:
    """A pod with a deletion time: request plus grace, so in the future while all is well."""
    due = when(pod["metadata"]["deletionTimestamp"])
    disrupted = condition(pod, "DisruptionTarget")
    how = DISRUPTIONS.get(str((disrupted or {}).get("reason")), "taken away by the cluster")
    node = pod["spec"].get("nodeName") or "its node"
    if due is not None and due < now and pod["status"].get("phase") in {"Pending", "Running"}:
        return JobState("disrupted", f"its pod should be gone, but node {node} does not answer (lost)", due, _LOST)
    if disrupted is not None:
        return JobState("disrupted", f"its pod is being {how}; a new one follows", due)
    return JobState("terminating", "its pod was deleted and has until its grace ends to stop", due)


def _newest_warning(about: Sequence[Object]) -> str | None:
    warnings = [each["message"] for each in about if each.get("type") == "Warning" and each.get("message")]
    return warnings[-1] if warnings else None


def failure(pod: Object, events: Iterable[Object]) -> str:
    """What a pod that has failed died of."""
    status = pod["status"]
    state = container(pod).get("state") or {}
    if status.get("reason") == "DeadlineExceeded":
        limit = pod["spec"].get("activeDeadlineSeconds")
        started = "running" in state or (state.get("terminated") or {}).get("startedAt")
        cause = None if started else _newest_warning(events_of("Pod", pod["metadata"]["name"], events))
        tail = f" before its container started: {one_line(cause)}" if cause else ""
        return f"its pod passed the deadline of {limit} s{tail}"
    if disrupted := condition(pod, "DisruptionTarget"):
        return f"its pod was {DISRUPTIONS.get(str(disrupted.get('reason')), 'taken away by the cluster')}"
    if status.get("reason"):
        return f"{status['reason']}: {one_line(status.get('message'))}"
    return ended(state, pod)


def ended(state: Object, pod: Object) -> str:
    """How a container ended. The reason goes before the exit code: a killed child may leave any code."""
    terminated = state.get("terminated")
    if not terminated:
        return "its container left no status"
    if terminated.get("reason") == "OOMKilled":
        limit = next(
            (c["resources"]["limits"]["memory"] for c in pod["spec"]["containers"] if _limited(c)), "its limit"
        )
        return f"out of memory: a process was killed at the memory limit, {limit} (OOMKilled)"
    message = one_line(_last_words(terminated.get("message")))
    if terminated.get("reason") == "StartError":
        return f"its command could not be started: {message}"
    code = terminated.get("exitCode")
    meaning = f" ({EXITS[code]})" if code in EXITS else ""
    return f"exit code {code}{meaning}" + (f": {message}" if message else "")


def _limited(spec: Object) -> bool:
    return "memory" in ((spec.get("resources") or {}).get("limits") or {})


def _last_words(message: str | None) -> str:
    """The last line that says something; a runtime's own message has only one."""
    lines = [line for line in (message or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""
