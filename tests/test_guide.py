"""The user guide is true: its commands run, in their order, in an empty folder, on the files that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[1] / "docs" / "guide.md"
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```", flags=re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return [(found["language"], found["text"]) for found in BLOCK.finditer(GUIDE.read_text(encoding="utf-8"))]


def save(text: str, folder: Path) -> None:
    """Files that the guide shows say their name in the first line; other blocks of YAML are fragments."""
    if named := re.match(r"# file: (\S+)\n", text):
        (folder / named[1]).write_text(text, encoding="utf-8")


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
