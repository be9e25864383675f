"""Looking before leaping: what a study needs on this machine, and the revisions of what lies here.

Law: reads and hashes; nothing is loaded into a network, nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from jobs.doctor import Check, refused
from jobs.errors import DataError, ReinitError
from jobs.plan import PlannedCell
from reinit.data import file_sha256, folder_revision, read_task
from reinit.places import Places, resolve_model, weights_sha256


def study_checks(planned: Iterable[PlannedCell], places: Places) -> list[Check]:
    """One check for each model and each task of a plan."""
    cells = [each.cell for each in planned]
    models = {cell.model.name: cell.model for cell in cells}
    tasks = {cell.task.name: cell.task for cell in cells}
    checks = []
    for model in models.values():
        what = f"model {model.name}"
        try:
            folder = resolve_model(model, places)
            checks.append(Check(what, f"{folder}, weights sha256 {weights_sha256(folder)[:12]}"))
        except ReinitError as error:
            checks.append(refused(what, error))
    for task in tasks.values():
        what = f"task {task.name}"
        try:
            rows = read_task(task, places)
        except ReinitError as error:
            checks.append(refused(what, error))
            continue
        counts = ", ".join(f"{len(split):,} {name}" for name, split in rows.validation.items())
        checks.append(Check(what, f"{len(rows.train):,} training rows, {counts}"))
    return checks


def revision_of(path: Path, files: Sequence[str]) -> str:
    """The revision that a study names a local model, data folder or data file by.

    Args:
        path: a model folder, a data folder, or one file.
        files: files of a data folder, in the order train, then each validation split; none means GLUE's names.

    Raises:
        DataError: nothing here has a revision.
    """
    if path.is_file():
        return "sha256:" + file_sha256(path)
    if not files and list(path.glob("*.safetensors")):
        return "sha256:" + weights_sha256(path)
    if not files and not (path / "train.tsv").is_file():
        raise DataError(
            "neither a model nor a data folder",
            where=str(path),
            expected="safetensors weights, or train.tsv and dev.tsv, or the names of the data files",
            got=", ".join(sorted(entry.name for entry in path.iterdir())[:8]) if path.is_dir() else "no such folder",
        )
    return folder_revision(path, files or ["train.tsv", "dev.tsv"])
