"""The classifier of a probe, trained on features by the recipe: AdamW on one linear layer, written out.

Law: the distribution is that of finetuning with everything else frozen: the same start, order of examples, schedule,
clipping and optimiser, and dropout on the feature. A probe takes up to hundreds of thousands of steps on a few thousand
numbers, where an engine's overhead is all of its time; so this is NumPy on the CPU, whatever the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.cell import Recipe
from reinit.batches import training_orders
from reinit.engine import schedule_factor
from reinit.features import Values
from reinit.probe import fit_converged
from reinit.streams import numpy_stream
from reinit.surgery import draw
from reinit.train import DivergedError, OnStep, losses_of

if TYPE_CHECKING:
    from reinit.evaluate import Logits

STEPS_PER_CHUNK: Final = 64
"""Steps whose batches are gathered, and whose losses are looked at, together."""


@dataclass(frozen=True)
class Classifier:
    """A linear layer: logits = features @ weight.T + bias."""

    weight: Tensor
    """float32 [outputs, hidden]"""
    bias: Tensor
    """float32 [outputs]"""

    @classmethod
    def fresh(cls, outputs: int, hidden: int, seed: int) -> Self:
        """As `surgery.draw_head` draws the head of a network: weights N(0, .02), biases zero."""
        weight = draw("normal", (outputs, hidden), (seed, "classifier", "classifier.weight"))
        return cls(weight, torch.zeros(outputs))

    def logits(self, features: Values, *, bf16: bool) -> Logits:
        """Logits of each row of `features`, [rows, outputs], in the recipe's precision."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits: Logits = nn.functional.linear(torch.from_numpy(features), self.weight, self.bias).float().numpy()
        return logits


