"""`Cell`, the one noun: everything that can move a score, nothing else, and no seed. Read this file first.

Law: a cell's identity is its content. `Cell.digest` is the sha256 of the canonical JSON of all fields of
schema 1; names are for people and are never parsed. A field added later declares in `AS_BEFORE` the one value that
means "as before" and is left out of the digest at exactly that value, for ever.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jobs.tasks import Commit, Frozen, Sha256, Task

Layers = tuple[NonNegativeInt, ...]
"""Layer indices, 0 next to the embeddings; kept sorted, each once."""

Init = Literal["truncated_normal", "released", "normal", "architecture"]
"""How a layer is redrawn.

- `truncated_normal`: weights from N(0, .02) cut at 2 sd (sd of the draws .0176), biases 0, norms 1 and 0: the
  paper.
- `released`: weights from `truncnorm(-.04, .04, scale=.02)`, so within 8e-4 (sd 4.6e-4), biases kept, norms 1 and
  0: the authors' code, where the bounds were meant as values and SciPy reads them as standard deviations.
- `normal`: weights from N(0, .02), biases 0, norms 1 and 0 (Zhang et al. 2021).
- `architecture`: the model's own initialisation, `_init_weights`.
"""


Pooler = Literal["keep", "redraw"]
Feature = Literal["pooler", "cls", "mean"]
Fit = Literal["recipe", "converged"]
Scored = Literal["in_memory", "released_reload"]


class Model(Frozen):
    """A pretrained network by name and content."""

    name: str = Field(min_length=1)
    """Hub id (`google-bert/bert-base-uncased`), `package:DISTRIBUTION`, or a name that the site maps to a folder."""
    revision: Commit | Sha256
    """Hub commit, or sha256 of the safetensors weights."""
    layers: Annotated[int, Field(ge=1, le=1000)]
    """Depth of the layer stack; checked against the network when it is loaded."""


def _sorted_layers(layers: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(layers)) < len(layers):
        repeated = sorted({index for index in layers if layers.count(index) > 1})
        raise ValueError(f"each layer at most once, got {repeated} more than once")
    return tuple(sorted(layers))


class Reinit(Frozen):
    """Redraw these layers at random, then finetune the whole network.

    `layers=()` is plain finetuning, or finetuning of all but the frozen layers.
    """

    kind: Literal["reinit"] = "reinit"
    layers: Layers = ()
    init: Init = "truncated_normal"
    keep_layernorm: bool = False
    """Redrawn layers keep their pretrained LayerNorm parameters."""
    lr_scale: PositiveFloat = 1.0
    """Learning rate of the redrawn layers over that of the rest."""
    pooler: Pooler = "keep"
    """Whether the pooler is redrawn too, with the same init (Zhang et al. 2021 do, the paper does not)."""
    frozen_layers: Layers = ()
    """Layers in no optimiser group, never trained. Their gradients count in the norm that is clipped, as in the
    released learning-rate experiment, which loses layer 11 so."""

    _sort = field_validator("layers", "frozen_layers")(_sorted_layers)


class Permute(Frozen):
    """Depth i holds pretrained layer `order[i]`; parameters move, nothing is redrawn, all is finetuned."""

    kind: Literal["permute"] = "permute"
    order: tuple[NonNegativeInt, ...]

    @field_validator("order")
    @classmethod
    def _is_permutation(cls, order: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"order must hold each of 0..{max(len(order) - 1, 0)} once, got {list(order)}")
        return order


class Probe(Frozen):
    """Keep the first `depth` layers, frozen with the pretrained pooler; train the classifier alone."""

    kind: Literal["probe"] = "probe"
    depth: PositiveInt
    feature: Feature = "pooler"
    """tanh(pretrained pooler(first token)), the first token itself, or the mean over tokens."""
    fit: Fit = "recipe"
    """Train by the recipe's steps, or fit the classifier to convergence."""
    scored: Scored = "in_memory"
    """Score the network that was trained, or, as the released code, one reloaded with random upper layers."""
    encoder_dropout: bool = False
    """Dropout in the frozen encoder while the classifier trains (on in the released code)."""

    @model_validator(mode="after")
    def _dropout_needs_steps(self) -> Probe:
        if self.encoder_dropout and self.fit == "converged":
            raise ValueError("encoder_dropout draws anew at each step, and fit: converged takes none")
        return self


