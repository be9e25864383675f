"""Repositories of a hub, models and data sets alike: one commit as a folder, fetched or found in the hub's cache.

Law: what the cache has is not asked for again, and with HF_HUB_OFFLINE nothing is written, not even a lock, so that the
cache may be read-only. No code of a repository is fetched, and no link of the cache is followed out of its repository.
The hub's client is imported only when a hub is meant.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from jobs.errors import ConfigurationError, DataError, SpecError, TransientError

CODE: Final = ("*.py", "*.pyc", "*.ipynb", "*.sh", "*.pkl", "*.pickle")
"""Files that are never fetched: what runs, or runs when it is read."""

_NOUNS: Final = {"model": "model", "dataset": "data set"}


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    kind: Literal["model", "dataset"]
    name: str
    """Its id, for example `nyu-mll/glue`."""
    commit: str

    @property
    def noun(self) -> str:
        """What people call it."""
        return _NOUNS[self.kind]

    @property
    def where(self) -> str:
        """Name and commit for a message."""
        return f"{self.name} at {self.commit[:12]}"

    @property
    def elsewhere(self) -> str:
        """The remedy where no hub serves it."""
        return f"--place {self.name}=FOLDER"


def is_commit(text: str) -> bool:
    """Whether this is a full git commit, as the hub's cache names the folder of a snapshot."""
    return len(text) == 40 and set(text) <= set("0123456789abcdef")


def is_offline() -> bool:
    """Whether the hub is switched off (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def fetch(repository: Repository, allow: Sequence[str] | None, ignore: Sequence[str] = CODE) -> Path:
    """The folder of a repository's files, from the cache where they are complete there.

    Args:
        repository: what is fetched.
        allow: patterns of the files that are needed, `*` also standing for slashes; None is all.
        ignore: patterns of files that are not, whatever `allow` says.

    Raises:
        ConfigurationError: the hub is switched off and the cache lacks it, or the hub refuses access.
        DataError: the hub has no such repository or commit, or a link of the cache leads out of the repository.
        SpecError: the name cannot be a repository's.
        TransientError: the hub could not be reached.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.commit,
            allow_patterns=None if allow is None else list(allow),
            ignore_patterns=list(ignore),
            local_files_only=is_offline(),
        )
    except errors.HFValidationError as error:
        raise SpecError(
            f"a {repository.noun}'s name is neither a hub id nor mapped to a folder",
            got=repository.name,
            remedy=repository.elsewhere,
        ) from error
    except errors.GatedRepoError as error:
        raise ConfigurationError(
            f"the hub refuses this {repository.noun}",
            where=repository.where,
            remedy="accept its terms on the hub and set HF_TOKEN",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise DataError(
            f"the hub has no such {repository.noun} or commit",
            where=repository.where,
            remedy="check both; private ones need HF_TOKEN",
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        if is_offline():
            raise not_cached(repository) from error
        if getattr(error, "errno", None) in {errno.EACCES, errno.EROFS}:
            raise ConfigurationError(
                f"the hub's cache lacks this {repository.noun} and cannot be written",
                where=repository.where,
                got=str(error),
                remedy="set HF_HUB_CACHE to a folder that can be, or HF_HUB_OFFLINE=1 where the cache is filled",
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TransientError("the hub could not be reached", where=repository.where, got=reason) from error
    _refuse_links_out(repository, Path(folder))
    return Path(folder)


def not_cached(repository: Repository) -> ConfigurationError:
    """The refusal of what an offline cache lacks."""
    return ConfigurationError(
        f"the hub is switched off (HF_HUB_OFFLINE) and its cache lacks this {repository.noun}",
        where=repository.where,
        remedy=f"fill the cache where the hub can be reached (reinit doctor STUDY), or map a folder: "
        f"{repository.elsewhere}",
    )


def _refuse_links_out(repository: Repository, snapshot: Path) -> None:
    """A snapshot is links to blobs of its own repository (`<repository>/snapshots/<commit>`, `<repository>/blobs`)."""
    root = snapshot.parents[1].resolve()
    for path in snapshot.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise DataError(
                f"the hub's cache of a {repository.noun} links out of its repository",
                where=str(path),
                expected=f"a link to a file below {root}",
                got=str(path.resolve()),
                remedy=f"fetch it again into an empty cache, or map a folder: {repository.elsewhere}",
            )
