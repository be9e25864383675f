"""A store without a disk, and snapshots that say what they are told to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from jobs.snapshots import PREFIX, packed
from jobs.store import Store


class Memory:
    """A backend without a disk; `happens` is called with each action before it, and after it with `done`."""

    url = "memory:"

    def __init__(self, held: dict[str, bytes] | None = None) -> None:
        self.held = {} if held is None else held
        self.actions: list[tuple[str, str]] = []
        self.happens: Callable[[str, str, bool], None] = lambda action, key, done: None

    def describe(self) -> str:
        return self.url

    def put(self, key: str, data: bytes) -> None:
        with self._around("put", key):
            self.held[key] = data

    def get(self, key: str) -> bytes | None:
        with self._around("get", key):
            return self.held.get(key)

    def keys(self, prefix: str) -> Iterator[str]:
        with self._around("keys", prefix):
            listed = [key for key in list(self.held) if key.startswith(prefix)]
        yield from listed

    def delete(self, key: str) -> None:
        with self._around("delete", key):
            self.held.pop(key, None)

    def _around(self, action: str, key: str) -> _Around:
        return _Around(self, action, key)

    def of(self, prefix: str) -> set[str]:
        return {key for key in self.held if key.startswith(prefix)}


class _Around:
    def __init__(self, memory: Memory, action: str, key: str) -> None:
        self.memory, self.action, self.key = memory, action, key

    def __enter__(self) -> None:
        self.memory.actions.append((self.action, self.key))
        self.memory.happens(self.action, self.key, False)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.memory.happens(self.action, self.key, True)


def store_of(memory: Memory) -> Store:
    return Store(memory, pauses=(0.0, 0.0))


def snapshot(rows: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Key and bytes of a snapshot that says that these keys hold these bodies."""
    data, count = packed(rows)
    return f"{PREFIX}{hashlib.sha256(data).hexdigest()}.{count}.parquet", data
