"""Mutation testing: one small change to a module at a time, and whether its own tests notice.

Law: a mutant is a change of one node of a module's syntax tree. It never touches a file: each runs in a fork of a
process that has the libraries loaded, in which the module is compiled from the changed tree. Survivors are known by the
text of their line and the change, not by a line's number, so that they outlive edits elsewhere.
"""

from __future__ import annotations

import ast
import copy
import gc
import importlib
import importlib.util
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]

TESTS: Final[dict[str, tuple[str, ...]]] = {
    "jobs/cell.py": ("tests/jobs/test_cell.py", "tests/jobs/test_shipped.py"),
    "jobs/store.py": ("tests/jobs/test_store.py", "-k", "not s3"),
    "jobs/patient.py": ("tests/jobs/test_store.py", "-k", "not s3"),
    "jobs/found.py": ("tests/jobs/test_found.py", "tests/jobs/test_store.py", "-k", "not s3"),
    "reinit/surgery.py": ("tests/reinit/test_surgery.py",),
    "aggregate/stats.py": ("tests/aggregate/test_stats.py",),
    "aggregate/contrasts.py": ("tests/aggregate/test_contrasts.py", "tests/aggregate/test_shares.py"),
    "aggregate/shares.py": ("tests/aggregate/test_shares.py",),
}
"""Digest, store, surgery and statistics: each module with the quick tests that speak of it."""

MOST_CPU_SECONDS: Final = 120
"""Of one mutant, whatever else the machine does: what has not ended by then would never, and that is noticed."""
MOST_SECONDS: Final = 600
"""The same for one that waits for ever."""


@dataclass(frozen=True)
class Mutant:
    """One change to one module."""

    module: str
    line: str
    """The line's text, without indentation."""
    change: str
    """What was done to which node, such as `< to <=`."""
    number: int
    """Which node of the module, in the order of `sites`."""
    variant: int

    @property
    def key(self) -> str:
        """What it is known by in the list of survivors."""
        return f"{self.module} :: {self.line} :: {self.change}"


# ------------------------------------------------------------------------------------------------------------ changes

_COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_COMPUTED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def _words(node: ast.AST) -> str:
    return ast.unparse(node)[:60].replace("\n", " ")


def _variants(node: ast.AST) -> list[tuple[str, ast.AST]]:  # noqa: C901, PLR0912  a table, written as cases
    """Every changed form of a node, with words for it; none for most nodes."""
    found: list[tuple[str, ast.AST]] = []

    def changed(**fields: Any) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            found.append((f"`{_words(node)}` turned round", changed(ops=[_COMPARED[type(op)]()])))
        case ast.BinOp(op=op) if type(op) in _COMPUTED:
            found.append((f"`{_words(node)}` by another operator", changed(op=_COMPUTED[type(op)]())))
        case ast.BoolOp(op=ast.And()):
            found.append((f"`{_words(node)}` with or", changed(op=ast.Or())))
        case ast.BoolOp(op=ast.Or()):
            found.append((f"`{_words(node)}` with and", changed(op=ast.And())))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            found.append((f"`{_words(node)}` without not", operand))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            found.append((f"`{_words(node)}` without minus", operand))
        case ast.Constant(value=bool(value)):
            found.append((f"{value} flipped", changed(value=not value)))
        case ast.Constant(value=int(value)):
            found.append((f"{value} plus 1", changed(value=value + 1)))
        case ast.Constant(value=float(value)):
            found.append((f"{value} doubled", changed(value=2 * value if value else 1.0)))
        case ast.Constant(value=str(value)):
            found.append((f"{value[:40]!r} respelt", changed(value=f"x{value}")))
        case ast.Return(value=value) if value is not None and not (
            isinstance(value, ast.Constant) and value.value is None
        ):
            found.append((f"`{_words(node)}` of None", changed(value=ast.Constant(value=None))))
        case ast.If(test=test):
            found.append((f"`if {_words(test)}` always", changed(test=ast.Constant(value=True))))
            found.append((f"`if {_words(test)}` never", changed(test=ast.Constant(value=False))))
        case ast.Expr(value=ast.Call() as call):
            found.append((f"`{_words(call)}` left out", changed(value=ast.Constant(value=None))))
        case ast.Continue():
            found.append(("continue to break", ast.Break()))
        case ast.Break():
            found.append(("break to continue", ast.Continue()))
        case _:
            pass
    return [(words, ast.copy_location(new, node)) for words, new in found]


