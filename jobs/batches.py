"""A folder of manifests: numbered files of many Jobs each, and the `kustomization.yaml` that lists them.

Law: the folder holds this output and nothing else, so that what is applied is what was rendered last. A file is known
as ours by its first line; a folder with any other file is refused and left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jobs.errors import ConfigurationError, SpecError
from jobs.manifest import Manifest, to_yaml
from jobs.yamltext import document

HEADER: Final = "# Written by `reinit render`, which replaces this file: edits are lost.\n"
KUSTOMIZATION: Final = "kustomization.yaml"
MOST_NAMED: Final = 5


def write_batches(folder: Path, manifests: Sequence[Manifest], size: int) -> list[str]:
    """Write the manifests in their order, at most `size` in a file, and remove what an earlier call wrote.

    Returns:
        names of the batch files; none, and an empty folder, where there is no manifest.

    Raises:
        SpecError: the folder holds files that are not this command's.
        ConfigurationError: it cannot be made or written to.
    """
    starts = range(0, len(manifests), size)
    width = max(4, len(str(len(starts))))
    files = {f"{number:0{width}}.yaml": to_yaml(manifests[at : at + size]) for number, at in enumerate(starts, 1)}
    names = list(files)
    if files:
        # Jobs are listed, and so created, in the study's order and not in that of their names.
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "sortOptions": {"order": "fifo"},
            "resources": names,
        }
        files[KUSTOMIZATION] = document(kustomization)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in _earlier_output(folder) - files.keys():
            (folder / stale).unlink()
        for name, text in files.items():
            (folder / name).write_text(HEADER + text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigurationError("manifests cannot be written", where=str(folder), got=error.strerror) from error
    return names


def _earlier_output(folder: Path) -> set[str]:
    """Names of the files in the folder, all of them ours."""
    entries = sorted(folder.iterdir())
    others = [entry.name for entry in entries if not _is_ours(entry)]
    if others:
        more = f" and {len(others) - MOST_NAMED} more" * (len(others) > MOST_NAMED)
        raise SpecError(
            "the folder holds other files",
            where=str(folder),
            expected="a new or empty folder, or one that `reinit render` wrote",
            got=", ".join(others[:MOST_NAMED]) + more,
            remedy="name another folder with -o",
        )
    return {entry.name for entry in entries}


def _is_ours(entry: Path) -> bool:
    if entry.is_symlink() or not entry.is_file():
        return False
    with entry.open("rb") as file:
        return file.read(len(HEADER)) == HEADER.encode()
