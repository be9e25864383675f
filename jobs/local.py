"""`reinit run`: runs handed out to warm worker processes on this machine, with a progress bar.

Law: a worker is `python -m reinit`, the pod's own entry point, fed through a pipe; this module never sees a score. The
store alone decides what is done, so stopping at any moment and starting again loses only the runs in progress.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import IO, Final

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.cell import Cell, Probe, canonical
from jobs.errors import ConfigurationError, DataError, ReinitError, SpecError, TransientError
from jobs.outbox import outbox_of
from jobs.views import escape

OUTBOX_SECONDS: Final = 60
"""How long a worker at its end tries to send what its store would not take; the outbox of this machine stays."""

STOP_SECONDS: Final = 60
"""How long workers may take to reach a step boundary, and to keep a checkpoint there, before they are killed."""


class Event(BaseModel):
    """A line of a worker's output; fields that only people read are ignored."""

    model_config = ConfigDict(extra="ignore")
    event: str
    message: str
    step: int = 0
    status: str = ""
    exit_code: int = 0


EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class RunError(ReinitError):
    """A run failed in a worker; carries the worker's own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        """`message` is the worker's whole refusal, `exit_code` one of the documented ones."""
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Run:
    """One run to do."""

    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.cell.name} seed {self.seed}"

    @property
    def shared_pass(self) -> bytes | None:
        """What a probe's pass of the frozen network depends on; probes that have it in common share one pass.

        All of the cell but depth, feature and fit; and the seed, where it says which rows, or draws dropout.
        """
        probe = self.cell.treatment
        if not isinstance(probe, Probe):
            return None
        seed = None if self.cell.size == "full" and not probe.encoder_dropout else self.seed
        recipe = self.cell.recipe
        rows = [self.cell.model.model_dump(), self.cell.task.model_dump(), self.cell.size, seed]
        return canonical([*rows, recipe.max_length, recipe.precision, probe.encoder_dropout])


@dataclass
class Summary:
    """What came of a call."""

    done: int = 0
    diverged: int = 0
    stopped: bool = False
    errors: list[RunError] = field(default_factory=list)


@dataclass(frozen=True)
class Machine:
    """How this machine is used: environment for each worker."""

    workers: int
    threads: int
    gpus: tuple[str, ...] = ()

    def environment(self, number: int, store: str, places: dict[str, Path]) -> dict[str, str]:
        """Environment of worker `number`."""
        own = {
            "REINIT_STORE": store,
            "REINIT_PLACES": json.dumps({name: str(path) for name, path in places.items()}),
            "REINIT_THREADS": str(self.threads),
            "OMP_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "REINIT_DEVICE": "cuda" if self.gpus else "cpu",
            "REINIT_GRACE_SECONDS": str(STOP_SECONDS),
            # A worker ends by itself where this process is killed.
            "REINIT_PARENT": str(os.getpid()),
        }
        if self.gpus:
            gpu = number % len(self.gpus)
            own["CUDA_VISIBLE_DEVICES"] = self.gpus[gpu]
            own["REINIT_GPU_SHARERS"] = str(len(range(gpu, self.workers, len(self.gpus))))
        return {**os.environ, **own}


