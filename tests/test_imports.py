"""The import law, by running it: ruff, import-linter and a Python without torch refuse what it forbids."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

IMPORT_ALL_WITHOUT_TORCH = """
import importlib, importlib.abc, pkgutil, sys

BLOCKED = {"torch", "transformers", "datasets", "deepspeed"}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} belongs inside reinit alone", name=name)

sys.meta_path.insert(0, Blocker())
package = importlib.import_module(sys.argv[1])
names = [package.__name__]
names += [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    if not name.endswith(".__main__"):  # importing one runs it
        importlib.import_module(name)
print(*names)
"""


def run(*command: str | Path, cwd: Path = ROOT, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["jobs", "aggregate"])
def test_every_module_imports_where_torch_does_not_exist(package: str) -> None:
    result = run(sys.executable, "-W", "error", "-c", IMPORT_ALL_WITHOUT_TORCH, package)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) >= {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }


def test_the_import_contracts_hold() -> None:
    result = run(BIN / "lint-imports", "--no-cache", "--no-logo")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("jobs/cell.py", "import torch.nn", "torch-in-reinit"),
        ("aggregate/frame.py", "def f():\n    from transformers import AutoModel", "torch-in-reinit"),
        ("jobs/cell.py", "def f():\n    import reinit.run", "jobs-below"),
        ("jobs/cell.py", "import pandas", "core-is-small"),
        ("aggregate/frame.py", "import reinit.run", "independent"),
        ("reinit/run.py", "import jobs.cli", "root-on-top"),
        ("jobs/cli.py", "def f():\n    import reinit.run, aggregate.frame", None),
        ("reinit/run.py", "import torch\nimport jobs.cell", None),
    ],
)
def test_the_import_contracts_refuse_what_the_law_forbids(
    tmp_path: Path, module: str, line: str, contract: str | None
) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for path in ["jobs/cell.py", "jobs/cli.py", "reinit/run.py", "aggregate/frame.py"]:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(line if path == module else "")
    result = run(BIN / "lint-imports", "--no-cache", "--no-logo", cwd=tmp_path)
    broken = [key for key, name in contract_names().items() if f"{name} BROKEN" in result.stdout]
    assert broken == ([contract] if contract else []), result.stdout + result.stderr
    assert result.returncode == (1 if contract else 0)


def contract_names() -> dict[str, str]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {c["id"]: c["name"] for c in config["tool"]["importlinter"]["contracts"]}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("jobs/cell.py", False),
        ("aggregate/frame.py", False),
        ("tests/jobs/test_cell.py", False),
        ("reinit/run.py", True),
    ],
)
def test_ruff_refuses_torch_at_module_level_outside_reinit(module: str, *, allowed: bool) -> None:
    options = ["--no-cache", "--select=TID253", f"--stdin-filename={module}"]
    result = run(BIN / "ruff", "check", *options, "-", stdin="import torch\n")
    assert (result.returncode == 0) is allowed, result.stdout
    assert ("TID253" in result.stdout) is not allowed
