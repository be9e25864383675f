"""Requests over HTTP: what waiting mends is tried again, and everything else says what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import jobs.api
from jobs.api import Api, connect
from jobs.cluster import Cluster as Site
from jobs.errors import ConfigurationError, ReinitError, SpecError, TransientError
from jobs.manifest import job
from tests.kube_api import Cluster, Fault, serve
from tests.make import a_cell
from tests.s3 import free_ports

MANIFEST = job("demo", a_cell(6), (1, 2), Site(image="r/x@sha256:" + "0" * 64, store="s3://bucket"))
NAME = MANIFEST["metadata"]["name"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serve() as one:
        yield one


@pytest.fixture
def api(cluster: Cluster, tmp_path: Path) -> Api:
    opened = connect("reinit", kubeconfig=str(cluster.kubeconfig(tmp_path)))
    opened.pauses = (0.0, 0.01, 0.01)
    return opened


def add_pods(cluster: Cluster, count: int) -> None:
    for number in range(count):
        cluster.add("pods", {"metadata": {"name": f"pod-{number:04d}", "labels": {"app": "a" if number % 2 else "b"}}})


def test_a_list_is_read_page_by_page(api: Api, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.api, "PAGE", 3)
    add_pods(cluster, 10)
    assert len(api.list("pods")) == 10
    assert [query.get("continue") for query in cluster.asked("GET")] == [None, "3", "6", "9"]
    assert len(api.list("pods", "app=a")) == 5


def test_a_list_whose_pages_expire_is_read_afresh(api: Api, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.api, "PAGE", 4)
    add_pods(cluster, 10)
    cluster.faults.append(Fault(410, part="continue=8", reason="Expired", message="continue token is too old", times=2))
    assert len({pod["metadata"]["name"] for pod in api.list("pods")}) == len(api.list("pods")) == 10
    assert "limit" not in cluster.asked("GET")[6]


# A deletion is answered by 409 where its precondition fails: see below.
PASSING = [(status, method) for status in (500, 502, 503, 504, 429, 0, -1, -2) for method in ("GET", "PATCH", "DELETE")]


@pytest.mark.parametrize(("status", "method"), [*PASSING, (409, "GET"), (409, "PATCH")])
def test_what_may_pass_is_tried_again(api: Api, cluster: Cluster, status: int, method: str) -> None:
    cluster.faults.append(Fault(status, method, times=2))
    if method != "PATCH":
        cluster.add("jobs", {**MANIFEST, "metadata": {**MANIFEST["metadata"]}})
    if method == "GET":
        assert api.get("jobs", NAME) is not None
    elif method == "PATCH":
        api.apply(MANIFEST)
        assert NAME in cluster.objects["jobs"]
    else:
        api.delete(cluster.objects["jobs"][NAME], foreground=False)
        assert NAME not in cluster.objects["jobs"]
    assert len(cluster.asked(method)) in {2, 3}


@pytest.mark.parametrize("status", [500, 429, 0])
def test_what_does_not_pass_is_transient_with_what_was_asked(api: Api, cluster: Cluster, status: int) -> None:
    cluster.faults.append(Fault(status, times=100, message="etcd is away"))
    with pytest.raises(TransientError, match=r"list events") as caught:
        api.list("events")
    assert cluster.host in str(caught.value)
    assert len(cluster.requests) == 4


def test_a_pause_that_the_server_asks_for_is_kept_by_all_requests(api: Api, cluster: Cluster) -> None:
    cluster.faults.append(Fault(429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    api.list("jobs")
    assert time.monotonic() - began >= 1.0
    assert len(cluster.requests) == 2


def test_no_server_at_all_is_transient(tmp_path: Path) -> None:
    nobody = Cluster(host=f"http://127.0.0.1:{free_ports(1)[0]}")
    api = connect("reinit", kubeconfig=str(nobody.kubeconfig(tmp_path)))
    api.pauses = (0.0,)
    with pytest.raises(TransientError, match="no answer from the cluster, asked to list jobs"):
        api.list("jobs")


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(403, message="jobs.batch is forbidden"), ConfigurationError, r"no permission to patch jobs.batch.*"),
        (
            Fault(403, message="jobs.batch is forbidden"),
            ConfigurationError,
            r"--verb=create,patch --resource=jobs.batch",
        ),
        (Fault(403, message="exceeded quota: count"), ConfigurationError, "no room for another Job"),
        (Fault(404, message='namespaces "reinit" not found'), ConfigurationError, "kubectl create namespace reinit"),
        (Fault(422, message="spec.x: Invalid value"), SpecError, "422: spec.x: Invalid value"),
        (Fault(400, message='unknown field "spec.y"'), SpecError, "unknown field"),
        (
            Fault(409, details={"causes": [{"reason": "FieldManagerConflict", "field": ".spec.parallelism"}]}),
            ConfigurationError,
            "another manager owns a field",
        ),
    ],
    ids=lambda value: value.message if isinstance(value, Fault) else None,
)
def test_a_refusal_is_not_repeated_and_says_what_to_do(
    api: Api, cluster: Cluster, fault: Fault, kind: type[ReinitError], words: str
) -> None:
    cluster.faults.append(fault)
    with pytest.raises(kind, match=words):
        api.apply(MANIFEST)
    assert len(cluster.requests) == 1


def test_an_expired_token_is_a_configuration_error(cluster: Cluster, tmp_path: Path) -> None:
    api = connect("reinit", kubeconfig=str(cluster.kubeconfig(tmp_path, token="old")))
    with pytest.raises(ConfigurationError, match="log in again"):
        api.list("jobs")


def test_a_kubeconfig_that_is_not_there_or_lacks_the_context_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--kubeconfig"):
        connect("reinit", kubeconfig=str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="elsewhere"):
        connect("reinit", kubeconfig=str(cluster.kubeconfig(tmp_path)), context="elsewhere")


def test_a_job_of_the_same_name_that_came_later_is_not_deleted(api: Api, cluster: Cluster) -> None:
    cluster.add("jobs", {**MANIFEST, "metadata": {**MANIFEST["metadata"], "uid": "new"}})
    api.delete({"metadata": {"name": NAME, "uid": "old"}}, foreground=True)
    assert NAME in cluster.objects["jobs"]


def test_warnings_of_the_server_are_kept(api: Api, cluster: Cluster) -> None:
    cluster.warning = 'would violate PodSecurity \\"restricted:latest\\"'
    assert "PodSecurity" in api.apply(MANIFEST, dry_run=True).warnings[0]
    assert not cluster.objects["jobs"]


def test_a_log_is_read_whole_and_is_none_where_there_is_none(api: Api, cluster: Cluster) -> None:
    cluster.logs["pod-1"] = "a\nb\n"
    assert api.log("pod-1", tail=2) == "a\nb\n"
    assert cluster.asked("GET", "/log") == [{"container": "main", "tailLines": "2"}]
    assert api.log("pod-2") is None


def test_a_followed_log_is_taken_up_where_its_connection_broke(api: Api, cluster: Cluster) -> None:
    cluster.logs["pod-1"] = "".join(f"2026-01-01T00:00:0{second}.5Z line {second}\n" for second in range(4))
    cluster.faults += [Fault(0, part="/log"), Fault(-2, part="/log")]
    assert list(api.follow("pod-1")) == [f"line {second}" for second in range(4)]
    assert [query.get("sinceTime") for query in cluster.asked("GET")] == [None, None, "2026-01-01T00:00:01Z"]
