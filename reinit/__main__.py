"""The pod's contract: environment in, one object per run out, an exit code. `python -m reinit`.

Law: this module and what it imports at the top never import torch, so that a pod whose work is done ends in seconds.
The same code serves `reinit run`, which hands out runs over a pipe instead of the environment.

Environment of a pod:
    REINIT_CELLS           the cells of this Job, a JSON list
    REINIT_SEEDS           their seeds, a JSON list
    REINIT_SEEDS_PER_POD   of an Indexed Job: this pod runs the JOB_COMPLETION_INDEX-th so many of them
    REINIT_STORE           file:///path or s3://bucket/prefix
    REINIT_PLACES          where names are on this machine, a JSON object of name to folder
    REINIT_THREADS         CPU threads of this process
    REINIT_DEVICE          cuda or cpu: what must be used; unset takes a GPU where there is one
    REINIT_GPUS            above 1, this process starts one rank a GPU and waits for them (reinit.launch)
    REINIT_POD             name of the attempt in failure records; unset is host and process
Exit codes: 0 done or already done; 64 bad spec, 65 bad data, 78 bad configuration; 75 transient; 143 stopped by
SIGTERM after durable progress, else 75.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, TextIO

from pydantic import TypeAdapter, ValidationError

from jobs.cell import SCIENCE, Cell, Seed
from jobs.errors import ConfigurationError, ReinitError, SpecError, TransientError
from jobs.result import Failure, now
from jobs.store import Store, open_store
from reinit.launch import launch
from reinit.places import Places

if TYPE_CHECKING:
    from reinit.worker import Worker

CELLS: Final = TypeAdapter(tuple[Cell, ...])
SEEDS: Final = TypeAdapter(tuple[Seed, ...])

STOPPED: Final = 143
"""Exit code after SIGTERM, 128 + 15."""

TERMINATION_LOG: Final = Path("/dev/termination-log")
"""Where Kubernetes reads a container's last word; present only in a pod."""

PROGRESS_SECONDS: Final = 0.5
"""Least time between two progress events of one run."""


class StoppedError(Exception):
    """SIGTERM or SIGINT came; the run in progress is given up at a step boundary."""


@dataclass
class Stop:
    """Whether a signal asked this process to end."""

    requested: bool = False
    has_progress: bool = False
    """Whether anything of this process's work outlives it."""

    def listen(self) -> None:
        """Take SIGTERM and SIGINT; a second one ends the process at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    @property
    def exit_code(self) -> int:
        """Only progress that outlives this pod makes a stop free of charge; see the manifest's podFailurePolicy."""
        return STOPPED if self.has_progress else TransientError.exit_code

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            os._exit(self.exit_code)
        self.requested = True


