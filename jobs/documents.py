"""Manifests as kubectl reads them: YAML streams, JSON, lists, and the line of each value.

Law: a plain scalar becomes what kubectl's reader makes of it (`y`, `on`, `1e5` and `0x10` are not text), a key stands
once, and what aliases unfold to is bounded. What cannot be read is a `BadDocument` with a line, never a traceback.
Source: https://github.com/kubernetes-sigs/yaml, which reads YAML 1.1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import yaml

from jobs.finding import Loc

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML built without libyaml: slower, the same nodes
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

MOST_VALUES: Final = 200_000
"""Values of one document after aliases are unfolded; an object of the API is at most 1.5 MB."""
MOST_DEPTH: Final = 100
MOST_DIGITS: Final = 400

_PLAIN: Final = "plain"
_QUOTED: Final = "quoted"
_YAML: Final = "tag:yaml.org,2002:"
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
_OCTAL = re.compile(r"[-+]?0[0-7]+")
_INT = re.compile(r"[-+]?([0-9]+|0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class BadDocument(Exception):  # noqa: N818  a document is bad, the program is not in error
    """What cannot be read, and where."""

    def __init__(self, rule: str, problem: str, line: int | None, got: str, allowed: str) -> None:
        super().__init__(problem)
        self.rule, self.problem, self.line, self.got, self.allowed = rule, problem, line, got, allowed


@dataclass(frozen=True)
class Document:
    """One object of a stream; `node` is the YAML it came from."""

    data: Any
    number: int
    """From 1, in its file."""
    node: yaml.Node | None = None

    def line(self, loc: Loc) -> int | None:
        """The line of the value at a path, or of the nearest value above it that the file has."""
        node = self.node
        if node is None:
            return None
        line = node.start_mark.line
        for part in loc:
            node = _child(node, part)
            if node is None:
                break
            line = node.start_mark.line
        return line + 1


def read_documents(text: str) -> Iterator[Document]:
    """Every object of the text; items of a List one by one.

    Raises:
        BadDocument: when the rest cannot be read; what stands above it has been given out.
    """
    read = _read_json(text) if text.lstrip()[:1] in {"{", "["} else None
    for number, document in enumerate(_read_yaml(text) if read is None else read, 1):
        data, node = document
        if data is not None:
            yield from _unfolded(Document(data, number, node))


def _unfolded(document: Document) -> Iterator[Document]:
    data = document.data
    if isinstance(data, dict) and str(data.get("kind", "")).endswith("List") and isinstance(data.get("items"), list):
        node = None if document.node is None else _child(document.node, "items")
        for index, item in enumerate(data["items"]):
            yield Document(item, document.number, None if node is None else _child(node, index))
    else:
        yield document


def _child(node: yaml.Node, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        found: yaml.Node = node.value[part]
        return found
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    return None


def _read_json(text: str) -> list[tuple[Any, None]] | None:
    """The objects of a JSON stream, or None where it is YAML in flow style."""
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    found: list[tuple[Any, None]] = []
    end = 0
    while start := re.compile(r"\S").search(text, end):
        try:
            data, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            return None
        if _HALF.search(text):
            _whole(data)
        found.append((data, None))
    return found


def _whole(data: Any) -> None:
    """Refuse text with half of a character, which has no UTF-8."""
    try:
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        got = ascii(error.object[error.start : error.end])
        raise BadDocument("utf-8", "A text holds half of a character.", None, got, "whole characters") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadDocument("duplicate-key", "A key stands twice; one of the two is lost.", None, twice, "each key once")
    return found


def _no_constant(text: str) -> NoReturn:
    raise BadDocument("not-finite", "A number must be finite.", None, text, "a finite number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)


class _Nodes(Loader):
    """Composes nodes whose tag says only whether the scalar was plain."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:  # noqa: ARG002  the library's signature
        """The tag of a node that names none."""
        return _PLAIN if kind is yaml.ScalarNode and implicit[0] else _QUOTED


def _read_yaml(text: str) -> Iterator[tuple[Any, yaml.Node]]:
    try:
        loader = _Nodes(text)
        while loader.check_node():
            node: Any = loader.get_node()
            yield _Values().value(node, 0), node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        problem = f"The YAML cannot be read: {error.problem or error.context}."
        raise BadDocument("yaml-syntax", problem, line, _line_of(text, line), "YAML or JSON") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise BadDocument("yaml-syntax", "The YAML cannot be read.", None, str(error)[:200], "YAML or JSON") from error


def _line_of(text: str, line: int | None) -> str:
    lines = text.splitlines()
    return lines[line - 1].strip()[:200] if line is not None and line <= len(lines) else "the end of the text"


class _Values:
    """The value of one document's node. Not reusable."""

    def __init__(self) -> None:
        self._count = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._count += 1
        if self._count > MOST_VALUES or depth > MOST_DEPTH:
            got = f"more than {MOST_VALUES:,} values" if depth <= MOST_DEPTH else f"more than {MOST_DEPTH} levels"
            allowed = f"{MOST_VALUES:,} values, aliases unfolded, and {MOST_DEPTH} levels"
            raise _bad(node, "too-large", "The document is too large or refers to itself.", got, allowed)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if node.tag not in {_QUOTED, f"{_YAML}map", f"{_YAML}seq"}:
            raise _bad(node, "yaml-tag", "kubectl does not read this tag.", node.tag, "no tag")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(inner, depth + 1) for inner in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, inner in node.value:
            if key_node.value == "<<" and key_node.tag == _PLAIN:
                merged += inner.value if isinstance(inner, yaml.SequenceNode) else [inner]
                continue
            key = _key(key_node)
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


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _bad(node, "yaml-key", "A key must be text.", "a list or a mapping", "text")
    value = _scalar(node)
    return value if isinstance(value, str) else json.dumps(value)


def _scalar(node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.tag in {_QUOTED, f"{_YAML}str"}:
        return text
    if node.tag != _PLAIN and node.tag not in {f"{_YAML}{name}" for name in ("int", "float", "bool", "null")}:
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
