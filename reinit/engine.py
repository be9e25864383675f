"""The DeepSpeed engine of one run, built from the Recipe.

Law: every number here comes from the Recipe; the engine adds none. ZeRO stage 0: the networks of this project fit one
GPU, and stage 0 is 2 to 3 times faster there than stages that shard. fp32 weights and optimiser state always; `bf16`
is autocast around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.weak import TensorWeakRef

from jobs.cell import Recipe
from jobs.errors import ConfigurationError
from reinit.optimiser import Group
from reinit.ranks import Ranks
from reinit.update import Update

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from reinit.fused import Fused


def build_engine(
    module: nn.Module, groups: Sequence[Group], recipe: Recipe, steps: int, ranks: Ranks, kept: Moments | None = None
) -> DeepSpeedEngine:
    """An engine that trains `module` for `steps` optimiser steps.

    Args:
        module: the network, on the rank's device.
        groups: every trainable parameter once, with its learning rate and weight decay.
        recipe: all numbers.
        steps: length of the schedule.
        ranks: this process among its peers.
        kept: memory of an earlier run's moments, which this one's will overwrite.

    Raises:
        ConfigurationError: the global batch does not divide among the ranks.
    """
    import deepspeed  # after the ranks have joined and chosen the accelerator

    from reinit.alone import alone
    from reinit.restricted import RestrictedEngine

    optimiser = ClippedAdamW(groups, recipe, tuple(module.parameters()), kept)
    engine: DeepSpeedEngine
    with alone() if ranks.world_size == 1 else nullcontext():
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimiser,
            lr_scheduler=build_schedule(optimiser, recipe, steps),
            config=engine_config(recipe, ranks.world_size),
            dist_init_required=False,
        )
    engine.checkpoint_engine = RestrictedEngine()
    # Its own looks for the names of all parameters first, at every step.
    engine.zero_grad = partial(_forget_gradients, tuple(module.parameters()))
    if ranks.world_size == 1:
        # With one rank the all-reduce only copies every gradient twice, a quarter of a CPU step.
        engine.enable_backward_allreduce = False
    return engine


def _forget_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def close_engine(engine: DeepSpeedEngine) -> None:
    """Let go of the module, so that it can serve the next run's engine.

    `DeepSpeedEngine.destroy` leaves the engine's forward hooks on the module; through them every engine, with its
    optimiser's state, would live as long as the module.
    """
    engine.module_forward_pre_hook.remove()
    engine.module_forward_post_hook.remove()
    engine.destroy()


def engine_config(recipe: Recipe, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for this recipe on this many ranks."""
    if recipe.batch_size % world_size:
        raise ConfigurationError(
            "the global batch does not divide among the ranks",
            expected=f"a number of ranks that divides batch_size {recipe.batch_size}",
            got=world_size,
        )
    return {
        "train_batch_size": recipe.batch_size,
        "train_micro_batch_size_per_gpu": recipe.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        # `ClippedAdamW` does it: DeepSpeed's way takes three kernels a parameter.
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": 0},
        "torch_autocast": {"enabled": recipe.precision == "bf16", "dtype": "bfloat16"},
        # DeepSpeed prints a progress line every so many steps; this project prints its own.
        "steps_per_print": 2**31 - 1,
        # It waits for a GPU before and after each step.
        "timers": {"throughput": {"enabled": False}},
    }


