"""Documents like one read before: line by line the same but for a few scalars, so of the same structure.

Law: what is given out is what reading the whole document would give, or nothing. A scalar may differ where it ends its
line, outside flow style, and is written so plainly that it cannot be read in two ways: in quotes without rare escapes,
or a word. The Jobs of a study differ in that way, and a comparison of lines takes a hundredth of reading YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import compress, count
from operator import ne
from typing import Any, Final, NamedTuple

import yaml

from jobs.finding import Loc
from jobs.yamlvalues import PLAIN, QUOTED, BadDocument, key_of, scalar

MOST_KEPT: Final = 4
"""Documents that a new one is compared with at most: those last found alike, and those last read. With 16, a stream of
which none are alike takes 1.8 times as long, since nodes that live long are slow to make and to free."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+=-]*(:[A-Za-z0-9._/@+=-]+)*")
_DOUBLE = re.compile(r'"[ !#-\[\]-~]*(\\["\\][ !#-\[\]-~]*)*"')
_SINGLE = re.compile(r"'[ -&(-~]*'")


class _Leaf(NamedTuple):
    """A scalar that ends its line."""

    loc: Loc
    column: int
    node: yaml.ScalarNode


class Alike(NamedTuple):
    """What became of a document that is like another."""

    data: Any
    changed: tuple[Loc, ...]
    """Paths of the scalars whose text differs; every other value is the very object of the other document."""


class Pattern:
    """One document that was read whole, to compare others with."""

    def __init__(self, lines: Sequence[str], data: Any, node: yaml.Node) -> None:
        self.lines, self.data, self.node = lines, data, node
        self._plain: dict[int, _Leaf | None] = {}

    def compare(self, lines: Sequence[str]) -> Alike | None:
        """The document of these lines, as many as the pattern's, or None where only reading it whole can tell."""
        changes: list[tuple[Loc, Any]] = []
        for index in compress(count(), map(ne, self.lines, lines)):
            leaf = self._leaf(index)
            if leaf is None:
                return None
            line, column = lines[index], leaf.column
            if line[:column] != self.lines[index][:column]:
                return None
            value = _value(line[column:], leaf.node)
            if value is ...:
                return None
            changes.append((leaf.loc, value))
        return Alike(_changed(self.data, changes), tuple(loc for loc, _ in changes))

    def _leaf(self, index: int) -> _Leaf | None:
        """What may differ in a line."""
        if index not in self._plain:
            # Looking for leaves takes as long as half a reading, and a comment is no reason to.
            leaf = None if self.lines[index].lstrip().startswith("#") else self._leaves.get(index)
            plain = leaf is not None and _value(self.lines[index][leaf.column :], leaf.node) is not ...
            self._plain[index] = leaf if plain else None
        return self._plain[index]

    @cached_property
    def _leaves(self) -> dict[int, _Leaf]:
        """By the index of the line; empty where aliases or merges make one node stand for several values."""
        seen: set[int] = set()
        found: dict[int, _Leaf] = {}
        left: list[tuple[Loc, yaml.CollectionNode]] = []
        if isinstance(self.node, yaml.CollectionNode):
            left.append(((), self.node))
        while left:
            loc, node = left.pop()
            for key, inner in _entries(node):
                if id(inner) in seen or key == "<<":
                    return {}
                seen.add(id(inner))
                if isinstance(inner, yaml.CollectionNode):
                    left.append(((*loc, key), inner))
                elif isinstance(inner, yaml.ScalarNode) and not node.flow_style and self._ends_its_line(inner):
                    found[inner.start_mark.line] = _Leaf((*loc, key), inner.start_mark.column, inner)
        return found

    def _ends_its_line(self, node: yaml.ScalarNode) -> bool:
        line = node.start_mark.line
        return bool(line == node.end_mark.line and node.end_mark.column == len(self.lines[line]))


class Patterns:
    """Documents read lately. One object for all files of a check: their Jobs are alike across files too."""

    def __init__(self) -> None:
        self._kept: list[Pattern] = []

    def find(self, lines: Sequence[str]) -> tuple[Pattern, Alike] | None:
        """The document of these lines, and the one that it is like."""
        for index, pattern in enumerate(self._kept):
            if len(pattern.lines) == len(lines) and (alike := pattern.compare(lines)) is not None:
                self._kept.insert(0, self._kept.pop(index))
                return pattern, alike
        return None

    def keep(self, pattern: Pattern) -> None:
        """Compare with this one from now on."""
        self._kept = [pattern, *self._kept[: MOST_KEPT - 1]]


def _entries(node: yaml.CollectionNode) -> Iterable[tuple[str | int, yaml.Node]]:
    if isinstance(node, yaml.SequenceNode):
        return enumerate(node.value)
    return ((key_of(key), inner) for key, inner in node.value)


def _value(text: str, like: yaml.ScalarNode) -> Any:
    """The value of a scalar that stands where another did, in the same style; `...` where that is not certain."""
    if like.tag == QUOTED:
        if text[:1] == like.style == '"' and _DOUBLE.fullmatch(text):
            return json.loads(text)
        return text[1:-1] if text[:1] == like.style == "'" and _SINGLE.fullmatch(text) else ...
    if like.tag != PLAIN or not _WORD.fullmatch(text):
        return ...
    try:
        return scalar(yaml.ScalarNode(PLAIN, text, like.start_mark, like.end_mark))
    except BadDocument:
        return ...


def _changed(data: Any, changes: Sequence[tuple[Loc, Any]]) -> Any:
    """A copy along the paths of the changes; what they do not touch is shared."""
    if not changes:
        return data
    copies: dict[Loc, Any] = {(): data.copy()}
    for loc, value in changes:
        inner = copies[()]
        for end in range(1, len(loc)):
            path = loc[:end]
            below = copies.get(path)
            if below is None:
                below = copies[path] = inner[path[-1]] = inner[path[-1]].copy()
            inner = below
        inner[loc[-1]] = value
    return copies[()]
