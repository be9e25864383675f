"""Reads of our own give what boto3 gives, or no answer: in all else boto3 is asked."""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.credentials import ReadOnlyCredentials
from botocore.httpsession import get_cert_path

import jobs.s3
import jobs.s3reads
from jobs.backends import open_objects
from jobs.errors import TransientError
from jobs.s3 import S3Objects
from jobs.s3reads import Page, SignedReads, signed_reads
from jobs.store import Store
from tests.faultproxy import FaultProxy
from tests.make import a_cell, a_result
from tests.s3 import S3Server

RNG = random.Random(5)
DIGESTS = [RNG.randbytes(32).hex() for _ in range(40)]
ODD = ["README.md", "x/y", "a~b/c", "~", "g/h", "Z/1.json", "a+b/c d", "100%/x", "é/ü", "f/f", f"{DIGESTS[0]}"]
"""Names that are no results'; the last is of an object beside a folder of that name."""


def bare(bucket: str) -> S3Objects:
    """A bucket that has been listed once, so that reads know how boto3 asks."""
    objects = S3Objects(bucket, "a/prefix", attempts=2)
    list(objects.keys("runs/"))
    return objects


def reads_of(objects: S3Objects) -> SignedReads:
    assert objects._reads is not None
    return objects._reads


def test_a_listing_in_parts_is_the_listing_page_by_page(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"runs/{digest}/{seed}.json" for digest in DIGESTS for seed in range(3)]
    keys += [f"runs/{name}" for name in ODD] + ["runs.txt", "runs0/x"]
    for key in keys:
        s3_server.client.put_object(Bucket=s3_bucket, Key=f"a/prefix/{key}", Body=b"")
    expected = sorted(key for key in keys if key.startswith("runs/"))
    for size in (1, 2, 7, 50, 1000):
        monkeypatch.setattr(jobs.s3, "PAGE_KEYS", size)
        assert sorted(bare(s3_bucket).keys("runs/")) == expected
        with monkeypatch.context() as patch:
            patch.setattr(jobs.s3, "in_shards", lambda *_: None)
            assert sorted(bare(s3_bucket).keys("runs/")) == expected


