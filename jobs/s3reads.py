"""`SignedReads`: GET and LIST of a bucket with little work for each, the way boto3 was seen to ask.

Law: an answer is given only where all is plain: status 200, whole, and of the form that was asked for. Anything else is
no answer, whatever it means, and the same question goes to boto3, which knows redirects, refusals, other credentials
and when to repeat. So nothing here decides that an object is absent, or that a server refuses.

boto3 spends most of a millisecond on a request; 100,000 small objects are then minutes of a processor.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import re
import ssl
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote_plus, urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

NOTHING: Final = hashlib.sha256(b"").hexdigest()
MOST_PAGE_BYTES: Final = 2**23
SHARDS: Final = 8
"""Parts of a listing that are asked for at a time."""
GIVE_UP: Final = 3
"""Failures one after another, after which no more is tried here: something is not as it was seen."""

_SCOPE: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/[0-9]{8}/([^/]+)/([^/]+)/aws4_request,.*")
_BETWEEN: Final = "~"
"""After a digit: later than any digest that begins with it, and no key's beginning. SeaweedFS leaves out what is in a
folder that a listing is to begin after."""
_TRUNCATED: Final = re.compile(rb"<IsTruncated>(true|false)</IsTruncated>")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing."""

    keys: tuple[str, ...]
    is_last: bool


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
        self._idle: deque[http.client.HTTPConnection] = deque()
        weakref.finalize(self, _close, self._idle)

    @property
    def has_given_up(self) -> bool:
        """Whether so much went wrong that nothing is asked any more."""
        return self._failures >= GIVE_UP

    def get(self, key: str, most_bytes: int) -> bytes | None:
        """The object's bytes, or no answer."""
        return self._ask(f"{self._bucket}/{quote(key, safe='/-_.~')}", {}, most_bytes)

    def page(self, prefix: str, after: str, keys: int) -> Page | None:
        """At most so many keys below `prefix` that come after `after`, or no answer."""
        query = {"encoding-type": "url", "list-type": "2", "max-keys": str(keys), "prefix": prefix}
        data = self._ask(self._bucket or "/", query | {"start-after": after}, MOST_PAGE_BYTES)
        return None if data is None else _page(data, prefix)

    def _ask(self, path: str, query: dict[str, str], most_bytes: int) -> bytes | None:
        if self.has_given_up or (credentials := self._credentials()) is None:
            return None
        encoded = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connection()
        try:
            connection.putrequest("GET", f"{path}?{encoded}" if encoded else path, skip_host=True)
            for name, value in self._headers(path, encoded, credentials).items():
                connection.putheader(name, value)
            connection.endheaders()
            data = _whole(connection.getresponse(), most_bytes)
        except (http.client.HTTPException, OSError, ValueError):
            data = None
        if data is None:
            connection.close()
            self._failures += 1
            return None
        self._failures = 0
        self._idle.append(connection)
        return data

    def _connection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, timeout=self._seconds)
        return http.client.HTTPSConnection(self._host, timeout=self._seconds, context=self._context)

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

    def page(after: str) -> Page | None:
        found = reads.page(below, after, page_keys) or reads.page(below, after, page_keys)
        is_ordered = found is not None and all(one < next_ for one, next_ in pairwise((after, *found.keys)))
        return found if is_ordered else None

    def shard(after: str, upper: str | None) -> list[str] | None:
        keys: list[str] = []
        while (found := page(after)) is not None:
            keys += found.keys if upper is None else [key for key in found.keys if key <= upper]
            if found.is_last or (upper is not None and found.keys[-1] > upper):
                return keys
            after = found.keys[-1]
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


def _whole(answer: http.client.HTTPResponse, most_bytes: int) -> bytes | None:
    """The body, where its end is known: by its length or by chunks."""
    length = answer.length
    is_known = answer.chunked or length is not None
    if answer.status != http.client.OK or not is_known or answer.headers.get("content-encoding") or answer.will_close:
        return None
    if length is not None and length > most_bytes:
        return None
    data = answer.read(most_bytes + 1) if answer.chunked else answer.read()
    return data if len(data) <= most_bytes and answer.isclosed() else None


def _page(data: bytes, prefix: str) -> Page | None:
    truncated = _TRUNCATED.findall(data)
    found = re.findall(rb"<Key>([^<&]*)</Key>", data)
    is_listing = b"<ListBucketResult" in data[:300] and data.rstrip().endswith(b"</ListBucketResult>")
    if not is_listing or len(truncated) != 1 or len(found) != data.count(b"<Contents>"):
        return None
    text = b"\n".join(found).replace(b"%2F", b"/").decode()
    keys = text.split("\n") if found else []
    if "%" in text or "+" in text:
        keys = [unquote_plus(key) for key in keys]
    if not all(key.startswith(prefix) for key in keys) or (truncated == [b"true"] and not keys):
        return None
    return Page(tuple(keys), truncated == [b"false"])


def _close(connections: deque[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()
