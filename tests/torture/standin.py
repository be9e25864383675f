"""A pod's program that trains nothing, for thousands of schedules: the real session and store, a worker that pretends.

Law: what decides is the program's own: which runs are left (`work_as_pod`), when a stop is heard and what it costs
(`Session`), how a result is kept (`Store`). Pretended are the network, whose scores follow from cell and seed alone,
and time: the program pauses at every step and goes on when the schedule says so. It can be killed at each pause and
in the middle of each write.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal, NoReturn, cast

from jobs.cell import Cell
from jobs.errors import ReinitError, SpecError, TransientError
from jobs.objects import FileObjects
from jobs.outbox import Outbox
from jobs.store import Store
from reinit.environment import pod_runs
from reinit.log import Log, Tail
from reinit.places import Places
from reinit.pod import work_as_pod
from reinit.session import Session
from reinit.stop import Stop, StoppedError
from tests.make import a_provenance, a_result

STEPS: Final = 2
"""Optimiser steps of a run."""

OnStep = Callable[[int, float], bool]

KILLED: Final = 137

Fault = Literal["killed before", "killed half-way", "killed after", "refused", "answer lost"]
"""What happens to the next write."""

Checkpoints = dict[tuple[str, int], int]
"""Steps done, by digest and seed: what a checkpoint in the store would say."""


class KilledError(BaseException):
    """SIGKILL: nothing may catch it."""


class Program:
    """`python -m reinit` in a pod.

    Args:
        root: folder of the store.
        environment: the container's.
        later: seconds after the first result, ever more, so that no two results are of one moment.
        checkpoints: what a stop in the middle of a run keeps; None keeps nothing.
        is_broken: whether a cell is found impossible, by its digest.
    """

    def __init__(
        self,
        root: Path,
        environment: Mapping[str, str],
        later: Callable[[], float],
        checkpoints: Checkpoints | None,
        is_broken: Callable[[str], bool],
    ) -> None:
        self.environment = environment
        self.exit_code: int | None = None
        self.fault: Fault | None = None
        self.kept = 0
        """Results and checkpoints that outlive this program."""
        self.stop = _Stop()
        self.checkpoints = checkpoints
        self._later, self._is_broken = later, is_broken
        self._objects = _Objects(FileObjects(root), self)
        self._scratch = root.parent / f"scratch-{secrets.token_hex(8)}"
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._is_killed = False
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def run(self, steps: int = 10_000) -> None:
        """Go on for so many pauses, or to the end."""
        for _ in range(steps):
            if self.exit_code is not None:
                self._thread.join()
                return
            self._go.release()
            self._paused.acquire()

    def terminate(self) -> None:
        """SIGTERM; heard at the next step."""
        self.stop.requested = True

    def kill(self) -> None:
        """SIGKILL."""
        self._is_killed = True
        self.run()

    def pause(self) -> None:
        """Where the schedule may do something else, or kill."""
        self._paused.release()
        self._go.acquire()
        if self._is_killed:
            raise KilledError

    def _main(self) -> None:
        self._go.acquire()
        store, log = Store(self._objects, pauses=(0.0, 0.0)), Log(io.StringIO(), Tail())
        # A pod's scratch space goes with it, so no other program ever looks into this one's outbox.
        outbox = Outbox(store, self._scratch, log.emit, lambda: self.stop.requested, seconds=0.0, outlives=False)
        session = _Session(store, Places({}), log, self.stop, outbox, _program=self)
        try:
            code = self._worked(session)
        except KilledError:
            code = KILLED
        self.exit_code = code
        self._paused.release()

    def _worked(self, session: Session) -> int:
        """As `reinit.__main__.main` ends."""
        if self._is_killed:
            raise KilledError
        try:
            return work_as_pod(session, *pod_runs(self.environment))
        except StoppedError:
            return session.stopped()
        except ReinitError as error:
            return session.fail(error, error.exit_code)

    # ------------------------------------------------------------------------- what `reinit.worker.Worker` is asked

    def agree(self, value: Any) -> Any:
        return value

    def any_rank(self, flag: bool) -> bool:
        return flag

    def most(self, number: int) -> int:
        return number

    def run_cell(
        self, cell: Cell, seed: int, on_step: Callable[[int, float], bool], _keeper: object
    ) -> SimpleNamespace:
        """A run of `STEPS` steps, from the checkpoint that there is."""
        if self._is_broken(cell.digest):
            raise SpecError("impossible")
        run = (cell.digest, seed)
        begun = (self.checkpoints or {}).get(run, 0)
        for step in range(begun, STEPS):
            self.pause()
            if self.checkpoints is not None and self.stop.requested and step > self.checkpoints.get(run, 0):
                # A newer one, uploaded and verified: durable progress, wherever the process is killed after it.
                self.checkpoints[run] = step
                self.kept += 1
                self.stop.has_progress = True
                self.pause()
            on_step(step + 1, 0.5)
        self.pause()
        predictions = f"logits of {cell.digest} {seed}\n".encode() * 20
        score = int(hashlib.sha256(predictions).hexdigest()[:4], 16) / 0xFFFF
        named = hashlib.sha256(predictions).hexdigest()
        where = a_provenance(host=secrets.token_hex(4))
        result = a_result(cell, seed, score=score, later=self._later(), predictions=named, provenance=where)
        return SimpleNamespace(result=result, predictions=predictions)


class _Worker:
    """`Session` calls it."""

    def __init__(self, program: Program) -> None:
        self.agree, self.any_rank, self.most, self.run = (
            program.agree, program.any_rank, program.most, program.run_cell
        )  # fmt: skip


class _Keeper:
    """`Session` asks it; `Program.run_cell` keeps checkpoints by itself."""

    def stepped(self, step: int) -> None:
        """Of no interest."""

    def is_due(self) -> bool:
        """Only a stop keeps one here."""
        return False

    def clear(self) -> None:
        """What is left of one is never read again: the run is done."""


class _Stop(Stop):
    """A stop without signal handlers, which belong to a process's main thread."""

    def ignore(self) -> None:
        """There is no second signal."""


