"""From a result back to its command; the check itself runs in `tests/test_local_runs.py`."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest

from jobs.cell import Cell
from jobs.errors import DataError, SpecError
from jobs.reproduce import Comparison, command, find_result, library_differences, unplaced
from jobs.store import Store, open_store
from jobs.tasks import FolderSource
from reinit.environment import pod_runs
from tests.make import a_cell, a_diverged, a_provenance, a_result, some_predictions

IMAGE = "registry.example/reinit@sha256:" + "0" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = open_store(f"file://{tmp_path}/store")
    for cell, seed in ((a_cell(), 1), (a_cell(), 2), (a_cell(3), 1)):
        opened.put(a_result(cell, seed), some_predictions(seed))
    return opened


def assigned(line: str) -> dict[str, str]:
    words = shlex.split(line)
    return dict(word.split("=", 1) for word in words if word.startswith("REINIT_"))


def test_a_result_is_found_by_the_digits_that_a_table_shows_and_its_seed(store: Store) -> None:
    found = find_result(a_cell().digest[:8], 2, store)
    assert (found.digest, found.seed) == (a_cell().digest, 2)
    assert find_result(a_cell(3).digest[:8], None, store).cell == a_cell(3)


def test_a_result_is_found_by_its_key_and_by_its_file(store: Store, tmp_path: Path) -> None:
    key = a_result(a_cell(), 2).key
    assert find_result(key, None, store).seed == 2
    assert find_result(f"{store.url}/{key}", None, store).seed == 2
    assert find_result(str(tmp_path / "store" / key), None, None).seed == 2


@pytest.mark.parametrize(
    ("ref", "seed", "problem"),
    [
        (a_cell().digest[:8], None, "several results"),
        (a_cell().digest[:8], 3, "several results"),
        ("0123456789", None, "no cells"),
        ("sst2-500-finetune", None, "no result"),
        ("../no/such/file", None, "no result"),
        ("a" * 5000, None, "no result"),
    ],
)
def test_what_means_no_one_result_is_refused_with_those_there_are(
    store: Store, ref: str, seed: int | None, problem: str
) -> None:
    with pytest.raises(SpecError, match=problem):
        find_result(ref, seed, store)


def test_without_a_store_only_a_file_can_be_meant() -> None:
    with pytest.raises(SpecError, match="no such file"):
        find_result(a_cell().digest, 1, None)


@pytest.mark.parametrize("content", ["", "{}", "<xml/>", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(DataError, match="not a result"):
        find_result(str(path), None, None)


def test_the_command_is_the_pods_contract_for_this_cell_and_seed(tmp_path: Path) -> None:
    result = a_result(a_cell(2, 3), 7, provenance=a_provenance(threads=3))
    made = command(result, {"glue": tmp_path}, tmp_path / "again")
    assert made.code == "git checkout " + "a" * 40
    environment = assigned(made.run)
    assert pod_runs(environment) == ((a_cell(2, 3),), (7,))
    assert environment["REINIT_THREADS"] == "3"
    assert environment["REINIT_DEVICE"] == "cpu"
    assert json.loads(environment["REINIT_PLACES"]) == {"glue": str(tmp_path)}
    assert "REINIT_GPUS" not in environment
    assert shlex.split(made.run)[-3:] == ["python", "-m", "reinit"]


def test_a_run_on_several_gpus_asks_for_as_many(tmp_path: Path) -> None:
    result = a_result(gpu_seconds=40.0, provenance=a_provenance(world_size=2, device="NVIDIA H100"))
    environment = assigned(command(result, {}, tmp_path).run)
    assert (environment["REINIT_DEVICE"], environment["REINIT_GPUS"]) == ("cuda", "2")


def test_a_result_of_an_image_is_made_again_in_that_image(tmp_path: Path) -> None:
    result = a_result(provenance=a_provenance(image=IMAGE, device="AMD EPYC", threads=2))
    made = command(result, {}, tmp_path)
    assert made.code == f"docker pull {IMAGE}"
    words = shlex.split(made.run)
    assert words[:2] == ["docker", "run"]
    assert IMAGE in words
    assert "--gpus" not in words
    assert assigned(made.run)["REINIT_THREADS"] == "2"


def test_data_that_only_a_place_can_stand_for_are_named() -> None:
    folder = FolderSource(name="glue/SST-2", revision="sha256:" + "1" * 64)
    cell: Cell = a_cell(task=a_cell().task.model_copy(update={"source": folder, "validation_rows": (872,)}))
    assert unplaced(cell, {}) == ["glue/SST-2"]
    assert unplaced(cell, {"glue/SST-2": Path("/data")}) == []
    assert unplaced(a_cell(), {}) == []


def test_libraries_that_are_another_version_here_are_named_with_both() -> None:
    made_with = a_provenance(versions={"pydantic": version("pydantic"), "boto3": "0.0.3", "no-such-library": "1"})
    assert library_differences(made_with) == {
        "boto3": ("0.0.3", version("boto3")),
        "no-such-library": ("1", "not installed"),
    }


def test_a_comparison_is_of_bits_and_says_what_moved() -> None:
    before = a_result(score=0.5)
    assert Comparison(before, a_result(score=0.5, later=60)).is_equal
    other = a_result(score=0.5000001, provenance=a_provenance(threads=2))
    comparison = Comparison(before, other)
    assert not comparison.is_equal
    assert not comparison.is_one_version
    assert comparison.moved == {"threads": ("1", "2")}
    assert comparison.scores["validation/accuracy"] == ("0.5", "0.5000001")


def test_predictions_that_differ_under_equal_metrics_are_not_equal() -> None:
    comparison = Comparison(a_result(), a_result(predictions="0" * 64))
    assert not comparison.is_equal
    assert comparison.is_one_version


def test_a_diverged_run_compares_with_a_finished_one() -> None:
    comparison = Comparison(a_diverged(), a_result())
    assert not comparison.is_equal
    assert comparison.scores["diverged at step"] == ("7", "-")


@pytest.mark.parametrize("commit", ["unknown", "--orphan=x", "-f", "$(id)", "a; id", "A" * 40, "a" * 40 + "\n"])
def test_what_is_no_commit_never_reaches_a_command(commit: str, tmp_path: Path) -> None:
    made = command(a_result(provenance=a_provenance(git_commit=commit)), {}, tmp_path)
    assert made.code == ""


@pytest.mark.parametrize(
    "image", [f"--privileged@sha256:{'0' * 64}", f"-v/:/host@sha256:{'0' * 64}", "x:latest", f"$(id)@sha256:{'0' * 64}"]
)
def test_what_is_no_image_never_reaches_a_command(image: str, tmp_path: Path) -> None:
    made = command(a_result(provenance=a_provenance(image=image)), {}, tmp_path)
    assert "docker" not in made.code + made.run


def test_a_line_to_paste_holds_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    model = a_cell().model.model_copy(update={"name": "x\x1b[2J\x9b2J\u202e'; id #"})
    made = command(a_result(a_cell(model=model)), {}, tmp_path)
    assert made.run.isprintable()
    assert json.loads(assigned(made.run)["REINIT_CELLS"])[0]["model"]["name"] == model.name
