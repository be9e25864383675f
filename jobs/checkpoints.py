"""`Checkpoints`: runs that are half done, so that whoever is stopped loses minutes and not hours.

Law: a checkpoint is its manifest, which is written last and names every byte by its sha256; what is given out has been
verified before anybody parses it. Files have plain names and land in a fresh private folder. With a key, only what was
signed with it counts. Nothing here is a result: whoever deletes it all makes runs start over, and changes no score.

    checkpoints/<digest>/<seed>/<step>.<body12>.json      a manifest
    checkpoints/<digest>/<seed>/<sha256>                  a part of a file, named by what is in it

Read from the environment:
    REINIT_CHECKPOINT_KEY_FILE   a file with a secret of at least 16 bytes: manifests are signed with it (HMAC-SHA256)
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AwareDatetime,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from jobs.cell import Digest, Seed, canonical
from jobs.errors import ConfigurationError, TransientError
from jobs.found import Damaged, NotVerifiedError, explain
from jobs.patient import THREADS, PatientObjects, in_parallel
from jobs.result import now
from jobs.tasks import Frozen

PART_BYTES: Final = 16 * 1024 * 1024
"""Most of one object: so much is sent again when a request fails, and a thread holds it twice."""
KEPT: Final = 2
"""Checkpoints of a run that are kept: the last, and the one before it in case the last is damaged."""
SHORTEST_KEY: Final = 16
"""Bytes."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,99}\.pt$")]


class Binding(Frozen):
    """What a checkpoint belongs to: it goes on as this run with these bits, or not at all."""

    digest: Digest
    """Of the cell."""
    seed: Seed
    numerics: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
    """Numerics version: commit, libraries, device, threads, number of ranks, weights and rows."""
    steps: PositiveInt
    """Optimiser steps of the whole run."""

    @property
    def prefix(self) -> str:
        """The folder of this run."""
        return _folder(self.digest, self.seed)


class File(Frozen):
    """A file of a checkpoint."""

    name: FileName
    size: NonNegativeInt
    """Bytes."""
    parts: tuple[Sha256, ...]
    """What it is put together of, in order."""


