"""The released code's behaviour, seen on the shipped study's own cells: a BERT of 12 layers is prepared and looked at.

Only the model is another one: random and 64 wide, so that it needs no hub.
"""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from torch import Tensor

from jobs.cell import Cell, Permute, Probe, Reinit
from jobs.plan import Plan
from jobs.study import load_study
from reinit.network import Network
from reinit.probe import ProbeNetwork
from tests.reinit.architectures import CONFIGS, logits, model_of, save

SD = 0.02
AUTHORS = scipy.stats.truncnorm(-2 * SD, 2 * SD, scale=SD)
"""The authors' call, whose bounds SciPy reads in standard deviations."""
MEANT = scipy.stats.truncnorm(-2, 2, scale=SD)
MATRICES = {
    "attention.self.query.weight",
    "attention.self.key.weight",
    "attention.self.value.weight",
    "attention.output.dense.weight",
    "intermediate.dense.weight",
    "output.dense.weight",
}
Values = dict[str, Tensor]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    config = CONFIGS["bert"]()
    config.num_hidden_layers = 12
    model, places = model_of(save(config, tmp_path_factory.mktemp("bert12")), layers=12)
    return Network.load(model, 2, load_study("paper-released").recipe, places)


@pytest.fixture(scope="module")
def released() -> Plan:
    return load_study("paper-released").plan()


def the_cell(plan: Plan, network: Network, family: str, treatment: object) -> Cell:
    """The study's SST-2 cell of that family whose treatment equals `treatment`, on the small network."""
    found = [each.cell for each in plan if family in each.families and each.cell.task.name == "sst2"]
    cell = next(each for each in found if each.treatment == treatment and each.size in (5000, "full"))
    return cell.model_copy(update={"model": network.model})


def prepared(network: Network, cell: Cell) -> Values:
    network.prepare(cell, seed=1)
    return {name: parameter.detach().clone() for name, parameter in network.module.named_parameters()}


def layer(values: Values, index: int) -> Values:
    """The layer's parameters by their names within it."""
    prefix = f"bert.encoder.layer.{index}."
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def released_redraw(*layers: int) -> Reinit:
    return Reinit(layers=layers, init="released")


# -------------------------------------------------------------------------------------------------------- the redraw


@pytest.mark.parametrize("first", [0, 6, 11])
def test_redrawn_matrices_have_the_distribution_of_the_authors_call_and_not_of_what_they_meant(
    network: Network, released: Plan, first: int
) -> None:
    cell = the_cell(released, network, "progressive", released_redraw(*range(first, 12)))
    values = prepared(network, cell)
    for index in range(first, 12):
        drawn = torch.cat([value.flatten() for name, value in layer(values, index).items() if name in MATRICES])
        assert drawn.numel() == 4 * 64 * 64 + 2 * 64 * 128
        # A fixed seed: 12 layers of 32,768 values do not fail by chance.
        assert scipy.stats.kstest(drawn.numpy(), AUTHORS.cdf).pvalue > 0.005
        assert scipy.stats.kstest(drawn.numpy(), MEANT.cdf).pvalue < 1e-9
        assert float(drawn.abs().max()) <= 8e-4 * (1 + 1e-6)
        assert float(drawn.std()) == pytest.approx(4.62e-4, rel=0.01)


def test_biases_stay_pretrained_and_layernorm_is_reset(network: Network, released: Plan) -> None:
    values = layer(prepared(network, the_cell(released, network, "single", released_redraw(4))), 4)
    pretrained = layer(network.pristine, 4)
    for name, value in values.items():
        if "LayerNorm" in name:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight")))), name
        elif name.endswith("bias"):
            assert torch.equal(value, pretrained[name]), name
        else:
            assert name in MATRICES
            assert not torch.equal(value, pretrained[name])


def test_the_paper_zeroes_biases_and_draws_with_sd_0_02(network: Network) -> None:
    cell = the_cell(load_study("paper").plan(), network, "single", Reinit(layers=(4,)))
    values = layer(prepared(network, cell), 4)
    drawn = torch.cat([value.flatten() for name, value in values.items() if name in MATRICES])
    assert scipy.stats.kstest(drawn.numpy(), MEANT.cdf).pvalue > 0.005
    assert not any(value.any() for name, value in values.items() if name.endswith("bias"))


def test_kept_layernorm_keeps_every_bit(network: Network, released: Plan) -> None:
    treatment = Reinit(layers=tuple(range(3, 12)), init="released", keep_layernorm=True)
    values = prepared(network, the_cell(released, network, "keep-layernorm", treatment))
    for index in range(3, 12):
        changed = {
            name for name, value in layer(values, index).items()
            if not torch.equal(value, layer(network.pristine, index)[name])
        }  # fmt: skip
        assert changed == MATRICES


def test_neither_embeddings_nor_pooler_are_ever_redrawn(network: Network, released: Plan) -> None:
    outside = [name for name in network.pristine if not name.startswith("bert.encoder.")]
    for each in released:
        if each.cell.task.name == "sst2" and each.cell.size == 5000:
            values = prepared(network, each.cell.model_copy(update={"model": network.model}))
            assert all(torch.equal(values[name], network.pristine[name]) for name in outside)


