"""`SignedReads`: GET and LIST of a bucket with little work for each, the way boto3 was seen to ask.

Law: an answer is given only where all is plain: status 200, whole, and of the form that was asked for. Anything else is
no answer, whatever it means, and the same question goes to boto3, which knows redirects, refusals, other credentials
and when to repeat. So nothing here decides that an object is absent, or that a server refuses.

boto3 spends most of a millisecond on a request; 100,000 small objects are then minutes of a processor.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import ssl
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import quote, unquote_plus, urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

NOTHING: Final = hashlib.sha256(b"").hexdigest()
MOST_PAGE_BYTES: Final = 2**23
MOST_LINE_BYTES: Final = 2**14
MOST_LINES: Final = 100
"""Of the head of an answer."""
SHARDS: Final = 8
"""Parts of a listing that are asked for at a time."""
GIVE_UP: Final = 3
"""Failures one after another, after which no more is tried here: something is not as it was seen."""

_SCOPE: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/[0-9]{8}/([^/]+)/([^/]+)/aws4_request,.*")
_BETWEEN: Final = "~"
"""After a digit: later than any digest that begins with it, and no key's beginning. SeaweedFS leaves out what is in a
folder that a listing is to begin after."""
_LENGTHS: Final = (b"content-length", b"transfer-encoding")
_ENCODED: Final = b"<EncodingType>url</EncodingType>"
_TOKEN: Final = re.compile(rb"<NextContinuationToken>([^<&]+)</NextContinuationToken>")
_TRUNCATED: Final = re.compile(rb"<IsTruncated>(true|false)</IsTruncated>")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing."""

    keys: tuple[str, ...]
    token: str
    """What continues it; empty at the end."""


@dataclass(frozen=True, slots=True)
class _Road:
    """An open connection, and what comes back on it."""

    sock: socket.socket
    answers: BufferedReader

    def close(self) -> None:
        self.answers.close()
        self.sock.close()