def test_most_pages_of_a_long_listing_and_all_results_are_read_without_boto3(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [a_result(a_cell(layer), seed) for layer in range(12) for seed in range(2)]
    for result in results:
        s3_server.client.put_object(Bucket=s3_bucket, Key=f"a/prefix/{result.key}", Body=result.to_bytes())
    monkeypatch.setattr(jobs.s3, "PAGE_KEYS", 5)
    asked: list[str] = []
    objects = S3Objects(s3_bucket, "a/prefix")
    plain = objects._ask

    def counted(key: str, verb: str, request: Any) -> Any:
        asked.append(verb)
        return plain(key, verb, request)

    monkeypatch.setattr(objects, "_ask", counted)
    assert sorted(objects.keys("runs/")) == sorted(result.key for result in results)
    assert {key: objects.get(key) for key in objects.keys("runs/")} == {each.key: each.to_bytes() for each in results}
    assert asked == ["listed"]
    assert objects.get("runs/not-there") is None
    assert asked == ["listed", "read"]


def test_a_prefix_of_all_letters_that_one_may_have_is_asked_for_as_boto3_does(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = "a.b=c+d/@e!f,g-h_~"
    keys = [f"runs/{digest}/1.json" for digest in DIGESTS]
    for key in keys:
        s3_server.client.put_object(Bucket=s3_bucket, Key=f"{prefix}/{key}", Body=key.encode())
    monkeypatch.setattr(jobs.s3, "PAGE_KEYS", 7)
    objects = S3Objects(s3_bucket, prefix)
    list(objects.keys("runs/"))
    monkeypatch.setattr(objects, "_ask", None)
    assert sorted(objects.keys("runs/")) == sorted(keys)
    assert [objects.get(key) for key in keys] == [key.encode() for key in keys]


def test_that_there_is_nothing_is_for_boto3_to_say(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = bare(s3_bucket)
    asked: list[str] = []
    plain = objects._ask

    def counted(key: str, verb: str, request: Any) -> Any:
        asked.append(verb)
        return plain(key, verb, request)

    monkeypatch.setattr(objects, "_ask", counted)
    assert list(objects.keys("runs/")) == []
    assert asked == ["listed"]
    objects.put("runs/a", b"a")
    asked.clear()
    assert list(objects.keys("runs/")) == ["runs/a"]
    assert asked == []


def test_a_server_that_begins_a_listing_elsewhere_is_listed_page_by_page(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"runs/{digest}/1.json" for digest in DIGESTS]
    for key in keys:
        s3_server.client.put_object(Bucket=s3_bucket, Key=f"a/prefix/{key}", Body=b"")
    monkeypatch.setattr(jobs.s3, "PAGE_KEYS", 4)
    page = SignedReads.page
    asked: list[str] = []

    def from_the_start(self: SignedReads, prefix: str, keys: int, *, after: str = "", token: str = "") -> Page | None:
        asked.append(after)
        return page(self, prefix, keys, token=token)

    def leaving_out(self: SignedReads, prefix: str, keys: int, *, after: str = "", token: str = "") -> Page | None:
        asked.append(after)
        found = page(self, prefix, keys, after=after, token=token)
        return found and Page(found.keys[1:], found.token)

    for server in (from_the_start, leaving_out):
        monkeypatch.setattr(SignedReads, "page", server)
        assert sorted(bare(s3_bucket).keys("runs/")) == sorted(keys)
    assert asked


# ----------------------------------------------------------------------------------------------------- odd answers

HEAD = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "of a length": (HEAD + b"Content-Length: 4\r\n\r\nbody", b"body"),
    "with headers that come twice": (HEAD + b"Vary: a\r\nVary: b\r\ncontent-length: 4\r\n\r\nbody", b"body"),
    "in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\n\r\n", None),
    "in plain chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", b"body"),
    "empty": (HEAD + b"Content-Length: 0\r\n\r\n", b""),
    "not found": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", None),
    "elsewhere": (b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n", None),
    "busy": (b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n", None),
    "a part": (b"HTTP/1.1 206 Partial\r\nContent-Length: 4\r\n\r\nbody", None),
    "of an older protocol": (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", None),
    "cut short": (HEAD + b"Content-Length: 9\r\n\r\nbody", None),
    "cut in the head": (HEAD + b"Content-Le", None),
    "without an end": (HEAD + b"\r\nbody", None),
    "the last": (HEAD + b"Connection: close\r\nContent-Length: 4\r\n\r\nbody", None),
    "of a coding": (HEAD + b"Content-Encoding: aws-chunked\r\nContent-Length: 4\r\n\r\nbody", b"body"),
    "of two lengths": (HEAD + b"Content-Length: 4\r\nContent-Length: 2\r\n\r\nbody", None),
    "of a length and in chunks": (HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nbody", None),
    "of a length that is none": (HEAD + b"Content-Length: -4\r\n\r\nbody", None),
    "of a length below zero in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-4\r\nbody\r\n0\r\n\r\n", None),
    "cut short in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nbody\r\n", None),
    "in another coding": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", None),
    "too large": (HEAD + b"Content-Length: 101\r\n\r\n" + b"x" * 101, None),
    "too large in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n", None),
    "with a line that is no header": (HEAD + b"what\r\nContent-Length: 4\r\n\r\nbody", None),
    "with a line without an end": (HEAD + b"X: " + b"x" * 100_000, None),
    "with lines without an end": (HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(5000)), None),
    "nothing": (b"", None),
    "something else": (b"SSH-2.0-OpenSSH_9.2\r\n", None),
}


