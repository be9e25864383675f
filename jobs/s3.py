"""A bucket as a place for objects: any server that speaks S3, through boto3, which is loaded at the first request.

Law: boto3 repeats what it knows to repeat (`standard` mode); every other failure gets a class here. A 404 is an absence
only as `NoSuchKey`; a refusal names whose identity was used and never a secret. Credentials that were rotated, in their
file or at whatever else provides them, are taken up by a process that runs: once for each refusal that they may mend.

Read from the environment, besides what boto3 reads by itself (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_PROFILE, ...):
    REINIT_S3_CHECKSUMS   when_supported (default) or when_required, which some servers other than AWS need
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Final, Literal, TypeVar, cast

from jobs.errors import ConfigurationError, ReinitError, TransientError
from jobs.objects import MOST_BYTES, check_deletable, check_key, check_size
from jobs.s3reads import SignedReads, in_shards, signed_reads

if TYPE_CHECKING:
    from boto3 import Session
    from botocore.awsrequest import AWSPreparedRequest
    from botocore.credentials import ReadOnlyCredentials
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef, ListObjectsV2RequestTypeDef

Checksums = Literal["when_supported", "when_required"]
CHECKSUMS: Final = ("when_supported", "when_required")

T = TypeVar("T")

ATTEMPTS: Final = 6
"""Tries of one request. boto3 waits up to 1, 2, 4, 8, 16 s between them, drawn at random: long enough for a SlowDown to
pass. What lasts longer is for those with patience (`jobs.patient`, `jobs.outbox`), who also repeat what boto3 does not,
a body cut short or a false 200, and hear a signal in between."""

CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60
CONNECTIONS: Final = 32
PAGE_KEYS: Final = 1000
"""Keys of one LIST; no server gives more."""

REMEDIES: Final[dict[str, str]] = {
    "AccessDenied": "give this identity s3:PutObject, s3:GetObject and s3:ListBucket on the bucket and prefix",
    "ExpiredToken": "renew the session token",
    "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID, or AWS_ENDPOINT_URL_S3: keys belong to one server",
    "InvalidBucketName": "correct the bucket's name",
    "InvalidToken": "correct or unset AWS_SESSION_TOKEN",
    "MissingContentLength": "set REINIT_S3_CHECKSUMS=when_required",
    "NoSuchBucket": "create the bucket or correct its name; AWS_ENDPOINT_URL_S3 says whose buckets are meant",
    "NotImplemented": "set REINIT_S3_CHECKSUMS=when_required",
    "PermanentRedirect": "set AWS_REGION to the bucket's region",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the bucket's region",
    "RequestTimeTooSkewed": "set this machine's clock: it differs from the server's by more than the server allows",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY",
}
"""What to do about refusals that repeat themselves, by S3 error code; any other 401 or 403 does too."""

ROTATED: Final = frozenset(
    {
        "AccessDenied",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
"""Refusals that other credentials may mend: boto3 reads their file once, and Kubernetes renews a Secret's in place."""