class SignedReads:
    """Connections to one bucket, for use from several threads.

    Args:
        url: of a listing of the bucket, as boto3 asked for it.
        scope: region and service that it was signed for.
        credentials: what signs; asked for each time, so that rotated ones are taken up.
        context: of TLS; None for a plain connection.
        seconds: to wait for a part of an answer.
    """

    def __init__(
        self,
        url: str,
        scope: tuple[str, str],
        credentials: Callable[[], ReadOnlyCredentials | None],
        context: ssl.SSLContext | None,
        seconds: float,
    ) -> None:
        parts = urlsplit(url)
        self._host, self._bucket = parts.netloc, parts.path.rstrip("/")
        self._scope, self._credentials = scope, credentials
        self._context, self._seconds = context, seconds
        self._signing: tuple[tuple[str, str], bytes] | None = None
        self._failures = 0
        self._idle: deque[_Road] = deque()
        weakref.finalize(self, _close, self._idle)

    @property
    def has_given_up(self) -> bool:
        """Whether so much went wrong that nothing is asked any more."""
        return self._failures >= GIVE_UP

    def get(self, key: str, most_bytes: int) -> bytes | None:
        """The object's bytes, or no answer."""
        return self._ask(f"{self._bucket}/{quote(key, safe='/-_.~')}", {}, most_bytes)

    def page(self, prefix: str, keys: int, *, after: str = "", token: str = "") -> Page | None:
        """At most so many keys below `prefix`: the first, or from after a name or where a page ended; or no answer."""
        query = {"encoding-type": "url", "list-type": "2", "max-keys": str(keys), "prefix": prefix}
        query |= {"continuation-token": token} if token else {"start-after": after} if after else {}
        data = self._ask(self._bucket or "/", query, MOST_PAGE_BYTES)
        return None if data is None else _page(data, prefix)

    def _ask(self, path: str, query: dict[str, str], most_bytes: int) -> bytes | None:
        if self.has_given_up or (credentials := self._credentials()) is None:
            return None
        encoded = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
        lines = (f"{name}: {value}\r\n" for name, value in self._headers(path, encoded, credentials).items())
        target = f"{path}?{encoded}" if encoded else path
        request = f"GET {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("ascii")
        data = None
        with suppress(OSError, ValueError):
            while (road := self._rested()) is not None:
                # A server closes what has been idle for long: then there is no answer at all.
                with suppress(ConnectionError):
                    data = self._over(road, request, most_bytes)
                    break
            else:
                data = self._over(self._road(), request, most_bytes)
        self._failures = self._failures + 1 if data is None else 0
        return data

    def _over(self, road: _Road, request: bytes, most_bytes: int) -> bytes | None:
        """The answer, and where it is one, the connection among those for the next; else it is closed."""
        data = None
        try:
            road.sock.sendall(request)
            data = _whole(road.answers, most_bytes)
        finally:
            if data is None:
                road.close()
            else:
                self._idle.append(road)
        return data

    def _rested(self) -> _Road | None:
        """An idle connection, if there is one on which nothing came unasked: that would pass for the next answer."""
        # Whether one is left may change between two looks: there are other threads.
        with suppress(IndexError):
            while not self._is_silent(road := self._idle.pop()):
                road.close()
            return road
        return None

    def _is_silent(self, road: _Road) -> bool:
        road.sock.settimeout(0)
        try:
            return not road.answers.peek(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        finally:
            road.sock.settimeout(self._seconds)

    def _road(self) -> _Road:
        """A new connection."""
        host, _, port = self._host.partition(":")
        sock = socket.create_connection((host, int(port or (443 if self._context else 80))), self._seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            try:
                sock = self._context.wrap_socket(sock, server_hostname=host)
            except BaseException:
                sock.close()
                raise
        return _Road(sock, sock.makefile("rb"))

    def _headers(self, path: str, query: str, credentials: ReadOnlyCredentials) -> dict[str, str]:
        """AWS Signature Version 4: docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html."""
        now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        headers = {"host": self._host, "x-amz-content-sha256": NOTHING, "x-amz-date": now}
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        signed = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = hashlib.sha256(f"GET\n{path}\n{query}\n{lines}\n{signed}\n{NOTHING}".encode()).hexdigest()
        scope = f"{now[:8]}/{self._scope[0]}/{self._scope[1]}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{request}"
        signature = hmac.new(
            self._signing_key(credentials.secret_key or "", now[:8]), text.encode(), "sha256"
        ).hexdigest()
        by = f"Credential={credentials.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        return headers | {"authorization": f"AWS4-HMAC-SHA256 {by}"}

    def _signing_key(self, secret: str, day: str) -> bytes:
        known = self._signing
        if known is None or known[0] != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, *self._scope, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._signing = known = ((secret, day), key)
        return known[1]


def signed_reads(
    url: str,
    authorization: str | bytes,
    credentials: Callable[[], ReadOnlyCredentials | None],
    authorities: str,
    seconds: float,
) -> SignedReads | None:
    """What reads as boto3 did; None where it asked in a way that is not known here, or through a proxy.

    Args:
        url: of a listing, as boto3 sent it.
        authorization: its header of that name.
        credentials, seconds: as for `SignedReads`.
        authorities: file of those that a server's certificate is checked by.
    """
    scope = _SCOPE.fullmatch(authorization.decode() if isinstance(authorization, bytes) else authorization)
    parts = urlsplit(url)
    if scope is None or parts.scheme not in ("http", "https") or "%" in parts.path:
        return None
    if parts.scheme in getproxies() and not proxy_bypass(parts.netloc):
        return None
    context = None
    if parts.scheme == "https":
        try:
            context = ssl.create_default_context(cafile=authorities)
        except OSError:
            return None
    return SignedReads(url, (scope[1], scope[2]), credentials, context, seconds)


def in_shards(reads: SignedReads, below: str, first: list[str], page_keys: int) -> list[str] | None:
    """All keys below `below` that come after the first page's, in order, by listings of several parts at a time.

    Results are spread evenly over the first digit of their cell's digest. None where a part could not be read, or where
    the server does not begin a listing after what it is asked to.
    """

    def page(after: str, token: str = "") -> Page | None:
        found = reads.page(below, page_keys, after=after, token=token)
        found = found or reads.page(below, page_keys, after=after, token=token)
        return found if found is not None and _ascend([after, *found.keys]) else None

    def shard(lower: str, upper: str | None) -> list[str] | None:
        keys: list[str] = []
        found = page(lower)
        while found is not None:
            keys += found.keys if upper is None else found.keys[: bisect_right(found.keys, upper)]
            if not found.token or (upper is not None and found.keys[-1] > upper):
                return keys
            # By its token, not by its last key: that may be a folder's name, too.
            found = page(found.keys[-1], found.token)
        return None

    if not _ascend(first):
        return None
    # A part of the first page again, from a place between its keys, such as those where shards meet.
    middle = first[len(first) // 2][: len(below) + 8] + _BETWEEN
    known = [key for key in first if key > middle]
    if known and ((again := page(middle)) is None or list(again.keys[: len(known)]) != known):
        return None
    edges = [below + digit + _BETWEEN for digit in "0123456789abcdef"]
    starts = [first[-1], *(edge for edge in edges if edge > first[-1])]
    with ThreadPoolExecutor(SHARDS) as pool:
        parts = list(pool.map(shard, starts, [*starts[1:], None]))
    whole = [part for part in parts if part is not None]
    return list(chain.from_iterable(whole)) if len(whole) == len(parts) else None


def _ascend(keys: list[str]) -> bool:
    """Whether each comes after the one before it."""
    return sorted(keys) == keys and len(set(keys)) == len(keys)


def _whole(answers: BinaryIO, most_bytes: int) -> bytes | None:
    """The body of the next answer, if that is a 200 whose end is known and after which another one can come."""
    status = answers.readline(MOST_LINE_BYTES)
    if not status:
        raise ConnectionError("closed")
    if not status.startswith(b"HTTP/1.1 200 "):
        return None
    said: dict[bytes, bytes] = {}
    while (line := answers.readline(MOST_LINE_BYTES)) != b"\r\n":
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not line.endswith(b"\r\n") or (name in _LENGTHS and name in said) or len(said) > MOST_LINES:
            return None
        said[name] = value.strip().lower()
    # A Content-Encoding is what a writer said of its bytes, often aws-chunked: boto3 hands them over as they are, too.
    if said.get(b"connection", b"keep-alive") != b"keep-alive":
        return None
    if b"transfer-encoding" in said:
        is_chunked = said[b"transfer-encoding"] == b"chunked" and b"content-length" not in said
        return _chunks(answers, most_bytes) if is_chunked else None
    length = said.get(b"content-length", b"")
    if not length.isdigit() or int(length) > most_bytes:
        return None
    data = answers.read(int(length))
    return data if len(data) == int(length) else None


def _chunks(answers: BinaryIO, most_bytes: int) -> bytes | None:
    """A body in chunks, after the last of which comes nothing."""
    data = bytearray()
    while size := int(answers.readline(MOST_LINE_BYTES), 16):
        if size < 0 or len(data) + size > most_bytes:
            return None
        data += answers.read(size)
        if answers.read(2) != b"\r\n":
            return None
    return bytes(data) if answers.readline(MOST_LINE_BYTES) == b"\r\n" else None


def _page(data: bytes, prefix: str) -> Page | None:
    if b"<ListBucketResult" not in data[:300] or not data.rstrip().endswith(b"</ListBucketResult>"):
        return None
    head, *entries = data.split(b"<Key>")
    around = head + b"".join(entries[-1:])
    truncated, tokens = _TRUNCATED.findall(around), _TOKEN.findall(around)
    text = b"\n".join([entry.partition(b"</Key>")[0] for entry in entries])
    if len(truncated) != 1 or len(entries) != data.count(b"<Contents>") or b"<" in text or b"&" in text:
        return None
    # A server that does not say that names are encoded may have sent them as they are.
    if text.count(b"\n") >= max(len(entries), 1) or (_ENCODED not in around and (b"%" in text or b"+" in text)):
        return None
    names = text.replace(b"%2F", b"/").decode()
    keys = names.split("\n") if entries else []
    if "%" in names or "+" in names:
        keys = [unquote_plus(key) for key in keys]
    # Between two names that begin with it are none that do not.
    if keys and not (min(keys).startswith(prefix) and max(keys).startswith(prefix)):
        return None
    if truncated == [b"false"]:
        return Page(tuple(keys), "")
    return Page(tuple(keys), tokens[0].decode()) if keys and len(tokens) == 1 else None


def _close(roads: deque[_Road]) -> None:
    for road in roads:
        road.close()
