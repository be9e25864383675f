"""`TokenCache`: tokens of a task, from the store where somebody has made them, and to the store by whoever makes all.

Law: results never depend on it. The key of tokens is made of all that determines them: the task with the revision of
its rows, or their files' hash where a revision cannot be checked; every file of the model's folder that a tokeniser may
read; the length; the versions of the libraries that read rows and make tokens. What is damaged is named and passed
over, and a store that takes none costs nothing but the time that they would have saved.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol

from jobs.cell import canonical
from jobs.errors import ReinitError
from jobs.found import Damaged, NotVerifiedError
from jobs.tasks import Task
from jobs.tokens import TokenObjects
from reinit.data import file_sha256
from reinit.encoded import FORMAT, Encoded, decode, encode
from reinit.places import check_files
from reinit.tokens import TaskTokens

LIBRARIES: Final = ("datasets", "numpy", "pandas", "pyarrow", "tokenizers", "transformers")
"""Those that read rows, cut holdouts and make tokens."""


_WEIGHTS: Final = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot", ".gguf"}
)
"""Suffixes of files that no tokeniser reads."""


class Emit(Protocol):
    """`reinit.log.Log.emit`."""

    def __call__(self, event: str, message: str, **fields: object) -> None:
        """Say one event."""


def determined_by(task: Task, rows_from: str, tokeniser: Mapping[str, str], max_length: int) -> str:
    """sha256 in hex of all that determines a task's tokens.

    Args:
        task: says which rows, and how labels become classes.
        rows_from: the revision that the rows were checked against, or the hash of their files.
        tokeniser: sha256 of each file that a tokeniser may read, by name.
        max_length: most tokens of a row.
    """
    everything: dict[str, Any] = {
        "format": FORMAT,
        "task": task.model_dump(mode="json"),
        "rows_from": rows_from,
        "tokeniser": dict(tokeniser),
        "max_length": max_length,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }
    return hashlib.sha256(canonical(everything)).hexdigest()


def tokeniser_files(folder: Path) -> dict[str, str]:
    """sha256 of each file of a model's folder but its weights, by name: which of them a tokeniser reads is its affair.

    Raises:
        DataError: one is absurdly large.
    """
    check_files(folder)
    files = sorted(file for file in folder.iterdir() if file.suffix not in _WEIGHTS and file.is_file())
    return {file.name: file_sha256(file) for file in files}


class TokenCache:
    """Tokens in a store.

    Args:
        objects: where they are.
        emit: says what was found, what is passed over and what could not be kept.
        writes: whether this process keeps what it makes; of several ranks the first does.
    """

    def __init__(self, objects: TokenObjects, emit: Emit, *, writes: bool) -> None:
        self._objects = objects
        self._emit = emit
        self._writes = writes

    def find(self, key: str, task: Task, max_length: int, vocabulary: int) -> tuple[dict[str, Encoded], str] | None:
        """The splits, train first, and the rows' sha256; None where there is nothing that can be used."""
        try:
            for each in self._objects.find(key):
                if isinstance(each, Damaged):
                    self._ignored(each.key, each.reason)
                    continue
                name, data = each
                try:
                    found = decode(data, key, task, max_length, vocabulary)
                except NotVerifiedError as error:
                    self._ignored(name, str(error))
                    continue
                self._emit("tokens", f"the tokens of {task.name} are in the store: {len(data) / 1e6:.1f} MB", key=name)
                return found
        except ReinitError as error:
            # A site may allow results alone.
            self._emit("unread", f"no tokens were read from the store: {error}")
        return None

    def keep(self, key: str, tokens: TaskTokens) -> None:
        """Put all splits into the store. Nothing that goes wrong is raised."""
        if not self._writes:
            return
        task = tokens.task.name
        try:
            data = encode(tokens.splits, key, tokens.rows_sha256)
            name = self._objects.put(key, data)
        except ReinitError as error:
            # Rows that no run asks for may be what cannot be tokenised.
            self._emit("unkept", f"the tokens of {task} are not in the store: {error}")
        else:
            self._emit("tokens", f"the tokens of {task} were put into the store: {len(data) / 1e6:.1f} MB", key=name)

    def _ignored(self, key: str, reason: str) -> None:
        self._emit("ignored", f"tokens {key} are not used: {reason}", key=key)
