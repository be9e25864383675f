"""From a store's URL to the backend that it names.

Law: pure reading of text; neither disk nor network is touched, and a password in a URL is never shown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from jobs.errors import ConfigurationError
from jobs.objects import FileObjects, Objects
from jobs.s3 import ATTEMPTS, S3Objects

ALLOWED: Final = "s3://bucket/prefix, file:///absolute/path"

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_PREFIX: Final = re.compile(r"[\w.=+@!,-]+(/[\w.=+@!,-]+)*", re.ASCII)


def open_objects(url: str, *, attempts: int = ATTEMPTS) -> Objects:
    """The backend that `url` names. Touches neither disk nor network.

    Args:
        url: `file:///absolute/path` (percent escapes are decoded) or `s3://bucket/prefix` (the prefix may be empty).
        attempts: how often one request to a bucket is tried before it counts as failed.

    Raises:
        ConfigurationError: `url` is neither.
    """
    if (path := _folder(url)) is not None:
        return FileObjects(path)
    if (place := _bucket(url)) is not None:
        return S3Objects(*place, attempts=attempts)
    remedy = None
    if "://" not in url and url:
        remedy = f"a folder of this machine is {Path(url).absolute().as_uri()}"
    # What stands before an @ may be a password.
    got = re.sub(r"//[^/]*@", "//***@", url)
    raise ConfigurationError("not the URL of a store", got=repr(got), allowed=ALLOWED, remedy=remedy)


def is_store(url: str) -> bool:
    """Whether `open_objects` takes this URL."""
    return _folder(url) is not None or _bucket(url) is not None


def _folder(url: str) -> Path | None:
    if not url.startswith("file:///"):
        return None
    path = Path(unquote(url.removeprefix("file://")))
    return path if path != Path("/") and ".." not in path.parts and str(path).isprintable() else None


def _bucket(url: str) -> tuple[str, str] | None:
    """Bucket and prefix."""
    if not url.startswith("s3://"):
        return None
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    sound = not prefix or (_PREFIX.fullmatch(prefix) and not {".", ".."} & {*prefix.split("/")})
    return (bucket, prefix) if sound and _BUCKET.fullmatch(bucket) else None
