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
from typing import Final

from jobs.alike import Patterns
from jobs.checks import Checks
from jobs.documents import Document, read_documents
from jobs.errors import SpecError
from jobs.finding import At, Finding, Level
from jobs.rules import Site
from jobs.schemas import VERSIONS
from jobs.yamlvalues import BadDocument

SUFFIXES: Final = frozenset({".json", ".yaml", ".yml"})


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
    lint = _Lint(Checks(site))
    for path in paths:
        if path == "-":
            lint.data(sys.stdin.buffer.read(), "stdin")
            continue
        for file in _files(Path(path)):
            lint.data(_bytes(file), str(file), named=str(file) == str(Path(path)))
    return lint.report


def lint_text(text: str, source: str, site: Site) -> Report:
    """Check the manifests of one text; `source` names it in findings."""
    lint = _Lint(Checks(site))
    lint.data(text.encode("utf-8", "surrogatepass"), source)
    return lint.report


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


@dataclass
class _Lint:
    """One check of any number of files."""

    checks: Checks
    report: Report = field(default_factory=Report)
    patterns: Patterns = field(default_factory=Patterns)
    seen: dict[str, str] = field(default_factory=dict)
    """Where each name of a Job stood first."""

    def data(self, data: bytes, source: str, *, named: bool = True) -> None:
        """Check the manifests of one file; `named` where it was asked for by its own name."""
        number = 0
        try:
            for document in read_documents(_decoded(data), self.patterns):
                number = document.number
                for each in self._document(document, source, named=named):
                    line = document.line(each.loc)
                    self.report.findings.append(replace(each, file=source, document=number, line=line))
        except BadDocument as bad:
            finding = Finding(
                Level.REFUSED, bad.rule, (), bad.problem, bad.got, bad.allowed, "what follows was not read"
            )
            self.report.findings.append(replace(finding, file=source, document=number + 1, line=bad.line))

    def _document(self, document: Document, source: str, *, named: bool) -> Iterator[Finding]:
        at = At(document.data)
        if not isinstance(document.data, dict):
            yield at.refused("object", "This is no object of Kubernetes.", "a mapping with apiVersion and kind")
            return
        if Path(source).stem == "kustomization" and at["kind"].text in {"", "Kustomization", "Component"}:
            self.report.skipped["Kustomization"] += 1
            return
        if not named and not at["apiVersion"].present and not at["kind"].present:
            self.report.skipped["file that is no object"] += 1
            return
        for key in ("apiVersion", "kind"):
            if not at[key].text:
                yield at[key].refused(
                    "object", f"An object of Kubernetes says its {key}.", "text, for example batch/v1, Job"
                )
                return
        group, _, _ = at["apiVersion"].text.rpartition("/")
        if at["kind"].text != "Job" or group not in {"", "batch"}:
            self.report.skipped[at["kind"].text] += 1
            return
        self.report.jobs += 1
        name = _name(at["metadata"])
        for each in (*self.checks.of(document), *_twice(at, name, source, self.seen)):
            yield replace(each, name=name)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = "The file is not UTF-8 text."
        raise BadDocument("utf-8", problem, line, f"byte 0x{data[error.start]:02x}", "UTF-8") from error


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