class Manifest(Frozen):
    """What a checkpoint is."""

    schema_version: Literal[1] = 1
    binding: Binding
    step: PositiveInt
    """Optimiser steps done."""
    seconds: NonNegativeFloat
    """From the pristine network to here, of all attempts that led here."""
    saved_at: AwareDatetime
    files: Annotated[tuple[File, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if len({file.name for file in self.files}) != len(self.files):
            raise ValueError("a file is named twice")
        if self.step > self.binding.steps:
            raise ValueError(f"step {self.step} of {self.binding.steps}")
        return self


class _Signed(Frozen):
    """A manifest as it is kept."""

    manifest: Manifest
    hmac: Sha256 | None


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint that is there: its manifest was verified, its parts are when they are fetched."""

    key: str
    manifest: Manifest


class Checkpoints:
    """The checkpoints of all runs below one root.

    Args:
        objects: where the bytes are.
        key: signs manifests; None signs none and believes whoever can write there.
    """

    def __init__(self, objects: PatientObjects, key: bytes | None) -> None:
        self._objects = objects
        self._key = key

    def put(
        self, binding: Binding, step: int, seconds: float, folder: Path, gives_up: Callable[[], bool] = lambda: False
    ) -> Kept:
        """Keep every file of `folder`, each part read back, then the manifest.

        Args:
            binding: what the checkpoint belongs to.
            step: optimiser steps done.
            seconds: that it took to get here.
            folder: nothing but the checkpoint's files.
            gives_up: asked before each part; true ends the attempt.

        Raises:
            TransientError: not known to be kept, or given up.
            ConfigurationError: the store refuses, and will again.
            OSError: a file cannot be read.
        """

        def send(place: tuple[Path, int]) -> str:
            if gives_up():
                raise TransientError("there was no time to keep a whole checkpoint", where=self._objects.url)
            path, start = place
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(PART_BYTES)
            name = hashlib.sha256(data).hexdigest()
            self._objects.write(f"{binding.prefix}/{name}", data)
            return name

        sized = [(path, path.stat().st_size) for path in sorted(folder.iterdir())]
        places = [(path, start) for path, size in sized for start in range(0, size, PART_BYTES)]
        parts = list(zip(places, in_parallel(send, places), strict=True))
        files = tuple(
            File(name=path.name, size=size, parts=tuple(part for (owner, _), part in parts if owner == path))
            for path, size in sized
        )
        manifest = Manifest(binding=binding, step=step, seconds=seconds, saved_at=now(), files=files)
        body = canonical(_Signed(manifest=manifest, hmac=self._signature(manifest)).model_dump(mode="json"))
        return Kept(self._objects.write(_key(manifest, body), body), manifest)

    def find(self, binding: Binding) -> tuple[list[Kept], list[Damaged]]:
        """The checkpoints from which this run can go on, the latest first, and all others with the reason.

        Raises:
            TransientError: not all could be read.
            ConfigurationError: the store refuses.
        """
        keys = [key for key in self._objects.keys(f"{binding.prefix}/") if key.endswith(".json")]
        read = in_parallel(lambda key: self._objects.read(key, self._verified(binding)), keys)
        good = [each for each in read if isinstance(each, Kept)]
        good.sort(key=lambda each: (each.manifest.step, each.manifest.saved_at, each.key), reverse=True)
        return good, [each for each in read if isinstance(each, Damaged)]

    def fetch(self, kept: Kept, folder: Path) -> None:
        """Write the files into `folder`, which is empty, this process's own, and closed to others.

        Raises:
            NotVerifiedError: a part is missing or is not what the manifest names.
            TransientError, ConfigurationError: as in `find`.
            OSError: there is no room.
        """
        for file in kept.manifest.files:
            left = file.size
            # Never through a link, and never over a file that is there.
            with (folder / file.name).open("xb") as target:
                for some in _runs_of(file.parts, THREADS):
                    for data in in_parallel(lambda part: self._part(kept, part), some):
                        left -= len(data)
                        if left < 0:
                            break
                        target.write(data)
            if left:
                raise NotVerifiedError(f"{file.name} is not {file.size} bytes")

    def prune(self, newest: Kept) -> None:
        """Delete what is older than the last `KEPT` of this run and numerics version.

        Raises:
            TransientError, ConfigurationError: something is left.
        """
        good, _ = self.find(newest.manifest.binding)
        staying, going = good[:KEPT], good[KEPT:]
        needed = {part for kept in staying for part in _parts(kept)}
        # The manifest first: what is left of it then names nothing that is gone.
        for kept in going:
            self._objects.delete(kept.key)
            self._delete(f"{newest.manifest.binding.prefix}/{part}" for part in sorted(set(_parts(kept)) - needed))

    def clear(self, digest: str, seed: int) -> None:
        """Delete every checkpoint of a run, of any numerics version.

        Raises:
            TransientError, ConfigurationError: something is left.
        """
        keys = self._objects.keys(f"{_folder(digest, seed)}/")
        for manifest in (key for key in keys if key.endswith(".json")):
            self._objects.delete(manifest)
        self._delete(key for key in keys if not key.endswith(".json"))

    def seeds(self, digest: str) -> set[int]:
        """The seeds of a cell of which anything is there, by one LIST.

        Raises:
            TransientError, ConfigurationError: as in `find`.
        """
        named = (key.split("/")[2] for key in self._objects.keys(f"checkpoints/{digest}/"))
        return {int(seed) for seed in named if re.fullmatch(r"[0-9]{1,18}", seed)}

    def _delete(self, keys: Iterator[str]) -> None:
        in_parallel(self._objects.delete, keys)

    def _part(self, kept: Kept, name: str) -> bytes:
        def parse(_: str, data: bytes) -> bytes:
            if len(data) > PART_BYTES or hashlib.sha256(data).hexdigest() != name:
                raise NotVerifiedError(f"{len(data)} bytes, which are not those that the manifest names")
            return data

        read = self._objects.read(f"{kept.manifest.binding.prefix}/{name}", parse)
        if isinstance(read, Damaged):
            raise NotVerifiedError(f"part {name[:12]}: {read.reason}")
        return read

    def _verified(self, binding: Binding) -> Callable[[str, bytes], Kept]:
        def parse(key: str, data: bytes) -> Kept:
            try:
                signed = _Signed.model_validate_json(data)
            except ValidationError as error:
                raise NotVerifiedError(explain(error)) from error
            manifest = signed.manifest
            if key != _key(manifest, data):
                raise NotVerifiedError("its content is not what its key names")
            signature = self._signature(manifest)
            if signature is not None and not hmac.compare_digest(signature, signed.hmac or ""):
                raise NotVerifiedError("it is not signed with this site's key")
            for field in Binding.model_fields:
                if (got := getattr(manifest.binding, field)) != (expected := getattr(binding, field)):
                    raise NotVerifiedError(f"it is of {field} {got}, this run is of {expected}")
            return Kept(key, manifest)

        return parse

    def _signature(self, manifest: Manifest) -> str | None:
        if self._key is None:
            return None
        return hmac.new(self._key, canonical(manifest.model_dump(mode="json")), hashlib.sha256).hexdigest()


def checkpoint_key(environment: Mapping[str, str] = os.environ) -> bytes | None:
    """The secret that signs manifests, None where the site has none.

    Raises:
        ConfigurationError: the file cannot be read, or is too short to be a secret.
    """
    if not (name := environment.get("REINIT_CHECKPOINT_KEY_FILE")):
        return None
    try:
        key = Path(name).read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(
            "the key of checkpoints cannot be read",
            where=name,
            got=error.strerror,
            remedy="mount the Secret that holds it, or unset REINIT_CHECKPOINT_KEY_FILE",
        ) from error
    if len(key) < SHORTEST_KEY:
        raise ConfigurationError(
            "the key of checkpoints is too short",
            where=name,
            expected=f"at least {SHORTEST_KEY} bytes, such as those of `openssl rand -hex 32`",
            got=f"{len(key)} bytes",
        )
    return key


def _folder(digest: str, seed: int) -> str:
    return f"checkpoints/{digest}/{seed}"


def _key(manifest: Manifest, body: bytes) -> str:
    return f"{manifest.binding.prefix}/{manifest.step:09d}.{hashlib.sha256(body).hexdigest()[:12]}.json"


def _parts(kept: Kept) -> Iterator[str]:
    return (part for file in kept.manifest.files for part in file.parts)


def _runs_of(parts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (parts[start : start + size] for start in range(0, len(parts), size))
