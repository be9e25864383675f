"""Strict YAML: text to plain values and the line of each, refusing what other readers guess at.

Law: the core schema of YAML 1.2 (`1e-5` is a number, `yes` is text), every key once and as text, one document,
no tags, and bounds on size, depth and what aliases unfold to. Whatever is wrong is a `SpecError` with file and
line. Source: https://yaml.org/spec/1.2.2/#103-core-schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from jobs.errors import SpecError
from jobs.shown import clipped

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML built without libyaml: slower, the same events
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

Event = Any
"""One of PyYAML's events, whose common attributes its stubs do not know."""

Loc = tuple[str | int, ...]
"""Path of a value: keys and indices from the top."""

MOST_BYTES: Final = 1_000_000
MOST_VALUES: Final = 100_000
"""Values after aliases are unfolded: a few lines of nested aliases can stand for billions."""
MOST_DEPTH: Final = 32
MOST_DIGITS: Final = 400

_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, and what makes text read in another order than it stands in."""


@dataclass(frozen=True)
class Document:
    """A read file: its values, and the line on which each stands."""

    source: str
    """The file, as the user named it."""
    data: dict[str, Any]
    lines: dict[Loc, int]

    def where(self, loc: Loc) -> str:
        """`study.yaml:12 families[0].sizes`; the line is that of the nearest value that the file has."""
        known = next(loc[:end] for end in range(len(loc), -1, -1) if loc[:end] in self.lines)
        return f"{self.source}:{self.lines[known]} {path_text(loc)}".rstrip()


def path_text(loc: Loc) -> str:
    """A path for people: `families[0].sizes[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{clipped(part, 80)}" for part in loc).removeprefix(".")


def read_yaml(path: Path, source: str | None = None) -> Document:
    """The mapping that the file holds.

    Raises:
        SpecError: no readable file there, or not strict YAML with a mapping at the top.
    """
    source = source or str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that holds NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SpecError(f"cannot read {source[:200]!r}: {reason}", expected="a YAML file") from error
    return parse_yaml(data, source)


def parse_yaml(text: str | bytes, source: str) -> Document:
    """The mapping that the text holds; `source` names it in errors.

    Raises:
        SpecError: not strict YAML with a mapping at the top.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MOST_BYTES:
        raise SpecError("the file is too large", where=source, expected=f"at most {MOST_BYTES:,} bytes")
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"byte 0x{data[error.start]:02x}"
        raise SpecError("the file is not UTF-8 text", where=f"{source}:{line}", got=got) from error
    return _Reader(decoded, source).document()


class _Reader:
    """Builds values from the parser's events. Not reusable."""

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._events = self._parsed(text)
        self._lines: dict[Loc, int] = {}
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0

    def document(self) -> Document:
        starts = 0
        data: Any = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                starts += 1
                if starts > 1:
                    self._refuse("a second document begins here", event, expected="one document")
                data = self._value(next(self._events), (), 0)
        if not isinstance(data, dict):
            got = {type(None): "nothing", list: "a list"}.get(type(data), "a single value")
            raise SpecError("the file is not a mapping", where=self._source, expected="lines of `key: value`", got=got)
        return Document(self._source, data, self._lines)

    def _parsed(self, text: str) -> Iterator[Event]:
        try:
            yield from yaml.parse(text, Loader=Loader)
        except yaml.MarkedYAMLError as error:
            mark: Any = error.problem_mark or error.context_mark
            where = f"{self._source}:{mark.line + 1}" if mark else self._source
            raise SpecError(f"not YAML: {error.problem or error.context}", where=where) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise SpecError(f"not YAML: {error.reason}", where=f"{self._source}:{line}") from error

    def _value(self, event: Event, loc: Loc, depth: int) -> Any:
        self._lines.setdefault(loc, event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent):
            return self._unfolded(event)
        before = self._values
        self._count(1, event)
        if depth > MOST_DEPTH:
            self._refuse("nested too deeply", event, expected=f"at most {MOST_DEPTH} levels")
        if event.tag not in (None, "!"):
            self._refuse("YAML tags are not read", event, got=event.tag, expected="the value without the tag")
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(loc, depth)
        else:
            value = self._mapping(loc, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._values - before)
        return value

    def _sequence(self, loc: Loc, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*loc, len(items)), depth + 1))
        return items

    def _mapping(self, loc: Loc, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            if key in items:
                first = self._lines[(*loc, key)]
                self._refuse(f"the key `{key}` stands twice", event, expected=f"once, as on line {first}")
            self._lines[(*loc, key)] = event.start_mark.line + 1
            items[key] = self._value(next(self._events), (*loc, key), depth + 1)
        return items

    def _key(self, event: Event) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag not in (None, "!"):
            self._refuse("a key must be plain text", event)
        return self._text(event)

    def _text(self, event: Event) -> str:
        text = str(event.value)
        if found := _CONTROL.search(text):
            self._refuse("a control character in a text", event, got=f"U+{ord(found[0]):04X}")
        return text

    def _scalar(self, event: Event) -> str | int | float | bool | None:
        text = self._text(event)
        if not event.implicit[0] or event.tag is not None:
            return text  # quoted, a block, or `! text`
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return _TRUE.fullmatch(text) is not None
        if _FLOAT.fullmatch(text) or _OTHER_BASE.fullmatch(text):
            if len(text) > MOST_DIGITS:
                self._refuse("a number of too many digits", event, expected=f"at most {MOST_DIGITS}")
            if _OTHER_BASE.fullmatch(text):
                return int(text, 0)
            return int(text) if _INT.fullmatch(text) else float(text)
        if _NOT_FINITE.fullmatch(text):
            self._refuse("a number must be finite", event, got=text)
        return text

    def _unfolded(self, event: Event) -> Any:
        if event.anchor not in self._anchors:
            self._refuse(f"the alias *{event.anchor} names nothing above it", event)
        value, values = self._anchors[event.anchor]
        self._count(values, event)
        return value

    def _count(self, values: int, event: Event) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            self._refuse("too many values, aliases unfolded", event, expected=f"at most {MOST_VALUES:,}")

    def _refuse(self, problem: str, event: Event, *, expected: str | None = None, got: str | None = None) -> NoReturn:
        where = f"{self._source}:{event.start_mark.line + 1}"
        raise SpecError(problem, where=where, expected=expected, got=got)