class Truncate(Frozen):
    """Keep the first `depth` layers and finetune them: the control for "redrawn layers act as identity"."""

    kind: Literal["truncate"] = "truncate"
    depth: PositiveInt


Treatment = Annotated[Reinit | Permute | Probe | Truncate, Field(discriminator="kind")]

SCIENCE: Final[dict[str, int]] = {"reinit": 1, "permute": 1, "probe": 1, "truncate": 1}
"""Science version of each kind of treatment: raised when a fix moves scores; old results then stop counting."""


class Epochs(Frozen):
    """Passes over the training subset; the last partial batch is kept."""

    kind: Literal["epochs"] = "epochs"
    epochs: PositiveInt


class Steps(Frozen):
    """Optimiser steps, whatever the size of the subset; epochs repeat as needed, each in a new order."""

    kind: Literal["steps"] = "steps"
    steps: PositiveInt


Duration = Annotated[Epochs | Steps, Field(discriminator="kind")]


class Recipe(Frozen):
    """Every number of the training that can move a score. There is no other place with a default."""

    duration: Duration = Epochs(epochs=3)
    batch_size: PositiveInt = 8
    """Examples per optimiser step over all GPUs together."""
    learning_rate: PositiveFloat = 2e-5
    schedule: Literal["linear", "constant"] = "linear"
    """`linear` falls to 0 at the last step, `constant` stays; both after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps over which the learning rate rises linearly from 0."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens per example, special tokens counted; the longer text of a pair is cut first."""
    precision: Literal["fp32", "bf16"] = "fp32"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Set on every dropout of the network, classifier included."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's decoupled decay; never on biases and norm parameters."""
    grad_clip: PositiveFloat = 1.0
    """Largest global L2 norm of the gradient."""

    def steps(self, rows: int) -> int:
        """Optimiser steps of one run on `rows` training examples."""
        if isinstance(self.duration, Steps):
            return self.duration.steps
        return self.duration.epochs * -(-rows // self.batch_size)


Size = PositiveInt | Literal["full"]

AS_BEFORE: Final[dict[tuple[str, ...], object]] = {("science",): 1}
"""Path of a field that is not in schema 1, and the value at which the digest leaves it out."""


class Cell(Frozen):
    """One cell of a study's grid: model, task, size, treatment, recipe."""

    model: Model
    task: Task
    size: Size
    treatment: Treatment
    recipe: Recipe
    science: PositiveInt = Field(default_factory=lambda fields: SCIENCE[fields["treatment"].kind])
    """Science version of the treatment's code; set by the code, not by studies."""

    @field_validator("treatment")
    @classmethod
    def _one_plain_finetuning(cls, treatment: Treatment, info: ValidationInfo) -> Treatment:
        """What changes no layer is plain finetuning: one cell, however written."""
        model = info.data.get("model")
        if isinstance(treatment, Reinit) and not treatment.layers:
            return Reinit(frozen_layers=treatment.frozen_layers)
        # An identity of another length is no finetuning but a mistake, which `_fits_the_model` names.
        if isinstance(treatment, Permute) and model and treatment.order == tuple(range(model.layers)):
            return Reinit()
        if isinstance(treatment, Truncate) and model and treatment.depth == model.layers:
            return Reinit()
        return treatment

    @field_validator("size")
    @classmethod
    def _size_below_rows(cls, size: Size, info: ValidationInfo) -> Size:
        task = info.data.get("task")
        if isinstance(task, Task) and size != "full" and size >= task.train_rows:
            rows = task.train_rows
            raise ValueError(f"size {size} is not below the {rows} training rows of {task.name}; say full")
        return size

    @model_validator(mode="after")
    def _fits_the_model(self) -> Cell:
        depth, treatment, name = self.model.layers, self.treatment, self.model.name
        if isinstance(treatment, Reinit):
            for field in ("layers", "frozen_layers"):
                if wrong := [index for index in getattr(treatment, field) if index >= depth]:
                    raise ValueError(f"{field} {wrong} not in {name}, which has layers 0..{depth - 1}")
        elif isinstance(treatment, Permute):
            if len(treatment.order) != depth:
                raise ValueError(f"order has {len(treatment.order)} entries, {name} has {depth} layers")
        elif treatment.depth > depth:
            raise ValueError(f"depth {treatment.depth} is more than the {depth} layers of {name}")
        return self

    @cached_property
    def digest(self) -> str:
        """sha256 in hex of the canonical JSON: the identity of the cell."""
        return hashlib.sha256(canonical(self._schema_fields())).hexdigest()

    def _schema_fields(self) -> dict[str, Any]:
        fields = self.model_dump(mode="json")
        for (*parents, last), as_before in AS_BEFORE.items():
            holder: Any = fields
            for parent in parents:
                holder = holder.get(parent) if isinstance(holder, dict) else None
            # Treatments, sources and durations differ in their fields: a path may lead nowhere in this cell.
            if isinstance(holder, dict) and last in holder and holder[last] == as_before:
                del holder[last]
        return fields

    def __hash__(self) -> int:
        """Equal cells have equal digests, so a cell can key a dictionary."""
        return hash(self.digest)

    @property
    def rows(self) -> int:
        """Training examples of one run."""
        return self.task.train_rows if self.size == "full" else self.size

    @property
    def steps(self) -> int:
        """Optimiser steps of one run; none for a probe that is fitted to convergence in one go."""
        if isinstance(self.treatment, Probe) and self.treatment.fit == "converged":
            return 0
        return self.recipe.steps(self.rows)

    @property
    def name(self) -> str:
        """`<task>-<size>-<treatment>-<digest8>`, for people; never parsed."""
        return f"{self.task.name}-{self.size}-{treatment_name(self.treatment)}-{self.digest[:8]}"

    @property
    def is_baseline(self) -> bool:
        """Whether others are compared with it: nothing redrawn (k = all), or every layer and nothing else."""
        treatment = self.treatment
        if not isinstance(treatment, Reinit) or len(treatment.layers) not in (0, self.model.layers):
            return False
        return treatment == Reinit(layers=treatment.layers, init=treatment.init, pooler=treatment.pooler)


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seed of one run: fixes subset, redraw, classifier, order and dropout, each through its own named stream."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: object) -> bytes:
    """Canonical JSON: sorted keys, no blanks, UTF-8, shortest float repr, -0.0 as 0.0, no NaN or infinity."""

    def plain(item: object) -> object:
        if isinstance(item, float):
            return item + 0.0
        if isinstance(item, dict):
            return {key: plain(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [plain(inner) for inner in item]
        return item

    # Walking through a value takes longer than writing it, and a minus is rare.
    written = _CANONICAL.encode(value)
    return (_CANONICAL.encode(plain(value)) if "-0.0" in written else written).encode("utf-8")


def layer_ranges(layers: tuple[int, ...]) -> str:
    """Sorted indices as ranges, for names: (0, 1, 2, 7) -> `0to2_7`."""
    runs: list[list[int]] = []
    for index in layers:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return "_".join(str(run[0]) if len(run) == 1 else f"{run[0]}to{run[-1]}" for run in runs)


_LONGEST_NAME: Final = 40
_LONGEST_LABEL: Final = 63
"""What Kubernetes allows for a label value."""


def treatment_name(treatment: Treatment) -> str:
    """A short name for people, also a valid Kubernetes label value; two treatments may share it."""
    if isinstance(treatment, Permute):
        order = "_".join(map(str, treatment.order))
        name = f"permute-{order}"
        return name if len(name) <= _LONGEST_NAME else f"permute-{order[: _LONGEST_NAME - 10].rstrip('_')}"
    if isinstance(treatment, Probe | Truncate):
        options = [str(treatment.depth)]
        if isinstance(treatment, Probe):
            defaults = Probe(depth=treatment.depth)
            options += [
                str(getattr(treatment, field)).replace("_", "-")
                for field in ("feature", "fit", "scored")
                if getattr(treatment, field) != getattr(defaults, field)
            ]
            options += ["dropout"] * treatment.encoder_dropout
        return "-".join([treatment.kind, *options])
    frozen = [f"frozen{len(treatment.frozen_layers)}"] * bool(treatment.frozen_layers)
    if not treatment.layers:
        return "-".join(["finetune", *frozen])
    ranges = layer_ranges(treatment.layers)
    options = [ranges if len(ranges) <= _LONGEST_NAME // 2 else f"{len(treatment.layers)}layers"]
    options += [treatment.init.replace("_", "-")] * (treatment.init != "truncated_normal")
    options += ["ln"] * treatment.keep_layernorm
    options += [f"lr{treatment.lr_scale:g}".replace("+", "")] * (treatment.lr_scale != 1)
    options += ["pooler"] * (treatment.pooler == "redraw")
    return "-".join(["reinit", *options, *frozen])[:_LONGEST_LABEL].rstrip("-._")
