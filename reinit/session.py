"""`Session`: one process's work, run by run, and how it ends: an event, a last word, the log's tail in the store.

Law: nothing here imports torch before there is work. What cannot be kept of a log or of a failure's record never hides
the failure, changes the exit code or takes longer than `KEEP_SECONDS`.

Where a log goes: in a pod under each cell that it began a run of, or, where it came not so far, under the first that it
was to run; nowhere, if all was done before. `reinit run` keeps its workers' logs itself: there it goes under the cell
of the run that failed, and only then. Of several ranks the first keeps its log, and each that fails.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from jobs.cell import Cell, Probe
from jobs.checkpoints import Checkpoints
from jobs.errors import ConfigurationError, ReinitError, TransientError
from jobs.memory import no_collection
from jobs.outbox import Outbox
from jobs.result import Failure, now
from jobs.store import Store
from reinit.environment import checkpoint_seconds
from reinit.log import Log, redacted, say_last_word
from reinit.places import Places
from reinit.progress import PIPE_SECONDS, POD_SECONDS, Progress
from reinit.stop import Stop, StoppedError

if TYPE_CHECKING:
    from reinit.checkpoint import Keeper
    from reinit.worker import Worker

_KEEP, _STOP = 1, 2
"""Votes of a rank after a step: keep a checkpoint, or end; the largest of all ranks counts."""

SCORING: Final = ("scipy", "sklearn")
"""Libraries that are imported when a run is scored."""

KEEP_SECONDS: Final = 15.0
"""What the last act may take: less than a launcher waits for the peers of a rank that has ended."""


@dataclass
class Session:
    """One process's work: runs in, objects and events out."""

    store: Store
    places: Places
    log: Log
    stop: Stop
    outbox: Outbox
    """What the store would not take so far."""
    is_pod: bool = True
    """Whether the environment says what to run; else a pipe does."""
    current: tuple[str, int | None] = ("", None)
    """Digest and seed of the run that a failure now would be of."""
    begun: dict[str, None] = field(default_factory=dict)
    """Digests of the cells that a run was begun of, in order."""
    _progress: Progress = field(default_factory=lambda: Progress(PIPE_SECONDS), repr=False)
    _worker: Worker | None = field(default=None, repr=False)
    _checkpoints: Checkpoints | None = field(default=None, repr=False)
    _checkpoint_seconds: float = 0.0

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes; the others say only why they fail."""
        return self.log.is_first

    def prepare(self, cells: Iterable[Cell]) -> Worker:
        """Load the libraries, then check what every cell needs; the store was checked before.

        Raises:
            ReinitError: a task, model or device is not as the cells need it.
            StoppedError: a signal came.
        """
        if self.stop.requested:
            raise StoppedError
        self._checkpoint_seconds = checkpoint_seconds(os.environ)
        self._checkpoints = self.store.checkpoints()
        self.log.emit("loading", "libraries, rows and weights")
        if threads := os.environ.get("REINIT_THREADS"):
            # Read by OpenMP when torch is imported.
            os.environ["OMP_NUM_THREADS"] = threads
        try:
            with no_collection():
                from reinit.tokencache import TokenCache
                from reinit.worker import Worker  # torch, only once there is work

                _require(SCORING)
                # Seconds have gone by, and the peers of a rank have heard the same.
                if self.stop.requested:
                    raise StoppedError
                cache = TokenCache(self.store.tokens(), self.log.emit, writes=self.is_first)
                self._worker = Worker(self.places, cache)
        except ModuleNotFoundError as error:
            remedy = "pip install 'partial-reinit[train]'"
            raise ConfigurationError("a library is missing", got=error.name, remedy=remedy) from error

        self._worker.check(cells)
        if self._worker.any_rank(self.stop.requested):
            raise StoppedError
        return self._worker

    def expect(self, plan: Sequence[Cell]) -> None:
        """The cell of each run to come, so that progress can be told of all of them."""
        self._progress = Progress(POD_SECONDS, plan)

    def run(self, cell: Cell, seed: int) -> None:
        """One run, from start to a verified object in the store, or in the outbox.

        Raises:
            StoppedError: a signal came; of this run at most a checkpoint is kept.
            ReinitError: the run failed; the caller records it.
        """
        worker = self._worker
        if worker is None:
            raise RuntimeError("prepare() comes before run()")
        if worker.any_rank(self.stop.requested):
            raise StoppedError
        self.stop.is_busy = True
        self.current = (cell.digest, seed)
        self.begun[cell.digest] = None
        said = self._progress.begin(cell, seed)
        self.log.emit("started", said.message, **said.fields)

        keeper = None if isinstance(cell.treatment, Probe) else self._keeper()

        def on_step(step: int, loss: float) -> bool:
            if keeper:
                keeper.stepped(step)
            is_due = self.is_first and keeper is not None and keeper.is_due()
            # One vote for both: it costs each step a message between the ranks.
            wish = worker.most(_STOP if self.stop.requested else _KEEP if is_due else 0)
            if said := self._progress.step(step, loss):
                self.log.emit("step", said.message, **said.fields)
            if wish == _STOP:
                raise StoppedError
            return wish == _KEEP

        outcome = worker.run(cell, seed, on_step, keeper)
        is_kept = False
        if self.is_first:
            self.log.emit("uploading", "sending the result")
            is_kept = self.outbox.put(outcome.result, outcome.predictions)
            if keeper and is_kept:
                keeper.clear()
        # The other ranks go on, and count the run as kept, when the first says so.
        is_kept = worker.any_rank(is_kept)
        self.stop.has_progress |= is_kept
        self._progress.end()
        result = outcome.result
        score = f"{cell.task.headline} {result.score:.4f}" if result.status == "done" else "diverged"
        self.log.emit(
            "finished",
            f"{cell.name} seed {seed}: {score} in {result.wall_seconds:.1f} s{'' if is_kept else ', held'}",
            digest=cell.digest,
            seed=seed,
            status=result.status,
        )

    def _keeper(self) -> Keeper:
        """Of the checkpoints of one run."""
        from reinit.checkpoint import Keeper

        def emit(event: str, message: str, **fields: Any) -> None:
            if event == "resumed":
                self._progress.resume(fields["step"])
            self.log.emit(event, message, **fields)

        if self._checkpoints is None:
            raise RuntimeError("prepare() comes before run()")
        return Keeper(self._checkpoints, self.stop, emit, self._checkpoint_seconds)

    def done(self, message: str) -> int:
        """All work of a pod is done."""
        self.log.emit("done", message)
        say_last_word(message)
        if self.begun and self.is_first:
            self._keep(None)
        return 0

    def stopped(self) -> int:
        """A signal ended the work."""
        if not self.outbox.is_empty:
            error = self.outbox.error()
            return self.fail(error, error.exit_code)
        kept = "with" if self.stop.has_progress else "without"
        message = f"stopped by a signal {kept} a finished run or a checkpoint"
        self.log.emit("stopped", message, exit_code=self.stop.exit_code)
        if os.environ.get("WORLD_SIZE", "1") == "1":
            # A rank is also stopped because another failed, whose word it is then; the launcher speaks for all.
            say_last_word("stopped by a signal")
        if self.is_pod and self.is_first:
            self._keep(None)
        return self.stop.exit_code

    def fail(self, error: BaseException, exit_code: int) -> int:
        """Say why this process ends: to the log, to Kubernetes, to the store; finished runs are sent before."""
        try:
            self.outbox.deliver()
        except TransientError as held:
            if str(held) != str(error):
                self.log.emit("held", str(held))
        reason = str(error) or type(error).__name__
        digest, seed = self.current
        self.log.emit("failed", reason, exit_code=exit_code, digest=digest or None, seed=seed)
        say_last_word(reason)

        def record() -> None:
            self.store.put_failure(
                Failure(
                    digest=digest,
                    seed=seed,
                    attempt=_attempt(),
                    exit_code=exit_code,
                    reason=redacted(reason.splitlines()[0]),
                    failed_at=now(),
                )
            )

        self._keep(record if digest else None)
        return exit_code

    def _keep(self, record: Callable[[], object] | None) -> None:
        """The last act: a failure's record, then the log's tail, within `KEEP_SECONDS`."""
        self.stop.claim()
        text = self.log.tail.text()
        digest, _ = self.current
        digests = tuple(self.begun) if self.begun and self.is_pod else (digest,) if digest else ()

        def act() -> None:
            try:
                if record is not None:
                    record()
                for each in digests:
                    self.store.put_log(each, _attempt(), text)
            except (ReinitError, ValidationError) as error:
                # A host may have a name that no key can hold, and the store may be what failed.
                self.log.emit("unkept", f"what happened is not in the store: {error}")

        # A client's patience with a server adds up to minutes, and a folder on a network may block for ever.
        last = threading.Thread(target=act, daemon=True)
        last.start()
        last.join(KEEP_SECONDS)
        if last.is_alive():
            self.log.emit("unkept", f"the store took no log and no failure's record within {KEEP_SECONDS:.0f} s")


def _require(libraries: Iterable[str]) -> None:
    """Miss now what is imported late: a run that was trained must not end for want of it."""
    for name in libraries:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)


def _attempt() -> str:
    pod = os.environ.get("REINIT_POD") or os.environ.get("HOSTNAME") or socket.gethostname()
    # Ranks of one pod are attempts of their own.
    return f"{pod}-{os.getpid()}"
