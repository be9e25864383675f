"""The model of the Job controller says, of each recorded Job and the fates of its pods, what the real one said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.jobcontroller import JobController, Pod, compressed

RECORDED: Final = Path(__file__).parent / "recorded"

# The Job as recorded, and the files with its pods, as far as they were at that moment: `+` adds a later file's, `[n]`
# takes the first n, `-` is no pod. Then what happened that pods do not show; `deciding` is a Job whose end is decided,
# while its counters are not yet written.
REPLAYED: Final = """
01-complete                  job-before-complete.json  pods.json  deciding
01-complete                  job.json                  pods.json
02-complete-indexed          job.json                  pods.json
03-running                   job.json                  pods.json
04-unschedulable-gpu         job.json                  pods.json
04b-unschedulable-selector   job.json                  pods.json
05a-image-never-pull         job.json                  pods.json
05b-image-pull-backoff       job.json                  pods.json
06-oomkilled                 job.json                  pods.json
06b-oomkilled-child          job.json                  pods.json
07-fail-on-exit-code         job-before-failed.json    pods.json  deciding
07-fail-on-exit-code         job.json                  pods.json
08-deadline-exceeded         job-before-failed.json    pods-terminating.json  late deciding
08-deadline-exceeded         job.json                  pods-last-seen.json  late
09-psa-refused               job.json                  -
09b-quota-exceeded           job.json                  -
09c-no-service-account       job.json                  -
10-suspended                 job.json                  -  suspended
10b-suspended-midrun         job-before.json           pods-before.json
10b-suspended-midrun         job.json                  pods-last-seen.json  suspended
10c-resumed                  job.json                  pods.json  resumed
11-deleted-midrun            job.json                  pods-last-seen.json
11b-evicted-midrun           job-no-pod.json           pods-last-seen.json
11b-evicted-midrun           job.json                  pods-last-seen.json+pods.json
11c-deleted-exit-0           job.json                  pods-last-seen.json
11d-deleted-ignore-143       job-no-pod.json           pods-last-seen.json
11d-deleted-ignore-143       job.json                  pods-last-seen.json+pods.json
11e-evicted-exit-0           job.json                  pods-last-seen.json
12-exit-1                    job-between-retries.json  pods.json[1]
12-exit-1                    job.json                  pods.json
13-missing-secret-env        job.json                  pods.json
13b-missing-secret-volume    job.json                  pods.json
13c-image-runs-as-root       job.json                  pods.json
13d-command-not-found        job.json                  pods.json
13e-group-without-user       job.json                  pods.json
14-sigterm-on-delete         job-before.json           pods-before.json
14b-sigkill-after-grace      job-before.json           pods-before.json
14c-foreground-delete        job-before.json           pods-before.json
14c-foreground-delete        job-deleting.json         pods-terminating.json  deleted
15-indexed-one-fails         job.json                  pods.json
15b-indexed-retries-used     job.json                  pods.json
16-node-lost                 job-notready.json         pods-notready.json
16-node-lost                 job.json                  pods.json
16-node-lost                 job-after.json            pods-last-seen.json+pods-after.json
17-pod-deadline-image        job.json                  pods.json
17b-pod-deadline-secret      job.json                  pods.json
17c-pod-deadline-unscheduled job.json                  pods.json
"""

OUTSIDE: Final = {
    "12b-restart-onfailure": "restartPolicy OnFailure: the kubelet restarts in place; our Jobs are Never",
    "14-sigterm-on-delete": "after the deletion there is no Job, and so nothing that a controller would say of it",
    "14b-sigkill-after-grace": "the same",
}
"""Cases, or their last moments, that the model does not speak of."""

CASES: Final = [line.split() for line in REPLAYED.strip().splitlines()]


def read(case: str, name: str) -> Any:
    return json.loads((RECORDED / case / name).read_text(encoding="utf-8"))


def recorded_pods(case: str, names: str) -> list[dict[str, Any]]:
    """In the order in which they were made."""
    found: list[dict[str, Any]] = []
    for name in names.split("+") if names != "-" else ():
        file, _, first = name.rstrip("]").partition("[")
        content = read(case, file)
        pods = sorted(
            content.get("items", [content]), key=lambda pod: (pod["metadata"]["creationTimestamp"], index_of(pod))
        )
        found += pods[: int(first)] if first else pods
    return found


def index_of(pod: dict[str, Any]) -> int:
    return int(pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index", -1))


def suffer(pod: Pod, recorded: dict[str, Any]) -> None:
    """What happened to the recorded pod happens to this one."""
    status = recorded["status"]
    pod.is_disrupted = any(each["type"] == "DisruptionTarget" for each in status.get("conditions", ()))
    pod.is_deleting = "deletionTimestamp" in recorded["metadata"]
    if status["phase"] in ("Succeeded", "Failed"):
        states = [each["state"] for each in status.get("containerStatuses", ())]
        codes = [state["terminated"]["exitCode"] for state in states if "terminated" in state]
        pod.end(codes[0] if codes else 137)
        assert pod.phase == status["phase"]


def happened(case: str, reason: str) -> bool:
    return any(event.get("reason") == reason for event in read(case, "events.json")["items"])


def said(status: dict[str, Any]) -> dict[str, Any]:
    """A status without what the model leaves out."""
    names = ("active", "succeeded", "failed", "terminating", "completedIndexes", "failedIndexes")
    conditions = [(each["type"], each["status"], each.get("reason")) for each in status.get("conditions", ())]
    return {name: status[name] for name in names if name in status} | {"conditions": sorted(conditions)}


def replay(case: str, job_file: str, pod_files: str, *what: str) -> JobController:
    controller = JobController(read(case, job_file)["spec"], is_refused=happened(case, "FailedCreate"))
    recorded, known = recorded_pods(case, pod_files), list[Pod]()
    if "resumed" in what or ("suspended" in what and not recorded):
        controller.suspend()
        controller.sync()
    if "resumed" in what:
        controller.resume()
    for each in recorded:
        known.append(next_pod(controller, known, index_of(each)))
        if "suspended" in what:
            controller.suspend()
        controller.is_late, controller.is_deleted = "late" in what, "deleted" in what
        if what and what != ("deciding",):
            controller.sync()
        suffer(known[-1], each)
    if "deciding" in what:
        if controller.decided is None:
            controller.sync()
        return controller
    while not settled(controller):
        continue
    return controller


def next_pod(controller: JobController, known: list[Pod], index: int) -> Pod:
    """The next pod that the controller makes of this index, after a back-off where it is in one."""
    for _ in range(3):
        controller.sync()
        for pod in controller.pods:
            if pod not in known and pod.index in (None, index):
                return pod
        controller.elapse()
    raise AssertionError(f"the model makes no pod where there was one: {controller}")


def settled(controller: JobController) -> bool:
    """Whether another pass changes nothing."""
    before = controller.status
    controller.sync()
    return controller.status == before


@pytest.mark.parametrize("line", CASES, ids=lambda line: "-".join(line[:2]))
def test_the_model_says_what_was_recorded(line: list[str]) -> None:
    case, job_file = line[:2]
    assert said(replay(*line).status) == said(read(case, job_file)["status"])


def test_every_recorded_case_is_replayed_or_left_out_with_a_reason() -> None:
    cases = {path.name for path in RECORDED.iterdir() if path.is_dir()} - {"rejections"}
    assert {line[0] for line in CASES} | set(OUTSIDE) == cases


def test_a_decided_job_is_recorded_with_its_counters_to_come() -> None:
    assert said(replay("07-fail-on-exit-code", "job.json", "pods.json", "deciding").status) != said(
        read("07-fail-on-exit-code", "job.json")["status"]
    )


def test_indexes_are_written_as_the_api_writes_them() -> None:
    assert [compressed(set(each)) for each in ([], [0], [0, 1], [0, 1, 2, 5])] == ["", "0", "0,1", "0-2,5"]