def _worth_changing(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Parent, field, index and node, depth first: not docstrings, and not the words of errors and of names."""
    for name, value in ast.iter_fields(tree):
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _is_words(tree, name, child):
                continue
            yield tree, name, index, child
            yield from _worth_changing(child)


def _is_words(parent: ast.AST, field: str, node: ast.AST) -> bool:
    """Whether it only speaks: docstrings, raised errors, f-strings, imports, `__all__`, type checking."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Assign) and any(
        isinstance(each, ast.Name) and each.id == "__all__" for each in node.targets
    ):
        return True
    # A plain annotation is for readers and mypy; those of fields with constraints are Annotated and do something.
    if field in {"annotation", "returns"} and not any(
        isinstance(each, ast.Name) and each.id in {"Annotated", "Literal"} for each in ast.walk(node)
    ):
        return True
    return isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in _SPEAKERS


_SPEAKERS: Final = frozenset(
    {"SpecError", "DataError", "TransientError", "ConfigurationError", "NotVerifiedError", "TypeVar"}
)


def _sites(tree: ast.Module) -> list[tuple[ast.AST, str, int | None, ast.AST]]:
    return [each for each in _worth_changing(tree) if _variants(each[3])]


def mutants(module: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines; of equal ones on equal lines the first."""
    text = (ROOT / module).read_text(encoding="utf-8")
    lines = text.splitlines()
    found: dict[str, Mutant] = {}
    for number, (_, _, _, node) in enumerate(_sites(ast.parse(text))):
        line = lines[getattr(node, "lineno", 1) - 1].strip()
        for variant, (change, _) in enumerate(_variants(node)):
            mutant = Mutant(module, line, change, number, variant)
            found.setdefault(mutant.key, mutant)
    return list(found.values())


def mutated(mutant: Mutant) -> ast.Module:
    """The module's tree with the change."""
    tree = ast.parse((ROOT / mutant.module).read_text(encoding="utf-8"))
    parent, field, index, node = _sites(tree)[mutant.number]
    new = _variants(node)[mutant.variant][1]
    if index is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[index] = new
    return ast.fix_missing_locations(tree)


# ------------------------------------------------------------------------------------------------------------ running


class _Loader(SourceFileLoader):
    """Loads the one module from another tree."""

    def __init__(self, name: str, path: str, tree: ast.Module | None) -> None:
        super().__init__(name, path)
        self._tree = tree

    def get_code(self, fullname: str) -> CodeType | None:
        """The changed code; nothing is read from or written to a cache."""
        if self._tree is None:
            return super().get_code(fullname)
        return compile(self._tree, self.path, "exec", dont_inherit=True)


class _Finder:
    """Finds the one module, before every other finder does."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self._name = module.removesuffix(".py").replace("/", ".")
        self._path, self._tree = str(ROOT / module), tree

    def find_spec(self, name: str, _path: object = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """A spec for that name alone."""
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=_Loader(name, self._path, self._tree))


def warm(module: str) -> None:
    """Load what the module's tests need, so that a fork has it: the project itself is loaded anew in each."""
    # A pool of threads does not live through a fork, and who waits for it waits for ever.
    os.environ["OMP_NUM_THREADS"] = "1"
    names = ["hypothesis", "pytest", "pydantic", "boto3", "rich", "typer", "yaml"]
    names += (
        ["torch", "transformers", "datasets", "deepspeed", "sklearn.metrics"] if module.startswith("reinit/") else []
    )
    names += ["pandas", "scipy.stats", "matplotlib.pyplot"] if module.startswith("aggregate/") else []
    names += ["jobs.study", "jobs.store", "_pytest.python", "pytest_timeout"]
    for name in names:
        importlib.import_module(name)
    if module.startswith("reinit/"):
        importlib.import_module("tests.reinit.architectures")
        importlib.import_module("reinit.network")


def survives(module: str, tree: ast.Module | None) -> bool:
    """Whether the module's tests pass with this tree, in a fork."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _in_child(module, tree)
        finally:
            os._exit(code)
    ends = time.monotonic() + MOST_SECONDS
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _in_child(module: str, tree: ast.Module | None) -> int:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS, MOST_CPU_SECONDS))
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    # What is loaded is not collected again, and what the module stands on need not be loaded again.
    gc.freeze()
    gc.disable()
    anew = {"tests", "reinit", "aggregate", *(["jobs"] if module.startswith("jobs/") else [])}
    for name in [each for each in sys.modules if each.partition(".")[0] in anew]:
        del sys.modules[name]
    if tree is not None:
        sys.meta_path.insert(0, _Finder(module, tree))
    import hypothesis
    import pytest

    # The same examples for every mutant, and few: the rest of the tests is what is asked.
    hypothesis.settings.register_profile("mutants", max_examples=30, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        # No plugin that these tests do without, and no words for a failure that nobody reads.
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "pytest_timeout", "--assert=plain"]
        options += ["--timeout", str(MOST_SECONDS)]
        options += ["-m", "not slow and not gpu", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
        os.chdir(ROOT)
        return int(pytest.main([*options, "--basetemp", f"{folder}/t", *TESTS[module]]))
