"""submit, logs and cancel: what a study asks of a cluster.

Law: the store is asked before the cluster, so that no finished run is scheduled again; a Job at work on a cell is left
alone, whichever study it belongs to; whatever was interrupted is continued by the same call. Nothing is deleted that
was not shown or asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

from jobs.api import THREADS, Api
from jobs.cluster import Cluster
from jobs.errors import TransientError
from jobs.found import Found
from jobs.manifest import PREFIX, job
from jobs.plan import PlannedCell
from jobs.pods import Object, by_age, condition
from jobs.state import ACTIVE
from jobs.status import DIGEST, MANAGED, STUDY, Observed, label

Outcome = Literal["created", "recreated", "done", "active", "failed", "complete"]
"""What became of a cell: the first two were sent, the others left as they are. `complete`: without all results."""

GONE_SECONDS: Final = 300
"""How long a deleted Job may take: the pods' grace, and some."""
GONE_PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Submitted:
    """One cell after `submit`."""

    cell: str
    job: str
    outcome: Outcome
    note: str = ""
    warnings: tuple[str, ...] = ()
    """Of the API server, about a Job that it accepted."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What is to be done for one cell."""

    outcome: Outcome
    note: str
    manifest: dict[str, Any]
    before: Object | None = None
    """A Job of the same name that has to go first."""


def submit(
    api: Api,
    study: str,
    cells: Iterable[PlannedCell],
    site: Cluster,
    found: Mapping[str, Found],
    *,
    retry_failed: bool = False,
    dry_run: bool = False,
    report: Callable[[Submitted], None] = lambda _: None,
) -> list[Submitted]:
    """Apply the Job of each cell that is neither done nor at work, a few at a time.

    Args:
        api: the cluster.
        study: the study's name.
        cells: those to submit.
        site: what the Jobs are rendered with.
        found: the store's results by digest.
        retry_failed: delete Jobs that ended without all results, wait until they are gone, and make them again.
        dry_run: let the server check everything, and keep nothing.
        report: called for each cell as it is settled, in the cells' order.

    Raises:
        ConfigurationError, SpecError, TransientError: of the first request that failed; the same call continues.
    """
    known = api.list("jobs", MANAGED)
    named = {each["metadata"]["name"]: each for each in known}
    active: dict[str, Object] = {label(each, DIGEST): each for each in known if is_active(each)}
    planned = [
        (each, _step(each, job(study, each.cell, each.seeds, site), found, named, active, retry=retry_failed))
        for each in cells
    ]
    submitted: list[Submitted] = []
    pool = ThreadPoolExecutor(THREADS)
    try:
        for (each, step), warnings in zip(
            planned, pool.map(lambda pair: _carry_out(api, pair[1], dry_run=dry_run), planned), strict=True
        ):
            name = step.manifest["metadata"]["name"]
            submitted.append(Submitted(each.cell.name, name, step.outcome, step.note, warnings))
            report(submitted[-1])
    finally:
        pool.shutdown(cancel_futures=True)
    return submitted


def is_active(thing: Object) -> bool:
    """Whether a Job may still do its work."""
    decided = ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")
    return not thing["metadata"].get("deletionTimestamp") and not any(condition(thing, kind) for kind in decided)


def _step(
    planned: PlannedCell,
    manifest: dict[str, Any],
    found: Mapping[str, Found],
    named: Mapping[str, Object],
    active: Mapping[str, Object],
    *,
    retry: bool,
) -> _Step:
    missing = set(planned.seeds) - found[planned.cell.digest].done
    if not missing:
        return _Step("done", "all runs are in the store", manifest)
    if at_work := active.get(planned.cell.digest[:32]):
        return _Step("active", _whose(at_work, manifest), manifest)
    before = named.get(manifest["metadata"]["name"])
    if before is None:
        return _Step("created", "", manifest)
    if before["metadata"].get("deletionTimestamp") or retry:
        return _Step("recreated", "", manifest, before)
    if condition(before, "Failed") or condition(before, "FailureTarget"):
        return _Step("failed", "its Job failed; --retry-failed makes it again", manifest)
    note = f"its Job is complete, but {len(missing)} runs are not in the store; --retry-failed makes it again"
    return _Step("complete", note, manifest)


