"""Plain values (dicts, lists, text, integers, booleans) as YAML text, fast and byte-stable.

Law: every value that is text is in double quotes, since bare `1e5`, `y` or `0o7` is a number or a truth value to some
reader; no anchors, no line is ever folded. What any reader of YAML 1.1 or 1.2 makes of the text is the value itself.
A general library takes most of a minute for 10,000 Jobs; `benchmarks/render.py` prints both times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

_BARE_KEY: Final = re.compile(r"[a-z][A-Za-z0-9._/-]*[A-Za-z0-9]")
_WORDS: Final = frozenset({"yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})
"""Words that some reader takes for something else than text."""

_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""What YAML wants escaped and JSON does not; a JSON string is a double-quoted YAML string otherwise."""

_encode = json.JSONEncoder(ensure_ascii=False).encode


def document(value: Mapping[str, object]) -> str:
    """The mapping as one block-style YAML document, without `---`.

    Raises:
        TypeError: something in it is neither dict, list, text, integer nor boolean.
    """
    lines: list[str] = []
    _mapping(value, "", "", lines)
    return "".join(lines) or "{}\n"


def quoted(text: str) -> str:
    """Text in double quotes, on one line."""
    encoded = _encode(text)
    if encoded.isascii() and "\x7f" not in encoded:
        return encoded
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)


def _mapping(value: Mapping[str, object], first: str, indent: str, lines: list[str]) -> None:
    """One line an entry; the first begins with `first`, which is the indentation or ends in a list's dash."""
    for key, inner in value.items():
        if isinstance(inner, str):
            lines.append(f"{first}{_key(key)}: {quoted(inner)}\n")
        elif isinstance(inner, dict) and inner:
            lines.append(f"{first}{_key(key)}:\n")
            _mapping(inner, indent + "  ", indent + "  ", lines)
        elif isinstance(inner, list) and inner:
            lines.append(f"{first}{_key(key)}:\n")
            # Items start at the indentation of their key, as kubectl prints them.
            _sequence(inner, indent, indent, lines)
        else:
            lines.append(f"{first}{_key(key)}: {_scalar(inner)}\n")
        first = indent


def _sequence(value: Sequence[object], first: str, indent: str, lines: list[str]) -> None:
    for item in value:
        if isinstance(item, dict) and item:
            _mapping(item, f"{first}- ", indent + "  ", lines)
        elif isinstance(item, list) and item:
            _sequence(item, f"{first}- ", indent + "  ", lines)
        else:
            lines.append(f"{first}- {_scalar(item)}\n")
        first = indent


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict) and not value:
        return "{}"
    if isinstance(value, list) and not value:
        return "[]"
    raise TypeError(f"expected a dict, list, text, integer or boolean, got {type(value).__name__}")


@cache
def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) and key not in _WORDS else quoted(key)
