"""Probing: a linear classifier on one feature of a frozen encoder.

Law: nothing of the encoder ever trains, and unless the treatment says so its dropout is off while the classifier
trains, so that the features of a text are always the same. Then they are made once (`reinit.features`), and the
classifier trains on them alone (`reinit.classifier`); the whole network is put together to be looked at, and for
`scored: released_reload`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from jobs.cell import Feature, Probe
from jobs.errors import SpecError
from reinit.depths import read_feature
from reinit.surgery import find_pooler

PENALTY: Final = 1.0
"""Strength of `fit_converged`'s penalty: half the squared norm of the weights, against the summed loss."""


@dataclass(frozen=True)
class Scores:
    """What a forward pass returns, under the name that every classification network uses."""

    logits: Tensor
    """[B, outputs]"""


class ProbeNetwork(nn.Module):
    """The frozen encoder, dropout, and the linear classifier that trains."""

    def __init__(self, network: PreTrainedModel, treatment: Probe, outputs: int, dropout: float) -> None:
        """Wrap the encoder of `network`, already truncated and frozen.

        Raises:
            SpecError: the encoder does not have the feature.
        """
        super().__init__()
        check_feature(network, treatment.feature)
        self._feature = treatment.feature
        self._prefix = network.base_model_prefix
        self._encoder_dropout = treatment.encoder_dropout
        # Under its own name, so that parameters are called as in the network that they come from.
        self.add_module(self._prefix, network.base_model)
        self.dropout = nn.Dropout(dropout)
        # Without values: torch would draw them from the global generator, `prepare` draws them from the classifier's.
        self.classifier: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, network.config.hidden_size, outputs, device=str(network.device)
        )

    @property
    def encoder(self) -> nn.Module:
        """The frozen part."""
        return self.get_submodule(self._prefix)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002  torch's signature
        """As usual, but the encoder's dropout stays off unless the treatment wants it."""
        super().train(mode)
        self.encoder.train(mode and self._encoder_dropout)
        return self

    @torch.no_grad()
    def features(self, **inputs: Tensor) -> Tensor:
        """The feature of each text, [B, hidden]; inputs as the tokeniser gives them, each [B, T]."""
        return read_feature(self.encoder(**inputs), inputs["attention_mask"], self._feature)

    def forward(self, **inputs: Tensor) -> Scores:
        """Logits of the classifier."""
        return Scores(self.classifier(self.dropout(self.features(**inputs))))

    @torch.no_grad()
    def set_classifier(self, weight: Tensor, bias: Tensor) -> None:
        """Put in a classifier fitted elsewhere: [outputs, hidden] and [outputs]."""
        self.classifier.weight.copy_(weight)
        self.classifier.bias.copy_(bias)


def check_feature(network: PreTrainedModel, feature: Feature) -> None:
    """Refuse a feature that the network lacks.

    Raises:
        SpecError: it has no pooler, or its first token attends to itself alone.
    """
    causal = _is_causal(network)
    allowed = ["pooler"] * (find_pooler(network) is not None) + ["cls"] * (not causal) + ["mean"]
    if feature not in allowed:
        reason = "a decoder's first token has seen no other" if feature == "cls" else "it has no pooler"
        raise SpecError(
            f"{type(network).__name__} does not have the feature {feature}: {reason}", allowed=", ".join(allowed)
        )


@torch.no_grad()
def _is_causal(network: PreTrainedModel) -> bool:
    """Whether the first token's state ignores the tokens after it; tried, because configurations do not say."""
    encoder, was_training = network.base_model, network.base_model.training
    encoder.eval()
    # The two texts differ only in their last token; ids 4 and 5 are in every vocabulary and stand for no padding.
    texts = torch.tensor([[4, 4, 4, 4], [4, 4, 4, 5]], device=network.device)
    first = encoder(input_ids=texts, attention_mask=torch.ones_like(texts)).last_hidden_state[:, 0]
    encoder.train(was_training)
    # Rows of one batch may differ in the last bit.
    return bool((first[0] - first[1]).abs().max() <= 1e-6 * first.abs().max())


def fit_converged(features: Tensor, labels: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """The classifier that minimises the summed loss plus half the squared norm of its weights (not of its bias).

    That is logistic regression at scikit-learn's default C = 1, and ridge regression at alpha = 1 for one output. The
    problem is convex and solved by L-BFGS in float64, so there is no seed.

    Args:
        features: [N, hidden].
        labels: [N], class indices, or values for `outputs` = 1.
        outputs: width of the classifier.

    Returns:
        Weight [outputs, hidden] and bias [outputs], float32.
    """
    x_NH, y_N = features.detach().double().cpu(), labels.detach().cpu()
    weight = torch.zeros(outputs, x_NH.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=10_000,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> float:
        solver.zero_grad()
        logits = x_NH @ weight.T + bias
        if outputs == 1:
            loss = 0.5 * (logits.squeeze(-1) - y_N.double()).square().sum()
        else:
            loss = nn.functional.cross_entropy(logits, y_N.long(), reduction="sum")
        # Per example, so that the tolerances mean the same at every size.
        total = (loss + 0.5 * PENALTY * weight.square().sum()) / len(x_NH)
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    solver.step(objective)  # type: ignore[no-untyped-call]
    return weight.detach().float(), bias.detach().float()
