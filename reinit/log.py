"""What this process says: events for people and programs, its log's tail for the store, a last word for Kubernetes.

Law: listening never stands between a writer and `kubectl logs`: no pipe, no thread, no file. Python's own streams are
replaced by ones that also remember; what C code writes to the descriptors is in `kubectl logs` alone. No secret of the
environment leaves in an event, in what Python writes, in a tail or a last word.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO
from urllib.parse import quote

from jobs.result import now
from jobs.shown import SECRET_NAME, USER_IN_URL

TAIL_BYTES: Final = 64 * 1024
"""Most that a tail holds; a log of progress, warnings and a traceback is far shorter."""

SECRET_FILES: Final = (
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "HF_TOKEN_PATH",
    "REINIT_CHECKPOINT_KEY_FILE",
)
"""Variables that name files of secrets: AWS's are `key = value`, the others hold nothing but a token."""
SHORTEST_SECRET: Final = 8
"""Fewer characters are no secret, and blotting them out would leave no text."""

TERMINATION_LOG: Final = Path("/dev/termination-log")
"""Where Kubernetes reads a container's last word; present only in a pod."""
TERMINATION_BYTES: Final = 4096
"""As many of it are read."""

EVERY_RANK: Final = frozenset({"failed", "unkept"})
"""Events that each rank tells; all others are the first's."""


class Tail:
    """The end of a text that is written bit by bit, in bounded memory."""

    def __init__(self) -> None:
        self._parts: deque[str] = deque()
        self._characters = 0
        self._is_cut = False
        # Libraries write from threads of theirs, and a destructor may write while this thread does.
        self._lock = threading.RLock()

    def add(self, text: str) -> None:
        """More text, of any length."""
        most = 2 * TAIL_BYTES
        with self._lock:
            self._is_cut |= len(text) > most
            self._parts.append(text[-most:])
            self._characters += len(self._parts[-1])
            while self._characters - len(self._parts[0]) >= most:
                self._characters -= len(self._parts.popleft())
                self._is_cut = True

    def text(self) -> str:
        """At most `TAIL_BYTES` in UTF-8, from a line's start, without secrets; of a progress bar its last state."""
        with self._lock:
            text = "".join(self._parts)
            if self._is_cut:
                # The line that was cut may begin with half a secret.
                text = text.partition("\n")[2] or text
        lines = (line.rstrip("\r").rpartition("\r")[2] for line in redacted(text).split("\n"))
        data = "\n".join(lines).encode(errors="replace")
        if len(data) > TAIL_BYTES:
            # One byte more tells whether the cut is at a line's start already.
            data = data[-TAIL_BYTES - 1 :].partition(b"\n")[2] or data[-TAIL_BYTES:]
        return data.decode(errors="ignore")


class Heard(io.TextIOWrapper):
    """A standard stream of Python whose text a tail hears, too."""

    def __init__(self, descriptor: int, tail: Tail) -> None:
        raw = os.fdopen(descriptor, "wb", closefd=False)
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._tail = tail

    def write(self, text: str, /) -> int:
        """Write through, and remember."""
        told = redacted(text)
        self._tail.add(told)
        super().write(told)
        return len(text)


@dataclass
class Log:
    """Events, one JSON object a line: `message` is for people in `kubectl logs`, the rest for `reinit run`."""

    stream: TextIO
    tail: Tail
    is_first: bool = True
    """Whether this is the rank that tells; the others say only why they fail."""

    def emit(self, event: str, message: str, **fields: object) -> None:
        """Say one event."""
        if not self.is_first and event not in EVERY_RANK:
            return
        # A lone surrogate, from a file name say, is no text that a reader of JSON accepts.
        message = redacted(message.encode("utf-8", "replace").decode())
        line = json.dumps(
            {"time": now().isoformat(timespec="milliseconds"), "event": event, "message": message, **fields}
        )
        self.tail.add(line + "\n")
        try:
            self.stream.write(line + "\n")
            self.stream.flush()
        except BrokenPipeError:
            # The reader is gone, but the store is what counts: the run in progress is finished and kept.
            self.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  for the rest of the process


def open_log(*, is_first: bool) -> Log:
    """The log of this process, whose standard streams it takes over."""
    # Libraries print to standard output at will; events get a descriptor of their own.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tail = Tail()
    sys.stdout, sys.stderr = Heard(1, tail), Heard(2, tail)
    return Log(stream, tail, is_first)


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` without the secrets of the environment, also as JSON and URLs write them, and without users in URLs."""
    for name, secret in _secrets(environment):
        if len(secret) >= SHORTEST_SECRET:
            for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}:
                text = text.replace(form, f"<{name}>")
    return USER_IN_URL.sub("//***@", text)


def _secrets(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name and value of each: of variables, of passwords in their URLs, and of the files that they name."""
    for name, value in environment.items():
        if SECRET_NAME.search(name):
            yield name, value.strip()
        elif user := USER_IN_URL.search(value):
            yield name, user[0][2:-1].partition(":")[2]
    for name in SECRET_FILES:
        try:
            lines = Path(environment[name]).read_text(encoding="utf-8").splitlines()
        except (KeyError, OSError, ValueError):
            # Not set, or not to be read by this process either: then it knows no secret of it.
            continue
        for line in lines:
            key, equals, value = (part.strip() for part in line.partition("="))
            if name != "AWS_SHARED_CREDENTIALS_FILE":
                yield name, line.strip()
            elif equals and SECRET_NAME.search(key):
                yield name, value


def say_last_word(reason: str) -> None:
    """The reason as one line, for `kubectl describe pod` and `reinit status`. The first rank to say one has the word.

    Peers of a rank that failed end for no reason of their own, and the file is new for each container.
    """
    line = "; ".join(" ".join(part.split()) for part in redacted(reason).splitlines() if part.strip())
    data = line.encode(errors="replace")[:TERMINATION_BYTES].decode(errors="ignore").encode()
    try:
        if TERMINATION_LOG.stat().st_size == 0:
            TERMINATION_LOG.write_bytes(data)
    except OSError:
        # Not in a pod, or not for this user: Kubernetes then takes the end of the log.
        return
