"""From a YAML document to a typed value, or to a `SpecError` that a person can act on.

Law: validation is strict (text is never read as a number), and no message of the validation library reaches a
user untranslated: each mistake says where, expected, got and allowed, and many mistakes still fit one screen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jobs.errors import SpecError
from jobs.shown import visible
from jobs.yamlfile import Document, Loc, path_text

_Model = TypeVar("_Model", bound=BaseModel)

MOST_SHOWN: Final = 4
"""Mistakes shown in full; the rest are counted."""
MOST_TEXT: Final = 300

PATTERNS: Final[dict[str, str]] = {
    r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$": "lower-case letters, digits and inner hyphens, at most 32",
    r"^[0-9a-f]{40}$": "a full commit, 40 hex digits",
    r"^[0-9a-f]{64}$": "64 hex digits",
    r"^sha256:[0-9a-f]{64}$": "`sha256:` and 64 hex digits",
    r"^[^\n]+$": "one line of text",
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$": "lower-case letters, digits and inner hyphens, at most 63",
    r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$": "lower-case letters, digits, inner hyphens and dots, at most 253",
    r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$": "a quantity in quotes, such as `16Gi`",
    r"^[0-9]+(\.[0-9]+)?m?$": "cores in quotes, such as `4` or `500m`",
    r"^[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}$": (
        "an image by digest, `registry/name@sha256:` and 64 hex digits"
    ),
    r"^(s3://[^/\s]+(/\S*)?|file:///\S+)$": "s3://bucket/prefix or file:///path",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "a variable's name: letters, digits and underscores",
    r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$": "an absolute path inside the container",
    r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$": "a label's value: letters, digits, inner `.`, `_` and `-`",
    r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$": (
        "a label's key, `[prefix/]name`: letters, digits, inner `.`, `_` and `-`"
    ),
    r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$": "a relative path without `..`",
    r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$": "a file's name",
}
"""Every pattern that a specification file can offend, in words."""

_EXPECTED: Final[dict[str, str]] = {
    "missing": "a value",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text (quote it where it looks like a number)",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "a text that is not empty",
    "string_too_long": "a text of at most {max_length} characters",
    "literal_error": "{expected}",
    "union_tag_not_found": "a mapping with the key {discriminator}",
}
"""What each kind of error expects; `{name}` is from the error's context."""


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong, at one place of a specification."""

    loc: Loc
    problem: str
    expected: str | None = None
    got: object = None
    allowed: str | None = None
    remedy: str | None = None

    def below(self, *parents: str | int) -> Mistake:
        """The same mistake, its place seen from further up."""
        return replace(self, loc=(*parents, *self.loc))


def validated(model: type[_Model], document: Document, data: Mapping[str, Any] | None = None) -> _Model:
    """The document as a `model`; `data` stands in for the document's own where a reader has prepared it.

    Raises:
        SpecError: naming each mistake's file, line and field.
    """
    given = document.data if data is None else data
    try:
        return model.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        raise refusal(translated(model, given, error), document.where, document.source) from error


def refusal(found: Sequence[Mistake], where: Callable[[Loc], str] = path_text, source: str = "the study") -> SpecError:
    """One error for all mistakes, at most one screen long."""
    errors = [
        SpecError(
            mistake.problem,
            where=where(mistake.loc) or None,
            expected=mistake.expected,
            got=None if mistake.got is None else _short(mistake.got),
            allowed=None if mistake.allowed is None else _short(mistake.allowed),
            remedy=mistake.remedy,
        )
        for mistake in found
    ]
    if len(errors) == 1:
        return errors[0]
    blocks = [f"{number}. {error}" for number, error in enumerate(errors[:MOST_SHOWN], 1)]
    if rest := len(errors) - len(blocks):
        blocks.append(f"... and {rest} more")
    return SpecError("\n".join([f"{len(errors)} mistakes in {source}", *blocks]))


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """A remedy that names the closest right word, or None where nothing is close."""
    close = get_close_matches(word, list(allowed), n=1)
    return f"did you mean `{close[0]}`?" if close else None


def translated(model: type[BaseModel], data: object, error: ValidationError) -> list[Mistake]:
    """The validation error in the words of the file, one mistake for each place.

    A union reports each of its branches; they are one mistake, which expects any of them. Where one branch got
    deeper than another, it is the one that was meant.
    """
    grouped: dict[Loc, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        if details["type"] != "default_factory_not_called":
            grouped.setdefault(_file_loc(data, details), []).append(details)
    return [
        _mistake(model, loc, group)
        for loc, group in grouped.items()
        if not any(other != loc and other[: len(loc)] == loc for other in grouped)
    ]


def _mistake(model: type[BaseModel], loc: Loc, group: list[ErrorDetails]) -> Mistake:
    # A branch that refused the value for its type was not the one that was meant, if another looked closer.
    if any(not each["type"].endswith(("_type", "literal_error")) for each in group):
        group = [each for each in group if not each["type"].endswith("_type")]
    first, field = group[0], path_text(loc[-1:])
    context = first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(model, first["loc"][:-1])
        return Mistake(loc, f"unknown key `{field}`", allowed=", ".join(allowed), remedy=nearest(field, allowed))
    if first["type"] == "missing":
        return Mistake(loc, f"the key `{field}` is missing")
    if first["type"] == "value_error":
        return Mistake(loc, str(context["error"]))
    if first["type"] == "union_tag_invalid":
        key, allowed = context["discriminator"].strip("'"), context["expected_tags"].replace("'", "")
        remedy = nearest(context["tag"], allowed.split(", "))
        return Mistake((*loc, key), f"unknown {key} `{context['tag']}`", allowed=allowed, remedy=remedy)
    expected = " or ".join(dict.fromkeys(map(_expectation, group)))
    key = next((part for part in reversed(loc) if isinstance(part, str)), "")
    got = "null" if first["input"] is None else first["input"]
    return Mistake(loc, f"wrong value for `{key}`", expected=expected, got=got)


def _expectation(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if details["type"] == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"text like {context['pattern']}")
    template = _EXPECTED.get(details["type"])
    if template is None:
        return details["msg"].removeprefix("Input should be ")
    return template.format_map(context).replace("'", "`") if "{" in template else template


def _short(value: object) -> str:
    text = value if isinstance(value, str) and not value.isdigit() else json.dumps(value, default=str)
    text = visible(text)
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} ... ({len(text):,} characters)"


def _file_loc(data: Any, details: ErrorDetails) -> Loc:
    """The error's path without what the file does not have: tags of discriminated unions, names of branches."""
    *_, last = details["loc"] or ("",)
    found: list[str | int] = []
    for part in details["loc"]:
        here = data if isinstance(data, dict) else dict(enumerate(data)) if isinstance(data, list) else {}
        if part in here:
            data = here[part]
            found.append(part)
    if details["type"] == "missing":
        found.append(last)
    return tuple(found)


def _fields_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that are allowed at an error's path."""
    models = [model]
    for part in loc:
        tagged = [each for each in models if any(field.default == part for field in each.model_fields.values())]
        holders = [each.model_fields[str(part)] for each in models if part in each.model_fields]
        if len(models) > 1 and tagged:
            models = tagged
        elif holders:
            models = list(_models_in(holders[0].annotation)) or models
    return list(models[0].model_fields)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
