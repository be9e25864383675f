"""What a cluster would refuse or regret, said before anything is sent: manifests in, findings out.

Law: offline and read-only; every Job of the input is looked at by every rule, and what cannot be read is a finding and
not an end; other kinds are counted and left alone. Nothing is asked of a Job that only this project's Jobs have.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from jobs import podrules, podsecurity, rules
from jobs.documents import BadDocument, Document, read_documents
from jobs.errors import SpecError
from jobs.finding import At, Finding, Level
from jobs.rules import Job, Site
from jobs.schemas import VERSIONS, check_schema

SUFFIXES: Final = frozenset({".json", ".yaml", ".yml"})
ALL_RULES: Final = (*rules.RULES, *podrules.RULES, *podsecurity.RULES)


@dataclass
class Report:
    """What was looked at, and what was found."""

    jobs: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Objects that are no Jobs, by kind."""
    findings: list[Finding] = field(default_factory=list)

    def of(self, level: Level) -> list[Finding]:
        """The findings of one level."""
        return [each for each in self.findings if each.level is level]


def known_version(text: str) -> str:
    """`1.32` of `1.32`, `v1.32` or `v1.32.4`.

    Raises:
        SpecError: a version whose schema is not here.
    """
    version = ".".join(text.removeprefix("v").split(".")[:2])
    if version not in VERSIONS:
        raise SpecError("no schema of this Kubernetes version", got=text, allowed=", ".join(VERSIONS))
    return version


def lint_paths(paths: Iterable[str], site: Site) -> Report:
    """Check files, folders (with what is below them) and `-`, which is stdin.

    Raises:
        SpecError: a path does not exist, cannot be read, or holds no manifests.
    """
    report = Report()
    seen: dict[str, str] = {}
    for path in paths:
        if path == "-":
            _lint_bytes(sys.stdin.buffer.read(), "stdin", site, report, seen)
            continue
        for file in _files(Path(path)):
            _lint_bytes(_bytes(file), str(file), site, report, seen, named=str(file) == str(Path(path)))
    return report


def lint_text(text: str, source: str, site: Site) -> Report:
    """Check the manifests of one text; `source` names it in findings."""
    report = Report()
    _lint_bytes(text.encode("utf-8", "surrogatepass"), source, site, report, {})
    return report


def lint_job(job: dict[str, Any], site: Site) -> list[Finding]:
    """Check one Job, by schema and by every rule; a rule is silent where the schema has spoken."""
    schema = list(check_schema(job, site.version))
    spoken = {each.loc for each in schema}
    view = Job(At(job), site)
    found = [each for rule in ALL_RULES for each in rule(view)]
    return schema + [
        each for each in found if not any(each.loc[:end] in spoken for end in range(len(each.loc) + 1) if spoken)
    ]


def _files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    found = [
        each
        for each in sorted(path.rglob("*"))
        if each.suffix in SUFFIXES and each.is_file() and not _hidden(each.relative_to(path))
    ]
    if not found:
        raise SpecError("no manifests in this folder", where=str(path), expected=", ".join(sorted(SUFFIXES)))
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpecError(f"cannot read {str(path)!r}: {reason}", expected="a file, a folder or -") from error


def _lint_bytes(
    data: bytes, source: str, site: Site, report: Report, seen: dict[str, str], *, named: bool = True
) -> None:
    number = 0
    try:
        for document in read_documents(_decoded(data)):
            number = document.number
            for each in _lint_document(document, source, site, report, seen, named=named):
                line = document.line(each.loc)
                report.findings.append(replace(each, file=source, document=number, line=line))
    except BadDocument as bad:
        finding = Finding(Level.REFUSED, bad.rule, (), bad.problem, bad.got, bad.allowed, "what follows was not read")
        report.findings.append(replace(finding, file=source, document=number + 1, line=bad.line))


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = "The file is not UTF-8 text."
        raise BadDocument("utf-8", problem, line, f"byte 0x{data[error.start]:02x}", "UTF-8") from error


def _lint_document(
    document: Document, source: str, site: Site, report: Report, seen: dict[str, str], *, named: bool
) -> Iterator[Finding]:
    at = At(document.data)
    if not isinstance(document.data, dict):
        yield at.refused("object", "This is no object of Kubernetes.", "a mapping with apiVersion and kind")
        return
    if Path(source).stem == "kustomization" and at["kind"].text in {"", "Kustomization", "Component"}:
        report.skipped["Kustomization"] += 1
        return
    if not named and not at["apiVersion"].present and not at["kind"].present:
        report.skipped["file that is no object"] += 1
        return
    for key in ("apiVersion", "kind"):
        if not at[key].text:
            yield at[key].refused(
                "object", f"An object of Kubernetes says its {key}.", "text, for example batch/v1, Job"
            )
            return
    group, _, _ = at["apiVersion"].text.rpartition("/")
    if at["kind"].text != "Job" or group not in {"", "batch"}:
        report.skipped[at["kind"].text] += 1
        return
    report.jobs += 1
    name = _name(at["metadata"])
    for each in (*lint_job(document.data, site), *_twice(at, name, source, seen)):
        yield replace(each, name=name)


def _name(metadata: At) -> str:
    name = metadata["name"].text or f"{metadata['generateName'].text}*"
    return "/".join(part for part in (metadata["namespace"].text, name) if part)


def _twice(at: At, name: str, source: str, seen: dict[str, str]) -> Iterator[Finding]:
    """Two Jobs of one name, of which only one can be in the cluster."""
    metadata = at["metadata"]
    if not metadata["name"].text:
        return
    if name in seen:
        problem = f"A Job of this name is in {seen[name]} too; a template is immutable, so the second is refused."
        yield metadata["name"].warning("name-twice", problem, "each name once in a namespace")
    seen.setdefault(name, source)
