"""submit, status, logs and cancel over HTTP: nothing is done twice, and nothing by surprise."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import jobs.kube
from jobs.api import THREADS, Api, connect
from jobs.cli import app
from jobs.cluster import Cluster as Site
from jobs.errors import ConfigurationError, SpecError, TransientError
from jobs.found import Found
from jobs.kube import Submitted, submit, wait_until_gone
from jobs.manifest import job
from jobs.plan import Plan, PlannedCell
from jobs.pods import Object
from jobs.result import now
from jobs.status import Status, observe, study_status
from jobs.store import Store, open_store
from jobs.study import load_study
from tests.kube_api import Cluster, Fault, serve
from tests.make import a_cell, a_diverged, a_failure, a_result, some_predictions

RECORDED = Path(__file__).parent / "recorded"
SITE = Site(image="registry.example/reinit@sha256:" + "0" * 64, store="s3://bucket/prefix")
CELLS = Plan(PlannedCell(a_cell(*range(layer)), (1, 2), ("progressive",)) for layer in range(6))
DIGESTS = [each.cell.digest for each in CELLS]
NOTHING = {digest: Found(digest) for digest in DIGESTS}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serve() as one:
        yield one


@pytest.fixture
def api(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(jobs.kube, "GONE_PAUSES", (0.01,))
    opened = connect("reinit", kubeconfig=str(cluster.kubeconfig(tmp_path)))
    opened.pauses = (0.0, 0.01, 0.01)
    return opened


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def rendered(number: int, *, study: str = "demo", seeds: tuple[int, ...] = (1, 2), site: Site = SITE) -> Any:
    return job(study, CELLS[number].cell, seeds, site)


def put(cluster: Cluster, case: str, number: int, **changes: Any) -> str:
    """The Job of a cell in a recorded state, with the pods and Events of that case; returns its name."""
    read = {part: json.loads((RECORDED / case / f"{part}.json").read_text()) for part in ("job", "pods", "events")}
    manifest = copy.deepcopy(rendered(number, **changes))
    name, before = manifest["metadata"]["name"], read["job"]["metadata"]["name"]
    manifest["status"] = read["job"]["status"]
    manifest["spec"] = {**read["job"]["spec"], "template": manifest["spec"]["template"]}
    cluster.add("jobs", manifest)
    for pod in read["pods"]["items"]:
        pod["metadata"]["name"] = name + pod["metadata"]["name"].removeprefix(before)
        pod["metadata"]["labels"] |= {"job-name": name, "batch.kubernetes.io/job-name": name}
        pod["metadata"]["labels"] |= {"app.kubernetes.io/managed-by": "reinit"}
        cluster.add("pods", pod)
    for event in read["events"]["items"]:
        event["metadata"]["name"] += name
        event["involvedObject"]["name"] = name + event["involvedObject"]["name"].removeprefix(before)
        cluster.add("events", event)
    return str(name)


def outcomes(submitted: list[Submitted]) -> list[str]:
    return [each.outcome for each in submitted]


def send(api: Api, found: dict[str, Found] | None = None, **options: Any) -> list[Submitted]:
    return submit(api, "demo", CELLS, SITE, found or NOTHING, **options)


def found_in(store: Store) -> dict[str, Found]:
    return store.all_results(DIGESTS)


def finish(store: Store, number: int, *seeds: int) -> None:
    for seed in seeds:
        store.put(a_result(CELLS[number].cell, seed), some_predictions(seed))


# ------------------------------------------------------------------------------------------------------------ submit


def test_every_cell_gets_its_job_and_a_second_call_finds_them_at_work(api: Api, cluster: Cluster) -> None:
    assert outcomes(send(api)) == ["created"] * 6
    assert cluster.objects["jobs"].keys() == {rendered(number)["metadata"]["name"] for number in range(6)}
    assert outcomes(send(api)) == ["active"] * 6
    assert len(cluster.asked("PATCH")) == 6


def test_a_cell_is_skipped_only_when_every_planned_seed_is_done(api: Api, store: Store) -> None:
    finish(store, 0, 1, 2)
    finish(store, 1, 1)
    store.put(a_diverged(CELLS[2].cell, 1))
    store.put(a_diverged(CELLS[2].cell, 2))
    assert outcomes(send(api, found_in(store))) == ["done", "created", "done", "created", "created", "created"]


def test_a_job_of_another_study_or_image_at_work_on_the_cell_is_left_alone(api: Api, cluster: Cluster) -> None:
    other = put(cluster, "03-running", 0, study="another")
    put(cluster, "10-suspended", 1, site=SITE.model_copy(update={"image": "r/x@sha256:" + "1" * 64}))
    put(cluster, "06-oomkilled", 2, study="another")
    submitted = send(api)
    assert outcomes(submitted) == ["active", "active", "created", "created", "created", "created"]
    assert submitted[0].note.startswith(f"{other} of study another is at work on it; `reinit cancel another`")


def test_a_failed_job_and_one_without_results_are_made_again_only_when_asked(api: Api, cluster: Cluster) -> None:
    failed, complete = put(cluster, "06-oomkilled", 0), put(cluster, "11c-deleted-exit-0", 1)
    uids = {name: cluster.objects["jobs"][name]["metadata"]["uid"] for name in (failed, complete)}
    assert outcomes(send(api))[:2] == ["failed", "complete"]
    assert not cluster.asked("DELETE")
    submitted = send(api, retry_failed=True)
    assert outcomes(submitted) == ["recreated", "recreated", *["active"] * 4]
    assert len(cluster.asked("DELETE")) == 2
    for name, uid in uids.items():
        assert cluster.objects["jobs"][name]["metadata"]["uid"] != uid
        assert not cluster.objects["jobs"][name]["status"]


def test_a_job_that_is_being_deleted_is_waited_for(api: Api, cluster: Cluster) -> None:
    name = put(cluster, "03-running", 0)
    api.delete(cluster.objects["jobs"][name], foreground=True)
    assert outcomes(send(api))[0] == "recreated"
    assert "deletionTimestamp" not in cluster.objects["jobs"][name]["metadata"]


def test_a_job_that_does_not_go_away_is_said_and_not_applied_over(api: Api, cluster: Cluster) -> None:
    cluster.deletion_polls = 10_000
    name = put(cluster, "06-oomkilled", 0)
    with pytest.raises(TransientError, match="still there"):
        wait_until_gone(api, cluster.objects["jobs"][name], seconds=0.05)


def test_a_dry_run_keeps_nothing_and_shows_what_the_server_warns_of(api: Api, cluster: Cluster) -> None:
    put(cluster, "06-oomkilled", 0)
    cluster.warning = "would violate PodSecurity"
    submitted = send(api, retry_failed=True, dry_run=True)
    assert outcomes(submitted) == ["recreated", *["created"] * 5]
    assert submitted[1].warnings == ("would violate PodSecurity",)
    assert len(cluster.objects["jobs"]) == 1
    assert not cluster.asked("DELETE")
    assert all(query["dryRun"] == "All" for query in cluster.asked("PATCH"))


def test_a_submission_that_stops_half_way_is_continued_by_the_same_call(api: Api, cluster: Cluster) -> None:
    last = rendered(5)["metadata"]["name"]
    cluster.faults.append(Fault(403, "PATCH", part=last, message="forbidden"))
    with pytest.raises(ConfigurationError, match="no permission to patch"):
        send(api)
    assert len(cluster.objects["jobs"]) == 5
    assert outcomes(send(api)) == ["active"] * 5 + ["created"]


def test_faults_on_the_way_lose_and_double_nothing(api: Api, cluster: Cluster) -> None:
    for status in (429, 500, 409, 0, -1):
        cluster.faults.append(Fault(status, "PATCH"))
    assert outcomes(send(api)) == ["created"] * 6
    assert len(cluster.objects["jobs"]) == 6


def test_only_a_few_requests_are_under_way_at_a_time(api: Api, cluster: Cluster) -> None:
    cells = Plan(PlannedCell(a_cell(size=size), (1,), ("f",)) for size in range(100, 160))
    submit(api, "demo", cells, SITE, {each.cell.digest: Found(each.cell.digest) for each in cells})
    assert len(cluster.objects["jobs"]) == 60
    assert cluster.most_at_once <= THREADS


# ------------------------------------------------------------------------------------------------------------ status


def look(api: Api | None, store: Store, plan: Plan = CELLS, site: Site | None = SITE) -> Status:
    digests = [each.cell.digest for each in plan]
    observed = observe(api, now()) if api else None
    return study_status("demo", plan, store.all_results(digests), store.all_failures(digests), observed, site)


def test_status_joins_study_store_and_cluster(api: Api, cluster: Cluster, store: Store) -> None:
    finish(store, 0, 1, 2)
    finish(store, 1, 1)
    put(cluster, "01-complete", 0)
    put(cluster, "03-running", 1)
    put(cluster, "04-unschedulable-gpu", 2)
    put(cluster, "06b-oomkilled-child", 3)
    put(cluster, "11c-deleted-exit-0", 4)
    status = look(api, store)
    assert [row.state for row in status.rows] == ["done", "running", "pending", "failed", "missing", "missing"]
    assert [row.done for row in status.rows] == [2, 1, 0, 0, 0, 0]
    reasons = [row.reason for row in status.rows]
    assert "Insufficient nvidia.com/gpu" in reasons[2]
    assert "out of memory" in reasons[3]
    assert "complete, but 2 of 2 runs are not in this store" in reasons[4]
    assert reasons[5] == "no Job and no result"
    assert status.runs == (3, 12)
    assert status.counts == {"failed": 1, "pending": 1, "missing": 2, "running": 1, "done": 1}
    assert status.is_active


def test_status_asks_once_for_jobs_pods_and_events(api: Api, cluster: Cluster, store: Store) -> None:
    for number, case in enumerate(["09-psa-refused", "11b-evicted-midrun", "15-indexed-one-fails"]):
        put(cluster, case, number)
    status = look(api, store)
    assert [row.state for row in status.rows][:3] == ["refused", "running", "failed"]
    assert len(cluster.requests) == 3


@pytest.mark.parametrize("case", sorted(path.name for path in RECORDED.iterdir() if (path / "job.json").exists()))
def test_every_recorded_case_reads_the_same_through_the_cluster(
    api: Api, cluster: Cluster, store: Store, case: str
) -> None:
    from tests.jobs.test_state import LATER, recorded

    put(cluster, case, 3)
    expected = recorded(case, "job.json", "pods.json")
    row = look(api, store).rows[3]
    assert row.state == ("missing" if expected.state == "done" else expected.state)
    if expected.state not in {"done", "running"}:
        assert row.reason == expected.reason
    assert now() > LATER or expected.state != "disrupted"


def test_the_store_alone_tells_done_failed_and_missing(store: Store) -> None:
    finish(store, 0, 1, 2)
    store.put_failure(a_failure(CELLS[1].cell, exit_code=75, reason="The store is away."))
    status = look(None, store)
    assert [row.state for row in status.rows] == ["done", "failed", *["missing"] * 4]
    assert "exit code 75: The store is away." in status.rows[1].reason
    assert not status.is_active


def test_the_store_says_what_a_pod_that_is_gone_died_of(api: Api, cluster: Cluster, store: Store) -> None:
    put(cluster, "08-deadline-exceeded", 0)
    store.put_failure(a_failure(CELLS[0].cell, exit_code=75, reason="Stopped while training."))
    assert "Stopped while training." in look(api, store).rows[0].reason


def test_jobs_that_the_study_no_longer_renders_are_stale(api: Api, cluster: Cluster, store: Store) -> None:
    more_seeds = put(cluster, "03-running", 0, seeds=(1,))
    gone = put(cluster, "10-suspended", 5)
    put(cluster, "03-running", 1)
    put(cluster, "03-running", 2, study="another")
    status = look(api, store, Plan(CELLS[:5]))
    assert {each.job: each.reason for each in status.stale} == {
        more_seeds: "its cell is rendered differently now: other seeds, image or settings",
        gone: "its cell is not in the study any more",
    }
    assert [row.state for row in status.rows] == ["running", "running", "running", "missing", "missing"]


def test_the_job_that_is_at_work_speaks_for_the_cell_and_else_the_newest(
    api: Api, cluster: Cluster, store: Store
) -> None:
    running = put(cluster, "03-running", 0, seeds=(1,))
    put(cluster, "06-oomkilled", 0)
    put(cluster, "06-oomkilled", 1)
    newest = put(cluster, "07-fail-on-exit-code", 1, seeds=(1,))
    rows = look(api, store).rows
    assert [rows[0].job, rows[1].job] == [running, newest]


# ----------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def command(
    cluster: Cluster, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The `reinit` command with this cluster and store; gives what it prints."""
    monkeypatch.setattr(jobs.kube, "GONE_PAUSES", (0.01,))
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
    site = tmp_path / "cluster.yaml"
    site.write_text(f"image: {SITE.image}\nstore: {SITE.store}\n")

    def call(*arguments: str) -> str:
        capsys.readouterr()
        # The site's bucket is not here; `cancel` asks no store.
        where = [] if arguments[0] == "cancel" else ["--store", store.url]
        app([*arguments, "--cluster", str(site), *where], standalone_mode=False)
        return capsys.readouterr().out

    return call


