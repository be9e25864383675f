"""Foreign text made fit to be shown: file names, exception texts, keys of a bucket, names in a study.

Law: what is shown can neither move a terminal's cursor nor hide or reorder what stands beside it, and is bounded.
"""

from __future__ import annotations

from typing import Final

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
