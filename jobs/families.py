"""Families: the ways in which a study enumerates treatments.

Law: a family is a way to list, never a kind of treatment: what it yields are plain `Reinit`, `Permute`, `Probe`
and `Truncate` values, and a cell that two families list is one cell. Defaults are those of the treatments.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from jobs.cell import (
    Feature,
    Fit,
    Init,
    Layers,
    Permute,
    Pooler,
    Probe,
    Recipe,
    Reinit,
    Scored,
    Seed,
    Size,
    Treatment,
    Truncate,
)
from jobs.spec import Mistake
from jobs.tasks import Frozen, Name

_REINIT: Final = Reinit()
_PROBE: Final = Probe(depth=1)

Item = TypeVar("Item", bound=Hashable)


def _each_once(items: tuple[Item, ...]) -> tuple[Item, ...]:
    seen: set[Item] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"each entry at most once, got {item} again")
        seen.add(item)
    return items


Listed = Annotated[tuple[Item, ...], Field(min_length=1), AfterValidator(_each_once)]
"""At least one entry, each at most once."""

All = Literal["all"]

SeedPlan = Annotated[int, Field(ge=1, le=10_000)] | Listed[Seed]
"""A number n means the seeds 1 to n; a list means those seeds."""


class Family(Frozen):
    """What every family says: where it runs, with which seeds, under which name."""

    family: str
    name: Name | None = None
    """What tables and figures call it; the kind of family if left out."""
    tasks: Listed[str] | All = "all"
    """Tasks of the study, by name."""
    sizes: Listed[Size]
    """Training examples: numbers, or `full`."""
    seeds: SeedPlan | dict[str, SeedPlan]
    """How many seeds (3 means 1, 2, 3), which, or either by size: `{default: 3, 500: 50}`."""
    recipe: Recipe = Recipe()
    """Numbers that differ from the study's recipe in this family; what is left out stays the study's."""

    @property
    def label(self) -> str:
        """The name, or the kind of family where none is given."""
        return self.name or self.family

    def treatments(self, depth: int) -> Iterator[Treatment]:
        """What is done to a network of `depth` layers, in the order of the tables."""
        raise NotImplementedError

    def misfits(self, depth: int) -> Iterator[Mistake]:
        """What does not fit a network of `depth` layers, or itself; places are relative to the family."""
        yield from self._unseeded()
        yield from self._beyond(depth)

    def _beyond(self, depth: int) -> Iterator[Mistake]:
        """Layers and orders that a network of `depth` layers does not have."""
        raise NotImplementedError

    def _unseeded(self) -> Iterator[Mistake]:
        """Seeds by size that do not match the sizes."""
        if not isinstance(self.seeds, dict):
            return
        sizes = [str(size) for size in self.sizes]
        for key in self.seeds:
            if key not in (*sizes, "default"):
                yield Mistake(("seeds", key), f"{key} is no size here", allowed=", ".join([*sizes, "default"]))
        if lacking := [size for size in sizes if size not in self.seeds and "default" not in self.seeds]:
            problem = f"no seeds for size {', '.join(lacking)}"
            yield Mistake(("seeds",), problem, expected="each size, or `default`")

    def seeds_at(self, size: Size) -> tuple[int, ...]:
        """The seeds of every cell of that size."""
        seeds = self.seeds
        if isinstance(seeds, dict):
            seeds = seeds.get(str(size), seeds.get("default", ()))
        return tuple(range(1, seeds + 1)) if isinstance(seeds, int) else seeds

    def recipe_on(self, base: Recipe) -> Recipe:
        """The study's recipe with this family's numbers."""
        own = self.recipe
        return base.model_copy(update={field: getattr(own, field) for field in own.model_fields_set})


def _above(field: str, values: Iterable[int] | All, most: int, depth: int) -> Iterator[Mistake]:
    for index, value in enumerate(() if values == "all" else values):
        if value > most:
            problem = f"{value} does not fit a model of {depth} layers"
            yield Mistake((field, index), problem, expected=f"at most {most}")


class _Redraw(Family):
    """How the layers that the family lists are redrawn, the options of the treatment `Reinit`."""

    init: Init = _REINIT.init
    """`truncated_normal` (the paper), `released` (its code), `normal`, or `architecture` (the model's own)."""
    keep_layernorm: bool = _REINIT.keep_layernorm
    """Redrawn layers keep their pretrained LayerNorm parameters."""
    lr_scale: PositiveFloat = _REINIT.lr_scale
    """Learning rate of the redrawn layers over that of the rest."""
    pooler: Pooler = _REINIT.pooler
    """Whether the pooler is redrawn too."""
    frozen_layers: Annotated[Layers, AfterValidator(_each_once)] = _REINIT.frozen_layers
    """Layers that are never trained."""

    def _layer_sets(self, depth: int) -> Iterator[Iterable[int]]:
        """The layers that each cell redraws."""
        raise NotImplementedError

    def treatments(self, depth: int) -> Iterator[Treatment]:
        """One `Reinit` for each set of layers."""
        for layers in self._layer_sets(depth):
            yield Reinit(
                layers=tuple(layers),
                init=self.init,
                keep_layernorm=self.keep_layernorm,
                lr_scale=self.lr_scale,
                pooler=self.pooler,
                frozen_layers=self.frozen_layers,
            )

    def _beyond(self, depth: int) -> Iterator[Mistake]:
        yield from _above("frozen_layers", self.frozen_layers, depth - 1, depth)


class Progressive(_Redraw):
    """Keep the first k layers, redraw the others."""

    family: Literal["progressive"] = "progressive"
    preserved: Listed[NonNegativeInt] | All = "all"
    """The k's; all means every k from the model's depth (plain finetuning) down to 0."""

    def _layer_sets(self, depth: int) -> Iterator[Iterable[int]]:
        for preserved in range(depth, -1, -1) if self.preserved == "all" else self.preserved:
            yield range(preserved, depth)

    def _beyond(self, depth: int) -> Iterator[Mistake]:
        yield from super()._beyond(depth)
        yield from _above("preserved", self.preserved, depth, depth)


class _Blocks(_Redraw):
    width: PositiveInt = 3
    """Layers in a block."""
    starts: Listed[NonNegativeInt] | All = "all"
    """The first layer of each block."""

    def _blocks(self, depth: int) -> Iterator[range]:
        for start in range(depth - self.width + 1) if self.starts == "all" else self.starts:
            yield range(start, start + self.width)

    def _beyond(self, depth: int) -> Iterator[Mistake]:
        yield from super()._beyond(depth)
        if self.width > depth:
            problem = f"blocks of {self.width} do not fit a model of {depth} layers"
            yield Mistake(("width",), problem, expected=f"at most {depth}")
        else:
            yield from _above("starts", self.starts, depth - self.width, depth)


class Block(_Blocks):
    """Redraw consecutive layers."""

    family: Literal["block"] = "block"

    def _layer_sets(self, depth: int) -> Iterator[Iterable[int]]:
        yield from self._blocks(depth)


class InverseBlock(_Blocks):
    """Redraw all layers but consecutive ones."""

    family: Literal["inverse-block"] = "inverse-block"

    def _layer_sets(self, depth: int) -> Iterator[Iterable[int]]:
        for block in self._blocks(depth):
            yield (layer for layer in range(depth) if layer not in block)


class Single(_Redraw):
    """Redraw one layer."""

    family: Literal["single"] = "single"
    layers: Listed[NonNegativeInt] | All = "all"
    """Which layers, each in a cell of its own."""

    def _layer_sets(self, depth: int) -> Iterator[Iterable[int]]:
        for layer in range(depth) if self.layers == "all" else self.layers:
            yield (layer,)

    def _beyond(self, depth: int) -> Iterator[Mistake]:
        yield from super()._beyond(depth)
        yield from _above("layers", self.layers, depth - 1, depth)


class Alternate(_Redraw):
    """Redraw every other layer."""

    family: Literal["alternate"] = "alternate"
    which: Literal["even", "odd", "both"] = "both"
    """Redraw layers 0, 2, 4 ..., or 1, 3, 5 ..., or each in a cell of its own."""

    def _layer_sets(self, depth: int) -> Iterator[Iterable[int]]:
        if self.which != "odd":
            yield range(0, depth, 2)
        if self.which != "even":
            yield range(1, depth, 2)


class LayerSets(_Redraw):
    """Redraw the listed sets of layers."""

    family: Literal["reinit"] = "reinit"
    layers: Listed[Annotated[Layers, AfterValidator(_each_once)]]
    """One list of layers for each cell; an empty one is plain finetuning."""

    def _layer_sets(self, depth: int) -> Iterator[Iterable[int]]:  # noqa: ARG002
        yield from self.layers

    def _beyond(self, depth: int) -> Iterator[Mistake]:
        yield from super()._beyond(depth)
        for index, layers in enumerate(self.layers):
            for mistake in _above("layers", layers, depth - 1, depth):
                yield replace(mistake, loc=("layers", index))


class Permutation(Family):
    """Reorder the pretrained layers."""

    family: Literal["permutation"] = "permutation"
    orders: Listed[tuple[NonNegativeInt, ...]] | None = None
    """Each order lists, from depth 0 up, the pretrained layer that comes to stand there."""
    released: Annotated[int, Field(ge=1, le=1000)] | None = None
    """The first so many orders of the paper's released code: seeded by 1, 2, 3 ..."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.orders is None) == (self.released is None):
            raise ValueError("a permutation family needs either `orders` or `released`, one of the two")
        return self

    def treatments(self, depth: int) -> Iterator[Treatment]:
        """One `Permute` for each order."""
        drawn = (released_order(seed, depth) for seed in range(1, (self.released or 0) + 1))
        for order in self.orders or drawn:
            yield Permute(order=order)

    def _beyond(self, depth: int) -> Iterator[Mistake]:
        for index, order in enumerate(self.orders or ()):
            if sorted(order) != list(range(depth)):
                problem = f"not an order of {depth} layers"
                expected = f"each of 0 to {depth - 1} once"
                yield Mistake(("orders", index), problem, expected=expected, got=list(order))


class Probing(Family):
    """Train a classifier on the frozen first layers."""

    family: Literal["probe"] = "probe"
    depths: Listed[PositiveInt] | All = "all"
    """How many layers are kept; all means 1 to the model's depth."""
    feature: Feature = _PROBE.feature
    """What the classifier sees: `pooler`, `cls`, or `mean` over tokens."""
    fit: Fit = _PROBE.fit
    """Train by the recipe, or to convergence."""
    scored: Scored = _PROBE.scored
    """Score the trained network, or as the released code one reloaded with random upper layers."""
    encoder_dropout: bool = _PROBE.encoder_dropout
    """Dropout in the frozen encoder while the classifier trains."""

    def treatments(self, depth: int) -> Iterator[Treatment]:
        """One `Probe` for each depth."""
        for kept in range(1, depth + 1) if self.depths == "all" else self.depths:
            yield Probe(
                depth=kept,
                feature=self.feature,
                fit=self.fit,
                scored=self.scored,
                encoder_dropout=self.encoder_dropout,
            )

    def misfits(self, depth: int) -> Iterator[Mistake]:
        """As for every family; and several seeds of what has none would be one number with an interval of width 0."""
        yield from super().misfits(depth)
        seeds = self.seeds_at("full") if "full" in self.sizes and self.fit == "converged" else ()
        if len(seeds) > 1:
            yield Mistake(
                ("seeds",),
                "a classifier fitted to convergence on all rows comes out the same whatever the seed",
                expected="one seed at size full",
                got=f"{len(seeds)} seeds",
                remedy="say seeds: 1, or by size, seeds: {default: 10, full: 1}",
            )

    def _beyond(self, depth: int) -> Iterator[Mistake]:
        yield from _above("depths", self.depths, depth, depth)


class Truncation(Family):
    """Keep the first layers only, and finetune them."""

    family: Literal["truncate"] = "truncate"
    depths: Listed[PositiveInt] | All = "all"
    """How many layers are kept; all means 1 to the model's depth."""

    def treatments(self, depth: int) -> Iterator[Treatment]:
        """One `Truncate` for each depth."""
        for kept in range(1, depth + 1) if self.depths == "all" else self.depths:
            yield Truncate(depth=kept)

    def _beyond(self, depth: int) -> Iterator[Mistake]:
        yield from _above("depths", self.depths, depth, depth)


AnyFamily = Annotated[
    Progressive | Block | InverseBlock | Single | Alternate | LayerSets | Permutation | Probing | Truncation,
    Field(discriminator="family"),
]


def released_order(seed: int, depth: int) -> tuple[int, ...]:
    """The order of layers that the paper's released code draws from `seed`.

    It is `numpy.random.RandomState(seed).permutation(depth)`, in Python so that planning needs no numpy: the
    Mersenne Twister seeded as in Matsumoto and Nishimura's `init_genrand`, then Fisher and Yates' shuffle from the
    end, each index drawn by masking and rejection (numpy's legacy `random_interval`).
    """
    words = [seed]
    for index in range(1, 624):
        words.append((1812433253 * (words[-1] ^ words[-1] >> 30) + index) % 2**32)
    twister = random.Random()
    twister.setstate((3, (*words, 624), None))
    order = list(range(depth))
    for last in range(depth - 1, 0, -1):
        mask = 2 ** last.bit_length() - 1
        while (drawn := twister.getrandbits(32) & mask) > last:
            pass
        order[last], order[drawn] = order[drawn], order[last]
    return tuple(order)
