"""Writes job.json from the JSON schemas that the package kubernetes-validate carries.

Law: nothing here runs at run time; the output is a pure function of that package's version.
`python -m jobs.data.regenerate FOLDER`, where FOLDER is its `kubernetes-json-schema`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

VERSIONS: Final = tuple(f"1.{minor}" for minor in range(30, 38))
ROOT: Final = "io.k8s.api.batch.v1.Job"
FILLED_IN: Final = {"io.k8s.api.batch.v1.PodFailurePolicyOnPodConditionsPattern": {"status"}}
"""Fields that older schemas require and that the server of those versions fills in (tests/jobs/recorded)."""
RANGES: Final = {"int32": 2**31 - 1, "int64": 2**63 - 1}
REFERENCE = re.compile(r"#/\$defs/([A-Za-z0-9.-]+)")


def definitions(folder: Path, version: str) -> dict[str, Any]:
    """Every definition that a Job of one version reaches, by name."""
    path = folder / f"v{version}.0-local-strict" / "_definitions.json"
    known = json.loads(path.read_text(encoding="utf-8"))["$defs"]
    found: dict[str, Any] = {}
    names = [ROOT]
    while names:
        name = names.pop()
        if name not in found:
            found[name] = reduced(known[name])
            if filled := FILLED_IN.get(name):
                found[name]["required"] = [each for each in found[name]["required"] if each not in filled]
            names += REFERENCE.findall(json.dumps(found[name]))
    return found


def reduced(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without its prose, with integer formats as bounds.

    `oneOf` becomes `anyOf`: each side allows null, and null would then be refused for matching two.
    """
    if "$ref" in schema:
        (name,) = REFERENCE.findall(schema["$ref"])
        return {"$ref": f"#/$defs/{name}"}
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: reduced(inner) for name, inner in sorted(value.items())}
        elif key in {"items", "additionalProperties"} and isinstance(value, dict):
            result[key] = reduced(value)
        elif key == "oneOf":
            result["anyOf"] = [reduced(inner) for inner in value]
        elif key in {"type", "enum", "required", "additionalProperties"}:
            result[key] = value
        elif key == "format" and value in RANGES:
            result |= {"minimum": -RANGES[value] - 1, "maximum": RANGES[value]}
    return result


def changes(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each definition the versions in which it changed, with what it then is; None where it went away."""
    found: dict[str, dict[str, Any]] = {}
    before: dict[str, Any] = {}
    for version in VERSIONS:
        now = definitions(folder, version)
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                found.setdefault(name, {})[version] = now.get(name)
        before = now
    return found


def main(folder: Path) -> None:
    """Write job.json, one definition a line, so that a diff can be read."""
    lines = [
        f"{json.dumps(name)}:{json.dumps(versions, separators=(',', ':'))}"
        for name, versions in sorted(changes(folder).items())
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    Path(__file__).with_name("job.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
