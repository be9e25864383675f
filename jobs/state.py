"""`job_state`: a Job, its pods and the Events about them -> where it stands, why, and what to do.

Law: pure. The order of reading is the order of certainty: the Job gone, being deleted, its conditions, its counters,
then its pods, and Events where nothing else tells. A counter of zero may be absent, and a condition may be False.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from jobs.pods import (
    EXITS,
    JobState,
    Object,
    State,
    by_age,
    condition,
    event_time,
    events_of,
    failure,
    live_state,
    one_line,
    when,
)

__all__ = ["ACTIVE", "JobState", "State", "job_state"]

ACTIVE: Final[frozenset[State]] = frozenset(
    {"running", "queued", "pending", "refused", "retrying", "disrupted", "terminating", "unknown"}
)
"""States of a Job that may still do its work without anybody's help."""

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"

_RAISE_MEMORY: Final = "raise `memory` in the cluster file, or lower the recipe's batch size"

REMEDIES: Final = (
    (r"out of memory: a process was killed", _RAISE_MEMORY),
    (r"could not be started", "correct the image or the command"),
    (r"passed the deadline.*(image|Image)", "check image and pull secret in the cluster file"),
    (r"passed the deadline.*not found", "create what is missing in the Job's namespace"),
    (r"deadline", "raise the deadline in the cluster file; what was finished is in the store"),
    (r"exit code (64|65|78)", "mend that, then submit with --retry-failed; unmended it would end the same"),
    (r"deleted or stopped", "submit again with --retry-failed"),
)

REFUSALS: Final = (
    (
        r"violates PodSecurity",
        "Pod Security",
        "what is named must go from the pod; Jobs as `reinit render` writes them pass",
    ),
    (r"exceeded quota", "quota", "wait for other work to end, or ask for more quota: the Job tries again by itself"),
    (r"serviceaccount", "service account", "create the service account, or name another in the cluster file"),
)


def job_state(job: Object | None, pods: Iterable[Object], events: Iterable[Object], now: datetime) -> JobState:
    """Where a Job stands.

    Args:
        job: as the API answers; None when it says NotFound.
        pods: those of this Job, also of one that is gone, in any order.
        events: about the Job and its pods; others do no harm.
        now: the present, to tell a pod that is stopping from one whose node is lost.
    """
    pods, events = by_age(pods), list(events)
    if job is None:
        left = sum(1 for pod in pods if pod["status"].get("phase") in {"Pending", "Running"})
        return JobState("deleted", f"the Job is gone; {left} of its pods still stop" if left else "the Job is gone")
    if deleted := job["metadata"].get("deletionTimestamp"):
        return JobState("deleting", "the Job is being deleted, and its pods stop first", when(deleted))
    return _decided(job, pods, events) or _suspended(job) or _open(job, pods, events, now)


def _decided(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> JobState | None:
    """Complete or Failed, or about to be."""
    if done := condition(job, "Complete"):
        return JobState("done", "complete", when(job["status"].get("completionTime") or done.get("lastTransitionTime")))
    if failed := condition(job, "Failed"):
        return _failed(job, failed, pods, events)
    if met := condition(job, "SuccessCriteriaMet"):
        return JobState("done", "complete, still being closed", when(met.get("lastTransitionTime")))
    if target := condition(job, "FailureTarget"):
        return _failed(job, target, pods, events)
    return None


def _failed(job: Object, because: Object, pods: Sequence[Object], events: Sequence[Object]) -> JobState:
    reason = _why_failed(job, because, pods, events)
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, reason)), None)
    remedy = remedy or "read `reinit logs`, then submit again with --retry-failed"
    return JobState("failed", reason, when(because.get("lastTransitionTime")), remedy)


