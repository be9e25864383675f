"""Inspection: what surgery did, by comparing bits, and which optimiser group it ends up in."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from jobs.cell import Permute, Probe, Reinit, Truncate
from reinit.inspection import ParameterReport, inspect, render
from tests.reinit.architectures import CONFIGS, HIDDEN, cell_of, model_of

FolderOf = Callable[[str], Path]


def reports(folder: Path, treatment: Any, seed: int = 1) -> dict[str, ParameterReport]:
    model, places = model_of(folder)
    found = inspect(cell_of(model, treatment), seed, places)
    assert len({report.name for report in found}) == len(found)
    return {report.name: report for report in found}


def states(found: dict[str, ParameterReport], prefix: str) -> set[str]:
    return {report.state for name, report in found.items() if name.startswith(prefix)}


@pytest.mark.parametrize("kind", CONFIGS)
def test_redrawn_layers_and_the_head_are_the_only_ones_not_pretrained(folder_of: FolderOf, kind: str) -> None:
    found = reports(folder_of(kind), Reinit(layers=(2,)))
    stack = next(name for name in found if ".2." in name).partition(".2.")[0]
    assert states(found, f"{stack}.2.") == {"redrawn"}
    assert all(states(found, f"{stack}.{index}.") == {"pretrained"} for index in (0, 1, 3))
    assert {report.state for report in found.values()} == {"redrawn", "pretrained", "fresh head"}
    assert all(report.learning_rate == 2e-5 for report in found.values())


def test_numbers_are_those_of_the_parameter(folder_of: FolderOf) -> None:
    found = reports(folder_of("bert"), Reinit(layers=(3,), lr_scale=5))
    weight = found["bert.encoder.layer.3.output.dense.weight"]
    assert weight.shape == (HIDDEN, 2 * HIDDEN)
    assert weight.sd == pytest.approx(0.0176, rel=0.05)
    assert -0.04 <= weight.min < -0.039 < 0.039 < weight.max <= 0.0401
    assert weight.group == "redrawn"
    assert weight.learning_rate == pytest.approx(1e-4)
    norm = found["bert.encoder.layer.3.output.LayerNorm.weight"]
    assert (norm.mean, norm.sd, norm.min, norm.max) == (1, 0, 1, 1)
    assert norm.group == "redrawn, no decay"


def test_kept_biases_of_the_released_init_are_seen_as_pretrained(folder_of: FolderOf) -> None:
    found = reports(folder_of("bert"), Reinit(layers=(3,), init="released"))
    assert found["bert.encoder.layer.3.output.dense.bias"].state == "pretrained"
    assert found["bert.encoder.layer.3.output.dense.weight"].state == "redrawn"


def test_moved_layers_say_where_they_come_from(folder_of: FolderOf) -> None:
    found = reports(folder_of("gpt2"), Permute(order=(0, 3, 1, 2)))
    assert states(found, "transformer.h.0.") == {"pretrained"}
    assert states(found, "transformer.h.1.") == {"moved from layer 3"}
    assert states(found, "transformer.h.3.") == {"moved from layer 2"}


def test_layers_above_the_cut_are_removed(folder_of: FolderOf) -> None:
    found = reports(folder_of("bert"), Truncate(depth=3))
    assert states(found, "bert.encoder.layer.3.") == {"removed"}
    assert states(found, "bert.encoder.layer.2.") == {"pretrained"}
    assert found["bert.encoder.layer.3.output.dense.weight"].learning_rate is None


def test_a_probe_freezes_all_but_its_classifier(folder_of: FolderOf) -> None:
    found = reports(folder_of("roberta"), Probe(depth=1, feature="cls"))
    training = {name for name, report in found.items() if report.learning_rate is not None}
    assert training == {"classifier.weight", "classifier.bias"}
    assert states(found, "classifier") == {"fresh head"}
    assert states(found, "roberta.encoder.layer.0.") == {"pretrained"}
    assert states(found, "roberta.encoder.layer.1.") == {"removed"}


def test_frozen_layers_have_no_group(folder_of: FolderOf) -> None:
    found = reports(folder_of("bert"), Reinit(layers=(3,), frozen_layers=(3,)))
    layer = [report for name, report in found.items() if name.startswith("bert.encoder.layer.3.")]
    assert {(report.group, report.learning_rate) for report in layer} == {(None, None)}


def test_reports_are_plain_json_and_a_table(folder_of: FolderOf) -> None:
    found = list(reports(folder_of("bert"), Reinit(layers=(3,))).values())
    assert json.loads(json.dumps([dataclasses.asdict(report) for report in found]))
    text = io.StringIO()
    Console(file=text, width=200).print(render(found))
    row = next(line for line in text.getvalue().splitlines() if "layer.3.output.dense.weight" in line)
    assert all(part in row for part in ("64 × 128", "redrawn", "2.00e-05", f"{4e-2:.2e}"))


def test_inspecting_leaves_the_global_generator_alone(folder_of: FolderOf) -> None:
    before = torch.random.get_rng_state()
    reports(folder_of("bert"), Reinit(layers=(3,), init="architecture"))
    assert torch.equal(before, torch.random.get_rng_state())
