"""A model of the Job controller: which pods it makes of a Job's spec and their fates, and what it says of the Job.

Law: what is here is what a real controller (Kubernetes 1.32) was recorded to do; `tests/jobs/test_jobcontroller.py`
replays the records. Time is the caller's: a pass of the controller, and the end of a back-off, happen when called.
Left out, since our manifests have none of it: restartPolicy OnFailure, success policies, maxFailedIndexes, parallelism
that changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Phase = Literal["Running", "Succeeded", "Failed"]
"""A pod that waits for a node or an image counts as one that runs: the controller makes no difference."""

MANY: Final = 2**31 - 1
"""backoffLimit where each index has its own."""


@dataclass(eq=False)
class Pod:
    """What the controller knows of a pod."""

    number: int
    index: int | None
    """Completion index of an Indexed Job."""
    failures: int = 0
    """Counted failures of its index before it."""
    phase: Phase = "Running"
    exit_code: int | None = None
    is_disrupted: bool = False
    """Whether it has the condition DisruptionTarget."""
    is_deleting: bool = False
    """Whether it has a deletionTimestamp."""
    is_tracked: bool = True
    """Whether its end is still to be counted. Pods that the controller takes away itself are not."""
    is_counted: bool = False

    @property
    def is_active(self) -> bool:
        """Whether the controller counts it as at work."""
        return self.phase == "Running" and not self.is_deleting

    @property
    def is_terminating(self) -> bool:
        """Whether it was asked to stop, and has not."""
        return self.phase == "Running" and self.is_deleting

    def end(self, code: int) -> None:
        """Its container has ended with this exit code."""
        self.phase, self.exit_code = ("Failed" if code else "Succeeded"), code


@dataclass
class JobController:
    """One Job."""

    spec: Mapping[str, Any]
    pods: list[Pod] = field(default_factory=list)
    """All that were ever made, in order."""
    failed: int = 0
    is_suspended: bool = False
    is_refused: bool = False
    """Whether the API server lets no pod be created: a quota, Pod Security, a missing service account."""
    is_deleted: bool = False
    """Whether the Job itself is being deleted, pods first."""
    is_late: bool = False
    """Whether the Job's own activeDeadlineSeconds is over."""
    is_backing_off: bool = False
    """Whether no pod is made yet, since one has failed; ignored failures are waited for, too."""
    decided: tuple[str, str] | None = None
    """FailureTarget or SuccessCriteriaMet, and the reason."""
    is_closed: bool = False
    """Whether Complete or Failed stands beside it."""
    was_suspended: bool = False
    _completed: set[int] = field(default_factory=set)
    _failed_indexes: set[int] = field(default_factory=set)

    # ------------------------------------------------------------------------------------------------- the spec

    @property
    def is_indexed(self) -> bool:
        """Whether each pod has an index."""
        return self.spec.get("completionMode") == "Indexed"

    @property
    def completions(self) -> int:
        """Pods that have to succeed."""
        return int(self.spec.get("completions", 1))

    @property
    def tries_per_index(self) -> int | None:
        """Failures that one index may have; None where all share a limit."""
        return self.spec.get("backoffLimitPerIndex")

    @property
    def backoff_limit(self) -> int:
        """Failures that the Job may have."""
        return int(self.spec.get("backoffLimit", 6 if self.tries_per_index is None else MANY))

    @property
    def replaces_only_failed(self) -> bool:
        """Whether a pod that is asked to stop is waited for."""
        default = "Failed" if "podFailurePolicy" in self.spec else "TerminatingOrFailed"
        return bool(self.spec.get("podReplacementPolicy", default) == "Failed")

    def action(self, pod: Pod) -> str:
        """What the first rule that fits says of a failed pod; Count where none does."""
        for rule in self.spec.get("podFailurePolicy", {}).get("rules", ()):
            if codes := rule.get("onExitCodes"):
                # A rule on exit codes never speaks of a container that has none, or 0.
                fits = bool(pod.exit_code) and (pod.exit_code in codes["values"]) == (codes["operator"] == "In")
            else:
                fits = pod.is_disrupted and any(each["type"] == "DisruptionTarget" for each in rule["onPodConditions"])
            if fits:
                return str(rule["action"])
        return "Count"

    # -------------------------------------------------------------------------------------------- what happens

    def suspend(self) -> None:
        """Somebody, such as a queue, sets `suspend`."""
        self.is_suspended = self.was_suspended = True

    def resume(self) -> None:
        """Somebody takes it back."""
        self.is_suspended = False

    def duplicate(self, pod: Pod) -> Pod:
        """The same program started twice, as a controller with an old view of its pods does."""
        return self._make(pod.index, pod.failures)

    def sync(self) -> list[Pod]:
        """One pass of the controller; gives the pods that it made."""
        if self.is_closed:
            return []
        if self.is_deleted:
            self._delete_active(tracked=True)
            return []
        if self.decided is not None:
            self._close()
            return []
        ended = [pod for pod in self.pods if pod.is_tracked and not pod.is_counted and self._has_ended(pod)]
        self.decided = self._decision(ended)
        if self.decided is not None:
            self._delete_active(tracked=True)
            # What ended is counted in the next pass, after the decision is written down.
            return []
        self._count(ended)
        self.is_backing_off |= any(self._has_failed(pod) for pod in ended)
        if self.is_suspended:
            self._delete_active(tracked=False)
            return []
        return self._manage()

    def elapse(self) -> None:
        """The back-off is over."""
        self.is_backing_off = False

    # ---------------------------------------------------------------------------------------- how it is decided

    def _has_failed(self, pod: Pod) -> bool:
        return pod.phase == "Failed" or (pod.is_terminating and not self.replaces_only_failed)

    def _has_ended(self, pod: Pod) -> bool:
        return pod.phase == "Succeeded" or self._has_failed(pod)

    def _decision(self, ended: list[Pod]) -> tuple[str, str] | None:
        failures = [pod for pod in ended if self._has_failed(pod)]
        if any(self.action(pod) == "FailJob" for pod in failures):
            return "FailureTarget", "PodFailurePolicy"
        if self.failed + sum(self._counts(pod) for pod in failures) > self.backoff_limit:
            return "FailureTarget", "BackoffLimitExceeded"
        if self.is_late:
            return "FailureTarget", "DeadlineExceeded"
        completed, failed = self._indexes(ended)
        if self.is_indexed and len(completed) + len(failed) == self.completions and failed:
            return "FailureTarget", "FailedIndexes"
        succeeded = len(completed) if self.is_indexed else self.succeeded + len(ended) - len(failures)
        return ("SuccessCriteriaMet", "CompletionsReached") if succeeded >= self.completions else None

    def _indexes(self, ended: list[Pod]) -> tuple[set[int], set[int]]:
        """Completed and failed indexes, once `ended` is counted."""
        completed = self._completed | {pod.index for pod in ended if pod.index is not None and pod.phase == "Succeeded"}
        failed = {pod.index for pod in ended if pod.index is not None and self._fails_index(pod)}
        return completed, (self._failed_indexes | failed) - completed

    def _fails_index(self, pod: Pod) -> bool:
        if self.tries_per_index is None or not self._has_failed(pod):
            return False
        return self.action(pod) == "FailIndex" or (self._counts(pod) and pod.failures >= self.tries_per_index)

    def _counts(self, pod: Pod) -> bool:
        return self.action(pod) != "Ignore"

    def _count(self, ended: list[Pod]) -> None:
        self._completed, self._failed_indexes = self._indexes(ended)
        for pod in ended:
            pod.is_counted = True
            self.failed += self._has_failed(pod) and self._counts(pod)

    def _close(self) -> None:
        """Count what has ended since, and close once no pod is left."""
        assert self.decided is not None
        left = [pod for pod in self.pods if pod.is_tracked and not pod.is_counted]
        self._count([pod for pod in left if self._has_ended(pod)])
        self.is_closed = not any(pod.phase == "Running" for pod in left)

    def _delete_active(self, *, tracked: bool) -> None:
        for pod in self.pods:
            if pod.is_active:
                pod.is_deleting, pod.is_tracked = True, tracked

    def _manage(self) -> list[Pod]:
        """Make pods that are missing, and take those away that are too many."""
        active = [pod for pod in self.pods if pod.is_active]
        wanted = min(int(self.spec.get("parallelism", 1)), self.completions - self.succeeded)
        if self.is_indexed:
            first: dict[int | None, Pod] = {}
            spare = [
                pod for pod in active if first.setdefault(pod.index, pod) is not pod or self._is_settled(pod.index)
            ]
        else:
            spare = active[max(0, wanted) :]
        for pod in spare:
            pod.is_deleting, pod.is_tracked = True, False
        if self.is_backing_off or self.is_refused:
            return []
        stay = [pod for pod in self.pods if pod.is_active or (self.replaces_only_failed and pod.is_terminating)]
        room = wanted - len(stay)
        if not self.is_indexed:
            return [self._make(None, 0) for _ in range(room)]
        taken = {pod.index for pod in stay}
        pending = [i for i in range(self.completions) if not self._is_settled(i) and i not in taken]
        return [self._make(index, self._failures_of(index)) for index in pending[: max(0, room)]]

    def _is_settled(self, index: int | None) -> bool:
        return index in self._completed or index in self._failed_indexes

    def _failures_of(self, index: int) -> int:
        return sum(
            pod.index == index and pod.is_counted and self._has_failed(pod) and self._counts(pod) for pod in self.pods
        )

    def _make(self, index: int | None, failures: int) -> Pod:
        self.pods.append(Pod(len(self.pods), index, failures))
        return self.pods[-1]

    # ------------------------------------------------------------------------------------------- what it says

    @property
    def succeeded(self) -> int:
        """As `status.succeeded`."""
        if self.is_indexed:
            return len(self._completed)
        return sum(pod.is_counted and pod.phase == "Succeeded" for pod in self.pods)

    @property
    def status(self) -> dict[str, Any]:
        """The Job's status, as the API has it: a counter of zero is absent. `ready` and times are left out."""
        tracked = [pod for pod in self.pods if pod.is_tracked]
        counters = {"active": sum(pod.is_active for pod in tracked), "succeeded": self.succeeded, "failed": self.failed}
        indexes = {"completedIndexes": compressed(self._completed), "failedIndexes": compressed(self._failed_indexes)}
        return {
            **{name: number for name, number in counters.items() if number},
            **{name: text for name, text in indexes.items() if text},
            "terminating": sum(pod.is_terminating for pod in tracked),
            "conditions": self._conditions(),
        }

    def _conditions(self) -> list[dict[str, str]]:
        found: list[tuple[str, str, str]] = []
        if self.was_suspended:
            found.append(
                ("Suspended", "True", "JobSuspended") if self.is_suspended else ("Suspended", "False", "JobResumed")
            )
        if self.decided is not None:
            kind, reason = self.decided
            found.append((kind, "True", reason))
            if self.is_closed:
                found.append(("Failed" if kind == "FailureTarget" else "Complete", "True", reason))
        return [{"type": kind, "status": status, "reason": reason} for kind, status, reason in found]


def compressed(indexes: set[int]) -> str:
    """{0, 1, 2, 5} -> `"0-2,5"`."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}{',' if len(run) == 2 else '-'}{run[-1]}" for run in runs
    )