@pytest.fixture
def reads(request: pytest.FixtureRequest) -> Iterator[SignedReads]:
    """Of a server that gives one answer to each connection, then hangs up."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.recv(2**16)
                        connection.sendall(request.param)

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/bucket?list-type=2"
        found = signed_reads(url, SIGNED, lambda: CREDENTIALS, "", 5)
        assert found is not None
        yield found
        server.shutdown(socket.SHUT_RDWR)


CREDENTIALS = ReadOnlyCredentials("KEY", "SECRET", "TOKEN")
SIGNED = "AWS4-HMAC-SHA256 Credential=KEY/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@pytest.mark.parametrize(("reads", "expected"), ANSWERS.values(), ids=ANSWERS.keys(), indirect=["reads"])
def test_an_answer_is_whole_and_plain_or_none(reads: SignedReads, expected: bytes | None) -> None:
    assert reads.get("runs/x", 100) == expected


@pytest.mark.parametrize("reads", [b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"], indirect=True)
def test_after_some_failures_in_a_row_no_more_is_asked(reads: SignedReads) -> None:
    for number in range(jobs.s3reads.GIVE_UP):
        assert not reads.has_given_up, number
        assert reads.get("runs/x", 100) is None
    assert reads.has_given_up


@pytest.mark.parametrize("reads", [HEAD + b"Content-Length: 4\r\n\r\nbody"], indirect=True)
def test_a_connection_that_was_closed_while_it_was_idle_is_no_failure(reads: SignedReads) -> None:
    # This server hangs up after each answer and does not say so.
    for _ in range(10):
        assert reads.get("runs/x", 100) == b"body"
        assert not reads.has_given_up


@pytest.mark.parametrize(
    "reads", [b"".join(HEAD + b"Content-Length: 4\r\n\r\n" + body for body in (b"body", b"evil"))], indirect=True
)
def test_what_nobody_asked_for_is_no_answer_to_the_next_question(reads: SignedReads) -> None:
    for _ in range(5):
        assert reads.get("runs/x", 100) == b"body"


class TakenMeanwhile(deque[Any]):
    """Idle connections of which another thread takes the last after this one saw that there is one."""

    def __len__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        return not self.seen

    def pop(self) -> Any:  # type: ignore[override]  # it has no argument here either
        self.seen = True
        return super().pop()

    seen = False


@pytest.mark.parametrize("reads", [HEAD + b"Content-Length: 4\r\n\r\nbody"], indirect=True)
def test_a_connection_that_another_thread_took_is_no_error(reads: SignedReads) -> None:
    reads._idle = TakenMeanwhile()
    assert reads.get("runs/x", 100) == b"body"
    jobs.s3reads._close(reads._idle)


LISTED = b'<?xml version="1.0"?><ListBucketResult><IsTruncated>%s</IsTruncated>%s</ListBucketResult>'
ENTRY = b"<Contents><Key>runs/%s</Key></Contents>"
ENCODED = b"<EncodingType>url</EncodingType>"
"""What boto3 needs to see before it decodes names."""
ENTRY_FIRST = b"<ListBucketResult>%s%s<IsTruncated>false</IsTruncated></ListBucketResult>" % (
    ENTRY % b"a",
    ENTRY % b"b",
)


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (LISTED % (b"false", ENTRY % b"a"), ("runs/a",)),
        (LISTED % (b"false", b""), ()),
        (LISTED % (b"false", ENTRY % b"a%2Fb%25+c" + ENCODED), ("runs/a/b% c",)),
        (LISTED % (b"false", ENTRY % b"a%0Ab" + ENCODED), ("runs/a\nb",)),
        (LISTED % (b"false", ENTRY % b"a%2Fb"), None),
        (LISTED % (b"false", ENTRY % b"a+b"), None),
        (LISTED % (b"false", ENTRY % b"a\nruns/b"), None),
        (LISTED % (b"true", b""), None),
        (LISTED % (b"", ENTRY % b"a"), None),
        (LISTED % (b"false", b"<Contents><Key>other/a</Key></Contents>"), None),
        (LISTED % (b"false", ENTRY % b"a&amp;b"), None),
        (LISTED % (b"false", b"<Contents></Contents>"), None),
        (LISTED % (b"false", ENTRY % b"a" + b"<Key>runs/b</Key>"), None),
        (LISTED % (b"false", b"<Contents><Key>runs/a</Contents>"), None),
        (LISTED % (b"false", ENTRY % b"a" + b"<IsTruncated>true</IsTruncated>"), None),
        (ENTRY_FIRST, ("runs/a", "runs/b")),
        ((LISTED % (b"false", ENTRY % b"a"))[:-5], None),
        (b"<Error><Code>SlowDown</Code></Error>", None),
        (b"", None),
    ],
)
def test_a_page_is_a_whole_listing_or_none(data: bytes, keys: tuple[str, ...] | None) -> None:
    page = jobs.s3reads._page(data, "runs/")
    assert (None if page is None else page.keys) == keys


# -------------------------------------------------------------------------------------------------------- the way


def test_through_a_proxy_only_boto3_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://bucket.example/?list-type=2"
    assert signed_reads(url, SIGNED, lambda: CREDENTIALS, "", 5) is not None
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    assert signed_reads(url, SIGNED, lambda: CREDENTIALS, "", 5) is None
    monkeypatch.setenv("no_proxy", "bucket.example")
    assert signed_reads(url, SIGNED, lambda: CREDENTIALS, "", 5) is not None


@pytest.mark.parametrize("signed", ["", "AWS KEY:signature", "Bearer token", SIGNED.replace("AWS4-HMAC", "AWS4-ECDSA")])
def test_what_is_signed_in_another_way_only_boto3_reads(signed: str) -> None:
    assert signed_reads("http://bucket.example/?list-type=2", signed, lambda: CREDENTIALS, "", 5) is None


def test_without_credentials_nothing_is_asked() -> None:
    reads = signed_reads("http://127.0.0.1:9/?list-type=2", SIGNED, lambda: None, "", 5)
    assert reads is not None
    assert reads.get("runs/x", 100) is None


@pytest.mark.parametrize("fault", ["500", "503", "reset before", "reset after", "truncated", "xml"])
def test_results_over_a_road_that_errs_are_all_read(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    results = [a_result(seed=seed) for seed in range(20)]
    for result in results:
        s3_server.client.put_object(Bucket=s3_bucket, Key=f"a/{result.key}", Body=result.to_bytes())
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        proxy.rates = {fault: 0.3}
        store = Store(open_objects(f"s3://{s3_bucket}/a", attempts=2), pauses=(0.0,) * 6)
        found = store.survey([a_cell()]).found[a_cell().digest]
        assert proxy.suffered
    assert found.results == {result.seed: result for result in results}
    assert found.damaged == ()


@pytest.fixture
def tls(s3_server: S3Server, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An endpoint with a certificate of its own, and the file that says whom to trust."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl makes the certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost "
        f"-keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    behind = urlsplit(s3_server.endpoint)
    with ExitStack() as ends:
        server = ends.enter_context(context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True))

        def pass_on(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(2**16):
                    target.sendall(data)
            with suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except ssl.SSLError:  # a client that does not trust the certificate
                    continue
                except OSError:
                    return
                other = socket.create_connection((behind.hostname, behind.port))
                for each in (client, other):
                    ends.callback(each.close)
                for pair in ((client, other), (other, client)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://localhost:{server.getsockname()[1]}", certificate
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_certificate_is_checked_as_boto3_checks_it(
    s3_bucket: str, tls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    endpoint, trusted = tls
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    for other in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    with pytest.raises(TransientError, match="SSLError"):
        bare(s3_bucket)
    strange = signed_reads(f"{endpoint}/{s3_bucket}", SIGNED, lambda: CREDENTIALS, str(get_cert_path(True)), 5)
    assert strange is not None
    assert strange.get("a/prefix/runs/x", 100) is None
    monkeypatch.setenv(name, str(trusted))
    objects = bare(s3_bucket)
    objects.put("runs/x", b"body")
    reads = reads_of(objects)
    for _ in range(3):
        assert reads.get("a/prefix/runs/x", 100) == b"body"
        (road,) = reads._idle
        assert reads._is_silent(road)
