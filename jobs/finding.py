"""`Finding`: one thing wrong with a manifest, in the words of its reader; `At`: a value and its path.

Law: a finding names the field, what it got and what is allowed. `At` never raises: what is absent or of another type
reads as None or empty, since the schema says so already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

Loc = tuple[str | int, ...]

MOST_TEXT: Final = 200
_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")


class Level(StrEnum):
    """What comes of it."""

    REFUSED = "refused"
    """The server would not take it, or no queue would ever admit it."""
    WARNING = "warning"
    """The server takes it, and somebody regrets it."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong, where, and what to do."""

    level: Level
    rule: str
    """Short stable name, for example `exit-codes-order`."""
    loc: Loc
    """Path of the field."""
    problem: str
    got: str
    allowed: str
    remedy: str = ""
    file: str = ""
    line: int | None = None
    """Line of the field, or of the nearest value that the file has; None for JSON."""
    document: int = 0
    """Number of the document in its file, from 1."""
    name: str = ""
    """`namespace/name` of the Job, as far as it has them."""

    @property
    def field(self) -> str:
        """Path of the field as the server writes it: `spec.template.spec.containers[0].env[1]`."""
        return path_text(self.loc)

    @property
    def where(self) -> str:
        """`jobs.yaml:12, document 1, reinit/demo`."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ", ".join(part for part in (place, f"document {self.document}", self.name) if part)

    def __str__(self) -> str:
        """The problem, then one aligned line for each part that is known."""
        parts = {"where": self.where, "field": self.field, "got": self.got, "allowed": self.allowed, "do": self.remedy}
        lines = [f"  {name + ':':<10}{printable(text)}" for name, text in parts.items() if text]
        return "\n".join([f"{self.level}: {self.problem} [{self.rule}]", *lines])

    def as_dict(self) -> dict[str, Any]:
        """For `--output json`."""
        fields = asdict(self)
        del fields["loc"]
        return {**fields, "field": self.field, "where": self.where}


def shown(value: object) -> str:
    """A value as a message shows it: text in quotes, never longer than a line or two."""
    if value is None:
        return "nothing"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}... ({len(text)} characters)"


def printable(text: str) -> str:
    """Text that no terminal acts on."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def path_text(loc: Loc) -> str:
    """A path as the server writes it: `spec.limits[nvidia.com/gpu]`, `env[1]`."""
    parts = [f".{part}" if isinstance(part, str) and _PLAIN.fullmatch(part) else f"[{part}]" for part in loc]
    return "".join(parts).removeprefix(".")


@dataclass(frozen=True, slots=True)
class At:
    """A value of a manifest and the path to it. `at["spec"]` goes down; absent values go on being absent."""

    value: Any
    loc: Loc = ()

    def __getitem__(self, key: str) -> At:
        return At(self.value.get(key) if isinstance(self.value, dict) else None, (*self.loc, key))

    def down(self, *keys: str) -> At:
        """Several steps at once."""
        at = self
        for key in keys:
            at = at[key]
        return at

    def __iter__(self) -> Iterator[At]:
        """The items of a list."""
        if isinstance(self.value, list):
            for index, item in enumerate(self.value):
                yield At(item, (*self.loc, index))

    def items(self) -> Iterator[tuple[str, At]]:
        """The entries of a mapping."""
        if isinstance(self.value, dict):
            for key, item in self.value.items():
                yield key, At(item, (*self.loc, key))

    @property
    def present(self) -> bool:
        """Whether a value other than null stands there."""
        return self.value is not None

    @property
    def text(self) -> str:
        """The text, or nothing."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> int | None:
        """The whole number, if it is one."""
        return self.value if isinstance(self.value, int) and not isinstance(self.value, bool) else None

    def refused(self, rule: str, problem: str, allowed: str, remedy: str = "", got: object = ...) -> Finding:
        """The server would not take this value."""
        return self._finding(Level.REFUSED, rule, problem, allowed, remedy, got)

    def warning(self, rule: str, problem: str, allowed: str, remedy: str = "", got: object = ...) -> Finding:
        """The server takes this value, and somebody regrets it."""
        return self._finding(Level.WARNING, rule, problem, allowed, remedy, got)

    def _finding(self, level: Level, rule: str, problem: str, allowed: str, remedy: str, got: object) -> Finding:
        value = self.value if got is ... else got
        return Finding(level, rule, self.loc, problem, shown(value), allowed, remedy)
