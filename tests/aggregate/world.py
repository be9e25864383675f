"""Frames with known answers, from a model of scores that is written down here and shares no code with `aggregate`.

The score of a run, for a network of 12 layers whose layer i carries the share w_i of the gain (the w sum to 1):

    score = 0.5 + gain(size) · worth(treatment) + seed_sd · u(task, size, seed) + noise_sd · e(cell, seed)

    Reinit        worth = Σ w_i over the layers that are not redrawn, + the shift of its variant where any is redrawn
    Truncate(k)   worth = Σ w_i over i < k, + the shift of the released init + the shift of truncation
    Permute       worth = `permuted`, + order_sd · a normal draw of the order's own
    Probe(K)      score = 0.55 + 0.3 · probe[K - 1] (+ the shift of a reload) + probe_sd · e

u and e are standard normal draws, fixed by what they depend on. u is common to all finetunes of one task, size and
seed, so that paired differences do not contain it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from aggregate.frame import frame
from jobs.cell import Cell, Model, Permute, Probe, Recipe, Reinit, Treatment, Truncate
from jobs.families import released_order
from jobs.plan import PlannedCell
from jobs.tasks import GLUE

TWELVE = Model(name="twelve", revision="2" * 40, layers=12)

EVEN = tuple([1 / 12] * 12)
LOW = (*[0.2] * 4, *[0.025] * 8)
"""Most of the gain sits in the first four layers."""
HIGH = (0.0, 0.0, *[0.02] * 4, *[0.92 / 6] * 6)
"""None of it sits in the first two, most in the upper half."""
LINE = tuple(k / 11 for k in range(12))
"""A probe curve that rises evenly."""
STEP = (0.0, 0.1, 0.5, 0.95, *[1.0] * 8)
"""A probe curve that is near its top from depth 4 on."""


@dataclass(frozen=True)
class World:
    gain: Mapping[Any, float] = field(default_factory=lambda: {500: 0.3, 5000: 0.4})
    weights: Mapping[Any, tuple[float, ...]] = field(default_factory=lambda: {500: EVEN, 5000: EVEN})
    seed_sd: float = 0.01
    noise_sd: float = 0.002
    keep_layernorm: float = 0.0
    lr_scale: float = 0.0
    released: float = 0.0
    truncation: float = 0.0
    permuted: float = 0.3
    order_sd: float = 0.02
    probe: tuple[float, ...] = LINE
    probe_sd: float = 0.002
    reload: float = 0.0

    def score(self, cell: Cell, seed: int) -> float:
        treatment, size = cell.treatment, cell.size
        own = self.noise_sd * normal(cell.digest, seed)
        if isinstance(treatment, Probe):
            shift = self.reload if treatment.scored == "released_reload" else 0.0
            return 0.55 + 0.3 * (self.probe[treatment.depth - 1] + shift) + self.probe_sd * normal(cell.digest, seed)
        shared = self.seed_sd * normal(cell.task.name, size, seed)
        return 0.5 + self.gain[size] * self.worth(treatment, size) + shared + own

    def worth(self, treatment: Treatment, size: Any) -> float:
        weights = self.weights[size]
        if isinstance(treatment, Permute):
            return self.permuted + self.order_sd * normal(treatment.order)
        if isinstance(treatment, Truncate):
            return sum(weights[: treatment.depth]) + self.released + self.truncation
        assert isinstance(treatment, Reinit)
        kept = sum(weight for layer, weight in enumerate(weights) if layer not in treatment.layers)
        if not treatment.layers:
            return kept
        shift = self.keep_layernorm if treatment.keep_layernorm else 0.0
        shift += self.lr_scale if treatment.lr_scale != 1 else 0.0
        return kept + shift + (self.released if treatment.init == "released" else 0.0)


def normal(*what: object) -> float:
    return float(np.random.default_rng(list(repr(what).encode())).normal())


def progressive(**fields: Any) -> Iterator[Treatment]:
    return (Reinit(layers=tuple(range(k, 12)), **fields) for k in range(12, -1, -1))


TREATMENTS: dict[str, tuple[Treatment, ...]] = {
    "progressive": tuple(progressive()),
    "block": tuple(Reinit(layers=(i, i + 1, i + 2)) for i in range(10)),
    "inverse": tuple(Reinit(layers=tuple(x for x in range(12) if x not in (i, i + 1, i + 2))) for i in range(10)),
    "single": tuple(Reinit(layers=(i,)) for i in range(12)),
    "permutation": tuple(Permute(order=released_order(j, 12)) for j in range(1, 7)),
    "probe": tuple(Probe(depth=k) for k in range(1, 13)),
    "converged": tuple(Probe(depth=k, fit="converged") for k in range(1, 13)),
    "reload": tuple(Probe(depth=k, scored="released_reload") for k in range(1, 13)),
    "keep-layernorm": tuple(progressive(keep_layernorm=True)),
    "lr": tuple(progressive(lr_scale=5.0)),
    "released": tuple(progressive(init="released")),
    "truncate": tuple(Truncate(depth=k) for k in range(1, 12)),
}
"""By name, what a frame can have."""


def plans(
    *names: str, tasks: tuple[str, ...] = ("sst2",), sizes: tuple[Any, ...] = (500, 5000), seeds: int = 5
) -> list[PlannedCell]:
    """Cells of those kinds; probes at the largest size only."""
    found: dict[str, PlannedCell] = {}
    for task in tasks:
        for size in sizes:
            for name in names:
                if name in ("probe", "converged", "reload") and size != sizes[-1]:
                    continue
                for one in TREATMENTS[name]:
                    cell = _cell(task, size, one)
                    found.setdefault(cell.digest, PlannedCell(cell, tuple(range(1, seeds + 1)), (name,)))
    return list(found.values())


@cache
def _cell(task: str, size: Any, treatment: Treatment) -> Cell:
    return Cell(model=TWELVE, task=GLUE[task], size=size, treatment=treatment, recipe=Recipe())


def frame_of(world: World, *names: str, **which: Any) -> pd.DataFrame:
    """The frame of that world; `which` goes to `plans`."""
    return filled(plans(*names, **which), world)


def filled(planned: list[PlannedCell], world: World) -> pd.DataFrame:
    table = frame(planned, {}, study="a-study")
    table["status"] = pd.array(["done"] * len(table), dtype="string")
    table["score"] = pd.array(
        [world.score(each.cell, seed) for each in planned for seed in each.seeds], dtype="Float64"
    )
    return table


def scores(table: pd.DataFrame, k: int, *, size: str = "5000", init: str = "truncated_normal") -> np.ndarray:
    """Scores of a progressive cell, by seed, found by pandas."""
    rows = table[(table["size"] == size) & (table["preserved_layers"] == k)]
    if k < 12:
        rows = rows[(rows["init"] == init) & ~rows["keep_layernorm"] & (rows["lr_scale"] == 1)]
    return rows.sort_values("seed")["score"].to_numpy(dtype=float)
