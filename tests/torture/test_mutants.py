"""Mutants of digest, store, surgery and statistics: what the tests let live is known, each with its reason.

`survivors.txt` has a line for each: `module :: line :: change :: reason`. One that is not there fails; a reason for
one that is no longer a mutant is counted. The full form tries every mutant, and goes on where it stopped when
REINIT_MUTANTS names a file to keep what is known in.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Final

import pytest

from tests.figures import full, record
from tests.torture.mutants import TESTS, Mutant, mutants, mutated, survives, warm

SURVIVORS: Final = Path(__file__).with_name("survivors.txt")
SAMPLE: Final = full(None, 2)
"""Mutants tried of each module; None is all."""
SEED: Final = int(os.environ.get("REINIT_MUTANTS_SEED", "1"))


def reasons() -> dict[str, str]:
    """Known survivors, and why each may live."""
    found = {}
    for line in SURVIVORS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            key, _, reason = line.rpartition(" :: ")
            found[key] = reason
    return found


def sampled(module: str) -> list[Mutant]:
    every = mutants(module)
    if SAMPLE is None:
        return every
    return random.Random(f"{SEED}/{module}").sample(every, SAMPLE)


def known() -> dict[str, bool]:
    """What an earlier, broken-off try of this very tree found: whether each mutant survived."""
    path = Path(os.environ.get("REINIT_MUTANTS", "no such file"))
    if not path.is_file():
        return {}
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["key"]: line["survives"] for line in lines}


def remember(mutant: Mutant, alive: bool) -> None:
    if path := os.environ.get("REINIT_MUTANTS"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": mutant.key, "survives": alive}) + "\n")


def test_every_survivor_has_a_reason() -> None:
    assert {key: reason for key, reason in reasons().items() if len(reason) < 20 or key.count(" :: ") < 2} == {}


def test_a_mutant_is_one_change_that_python_reads() -> None:
    for module in TESTS:
        for mutant in random.Random(SEED).sample(mutants(module), 20):
            compile(mutated(mutant), module, "exec")


@pytest.mark.timeout(0)
def test_no_mutant_lives_without_a_reason() -> None:
    why, before = reasons(), known()
    tried = lines = killed = 0
    alive: list[str] = []
    began = time.monotonic()
    for module in TESTS:
        chosen = sampled(module)
        warm(module)
        assert survives(module, None), f"the tests of {module} do not pass as it is"
        for mutant in chosen:
            if mutant.key not in before:
                before[mutant.key] = survives(module, mutated(mutant))
                remember(mutant, before[mutant.key])
            if before[mutant.key]:
                alive.append(mutant.key)
            else:
                killed += 1
        tried += len(chosen)
        lines += len({mutant.line for mutant in chosen})
    strangers = [key for key in alive if key not in why]
    assert not strangers, "\n".join(
        [f"{len(strangers)} mutants live without a reason in {SURVIVORS.name}:", *strangers]
    )
    gone = len(why.keys() - {mutant.key for module in TESTS for mutant in mutants(module)})
    record(
        "test_mutants",
        f"{tried} mutants of {lines} lines in {len(TESTS)} modules: {killed} killed, {len(alive)} alive, each with its "
        f"reason; {gone} reasons of lines that are gone; {time.monotonic() - began:.0f} s",
        "survivors listed, each with its reason",
    )
