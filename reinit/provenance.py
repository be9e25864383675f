"""With what a number is made: commit, image, versions, device.

Law: read once per process, from the machine itself; nothing is guessed, an unknown commit says `unknown`.
"""

from __future__ import annotations

import functools
import os
import platform
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from jobs.cell import Cell
from jobs.result import Provenance
from reinit.ranks import Ranks, device_model

LIBRARIES = ("torch", "transformers", "deepspeed", "tokenizers", "datasets", "numpy", "scipy", "scikit-learn")
"""Libraries whose version can move a bit of a result."""


def read_provenance(cell: Cell, ranks: Ranks, weights_sha256: str, rows_sha256: str) -> Provenance:
    """The provenance of runs of `cell` in this process.

    Args:
        cell: names the data's revision.
        ranks: device and world size.
        weights_sha256: of the weights as they were read.
        rows_sha256: of the rows as they were read.
    """
    return Provenance(
        git_commit=code_commit(),
        image=os.environ.get("REINIT_IMAGE") or None,
        versions=_versions(),
        device=device_model(ranks.device),
        threads=torch.get_num_threads(),
        world_size=ranks.world_size,
        weights_sha256=weights_sha256,
        data_revision=cell.task.source.revision,
        rows_sha256=rows_sha256,
        host=os.environ.get("HOSTNAME") or socket.gethostname(),
    )


@functools.cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


@functools.cache
def code_commit() -> str:
    """HEAD of the checkout that holds this package, with `+dirty` where a package file differs from it.

    Asked once, when the worker starts: a later commit or edit does not change the code that is loaded.
    """
    if named := os.environ.get("REINIT_GIT_COMMIT"):
        return named
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]  # git from the user's PATH
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603

    try:
        top = Path(git("rev-parse", "--show-toplevel"))
        # Installed into some other project's checkout, that project's commit says nothing about this code.
        if top != folder.parent.resolve():
            return "unknown"
        dirty = git("status", "--porcelain", "--", str(top / "reinit"), str(top / "jobs"))
        return git("rev-parse", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