def _whose(at_work: Object, manifest: Object) -> str:
    """A word about a Job at work that is not the one that the study renders now; one that is needs none."""
    name, study = at_work["metadata"]["name"], label(at_work, STUDY)
    if name == manifest["metadata"]["name"]:
        return ""
    return f"{name} of study {study} is at work on it; `reinit cancel {study}` would make room"


def _carry_out(api: Api, step: _Step, *, dry_run: bool) -> tuple[str, ...]:
    """Send what is to be sent; returns the server's warnings."""
    if step.outcome not in {"created", "recreated"}:
        return ()
    if step.before is not None and not dry_run:
        if not step.before["metadata"].get("deletionTimestamp"):
            api.delete(step.before, foreground=True)
        wait_until_gone(api, step.before)
    return api.apply(step.manifest, dry_run=dry_run).warnings


def wait_until_gone(api: Api, thing: Object, *, seconds: float = GONE_SECONDS) -> None:
    """Return once this very Job is gone: an apply to one that is being deleted would be lost with it.

    Raises:
        TransientError: it is still there.
    """
    name, uid = thing["metadata"]["name"], thing["metadata"]["uid"]
    deadline = time.monotonic() + seconds
    pauses = iter(GONE_PAUSES)
    while (there := api.get("jobs", name)) is not None and there["metadata"]["uid"] == uid:
        if time.monotonic() > deadline:
            raise TransientError(
                f"Job {name} was deleted {seconds:.0f} s ago and is still there",
                where=f"namespace {api.namespace} of {api.host}",
                remedy="its pod may sit on a node that is lost: see `reinit status`; then submit again",
            )
        time.sleep(next(pauses, GONE_PAUSES[-1]))


@dataclass(frozen=True, slots=True)
class Selection:
    """Some of a study's Jobs, by what their labels say; what is empty selects all."""

    task: str = ""
    size: str = ""
    treatment: str = ""
    """The beginning of a treatment's name, such as `reinit` or `probe`."""
    digests: frozenset[str] = frozenset()

    def has(self, thing: Object) -> bool:
        """Whether a Job is one of them."""
        return (
            self.task in ("", label(thing, f"{PREFIX}/task"))
            and self.size in ("", label(thing, f"{PREFIX}/size"))
            and label(thing, f"{PREFIX}/treatment").startswith(self.treatment)
            and (not self.digests or label(thing, DIGEST) in {digest[:32] for digest in self.digests})
        )


def to_cancel(observed: Observed, study: str, selection: Selection) -> list[Object]:
    """The study's selected Jobs that have not ended, by name; also those that it would not render any more."""
    return [
        each
        for name, each in sorted(observed.jobs.items())
        if label(each, STUDY) == study and selection.has(each) and observed.state(name).state in ACTIVE
    ]


def cancel(api: Api, things: Iterable[Object]) -> None:
    """Delete these Jobs; their pods get the grace that they have, and what they finished is in the store.

    Raises:
        ConfigurationError, TransientError: of the first deletion that failed; the same call continues.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        list(pool.map(lambda each: api.delete(each, foreground=False), things))
    finally:
        pool.shutdown(cancel_futures=True)


def live_log(
    api: Api, digest: str, *, follow: bool = False, tail: int | None = None
) -> tuple[str, Iterator[str]] | None:
    """The newest pod of a cell that has a log, and its lines; None where there is no such pod.

    Raises:
        ConfigurationError, TransientError: as in `Api.request`.
    """
    for pod in reversed(by_age(api.list("pods", f"{MANAGED},{PREFIX}/digest={digest[:32]}"))):
        name = pod["metadata"]["name"]
        if follow and pod["status"].get("phase") == "Running":
            return name, api.follow(name, tail=tail)
        if (text := api.log(name, tail=tail)) is not None:
            return name, iter(text.splitlines())
    return None
