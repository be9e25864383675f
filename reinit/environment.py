"""What a pod reads from its environment, which `jobs.environment` writes: its cells, its seeds, its ranks.

Law: every number and cell is checked before anything is done with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from pydantic import TypeAdapter, ValidationError

from jobs.cell import SCIENCE, Cell, Seed
from jobs.errors import ConfigurationError, SpecError

CELLS: Final = TypeAdapter(tuple[Cell, ...])
SEEDS: Final = TypeAdapter(tuple[Seed, ...])

CHECKPOINT_SECONDS: Final = 300.0
"""Unless the site says otherwise."""


def pod_runs(environment: Mapping[str, str]) -> tuple[tuple[Cell, ...], tuple[int, ...]]:
    """The cells and seeds of this pod, by its environment.

    Raises:
        SpecError: a variable is missing or malformed.
    """

    def read(name: str) -> str:
        if name not in environment:
            raise SpecError(f"{name} is not set", remedy="start this command from a manifest of `reinit render`")
        return environment[name]

    try:
        cells = CELLS.validate_json(read("REINIT_CELLS"))
        seeds = SEEDS.validate_json(read("REINIT_SEEDS"))
    except ValidationError as error:
        raise SpecError("REINIT_CELLS or REINIT_SEEDS is malformed", got=str(error)) from error
    if "REINIT_SEEDS_PER_POD" in environment:
        size = _number(environment, "REINIT_SEEDS_PER_POD", least=1)
        index = _number(environment, "JOB_COMPLETION_INDEX")
        if not (seeds := seeds[size * index : size * (index + 1)]):
            raise SpecError("JOB_COMPLETION_INDEX is beyond the seeds", got=index)
    return known(cells), seeds


def ranks_to_start(environment: Mapping[str, str]) -> int:
    """Number of ranks that this process has to start; 0 where it is a rank itself, or the only one.

    Raises:
        SpecError: REINIT_GPUS is not a number.
    """
    if "REINIT_GPUS" not in environment or "RANK" in environment:
        return 0
    gpus = _number(environment, "REINIT_GPUS")
    return gpus if gpus > 1 else 0


def checkpoint_seconds(environment: Mapping[str, str]) -> float:
    """Training between two checkpoints; 0 keeps none and resumes from none.

    Raises:
        ConfigurationError: REINIT_CHECKPOINT_SECONDS is not a number.
    """
    text = environment.get("REINIT_CHECKPOINT_SECONDS", str(CHECKPOINT_SECONDS))
    with suppress(ValueError):
        if math.isfinite(value := float(text)) and value >= 0:
            return value
    raise ConfigurationError("REINIT_CHECKPOINT_SECONDS is malformed", expected="seconds, 0 for none", got=repr(text))


def _number(environment: Mapping[str, str], name: str, least: int = 0) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
        raise SpecError(f"{name} is malformed", expected=f"a whole number of at least {least}", got=text or "nothing")
    return int(text)


def known(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """The cells, if this code's science is the one that they ask for.

    Raises:
        SpecError: they were made by a version whose scores mean something else.
    """
    for cell in cells:
        if cell.science != SCIENCE[cell.treatment.kind]:
            raise SpecError(
                f"{cell.name} was made for another version of this program",
                expected=f"science version {SCIENCE[cell.treatment.kind]} of {cell.treatment.kind}",
                got=cell.science,
                remedy="render the study again with the version that runs it",
            )
    return cells
