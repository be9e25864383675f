"""Data sets of a hub: the files that a configuration needs, and its splits as `datasets` reads them.

Law: one path online and offline, for a snapshot of the hub's cache and for a folder that the site names. `datasets`
sees neither: it reads links to the files that are needed, in a temporary folder that also takes all that it writes, so
that a snapshot may be read-only and need not hold other configurations. No code of a repository is ever run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from jobs.cell import canonical
from jobs.errors import DataError
from jobs.tasks import HubSource
from reinit.hub import CODE, Repository, fetch, is_commit, is_offline, not_cached
from reinit.places import Places

CARD: Final = "README.md"
"""The file whose YAML header names configurations and their files."""
TABLES: Final = frozenset({".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".arrow", ".txt", ".zip"})
"""Suffixes of files that rows can be in; behind one, `datasets` also reads a suffix of compression."""
_ABOUT: Final = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "config.json"})
"""Files with such a suffix that hold no rows."""


def described(source: HubSource) -> str:
    """Name, configuration and commit, for a message."""
    return f"{source.name} ({source.config or 'default'}) at {source.revision[:12]}"


@contextmanager
def open_splits(source: HubSource, places: Places) -> Iterator[Callable[[str], Any]]:
    """A function from a split's name to its `datasets.Dataset`, which is good until the context ends.

    Raises:
        ConfigurationError: there is neither a place nor a cached snapshot, and the hub is switched off or refuses.
        DataError: the repository has no such configuration, files or split, or they cannot be read.
        SpecError: the source's name is neither a hub id nor mapped to a folder.
        TransientError: the hub could not be reached.
    """
    with TemporaryDirectory(prefix="reinit-data-") as scratch:
        view, cache = Path(scratch, "view"), Path(scratch, "cache")
        mapped = places.get(source.name)
        if mapped is None:
            _fetch_into(view, source)
        else:
            _check_commit(source, mapped)
            card = read_card(mapped, source)
            _link(view, source, mapped, card, patterns_of(card, source))

        def load(split: str) -> Any:
            return _load(view, cache, source, split)

        yield load


def bound_to(source: HubSource, places: Places) -> str:
    """The commit, where the hub's client or the name of a snapshot's folder vouches for it; else the hash of the files.

    Any other folder is taken at its word, and one word may stand for other rows on other machines.

    Raises:
        ConfigurationError, DataError: as in `open_splits`.
    """
    mapped = places.get(source.name)
    if mapped is None:
        return source.revision
    _check_commit(source, mapped)
    if mapped.name == source.revision:
        return source.revision
    card = read_card(mapped, source)
    digest = hashlib.sha256(canonical(card))
    for name in _matching(mapped, patterns_of(card, source)):
        try:
            with (mapped / name).open("rb") as file:
                digest.update(f"\n{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}".encode())
        except OSError as error:
            raise DataError(f"cannot read {name}", where=str(mapped), got=error.strerror) from error
    return "sha256:" + digest.hexdigest()


def each_row(table: Any) -> Iterator[dict[str, Any]]:
    """The rows of a `datasets.Dataset`, in order; asked for one by one they take many times as long."""
    for columns in table.iter(batch_size=1000):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _fetch_into(view: Path, source: HubSource) -> None:
    """The card first: it says which files the configuration needs."""
    repository = Repository("dataset", source.name, source.revision)
    card = read_card(fetch(repository, [CARD]), source)
    patterns = patterns_of(card, source)
    folder = fetch(repository, None if patterns is None else [CARD, *patterns])
    absent = [pattern for pattern in patterns or () if not _matching(folder, [pattern])]
    if absent and is_offline():
        # A cache without the hub's list of files cannot tell by itself that it is incomplete.
        raise not_cached(repository)
    _link(view, source, folder, card, patterns)


def _load(view: Path, cache: Path, source: HubSource, split: str) -> Any:
    import datasets  # seconds to import, and only hub tasks need it

    try:
        return datasets.load_dataset(str(view), source.config, split=split, cache_dir=str(cache))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = error.__cause__ or error  # that a data set could not be generated says nothing
        raise DataError(
            f"cannot load split {split} of a data set",
            where=described(source),
            got=str(reason).splitlines()[0] if str(reason) else type(reason).__name__,
            remedy="check configuration and split in the study, and that the files are whole",
        ) from error


def read_card(folder: Path, source: HubSource) -> dict[str, Any]:
    """What the card says that matters to the source's configuration: its entry in `configs`, and `dataset_info`.

    Raises:
        DataError: the card's header cannot be read, or lists no such configuration.
    """
    from huggingface_hub import metadata_load

    path = folder / CARD
    try:
        header = (metadata_load(path) if path.is_file() else None) or {}
        entries = [{**entry, "config_name": str(entry["config_name"])} for entry in header.get("configs") or []]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "the card of a data set cannot be read",
            where=str(path),
            expected="a YAML header, its `configs` a list of entries with config_name",
            got=str(error).splitlines()[0],
        ) from error
    info = {"dataset_info": header["dataset_info"]} if "dataset_info" in header else {}
    return {"configs": [_chosen(entries, source, path)], **info} if entries else {}


def patterns_of(card: Mapping[str, Any], source: HubSource) -> list[str] | None:
    """Patterns of the files that the card names for the source's configuration, for the hub's client; None is all.

    To that client `*` also stands for slashes, to `datasets` `**/` also for no folder: these match all that it means.

    Raises:
        DataError: a pattern leads out of the repository.
    """
    if not card:
        return None
    entry = card["configs"][0]
    below = str(entry.get("data_dir") or "").strip("/")
    named = list(_paths(entry.get("data_files"))) or (["**"] if below else [])
    for path in (below, *named):
        if "::" in path or "://" in path or path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise DataError(
                "the card of a data set names files outside its repository",
                where=described(source),
                expected="paths relative to the repository",
                got=path,
                remedy="choose another revision, or map a folder that holds the files",
            )
    inside = [str(PurePosixPath(below, path)) for path in named]
    return sorted({each for path in inside for each in (path, path.replace("**/", ""))}) or None


def _paths(data_files: object) -> Iterator[str]:
    """The paths of `data_files`: text, a list of texts, or a list of {split, path}."""
    if isinstance(data_files, str):
        yield data_files
    elif isinstance(data_files, list):
        for each in data_files:
            yield from _paths(each)
    elif isinstance(data_files, dict):
        yield from _paths(data_files.get("path"))


def _chosen(entries: list[dict[str, Any]], source: HubSource, path: Path) -> dict[str, Any]:
    """The entry of the source's configuration, by the rules of `datasets` where the source names none."""
    names = [entry["config_name"] for entry in entries]
    if source.config is not None:
        found = [entry for entry in entries if entry["config_name"] == source.config]
    else:
        found = [entry for entry in entries if entry["config_name"] == "default" or entry.get("default")]
        found = found or (entries if len(entries) == 1 else [])
    if len(found) != 1:
        raise DataError(
            "a data set has no such configuration",
            where=str(path),
            expected="one of its configurations",
            got=source.config or "none named, and it has no default",
            allowed=", ".join(names),
        )
    return found[0]


