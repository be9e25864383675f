"""`Outbox`: finished runs that their store would not take, kept in a folder and sent again until it does.

Law: a finished run is in the store, or it is in memory and, where a disk takes it, in the outbox's folder; it is never
dropped, and it holds up no other run. The folder is laid out as a store, so that `reinit upload` can send it from
anywhere at any time. What has been read back from the store is removed from the folder, and nothing else is.

Read from the environment:
    REINIT_OUTBOX           the folder, for results of one store; by default one in TMPDIR, which a pod takes with it
    REINIT_OUTBOX_SECONDS   how long a process whose work is done goes on sending (900)
"""

from __future__ import annotations

import hashlib
import os
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jobs.errors import DataError, ReinitError, SpecError, TransientError
from jobs.result import DivergedRun, RunResult
from jobs.store import Store, open_store
from jobs.upload import Sent, upload

WAIT_SECONDS: Final = 900.0
"""By default. An outage of minutes costs minutes then, and no run."""
AGAIN_SECONDS: Final = 5.0
"""Between two tries at the end; a try has a patience of its own."""
STOP_SECONDS: Final = 10.0
"""What a try may still take once this process is to end: well within the grace of a pod and of `reinit run`."""

Say = Callable[[str, str], object]
"""Tells an event: its kind, then words for people."""


@dataclass(frozen=True)
class _Held:
    result: RunResult | DivergedRun
    predictions: bytes | None
    is_on_disk: bool = False


@dataclass
class Outbox:
    """What one process still has to send.

    Args:
        store: where everything belongs.
        folder: where it waits meanwhile; made when first needed.
        say: hears what is held, what is sent later, and what no disk took.
        is_stopping: whether a signal asked this process to end.
        seconds: how long `deliver` tries.
        outlives: whether somebody can read the folder when this process is gone.
    """

    store: Store
    folder: Path
    say: Say
    is_stopping: Callable[[], bool]
    seconds: float = WAIT_SECONDS
    outlives: bool = True
    _held: dict[str, _Held] = field(default_factory=dict)
    _last: ReinitError | None = None
    _deadline: float | None = None

    @classmethod
    def of_process(cls, store: Store, say: Say, is_stopping: Callable[[], bool]) -> Outbox:
        """The outbox that this process's environment asks for.

        Raises:
            SpecError: REINIT_OUTBOX_SECONDS is no number of seconds.
        """
        named = os.environ.get("REINIT_OUTBOX")
        folder = outbox_of(store.url, Path(tempfile.gettempdir()) / "reinit")
        return cls(store, folder, say, is_stopping, _seconds(os.environ), outlives=bool(named))

    @property
    def is_empty(self) -> bool:
        """Whether the store has all that this process finished."""
        return not self._held

    def send_earlier(self) -> None:
        """Send what an earlier process left in the folder, so that nobody runs it again.

        Raises:
            TransientError, ConfigurationError: the store does not take it, or the folder cannot be read.
        """
        sent = send_held(self.folder, self.store)
        for result in sent.sent:
            self.say("sent", f"{result.cell.name} seed {result.seed}, held by an earlier process, is in the store now")
        for damaged in sent.refused:
            self.say("unsent", f"{damaged.key}: {damaged.reason}")

    def put(self, result: RunResult | DivergedRun, predictions: bytes | None) -> bool:
        """Send a finished run, and what is held; hold what the store does not take.

        Returns:
            Whether the store has this run.

        Raises:
            DataError: the predictions are not those that the result names.
        """
        had = bool(self._held)
        self._held[result.key] = _Held(result, predictions)
        self.send(self.store.impatient() if had else self.store)
        return result.key not in self._held

    def send(self, store: Store) -> None:
        """One try for each that is held, the newest first, up to the first that fails; then all are on disk."""
        for key, held in list(reversed(self._held.items())):
            if error := self._refusal(held, store):
                self._last = error
                # Whatever is the matter with this one in particular, it is the last to be tried next time.
                self._held = {key: self._held[key], **self._held}
                self._write_down(error)
                return
            del self._held[key]
            if held.is_on_disk:
                _forget(self.folder, held.result)
                self.say("sent", f"{_name(held)} is in the store now")

    def deliver(self) -> None:
        """Send until all is in the store, the time is over, or this process is to stop. Nothing waits twice.

        Raises:
            TransientError: what is still held; it says where, and how to send it later.
        """
        if self._held and self._deadline is None:
            self._deadline = time.monotonic() + self.seconds
            self.say("delivering", f"for at most {self.seconds:.0f} s: {self._count()} not in the store yet")
        while self._held and not self.is_stopping() and time.monotonic() < (self._deadline or 0):
            self.send(self.store.impatient())
            again = time.monotonic() + AGAIN_SECONDS
            while self._held and not self.is_stopping() and time.monotonic() < again:
                time.sleep(0.1)
        if self._held:
            raise self.error()

    def error(self) -> TransientError:
        """What is held, why, and what becomes of it."""
        lost = [held for held in self._held.values() if not held.is_on_disk]
        command = f"reinit upload {shlex.quote(str(self.folder))} --store {self.store.url}"
        remedy = f"{command}; or run the same again, which sends what is held first"
        if not self.outlives:
            remedy = (
                "the next pod runs it again; REINIT_OUTBOX on a volume, or more REINIT_OUTBOX_SECONDS, would keep it"
            )
        if lost:
            remedy = f"give REINIT_OUTBOX a folder that can be written; run again what no disk took ({len(lost)})"
        why = self._last
        return TransientError(
            f"{self._count()} finished and not in the store",
            where=f"{self.folder}, for {self.store.url}",
            expected=f"the store to take them, also after {self.seconds:.0f} s of further tries",
            got="; ".join([why.problem, *([why.got] if why.got else [])]) if why else None,
            remedy=remedy,
        )

    def _count(self) -> str:
        return f"{len(self._held)} {'run is' if len(self._held) == 1 else 'runs are'}"

    def _refusal(self, held: _Held, store: Store) -> ReinitError | None:
        """Why the store does not take it; None where it did.

        A try is made in a thread, since a server that takes a connection and is silent would outlast a pod's grace.
        """
        outcome: list[BaseException | None] = []

        def attempt() -> None:
            try:
                store.put(held.result, held.predictions)
            except BaseException as error:  # noqa: BLE001  raised below, in the thread that asked
                outcome.append(error)
            else:
                outcome.append(None)

        sender = threading.Thread(target=attempt, daemon=True)
        sender.start()
        end = None
        while sender.is_alive() and (end is None or time.monotonic() < end):
            sender.join(0.1)
            if end is None and self.is_stopping():
                end = time.monotonic() + STOP_SECONDS
        if not outcome:
            return TransientError(f"the store gave no answer within {STOP_SECONDS:.0f} s of the signal to stop")
        error = outcome[0]
        if isinstance(error, DataError):
            del self._held[held.result.key]
            raise error
        if error is None or isinstance(error, ReinitError):
            return error
        # A mistake in a library costs no run either.
        return TransientError(f"the store's client failed: {type(error).__name__}: {error}")

    def _write_down(self, why: ReinitError) -> None:
        """Everything held into the folder, as far as that goes."""
        for key, held in self._held.items():
            if held.is_on_disk:
                continue
            try:
                open_store(self.folder.as_uri()).impatient().put(held.result, held.predictions)
            except ReinitError as error:
                self.say("unheld", f"{_name(held)} is in memory alone, until the store takes it: {error}")
                return
            self._held[key] = _Held(held.result, held.predictions, is_on_disk=True)
            self.say("held", f"{_name(held)} waits in {self.folder}, since the store does not take it: {why.problem}")