def find_gpus() -> tuple[str, ...]:
    """Ids of the NVIDIA GPUs this process may use, without loading a library."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        # As CUDA reads it: everything from the first -1 on is hidden.
        named = (part.strip() for part in visible.split(","))
        return tuple(takewhile(lambda part: part not in ("", "-1"), named))
    folder = Path("/proc/driver/nvidia/gpus")
    return tuple(str(number) for number in range(len(list(folder.iterdir())))) if folder.is_dir() else ()


def this_machine(workers: int | None, threads: int | None) -> Machine:
    """One worker a GPU, or one worker on a CPU, unless told; the cores shared evenly, unless told."""
    gpus, cores = find_gpus(), len(os.sched_getaffinity(0))
    workers = workers or len(gpus) or 1
    return Machine(workers, threads or max(1, cores // workers), gpus)


class _Process:
    """One worker process and the thread that reads its events."""

    def __init__(
        self,
        number: int,
        environment: dict[str, str],
        cells: Sequence[Cell],
        events: queue.Queue[tuple[int, Event | None]],
        log: Path,
    ) -> None:
        self.number = number
        self.current: Run | None = None
        self.step = 0
        self.has_run = False
        self.is_closing = False
        self.log = log
        with log.open("ab") as errors:
            # A session of its own: Ctrl-C reaches this process, which then stops the workers in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "reinit", "--from-pipe"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        self._say(json.dumps([cell.model_dump(mode="json") for cell in cells]))
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events: queue.Queue[tuple[int, Event | None]]) -> None:
        try:
            for line in _output(self._process.stdout):
                try:
                    events.put((self.number, EVENT.validate_json(line)))
                except ValidationError:
                    # Half a line of a process that was killed, or something that a library printed.
                    with self.log.open("a", encoding="utf-8") as log:
                        log.write(line)
        finally:
            # Whatever happens here, nobody waits for this worker for ever.
            events.put((self.number, None))

    def _say(self, line: str) -> None:
        pipe = self._process.stdin
        try:
            if pipe is not None:
                pipe.write(line + "\n")
                pipe.flush()
        except BrokenPipeError:
            # The worker has ended; its last event, or the end of its output, says why.
            return

    def start(self, run: Run, number_of_cell: int) -> None:
        self.current, self.step, self.has_run = run, 0, True
        self._say(json.dumps([number_of_cell, run.seed]))

    def close(self) -> None:
        """No more work; the process ends by itself."""
        self.is_closing = True
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def stop(self) -> None:
        """End at the next step. One that waits for work sees the pipe close."""
        self.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float | None = None) -> int:
        """The exit code; after `seconds` the process is killed. The log of one that ended well is removed."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code == 0:
            self.log.unlink(missing_ok=True)
        return code

    def last_words(self) -> str:
        """The end of what the worker wrote for people."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])


def _output(pipe: IO[str] | None) -> Iterator[str]:
    return iter(()) if pipe is None else iter(pipe)


class _Waiting:
    """The runs to do, in order, but probes that share a pass of the network go to one worker, one after another.

    Only time depends on who runs what: a worker that finds nothing else helps another with its probes, at the price
    of a pass of its own.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = {run: run.shared_pass for run in runs}
        self._pass_of: dict[int, bytes | None] = {}

    def take(self, worker: int) -> Run | None:
        """The next run for `worker`, None when nothing waits."""
        mine = self._pass_of.pop(worker, None)
        held = {shared for shared in self._pass_of.values() if shared is not None}
        wishes: tuple[Callable[[bytes | None], bool], ...] = (
            lambda shared: shared is not None and shared == mine,
            lambda shared: shared not in held,
            lambda _: True,
        )
        for wish in wishes:
            for run, shared in self._runs.items():
                if wish(shared):
                    self._pass_of[worker] = self._runs.pop(run)
                    return run
        return None


