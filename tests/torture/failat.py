"""`python -m tests.torture.failat URL STRIDE [careless]`: a put killed at every n-th call of the system.

Law: each try is a process that does one `Store.put` and kills itself, with SIGKILL, just before or just after its n-th
call of the operating system (files, sockets); n goes up until the put survives. After each, the result is whole or
absent, its predictions are there if it is, and a retry completes it to one result. Prints what was counted as JSON.
`careless` writes where the object belongs, as a program without a rename does, to show that it would be noticed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

import botocore.session

from jobs.found import Found
from jobs.objects import FileObjects
from jobs.result import RunResult
from jobs.store import open_store
from tests.make import a_cell, a_result, some_predictions
from tests.s3 import one_loader

CALLS: Final = frozenset(
    {"write", "flush", "fsync", "rename", "replace", "mkdir", "open", "close", "unlink", "send", "sendall", "connect"}
    | {"recv", "recv_into", "read", "lstat", "stat", "scandir"}
)
"""Functions of C that ask something of the system, by the names that a profiler hears."""

SURVIVED: Final = 10


def put_and_die(url: str, result: RunResult, predictions: bytes, number: int) -> None:
    """Put, in a process that does not come back; ends with SURVIVED where there is no such call."""
    calls = itertools.count(1)

    def profile(_frame: Any, event: str, called: Any) -> None:
        # Both sides of a call: what the system has done by then differs.
        if event in ("c_call", "c_return") and called.__name__ in CALLS and next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    store = open_store(url)
    threading.setprofile(profile)
    sys.setprofile(profile)
    store.put(result, predictions)
    sys.setprofile(None)
    os._exit(SURVIVED)


def careless(objects: FileObjects, key: str, data: bytes) -> None:
    """A put without its care."""
    path = objects.root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)


def forked(action: Callable[[], None]) -> int:
    """How a child that does this ended: negative after a signal."""
    if (child := os.fork()) == 0:
        try:
            action()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(url: str, stride: int) -> int:
    """All tries; the exit code is 1 where one left what it must not."""
    # Each client reads a megabyte of JSON about S3: once is enough, before any fork.
    botocore.session.create_loader = one_loader
    reader = open_store(url)
    reader.check()
    counts = {"kills": 0, "without": 0, "with": 0, "calls": 0}
    for number in itertools.count(1, stride):
        predictions = some_predictions(number) * 5000
        result = a_result(a_cell(size=number), predictions=hashlib.sha256(predictions).hexdigest())
        ended = forked(lambda: put_and_die(url, result, predictions, number))  # noqa: B023  the child ends in the loop
        if ended == SURVIVED:
            counts["calls"] = number - 1
            break
        if ended != -signal.SIGKILL:
            return fail(number, f"the put ended with {ended}")
        counts["kills"] += 1
        found = reader.results(result.digest)
        if found.damaged or found.contradictions or dict(found.results) not in ({}, {1: result}):
            return fail(number, str(found))
        counts["with" if found.results else "without"] += 1
        if found.results and reader.predictions(result.predictions) != predictions:
            return fail(number, "a result without its predictions")
        reader.put(result, predictions)
        if reader.results(result.digest) != Found(result.digest, {1: result}):
            return fail(number, "a retry did not settle it")
    print(json.dumps(counts))  # noqa: T201  for the test
    return 0


def fail(number: int, problem: str) -> int:
    """Say what is wrong."""
    print(f"killed at call {number}: {problem}", file=sys.stderr)  # noqa: T201  for the test
    return 1


if __name__ == "__main__":
    if "careless" in sys.argv:
        FileObjects.put = careless  # type: ignore[method-assign, assignment]
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