def demo() -> Plan:
    return load_study("demo").plan()


def pod_of(name: str, digest: str) -> dict[str, Any]:
    thing: dict[str, Any] = json.loads((RECORDED / "03-running" / "pods.json").read_text())["items"][0]
    thing["metadata"]["name"] = f"{name}-abcde"
    thing["metadata"]["labels"] |= {"job-name": name, "batch.kubernetes.io/job-name": name}
    thing["metadata"]["labels"]["reinit.dev/digest"] = digest[:32]
    return thing


def test_from_submit_to_cancel(command: Callable[..., str], cluster: Cluster, store: Store) -> None:
    count = len(demo())
    assert f"{count} would be created" in command("submit", "demo", "--dry-run", "server")
    assert f"{count} created" in command("submit", "demo")
    printed = command("status", "demo")
    assert f"{count} pending" in printed
    assert "has made no pod yet" in printed
    task_size = [(each.cell.task.name, each.cell.size) for each in demo()]
    chosen = task_size.count(("rotten-short", 500))
    assert 0 < chosen < count
    printed = command("cancel", "demo", "--size", "500", "--task", "rotten-short", "--yes")
    assert f"{chosen} Jobs deleted" in printed
    assert len(cluster.objects["jobs"]) == count - chosen
    assert "nothing to cancel" in command("cancel", "demo", "--treatment", "probe", "--yes")
    assert json.loads(command("status", "demo", "--output", "json"))["states"] == {
        "pending": count - chosen,
        "missing": chosen,
    }


