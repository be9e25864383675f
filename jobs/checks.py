"""Every check of one Job, and the same for Jobs alike without checking again what they share.

Law: `Checks.of` finds what `lint_job` finds. A rule is a function of the values that it reads, so for a Job that
differs from another in a few scalars only the rules that read one of them are asked again; which those are is seen by
watching the rules on the other, not declared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final
from weakref import WeakKeyDictionary

from jobs import podrules, podsecurity, rules
from jobs.alike import Pattern
from jobs.documents import Document
from jobs.finding import At, Finding, Loc
from jobs.rules import Job, Site
from jobs.schemas import any_text, check_schema

ALL_RULES: Final = (*rules.RULES, *podrules.RULES, *podsecurity.RULES)


def lint_job(job: dict[str, Any], site: Site) -> list[Finding]:
    """Check one Job, by schema and by every rule; a rule is silent where the schema has spoken."""
    view = Job(At(job), site)
    return _heard(list(check_schema(job, site.version)), [each for rule in ALL_RULES for each in rule(view)])


def _heard(schema: list[Finding], found: list[Finding]) -> list[Finding]:
    spoken = {each.loc for each in schema}
    return schema + [
        each for each in found if not any(each.loc[:end] in spoken for end in range(len(each.loc) + 1) if spoken)
    ]


class Checks:
    """Checks Jobs, and remembers those that others are alike."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._watched: WeakKeyDictionary[Pattern, _Watched] = WeakKeyDictionary()

    def of(self, document: Document) -> list[Finding]:
        """The findings of a document that is a Job."""
        pattern = document.pattern
        if pattern is None or document.data is pattern.data:
            return lint_job(document.data, self.site)
        watched = self._watched.get(pattern)
        if watched is None:
            watched = self._watched[pattern] = _Watched(pattern.data, self.site)
        return watched.findings(document.data, document.changed)


class _Watched:
    """What each rule found in one Job, and what it read there."""

    def __init__(self, job: dict[str, Any], site: Site) -> None:
        self._site = site
        self._schema = list(check_schema(job, site.version))
        self._found: list[list[Finding]] = []
        self._read: list[set[Loc]] = []
        for rule in ALL_RULES:
            read: set[Loc] = set()
            self._found.append(list(rule(Job(_Seen(job, (), read), site))))
            self._read.append(read)
        self._telling = frozenset(index for index, found in enumerate(self._found) if found)
        self._readers = cache(self._read_by)

    def findings(self, job: dict[str, Any], changed: Iterable[Loc]) -> list[Finding]:
        """The findings of a Job that differs in these scalars and in nothing else."""
        asked: set[int] = set()
        for loc in changed:
            asked |= self._readers(loc)
        view = Job(At(job), self._site)
        found: list[Finding] = []
        for index in sorted(asked | self._telling):
            found += ALL_RULES[index](view) if index in asked else self._found[index]
        return _heard(list(self._by_schema(job, changed)), found)

    def _by_schema(self, job: dict[str, Any], changed: Iterable[Loc]) -> Iterable[Finding]:
        version = self._site.version
        alike = not self._schema and all(isinstance(_at(job, loc), str) and any_text(loc, version) for loc in changed)
        return () if alike else check_schema(job, version)

    def _read_by(self, loc: Loc) -> frozenset[int]:
        """The rules that read a value, or one that it is part of."""
        paths = {loc[:end] for end in range(len(loc) + 1)}
        return frozenset(index for index, read in enumerate(self._read) if paths & read)


def _at(data: Any, loc: Loc) -> Any:
    for part in loc:
        data = data[part]
    return data


class _Seen(At):
    """A value that notes who asks for it. Going down asks for nothing: alike Jobs have the same fields and lists."""

    __slots__ = ("_hidden", "_read")
    _hidden: Any
    _read: set[Loc]

    def __init__(self, value: Any, loc: Loc, read: set[Loc]) -> None:
        for name, part in (("_hidden", value), ("loc", loc), ("_read", read)):
            object.__setattr__(self, name, part)

    @property
    def value(self) -> Any:
        """The value, which is noted."""
        self._read.add(self.loc)
        return self._hidden

    def __getitem__(self, key: str) -> At:
        inner = self._hidden.get(key) if isinstance(self._hidden, dict) else None
        return _Seen(inner, (*self.loc, key), self._read)

    def __iter__(self) -> Iterator[At]:
        if isinstance(self._hidden, list):
            for index, item in enumerate(self._hidden):
                yield _Seen(item, (*self.loc, index), self._read)

    def items(self) -> Iterator[tuple[str, At]]:
        if isinstance(self._hidden, dict):
            for key, item in self._hidden.items():
                yield key, _Seen(item, (*self.loc, key), self._read)