def run_locally(
    runs: Sequence[Run], store: str, places: dict[str, Path], machine: Machine, log_folder: Path, console: Console
) -> Summary:
    """Do every run; the store has each as soon as it is finished.

    Args:
        runs: what to do, in order.
        store: URL of the store.
        places: folders that the site maps names to.
        machine: workers, threads, GPUs.
        log_folder: where each worker's library output goes, and what the store would not take.
        console: where progress is shown.

    Returns:
        How many runs were finished, and the errors of those that were not. Ctrl-C ends with `stopped`.
    """
    machine = replace(machine, workers=min(machine.workers, len(runs)))
    cells = list({run.cell.digest: run.cell for run in runs}.values())
    number_of_cell = {cell.digest: number for number, cell in enumerate(cells)}
    waiting = _Waiting(runs)
    events: queue.Queue[tuple[int, Event | None]] = queue.Queue()
    try:
        log_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            "the workers' logs cannot be kept",
            where=str(log_folder),
            got=error.strerror,
            remedy="set XDG_STATE_HOME to a folder that can be written",
        ) from error
    outbox = {
        "REINIT_OUTBOX": str(outbox_of(store, log_folder)),
        "REINIT_OUTBOX_SECONDS": os.environ.get("REINIT_OUTBOX_SECONDS") or str(OUTBOX_SECONDS),
    }
    processes = [
        _Process(
            number,
            machine.environment(number, store, places) | outbox,
            cells,
            events,
            log_folder / f"worker-{os.getpid()}-{number}.log",
        )
        for number in range(machine.workers)
    ]
    summary, alive = Summary(), len(processes)
    with _progress(runs, console) as show:
        try:
            while alive:
                number, event = events.get()
                process = processes[number]
                if event is None:
                    alive -= 1
                    _ended(process, summary)
                elif event.event == "ready":
                    if not summary.errors and (run := waiting.take(number)):
                        process.start(run, number_of_cell[run.cell.digest])
                    else:
                        process.current = None
                        process.close()
                else:
                    _heard(process, event, summary, show)
        except KeyboardInterrupt:
            summary.stopped = True
            console.print(
                "stopping at the next step; finished runs are in the store, checkpoints of long ones too",
                style="yellow",
            )
        finally:
            for process in processes:
                process.stop()
            deadline = time.monotonic() + STOP_SECONDS
            for process in processes:
                process.wait(max(0.0, deadline - time.monotonic()))
    return summary


def _heard(process: _Process, event: Event, summary: Summary, show: _Show) -> None:
    """Account for one event of a worker."""
    if event.event == "step":
        show.advance(event.step - process.step)
        process.step = event.step
    elif event.event == "finished" and process.current is not None:
        show.advance(process.current.cell.steps - process.step)
        show.finished(event.message)
        summary.done += 1
        summary.diverged += event.status == "diverged"
        process.current = None
    elif event.event == "failed":
        # A refusal says all; anything else is a bug or the machine, and the traceback is in the worker's log.
        more = f"\n  {'log:':<10}{process.log}" if event.exit_code == 1 else ""
        summary.errors.append(RunError(event.message + more, event.exit_code))
        process.is_closing = True
    elif event.event == "loading":
        show.say(event.message)


def _ended(process: _Process, summary: Summary) -> None:
    """A worker's output has closed: by itself, or because it died."""
    code = process.wait()
    if process.is_closing or summary.errors:
        return
    idle = "between two runs" if process.has_run else "while loading"
    what = process.current.name if process.current else idle
    if code < 0:
        how = f"killed by signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    else:
        how = f"exit code {code}"
    problem = f"a worker ended: {how}, {what}\n{process.last_words()}"
    kinds = (SpecError, DataError, TransientError, ConfigurationError)
    documented = code in {kind.exit_code for kind in kinds}
    summary.errors.append(RunError(problem, code if documented else TransientError.exit_code))


class _Show:
    """Progress for people: a bar on a terminal, a line a run elsewhere."""

    def __init__(self, progress: Progress, runs: Sequence[Run]) -> None:
        self._progress = progress
        self._finished, self._runs = 0, len(runs)
        # Steps, not runs, are what time goes into: runs of one study differ by orders of magnitude.
        steps = sum(run.cell.steps for run in runs)
        self._steps = progress.add_task(self._count, total=steps, status="starting workers")

    @property
    def _count(self) -> str:
        return f"{self._finished:>{len(str(self._runs))}}/{self._runs} runs"

    def advance(self, steps: int) -> None:
        self._progress.update(self._steps, advance=steps, status="")

    def say(self, text: str) -> None:
        self._progress.update(self._steps, status=escape(f"loading {text}"))

    def finished(self, text: str) -> None:
        self._finished += 1
        self._progress.update(self._steps, description=self._count)
        self._progress.console.print(f"[dim]{self._finished:>{len(str(self._runs))}}/{self._runs}[/dim] {escape(text)}")


@contextmanager
def _progress(runs: Sequence[Run], console: Console) -> Iterator[_Show]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(compact=True),
        TextColumn("left {task.fields[status]}"),
    )
    progress = Progress(*columns, console=console, disable=not console.is_terminal, speed_estimate_period=120)
    with progress:
        yield _Show(progress, runs)