def test_cancel_shows_what_it_would_stop_and_takes_no_for_an_answer(
    command: Callable[..., str], cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command("submit", "demo")
    shown: list[str] = []
    monkeypatch.setattr("typer.confirm", lambda text: shown.append(capsys.readouterr().out + text))
    assert command("cancel", "demo") == ""
    assert len(cluster.objects["jobs"]) == len(demo())
    assert not cluster.asked("DELETE")
    assert f"stop these {len(demo())} Jobs?" in shown[0]
    assert all(name in shown[0] for name in cluster.objects["jobs"])


def test_a_job_that_the_study_no_longer_has_is_cancelled_with_the_study(
    command: Callable[..., str], cluster: Cluster
) -> None:
    left = put(cluster, "03-running", 0)
    other = put(cluster, "03-running", 1, study="another")
    assert "1 Jobs deleted" in command("cancel", "demo", "--yes")
    assert left not in cluster.objects["jobs"]
    assert other in cluster.objects["jobs"]


def test_watching_ends_when_nothing_is_at_work(
    command: Callable[..., str], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("submit", "demo")
    looks: list[float] = []

    def finish_all(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            cluster.objects["jobs"].clear()

    monkeypatch.setattr("jobs.cluster_commands.sleep", finish_all)
    printed = command("status", "demo", "--watch", "--interval", "7")
    assert looks == [7, 7]
    assert len(printed.splitlines()) == 3


def test_a_log_is_the_pods_while_it_is_there_and_the_stores_afterwards(
    command: Callable[..., str], cluster: Cluster, store: Store
) -> None:
    cell = demo()[0].cell
    with pytest.raises(TransientError, match="no log of"):
        command("logs", "demo", cell.digest)
    store.put_log(cell.digest, "pod-1", "one\ntwo [/oops]\n")
    assert command("logs", "demo", cell.digest, "--tail", "1") == "two [/oops]\n"
    cluster.add("pods", pod_of("job-1", cell.digest))
    cluster.logs["job-1-abcde"] = "live \x1b[2J\n"
    assert command("logs", "demo", cell.digest) == "live \n"
    cluster.logs["job-1-abcde"] = "2026-01-01T00:00:00.1Z live\n"
    assert command("logs", "demo", cell.digest, "--follow") == "live\n"


def test_status_needs_a_store_or_a_cluster_file() -> None:
    with pytest.raises(SpecError, match="--store URL, or --cluster FILE"):
        app(["status", "demo"], standalone_mode=False)
    with pytest.raises(SpecError, match="--watch follows a cluster"):
        app(["status", "demo", "--store", "file:///nowhere", "--watch"], standalone_mode=False)


def test_text_of_a_pod_is_never_markup(command: Callable[..., str], cluster: Cluster) -> None:
    command("submit", "demo")
    name, thing = next(iter(cluster.objects["jobs"].items()))
    thing["status"] = {"active": 1}
    pod: Object = pod_of(name, demo()[0].cell.digest)
    pod["status"]["containerStatuses"][0]["state"] = {
        "waiting": {"reason": "CreateContainerError", "message": "[/oops] \x1b[31m[red]"}
    }
    cluster.objects["pods"][f"{name}-abcde"] = dict(pod)
    assert "container cannot be made: [/oops] [red]" in command("status", "demo")
