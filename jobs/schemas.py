"""What the API's own schema says of a Job, for each Kubernetes version.

Law: strict, an unknown field is refused; one compiled validator a version; where the schemas come from stands in
jobs/data/README.md. The schema knows names and types of fields; what their values may be is for `jobs.rules`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jsonschema_rs

from jobs.finding import At, Finding, Loc

VERSIONS: Final = tuple(f"1.{minor}" for minor in range(30, 38))
DEFAULT_VERSION: Final = "1.32"
"""The version whose server's answers the tests hold."""

_JOB: Final = "io.k8s.api.batch.v1.Job"


@cache
def definitions(version: str) -> dict[str, Any]:
    """The definitions of one version, by name."""
    text = files("jobs.data").joinpath("job.json").read_text(encoding="utf-8")
    known = VERSIONS[: VERSIONS.index(version) + 1]
    found = {}
    for name, changes in json.loads(text).items():
        latest = [changes[each] for each in known if each in changes]
        if latest and latest[-1] is not None:
            found[name] = latest[-1]
    return found


@cache
def validator(version: str) -> Any:
    """The compiled schema of one version."""
    return jsonschema_rs.validator_for({"$ref": f"#/$defs/{_JOB}", "$defs": definitions(version)})


def check_schema(job: dict[str, Any], version: str) -> Iterator[Finding]:
    """Unknown fields, missing fields and wrong types."""
    if validator(version).is_valid(job):
        return
    for error in validator(version).iter_errors(job):
        loc = tuple(error.instance_path)
        at = At(error.instance, loc)
        known = sorted(_schema_at(loc, version).get("properties", {}))
        kind = error.kind
        if kind.name == "additionalProperties":
            for name in kind.unexpected:
                yield _unknown(At(error.instance, loc)[name], name, known, version)
        elif kind.name == "required":
            yield at[kind.property].refused("required-field", "A required field is missing.", "a value")
        elif kind.name in {"type", "anyOf"}:
            yield _wrong_type(at, version)
        elif kind.name == "enum":
            yield at.refused("schema-enum", "The value is not one of those known.", ", ".join(kind.options))
        else:
            yield at.refused("schema", "The value is outside its bounds.", error.message)


@cache
def any_text(loc: Loc, version: str) -> bool:
    """Whether the schema takes whatever text stands at a path."""
    schema = _schema_at(loc, version)
    return set(schema) == {"type"} and "string" in _types(schema)


def _unknown(at: At, name: str, known: list[str], version: str) -> Finding:
    near = get_close_matches(name, known, 1)
    later = [
        each for each in VERSIONS if each != version and name in _schema_at(at.loc[:-1], each).get("properties", {})
    ]
    remedy = f"did you mean {near[0]}?" if near else ""
    if later:
        remedy = f"Kubernetes {later[0]} to {later[-1]} have this field: leave it out, or name the cluster's version"
    return at.refused(
        "unknown-field",
        f"Kubernetes {version} has no field of this name here.",
        ", ".join(known),
        remedy,
        got=name,
    )


def _wrong_type(at: At, version: str) -> Finding:
    schema = _schema_at(at.loc, version)
    sides = schema.get("anyOf", [schema])
    types = sorted({name for side in sides for name in _types(side)} - {"null"})
    plain = isinstance(at.value, bool | int | float) and types == ["string"]
    remedy = "put the value in quotes: YAML read it as another type" if plain else ""
    kind = _TYPE_NAMES.get(type(at.value), "null")
    return at.refused("wrong-type", f"The value has the wrong type: {kind}.", " or ".join(types), remedy)


_TYPE_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


def _types(schema: dict[str, Any]) -> list[str]:
    found = schema.get("type", [])
    return [found] if isinstance(found, str) else list(found)


def _schema_at(loc: Loc, version: str) -> dict[str, Any]:
    """The schema of the value at a path; empty where the schema knows nothing of it."""
    known = definitions(version)

    def resolved(schema: Any) -> dict[str, Any]:
        while isinstance(schema, dict) and "$ref" in schema:
            schema = known[schema["$ref"].removeprefix("#/$defs/")]
        return schema if isinstance(schema, dict) else {}

    schema = resolved(known[_JOB])
    for part in loc:
        inner = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
        schema = resolved(schema.get("additionalProperties") if inner is None else inner)
    return schema