class _Session(Session):
    """A session whose worker pretends, and whose last act has no thread of its own."""

    def __init__(self, *arguments: Any, _program: Program) -> None:
        super().__init__(*arguments)
        self._worker = cast("Any", _Worker(_program))
        self._program = _program

    def prepare(self, cells: Any) -> Any:
        self._program.pause()
        if self.stop.requested:
            raise StoppedError
        return self._worker

    def _keeper(self) -> Any:
        return _Keeper()

    def _keep(self, record: Callable[[], object] | None) -> None:
        if record is not None:
            with suppress(ReinitError):
                record()


class _Objects:
    """A folder whose next write may go wrong."""

    def __init__(self, inner: FileObjects, program: Program) -> None:
        self._inner, self._program = inner, program
        self.url = inner.url

    def describe(self) -> str:
        return self._inner.describe()

    def get(self, key: str) -> bytes | None:
        return self._inner.get(key)

    def keys(self, prefix: str) -> Iterator[str]:
        return self._inner.keys(prefix)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def put(self, key: str, data: bytes) -> None:
        fault, self._program.fault = self._program.fault, None
        if fault == "killed before":
            raise KilledError
        if fault == "killed half-way":
            path = self._inner.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".1.{secrets.token_hex(8)}").write_bytes(data[: len(data) // 2])
            raise KilledError
        if fault == "refused":
            self._fail()
        self._inner.put(key, data)
        self._program.kept += key.startswith("runs/")
        if fault == "killed after":
            raise KilledError
        if fault == "answer lost":
            self._fail()

    def _fail(self) -> NoReturn:
        # Beyond the patience of the store, too: a pod that gives up is what is to be shown.
        self._program.fault = "refused"
        raise TransientError("the store has no time")
