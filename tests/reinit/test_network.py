"""Networks: loaded from a checkpoint alone, equal after every reset, refused when they are not what the cell says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from jobs.cell import Permute, Probe, Recipe, Reinit, Truncate
from jobs.errors import DataError, SpecError
from reinit.network import Network, load_tokenizer, set_dropout
from reinit.places import Places, resolve_model
from reinit.probe import ProbeNetwork, fit_converged
from tests.reinit.architectures import CONFIGS, DEPTH, HIDDEN, cell_of, load, logits, model_of, save
from tests.reinit.tiny import MINILM

FolderOf = Callable[[str], Path]
NetworkOf = Callable[[str], Network]
KINDS = pytest.mark.parametrize("kind", CONFIGS)


def state(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.stack.network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def train_a_little(network: Network) -> None:
    """Steps large enough to move every trainable parameter."""
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    for _ in range(2):
        output = network.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        nn.functional.cross_entropy(output, torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for group in network.groups:
                for parameter in group.parameters:
                    if parameter.grad is not None:
                        parameter.add_(parameter.grad + 0.1)


# ------------------------------------------------------------------------------------------------------------ loading


@KINDS
def test_two_loads_are_equal_whatever_the_global_generator_says(folder_of: FolderOf, kind: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = load(folder_of(kind))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert equal(state(one), state(load(folder_of(kind))))


@KINDS
def test_every_value_of_the_checkpoint_is_loaded_in_float32(folder_of: FolderOf, kind: str) -> None:
    from safetensors.torch import load_file

    network = load(folder_of(kind))
    saved = load_file(folder_of(kind) / "model.safetensors")
    base = network.stack.network.base_model.state_dict()
    shared = saved.keys() & base.keys()
    # RoBERTa, ELECTRA and MPNet classify without the pooler that a base model is saved with.
    assert {name for name in saved if "pooler" not in name} <= shared
    assert all(torch.equal(saved[name], base[name]) for name in shared)
    assert {value.dtype for value in network.pristine.values()} == {torch.float32}


def test_half_precision_checkpoints_become_float32_masters(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(CONFIGS["bert"](), tmp_path)
    half = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    assert {parameter.dtype for parameter in load(folder).module.parameters()} == {torch.float32}


@KINDS
@pytest.mark.parametrize("dropout", [0.25, 0.0])
def test_every_dropout_is_the_recipes(folder_of: FolderOf, kind: str, dropout: float) -> None:
    module = load(folder_of(kind), dropout=dropout).module
    rates = [part.p for part in module.modules() if isinstance(part, nn.Dropout)]
    rates += [
        value
        for part in module.modules()
        for name, value in vars(part).items()
        if "dropout" in name and isinstance(value, float)
    ]
    assert rates
    assert set(rates) == {dropout}


@KINDS
def test_dropout_moves_the_output_in_training_and_not_in_evaluation(folder_of: FolderOf, kind: str) -> None:
    network = load(folder_of(kind), dropout=0.5)
    network.prepare(cell_of(network.model, Reinit(), dropout=0.5), 1)
    assert torch.equal(logits(network), logits(network))
    ids = torch.tensor([[5, 6, 7, 8]])
    one, other = (network.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for _ in range(2))
    assert not torch.equal(one, other)


def test_rates_that_a_module_keeps_as_a_number_are_set_too() -> None:
    class StableDropout(nn.Module):
        drop_prob = 0.0

        def __init__(self) -> None:
            super().__init__()
            self.drop_prob = 0.3
            self.count = 3

    module = nn.Sequential(StableDropout(), nn.Dropout(0), nn.MultiheadAttention(2, 1, dropout=0.4))
    set_dropout(module, 0.1)
    assert module[0].drop_prob == module[1].p == module[2].dropout == 0.1
    assert module[0].count == 3


@pytest.mark.parametrize(("kind", "attention"), [("bert", "sdpa"), ("llama", "sdpa"), ("deberta-v2", "eager")])
def test_attention_is_fused_where_the_architecture_can(network_of: NetworkOf, kind: str, attention: str) -> None:
    assert network_of(kind).stack.network.config._attn_implementation == attention


@KINDS
def test_padding_moves_no_logit(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    network.prepare(cell_of(network.model, Reinit()), 1)
    network.module.eval()
    alone = torch.tensor([[5, 6, 7, 8]])
    padded = torch.tensor([[5, 6, 7, 8, *[network.pad_token] * 3], [9, 8, 7, 6, 5, 10, 11]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7])
    with torch.no_grad():
        expected = network.module(input_ids=alone, attention_mask=torch.ones_like(alone)).logits[0]
        got = network.module(input_ids=padded, attention_mask=mask).logits[0]
    assert torch.allclose(expected, got, atol=1e-5)


def test_a_decoder_without_a_padding_token_pads_with_its_end_of_text(network_of: NetworkOf) -> None:
    assert network_of("llama").pad_token == 2
    assert network_of("gpt2").stack.network.config.pad_token_id == 2


def test_a_model_that_has_no_token_to_pad_with_is_refused(tmp_path: Path) -> None:
    folder = save(CONFIGS["llama"](), tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None, "pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="no token to pad"):
        load(folder)


def test_another_depth_than_the_study_says_is_refused(folder_of: FolderOf) -> None:
    model, places = model_of(folder_of("bert"), layers=12)
    with pytest.raises(SpecError, match="another depth") as refusal:
        Network.load(model, 2, Recipe(), places)
    assert refusal.value.expected == "layers: 4"
    assert refusal.value.got == "layers: 12"


def test_an_encoder_decoder_is_refused(folder_of: FolderOf) -> None:
    with pytest.raises(SpecError, match="several layer stacks"):
        load(folder_of("t5"))


def test_shared_layers_are_refused(folder_of: FolderOf) -> None:
    with pytest.raises(SpecError, match="share parameters"):
        load(folder_of("albert"))


def test_an_architecture_that_cannot_classify_is_refused(tmp_path: Path, folder_of: FolderOf) -> None:
    folder = Path(shutil.copytree(folder_of("bert"), tmp_path / "copy"))
    (folder / "config.json").write_text(json.dumps({"model_type": "vits", "pad_token_id": 0, "vocab_size": 9}))
    with pytest.raises(SpecError, match="no sequence classification for the architecture vits"):
        load(folder)


@pytest.mark.parametrize("text", ["{", '{"model_type": "no-such-architecture"}'])
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path, folder_of: FolderOf, text: str) -> None:
    folder = Path(shutil.copytree(folder_of("bert"), tmp_path / "copy"))
    (folder / "config.json").write_text(text)
    with pytest.raises(DataError, match="configuration cannot be read"):
        load(folder)


def test_damaged_weights_are_refused(tmp_path: Path, folder_of: FolderOf) -> None:
    folder = Path(shutil.copytree(folder_of("bert"), tmp_path / "copy"))
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be loaded"):
        load(folder)


def test_a_checkpoint_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(CONFIGS["bert"](), tmp_path)
    values = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in values.items() if not name.startswith("encoder.layer.3.output")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="lacks parameters") as refusal:
        load(folder)
    assert "bert.encoder.layer.3.output.dense.weight" in str(refusal.value.got)


# ----------------------------------------------------------------------------------------------------------- the head


@KINDS
def test_the_head_is_drawn_from_the_classifier_stream(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    base = {id(parameter) for parameter in network.stack.network.base_model.parameters()}

    def head(treatment: Any, seed: int) -> dict[str, Tensor]:
        network.prepare(cell_of(network.model, treatment), seed)
        return {name: p.detach().clone() for name, p in network.module.named_parameters() if id(p) not in base}

    one = head(Reinit(), 1)
    assert one.keys() == network.fresh
    for name, value in one.items():
        if value.ndim > 1:
            # From 128 values on; four standard errors.
            assert float(value.std()) == pytest.approx(0.02, rel=4 / (2 * value.numel()) ** 0.5), name
        else:
            assert torch.equal(value, torch.full_like(value, float("norm" in name and name.endswith("weight")))), name
    assert equal(one, head(Reinit(layers=(0, 1), init="architecture"), 1))
    assert not any(torch.equal(one[name], value) for name, value in head(Reinit(), 2).items() if value.ndim > 1)


def test_a_trained_head_of_any_width_in_the_checkpoint_is_never_used(tmp_path: Path, folder_of: FolderOf) -> None:
    plain = load(folder_of("bert"))
    for outputs in (2, 3):
        trained = AutoModelForSequenceClassification.from_pretrained(folder_of("bert"), num_labels=outputs)
        trained.classifier.weight.data.fill_(7.0)
        trained.save_pretrained(tmp_path / str(outputs))
        network = load(tmp_path / str(outputs))
        assert network.fresh == {"classifier.weight", "classifier.bias"}
        for each in (plain, network):
            each.prepare(cell_of(each.model, Reinit()), 1)
        assert equal(state(plain), state(network))


def test_a_checkpoint_without_a_pooler_gets_a_fresh_one_and_no_pooler_probe(tmp_path: Path) -> None:
    config = CONFIGS["bert"]()
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    network = load(tmp_path)
    assert "bert.pooler.dense.weight" in network.fresh
    network.prepare(cell_of(network.model, Reinit()), 1)
    one = network.module.get_parameter("bert.pooler.dense.weight").detach().clone()
    assert float(one.std()) == pytest.approx(0.02, rel=0.05)
    network.prepare(cell_of(network.model, Reinit()), 1)
    assert torch.equal(one, network.module.get_parameter("bert.pooler.dense.weight"))
    with pytest.raises(SpecError, match="has no pooler, so its feature would be random"):
        network.prepare(cell_of(network.model, Probe(depth=1)), 1)


def test_a_regression_task_has_one_output(folder_of: FolderOf) -> None:
    model, places = model_of(folder_of("bert"))
    assert Network.load(model, 1, Recipe(), places).stack.network.config.problem_type == "regression"


# ---------------------------------------------------------------------------------------------------------- resetting


@KINDS
def test_a_run_after_any_other_equals_a_run_in_a_fresh_process(folder_of: FolderOf, kind: str) -> None:
    warm, fresh = load(folder_of(kind)), load(folder_of(kind))
    pristine = state(warm)
    treatments: list[Any] = [
        Reinit(layers=(1, 2), init="architecture", frozen_layers=(3,)),
        Truncate(depth=1),
        Probe(depth=2, feature="mean", scored="released_reload", encoder_dropout=True),
    ]
    if kind != "modernbert":
        treatments.append(Permute(order=(3, 2, 1, 0)))
    for treatment in treatments:
        cell = cell_of(warm.model, treatment)
        warm.prepare(cell, 5)
        train_a_little(warm)
        warm.before_scoring(cell, 5)
        warm.reset()
        assert equal(state(warm), pristine)
        assert len(warm.stack) == DEPTH
        assert all(p.requires_grad and p.grad is None for p in warm.module.parameters())
    for network in (warm, fresh):
        network.prepare(cell_of(network.model, Reinit(layers=(3,))), 1)
    assert equal(state(warm), state(fresh))
    assert torch.equal(logits(warm), logits(fresh))
    assert [group.parameter_names for group in warm.groups] == [group.parameter_names for group in fresh.groups]


def test_a_cell_of_another_model_or_recipe_is_a_mistake_of_the_caller(network_of: NetworkOf) -> None:
    network = network_of("bert")
    with pytest.raises(ValueError, match="loaded for"):
        network.prepare(cell_of(network.model, Reinit(), dropout=0.3), 1)


# ------------------------------------------------------------------------------------------------------------ probing


@KINDS
def test_a_probe_trains_its_classifier_alone(network_of: NetworkOf, kind: str) -> None:
    network = network_of(kind)
    network.prepare(cell_of(network.model, Probe(depth=3, feature="mean")), 1)
    assert len(network.stack) == 3
    names = {name for group in network.groups for name in group.parameter_names}
    assert names == network.fresh == {"classifier.weight", "classifier.bias"}
    before = {name: p.detach().clone() for name, p in network.module.named_parameters()}
    train_a_little(network)
    moved = {name for name, p in network.module.named_parameters() if not torch.equal(p, before[name])}
    assert moved == names


def test_the_probes_features_are_what_they_are_called(network_of: NetworkOf) -> None:
    network = network_of("bert")
    ids, mask = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 0]])
    network.prepare(cell_of(network.model, Truncate(depth=2)), 1)
    network.module.eval()
    output = network.stack.network.base_model(input_ids=ids, attention_mask=mask)
    expected = {
        "pooler": output.pooler_output,
        "cls": output.last_hidden_state[:, 0],
        "mean": output.last_hidden_state[:, :3].mean(1),
    }
    for feature, value in expected.items():
        network.prepare(cell_of(network.model, Probe.model_validate({"depth": 2, "feature": feature})), 1)
        assert isinstance(network.module, ProbeNetwork)
        assert torch.allclose(network.module.features(input_ids=ids, attention_mask=mask), value, atol=1e-6)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_frozen_encoders_dropout_is_off_unless_asked_for(folder_of: FolderOf, *, noisy: bool) -> None:
    network = load(folder_of("bert"), dropout=0.5)
    network.prepare(cell_of(network.model, Probe(depth=2, encoder_dropout=noisy), dropout=0.5), 1)
    probe = network.module
    assert isinstance(probe, ProbeNetwork)
    ids = torch.tensor([[5, 6, 7, 8]])
    one, other = (probe.features(input_ids=ids, attention_mask=torch.ones_like(ids)) for _ in range(2))
    assert torch.equal(one, other) is not noisy
    probe.eval()
    one, other = (probe.features(input_ids=ids, attention_mask=torch.ones_like(ids)) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("kind", "feature", "allowed"),
    [("roberta", "pooler", "cls, mean"), ("gpt2", "cls", "mean"), ("llama", "pooler", "mean")],
)
def test_a_feature_that_the_network_lacks_is_refused_with_those_it_has(
    network_of: NetworkOf, kind: str, feature: str, allowed: str
) -> None:
    network = network_of(kind)
    with pytest.raises(SpecError, match=f"does not have the feature {feature}") as refusal:
        network.prepare(cell_of(network.model, Probe.model_validate({"depth": 1, "feature": feature})), 1)
    assert refusal.value.allowed == allowed


def test_a_probe_fitted_to_convergence_leaves_nothing_to_an_optimiser(network_of: NetworkOf) -> None:
    network = network_of("bert")
    network.prepare(cell_of(network.model, Probe(depth=1, fit="converged")), 1)
    assert network.groups == []
    assert isinstance(network.module, ProbeNetwork)
    network.module.set_classifier(torch.ones(2, HIDDEN), torch.zeros(2))
    assert float(network.module.classifier.weight.detach().sum()) == 2 * HIDDEN


def test_the_converged_fit_is_logistic_regression_at_c_1() -> None:
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 10, generator=generator)
    labels = (features @ torch.randn(10, 3, generator=generator)).argmax(1)
    weight, bias = fit_converged(features, labels, 3)
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(features.double().numpy(), labels.numpy())
    assert torch.allclose(weight, torch.from_numpy(reference.coef_).float(), atol=1e-4)
    # A constant added to every bias changes no probability.
    expected = torch.from_numpy(reference.intercept_).float()
    assert torch.allclose(bias - bias.mean(), expected - expected.mean(), atol=1e-4)


def test_the_converged_fit_of_one_output_is_ridge_regression_at_alpha_1() -> None:
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    features, values = torch.randn(50, 4, generator=generator), torch.randn(50, generator=generator)
    weight, bias = fit_converged(features, values, 1)
    reference = Ridge(alpha=1.0).fit(features.double().numpy(), values.double().numpy())
    assert torch.allclose(weight[0], torch.from_numpy(reference.coef_).float(), atol=1e-4)
    assert float(bias) == pytest.approx(reference.intercept_, abs=1e-4)


# --------------------------------------------------------------------------------------------------------- tokenisers


def test_the_demos_model_has_a_tokeniser_and_pads_with_its_padding_token() -> None:
    tokenizer = load_tokenizer(resolve_model(MINILM, Places()))
    assert tokenizer("a good film")["input_ids"] == [101, 1037, 2204, 2143, 102]
    assert Network.load(MINILM, 2, Recipe(), Places()).pad_token == tokenizer.pad_token_id == 0


def test_a_folder_without_a_tokeniser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tokeniser cannot be read"):
        load_tokenizer(tmp_path)