def _why_failed(job: Object, because: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    rule, message = because.get("reason"), one_line(because.get("message"))
    if rule == "DeadlineExceeded":
        limit = job["spec"].get("activeDeadlineSeconds")
        return f"the Job was active longer than its deadline of {limit} s; its pods and their logs are deleted"
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    if rule == "FailedIndexes":
        failed = [pod for pod in failed if _index(pod) in _indexes(job["status"].get("failedIndexes", ""))]
        cause = failure(failed[-1], events) if failed else "their pods are gone"
        return f"failed indexes {job['status'].get('failedIndexes')}: {cause}"
    if failed:
        tries = int(job["status"].get("failed") or 0)
        return (f"{tries} tries failed, the last: " if tries > 1 else "") + failure(failed[-1], events)
    if code := re.search(r"exit code (\d+)", message):
        return f"exit code {code[1]} ({EXITS.get(int(code[1]), 'never retried')})"
    if _was_killed(job, events):
        return "its pod was deleted or stopped from outside, which counts as a failure; its log went with it"
    return f"{message} ({rule}); its pods and their logs are gone"


def _index(pod: Object) -> int:
    annotations = pod["metadata"].get("annotations") or {}
    return int(annotations.get("batch.kubernetes.io/job-completion-index", -1))


def _indexes(text: str) -> set[int]:
    """`"0,3-5"` -> {0, 3, 4, 5}."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _was_killed(job: Object, events: Sequence[Object]) -> bool:
    """Whether a node stopped a pod of this Job although the Job's controller did not ask for it."""
    asked = any(each.get("reason") == "SuccessfulDelete" for each in events_of("Job", job["metadata"]["name"], events))
    prefix = job["metadata"]["name"] + "-"
    return not asked and any(
        each.get("reason") == "Killing" and (each.get("involvedObject") or {}).get("name", "").startswith(prefix)
        for each in events
    )


def _suspended(job: Object) -> JobState | None:
    suspended = condition(job, "Suspended")
    if suspended is None and not job["spec"].get("suspend"):
        return None
    since = when((suspended or job["metadata"]).get("lastTransitionTime"))
    queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
    who = f"queue {queue}" if queue else "a queue, or whoever suspended it"
    before = "stopped after it had started, and " if job.get("status", {}).get("startTime") else ""
    remedy = f"see why: kubectl describe localqueue {queue}" if queue else "resume it if nobody does"
    return JobState("queued", f"suspended: {before}held by {who}", since, remedy)


def _open(job: Object, pods: Sequence[Object], events: Sequence[Object], now: datetime) -> JobState:
    """No condition: counters, then pods, then Events."""
    live = [pod for pod in pods if pod["status"].get("phase") in {"Pending", "Running", None}]
    staying = [pod for pod in live if not pod["metadata"].get("deletionTimestamp")]
    if live:
        states = [live_state(pod, events, now) for pod in staying or live]
        running = [state for state in states if state.state == "running"]
        if running and len(states) > len(running):
            others = next(state for state in states if state.state != "running")
            reason = f"{len(running)} of {len(states)} pods run; another: {others.reason}"
            return JobState("running", reason, running[0].since, others.remedy)
        return (running or states)[-1]
    return _without_pods(job, pods, events)


def _without_pods(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> JobState:
    status = job.get("status") or {}
    since = when(status.get("startTime") or job["metadata"].get("creationTimestamp"))
    created = [
        each
        for each in events_of("Job", job["metadata"]["name"], events)
        if each.get("reason") in {"FailedCreate", "SuccessfulCreate"}
    ]
    if created and created[-1]["reason"] == "FailedCreate" and not status.get("active"):
        return _refused(created[-1], since)
    if status.get("active"):
        return JobState("unknown", "the Job counts an active pod that the cluster does not list", since)
    if status.get("terminating"):
        return JobState("terminating", "its old pod is not gone yet, and no new one starts before", since)
    if int(status.get("failed") or 0) or pods:
        return _between(job, pods, events, since)
    if created:
        reason = "its pod was taken away without counting as a failure; a new one follows within seconds"
        return JobState("disrupted", reason, event_time(created[-1]))
    return JobState("pending", "the Job's controller has made no pod yet", since)


def _between(job: Object, pods: Sequence[Object], events: Sequence[Object], since: datetime | None) -> JobState:
    """All pods have ended, and the controller has not said what follows."""
    phase = pods[-1]["status"].get("phase") if pods else None
    if phase == "Succeeded":
        return JobState("running", "its pod has ended well; the Job is being closed", since)
    cause = failure(pods[-1], events) if phase == "Failed" else "its pod is gone"
    failed = int(job["status"].get("failed") or 0)
    # Counted for each index, the limit of the whole is the largest number there is.
    limit = None if "backoffLimitPerIndex" in job["spec"] else int(job["spec"].get("backoffLimit", 6))
    of_all = "" if limit is None else f" of {limit + 1}"
    reason = f"waits before the next try; {failed}{of_all} tries failed, the last: {cause}"
    return JobState("retrying", reason, since)


def _refused(event: Object, since: datetime | None) -> JobState:
    """What the API server said when the controller tried to make the pod; it tries again for ever."""
    text = (
        str(event.get("message") or "no reason given")
        .removeprefix("(combined from similar events): ")
        .removeprefix("Error creating: ")
    )
    text = one_line(re.sub(r'^pods "[^"]*" is forbidden: ', "", text))
    for pattern, by, remedy in REFUSALS:
        if re.search(pattern, text):
            return JobState("refused", f"its pod is refused ({by}): {text}", since, remedy)
    return JobState("refused", f"its pod is refused: {text}", since, "mend that; the Job tries again by itself")
