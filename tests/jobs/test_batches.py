"""A folder of manifests: each Job once and in order, nothing of an earlier call left, nothing of others touched."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from jobs.batches import HEADER, write_batches
from jobs.cluster import Cluster
from jobs.errors import ConfigurationError, SpecError
from jobs.manifest import Manifest, job
from tests.make import a_cell

SITE = Cluster(
    image="registry.example/reinit@sha256:" + "0" * 64,
    store="s3://bucket/prefix",
    env={"NUMBER": "1e5", "WORD": "y", "OCTAL": "0o7", "HOME_IS": "$(HOME)", "TEXT": "é “x” \u2028 😀 # : - \n\t"},
)


def some_jobs(count: int) -> list[Manifest]:
    return [job("paper", a_cell(*range(k)), (1, 2), SITE) for k in range(count)]


def read_back(folder: Path) -> list[Manifest]:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in folder.iterdir())
    return [each for name in listed for each in yaml.safe_load_all((folder / name).read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("count", "size", "files"), [(1, 500, 1), (5, 2, 3), (4, 2, 2), (3, 1, 3)])
def test_batches_hold_every_job_once_in_order(tmp_path: Path, count: int, size: int, files: int) -> None:
    jobs = some_jobs(count)
    names = write_batches(tmp_path / "new" / "folder", jobs, size)
    assert names == [f"{number:04}.yaml" for number in range(1, files + 1)]
    assert read_back(tmp_path / "new" / "folder") == jobs


def test_writing_again_gives_the_same_bytes_and_removes_stale_batches(tmp_path: Path) -> None:
    write_batches(tmp_path, some_jobs(5), 1)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_batches(tmp_path, some_jobs(2), 1)
    assert len(list(tmp_path.iterdir())) == 3
    write_batches(tmp_path, some_jobs(5), 1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_with_nothing_to_write_an_earlier_output_is_removed_so_that_nobody_applies_it(tmp_path: Path) -> None:
    write_batches(tmp_path, some_jobs(3), 1)
    assert write_batches(tmp_path, [], 1) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["notes.txt", "0002.yaml", "kustomization.yaml", ".git"])
def test_a_folder_with_a_file_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    write_batches(tmp_path, some_jobs(1), 1)
    (tmp_path / name).write_text("kind: Mine\n", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SpecError, match="other files") as refused:
        write_batches(tmp_path, some_jobs(2), 1)
    assert name in str(refused.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_link_is_nobodys_output(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(HEADER, encoding="utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "0001.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpecError, match="other files"):
        write_batches(folder, some_jobs(1), 1)


def test_a_file_where_the_folder_should_be_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_batches(tmp_path / "file", some_jobs(1), 1)


def test_kustomize_reads_the_folder_and_gives_the_same_jobs_in_the_same_order(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    jobs = some_jobs(12)
    write_batches(tmp_path, jobs, 5)
    built = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, check=False)
    assert built.returncode == 0, built.stderr.decode()
    assert list(yaml.safe_load_all(built.stdout)) == jobs
