"""`reinit doctor`: what this machine and store can do, said before hours are spent.

Law: every check says what it found, good or bad; nothing is repaired and nothing is left behind.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from jobs.errors import ConfigurationError, ReinitError
from jobs.local import find_gpus
from jobs.store import open_store

LIBRARIES: Final = {
    "to run cells here (extra `train`)": ("torch", "transformers", "datasets", "deepspeed", "scikit-learn"),
    "to make tables (extra `aggregate`)": ("pandas", "scipy", "matplotlib"),
}


@dataclass(frozen=True)
class Check:
    """One thing looked at; `exit_code` is 0 where it is good."""

    what: str
    found: str
    exit_code: int = 0


def refused(what: str, error: ReinitError) -> Check:
    """A check that ended in a refusal."""
    return Check(what, str(error), error.exit_code)


def machine_checks() -> list[Check]:
    """Python, cores, memory, GPUs and libraries of this machine."""
    gpus = find_gpus()
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    return [
        Check("Python", platform.python_version()),
        Check("CPU", f"{len(os.sched_getaffinity(0))} cores, {_memory_gib():.0f} GiB of memory"),
        Check("GPUs", f"{len(gpus)} ({', '.join(gpus)})" if gpus else "none: cells run on the CPU"),
        Check("hub", "offline (HF_HUB_OFFLINE=1): only caches and places are read" if offline else "may be asked"),
        *(_libraries(purpose, names) for purpose, names in LIBRARIES.items()),
    ]


def store_check(url: str) -> Check:
    """Write to the store and read back, as every pod does first."""
    what = f"store {url}"
    try:
        open_store(url).check()
    except ReinitError as error:
        return refused(what, error)
    return Check(what, "written to and read back")


def _libraries(purpose: str, names: tuple[str, ...]) -> Check:
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(purpose, f"missing: {', '.join(missing)}", ConfigurationError.exit_code)
    return Check(purpose, ", ".join(found))


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
