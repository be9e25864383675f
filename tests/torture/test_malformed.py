"""Malformed study and cluster files: each loads or is refused on one screen; nothing crashes, hangs or piles up."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import pytest

from jobs.cluster import read_cluster
from jobs.errors import ReinitError
from jobs.manifest import job, to_yaml
from jobs.study import load_study
from tests.figures import full, record
from tests.torture.malformed import ROOT, Malformed, good_files, malformed

SEED: Final = int(os.environ.get("REINIT_MALFORMED_SEED", "1"))
FILES: Final = full(12_000, 1_500)
THROUGH_THE_COMMAND: Final = full(24, 4)

MOST_SECONDS: Final = 60
"""Of one file: a guard against a hang, not a promise of speed. The slowest takes about a second alone."""
MOST_GROWTH: Final = 64 * 2**20
"""Bytes of memory that the second half of all files may add to the first's."""
MOST_LINES: Final = 40
MOST_CHARACTERS: Final = 6_000


def read(file: Malformed, path: Path) -> None:
    """What the commands do with such a file before they do any work."""
    path.write_bytes(file.data)
    if file.kind == "study":
        load_study(str(path)).plan()
    else:
        site = read_cluster(path)
        first = next(iter(load_study("demo").plan()))
        to_yaml([job("demo", first.cell, first.seeds, site)])


def fault_of(file: Malformed, path: Path) -> tuple[str, str]:
    """`loaded` or `refused`, and what is wrong with that; nothing where all is well."""
    try:
        with at_most(MOST_SECONDS):
            read(file, path)
    except ReinitError as error:
        return "refused", fault_of_message(str(error))
    except Exception:  # noqa: BLE001  what the test looks for
        return "crashed", traceback.format_exc()
    return "loaded", ""


def fault_of_message(message: str) -> str:
    """Why a refusal does not fit one screen of text, or nothing."""
    if not message.strip():
        return "an empty message"
    lines = message.split("\n")
    if len(lines) > MOST_LINES or len(message) > MOST_CHARACTERS:
        return f"{len(lines)} lines, {len(message)} characters:\n{message[:2000]}"
    odd = {char for char in message if not char.isprintable()} - {"\n"}
    return f"unprintable {odd}" if odd else ""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise in the middle of what takes longer."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def told(file: Malformed, fault: str) -> str:
    """A failure with the file that caused it."""
    shown = repr(file.data[:3000])
    return f"file {file.number} of seed {SEED}, {file.kind} {file.name}, {', '.join(file.steps)}: {fault}\n{shown}"


@pytest.mark.timeout(7200)
def test_every_malformed_file_loads_or_is_refused_on_one_screen(tmp_path: Path) -> None:
    good, path = good_files(), tmp_path / "file.yaml"
    ends: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    faults: list[str] = []
    halfway = 0
    for number in range(FILES):
        file = malformed(number, SEED, good)
        end, fault = fault_of(file, path)
        ends[end] += 1
        kinds[file.kind] += 1
        if fault:
            faults.append(told(file, fault))
        if number == FILES // 2:
            halfway = resident()
    grown = resident() - halfway
    assert not faults, f"{len(faults)} faults\n\n" + "\n\n".join(faults[:5])
    assert grown < MOST_GROWTH, f"{grown:,} bytes more after {FILES} files than after {FILES // 2}"
    # Both ends are reached, or the files are all of one kind and show little.
    assert min(ends["loaded"], ends["refused"]) > FILES / 100
    record(
        "test_malformed",
        f"{FILES:,} files of seed {SEED} ({kinds['study']:,} studies, {kinds['cluster']:,} sites): "
        f"{ends['refused']:,} refused, {ends['loaded']:,} still good, 0 crashes, "
        f"memory {grown / 2**20:+.1f} MiB over the second half",
        "at least 10,000 files: no traceback, no hang, no growth of memory",
    )


def test_the_same_number_makes_the_same_file() -> None:
    good = good_files()
    assert [malformed(n, 1, good) for n in range(50)] == [malformed(n, 1, good) for n in range(50)]
    assert malformed(7, 1, good) != malformed(7, 2, good)


def test_every_good_file_loads(tmp_path: Path) -> None:
    for (kind, name), text in good_files().items():
        file = Malformed(0, kind, name, (), text.encode())
        assert fault_of(file, tmp_path / "good.yaml") == ("loaded", "")


@pytest.mark.parametrize("number", range(THROUGH_THE_COMMAND))
def test_the_command_itself_shows_no_traceback(number: int, tmp_path: Path) -> None:
    file = malformed(FILES + number, SEED, good_files())
    path = tmp_path / "file.yaml"
    path.write_bytes(file.data)
    arguments = ["plan", str(path)] if file.kind == "study" else ["render", "demo", "--cluster", str(path), "-o", "-"]
    command = [sys.executable, "-c", "from jobs.cli import main; main()", *arguments]
    ended = subprocess.run(command, capture_output=True, cwd=ROOT, check=False, timeout=120)
    said = ended.stderr.decode()
    assert ended.returncode in (0, 64), told(file, said)
    assert "Traceback" not in said, told(file, said)
    if ended.returncode:
        assert not fault_of_message(said), told(file, said)
