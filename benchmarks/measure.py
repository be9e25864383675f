"""Seconds of CPU and of the wall clock, of calls and of whole processes, and what the machine can do at best.

Law: CPU-seconds are user and system time of every thread and every waited-for child, so that they say what was done,
whoever else uses the machine; wall seconds mean something on a quiet machine alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

ROOT: Final = Path(__file__).resolve().parents[1]
LAUNCHED: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DS_ACCELERATOR")
"""What a launcher says to its processes, and what DeepSpeed leaves behind in one."""
PACKAGES: Final = ROOT / "out" / "benchmarks" / "packages"
"""Where libraries that only a peer needs are installed: they are no dependencies of this project."""

T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """What something took, in seconds."""

    cpu: float
    wall: float

    def __add__(self, other: Spent) -> Spent:
        """Both, one after the other."""
        return Spent(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: Spent) -> Spent:
        """From one reading of a clock to a later one."""
        return Spent(self.cpu - other.cpu, self.wall - other.wall)

    def __mul__(self, times: float) -> Spent:
        """So many times that."""
        return Spent(self.cpu * times, self.wall * times)


def reading() -> Spent:
    """This process's clocks: CPU since its start, and a wall clock whose zero means nothing."""
    return Spent(time.process_time(), time.perf_counter())


def spent(what: Callable[[], T]) -> tuple[Spent, T]:
    """What a call took, and what came of it."""
    start = reading()
    made = what()
    return reading() - start, made


def median(several: Iterable[Spent]) -> Spent:
    """The median of each clock."""
    parts = list(several)
    return Spent(statistics.median(each.cpu for each in parts), statistics.median(each.wall for each in parts))


def total(several: Iterable[Spent]) -> Spent:
    """The sum of each clock."""
    return sum(several, Spent(0.0, 0.0))


def epoch_steps(readings: Sequence[Spent], steps_per_epoch: int, warm: int = 1) -> Spent:
    """Seconds of a step: the median over epochs of an epoch's mean, the first `warm` epochs left out.

    Steps differ in length, epochs do not: each has the same rows.

    Args:
        readings: of the clocks before the first step and after each.
        steps_per_epoch: steps of one epoch.
        warm: epochs in which memory is touched and kernels are made for the first time.
    """
    ends = readings[::steps_per_epoch]
    each = [(after - before) * (1 / steps_per_epoch) for before, after in pairwise(ends)]
    if len(each) <= warm:
        raise ValueError(f"{len(each)} whole epochs were timed, {warm} of them to warm up")
    return median(each[warm:])


# ------------------------------------------------------------------------------------------------------ processes


def environment(threads: int) -> dict[str, str]:
    """Of a process on either side: so many threads, no network, libraries of the peers, a rank of nobody's."""
    return {
        **{name: value for name, value in os.environ.items() if name not in LAUNCHED},
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(PACKAGES),
    }


def process(command: Sequence[str], threads: int) -> Spent:
    """What a process and its children took, from start to end.

    Raises:
        SystemExit: it failed; the end of what it said is in the message.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        start = time.perf_counter()
        child = subprocess.Popen(  # noqa: S603  the commands of this folder
            command, cwd=ROOT, env=environment(threads), stdout=said, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        took = Spent(usage.ru_utime + usage.ru_stime, time.perf_counter() - start)
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {child.returncode}:\n{said.read()[-4000:]}")
    return took


def ask(module: str, question: Mapping[str, Any], threads: int) -> tuple[Any, Spent]:
    """Run `python -m MODULE QUESTION ANSWER` as a fresh process: what it answers in JSON, and what it took."""
    with tempfile.TemporaryDirectory() as made:
        asked, answered = Path(made, "question.json"), Path(made, "answer.json")
        asked.write_text(json.dumps(question), encoding="utf-8")
        took = process([sys.executable, "-m", module, str(asked), str(answered)], threads)
        return json.loads(answered.read_text(encoding="utf-8")), took


def fetch(*requirements: str) -> None:
    """Install what a peer needs into `PACKAGES`, its own dependencies left out: this project's environment has them."""
    missing = [each for each in requirements if not any(PACKAGES.glob(f"{each.replace('-', '_').replace('==', '-')}*"))]
    if missing:
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(PACKAGES), *missing]
        subprocess.run(command, check=True)  # noqa: S603  a fixed command


def install(*requirements: str) -> None:
    """The same, for this process too."""
    fetch(*requirements)
    if str(PACKAGES) not in sys.path:
        sys.path.append(str(PACKAGES))


# ------------------------------------------------------------------------------------------------------- ceilings


def product_rate(side: int = 2048, times: int = 7) -> Spent:
    """FLOP a second, of CPU and of the wall clock, of a product of two square float32 matrices, the median."""
    import torch

    left, right = torch.randn(side, side), torch.randn(side, side)
    torch.mm(left, right)
    return _rate(2 * side**3, partial(torch.mm, left, right), times)


def copy_rate(megabytes: int = 256, times: int = 7) -> Spent:
    """Bytes a second, read and written, of a copy in memory that no cache holds, the median."""
    import torch

    source = torch.ones(megabytes * 2**20 // 4)
    target = torch.empty_like(source).copy_(source)
    return _rate(2 * megabytes * 2**20, partial(target.copy_, source), times)


def _rate(amount: float, what: Callable[[], object], times: int) -> Spent:
    took = median(spent(what)[0] for _ in range(times))
    return Spent(amount / took.cpu, amount / took.wall)