class S3Objects:
    """The objects of a bucket whose keys begin with a prefix.

    Raises:
        ConfigurationError: REINIT_S3_CHECKSUMS is neither of its two values.
    """

    def __init__(self, bucket: str, prefix: str, *, attempts: int = ATTEMPTS) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self._attempts = attempts
        self._renewing = threading.Lock()
        self._reads: SignedReads | None = None
        self._authorities: str | None = None
        self._checksums = _checksums(os.environ.get("REINIT_S3_CHECKSUMS", "when_supported"))

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def describe(self) -> str:
        """Bucket, server, and as whom: the last four characters of the access key and what provided it."""
        return f"{self.url} at {_without_passwords(self._client.meta.endpoint_url)}, {self._identity()}"

    def put(self, key: str, data: bytes) -> None:
        """One PUT."""
        full = self.prefix + check_key(key)
        self._ask(key, "written", lambda client: client.put_object(Bucket=self.bucket, Key=full, Body=data))

    def get(self, key: str) -> bytes | None:
        """One GET; None only where the server says NoSuchKey."""
        full = self.prefix + check_key(key)
        # There are many of these, and the key holds the hash of what came.
        if key.startswith("runs/") and self._reads is not None:
            data = self._reads.get(full, MOST_BYTES["runs"])
            if data is not None:
                return data

        def read(client: S3Client) -> bytes | None:
            try:
                answer = client.get_object(Bucket=self.bucket, Key=full)
                check_size(key, answer["ContentLength"], f"{self.url}/{key}")
                return answer["Body"].read()
            except client.exceptions.NoSuchKey:
                return None

        return self._ask(key, "read", read)

    def keys(self, prefix: str) -> Iterator[str]:
        """One LIST a thousand keys; of more than that, several at a time. boto3 lists what cannot be plainly read."""
        seen = self._reads
        if seen is not None and (listed := self._listed(seen, self._below(prefix))) is not None:
            yield from listed
            return
        token = ""
        while True:
            page = self._page(prefix, token)
            # A console's "new folder" is an empty object whose key ends in a slash.
            names = [entry["Key"] for entry in page.get("Contents", ()) if not entry["Key"].endswith("/")]
            yield from (name.removeprefix(self.prefix) for name in names)
            if not page["IsTruncated"]:
                return
            if not token and names and self._reads is not None and self._reads is not seen:
                rest = in_shards(self._reads, self._below(prefix), names, PAGE_KEYS)
                if rest is not None:
                    yield from (name.removeprefix(self.prefix) for name in rest if not name.endswith("/"))
                    return
            if page.get("NextContinuationToken", "") in ("", token):
                raise TransientError(
                    "a listing does not go on", where=f"{self.url}/{prefix}", got="the same page again"
                )
            token = page["NextContinuationToken"]

    def _listed(self, reads: SignedReads, below: str) -> list[str] | None:
        """What boto3 would list; None where there is no plain answer, or nothing at all, which is for boto3 to say."""
        if not (first := reads.page(below, PAGE_KEYS)) or not first.keys:
            return None
        rest = in_shards(reads, below, list(first.keys), PAGE_KEYS) if first.token else []
        if rest is None:
            return None
        length = len(self.prefix)
        return [name[length:] for name in chain(first.keys, rest) if not name.endswith("/")]

    def delete(self, key: str) -> None:
        """One DELETE, which also succeeds where there is nothing. It takes s3:DeleteObject on what is deletable."""
        full = self.prefix + check_deletable(key)
        self._ask(key, "deleted", lambda client: client.delete_object(Bucket=self.bucket, Key=full))

    def _below(self, prefix: str) -> str:
        return self.prefix + check_key(prefix.rstrip("/")) + "/"

    def _page(self, prefix: str, token: str) -> ListObjectsV2OutputTypeDef:
        below = self._below(prefix)
        where: ListObjectsV2RequestTypeDef = {"Bucket": self.bucket, "Prefix": below, "MaxKeys": PAGE_KEYS}
        if token:
            where["ContinuationToken"] = token
        page = self._ask(prefix, "listed", lambda client: client.list_objects_v2(**where))
        # An error in the body of a 200 parses as a page without anything in it, which would read as "nothing done".
        if "IsTruncated" not in page or any(not entry["Key"].startswith(below) for entry in page.get("Contents", ())):
            raise TransientError(
                "the server's answer is not a listing", where=f"{self.url}/{prefix}", got=str(page)[:200]
            )
        return page

    def _ask(self, key: str, verb: str, request: Callable[[S3Client], T]) -> T:
        """A request's answer; one refused for credentials is made once more if there are others by now."""
        from botocore.exceptions import ClientError, NoCredentialsError

        with self._translated(key, verb):
            client = self._client
            try:
                return request(client)
            except (ClientError, NoCredentialsError) as error:
                before = None
                if isinstance(error, ClientError):
                    if error.response.get("Error", {}).get("Code", "") not in ROTATED:
                        raise
                    before = self._credentials()
                if not self._renewed(client, before):
                    raise
            return request(self._client)

    def _renewed(self, refused: S3Client, before: tuple[str, ReadOnlyCredentials] | None) -> bool:
        """Whether the client that was refused has been replaced by one with other credentials than before."""
        with self._renewing:
            if self._client is not refused:
                return True  # by another thread, a moment ago
            kept = {name: self.__dict__.pop(name) for name in ("_client", "_session")}
            if self._credentials() == before:
                self.__dict__ |= kept
                return False
            return True

    @cached_property
    def _session(self) -> Session:
        import boto3
        import botocore.session
        from botocore.exceptions import BotoCoreError

        try:
            inner = botocore.session.Session()
            self._authorities = inner.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
            return boto3.Session(botocore_session=inner)
        except BotoCoreError as error:
            raise _no_client(error) from error

    @cached_property
    def _client(self) -> S3Client:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config = Config(
            retries={"mode": "standard", "total_max_attempts": self._attempts},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=CONNECTIONS,
            request_checksum_calculation=self._checksums,
            response_checksum_validation=self._checksums,
        )
        try:
            client = self._session.client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise _no_client(error) from error
        client.meta.events.register("before-send.s3.ListObjectsV2", self._seen)
        return client

    def _seen(self, request: AWSPreparedRequest, **_: object) -> None:
        """Of a listing by boto3: where and how it asks, for reads to ask the same way."""
        if self._reads is not None and not self._reads.has_given_up:
            return
        from botocore.httpsession import get_cert_path

        self._reads = signed_reads(
            request.url,
            request.headers.get("Authorization", ""),
            lambda: None if (known := self._credentials()) is None else known[1],
            str(self._authorities or get_cert_path(True)),
            READ_SECONDS,
        )

    def _credentials(self) -> tuple[str, ReadOnlyCredentials] | None:
        """What provided the credentials, and they themselves; None where there are none to be had."""
        from botocore.exceptions import BotoCoreError

        try:
            credentials = self._session.get_credentials()
            return None if credentials is None else (credentials.method, credentials.get_frozen_credentials())
        except BotoCoreError:
            return None

    def _identity(self) -> str:
        if (known := self._credentials()) is None:
            return "without credentials"
        return f"as access key ending in {(known[1].access_key or '')[-4:]} from {known[0]}"

    @contextmanager
    def _translated(self, key: str, verb: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ClientError as error:
            raise self._refusal(error, key, verb) from error
        except (BotoCoreError, ResponseParserError, HTTPError, OSError) as error:
            raise self._breakdown(error, key, verb) from error

    def _refusal(self, error: ClientError, key: str, verb: str) -> ReinitError:
        """What the server's own error means."""
        said = error.response.get("Error", {})
        code, message = said.get("Code", ""), said.get("Message", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        lasting = code in REMEDIES or status in (401, 403)
        kind = ConfigurationError if lasting else TransientError
        return kind(
            f"an object cannot be {verb}: {code}",
            where=f"{self.url}/{key}",
            expected=f"an answer to this request {self.describe()}",
            got=self._without_secrets(f"{code} (status {status}): {message}"),
            remedy=REMEDIES.get(code, REMEDIES["AccessDenied"] if lasting else None),
        )

    def _breakdown(self, error: Exception, key: str, verb: str) -> ReinitError:
        """What it means that there was no whole answer, or no request."""
        from botocore import exceptions as known

        lasting = (
            known.ConfigParseError,
            known.InvalidConfigError,
            known.NoCredentialsError,
            known.ParamValidationError,
            known.PartialCredentialsError,
            known.ProfileNotFound,
            known.UnauthorizedSSOTokenError,
        )
        kind = ConfigurationError if isinstance(error, lasting) else TransientError
        return kind(
            f"an object cannot be {verb}: {type(error).__name__}",
            where=f"{self.url}/{key}",
            expected=f"an answer to this request {self.describe()}",
            got=self._without_secrets(str(error)),
            remedy=(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source that boto3 knows"
                if kind is ConfigurationError
                else "check AWS_ENDPOINT_URL_S3 and the way there; the same request may succeed later"
            ),
        )

    def _without_secrets(self, text: str) -> str:
        """300 characters on one line, without what a server or proxy may echo of a request's credentials."""
        if (known := self._credentials()) is not None:
            for secret in (known[1].secret_key, known[1].token, known[1].access_key):
                text = text.replace(secret, "***") if secret else text
        return _without_passwords(" ".join(text.split()))[:300]


def _no_client(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        "no S3 client can be made from this environment",
        got=_without_passwords(str(error)),
        remedy="correct AWS_ENDPOINT_URL_S3, AWS_REGION and AWS_PROFILE",
    )


def _without_passwords(text: str) -> str:
    return re.sub(r"//[^/\s]*@", "//***@", text)


def _checksums(value: str) -> Checksums:
    if value not in CHECKSUMS:
        raise ConfigurationError("REINIT_S3_CHECKSUMS is malformed", got=repr(value), allowed=", ".join(CHECKSUMS))
    return cast("Checksums", value)
