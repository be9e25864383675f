"""The pod's contract: environment in, one object per run out, an exit code.

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
    REINIT_GPU_SHARERS     workers of `reinit run` that this one shares its GPU with, itself counted; unset is 1
    REINIT_GPUS            above 1, this process starts one rank a GPU and waits for them (reinit.launch)
    REINIT_OUTBOX          folder for results that the store would not take (jobs.outbox); unset is one in TMPDIR
    REINIT_OUTBOX_SECONDS  how long they are sent again at the end, before exit 75
    REINIT_POD             first part of the names of logs and failure records, before the process; unset is the host
    REINIT_CHECKPOINT_SECONDS   training between two checkpoints, 300 unless set; 0 keeps none and resumes from none
    REINIT_CHECKPOINT_KEY_FILE                  see jobs.checkpoints
    REINIT_GRACE_SECONDS, REINIT_PARENT         see reinit.stop
Exit codes: 0 done or already done; 64 bad spec, 65 bad data, 78 bad configuration; 75 transient, or finished and not in
the store; 143 stopped by SIGTERM or SIGINT after durable progress (a finished run, or a newer verified checkpoint),
else 75.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Collection, Iterator
from typing import Final

from jobs.cell import Cell
from jobs.errors import ReinitError, SpecError, TransientError
from jobs.outbox import Outbox
from jobs.store import open_store
from reinit.environment import CELLS, known, pod_runs, ranks_to_start
from reinit.launch import launch
from reinit.log import open_log, say_last_word
from reinit.places import Places
from reinit.session import Session
from reinit.stop import STOPPED, Stop, StoppedError

FROM_PIPE: Final = "--from-pipe"
NOTHING_LEFT: Final = "every run of this Job is in the store already"


class RankKilledError(Exception):
    """A rank had no time to say why it ended."""


def work_as_pod(session: Session, cells: tuple[Cell, ...], seeds: tuple[int, ...]) -> int:
    """Every run of this pod that the store does not have yet.

    Of several ranks the others do what the first says is left.
    """
    runs = runs_to_do(session, cells, seeds)
    if not runs and os.environ.get("WORLD_SIZE", "1") == "1":
        return session.done(NOTHING_LEFT)
    worker = session.prepare(cells)
    runs = worker.agree(runs)
    session.expect([cells[number] for number, _ in runs])
    for number, seed in runs:
        session.run(cells[number], seed)
    session.outbox.deliver()
    return session.done(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} finished")


def forget_done(session: Session, digest: str, done: Collection[int]) -> None:
    """Delete what an attempt left that was ended between its result and its last act."""
    try:
        checkpoints = session.store.checkpoints()
        for seed in sorted(checkpoints.seeds(digest) & set(done)):
            checkpoints.clear(digest, seed)
    except ReinitError as error:
        session.log.emit("unkept", f"checkpoints of finished runs could not be deleted: {error}")


def runs_to_do(session: Session, cells: tuple[Cell, ...], seeds: tuple[int, ...]) -> list[tuple[int, int]]:
    """Number of the cell and seed of each run that the store lacks, after a check that it can be written to.

    Of several ranks the first alone asks the store: two that asked for themselves could see different answers, and
    train different seeds together without noticing.
    """
    if cells:
        session.current = (cells[0].digest, None)
    if not session.is_first:
        return []
    session.store.check()
    session.outbox.send_earlier()
    done = [session.store.results(cell.digest).done for cell in cells]
    for cell, seeds_done in zip(cells, done, strict=True):
        forget_done(session, cell.digest, seeds_done)
    runs = [(number, seed) for number in range(len(cells)) for seed in seeds if seed not in done[number]]
    if runs:
        session.current = (cells[runs[0][0]].digest, None)
    return runs


def work_as_ranks(session: Session, cells: tuple[Cell, ...], seeds: tuple[int, ...], ranks: int) -> int:
    """Every run of this pod by several ranks, unless all are done. Each rank says and keeps its own last words."""
    if not runs_to_do(session, cells, seeds):
        return session.done(NOTHING_LEFT)
    code = launch([sys.executable, "-m", "reinit"], ranks, os.environ, session.log.stream, session.stop)
    if code > 128 and code != STOPPED:
        number = code - 128
        cause = " (out of memory?)" if number == signal.SIGKILL else ""
        return session.fail(RankKilledError(f"a rank was killed by signal {number}{cause}"), code)
    if code in (STOPPED, TransientError.exit_code):
        # A rank that failed so has said why, and the first word stands.
        say_last_word("stopped by a signal")
    return code


def work_from_pipe(session: Session, lines: Iterator[str]) -> int:
    """Runs from standard input: a first line with all cells, then one `[cell number, seed]` a line, until it closes."""
    cells = known(CELLS.validate_json(next(lines)))
    session.prepare(cells)
    session.log.emit("ready", "loaded")
    for line in lines:
        number, seed = json.loads(line)
        session.run(cells[number], seed)
        session.log.emit("ready", "next")
    session.outbox.deliver()
    return 0


def work(session: Session) -> int:
    """The work that the environment or the pipe asks for; the exit code where nothing went wrong in this process."""
    if not session.is_pod:
        return work_from_pipe(session, iter(sys.stdin.readline, ""))
    if ranks := ranks_to_start(os.environ):
        return work_as_ranks(session, *pod_runs(os.environ), ranks)
    return work_as_pod(session, *pod_runs(os.environ))


def main(arguments: list[str], stop: Stop) -> int:
    """Run this process's work and return its exit code; whatever it is, the last act before it is to say why."""
    log = open_log(is_first=os.environ.get("RANK", "0") == "0")
    try:
        if "REINIT_STORE" not in os.environ:
            raise SpecError("REINIT_STORE is not set", expected="file:///path or s3://bucket/prefix")
        store = open_store(os.environ["REINIT_STORE"])
        outbox = Outbox.of_process(store, log.emit, lambda: stop.requested)
        session = Session(store, Places.from_environment(), log, stop, outbox, is_pod=arguments != [FROM_PIPE])
    except ReinitError as error:
        log.emit("failed", str(error), exit_code=error.exit_code)
        say_last_word(str(error))
        return error.exit_code
    stop.on_late = session.stopped
    # Until a run is begun nothing would be lost. A worker of `reinit run` ends in order: its pipe closes.
    stop.is_busy = not session.is_pod
    try:
        return work(session)
    except StoppedError:
        _end(stop)
        return session.stopped()
    except ReinitError as error:
        _end(stop)
        return session.fail(error, error.exit_code)
    except (Exception, SystemExit) as error:  # noqa: BLE001  not a known refusal, and a library that exits with 0 least
        _end(stop)
        # Shown whole, since only the traceback says what to mend; in the log before the tail of it is kept.
        traceback.print_exc()
        return session.fail(error, 1)


def _end(stop: Stop) -> None:
    """Go on to the last act, unless the process is being ended already from beside this thread."""
    if not stop.claim():
        threading.Event().wait()
