"""Hand this machine's package sources to a build: pip's own settings as a file, and the folders that they name.

Law: nothing of this machine is written here; `pip config list` says all. Only what says where packages are and how to
reach them is taken: a constraint or a cache of this machine would make another image.

    python3 tests/image/pip_sources.py FILE    writes FILE, prints the --volume options of `podman build`, one a line
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

INSIDE: Final = "/etc/pip.conf"
"""Where every pip looks, also those that another pip starts to build a package."""

SOURCES: Final = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "cert",
    "client-cert",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
)
"""Options of pip that say where packages are and how to reach them."""


def effective(listing: str) -> dict[str, str]:
    """The sources of `pip config list`, where the environment overrides files and `install` overrides `global`.

    Each line is `section.option='value'`; the section of the environment is `:env:`.
    """
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in found and option in SOURCES:
            found[section][option] = str(ast.literal_eval(value))
    return found["global"] | found["install"] | found[":env:"]


def local_paths(settings: dict[str, str]) -> list[Path]:
    """Files and folders of this machine that the settings name, each once.

    The pages of an index link to files beside it (`../../files/x.whl` from `simple/x/`), so its parent is named.
    """
    found: dict[Path, None] = {}
    for option, value in settings.items():
        for word in value.split():
            path = Path(unquote(urlsplit(word).path) if word.startswith("file://") else word)
            if path.is_absolute() and path.exists():
                is_index = option.endswith("index-url") and path.parent != path.parent.parent
                found[path.parent if is_index else path] = None
    return list(found)


def as_file(settings: dict[str, str]) -> str:
    """The settings as a pip.conf; a value of several words is one a line, indented."""
    lines = [f"{option} = " + "\n    ".join(value.split()) for option, value in settings.items()]
    return "\n".join(["[global]", *lines, ""])


def main(file: Path) -> None:
    """Write the file and print the options."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    settings = effective(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    file.write_text(as_file(settings), encoding="utf-8")
    for source, target in [(file.resolve(), INSIDE), *((path, str(path)) for path in local_paths(settings))]:
        print(f"--volume={source}:{target}:ro")  # noqa: T201  what the caller reads


if __name__ == "__main__":
    main(Path(sys.argv[1]))
