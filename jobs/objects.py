"""Where bytes are kept under keys: a folder here, a bucket in `jobs.s3`.

Law: a backend answers or raises. `get` says None only for a proven absence; whatever is inconclusive is a
`TransientError`, whatever waiting cannot mend a `ConfigurationError`. It knows nothing of results.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from jobs.errors import ConfigurationError, ReinitError, SpecError, TransientError

MOST_BYTES: Final = {
    "runs": 2**20,
    "failures": 2**20,
    "checks": 2**20,
    "logs": 2**24,
    "snapshots": 2**27,
    "tokens": 2**28,
}
"""Largest objects of these kinds that are read: what is larger is no such object, and might not fit into memory."""

DELETABLE: Final = ("checkpoints/", "snapshots/")
"""A run that is half done, and copies of results."""

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}(/[A-Za-z0-9][A-Za-z0-9._-]{0,254})*")


class NoObjectError(ConfigurationError):
    """What stands under a key is nothing that a store keeps: a folder, a pipe, a link out of the store, a huge file."""


class Objects(Protocol):
    """Bytes under keys. Safe to use from several threads."""

    @property
    def url(self) -> str:
        """Where, as `open_objects` takes it."""
        ...

    def describe(self) -> str:
        """Where and as whom, for messages; no secrets."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store `data`, whole or not at all. A success is a claim: `Store` reads back.

        Raises:
            TransientError: it may or may not have been stored.
            ConfigurationError: this store refuses, and will again.
        """
        ...

    def get(self, key: str) -> bytes | None:
        """The bytes under `key`, None where there is proven to be none.

        Raises:
            TransientError: inconclusive.
            NoObjectError: what is there is no object.
            ConfigurationError: this store refuses, and will again.
        """
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key below the folder `prefix`, which ends in a slash, in any order.

        Raises:
            TransientError: inconclusive; what was yielded before may not be all.
            ConfigurationError: this store refuses, and will again.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove what is under `key`, if there is anything. Of few kinds only: see `check_deletable`.

        Raises:
            TransientError: it may or may not be there still.
            ConfigurationError: this store refuses, and will again.
        """
        ...


def check_key(key: str) -> str:
    """`key`, if it is one: parts of letters, digits, `.`, `_`, `-`, none of which begins with a dot.

    Raises:
        SpecError: it is not; a key that could leave the store's root never reaches a backend.
    """
    if not _KEY.fullmatch(key):
        raise SpecError(
            "not a key of a store",
            got=repr(key)[:200],
            allowed="letters, digits and . _ - in parts divided by /, each part beginning with a letter or digit",
        )
    return key


def check_size(key: str, size: int, where: str) -> None:
    """Refuse to read what is larger than any object of its kind.

    Raises:
        NoObjectError: it is.
    """
    most = MOST_BYTES.get(key.partition("/")[0])
    if most is not None and size > most:
        raise NoObjectError(f"it is too large: {size:,} bytes", where=where, expected=f"at most {most:,} bytes")


def check_deletable(key: str) -> str:
    """`key`, if what is under it may ever be deleted: results, predictions, failures and logs stay for good.

    Raises:
        SpecError: it is no key of a checkpoint or a snapshot.
    """
    if not check_key(key).startswith(DELETABLE):
        raise SpecError(
            "nothing but checkpoints and snapshots is ever deleted",
            got=repr(key)[:200],
            allowed=", ".join(f"{folder}..." for folder in DELETABLE),
        )
    return key


# What a retry may mend: a full disk, a server that is away. Everything else the system says about a path stays so.
_PASSING: Final = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC}
    | {errno.ENOLCK, errno.ENOMEM, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT}
)


class FileObjects:
    """A folder, made when first written to. Files whose name begins with a dot are not objects."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        """`file:///absolute/path`."""
        return self.root.as_uri()

    def describe(self) -> str:
        """The folder and the user."""
        return f"{self.url} as user {os.geteuid()}"

    def put(self, key: str, data: bytes) -> None:
        """Write beside the target, flush to the disk, rename: a reader sees all of `data` or none."""
        path = self._path(key)
        with self._translated(path, "written"):
            self._stay_inside(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{os.getpid()}.{secrets.token_hex(8)}")
            try:
                with beside.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(path)
            except BaseException:
                with suppress(OSError):
                    beside.unlink(missing_ok=True)
                raise
            _flush_folder(path.parent)

    def get(self, key: str) -> bytes | None:
        """The file's bytes, None where there is no such file."""
        path = self._path(key)
        with self._translated(path, "read"):
            self._stay_inside(path)
            try:
                # A pipe would be waited for, for ever.
                status = path.stat()
                if not stat.S_ISREG(status.st_mode):
                    raise NoObjectError("it is no file", where=str(path), got=stat.filemode(status.st_mode))
                check_size(key, status.st_size, str(path))
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def keys(self, prefix: str) -> Iterator[str]:
        """Every file below the folder, links to folders not followed."""
        folder = self._path(prefix.rstrip("/"))
        with self._translated(folder, "listed"):
            self._stay_inside(folder)
            yield from self._walk(folder)

    def delete(self, key: str) -> None:
        """Unlink the file; folders stay, since another process may be about to write there."""
        path = self._path(check_deletable(key))
        with self._translated(path, "deleted"):
            self._stay_inside(path)
            path.unlink(missing_ok=True)

    def _walk(self, folder: Path) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path))
            else:
                yield Path(entry.path).relative_to(self.root).as_posix()

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _stay_inside(self, path: Path) -> None:
        """Refuse a link that leads out of the root; the root itself may be one."""
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise NoObjectError(
                "a link leads out of the store",
                where=str(path),
                expected=f"a place below {self.root.resolve()}",
                got=path.resolve(),
                remedy="remove the link, or name the place it leads to as the store",
            )

    @contextmanager
    def _translated(self, path: Path, verb: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # RuntimeError: resolve() in a loop of links
            number = error.errno if isinstance(error, OSError) else errno.ELOOP
            kind: type[ReinitError] = NoObjectError if number == errno.ELOOP else ConfigurationError
            if number in _PASSING:
                kind = TransientError
            raise kind(
                f"the store's folder cannot be {verb}",
                where=str(path),
                got=getattr(error, "strerror", None) or str(error),
                expected=f"a folder {self.root} that user {os.geteuid()} may write, with space left",
                remedy="run `reinit doctor --store URL` where this ran, with the same user and mounts",
            ) from error


def _flush_folder(folder: Path) -> None:
    """Make a rename outlive a power cut; some network file systems cannot, and are not worse for it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
