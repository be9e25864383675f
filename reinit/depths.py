"""The features of a frozen encoder at several depths, from one forward pass.

Law: the feature of a depth is bit by bit, dropout draws included, what the network truncated to that depth gives for
the same batch: what follows the stack (a final norm, the pooler) is the network's own code, run on each depth's state.
Whether a network lends itself to that is tried and not known; where it does not, each depth gets a pass of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jobs.cell import Feature
from reinit.surgery import Stack, restore, truncate

Wanted = tuple[int, Feature]
"""A depth, counted from 1, and the feature that is read there."""

Inputs = Mapping[str, Tensor]
"""As the tokeniser gives them, each [B, T]."""


def read_feature(output: Any, attention_mask_BT: Tensor, feature: Feature) -> Tensor:
    """One feature of each text, [B, hidden], of an encoder's `output`."""
    if feature == "pooler":
        pooled: Tensor = output.pooler_output
        return pooled
    hidden_BTH: Tensor = output.last_hidden_state
    if feature == "cls":
        return hidden_BTH[:, 0]
    mask_BT1 = attention_mask_BT.unsqueeze(-1).to(hidden_BTH.dtype)
    return (hidden_BTH * mask_BT1).sum(1) / mask_BT1.sum(1)


class Depths:
    """Reads features of the frozen network of `stack`."""

    def __init__(self, stack: Stack, wanted: Sequence[Wanted], *, dropout: bool) -> None:
        """What is read of every batch, each depth within the pretrained stack, and whether dropout is on."""
        self._stack = stack
        # Whole first: a layer that is cut off keeps the mode that it had.
        restore(stack)
        stack.network.base_model.train(dropout)
        self._wanted = tuple(wanted)
        self._depths = sorted({depth for depth, _ in wanted})
        device = stack.network.device
        self._generator = (
            torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
        )
        # One depth is its own pass.
        self.in_one_pass = len(self._depths) > 1 and self._agrees()

    def read(self, inputs: Inputs) -> list[Tensor]:
        """The wanted features of one batch, each [B, hidden]; the network is left at its full depth.

        Dropout draws from the process's global generator, for each depth from where it stands now.
        """
        with torch.no_grad():
            outputs = self._one_pass(inputs) if self.in_one_pass else self._pass_per_depth(inputs)
        restore(self._stack)
        return [read_feature(outputs[depth], inputs["attention_mask"], feature) for depth, feature in self._wanted]

    def _encode(self, depth: int, inputs: Inputs) -> Any:
        restore(self._stack)
        truncate(self._stack, depth)
        return self._stack.network.base_model(**inputs)

    def _pass_per_depth(self, inputs: Inputs) -> dict[int, Any]:
        start, outputs = self._generator.get_state(), {}
        for depth in self._depths:
            self._generator.set_state(start)
            outputs[depth] = self._encode(depth, inputs)
        return outputs

    def _one_pass(self, inputs: Inputs) -> dict[int, Any]:
        """Run to the deepest depth and remember the layers' outputs; then let each depth's layers answer with it."""
        with self._remembering() as moments:
            self._encode(self._depths[-1], inputs)
        outputs = {}
        for depth in self._depths:
            with _answering(self._stack.whole[:depth], moments[depth], self._generator):
                outputs[depth] = self._encode(depth, inputs)
        return outputs

    @contextmanager
    def _remembering(self) -> Iterator[dict[int, _Moment]]:
        moments: dict[int, _Moment] = {}

        def remember(depth: int, output: Any) -> None:
            # A copy: the next layer may write into what it is given.
            moments[depth] = _Moment(copy.deepcopy(output), self._generator.get_state())

        with ExitStack() as hooks:
            for depth in self._depths:
                hook = self._stack.whole[depth - 1].register_forward_hook(
                    lambda _layer, _inputs, output, depth=depth: remember(depth, output)
                )
                hooks.callback(hook.remove)
            yield moments

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Whether one pass gives the bits of a pass per depth for two short texts, one of them padded."""
        device = self._stack.network.device
        # Ids 4 and 5 are in every vocabulary.
        ids = torch.tensor([[4, 5, 4, 4], [5, 4, 5, 5]], device=device)
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], device=device)
        inputs = {"input_ids": ids, "attention_mask": mask}
        start = self._generator.get_state()
        truth = self._pass_per_depth(inputs)
        self._generator.set_state(start)
        try:
            tried = self._one_pass(inputs)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            # The network asks its layers for something that a remembered output does not answer.
            return False
        finally:
            self._generator.set_state(start)
            restore(self._stack)
        return all(
            torch.equal(read_feature(tried[depth], mask, feature), read_feature(truth[depth], mask, feature))
            for depth, feature in self._wanted
        )


@dataclass(frozen=True)
class _Moment:
    """What a layer gave, and the state of the generator that its dropout left."""

    output: Any
    generator_state: Tensor


@contextmanager
def _answering(layers: Sequence[nn.Module], moment: _Moment, generator: torch.Generator) -> Iterator[None]:
    """Let `layers` give the remembered output, whatever they are given, and leave the generator as it was then."""

    def answer(*_inputs: Any, **_named: Any) -> Any:
        generator.set_state(moment.generator_state)
        return moment.output

    for layer in layers:
        # An attribute of the instance hides the method of its class.
        vars(layer)["forward"] = answer
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]
