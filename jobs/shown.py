"""Foreign text made fit to be shown: file names, exception texts, keys of a bucket, names in a study.

Law: what is shown can neither move a terminal's cursor nor hide or reorder what stands beside it, and is bounded. What
is known to be a secret is told by its name alone.
"""

from __future__ import annotations

import re
from typing import Final

SECRET_NAME: Final = re.compile(
    r"(?:^|_)(?:SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|API_KEY|ACCESS_KEY)$", re.IGNORECASE
)
"""Names of variables and settings whose value is a secret, as far as a name tells."""
USER_IN_URL: Final = re.compile(r"//[^/\s@]*@")
"""What stands between a URL's scheme and its host when it carries a user, and perhaps a password."""

WIDEST: Final = 200


def visible(text: str, *, keep: str = "") -> str:
    r"""Every character that would not show or would move its neighbours, by its escape: newline as `\n`.

    Covers control characters, escape codes, line and paragraph separators, bidirectional overrides, zero-width
    characters and lone surrogates. Characters of `keep` stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii") for char in text
    )


def clipped(text: str, width: int = WIDEST) -> str:
    """The first `width` characters, with an ellipsis where more was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"
