"""How often the 95% intervals cover what they are meant to cover, by simulation, for few seeds and for many.

    python -m benchmarks.coverage [--draws 2000]

Two worlds. In *normal* a score is its mean, an effect of the seed shared by all conditions, and noise of its own, all
normal. In *chance* a seed's finetune stays at chance with probability p, as at 500 examples, and is normal otherwise.
True values are known from the worlds, not from data. Each number is the share of draws whose interval covers, in per
cent, with its Monte Carlo standard error; after a slash, where any, the share of draws that gave no interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from aggregate.alignment import gap_difference, largest_gap
from aggregate.contrasts import Scores, contrast, difference, student, welch
from aggregate.resample import Array, bootstrap, jackknife
from aggregate.shares import Share, ShareDifference
from aggregate.stats import Interval

COUNTS: Final = (3, 5, 10, 50)
CHANCE: Final = 0.509
LAYERS: Final = 12
GAP_LAW: Final = 0.7  # exponent of the probe curve


@dataclass(frozen=True)
class World:
    """Where scores come from."""

    name: str
    gain: float
    seed_sd: float
    noise_sd: float
    stuck: float
    """Probability that a finetune stays at chance, when all layers are kept; the others more often."""
    power: float
    """The share of the gain at k is (k / 12) to this power."""

    def share(self, k: int) -> float:
        """Of the gain at k preserved layers, for runs that are not at chance."""
        return float((k / LAYERS) ** self.power)

    def alone(self, k: int) -> float:
        """Probability of chance at k: the more layers are redrawn, the likelier."""
        return 0.0 if not self.stuck else self.stuck + (1 - self.stuck) * 0.5 * (1 - k / LAYERS)

    def mean(self, k: int) -> float:
        """The true mean score at k."""
        return CHANCE + (1 - self.alone(k)) * self.gain * self.share(k)

    def draw(self, n: int, ks: Sequence[int], random: np.random.Generator) -> Array:
        """Scores of n seeds at these k: seeds x k. A seed is lucky or not at all k alike."""
        seeds, luck = random.normal(0, self.seed_sd, (n, 1)), random.uniform(size=(n, 1))
        means = np.array([CHANCE + self.gain * self.share(k) for k in ks])
        scores = means + seeds + random.normal(0, self.noise_sd, (n, len(ks)))
        stuck = luck < np.array([self.alone(k) for k in ks])
        return np.where(stuck, CHANCE, scores)


LARGE: Final = World("large", gain=0.40, seed_sd=0.004, noise_sd=0.006, stuck=0.0, power=0.5)
NORMAL: Final = World("normal", gain=0.35, seed_sd=0.02, noise_sd=0.02, stuck=0.0, power=1.5)
AT_CHANCE: Final = World("chance", gain=0.35, seed_sd=0.02, noise_sd=0.02, stuck=0.2, power=1.5)

Draw = Callable[[World, int, np.random.Generator], tuple[Interval, float]]
"""One interval, and the true value."""


def by_seed(column: Array) -> Scores:
    """A column of scores as scores by seed."""
    return dict(enumerate(column.tolist(), start=1))


def draw_mean(world: World, n: int, random: np.random.Generator) -> tuple[Interval, float]:
    """Mean score at k = 12."""
    return student(world.draw(n, [12], random)[:, 0].tolist()).interval, world.mean(12)


def draw_paired(world: World, n: int, random: np.random.Generator) -> tuple[Interval, float]:
    """Loss from k = 12 to k = 9, paired by seed."""
    plain, block = map(by_seed, world.draw(n, [12, 9], random).T)
    return student(list(difference(plain, block).values())).interval, world.mean(12) - world.mean(9)


def draw_welch(world: World, n: int, random: np.random.Generator) -> tuple[Interval, float]:
    """Ten orders against n seeds."""
    orders = random.normal(0.60, 0.03, 10).tolist()
    return welch(orders, world.draw(n, [12], random)[:, 0].tolist()).interval, 0.60 - world.mean(12)


def draw_contrast(world: World, n: int, random: np.random.Generator) -> tuple[Interval, float]:
    """Loss from k = 12 to k = 9 less a tenth of the gain."""
    plain, block, none = map(by_seed, world.draw(n, [12, 9, 0], random).T)
    values = contrast((0.9, plain), (-1, block), (0.1, none))
    return student(list(values.values())).interval, 0.9 * world.mean(12) - world.mean(9) + 0.1 * world.mean(0)


def _share(world: World, n: int, random: np.random.Generator) -> tuple[Share, float]:
    plain, third, none = map(by_seed, world.draw(n, [12, 4, 0], random).T)
    truth = (world.mean(4) - world.mean(0)) / (world.mean(12) - world.mean(0))
    return Share(difference(third, none), difference(plain, none)), truth


def draw_fieller(world: World, n: int, random: np.random.Generator) -> tuple[Interval, float]:
    """Share of the gain at k = 4."""
    share, truth = _share(world, n, random)
    return share.interval, truth


def draw_mover(world: World, n: int, random: np.random.Generator) -> tuple[Interval, float]:
    """Share at k = 4 of the large size minus that of this world."""
    (large, at_large), (small, at_small) = _share(LARGE, n, random), _share(world, n, random)
    return ShareDifference(large, small).interval, at_large - at_small


def _curves(world: World, n: int, random: np.random.Generator) -> tuple[list[Array], float]:
    """Curves of this world, of the large size and of a probe, and the true difference of their gaps."""
    ks = range(1, LAYERS + 1)
    law = np.array([0.6 + 0.25 * (k / LAYERS) ** GAP_LAW for k in ks])
    probe = law + random.normal(0, 0.005, (n, LAYERS))
    true = [np.array([each.mean(k) for k in ks]) for each in (world, LARGE)]
    truth = float(largest_gap(true[0], law) - largest_gap(true[1], law))
    return [world.draw(n, ks, random), LARGE.draw(n, ks, random), probe], truth


def draw_jackknife(world: World, n: int, random: np.random.Generator) -> tuple[Interval, float]:
    """Difference of the largest gaps between progressive and probe curves, by the jackknife."""
    samples, truth = _curves(world, n, random)
    return jackknife(gap_difference, samples).interval, truth


def draw_bootstrap(world: World, n: int, random: np.random.Generator) -> tuple[Interval, float]:
    """The same by the bootstrap."""
    samples, truth = _curves(world, n, random)
    return bootstrap(gap_difference, samples, seed=int(random.integers(2**32))).interval, truth


DRAWS: Final[dict[str, tuple[Draw, tuple[int, ...]]]] = {
    "mean": (draw_mean, COUNTS),
    "paired difference": (draw_paired, COUNTS),
    "Welch, 10 orders": (draw_welch, COUNTS),
    "contrast": (draw_contrast, COUNTS),
    "share (Fieller)": (draw_fieller, COUNTS),
    "difference of shares (MOVER)": (draw_mover, COUNTS),
    "gap difference (jackknife)": (draw_jackknife, COUNTS),
    "gap difference (bootstrap)": (draw_bootstrap, (50,)),
}


def covered(draw: Draw, world: World, n: int, draws: int, seed: int = 0) -> tuple[float, float, float]:
    """Share of intervals that cover, its Monte Carlo error, and the share of draws without an interval."""
    random, hits, none = np.random.default_rng([seed, n]), 0, 0
    for _ in range(draws):
        interval, truth = draw(world, n, random)
        if interval.low is None or interval.high is None:
            none += 1
        else:
            hits += interval.low <= truth <= interval.high
    known = max(1, draws - none)
    rate = hits / known
    return rate, (rate * (1 - rate) / known) ** 0.5, none / draws


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2_000)
    draws = parser.parse_args().draws
    print(f"coverage of 95% intervals in per cent, {draws:,} draws a number")
    print(f"{'interval':<30}{'world':<8}" + "".join(f"{f'n = {n}':>18}" for n in COUNTS))
    for name, (draw, counts) in DRAWS.items():
        for world in (NORMAL, AT_CHANCE):
            cells = [_cell(draw, world, n, draws) if n in counts else "" for n in COUNTS]
            print(f"{name:<30}{world.name:<8}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def _cell(draw: Draw, world: World, n: int, draws: int) -> str:
    rate, error, none = covered(draw, world, n, draws)
    return f"{100 * rate:.1f} ± {100 * error:.1f}" + (f" / {100 * none:.0f}" if none else "")


if __name__ == "__main__":
    main()