def train_classifier(
    start: Classifier, features: Callable[[int], Values], labels: Values, recipe: Recipe, seed: int, on_step: OnStep
) -> tuple[Classifier, float]:
    """Train by the recipe, from `start`.

    Args:
        start: where training starts; its number of outputs is 1 for regression.
        features: of all examples, [rows, hidden], by epoch.
        labels: [rows], class indices or values.
        recipe: all numbers.
        seed: the run's, for order and dropout.
        on_step: hears of every step, a few at a time.

    Returns:
        The trained classifier, and the mean loss over the steps of the last epoch.

    Raises:
        DivergedError: a loss is not finite.
    """
    batch_size, outputs = recipe.batch_size, len(start.bias)
    optimiser = _AdamW(start, recipe, recipe.steps(len(labels)))
    dropout = numpy_stream(seed, "dropout", "classifier")
    targets_NC = _targets(labels, outputs)
    step, losses = 0, list[float]()
    for epoch, order in enumerate(training_orders(len(labels), recipe, seed)):
        values_NH = features(epoch)
        for chunk in np.split(order, range(STEPS_PER_CHUNK * batch_size, len(order), STEPS_PER_CHUNK * batch_size)):
            logits_NC, aims_NC = np.empty((len(chunk), outputs), np.float32), targets_NC[chunk]
            firsts = np.arange(0, len(chunk), batch_size)
            # What is not finite is looked for below, before anybody hears of the step.
            with np.errstate(all="ignore"):
                inputs_NX = _rounded(_inputs(values_NH[chunk], recipe.dropout, dropout), recipe)
                for first in firsts:
                    batch = slice(first, first + batch_size)
                    logits_NC[batch] = _rounded(inputs_NX[batch] @ _rounded(optimiser.theta_CX, recipe).T, recipe)
                    slopes_BC = _slopes(logits_NC[batch], aims_NC[batch])
                    optimiser.step(_rounded(_rounded(slopes_BC, recipe).T @ inputs_NX[batch], recipe))
            for loss in _mean_losses(logits_NC, labels[chunk], firsts):
                if not math.isfinite(loss):
                    raise DivergedError(step, loss)
                step += 1
                losses.append(loss)
                on_step(step, loss)
    last_epoch = min(step, -(-len(labels) // batch_size))
    return optimiser.classifier, math.fsum(losses[-last_epoch:]) / last_epoch


def fit_classifier(features: Values, labels: Values, outputs: int) -> tuple[Classifier, float]:
    """The converged classifier, see `reinit.probe.fit_converged`, and its mean loss, the penalty left out."""
    x_NH, y_N = torch.from_numpy(features), torch.from_numpy(labels)
    weight, bias = fit_converged(x_NH, y_N, outputs)
    losses = losses_of(nn.functional.linear(x_NH, weight, bias), y_N, regression=outputs == 1)
    return Classifier(weight, bias), float(losses.mean())


class _AdamW:
    """AdamW with decoupled decay (Loshchilov & Hutter 2019) over theta = [weight, bias], [outputs, hidden + 1].

    The gradient is clipped at the recipe's norm first; the bias does not decay.
    """

    def __init__(self, start: Classifier, recipe: Recipe, steps: int) -> None:
        self.theta_CX: Values = torch.cat([start.weight, start.bias.unsqueeze(1)], dim=1).numpy()
        self._recipe = recipe
        self._factor = schedule_factor(recipe, steps)
        self._m, self._v = np.zeros_like(self.theta_CX), np.zeros_like(self.theta_CX)
        self._steps = 0

    def step(self, gradient_CX: Values) -> None:
        recipe, m, v = self._recipe, self._m, self._v
        rate = recipe.learning_rate * self._factor(self._steps)
        self._steps += 1
        norm = math.sqrt(np.vdot(gradient_CX, gradient_CX))
        # As torch and DeepSpeed clip.
        gradient_CX *= min(1.0, recipe.grad_clip / (norm + 1e-6))
        m += (1 - recipe.beta1) * (gradient_CX - m)
        v *= recipe.beta2
        v += (1 - recipe.beta2) * gradient_CX * gradient_CX
        if recipe.weight_decay:
            self.theta_CX[:, :-1] *= 1 - rate * recipe.weight_decay
        root_CX = np.sqrt(v) / math.sqrt(1 - recipe.beta2**self._steps)
        self.theta_CX -= rate / (1 - recipe.beta1**self._steps) * m / (root_CX + recipe.epsilon)

    @property
    def classifier(self) -> Classifier:
        theta_CX = torch.from_numpy(self.theta_CX)
        return Classifier(theta_CX[:, :-1].clone(), theta_CX[:, -1].clone())


def _inputs(features_NH: Values, probability: float, dropout: np.random.Generator) -> Values:
    """[features, 1], dropout on the features: what theta is multiplied with, [N, hidden + 1]."""
    rows, hidden = features_NH.shape
    inputs_NX = np.ones((rows, hidden + 1), np.float32)
    inputs_NX[:, :-1] = features_NH
    if probability:
        kept_NH = dropout.random((rows, hidden), np.float32) >= probability
        inputs_NX[:, :-1] *= kept_NH / np.float32(1 - probability)
    return inputs_NX


def _targets(labels: Values, outputs: int) -> Values:
    """What probabilities, or predicted values, are to become, [N, outputs]: 1 at the class, or the value itself."""
    if outputs == 1:
        return labels[:, np.newaxis]
    return np.eye(outputs, dtype=np.float32)[labels.astype(np.int64)]


def _slopes(logits_BC: Values, targets_BC: Values) -> Values:
    """Derivative of the batch's mean loss by its logits: cross-entropy, or squared error for one output."""
    if logits_BC.shape[1] == 1:
        return (logits_BC - targets_BC) * np.float32(2 / len(logits_BC))
    powers_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    probabilities_BC: Values = powers_BC / powers_BC.sum(axis=1, keepdims=True)
    return (probabilities_BC - targets_BC) / np.float32(len(logits_BC))


def _mean_losses(logits_NC: Values, labels_N: Values, firsts: NDArray[np.int64]) -> list[float]:
    """The mean loss of each batch; `firsts` are the batches' first rows."""
    losses = losses_of(torch.from_numpy(logits_NC), torch.from_numpy(labels_N), regression=logits_NC.shape[1] == 1)
    sums = np.add.reduceat(losses.numpy().astype(np.float64), firsts)
    means: list[float] = (sums / np.diff(firsts, append=len(labels_N))).tolist()
    return means


def _rounded(values: Values, recipe: Recipe) -> Values:
    """What autocast does to both sides of a product: bf16 where the recipe says so."""
    if recipe.precision == "fp32":
        return values
    rounded: Values = torch.from_numpy(values).bfloat16().float().numpy()
    return rounded
