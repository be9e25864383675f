"""`Status`: study x store x cluster, one row a cell: what is done, what runs, what waits and why, what is missing.

Law: the store alone says what is done; a Job that is complete without its results is not. A cluster adds who is at
work on the rest. Pure, but for `observe`, which asks once for all Jobs, once for all pods and once for all Events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Final, Literal

from jobs.api import Api
from jobs.cell import treatment_name
from jobs.cluster import Cluster
from jobs.found import Found
from jobs.manifest import PREFIX, job
from jobs.plan import Plan, PlannedCell
from jobs.pods import JobState, Object, State, one_line
from jobs.state import ACTIVE, job_state
from jobs.store import Failures

MANAGED: Final = "app.kubernetes.io/managed-by=reinit"
"""Selects the Jobs and pods of this project, whatever the study."""

STUDY: Final = f"{PREFIX}/study"
DIGEST: Final = f"{PREFIX}/digest"

JOB_NAMES: Final = ("batch.kubernetes.io/job-name", "job-name")

RowState = State | Literal["missing"]

ORDER: Final[tuple[RowState, ...]] = (
    "failed",
    "refused",
    "unknown",
    "disrupted",
    "retrying",
    "pending",
    "terminating",
    "deleting",
    "deleted",
    "missing",
    "queued",
    "running",
    "done",
)
"""What needs somebody first."""


@dataclass(frozen=True)
class Observed:
    """What a cluster said of this project's Jobs at one moment."""

    at: datetime
    jobs: Mapping[str, Object] = field(default_factory=dict)
    pods: Mapping[str, Sequence[Object]] = field(default_factory=dict)
    """By name of the Job."""
    events: Mapping[str, Sequence[Object]] = field(default_factory=dict)
    """By name of the Job, those about its pods too."""
    _states: dict[str, JobState] = field(default_factory=dict, repr=False, compare=False)

    def state(self, name: str) -> JobState:
        """Where the Job of this name stands."""
        if name not in self._states:
            about = self.pods.get(name, ()), self.events.get(name, ())
            self._states[name] = job_state(self.jobs.get(name), *about, self.at)
        return self._states[name]

    def job_for(self, digest: str) -> str | None:
        """Name of the Job that speaks for a cell, of any study: one that is active, else the newest."""

        def rank(name: str) -> tuple[bool, str]:
            return self.state(name).state in ACTIVE, self.jobs[name]["metadata"].get("creationTimestamp") or ""

        return max(self._by_digest.get(digest[:32], ()), key=rank, default=None)

    @cached_property
    def _by_digest(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name, each in self.jobs.items():
            names.setdefault(label(each, DIGEST), []).append(name)
        return names


def label(thing: Object, key: str) -> str:
    """A label's value, empty where there is none."""
    return str((thing["metadata"].get("labels") or {}).get(key, ""))


def observe(api: Api, at: datetime) -> Observed:
    """The Jobs of this project in the namespace, their pods and Events, by one LIST each.

    Raises:
        ConfigurationError, TransientError: as in `Api.list`.
    """
    jobs = {each["metadata"]["name"]: each for each in api.list("jobs", MANAGED)}
    pods: dict[str, list[Object]] = {}
    for pod in api.list("pods", MANAGED):
        pods.setdefault(next(filter(None, (label(pod, key) for key in JOB_NAMES)), ""), []).append(pod)
    events: dict[str, list[Object]] = {}
    for event in api.list("events"):
        if (name := _job_of(event, jobs)) is not None:
            events.setdefault(name, []).append(event)
    return Observed(at, jobs, pods, events)


def _job_of(event: Object, jobs: Mapping[str, Object]) -> str | None:
    """The Job that an Event is about; a pod that is gone is known by its name, `<job>[-<index>]-<random>`."""
    involved = event.get("involvedObject") or {}
    name = str(involved.get("name"))
    candidates = [name] if involved.get("kind") == "Job" else [name.rpartition("-")[0], name.rsplit("-", 2)[0]]
    return next((each for each in candidates if each in jobs), None)


@dataclass(frozen=True, slots=True)
class Row:
    """One cell."""

    cell: str
    task: str
    size: str
    treatment: str
    digest: str
    done: int
    """Planned runs that the store has, diverged ones too."""
    diverged: int
    runs: int
    state: RowState
    reason: str
    remedy: str | None = None
    since: datetime | None = None
    job: str | None = None


@dataclass(frozen=True, slots=True)
class Stale:
    """A Job of this study that is not what the study renders now."""

    job: str
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """Where a study stands."""

    study: str
    rows: tuple[Row, ...]
    """In the study's order."""
    stale: tuple[Stale, ...]

    @property
    def counts(self) -> dict[RowState, int]:
        """Cells by state, those first that need somebody."""
        counted = Counter(row.state for row in self.rows)
        return {state: counted[state] for state in ORDER if counted[state]}

    @property
    def runs(self) -> tuple[int, int]:
        """Done and planned."""
        return sum(row.done for row in self.rows), sum(row.runs for row in self.rows)

    @property
    def is_active(self) -> bool:
        """Whether anything may still happen by itself."""
        return any(row.state in ACTIVE for row in self.rows)


def study_status(
    study: str,
    plan: Plan,
    found: Mapping[str, Found],
    failures: Mapping[str, Failures],
    observed: Observed | None = None,
    site: Cluster | None = None,
) -> Status:
    """Where a study stands.

    Args:
        study: its name.
        plan: its cells.
        found: the store's results by digest.
        failures: the store's records of failed attempts by digest.
        observed: what a cluster says; None goes by the store alone.
        site: to tell which Jobs are stale; None tells none.
    """
    rows = tuple(_row(each, found[each.cell.digest], failures[each.cell.digest], observed) for each in plan)
    stale = _stale(study, plan, observed, site) if observed and site else []
    return Status(study, rows, tuple(stale))


def _row(planned: PlannedCell, found: Found, failures: Failures, observed: Observed | None) -> Row:
    cell, seeds = planned.cell, set(planned.seeds)
    name = observed.job_for(cell.digest) if observed else None
    standing = observed.state(name) if observed and name else None
    done = len(seeds & found.done)
    state, reason, remedy = _standing(
        len(seeds) - done, len(seeds), failures, standing, in_cluster=observed is not None
    )
    return Row(
        cell=cell.name,
        task=cell.task.name,
        size=str(cell.size),
        treatment=treatment_name(cell.treatment),
        digest=cell.digest,
        done=done,
        diverged=sum(1 for seed in seeds if found.state(seed) == "diverged"),
        runs=len(seeds),
        state=state,
        reason=reason,
        remedy=remedy,
        since=standing.since if standing and state != "missing" else None,
        job=name,
    )


def _standing(
    missing: int, runs: int, failures: Failures, standing: JobState | None, *, in_cluster: bool
) -> tuple[RowState, str, str | None]:
    """State, reason and remedy: first the store's word, then the Job's, then the records of attempts."""
    if not missing:
        return "done", "all runs are in the store", None
    last = failures.records[-1] if failures.records else None
    record = f"exit code {last.exit_code}: {one_line(last.reason)} (attempt {last.attempt})" if last else ""
    if standing is None or standing.state == "deleted":
        if last:
            no_job = "no Job; " if in_cluster else ""
            return "failed", f"{no_job}the last attempt ended with {record}", "mend that, then submit again"
        why = "no Job and no result" if in_cluster else "no result in the store"
        return "missing", why, "reinit submit" if in_cluster else None
    if standing.state == "done":
        why = f"the Job is complete, but {missing} of {runs} runs are not in this store"
        return "missing", why, "see that the store is the one that the pods have; then submit with --retry-failed"
    reason = standing.reason
    if standing.state == "failed" and record and "exit code" not in reason:
        reason += f"; the store says of an attempt: {record}"
    return standing.state, reason, standing.remedy


def _stale(study: str, plan: Plan, observed: Observed, site: Cluster) -> list[Stale]:
    rendered = {job(study, each.cell, each.seeds, site)["metadata"]["name"] for each in plan}
    digests = {each.cell.digest[:32] for each in plan}
    return [
        Stale(name, observed.state(name).state, _why_stale(each, digests))
        for name, each in observed.jobs.items()
        if label(each, STUDY) == study and name not in rendered
    ]


def _why_stale(thing: Object, digests: Iterable[str]) -> str:
    if label(thing, DIGEST) in digests:
        return "its cell is rendered differently now: other seeds, image or settings"
    return "its cell is not in the study any more"
