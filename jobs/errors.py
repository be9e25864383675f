"""Errors as part of the product: each says where, what was expected, what came, what is allowed, what to do.

Law: every error a user can cause is a `ReinitError`; its class decides the exit code, the same on a laptop and
in a pod. Exit codes 64, 65 and 78 are never retried by a generated Job, 75 is. What it quotes may come from a stranger,
so it holds neither control characters nor more than a screen has room for.
"""

from __future__ import annotations

from typing import Final

from jobs.shown import clipped, visible

MOST_PROBLEM: Final = 4000
"""Characters of a problem, which may be a list of several."""
MOST_PART: Final = 1000
"""Characters of any other part."""


class ReinitError(Exception):
    """A refusal with a reason. `str(error)` is a block of at most one screen.

    Args:
        problem: one sentence, what is wrong.
        where: file, line or path of the field.
        expected: what would have been right.
        got: what came instead, verbatim.
        allowed: the closed list of right answers, where there is one.
        remedy: what to do next, as a sentence or a command.
    """

    exit_code: int = 1

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        expected: object = None,
        got: object = None,
        allowed: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = clipped(visible(problem, keep="\n"), MOST_PROBLEM)
        super().__init__(self.problem)
        self.where = _part(where)
        self.expected = _part(expected)
        self.got = _part(got)
        self.allowed = _part(allowed)
        self.remedy = _part(remedy)

    def __str__(self) -> str:
        """The problem, then one aligned line for each part that is known."""
        parts = {
            "where": self.where,
            "expected": self.expected,
            "got": self.got,
            "allowed": self.allowed,
            "do": self.remedy,
        }
        lines = [f"  {name + ':':<10}{text}" for name, text in parts.items() if text is not None]
        return "\n".join([self.problem, *lines])


def _part(value: object) -> str | None:
    return None if value is None else clipped(visible(str(value), keep="\n"), MOST_PART)


class SpecError(ReinitError):
    """The study, cell or command says something impossible. Never retried."""

    exit_code = 64


class DataError(ReinitError):
    """Rows, columns, labels or weights are not what the cell declares. Never retried."""

    exit_code = 65


class TransientError(ReinitError):
    """The store or the device failed in a way that may pass. Retried, and counted."""

    exit_code = 75


class ConfigurationError(ReinitError):
    """This machine or site lacks something: a package, a place, a permission. Never retried."""

    exit_code = 78
