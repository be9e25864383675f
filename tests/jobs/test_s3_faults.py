"""What a bad road to a real S3 server does to a store: nothing is lost, nothing believed, refusals are told."""

import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.backends import open_objects
from jobs.errors import ConfigurationError, TransientError
from jobs.objects import Objects
from jobs.store import Store, open_store
from tests.faultproxy import FaultProxy
from tests.make import a_cell, a_result, some_predictions
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

NO_PAUSES = (0.0, 0.0, 0.0, 0.0, 0.0)
DIGEST = a_cell().digest


@pytest.fixture
def proxy(s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between this process and the server."""
    with FaultProxy(s3_server.endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", running.endpoint)
        yield running


@pytest.fixture
def url(proxy: FaultProxy, s3_bucket: str) -> str:
    return f"s3://{s3_bucket}/results"


def beyond_the_proxy(s3_server: S3Server, url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    return open_store(url)


def objects(url: str) -> Objects:
    return open_objects(url, attempts=2)


@pytest.mark.parametrize(
    "fault", ["500", "503", "reset before", "reset after", "false 200", "truncated", "xml", "late"]
)
def test_a_fault_in_passing_loses_nothing_and_doubles_nothing(
    s3_server: S3Server, proxy: FaultProxy, url: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    store = Store(objects(url), pauses=NO_PAUSES)
    for _ in range(4):
        proxy.script.append(fault)
        store.put(a_result(), some_predictions())
    assert proxy.suffered == {fault: 4}
    proxy.script.append(fault)
    seen = store.results(DIGEST)
    there = beyond_the_proxy(s3_server, url, monkeypatch)
    assert there.results(DIGEST) == seen
    assert (seen.results, seen.damaged) == ({1: a_result()}, ())
    assert there.predictions(a_result().predictions) == some_predictions()


@pytest.mark.parametrize("fault", ["500", "503", "reset before", "reset after", "truncated", "xml"])
def test_a_read_that_never_succeeds_is_an_error_and_never_an_empty_store(
    proxy: FaultProxy, url: str, fault: str
) -> None:
    Store(objects(url)).put(a_result(), some_predictions())
    proxy.rates = {fault: 1.0}
    proxy.applies = lambda _method, path: "list-type" in path
    with pytest.raises(TransientError) as caught:
        Store(objects(url), pauses=(0.0,)).results(DIGEST)
    assert url in str(caught.value)
    assert SECRET_KEY not in str(caught.value)


def test_a_server_that_keeps_nothing_it_accepts_is_found_before_any_work(proxy: FaultProxy, url: str) -> None:
    proxy.rates = {"false 200": 1.0}
    with pytest.raises(TransientError, match="written 6 times and does not read back") as caught:
        Store(objects(url), pauses=NO_PAUSES).check()
    assert caught.value.got == "no object"


def test_a_check_has_patience_with_what_passes(proxy: FaultProxy, url: str) -> None:
    proxy.script.extend(["false 200", "500", "xml", "reset after", "truncated"])
    Store(objects(url), pauses=NO_PAUSES).check()
    assert sum(proxy.suffered.values()) == 5


@pytest.mark.parametrize(("fault", "code"), [("skewed", "RequestTimeTooSkewed"), ("expired", "ExpiredToken")])
def test_a_refusal_that_lasts_is_told_at_once_with_its_remedy(
    proxy: FaultProxy, url: str, fault: str, code: str
) -> None:
    proxy.rates = {fault: 1.0}
    with pytest.raises(ConfigurationError) as caught:
        open_store(url).put(a_result(), some_predictions())
    assert code in caught.value.problem
    assert caught.value.remedy
    assert SECRET_KEY not in str(caught.value)
    assert proxy.suffered == {fault: 1}, "neither boto3 nor we repeat what lasts"


def test_a_bucket_that_is_deleted_while_a_run_is_at_work_is_named(s3_server: S3Server, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}")
    store.put(a_result(), some_predictions())
    for key in [each["Key"] for each in s3_server.client.list_objects_v2(Bucket=s3_bucket)["Contents"]]:
        s3_server.client.delete_object(Bucket=s3_bucket, Key=key)
    s3_server.client.delete_bucket(Bucket=s3_bucket)
    for refused in (lambda: store.put(a_result(seed=2), some_predictions(2)), lambda: store.results(DIGEST)):
        with pytest.raises(ConfigurationError, match="NoSuchBucket"):
            refused()


def write_credentials(path: Path, key: str, secret: str) -> None:
    parser = configparser.ConfigParser()
    parser["default"] = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    with path.open("w", encoding="utf-8") as file:
        parser.write(file)


@pytest.fixture
def credentials(tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as a mounted Secret has it; the environment has no keys."""
    path = tmp_path / "credentials"
    write_credentials(path, ACCESS_KEY, SECRET_KEY)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [
        (ACCESS_KEY, "a-secret-from-before", "SignatureDoesNotMatch"),
        ("AKIAFROMBEFORE000000", "x", "InvalidAccessKeyId"),
    ],
)
def test_credentials_that_are_rotated_in_their_file_are_taken_up_by_a_process_that_runs(
    s3_bucket: str, credentials: Path, key: str, secret: str, code: str
) -> None:
    write_credentials(credentials, key, secret)
    store = open_store(f"s3://{s3_bucket}")
    for refused in (store.check, lambda: store.put(a_result(), some_predictions())):
        with pytest.raises(ConfigurationError, match=code):
            refused()
    write_credentials(credentials, ACCESS_KEY, SECRET_KEY)
    store.put(a_result(), some_predictions())
    assert store.results(DIGEST).done == {1}


def test_a_token_that_expires_while_many_read_is_renewed_once(
    proxy: FaultProxy, url: str, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [a_cell(layer) for layer in range(8)]
    for cell in cells:
        open_store(url).put(a_result(cell), some_predictions())
    write_credentials(credentials, ACCESS_KEY, "a-secret-from-before")
    store = open_store(url)
    with pytest.raises(ConfigurationError):
        store.check()
    write_credentials(credentials, ACCESS_KEY, SECRET_KEY)
    found = store.all_results([cell.digest for cell in cells])
    assert all(each.done == {1} for each in found.values())


def test_a_file_of_credentials_that_was_missing_for_a_moment_is_read_again(s3_bucket: str, credentials: Path) -> None:
    aside = credentials.rename(credentials.with_name("aside"))
    store = open_store(f"s3://{s3_bucket}")
    with pytest.raises(ConfigurationError, match="NoCredentialsError"):
        store.check()
    aside.rename(credentials)
    store.check()


def test_a_token_that_expired_and_was_not_renewed_is_a_clear_error(
    proxy: FaultProxy, url: str, credentials: Path
) -> None:
    proxy.rates = {"expired": 1.0}
    with pytest.raises(ConfigurationError, match="ExpiredToken") as caught:
        open_store(url).check()
    assert caught.value.remedy == "renew the session token"
    assert "from shared-credentials-file" in str(caught.value)


def test_a_servers_page_now_and_then_is_not_taken_for_an_object(proxy: FaultProxy, url: str) -> None:
    Store(objects(url)).put(a_result(), some_predictions())
    for pages in range(1, 6):
        proxy.applies = lambda _method, path: "/runs/" in path
        proxy.script.extend(["xml"] * pages)
        found = Store(objects(url), pauses=NO_PAUSES).results(DIGEST)
        assert found.done == {1}
        assert found.damaged == ()
        assert not proxy.script