@dataclass
class Session:
    """One process's work: runs in, objects and events out."""

    store: Store
    places: Places
    events: TextIO
    stop: Stop
    is_first: bool = True
    """Whether this is the rank that writes; the others say only why they fail."""
    current: tuple[str, int | None] = ("", None)
    _worker: Worker | None = field(default=None, repr=False)

    def prepare(self, cells: Iterable[Cell]) -> Worker:
        """Load the libraries, then check what every cell needs; the store was checked before.

        Raises:
            ReinitError: a task, model or device is not as the cells need it.
            StoppedError: a signal came.
        """
        self.emit("loading", "libraries, rows and weights")
        if threads := os.environ.get("REINIT_THREADS"):
            # Read by OpenMP when torch is imported.
            os.environ["OMP_NUM_THREADS"] = threads
        try:
            from reinit.worker import Worker  # torch, only once there is work
        except ModuleNotFoundError as error:
            remedy = "pip install 'partial-reinit[train]'"
            raise ConfigurationError("a library is missing", got=error.name, remedy=remedy) from error

        self._worker = Worker(self.places)
        self._worker.check(cells)
        if self._worker.any_rank(self.stop.requested):
            raise StoppedError
        return self._worker

    def run(self, cell: Cell, seed: int) -> None:
        """One run, from start to a verified object in the store.

        Raises:
            StoppedError: a signal came; nothing of this run is kept.
            ReinitError: the run failed; the caller records it.
        """
        worker = self._worker
        if worker is None:
            raise RuntimeError("prepare() comes before run()")
        if worker.any_rank(self.stop.requested):
            raise StoppedError
        self.current = (cell.digest, seed)
        self.emit("started", f"{cell.name} seed {seed}", digest=cell.digest, seed=seed, steps=cell.steps)
        last = time.monotonic()

        def on_step(step: int, loss: float) -> None:
            nonlocal last
            if worker.any_rank(self.stop.requested):
                raise StoppedError
            if step and (time.monotonic() - last >= PROGRESS_SECONDS or step == cell.steps):
                last = time.monotonic()
                text = f"{cell.name} seed {seed}: step {step}/{cell.steps}, loss {loss:.4f}"
                self.emit("step", text, digest=cell.digest, seed=seed, step=step, loss=loss)

        outcome = worker.run(cell, seed, on_step)
        if self.is_first:
            self.store.put(outcome.result, outcome.predictions)
        # The other ranks go on, and count the run as kept, when the first says so.
        worker.any_rank(False)
        self.stop.has_progress = True
        result = outcome.result
        score = f"{cell.task.headline} {result.score:.4f}" if result.status == "done" else "diverged"
        self.emit(
            "finished",
            f"{cell.name} seed {seed}: {score} in {result.wall_seconds:.1f} s",
            digest=cell.digest,
            seed=seed,
            status=result.status,
        )

    def emit(self, event: str, message: str, **fields: object) -> None:
        """One event as a JSON line: for people in `kubectl logs`, for `reinit run` behind a pipe."""
        if not self.is_first and event != "failed":
            return
        # A lone surrogate, from a file name say, is no text that a reader of JSON accepts.
        message = message.encode("utf-8", "replace").decode()
        line = {"time": now().isoformat(timespec="milliseconds"), "event": event, "message": message, **fields}
        try:
            self.events.write(json.dumps(line) + "\n")
            self.events.flush()
        except BrokenPipeError:
            # The reader is gone, but the store is what counts: the run in progress is finished and kept.
            self.events = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  for the rest of the process

    def fail(self, error: BaseException, exit_code: int) -> None:
        """Say why this process ends: to the log, to Kubernetes, to the store."""
        reason = str(error) or type(error).__name__
        digest, seed = self.current
        self.emit("failed", reason, exit_code=exit_code, digest=digest or None, seed=seed)
        say_last_word(reason)
        if not digest:
            return
        try:
            failure = Failure(
                digest=digest,
                seed=seed,
                attempt=f"{_pod_name()}-{os.getpid()}",
                exit_code=exit_code,
                reason=reason.splitlines()[0],
                failed_at=now(),
            )
            self.store.put_failure(failure)
        except (ReinitError, ValidationError) as second:
            # A host may have a name that no key can hold; that must not hide why the run failed.
            self.emit("failed", f"the failure could not be recorded: {second}", exit_code=exit_code)


def _pod_name() -> str:
    return os.environ.get("REINIT_POD") or os.environ.get("HOSTNAME") or socket.gethostname()


def say_last_word(reason: str) -> None:
    """The reason in `kubectl describe pod`; at most 4,096 bytes are read there."""
    if TERMINATION_LOG.exists() and os.access(TERMINATION_LOG, os.W_OK):
        TERMINATION_LOG.write_bytes(reason.encode()[:4096])


def pod_runs(environment: Mapping[str, str]) -> tuple[tuple[Cell, ...], tuple[int, ...]]:
    """The cells and seeds of this pod, by its environment.

    Raises:
        SpecError: a variable is missing or malformed.
    """

    def read(name: str) -> str:
        if name not in environment:
            raise SpecError(f"{name} is not set", remedy="start this command from a manifest of `reinit render`")
        return environment[name]

    try:
        cells = CELLS.validate_json(read("REINIT_CELLS"))
        seeds = SEEDS.validate_json(read("REINIT_SEEDS"))
    except ValidationError as error:
        raise SpecError("REINIT_CELLS or REINIT_SEEDS is malformed", got=str(error)) from error
    if "REINIT_SEEDS_PER_POD" in environment:
        size = _number(environment, "REINIT_SEEDS_PER_POD", least=1)
        index = _number(environment, "JOB_COMPLETION_INDEX")
        if not (seeds := seeds[size * index : size * (index + 1)]):
            raise SpecError("JOB_COMPLETION_INDEX is beyond the seeds", got=index)
    return known(cells), seeds


