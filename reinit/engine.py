"""The DeepSpeed engine of one run, built from the Recipe.

Law: every number here comes from the Recipe; the engine adds none. ZeRO stage 0: the networks of this project fit one
GPU, and stage 0 is 2 to 3 times faster there than stages that shard. fp32 weights and optimiser state always; `bf16`
is autocast around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from jobs.cell import Recipe
from jobs.errors import ConfigurationError
from reinit.optimiser import Group
from reinit.ranks import Ranks

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def build_engine(
    module: nn.Module, groups: Sequence[Group], recipe: Recipe, steps: int, ranks: Ranks
) -> DeepSpeedEngine:
    """An engine that trains `module` for `steps` optimiser steps.

    Args:
        module: the network, on the rank's device.
        groups: every trainable parameter once, with its learning rate and weight decay.
        recipe: all numbers.
        steps: length of the schedule.
        ranks: this process among its peers.

    Raises:
        ConfigurationError: the global batch does not divide among the ranks.
    """
    import deepspeed  # after the ranks have joined and chosen the accelerator

    from reinit.restricted import RestrictedEngine

    optimiser = build_optimiser(groups, recipe, tuple(module.parameters()))
    engine: DeepSpeedEngine
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimiser,
        lr_scheduler=build_schedule(optimiser, recipe, steps),
        config=engine_config(recipe, ranks.world_size),
        dist_init_required=False,
    )
    engine.checkpoint_engine = RestrictedEngine()
    if ranks.world_size == 1:
        # With one rank the all-reduce only copies every gradient twice, a quarter of a CPU step.
        engine.enable_backward_allreduce = False
    return engine


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


class ClippedAdamW(torch.optim.AdamW):
    """Fused AdamW that clips the gradient's norm on its way: no pass over the gradients of its own, no wait for a GPU.

    Attributes:
        skip: float32 [], 1 where the next step must change nothing; None for no such question.
    """

    def __init__(self, groups: Sequence[Group], recipe: Recipe, clipped: Sequence[nn.Parameter]) -> None:
        """All numbers are the recipe's; the norm is that of the gradients of `clipped`, in a group or not."""
        super().__init__(
            [
                {"params": group.parameters, "lr": group.learning_rate, "weight_decay": group.weight_decay}
                for group in groups
            ],
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            fused=True,
        )
        self.skip: Tensor | None = None
        self._clipped, self._most = tuple(clipped), recipe.grad_clip

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        gradients = [parameter.grad for parameter in self._clipped if parameter.grad is not None]
        # As torch and DeepSpeed clip; what is handed over divides.
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        self.grad_scale = ((norm + 1e-6) / self._most).clamp_(min=1.0)
        self.found_inf = self.skip
        super().step(closure)


def build_optimiser(groups: Sequence[Group], recipe: Recipe, clipped: Sequence[nn.Parameter]) -> ClippedAdamW:
    """The recipe's AdamW over the groups; the norm that it clips is that of `clipped`."""
    return ClippedAdamW(groups, recipe, clipped)


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
