"""`PatientObjects`: objects that are written until they read back, and read until they give one answer.

Law: a server may say 200 and keep nothing, or half, or answer with an error page for an object. So a write is done when
the same bytes came back, a failed read is repeated, then raised, and never means "absent", and the same wrong bytes
twice are damage, which is a value here and not an error. A page of XML or HTML is a server's voice, which says the same
each time: that is damage when it has been all that was heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from jobs.errors import ConfigurationError, SpecError, TransientError
from jobs.found import Damaged, NotVerifiedError, is_page
from jobs.objects import NoObjectError, Objects, check_key

K = TypeVar("K")
T = TypeVar("T")

PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds between the tries of one read or write, on top of what a backend repeats by itself."""

GIVE_UP_SECONDS: Final = 30
"""What has been failing for this long is not repeated: a backend has repeated it many times then."""

THREADS: Final = 16
"""Reads at a time."""


class PatientObjects:
    """A backend with the patience that its users need; `pauses` are the seconds between the tries of one action."""

    def __init__(self, objects: Objects, pauses: tuple[float, ...] = PAUSES) -> None:
        self._objects = objects
        self._pauses = pauses

    @property
    def url(self) -> str:
        """Where."""
        return self._objects.url

    def describe(self) -> str:
        """Where and as whom."""
        return self._objects.describe()

    def write(self, key: str, data: bytes) -> str:
        """Put and read back until the bytes are there; returns `key`.

        Raises:
            TransientError: the last try failed, or did not read back.
            ConfigurationError: the store refuses, and will again.
        """
        began = time.monotonic()
        for tries, pause in enumerate((*self._pauses, None), 1):
            is_last = pause is None or time.monotonic() - began > GIVE_UP_SECONDS
            try:
                self._objects.put(key, data)
                read = self._objects.get(key)
            except TransientError:
                if is_last:
                    raise
            else:
                if read == data:
                    return key
                if is_last:
                    raise TransientError(
                        f"an object was written {tries} times and does not read back",
                        where=f"{self.url}/{key}",
                        expected=f"{len(data)} bytes, as written, from {self.describe()}",
                        got=size(read),
                    )
            time.sleep(pause or 0)
        raise AssertionError("the last pass returns or raises")

    def write_once(self, key: str, data: bytes) -> str:
        """Write under a key `kind/digest/name`, which carries no hash of the bytes: never over other bytes.

        Raises:
            SpecError: the name cannot be part of a key.
            ConfigurationError: other bytes are there, or the store refuses.
            TransientError: as in `write`.
        """
        if key.count("/") != 2:
            raise SpecError("not a key of a store", got=repr(key)[:200], allowed="an attempt's name without a slash")
        there = self.get(check_key(key))
        if there not in (None, data):
            raise ConfigurationError(
                "another attempt has the same name",
                where=f"{self.url}/{key}",
                expected="no such object yet",
                got=size(there),
                remedy="give each attempt a name of its own, such as the pod's",
            )
        return self.write(key, data)

    def read(self, key: str, parse: Callable[[str, bytes], T]) -> T | Damaged:
        """What `parse` makes of an object. The same wrong bytes again are damage; changing ones are the transport's.

        Raises:
            TransientError: every read was wrong in another way.
        """
        try:
            check_key(key)
        except SpecError as error:
            return Damaged(key, error.problem)
        wrong: list[bytes | None] = []
        reason = ""
        for pause in (*self._pauses, None):
            try:
                data = self.get(key)
            except NoObjectError as error:
                return Damaged(key, error.problem)
            try:
                if data is None:
                    raise NotVerifiedError("it is not there")
                return parse(key, data)
            except NotVerifiedError as error:
                reason = str(error)
            wrong.append(data)
            again = len(self._pauses) + 1 if is_page(data) else 2
            if len(wrong) >= again and set(wrong[-again:]) == {data}:
                return Damaged(key, reason)
            if pause is not None:
                time.sleep(pause)
        raise TransientError(
            "an object reads differently each time",
            where=f"{self.url}/{key}",
            expected=f"one answer from {self.describe()}",
            got=reason,
        )

    def get(self, key: str) -> bytes | None:
        """The bytes under `key`, None where there is proven to be none.

        Raises:
            TransientError: inconclusive, repeatedly.
            ConfigurationError: the store refuses.
        """
        return self._patiently(lambda: self._objects.get(key))

    def keys(self, prefix: str) -> list[str]:
        """All keys below `prefix`, sorted; a listing that breaks off is begun again."""
        return self._patiently(lambda: list(dict.fromkeys(sorted(self._objects.keys(prefix)))))

    def delete(self, key: str) -> None:
        """Remove an object of a checkpoint, or a snapshot, if it is there.

        Raises:
            TransientError: inconclusive, repeatedly.
            ConfigurationError: the store refuses.
        """
        self._patiently(lambda: self._objects.delete(key))

    def _patiently(self, read: Callable[[], T]) -> T:
        began = time.monotonic()
        for pause in self._pauses:
            try:
                return read()
            except TransientError:
                if time.monotonic() - began > GIVE_UP_SECONDS:
                    raise
                time.sleep(pause)
        return read()


def in_parallel(read: Callable[[K], T], keys: Iterable[K]) -> list[T]:
    """What `read` gives for each key, in order; the first error is raised without waiting for the reads not begun."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        return list(pool.map(read, keys))
    finally:
        pool.shutdown(cancel_futures=True)


def size(data: bytes | None) -> str:
    """An object in an error message."""
    return "no object" if data is None else f"{len(data)} bytes: {data[:60]!r}"
