"""`Stop`: a signal asked this process to end, and by when it has to.

Law: heard from the first line of the program on, before anything large is imported, whatever the main thread is busy
with; the first signal asks for an end at the next step, the second ends at once, and where neither happens the process
ends by itself before it would be killed. The exit code says whether anything of this attempt outlives it.

Read from the environment:
    REINIT_GRACE_SECONDS   seconds between a SIGTERM and a SIGKILL, 120 unless set
    REINIT_PARENT          process without which this one has no purpose: where it dies, this one is asked to end
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, Literal

from jobs.errors import TransientError

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

STOPPED: Final = 143
"""Exit code after SIGTERM, 128 + 15."""

GRACE_SECONDS: Final = 120.0
SHARE: Final = 0.75
"""Of the grace, for ending in order; the rest is for the last act and for reserve."""

_SET_PARENT_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


class StoppedError(Exception):
    """SIGTERM or SIGINT came; the run in progress is given up at a step boundary."""


class Stop:
    """Whether a signal asked this process to end."""

    def __init__(self) -> None:
        self.requested = False
        self.has_progress = False
        """Whether anything of this process's work outlives it."""
        self.on_late: Callable[[], object] = lambda: None
        """Says why, where the process has to be ended from beside."""
        self.is_busy = True
        """Whether a step or a run in progress is worth waiting for."""
        self._owner = ""
        self._lock = threading.Lock()
        self._deadline = float("inf")

    def listen(self) -> None:
        """Take SIGTERM and SIGINT, and end with the parent where there is one."""
        hears, told = os.pipe()
        os.set_blocking(told, False)
        # Written to by the interpreter's own handler, at once, also while the main thread is in a library's code.
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, args=(hears,), daemon=True).start()
        self._follow(os.environ.get("REINIT_PARENT", ""))

    def claim(self, who: Literal["main", "watch"] = "main") -> bool:
        """Whether it is this thread that ends the process: the first to say so does, and says why.

        From then on the exit code is decided, and a signal changes nothing.
        """
        with self._lock:
            self._owner = self._owner or who
            return self._owner == who

    def hand_over(self) -> None:
        """Another handler in this process takes the signals from here on."""
        self.claim()
        signal.set_wakeup_fd(-1)

    @property
    def exit_code(self) -> int:
        """Only progress that outlives this pod makes a stop free of charge; see the manifest's podFailurePolicy."""
        return STOPPED if self.has_progress else TransientError.exit_code

    @property
    def seconds_left(self) -> float:
        """For ending in order; infinite where nothing was asked."""
        return self._deadline - time.monotonic()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._request()

    def _request(self) -> None:
        if not self.requested:
            self._deadline = time.monotonic() + SHARE * _grace()
            self.requested = True

    def _watch(self, hears: int) -> None:
        """In a thread of its own: it ends the process where the main thread does not."""
        while os.read(hears, 1)[0] not in SIGNALS:
            continue
        self._request()
        again, _, _ = select.select([hears], [], [], max(0.0, self.seconds_left) if self.is_busy else 0.0)
        if self.claim("watch"):
            if not again:
                self.on_late()
            os._exit(self.exit_code)

    def _follow(self, parent: str) -> None:
        if not parent.isdigit() or sys.platform != "linux":
            return
        import ctypes

        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if not _lives(int(parent)):
            # It died before it could be told of.
            os.kill(os.getpid(), signal.SIGTERM)


def _lives(process: int) -> bool:
    """Whether a process is there, and not dead and only not waited for yet; true where that cannot be known."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123  before any library
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except ProcessLookupError:
        return False
    except OSError:
        return True


def _grace() -> float:
    text = os.environ.get("REINIT_GRACE_SECONDS", "")
    return float(text) if text.isascii() and text.isdigit() else GRACE_SECONDS
