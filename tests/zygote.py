"""Starts of `reinit run` and of pods without their imports: a process that has the libraries forks each one.

Law: only the start is another. A program that is killed 200 times would spend 20 minutes importing torch; here one
process imports what `python -m reinit` imports, runs nothing, and forks. The child gets its own environment, session
and pipes, and runs the very `main` of the program. What is not shown so, a kill during imports, takes a real start.

A request is one connection: a JSON line and the descriptors of stdin, stdout and stderr. The answers are the child's
process id, and its exit code as `subprocess` has it, one line each.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NoReturn, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS: Final = "REINIT_TEST_ZYGOTE"
Program = Literal["reinit", "pod"]
"""The console command, and `python -m reinit`."""


class Forked:
    """A process that a zygote started; as much of `subprocess.Popen` as is used of it."""

    def __init__(
        self,
        address: str,
        program: Program,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        descriptors: tuple[int, int, int],
    ) -> None:
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.connect(address)
        request = {"program": program, "arguments": list(arguments), "environment": dict(environment)}
        line = json.dumps(request).encode() + b"\n"
        socket.send_fds(self._connection, [line[:1]], list(descriptors))
        self._connection.sendall(line[1:])
        self._answers = self._connection.makefile("r")
        self.pid = int(self._answers.readline())

    def send_signal(self, number: int) -> None:
        """To this process alone."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative after a signal."""
        if self.returncode is None:
            self._connection.settimeout(max(timeout, 0.001) if timeout is not None else None)
            try:
                line = self._connection.recv(100)
            except TimeoutError as error:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0) from error
            assert line, "the zygote has ended"
            self.returncode = int(line)
            self._answers.close()
            self._connection.close()
        return self.returncode


class _Worker(Forked):
    """What `jobs.local` gets for its `subprocess.Popen`."""

    def __init__(self, _: list[str], *, env: Mapping[str, str], stderr: IO[bytes], **__: Any) -> None:
        (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
        self.stdin = os.fdopen(ours_in, "w", encoding="utf-8")
        self.stdout = os.fdopen(ours_out, encoding="utf-8")
        try:
            super().__init__(os.environ[ADDRESS], "pod", ["--from-pipe"], env, (theirs_in, theirs_out, stderr.fileno()))
        finally:
            os.close(theirs_in)
            os.close(theirs_out)


@contextmanager
def zygote(folder: Path) -> Iterator[str]:
    """A running zygote; gives its address, of a socket in `folder`."""
    address = str(folder / "zygote")
    process = subprocess.Popen([sys.executable, "-m", "tests.zygote", address], cwd=Path(__file__).parents[1])
    try:
        while not Path(address).exists():
            assert process.poll() is None, "the zygote did not start"
            time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def _run(program: Program, arguments: list[str], environment: dict[str, str], descriptors: list[int]) -> NoReturn:
    """In the child: become the program."""
    code = 1
    try:
        os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, 64)
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115  until the end
        sys.argv = ["reinit", *arguments]
        code = _main(program, arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)


def _main(program: Program, arguments: list[str]) -> int:
    if program == "pod":
        from reinit.pod import main
        from reinit.stop import Stop

        stop = Stop()
        stop.listen()
        return main(arguments, stop)
    import jobs.cli

    # In this process alone, and for the one thing that it starts: the workers of `jobs.local`.
    subprocess.Popen = _Worker  # type: ignore[misc, assignment]
    jobs.cli.main()
    return 0


def serve(address: str) -> NoReturn:
    """Import, listen, fork."""
    import reinit.pod
    import reinit.worker  # noqa: F401  and with it torch, transformers and deepspeed

    waiting: dict[int, socket.socket] = {}
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address + ".new")
    listener.listen(64)
    listener.settimeout(0.01)
    # pyarrow's allocator keeps a thread, and locks itself around a fork; any other thread could hold a lock for ever.
    main = str(os.getpid())
    threads = {(each / "comm").read_text().strip() for each in Path("/proc/self/task").iterdir() if each.name != main}
    assert threads <= {"jemalloc_bg_thd"}, f"with {threads} a fork is not safe"
    os.rename(address + ".new", address)  # noqa: PTH104  whole at once: who sees it can connect
    while True:
        with suppress(TimeoutError):
            connection, _ = listener.accept()
            _start(connection, listener, waiting)
        _reap(waiting)


def _start(connection: socket.socket, listener: socket.socket, waiting: dict[int, socket.socket]) -> None:
    first, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as lines:
        request = json.loads(first + lines.readline())
    if (child := os.fork()) == 0:
        # Else a peer that waits for the end of another's connection would wait for this one's, too.
        for each in (connection, listener, *waiting.values()):
            each.close()
        _run(cast("Program", request["program"]), request["arguments"], request["environment"], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    waiting[child] = connection
    with suppress(OSError):
        connection.sendall(f"{child}\n".encode())


def _reap(waiting: dict[int, socket.socket]) -> None:
    while waiting:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        connection = waiting.pop(child)
        # Whoever asked may be dead: an orphan's end interests nobody.
        with suppress(OSError):
            connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
