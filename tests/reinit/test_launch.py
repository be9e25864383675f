"""The launcher of ranks, with real processes that stand in for ranks: signals, failures, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reinit import launch
from reinit.launch import exit_code

RANK = "import os, signal, sys, time; rank = int(os.environ['RANK'])\n"
SLOW = RANK + "open(f'{sys.argv[1]}/{rank}', 'w').close(); time.sleep(60)"
CODES_ON_SIGTERM = (
    RANK
    + """
def stop(*_):
    count.append(1)
    open(f'{sys.argv[1]}/signal-{rank}-{len(count)}', 'w').close()
count = []
signal.signal(signal.SIGTERM, stop)
open(f'{sys.argv[1]}/{rank}', 'w').close()
while not count:
    time.sleep(0.01)
time.sleep(0.5)
sys.exit(int(sys.argv[2]))
"""
)


def ranks(script: str, *arguments: str | Path, count: int = 2) -> int:
    command = [sys.executable, "-S", "-c", script, *map(str, arguments)]
    return launch.launch(command, count, os.environ, sys.__stdout__ or sys.stdout)


def signal_when(paths: list[Path], number: int) -> None:
    """Send this process the signal once all the files are there."""

    def wait() -> None:
        while not all(path.exists() for path in paths):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


def test_every_rank_knows_its_number_and_where_to_meet(tmp_path: Path) -> None:
    script = RANK + (
        "names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')\n"
        "open(f'{sys.argv[1]}/{rank}', 'w').write(' '.join(os.environ[name] for name in names))"
    )
    assert ranks(script, tmp_path, count=3) == 0
    told = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [each[:4] for each in told] == [[str(rank), str(rank), "3", "127.0.0.1"] for rank in range(3)]
    assert len({each[4] for each in told}) == 1


@pytest.mark.parametrize(("failing", "code"), [(0, 65), (1, 78), (1, 75), (1, 1)])
def test_one_rank_that_fails_ends_the_others_and_its_code_is_the_jobs(tmp_path: Path, failing: int, code: int) -> None:
    started = time.monotonic()
    assert ranks(RANK + f"time.sleep(60 * (rank != {failing})); sys.exit({code})", tmp_path) == code
    assert time.monotonic() - started < 15


def test_a_rank_that_ignores_the_end_of_its_peer_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "PATIENCE_SECONDS", 0.5)
    script = RANK + (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(f'{sys.argv[1]}/{rank}', 'w').close()\n"
        "while not all(os.path.exists(f'{sys.argv[1]}/{each}') for each in range(2)): time.sleep(0.01)\n"
        "time.sleep(60 * (rank == 0)); sys.exit(75)"
    )
    assert ranks(script, tmp_path) == 75


@pytest.mark.parametrize("code", [143, 75])
@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_signal_reaches_every_rank_once_and_their_code_comes_back(tmp_path: Path, number: int, code: int) -> None:
    signal_when([tmp_path / "0", tmp_path / "1"], number)
    assert ranks(CODES_ON_SIGTERM, tmp_path, str(code)) == code
    assert sorted(path.name for path in tmp_path.glob("signal-*")) == ["signal-0-1", "signal-1-1"]


def test_ranks_that_a_stop_ends_before_they_can_answer_claim_no_progress(tmp_path: Path) -> None:
    signal_when([tmp_path / "0", tmp_path / "1"], signal.SIGTERM)
    assert ranks(SLOW, tmp_path) == 75


def test_handlers_are_as_they_were_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ranks("pass", tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("ended", "was_stopped", "code"),
    [
        ([(0, 0), (1, 0)], False, 0),
        ([(1, 0), (0, 0)], True, 0),
        ([(1, 1), (0, 65)], False, 65),
        ([(0, 1), (1, 75)], False, 1),
        ([(0, -9), (1, 75)], False, 137),
        ([(1, -9), (0, 143)], False, 137),
        ([(1, -15), (0, 75)], False, 75),
        ([(1, 75), (0, 143)], True, 143),
        ([(1, 1), (0, 143)], True, 143),
        ([(0, -15), (1, -15)], True, 75),
        ([(1, 143), (0, 0)], True, 143),
        ([(1, -2), (0, -2)], True, 75),
    ],
)
def test_the_exit_code_is_one_that_a_rank_gave_for_a_reason_of_its_own(
    ended: list[tuple[int, int]], was_stopped: bool, code: int
) -> None:
    assert exit_code(ended, was_stopped=was_stopped) == code


def test_the_launcher_needs_no_torch() -> None:
    script = "import sys; import reinit.launch, reinit.__main__, reinit.pod; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
