"""The right state, with the reason that a person needs, for every answer recorded from a real cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from jobs.pods import Object, event_time, one_line, when
from jobs.state import ACTIVE, JobState, State, job_state

RECORDED = Path(__file__).parent / "recorded"
LATER = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)

# folder, file of the Job (or none: it is gone), file of the pods -> state, words of the line that a person reads
EXPECTED = """
01-complete                 job.json                 pods.json               done        complete
01-complete                 job-before-complete.json pods.json               done        still being closed
02-complete-indexed         job.json                 pods.json               done        complete
03-running                  job.json                 pods.json               running     runs on node-1
04-unschedulable-gpu        job.json                 pods.json               pending     no node .* 1 Insufficient nvidia.com/gpu.* ask for less
04b-unschedulable-selector  job.json                 pods.json               pending     no node .* affinity/selector.* label a node
05a-image-never-pull        job.json                 pods.json               pending     image .* is not present with pull policy of Never.* check image
05b-image-pull-backoff      job.json                 pods.json               pending     image cannot be had.*failed to pull.*ImagePullBackOff
05b-image-pull-backoff      job.json                 pods-errimagepull.json  pending     image cannot be had.*failed to pull.*ErrImagePull
06-oomkilled                job.json                 pods.json               failed      2 tries failed.* out of memory.* limit, 64Mi.* raise `memory`
06b-oomkilled-child         job.json                 pods.json               failed      ^out of memory
07-fail-on-exit-code        job.json                 pods.json               failed      exit code 64 .the specification.*: bad config; mend
07-fail-on-exit-code        job-before-failed.json   pods.json               failed      exit code 64
07-fail-on-exit-code        job.json                 -                       failed      exit code 64 .the specification
08-deadline-exceeded        job.json                 pods.json               failed      deadline of 6 s.* logs are deleted.* raise
08-deadline-exceeded        job-before-failed.json   pods-terminating.json   failed      deadline of 6 s
09-psa-refused              job.json                 pods.json               refused     Pod Security.*restricted:latest.*allowPrivilegeEscalation
09b-quota-exceeded          job.json                 pods.json               refused     quota: gpus, requested.*nvidia.com/gpu=1.*limited.*wait
09c-no-service-account      job.json                 pods.json               refused     serviceaccount "absent" not found.*create the service account
10-suspended                job.json                 pods.json               queued      suspended: held by
10b-suspended-midrun        job-before.json          pods-before.json        running     runs on node-1
10b-suspended-midrun        job.json                 pods-terminating.json   queued      stopped after it had started
10b-suspended-midrun        job.json                 pods.json               queued      stopped after it had started
10c-resumed                 job.json                 pods.json               running     runs on node-1
11-deleted-midrun           job.json                 pods.json               failed      deleted or stopped from outside.*counts as a failure.*--retry-failed
11-deleted-midrun           job.json                 pods-last-seen.json     failed      exit code 143
11b-evicted-midrun          job-no-pod.json          -                       disrupted   taken away without counting
11b-evicted-midrun          job-no-pod.json          pods-terminating.json   disrupted   being evicted
11b-evicted-midrun          job.json                 pods.json               running     runs on node-1
11c-deleted-exit-0          job.json                 pods.json               done        complete
11d-deleted-ignore-143      job-no-pod.json          -                       disrupted   taken away without counting
11d-deleted-ignore-143      job-no-pod.json          pods-terminating.json   terminating deleted
11d-deleted-ignore-143      job.json                 pods.json               running     runs on node-1
11e-evicted-exit-0          job.json                 pods.json               done        complete
12-exit-1                   job.json                 pods.json               failed      3 tries failed, the last: exit code 1: something broke
12-exit-1                   job-between-retries.json pods.json               retrying    1 of 3 tries failed, the last: exit code 1: something broke
12-exit-1                   job-between-retries.json -                       retrying    1 of 3 tries failed
12b-restart-onfailure       job.json                 pods.json               failed      backoff limit.*logs are gone
12b-restart-onfailure       03                       pods-crashloop.json     retrying    restarts in place: exit code 1: something broke
12b-restart-onfailure       job.json                 pods-last-seen.json     failed      exit code 1: something broke
13-missing-secret-env       job.json                 pods.json               pending     secret "absent" not found.*create it
13b-missing-secret-volume   job.json                 pods.json               pending     volume "s" : secret "absent" not found.*create it
13c-image-runs-as-root      job.json                 pods.json               pending     run as root.*numeric user
13d-command-not-found       job.json                 pods.json               failed      could not be started.*/no/such/program
13e-group-without-user      job.json                 pods.json               pending     specified without user.*set runAsUser
14-sigterm-on-delete        job-before.json          pods-before.json        running     runs on node-1
14-sigterm-on-delete        -                        pods-terminating.json   deleted     gone; 1 of its pods still stop
14-sigterm-on-delete        -                        pods.json               deleted     gone
14b-sigkill-after-grace     -                        pods-terminating.json   deleted     still stop
14b-sigkill-after-grace     -                        pods-last-seen.json     deleted     gone
14c-foreground-delete       job-deleting.json        pods-terminating.json   deleting    being deleted
15-indexed-one-fails        job.json                 pods.json               failed      failed indexes 1: exit code 64 .*: index 1
15b-indexed-retries-used    job.json                 pods.json               failed      failed indexes 1: exit code 1: index 1
16-node-lost                job-notready.json        pods-notready.json      disrupted   node node-1 stopped answering.*out-of-service
16-node-lost                job.json                 pods.json               disrupted   node node-1 does not answer .lost.*out-of-service
16-node-lost                job.json                 pods-forced.json        disrupted   node node-1 does not answer
16-node-lost                job.json                 pods-last-seen.json     terminating old pod is not gone
16-node-lost                job-after.json           pods-after.json         pending     out-of-service.*wait for the node
17-pod-deadline-image       job.json                 pods.json               failed      deadline of 20 s before its container started: .*not present with pull policy.*check image
17b-pod-deadline-secret     job.json                 pods.json               failed      deadline of 20 s before its container started: .*"absent" not found.*create what is missing
17c-pod-deadline-unscheduled job.json                pods.json               pending     no node .* Insufficient nvidia.com/gpu
"""  # noqa: E501  a table is read across
ROWS = [line.split(None, 4) for line in EXPECTED.strip().splitlines()]


def read(folder: str, name: str) -> Any:
    return json.loads((RECORDED / folder / name).read_text())


def recorded(folder: str, job: str, pods: str) -> JobState:
    """The state at one recorded moment; while a pod is stopping in time, the moment is before its deletion time."""
    the_job = None if job == "-" else read("03-running", "job.json") if job == "03" else read(folder, job)
    the_pods = [] if pods == "-" else read(folder, pods)["items"]
    now = LATER
    if pods == "pods-terminating.json":
        now = min(when(pod["metadata"]["deletionTimestamp"]) or LATER for pod in the_pods) - timedelta(seconds=1)
    return job_state(the_job, the_pods, read(folder, "events.json")["items"], now)


@pytest.mark.parametrize(("folder", "job", "pods", "state", "words"), ROWS, ids=[" ".join(row[:3]) for row in ROWS])
def test_every_recorded_moment_has_its_state_and_reason(
    folder: str, job: str, pods: str, state: str, words: str
) -> None:
    found = recorded(folder, job, pods)
    assert found.state == state, found
    assert re.search(words, found.line), found.line
    assert "\n" not in found.line


def test_every_recorded_folder_and_job_is_in_the_table() -> None:
    folders = {path.name for path in RECORDED.iterdir() if path.is_dir()}
    # Manifests that a server refused have no state; they are the linter's.
    assert {row[0] for row in ROWS} == folders - {"rejections"}
    jobs = {f"{path.parent.name}/{path.name}" for path in RECORDED.glob("*/job*.json")}
    unread = jobs - {f"{row[0]}/{row[1]}" for row in ROWS}
    # What was running before it was deleted looks as in 14.
    assert unread == {"14b-sigkill-after-grace/job-before.json", "14c-foreground-delete/job-before.json"}


def test_the_table_knows_every_state_but_unknown() -> None:
    assert {row[3] for row in ROWS} == {
        *get_args(State),
    } - {"unknown"}
    assert set(get_args(State)) >= ACTIVE


@pytest.mark.parametrize("row", [row for row in ROWS if row[3] == "failed"], ids=lambda row: " ".join(row[:3]))
def test_every_failure_says_since_when_and_what_to_do(row: list[str]) -> None:
    found = recorded(*row[:3])
    assert found.remedy
    assert found.since is not None
    assert found.since.year == 2026


def test_the_order_of_pods_and_events_moves_nothing() -> None:
    for folder, job, pods, *_ in ROWS:
        if "-" in (job, pods) or job == "03":
            continue
        the_job, the_pods, events = (read(folder, name) for name in (job, pods, "events.json"))
        backwards = job_state(the_job, the_pods["items"][::-1], events["items"][::-1], LATER)
        assert backwards == job_state(the_job, the_pods["items"], events["items"], LATER)


@pytest.mark.parametrize("key", ["reason", "message", "type", "involvedObject"])
def test_an_event_may_lack_anything(key: str) -> None:
    for folder, job, pods, *_ in ROWS:
        if "-" not in (job, pods) and job != "03":
            the_job, the_pods, events = (read(folder, name) for name in (job, pods, "events.json"))
            for event in events["items"]:
                event.pop(key)
            assert job_state(the_job, the_pods["items"], events["items"], LATER).reason


def test_a_job_that_no_controller_has_seen_is_pending() -> None:
    job = read("03-running", "job.json") | {"status": {}}
    assert job_state(job, [], [], LATER).state == "pending"


def test_an_active_pod_that_is_not_listed_is_unknown() -> None:
    assert job_state(read("03-running", "job.json"), [], [], LATER).state == "unknown"


def test_tries_of_indexes_are_not_counted_against_the_largest_number_there_is() -> None:
    job = read("15b-indexed-retries-used", "job.json")
    job["status"] = {"failed": 1}
    assert "next try; 1 tries failed" in job_state(job, [], [], LATER).reason


def test_the_queue_of_a_suspended_job_is_named() -> None:
    job = read("10-suspended", "job.json")
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    assert "held by queue gpus" in job_state(job, [], [], LATER).reason


def test_one_pod_of_several_that_waits_is_named_beside_those_that_run() -> None:
    job = read("03-running", "job.json")
    pods = [read(folder, "pods.json")["items"][0] for folder in ("03-running", "04-unschedulable-gpu")]
    found = job_state(job, pods, [], LATER)
    assert found.state == "running"
    assert "1 of 2 pods run; another: no node" in found.reason


def test_what_a_pod_says_reaches_a_terminal_as_one_printable_line() -> None:
    assert one_line("a\x1b[31mred\x1b[0m\nb\r\tc\x07") == "ared b c"
    assert len(one_line("x" * 1000)) == 240


@pytest.mark.parametrize(
    ("fields", "minute"),
    [
        ({"series": {"lastObservedTime": "2026-01-01T00:04:00.5Z"}, "eventTime": "2026-01-01T00:02:00Z"}, 4),
        ({"lastTimestamp": "2026-01-01T00:03:00Z", "eventTime": None}, 3),
        ({"lastTimestamp": None, "eventTime": "2026-01-01T00:02:00.123456Z"}, 2),
        ({}, 1),
    ],
)
def test_an_event_has_its_time_in_one_of_four_places(fields: Mapping[str, Any], minute: int) -> None:
    event: Object = {"metadata": {"creationTimestamp": "2026-01-01T00:01:00Z"}, **fields}
    assert event_time(event).minute == minute