def ranks_to_start(environment: Mapping[str, str]) -> int:
    """Number of ranks that this process has to start; 0 where it is a rank itself, or the only one.

    Raises:
        SpecError: REINIT_GPUS is not a number.
    """
    if "REINIT_GPUS" not in environment or "RANK" in environment:
        return 0
    gpus = _number(environment, "REINIT_GPUS")
    return gpus if gpus > 1 else 0


def _number(environment: Mapping[str, str], name: str, least: int = 0) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
        raise SpecError(f"{name} is malformed", expected=f"a whole number of at least {least}", got=text or "nothing")
    return int(text)


def known(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """The cells, if this code's science is the one that they ask for.

    Raises:
        SpecError: they were made by a version whose scores mean something else.
    """
    for cell in cells:
        if cell.science != SCIENCE[cell.treatment.kind]:
            raise SpecError(
                f"{cell.name} was made for another version of this program",
                expected=f"science version {SCIENCE[cell.treatment.kind]} of {cell.treatment.kind}",
                got=cell.science,
                remedy="render the study again with the version that runs it",
            )
    return cells


def work_as_pod(session: Session, cells: tuple[Cell, ...], seeds: tuple[int, ...]) -> None:
    """Every run of this pod that the store does not have yet.

    Of several ranks the first alone asks the store: two that asked for themselves could see different answers, and
    train different seeds together without noticing.
    """
    if cells:
        session.current = (cells[0].digest, None)
    runs = runs_to_do(session.store, cells, seeds) if session.is_first else []
    if not runs and os.environ.get("WORLD_SIZE", "1") == "1":
        session.emit("done", "every run of this Job is in the store already")
        return
    worker = session.prepare(cells)
    runs = worker.agree(runs)
    for number, seed in runs:
        session.run(cells[number], seed)
    session.emit("done", f"{len(runs)} runs finished")


def runs_to_do(store: Store, cells: tuple[Cell, ...], seeds: tuple[int, ...]) -> list[tuple[int, int]]:
    """Number of the cell and seed of each run that the store lacks, after a check that it can be written to."""
    store.check()
    done = [store.results(cell.digest).done for cell in cells]
    return [(number, seed) for number in range(len(cells)) for seed in seeds if seed not in done[number]]


def work_as_ranks(session: Session, cells: tuple[Cell, ...], seeds: tuple[int, ...], ranks: int) -> int:
    """Every run of this pod by several ranks, unless all are done; the exit code."""
    if cells:
        session.current = (cells[0].digest, None)
    if not runs_to_do(session.store, cells, seeds):
        session.emit("done", "every run of this Job is in the store already")
        return 0
    if session.stop.requested:
        raise StoppedError
    return launch([sys.executable, "-m", "reinit"], ranks, os.environ, session.events)


def work_from_pipe(session: Session, lines: Iterator[str]) -> None:
    """Runs from standard input: a first line with all cells, then one `[cell number, seed]` a line, until it closes."""
    cells = known(CELLS.validate_json(next(lines)))
    session.prepare(cells)
    session.emit("ready", "loaded")
    for line in lines:
        number, seed = json.loads(line)
        session.run(cells[number], seed)
        session.emit("ready", "next")


def main(arguments: list[str]) -> int:
    """Run this process's work and return its exit code."""
    # Libraries print to standard output at will; events get a descriptor of their own.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    stop = Stop()
    stop.listen()
    session: Session | None = None
    try:
        if "REINIT_STORE" not in os.environ:
            raise SpecError("REINIT_STORE is not set", expected="file:///path or s3://bucket/prefix")
        is_first = os.environ.get("RANK", "0") == "0"
        session = Session(open_store(os.environ["REINIT_STORE"]), Places.from_environment(), events, stop, is_first)
        if arguments == ["--from-pipe"]:
            work_from_pipe(session, iter(sys.stdin.readline, ""))
        elif ranks := ranks_to_start(os.environ):
            return work_as_ranks(session, *pod_runs(os.environ), ranks)
        else:
            work_as_pod(session, *pod_runs(os.environ))
    except ReinitError as error:
        if session is None:
            say_last_word(str(error))
            sys.stderr.write(f"{error}\n")
        else:
            session.fail(error, error.exit_code)
        return error.exit_code
    except StoppedError:
        if session is not None:
            session.emit("stopped", "stopped by a signal", exit_code=stop.exit_code)
        say_last_word("stopped by a signal")
        return stop.exit_code
    except Exception as error:
        # Not a known refusal: recorded like one, then shown whole, since only the traceback says what to mend.
        if session is not None:
            session.fail(error, 1)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
