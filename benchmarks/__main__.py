"""Run the benchmarks of a CPU one after another, each in a process of its own, and print one table.

    python -m benchmarks [NAME...] [--quick] [--glue FOLDER] [--threads N] [--list]

A script of this folder that has a function `lines` gives lines of the table. Of the other scripts those named in
`OWN_OUTPUT`, where they are there, are run after it and their output is shown as it is; the rest (`gpu`, `coverage`)
run when named. One that fails costs no other its figures, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.measure import ROOT, environment
from benchmarks.table import LINES, Line, add_options, machine, render

FIRST: Final = ("study", "step", "matmul", "fixed", "probe", "engine", "render", "lint")
"""In the order of the table; others that have lines follow."""
OWN_OUTPUT: Final = ("aggregate",)


def scripts() -> dict[str, tuple[str, bool]]:
    """Name to (first line of its docstring, whether it has lines) of every script of this folder, in order."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        about = ast.get_docstring(tree) or ""
        # A script says how to run it; the other modules are parts of scripts.
        if f"benchmarks.{path.stem} " in about or f"benchmarks/{path.stem}.py" in about:
            found[path.stem] = (about.splitlines()[0], "lines" in functions)
    places = {name: place for place, name in enumerate(FIRST)}
    return dict(sorted(found.items(), key=lambda item: (places.get(item[0], len(FIRST)), item[0])))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = scripts()
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    add_options(parser)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    if options.list:
        for name, (about, has_lines) in known.items():
            print(f"{name:<12}{about}{'' if has_lines else ' (output of its own)'}")
        return 0
    chosen = options.names or [name for name, (_, has_lines) in known.items() if has_lines or name in OWN_OUTPUT]
    print(machine(options.threads), flush=True)
    made: list[Line] = []
    failed = []
    for name in (name for name in chosen if known[name][1]):
        print(f"measuring {name}", file=sys.stderr, flush=True)
        lines = _lines(name, options)
        made += lines
        failed += [] if lines else [name]
    if made:
        print("", render(made), sep="\n", flush=True)
    for name in (name for name in chosen if not known[name][1]):
        print(f"\n{name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if subprocess.run(command, cwd=ROOT, env=environment(options.threads), check=False).returncode:  # noqa: S603
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _lines(name: str, options: argparse.Namespace) -> list[Line]:
    """What a script measures in a process of its own; nothing where it fails, which it has said itself."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--threads", str(options.threads)]
    command += ["--quick"] * options.quick + (["--glue", str(options.glue.resolve())] if options.glue else [])
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "lines.json")
        command += ["--json", str(written)]
        done = subprocess.run(command, cwd=ROOT, env=environment(options.threads), check=False)  # noqa: S603
        if done.returncode:
            return []
        return LINES.validate_json(written.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
