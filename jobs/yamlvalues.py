"""The values that kubectl's reader makes of the nodes of a YAML document.

Law: a plain scalar becomes what kubectl makes of it (`y`, `on`, `1e5` and `0x10` are not text), a key stands once, and
what aliases unfold to is bounded. Source: https://github.com/kubernetes-sigs/yaml, which reads YAML 1.1.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import yaml

MOST_VALUES: Final = 200_000
"""Values of one document after aliases are unfolded; an object of the API is at most 1.5 MB."""
MOST_DEPTH: Final = 100
MOST_DIGITS: Final = 400

PLAIN: Final = "plain"
QUOTED: Final = "quoted"
_YAML: Final = "tag:yaml.org,2002:"
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
_OCTAL = re.compile(r"[-+]?0[0-7]+")
_INT = re.compile(r"[-+]?([0-9]+|0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class BadDocument(Exception):  # noqa: N818  a document is bad, the program is not in error
    """What cannot be read, and where."""

    def __init__(self, rule: str, problem: str, line: int | None, got: str, allowed: str) -> None:
        super().__init__(problem)
        self.rule, self.problem, self.line, self.got, self.allowed = rule, problem, line, got, allowed


class Values:
    """The value of one document's node. Not reusable."""

    def __init__(self) -> None:
        self._count = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        """The value of a node at so many levels below the document's.

        Raises:
            BadDocument: kubectl would not read it, or read it as what nobody meant.
        """
        self._count += 1
        if self._count > MOST_VALUES or depth > MOST_DEPTH:
            got = f"more than {MOST_VALUES:,} values" if depth <= MOST_DEPTH else f"more than {MOST_DEPTH} levels"
            allowed = f"{MOST_VALUES:,} values, aliases unfolded, and {MOST_DEPTH} levels"
            raise _bad(node, "too-large", "The document is too large or refers to itself.", got, allowed)
        if isinstance(node, yaml.ScalarNode):
            return scalar(node)
        if node.tag not in {QUOTED, f"{_YAML}map", f"{_YAML}seq"}:
            raise _bad(node, "yaml-tag", "kubectl does not read this tag.", node.tag, "no tag")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(inner, depth + 1) for inner in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, inner in node.value:
            if key_node.value == "<<" and key_node.tag == PLAIN:
                merged += inner.value if isinstance(inner, yaml.SequenceNode) else [inner]
                continue
            key = key_of(key_node)
            if key in found:
                problem = "A key stands twice; one of the two is lost."
                raise _bad(key_node, "duplicate-key", problem, key, "each key once")
            found[key] = self.value(inner, depth + 1)
        for each in merged:
            base = self.value(each, depth + 1)
            if not isinstance(base, dict):
                raise _bad(each, "yaml-merge", "`<<` merges mappings only.", str(base)[:200], "a mapping")
            found = {**base, **found}
        return found


def _bad(node: yaml.Node, rule: str, problem: str, got: str, allowed: str) -> BadDocument:
    return BadDocument(rule, problem, node.start_mark.line + 1, got, allowed)


def key_of(node: yaml.Node) -> str:
    """The key of a mapping, which is text whatever it looks like."""
    if not isinstance(node, yaml.ScalarNode):
        raise _bad(node, "yaml-key", "A key must be text.", "a list or a mapping", "text")
    value = scalar(node)
    return value if isinstance(value, str) else json.dumps(value)


def scalar(node: yaml.ScalarNode) -> Any:
    """The value of a scalar: text where it was quoted, else what its looks make of it."""
    text: str = node.value
    if node.tag in {QUOTED, f"{_YAML}str"}:
        return text
    if node.tag != PLAIN and node.tag not in {f"{_YAML}{name}" for name in ("int", "float", "bool", "null")}:
        raise _bad(node, "yaml-tag", "kubectl does not read this tag.", node.tag, "no tag")
    if text in _WORDS:
        return _WORDS[text]
    return _number(node, text) if text[0] in "0123456789+-." else text


def _number(node: yaml.ScalarNode, text: str) -> Any:
    plain = text.replace("_", "")
    if _NOT_FINITE.fullmatch(plain):
        raise _bad(node, "not-finite", "A number must be finite.", text, "a finite number")
    if not _INT.fullmatch(plain) and not _FLOAT.fullmatch(plain):
        return text
    if len(plain) > MOST_DIGITS:
        raise _bad(node, "too-large", "A number of too many digits.", text[:50], f"at most {MOST_DIGITS} digits")
    if _OCTAL.fullmatch(plain):
        return int(plain, 8)
    if _INT.fullmatch(plain) and not re.fullmatch(r"[-+]?0[0-9]+", plain):
        return int(plain, 0)
    number = float(plain)
    return number if math.isfinite(number) else text  # beyond a double, kubectl keeps the text
