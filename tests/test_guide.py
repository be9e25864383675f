"""The user guide is true: its commands run, in their order, in an empty folder, on the files that it shows.

The README's commands are too long to run: they are parsed, and write nowhere where the repository keeps something.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup, TyperOption

from jobs.cli import app
from jobs.study import study_of
from jobs.yamlfile import parse_yaml

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide.md"
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```", flags=re.MULTILINE | re.DOTALL)


def blocks(page: Path = GUIDE) -> list[tuple[str, str]]:
    return [(found["language"], found["text"]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def readme_commands() -> list[str]:
    """Every `reinit ...` line of the README's fenced blocks, without its comment."""
    lines = [line for _, text in blocks(README) for line in text.splitlines()]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [shlex.join(each) for each in words if each[:1] == ["reinit"]]


def parsed(line: str) -> tuple[dict[str, TyperOption], dict[str, object]]:
    """The options of the command that a line names, and the values that the line gives, by parameter.

    Raises what the command line would: an unknown option, a missing or surplus argument, a value of the wrong type.
    """
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    _, name, *arguments = shlex.split(line)
    assert name in group.commands, f"{line}: no command {name}; expected one of {sorted(group.commands)}"
    command = group.commands[name]
    options = {str(one.name): one for one in command.params if isinstance(one, TyperOption)}
    known = {spelling for one in options.values() for spelling in (*one.opts, *one.secondary_opts)}
    used = {word.partition("=")[0] for word in arguments if re.match("--?[a-z]", word)}
    assert used <= known, f"{line}: {name} has no {sorted(used - known)}; expected some of {sorted(known)}"
    return options, command.make_context(name, arguments).params


def written_folders(line: str) -> list[str]:
    """Folders that a command writes into: the values of its options with the metavar DIR."""
    options, values = parsed(line)
    return [str(values[name]) for name, one in options.items() if one.metavar == "DIR" and values[name] is not None]


def is_ignored(folder: str) -> bool:
    """Whether git ignores what is written into a folder of the repository, and has nothing in it."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    return git("check-ignore", "-q", f"{folder}/x").returncode == 0 and not git("ls-files", "--", folder).stdout


def test_the_readme_shows_commands() -> None:
    assert len(readme_commands()) >= 6


@pytest.mark.parametrize("line", readme_commands())
def test_every_command_of_the_readme_parses(line: str) -> None:
    parsed(line)


@pytest.mark.parametrize("line", readme_commands())
def test_no_command_of_the_readme_writes_where_the_repository_keeps_something(line: str) -> None:
    relative = [folder for folder in written_folders(line) if not Path(folder).is_absolute() and folder != "-"]
    assert not [folder for folder in relative if not is_ignored(folder)]


def test_these_checks_see_what_is_wrong() -> None:
    assert written_folders("reinit render paper --cluster k8s/cluster.yaml -o jobs") == ["jobs"]
    assert written_folders("reinit aggregate demo --store file:///s --out=tables") == ["tables"]
    assert not any(map(is_ignored, ("jobs", "jobs/studies", "tables")))
    assert all(map(is_ignored, ("manifests", "out")))
    with pytest.raises(AssertionError, match="no command sing"):
        parsed("reinit sing paper")
    with pytest.raises(AssertionError, match="plan has no \\['--stores'\\]"):
        parsed("reinit plan paper --stores file:///s")
    with pytest.raises(typer.BadParameter):
        parsed("reinit render paper -o manifests")  # --cluster is missing


def save(text: str, folder: Path) -> None:
    """Files that the guide shows say their name in the first line; other blocks of YAML are fragments."""
    if named := re.match(r"# file: (\S+)\n", text):
        (folder / named[1]).write_text(text, encoding="utf-8")


def test_the_tasks_that_the_guide_shows_are_tasks() -> None:
    shown = [text for language, text in blocks() if language == "yaml" and text.startswith("tasks:")]
    assert len(shown) == 2
    head = (ROOT / "jobs" / "studies" / "probing.yaml").read_text(encoding="utf-8")
    family = "families:\n  - {family: single, layers: [0], sizes: [9], seeds: 1}\n"
    for text in shown:
        filled = text.replace('"sha256:..."', f"sha256:{'0' * 64}").replace('"..."', f'"{"0" * 40}"')
        before = head[: head.index("tasks:")]
        assert study_of(parse_yaml(f"{before}{filled}{family}", "guide.yaml")).plan()


@pytest.mark.slow
def test_every_command_of_the_guide_runs_in_an_empty_folder(tmp_path: Path) -> None:
    commands = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "XDG_STATE_HOME": str(tmp_path / "state")}
    ran = 0
    for language, text in blocks():
        if language == "yaml":
            save(text, tmp_path)
        if language != "sh":
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        ran += 1
        if "reinit run" in text:
            assert "already done" in done.stdout
    assert ran >= 8
    written = {path.name for path in (tmp_path / "tables").iterdir()}
    assert {"table.md", "table.tex", "table.csv", "progressive.pdf", "progressive.png", "coverage.md"} <= written