# ------------------------------------------------------------------------------------ the learning-rate experiment


@pytest.mark.parametrize("kept", [12, 11, 6, 0])
def test_layer_11_is_in_no_optimiser_and_the_rest_learn_at_5e_5_or_redrawn_at_1e_4(
    network: Network, released: Plan, kept: int
) -> None:
    redrawn = tuple(range(kept, 12))
    treatment = Reinit(layers=redrawn, init="released", lr_scale=2, frozen_layers=(11,))
    # Where nothing is redrawn, how is of no matter.
    cell = the_cell(released, network, "lr-times-5", treatment if redrawn else Reinit(frozen_layers=(11,)))
    values = prepared(network, cell)
    rates = {name: group.learning_rate for group in network.groups for name in group.parameter_names}
    in_none = {name for name in values if name not in rates}
    assert in_none == {f"bert.encoder.layer.11.{name}" for name in layer(values, 11)}
    for name, rate in rates.items():
        fast = any(name.startswith(f"bert.encoder.layer.{index}.") for index in redrawn)
        assert rate == pytest.approx(1e-4 if fast else 5e-5), name


def test_the_gradient_of_the_layer_that_is_not_trained_counts_in_the_clipped_norm(
    network: Network, released: Plan
) -> None:
    """The authors clip over `model.parameters()`. That the engine does so too, test_train compares with plain torch."""
    treatment = Reinit(layers=(10, 11), init="released", lr_scale=2, frozen_layers=(11,))
    prepared(network, the_cell(released, network, "lr-times-5", treatment))
    ids = torch.tensor([[5, 6, 7, 8]])
    network.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    gradients = [parameter.grad for parameter in network.stack.layers[11].parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients if gradient is not None)


def test_the_paper_trains_every_layer_at_2e_5_and_redrawn_ones_at_1e_4(network: Network) -> None:
    treatment = Reinit(layers=tuple(range(6, 12)), lr_scale=5)
    values = prepared(network, the_cell(load_study("paper").plan(), network, "lr-times-5", treatment))
    rates = {name: group.learning_rate for group in network.groups for name in group.parameter_names}
    assert rates.keys() == values.keys()
    assert {rates[f"bert.encoder.layer.{index}.output.dense.weight"] for index in range(6)} == {2e-5}
    assert rates["bert.encoder.layer.11.output.dense.weight"] == pytest.approx(1e-4)


# ------------------------------------------------------------------------------------------- permutations, probing


@pytest.mark.parametrize(
    ("number", "order"),
    [
        (1, (2, 3, 4, 10, 1, 6, 0, 7, 11, 9, 8, 5)),
        (2, (9, 5, 4, 7, 1, 10, 0, 3, 2, 6, 11, 8)),
        (10, (2, 6, 7, 5, 11, 8, 10, 3, 1, 0, 4, 9)),
    ],
)
def test_position_i_gets_pretrained_layer_p_i_bit_by_bit(
    network: Network, released: Plan, number: int, order: tuple[int, ...]
) -> None:
    orders = [each.cell for each in released if each.families == ("permutation",) and each.cell.task.name == "sst2"]
    cell = orders[number - 1].model_copy(update={"model": network.model})
    assert cell.treatment == Permute(order=order)
    values = prepared(network, cell)
    for position, source in enumerate(order):
        moved, pretrained = layer(values, position), layer(network.pristine, source)
        assert moved.keys() == pretrained.keys()
        assert all(torch.equal(moved[name], pretrained[name]) for name in moved)


def test_released_probes_train_with_dropout_in_the_encoder_and_are_scored_on_random_upper_layers(
    network: Network, released: Plan
) -> None:
    probe = Probe(depth=5, scored="released_reload", encoder_dropout=True)
    cell = the_cell(released, network, "probe", probe)
    trained = prepared(network, cell)
    assert isinstance(network.module, ProbeNetwork)
    assert network.module.encoder.training
    assert {name for group in network.groups for name in group.parameter_names} == {
        "classifier.weight",
        "classifier.bias",
    }
    before = logits(network)
    network.before_scoring(cell, 1)
    scored = dict(network.module.named_parameters())
    assert all(torch.equal(scored[name], value) for name, value in trained.items())
    assert len(network.stack) == 12
    for index in range(5, 12):
        # BERT's own initialisation, which the library gives to what a checkpoint lacks.
        upper = [value.detach() for name, value in layer(dict(scored), index).items() if name in MATRICES]
        assert torch.cat([value.flatten() for value in upper]).std() == pytest.approx(SD, rel=0.02)
    assert not torch.equal(before, logits(network))


def test_the_papers_probes_train_without_dropout_in_the_encoder_and_are_scored_as_they_were_trained(
    network: Network,
) -> None:
    cell = the_cell(load_study("paper").plan(), network, "probe", Probe(depth=5))
    prepared(network, cell)
    assert isinstance(network.module, ProbeNetwork)
    assert not network.module.encoder.training
    before = logits(network)
    network.before_scoring(cell, 1)
    assert len(network.stack) == 5
    assert torch.equal(before, logits(network))