def outbox_of(store_url: str, state: Path) -> Path:
    """The folder where `reinit run` on this machine leaves what this store would not take."""
    if named := os.environ.get("REINIT_OUTBOX"):
        return Path(named).absolute()
    return state / "outbox" / hashlib.sha256(open_store(store_url).url.encode()).hexdigest()[:12]


def send_held(folder: Path, store: Store) -> Sent:
    """Send what an earlier process left in `folder`, and remove it there. What does not verify stays, and is named."""
    if not (folder / "runs").is_dir():
        return Sent()
    sent = upload(open_store(folder.as_uri()), store)
    for result in (*sent.sent, *sent.there):
        _forget(folder, result)
    return sent


def _forget(folder: Path, result: RunResult | DivergedRun) -> None:
    """Remove what the store has by now; what cannot be removed is sent again some day, and found to be there."""
    with suppress(OSError):
        (folder / result.key).unlink(missing_ok=True)
        if isinstance(result, RunResult):
            (folder / "predictions" / result.predictions).unlink(missing_ok=True)


def held_in(folder: Path) -> int:
    """How many results wait there."""
    return sum(1 for _ in (folder / "runs").glob("*/*.json"))


def _name(held: _Held) -> str:
    return f"{held.result.cell.name} seed {held.result.seed}"


def _seconds(environment: Mapping[str, str]) -> float:
    text = environment.get("REINIT_OUTBOX_SECONDS", "")
    try:
        seconds = float(text or WAIT_SECONDS)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 7 * 86400:
        raise SpecError("REINIT_OUTBOX_SECONDS is malformed", expected="seconds, at most a week", got=repr(text)[:100])
    return seconds
