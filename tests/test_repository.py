"""What the repository says about itself is true: pins, sizes, and the commands its documentation names."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.core import TyperGroup

from jobs.cli import app
from tests.torture.table import PAGE, problems

ROOT = Path(__file__).parents[1]
LARGEST_FILE_BYTES = 1_000_000


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def requirements() -> list[Requirement]:
    lines = set(project()["dependencies"]).union(*project()["optional-dependencies"].values())
    return [Requirement(line) for line in sorted(lines)]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def repository_files() -> list[Path]:
    """Tracked files and those about to be: everything that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def documentation() -> str:
    return "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])


def commands() -> set[str]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return {name for name, command in group.commands.items() if not command.hidden}


def documented_commands() -> set[str]:
    """The second word of every `reinit ...` in code: after a backtick, or opening a fenced line."""
    text = documentation()
    fenced = "\n".join(re.findall(r"^```.*?^```", text, flags=re.MULTILINE | re.DOTALL))
    inline = re.findall(r"`reinit ([a-z][a-z-]*)", text)
    return {*inline, *re.findall(r"^\s*(?:\$ )?reinit ([a-z][a-z-]*)", fenced, flags=re.MULTILINE)}


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_dependency_is_pinned_to_a_version_that_it_allows(requirement: Requirement) -> None:
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in constraints.txt: run `make constraints`"
    assert requirement.specifier.contains(version), f"{requirement} does not allow the pinned {version}"


def test_the_pins_serve_a_cpu_and_a_gpu_alike() -> None:
    assert not [name for name in pins() if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert not [version for version in pins().values() if "+" in version]


def test_what_compiles_for_a_gpu_in_tests_is_what_the_gpu_s_image_has() -> None:
    (line,) = re.findall(r"^NVRTC := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    locked = (ROOT / "locks" / "gpu.txt").read_text()
    assert len(line.split()) == 3
    assert all(f"{pin} \\\n" in locked for pin in line.split())


def test_no_file_is_large() -> None:
    assert not {str(p): p.stat().st_size for p in repository_files() if p.stat().st_size > LARGEST_FILE_BYTES}


def test_every_command_is_documented() -> None:
    assert commands() - documented_commands() == set()


def test_every_documented_command_exists() -> None:
    assert documented_commands() - commands() == set()


def test_every_ignored_rule_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert not [line for line in lines if re.fullmatch(r'\s+"[A-Z]+[0-9]+",\s*', line)]


def test_every_waived_finding_of_a_scanner_says_why() -> None:
    lines = [line for line in (ROOT / ".ci" / "waivers.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert not [
        line for line in lines if not re.fullmatch(r"(checkov|hadolint|osv) +[A-Za-z0-9_-]+ +\S+ +\S.{20,}\.", line)
    ]


def test_the_table_of_reliability_has_the_rows_of_the_torture_tests() -> None:
    assert problems(PAGE.read_text(encoding="utf-8")) == []
