"""The hub: repositories of models and data sets at one commit, from its cache or fetched into it.

Law: the same path online and offline. Where the cache has the files nothing is asked and nothing is written, so that a
thousand pods may share one that is mounted read-only. No code of a repository is fetched or run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from jobs.errors import ConfigurationError, DataError, SpecError, TransientError

CARD: Final = "README.md"
"""A data set's card, whose header says which files belong to which configuration."""

_CODE: Final = ["*.py", "*.ipynb", "*.sh"]


def snapshot(
    kind: Literal["model", "dataset"], name: str, revision: str, files: Sequence[str], but_not: Sequence[str] = ()
) -> Path:
    """The folder of a hub repository at a commit, with the files whose names match.

    Raises:
        SpecError: the name cannot be a repository's.
        DataError: the hub has no such repository or commit.
        ConfigurationError: the hub refuses it, or is switched off and the cache lacks it.
        TransientError: the hub could not be reached.
    """
    from huggingface_hub import constants, errors, snapshot_download  # seconds to import

    where = f"{name} at {revision[:12]}"
    noun = {"model": "model", "dataset": "data set"}[kind]
    try:
        folder = snapshot_download(
            name, repo_type=kind, revision=revision, allow_patterns=list(files), ignore_patterns=list(but_not)
        )
    except errors.HFValidationError as error:
        raise SpecError(
            f"a {noun}'s name is neither a hub id nor mapped to a folder", got=name, remedy=f"--place {name}=FOLDER"
        ) from error
    except errors.GatedRepoError as error:
        raise ConfigurationError(
            f"the hub refuses this {noun}", where=where, remedy="accept its terms on the hub and set HF_TOKEN"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise DataError(
            f"the hub has no such {noun} or commit", where=where, remedy="check both; private ones need HF_TOKEN"
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        if constants.HF_HUB_OFFLINE:
            raise ConfigurationError(
                f"the hub is switched off (HF_HUB_OFFLINE) and its cache lacks this {noun}",
                where=where,
                remedy=f"fill the cache beforehand, or map a folder: --place {name}=FOLDER",
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TransientError("the hub could not be reached", where=where, got=reason) from error
    return Path(folder)


def data_snapshot(name: str, config: str | None, revision: str) -> Path:
    """The folder of a data set's repository with its card and the files of one configuration.

    A card that does not say which files those are leaves all files but code.

    Raises:
        ReinitError: as `snapshot`.
    """
    folder = snapshot("dataset", name, revision, [CARD])
    return snapshot("dataset", name, revision, [CARD, *files_of(folder / CARD, config)], but_not=_CODE)


def files_of(card: Path, config: str | None) -> list[str]:
    """Patterns of the files that a card's header lists for a configuration; `*` where it lists none."""
    return [pattern for each in _configs(_header(card), config) for pattern in _patterns(each)] or ["*"]


def one_configuration(folder: Path, config: str | None, into: Path) -> Path:
    """A folder below `into` that shows the repository's files with a card that knows this configuration alone.

    The library looks at the files of every configuration in a card, and of the others there may be none.
    """
    shown = into / "data"
    shown.mkdir()
    for entry in folder.iterdir():
        if entry.name != CARD:
            (shown / entry.name).symlink_to(entry.resolve())
    header = _header(folder / CARD)
    if found := _configs(header, config):
        name, infos = found[0].get("config_name"), header.get("dataset_info")
        named = (
            [each for each in infos if isinstance(each, dict) and each.get("config_name") == name]
            if isinstance(infos, list)
            else infos
        )
        kept = {"configs": found, **({"dataset_info": named} if named else {})}
        (shown / CARD).write_text(f"---\n{yaml.safe_dump(kept)}---\n", encoding="utf-8")
    elif header:
        (shown / CARD).symlink_to((folder / CARD).resolve())
    return shown


def _header(card: Path) -> dict[str, Any]:
    """The YAML between the first two lines of three dashes; empty where there is none."""
    if not card.is_file():
        return {}
    start, opened, rest = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    header, closed, _ = rest.partition("\n---")
    try:
        fields = yaml.safe_load(header) if opened and closed and not start.strip() else None
    except yaml.YAMLError:
        fields = None
    return fields if isinstance(fields, dict) else {}


def _configs(header: dict[str, Any], config: str | None) -> list[dict[str, Any]]:
    """The configuration of that name, as a list of one or none; without a name the default one, or the first."""
    listed = header.get("configs")
    configs = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    if config is None:
        return ([each for each in configs if each.get("default")] or configs)[:1]
    return [each for each in configs if each.get("config_name") == config][:1]


def _patterns(config: dict[str, Any]) -> list[str]:
    """`data_files` is a pattern, a list of patterns, or a list of {split, path}, a path again one or a list."""

    def flat(value: object) -> list[str]:
        if isinstance(value, str):
            return [value]
        if isinstance(value, dict):
            return flat(value.get("path"))
        return [pattern for each in value for pattern in flat(each)] if isinstance(value, list) else []

    below = config.get("data_dir")
    return flat(config.get("data_files")) or ([f"{below}/*"] if isinstance(below, str) else [])


def is_commit(text: str) -> bool:
    """Whether this is a full git commit."""
    return len(text) == 40 and set(text) <= set("0123456789abcdef")