def _link(view: Path, source: HubSource, folder: Path, card: Mapping[str, Any], patterns: list[str] | None) -> None:
    """Fill `view` with links to the files that are needed, under a card that names this configuration alone."""
    files = _matching(folder, patterns)
    if not any(_holds_rows(PurePosixPath(file)) for file in files):
        raise DataError(
            "a data set has no file of rows; code that would make some is never run",
            where=str(folder),
            expected=", ".join(sorted(TABLES)),
            got=", ".join(files[:8]) or "no files",
            remedy="choose a commit with files of rows (the hub's branch refs/convert/parquet often has them), "
            f"or map a folder: --place {source.name}=FOLDER",
        )
    for file in files:
        (view / file).parent.mkdir(parents=True, exist_ok=True)
        (view / file).symlink_to((folder / file).absolute())
    if card:
        (view / CARD).unlink(missing_ok=True)
        (view / CARD).write_text(f"---\n{yaml.safe_dump(dict(card))}---\n", encoding="utf-8")


def _matching(folder: Path, patterns: list[str] | None) -> list[str]:
    """Relative names of the files that match as the hub's client does, sorted; no code, nothing in hidden folders."""
    found = []
    for parent, children, names in os.walk(folder):
        children[:] = [child for child in children if not child.startswith(".")]
        found += [Path(parent, name).relative_to(folder).as_posix() for name in names]
    return sorted(
        name
        for name in found
        if (patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns))
        and not any(fnmatchcase(name, pattern) for pattern in CODE)
    )


def _holds_rows(file: PurePosixPath) -> bool:
    return file.name not in _ABOUT and not TABLES.isdisjoint(file.suffixes)


def _check_commit(source: HubSource, folder: Path) -> None:
    """The hub's cache names each snapshot's folder by its commit; any other folder is taken at its word."""
    if is_commit(folder.name) and folder.name != source.revision:
        raise DataError(
            f"the place of {source.name} is another commit than the study names",
            where=str(folder),
            expected=source.revision,
            got=folder.name,
            remedy="map the snapshot of that commit, or change the study's revision (other data, other cells)",
        )
