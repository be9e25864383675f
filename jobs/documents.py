"""Manifests as kubectl reads them: YAML streams, JSON, lists, and the line of each value.

Law: what cannot be read is a `BadDocument` with a line, never a traceback; a document like one before is not read
again, and comes out the same. What a scalar is worth is in `jobs.yamlvalues`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

import yaml

from jobs.alike import Pattern, Patterns
from jobs.finding import Loc
from jobs.yamlvalues import PLAIN, QUOTED, BadDocument, Values

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML built without libyaml: slower, the same nodes
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Document:
    """One object of a stream; `node` is the YAML it came from."""

    data: Any
    number: int
    """From 1, in its file."""
    node: yaml.Node | None = None
    above: int = 0
    """Lines above what the node's own lines are counted from."""
    pattern: Pattern | None = None
    """The document that this one was compared with; itself where it was the first."""
    changed: tuple[Loc, ...] = ()
    """Paths of the scalars whose text is not the pattern's."""

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
        return self.above + line + 1


def read_documents(text: str, patterns: Patterns) -> Iterator[Document]:
    """Every object of the text; items of a List one by one.

    Args:
        text: YAML, or JSON.
        patterns: documents that those of the text are compared with, and are added to.

    Raises:
        BadDocument: when the rest cannot be read; what stands above it has been given out.
    """
    read = _read_json(text) if text.lstrip()[:1] in {"{", "["} else None
    for document in _read_yaml(text, patterns) if read is None else read:
        if document.data is not None:
            yield from _unfolded(document)


def _unfolded(document: Document) -> Iterator[Document]:
    data = document.data
    if isinstance(data, dict) and str(data.get("kind", "")).endswith("List") and isinstance(data.get("items"), list):
        node = None if document.node is None else _child(document.node, "items")
        for index, item in enumerate(data["items"]):
            inner = None if node is None else _child(node, index)
            yield Document(item, document.number, inner, document.above)
    else:
        yield document


def _child(node: yaml.Node, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        found: yaml.Node = node.value[part]
        return found
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    return None


def _read_json(text: str) -> list[Document] | None:
    """The objects of a JSON stream, or None where it is YAML in flow style."""
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    found: list[Document] = []
    end = 0
    while start := re.compile(r"\S").search(text, end):
        try:
            data, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            return None
        if _HALF.search(text):
            _whole(data)
        found.append(Document(data, len(found) + 1))
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
        return PLAIN if kind is yaml.ScalarNode and implicit[0] else QUOTED


def _read_yaml(text: str, patterns: Patterns) -> Iterator[Document]:
    """Part by part, where parts can be told apart; from the first error on as a whole, whose words and lines count."""
    number = 0
    if not any(each in text for each in _CONTEXT) and not text.startswith(("%", "...")):
        above = 0
        try:
            for part in _parts(text):
                lines = part.split("\n")
                for document in _read_part(part, lines, patterns):
                    number += 1
                    yield replace(document, number=number, above=above)
                above += len(lines) - 1
        except (BadDocument, yaml.YAMLError, RecursionError):
            pass  # said below, where the reader sees the whole text
        else:
            return
    for data, node in itertools.islice(read_whole(text), number, None):
        number += 1
        yield Document(data, number, node)


_CONTEXT: Final = ("\n%", "\n...", "\r", "\x85", "\u2028", "\u2029", "\ufeff")
"""Where one of these is in a text, a part of it does not mean by itself what it means in the whole: directives and ends
of documents, and breaks of lines that only YAML counts."""


def _parts(text: str) -> Iterator[str]:
    """The text, cut before each line that is `---` alone: in column 0 it begins a document wherever it stands."""
    start = 0
    while (end := text.find("\n---\n", start)) >= 0:
        yield text[start : end + 1]
        start = end + 1
    yield text[start:]


def _read_part(part: str, lines: list[str], patterns: Patterns) -> Iterator[Document]:
    if (found := patterns.find(lines)) is not None:
        like, alike = found
        yield Document(alike.data, 0, like.node, 0, like, alike.changed)
        return
    read = list(_read_nodes(part))
    pattern = Pattern(lines, *read[0]) if len(read) == 1 else None
    if pattern is not None:
        patterns.keep(pattern)
    for data, node in read:
        yield Document(data, 0, node, 0, pattern)


def _read_nodes(text: str) -> Iterator[tuple[Any, yaml.Node]]:
    loader = _Nodes(text)
    while loader.check_node():
        node: Any = loader.get_node()
        yield Values().value(node, 0), node


def read_whole(text: str) -> Iterator[tuple[Any, yaml.Node]]:
    """The documents of YAML, null where one is empty, read from end to end: what `read_documents` has to agree with.

    Raises:
        BadDocument: when the rest cannot be read.
    """
    try:
        yield from _read_nodes(text)
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
