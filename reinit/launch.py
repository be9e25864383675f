"""Several ranks on one machine: one process a GPU, started, stopped and waited for by this one.

Law: a signal reaches every rank exactly as often as it came; no rank outlives another's failure; the exit code is one
that a rank gave for a reason of its own. This process is PID 1 of a pod with several GPUs, and imports no torch.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, TextIO

from jobs.errors import ConfigurationError, DataError, SpecError, TransientError
from reinit.stop import SIGNALS, STOPPED, Stop, StoppedError

POLL_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 20.0
"""What ranks may take to end once one has failed: a rank whose peer is gone may wait for it for ever."""

REFUSALS: Final = (SpecError.exit_code, DataError.exit_code, ConfigurationError.exit_code)
"""Exit codes that speak for all ranks, whichever says so: trying again is no use."""


@dataclass
class Launch:
    """The ranks of one run of the program."""

    processes: list[subprocess.Popen[bytes]]
    ended: list[tuple[int, int]] = field(default_factory=list)
    """Rank and return code, in the order of their ends."""
    signals: list[int] = field(default_factory=list)
    """Came and were not handed on yet."""
    was_stopped: bool = False

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Remember; the loop hands it on, since a rank may be about to start."""
        self.signals.append(number)

    def wait(self) -> int:
        """Hand signals on until every rank has ended, and say the exit code.

        Once a rank has failed the others are asked to end, and ended after `PATIENCE_SECONDS`.
        """
        patience: float | None = None
        while len(self.ended) < len(self.processes):
            while self.signals:
                self.was_stopped = True
                self._send(self.signals.pop(0))
            self._collect()
            if patience is None and any(code for _, code in self.ended):
                patience = time.monotonic() + PATIENCE_SECONDS
                # After a stop they are ending already, and a second signal would cut off their last words.
                if not self.was_stopped:
                    self._send(signal.SIGTERM)
            if patience is not None and time.monotonic() > patience:
                self.kill()
            time.sleep(POLL_SECONDS)
        return exit_code(self.ended, was_stopped=self.was_stopped)

    def kill(self) -> None:
        """End every rank that is left."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def _collect(self) -> None:
        known = {rank for rank, _ in self.ended}
        for rank, process in enumerate(self.processes):
            if rank not in known and (code := process.poll()) is not None:
                self.ended.append((rank, code))


def launch(
    command: Sequence[str], ranks: int, environment: Mapping[str, str], stdout: TextIO, stop: Stop | None = None
) -> int:
    """Run `command` once a rank and return the exit code of them all.

    Args:
        command: the same for every rank; `RANK`, `LOCAL_RANK` and `WORLD_SIZE` tell them apart.
        ranks: number of processes.
        environment: what each gets besides.
        stdout: where their standard output goes.
        stop: what has listened to signals until now; from here on they are the ranks'.

    Raises:
        StoppedError: a signal came before, so that nothing was started.
        TransientError: a process could not be started.
    """
    run = Launch([])
    before = {number: signal.signal(number, run.on_signal) for number in SIGNALS}
    try:
        if stop:
            if stop.requested:
                raise StoppedError
            stop.hand_over()
        # Each ends by itself where this process is killed.
        peers = {
            "REINIT_PARENT": str(os.getpid()),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        for rank in range(ranks):
            own = {**environment, **peers, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A group of its own: a terminal's Ctrl-C would reach a rank twice, from the terminal and from here.
            process = subprocess.Popen(command, env=own, stdout=stdout, process_group=0)  # noqa: S603  our program
            run.processes.append(process)
        return run.wait()
    except OSError as error:
        raise TransientError("a rank could not be started", got=error.strerror) from error
    finally:
        run.kill()
        for process in run.processes:
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(ended: Sequence[tuple[int, int]], *, was_stopped: bool) -> int:
    """One code for all ranks.

    A refusal that any rank gives comes first: peers of a rank that gave up fail for no reason of their own. Of a stop,
    the first rank knows whether there was progress. Else it is the failure that came first.

    Args:
        ended: rank and return code in the order of their ends; a negative code is the signal that ended it.
        was_stopped: whether this process was told to stop.
    """
    failed = [(rank, code) for rank, code in ended if code]
    if not failed:
        return 0
    for _, code in failed:
        if code in REFUSALS:
            return code
    first_rank = dict(failed).get(0)
    if was_stopped and first_rank in (STOPPED, TransientError.exit_code):
        return first_rank
    _, code = failed[0]
    if code > 0:
        return code
    # Ended by a signal before or instead of giving a reason: 143 would claim progress that nobody vouches for.
    return TransientError.exit_code if was_stopped or code == -signal.SIGTERM else 128 - code


def _free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