class Moments:
    """AdamW's moments of each parameter, kept for the next run: to ask for memory takes longer than to clear it.

    A parameter that is another, or smaller, at the address of one that is gone has its memory. What is of parameters
    that are gone goes too, when memory for another is asked for.
    """

    def __init__(self) -> None:
        self._at = dict[int, _Moments]()

    def zeros(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        """Zeros of the parameter's shape, which whoever asked before has no use for any more."""
        kept = self._at.get(parameter.data_ptr())
        if kept is None or kept.parameter() is not parameter:
            # A kernel reads four values at a time, from places that four divides.
            size, memory = -(-parameter.numel() // 4) * 4, None if kept is None else kept.memory
            if memory is None or memory.dtype != parameter.dtype or len(memory) < 2 * size:
                self._at = {address: each for address, each in self._at.items() if each.parameter() is not None}
                # Another run on as many texts needs a few rows of the embedding more.
                memory = parameter.new_empty(2 * size if memory is None else 2 * size + size // 4)
            first, second = (memory.as_strided(parameter.shape, parameter.stride(), start) for start in (0, size))
            kept = self._at[parameter.data_ptr()] = _Moments(TensorWeakRef(parameter), memory, first, second)
        return kept.first.zero_(), kept.second.zero_()


@dataclass(frozen=True)
class _Moments:
    parameter: TensorWeakRef
    memory: Tensor
    """[at least twice the parameter's size]"""
    first: Tensor
    second: Tensor


class ClippedAdamW(torch.optim.AdamW):
    """Fused AdamW that clips the gradient's norm on its way: no pass over the gradients of its own, no wait for a GPU.

    Attributes:
        norm: of the gradients at hand, float32 [], where somebody has it; it is computed otherwise.
        skip: float32 [], 1 where the next step must change nothing; None for no such question.
        fused: the kernels that make the update instead of torch's; None for none.
        at: what the gradients at hand lie in; those of one graph lie where they lay before.
    """

    def __init__(
        self, groups: Sequence[Group], recipe: Recipe, clipped: Sequence[nn.Parameter], kept: Moments | None = None
    ) -> None:
        """All numbers are the recipe's; the norm is that of the gradients of `clipped`, in a group or not."""
        alike: dict[tuple[float, float], list[nn.Parameter]] = {}
        for group in groups:
            alike.setdefault((group.learning_rate, group.weight_decay), []).extend(group.parameters)
        super().__init__(
            [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in alike.items()],
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            fused=True,
        )
        self.norm: Tensor | None = None
        self.skip: Tensor | None = None
        self.fused: Fused | None = None
        self.at: Hashable = None
        self._updates: dict[Hashable, list[Update | None]] = {}
        self._clipped, self._recipe = tuple(clipped), recipe
        self._kept = Moments() if kept is None else kept

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One update of every parameter that has a gradient.

        Torch's own `step` asks every parameter the same questions at every step, for longer than a GPU takes for the
        update.
        """
        norm = norm_of(self._clipped) if self.norm is None else self.norm
        if self.fused is not None and self.skip is not None:
            self._update(self.fused, norm, self.skip)
            return
        # As torch and DeepSpeed clip; the fused kernel divides by what it is given.
        scale = ((norm + 1e-6) / self._recipe.grad_clip).clamp_(min=1.0)
        for group in self.param_groups:
            members = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state[parameter] or self._begin(parameter) for parameter in members]
            if members:
                adamw(
                    members,
                    [parameter.grad for parameter in members],
                    [state["exp_avg"] for state in states],
                    [state["exp_avg_sq"] for state in states],
                    [],
                    [state["step"] for state in states],
                    fused=True,
                    grad_scale=scale,
                    found_inf=self.skip,
                    amsgrad=False,
                    maximize=False,
                    beta1=self._recipe.beta1,
                    beta2=self._recipe.beta2,
                    eps=self._recipe.epsilon,
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                )

    def _update(self, fused: Fused, norm: Tensor, skip: Tensor) -> None:
        """The same by one kernel a group, which knows the tensors from the first time that it was asked."""
        if self.at not in self._updates:
            updates = self._updates[self.at] = list[Update | None]()
            for group in self.param_groups:
                members = [parameter for parameter in group["params"] if parameter.grad is not None]
                states = [(parameter, self.state[parameter] or self._begin(parameter)) for parameter in members]
                updates.append(Update(fused.launch, states, fused.copies.of) if states else None)
        for group, update in zip(self.param_groups, self._updates[self.at], strict=True):
            if update is not None:
                update(group, norm, skip, self._recipe.grad_clip)

    def _begin(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The state before the first step, under torch's names."""
        first, second = self._kept.zeros(parameter)
        self.state[parameter] = state = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": first,
            "exp_avg_sq": second,
        }
        return state


def norm_of(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of the gradients that there are, as of one vector; float32 []."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm(gradients, foreach=True)


def build_schedule(optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LambdaLR:
    """The learning rate of each step, as a factor on each group's own."""
    return LambdaLR(optimiser, schedule_factor(recipe, steps))


def schedule_factor(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """The learning rate of step t = 0..steps-1 over the recipe's."""
    warmup = math.ceil(recipe.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        if recipe.schedule == "constant":
            return 1.0
        return max(0.0, (steps - step) / (steps - warmup))

    return factor
