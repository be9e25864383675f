"""`reinit reproduce`: from one result back to the command that makes it, and whether it comes out the same again.

Law: a result embeds its whole cell, so nothing but the result is asked: no study file, and no name is read back. Equal
means equal bits of every metric and every logit; what differs is shown, never judged by a tolerance.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from jobs.cell import Cell
from jobs.cluster import IMAGE, Cluster
from jobs.container import docker_run
from jobs.environment import compact
from jobs.errors import ConfigurationError, DataError, SpecError
from jobs.found import NotVerifiedError, explain, require_schema
from jobs.result import RESULT, DivergedRun, Provenance, RunResult
from jobs.store import Store, open_store
from jobs.tasks import FolderSource

if TYPE_CHECKING:
    from rich.console import Console

Result = RunResult | DivergedRun

MOST_NAMED: Final = 10
"""Candidates that an error names."""

_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")


def find_result(ref: str, seed: int | None, store: Store | None) -> Result:
    """The one result that `ref` means.

    Args:
        ref: the path of a result object; its key in the store (`runs/...json`); or the beginning of a cell's digest, as
            tables show it.
        seed: which run of the cell; needed where the cell has several.
        store: where results are; needed unless `ref` is a path.

    Raises:
        SpecError: nothing or more than one result is meant.
        DataError: the object is no sound result.
        TransientError, ConfigurationError: the store could not be read.
    """
    if _is_file(ref):
        return _read(Path(ref))
    digest = re.search(r"(?:^|/)runs/([0-9a-f]{64})/([0-9]+)\.", ref)
    prefix, seed = (digest[1], int(digest[2])) if digest else (ref, seed)
    if store is None:
        raise SpecError(
            "no such file", got=ref, remedy="give the path of a result object, or --store for a key or a digest"
        )
    if not re.fullmatch(r"[0-9a-f]{4,64}", prefix):
        raise SpecError(
            "no result", expected="a file, a key `runs/...json`, or 4 or more hex digits of a digest", got=ref
        )
    digests = store.digests(prefix)
    if len(digests) != 1:
        shown = ", ".join(each[:12] for each in digests[:MOST_NAMED])
        raise SpecError(f"{len(digests) or 'no'} cells in {store.url} begin with {prefix}", allowed=shown or None)
    return _of_seed(store.results(digests[0]).results, digests[0], seed)


def _is_file(ref: str) -> bool:
    try:
        return Path(ref).is_file()
    except OSError:  # longer than a name can be
        return False


def _read(path: Path) -> Result:
    try:
        data = path.read_bytes()
        require_schema(data)
        return RESULT.validate_json(data)
    except ValidationError as error:
        raise DataError("not a result", where=str(path), got=explain(error)) from error
    except NotVerifiedError as error:
        raise DataError("not a result", where=str(path), got=str(error)) from error
    except OSError as error:
        raise DataError("a result cannot be read", where=str(path), got=error.strerror) from error


def _of_seed(results: Mapping[int, Result], digest: str, seed: int | None) -> Result:
    if seed is None and len(results) == 1:
        return next(iter(results.values()))
    if seed is None or seed not in results:
        raise SpecError(
            f"cell {digest[:12]} has {'several results' if results else 'no result that counts'}",
            expected="--seed of one of them",
            got="none" if seed is None else seed,
            allowed=", ".join(map(str, results)) or None,
        )
    return results[seed]


# ------------------------------------------------------------------------------------------------------- the command


@dataclass(frozen=True)
class Command:
    """How to make a result again."""

    code: str
    """What gets the code that made it; empty where no commit is known."""
    run: str
    """What runs it, into a store of its own."""
    differences: dict[str, tuple[str, str]]
    """Libraries whose versions were others than they are here: then and now."""


def command(result: Result, places: Mapping[str, Path], out: Path) -> Command:
    """The commands, to paste into a shell.

    Args:
        result: what to make again.
        places: folders of this machine for names of models and data.
        out: folder for the new result; it has to be there for a container.
    """
    made_with = result.provenance
    commit = made_with.git_commit.removesuffix("+dirty")
    differences = library_differences(made_with)
    if made_with.image is not None and re.fullmatch(IMAGE, made_with.image):
        line = _in_container(result, places, out)
        return Command(f"docker pull {shlex.quote(made_with.image)}", line, differences)
    # A result may come from anybody, and a name that begins with a dash would be an option.
    code = f"git checkout {commit}" if _COMMIT.fullmatch(commit) else ""
    return Command(code, _here(result, places, out), differences)


def _here(result: Result, places: Mapping[str, Path], out: Path) -> str:
    made_with = result.provenance
    on_gpu = result.gpu_seconds > 0
    environment = {
        "REINIT_CELLS": compact([result.cell.model_dump(mode="json")]),
        "REINIT_SEEDS": compact([result.seed]),
        "REINIT_STORE": f"file://{out}",
        "REINIT_PLACES": compact({name: str(path) for name, path in places.items()}),
        "REINIT_THREADS": str(made_with.threads),
        "REINIT_DEVICE": "cuda" if on_gpu else "cpu",
        **({"REINIT_GPUS": str(made_with.world_size)} if made_with.world_size > 1 else {}),
    }
    return shlex.join(["env", *(f"{name}={value}" for name, value in environment.items()), "python", "-m", "reinit"])


def _in_container(result: Result, places: Mapping[str, Path], out: Path) -> str:
    made_with = result.provenance
    gpus = made_with.world_size if result.gpu_seconds > 0 else 0
    site = Cluster(
        image=made_with.image or "",
        store="s3://elsewhere",  # the container writes to `out`
        gpus=gpus,
        cpu=str(made_with.threads * max(1, gpus)),
    )
    return docker_run(result.cell, [result.seed], site, f"file://{out}", places)


def unplaced(cell: Cell, places: Mapping[str, Path]) -> list[str]:
    """Names of data and models that only a place can stand for, and that have none."""
    names = [cell.task.source.name] if isinstance(cell.task.source, FolderSource) else []
    if cell.model.revision.startswith("sha256:") and not cell.model.name.startswith("package:"):
        names.append(cell.model.name)
    return [name for name in names if name not in places]


def library_differences(made_with: Provenance) -> dict[str, tuple[str, str]]:
    """Libraries whose version was another one than this machine has: then and now."""

    def now(name: str) -> str:
        if name == "python":
            return platform.python_version()
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {name: (then, here) for name, then in made_with.versions.items() if (here := now(name)) != then}


# --------------------------------------------------------------------------------------------------------- the check


@dataclass(frozen=True)
class Comparison:
    """A result and what came of running it again."""

    before: Result
    after: Result

    @property
    def is_equal(self) -> bool:
        """Whether every metric and every logit has the same bits."""
        return self.before.science12 == self.after.science12

    @property
    def is_one_version(self) -> bool:
        """Whether equal bits were to be expected."""
        return self.before.provenance.numerics == self.after.provenance.numerics

    @property
    def scores(self) -> dict[str, tuple[str, str]]:
        """Metrics, or how the run diverged: before and after, every digit."""
        before, after = _measured(self.before), _measured(self.after)
        return {name: (before.get(name, "-"), after.get(name, "-")) for name in dict.fromkeys([*before, *after])}

    @property
    def moved(self) -> dict[str, tuple[str, str]]:
        """What is not the same in what both were made with, of that which can move a bit."""
        before, after = _made_with(self.before.provenance), _made_with(self.after.provenance)
        names = dict.fromkeys([*before, *after])
        pairs = {name: (before.get(name, "-"), after.get(name, "-")) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _measured(result: Result) -> dict[str, str]:
    if isinstance(result, DivergedRun):
        return {"diverged at step": str(result.diverged_step), "loss": result.loss}
    return {**{name: repr(value) for name, value in result.metrics.items()}, "predictions": result.predictions[:12]}


def _made_with(provenance: Provenance) -> dict[str, str]:
    fields = ("git_commit", "device", "threads", "world_size", "weights_sha256", "rows_sha256")
    return {
        **{name: str(getattr(provenance, name)) for name in fields},
        **{f"{name} (library)": each for name, each in provenance.versions.items()},
    }


def run_again(result: Result, places: Mapping[str, Path], log_folder: Path, console: Console) -> Comparison:
    """Run the result's cell and seed here, in a process and a store of their own, and compare.

    Raises:
        ConfigurationError: the result is of several GPUs, or of a GPU and this machine has none.
        ReinitError: the run failed.
    """
    from jobs.local import Machine, Run, find_gpus, run_locally

    made_with, on_gpu = result.provenance, result.gpu_seconds > 0
    gpus = find_gpus()[:1] if on_gpu else ()
    if made_with.world_size > 1 or (on_gpu and not gpus):
        raise ConfigurationError(
            "this result cannot be made again here",
            expected=f"{made_with.world_size} x {made_with.device}",
            got=f"{len(find_gpus())} GPUs",
            remedy="paste the command that `reinit reproduce` prints without --check where such GPUs are",
        )
    with tempfile.TemporaryDirectory(prefix="reinit-again-") as folder:
        store = f"file://{folder}"
        run = Run(result.cell, result.seed)
        summary = run_locally([run], store, dict(places), Machine(1, made_with.threads, gpus), log_folder, console)
        if summary.errors:
            raise summary.errors[0]
        found = open_store(store).results(result.digest).results
    if result.seed not in found:
        raise ConfigurationError("the run was stopped before it had a result", remedy="the same command again")
    return Comparison(result, found[result.seed])


def as_json(result: Result, made: Command, comparison: Comparison | None) -> dict[str, object]:
    """Everything that was found, for programs."""
    return {
        "result": json.loads(result.to_bytes()),
        "code": made.code,
        "run": made.run,
        "libraries": {name: {"then": then, "now": now} for name, (then, now) in made.differences.items()},
        "check": None
        if comparison is None
        else {
            "equal": comparison.is_equal,
            "same_numerics_version": comparison.is_one_version,
            "scores": comparison.scores,
            "moved": comparison.moved,
        },
    }
