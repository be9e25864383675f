"""`TokenObjects`: tokens of a task's rows, made once and read by whoever runs the task next.

Law: nothing here is a result: whoever deletes it all makes pods read and tokenise their rows again, and changes no
score. An object's name is the hash of its bytes, and the folder that it is in the hash of all that determines them
(`reinit.tokencache`). With the key that signs checkpoints, only what was signed with it counts.

    tokens/<what determines them>/<sha256>[.<HMAC-SHA256>]
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Final

from jobs.found import Damaged, NotVerifiedError
from jobs.objects import check_size
from jobs.patient import PatientObjects

MOST_LOOKED_AT: Final = 8
"""Objects of the same tokens: one is expected, and whoever fills a folder with others delays nobody by more."""


class TokenObjects:
    """The tokens of all tasks below one root.

    Args:
        objects: where the bytes are.
        secret: signs names; None signs none and believes whoever can write there.
    """

    def __init__(self, objects: PatientObjects, secret: bytes | None) -> None:
        self._objects = objects
        self._secret = secret

    def find(self, determined_by: str) -> Iterator[tuple[str, bytes] | Damaged]:
        """Key and bytes of each object that verifies, and what is wrong with each other, one read at a time.

        Args:
            determined_by: sha256 in hex of all that determines the tokens.

        Raises:
            TransientError: inconclusive.
            ConfigurationError: the store refuses.
        """

        def parse(key: str, data: bytes) -> tuple[str, bytes]:
            sha256, _, signature = key.rpartition("/")[2].partition(".")
            if hashlib.sha256(data).hexdigest() != sha256:
                raise NotVerifiedError("its content is not what its name says")
            expected = self._signature(determined_by, sha256)
            if expected is not None and not hmac.compare_digest(expected, signature):
                raise NotVerifiedError("it is not signed with this site's key")
            return key, data

        for key in self._objects.keys(f"tokens/{determined_by}/")[:MOST_LOOKED_AT]:
            yield self._objects.read(key, parse)

    def put(self, determined_by: str, data: bytes) -> str:
        """Keep an object and read it back; returns its key.

        Raises:
            TransientError: not known to be kept.
            ConfigurationError: the store refuses, and will again, or the object is too large to be read again.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        signature = self._signature(determined_by, sha256)
        key = f"tokens/{determined_by}/{sha256}" + (f".{signature}" if signature else "")
        check_size(key, len(data), self._objects.url)
        return self._objects.write(key, data)

    def _signature(self, determined_by: str, sha256: str) -> str | None:
        if self._secret is None:
            return None
        return hmac.new(self._secret, f"tokens/{determined_by}/{sha256}".encode(), hashlib.sha256).hexdigest()
