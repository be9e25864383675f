"""The import law, by running it: ruff, import-linter and a Python without torch refuse what it forbids."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from jobs.cell import Cell
from jobs.tasks import GLUE, HubSource
from tests.reinit.hubcache import COMMIT, SST2
from tests.reinit.tiny import small_cell, write_sentences, write_small_model

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


UNTIL_THE_FIRST_STEP = """
import json, os, sys
from pathlib import Path

from jobs.cell import Cell
from jobs.store import open_store
from reinit.places import Places
from reinit.tokencache import TokenCache
from reinit.worker import Worker

cell, places, store, watched = json.loads(sys.argv[1])
cell = Cell.model_validate(cell)
cache = TokenCache(open_store(store).tokens(), lambda *_, **__: None, writes=True)
worker = Worker(Places({name: Path(path) for name, path in places.items()}), cache)
worker.check([cell])

def on_step(*_):
    print(*(name for name in watched if name in sys.modules))
    sys.stdout.flush()
    os._exit(0)

worker.run(cell, 1, on_step)
"""


def imported_until_the_first_step(
    cell: Cell, places: Mapping[str, Path], store: Path, watched: Iterable[str]
) -> set[str]:
    given = [cell.model_dump(mode="json"), {name: str(path) for name, path in places.items()}, store.as_uri()]
    ran = run(sys.executable, "-c", UNTIL_THE_FIRST_STEP, json.dumps([*given, list(watched)]))
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


SCORING = {"sklearn", "scipy.stats"}
READING = {"datasets", "pandas", "pyarrow"}


def test_a_folders_rows_are_trained_on_without_a_library_for_data_sets_or_for_scoring(tmp_path: Path) -> None:
    folder, model = write_sentences(tmp_path / "rows"), write_small_model(tmp_path / "model")
    places = {"tiny": folder, "small": model}
    cell = small_cell(folder, model)
    assert imported_until_the_first_step(cell, places, tmp_path / "store", SCORING | READING) == set()


def test_a_data_set_of_a_hub_is_trained_on_without_its_library_once_its_tokens_are_in_the_store(
    tmp_path: Path,
) -> None:
    rows, model = tmp_path / "glue", write_small_model(tmp_path / "model")
    for name, content in SST2.items():
        (rows / name).parent.mkdir(parents=True, exist_ok=True)
        (rows / name).write_bytes(content)
    source = HubSource(name="nyu-mll/glue", config="sst2", revision=COMMIT)
    task = GLUE["sst2"].model_copy(update={"source": source, "train_rows": 3, "validation_rows": (2,)})
    cell = small_cell(write_sentences(tmp_path / "rows"), model, task=task, size="full")
    places = {"nyu-mll/glue": rows, "small": model}
    assert imported_until_the_first_step(cell, places, tmp_path / "store", SCORING | READING) >= {"datasets"}
    assert imported_until_the_first_step(cell, places, tmp_path / "store", SCORING | READING) == set()
