"""What the image is made of agrees with what the tests ran: locks with pins, the Dockerfile with its locks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ("cpu", "gpu")


def locked(lock: str) -> dict[str, str]:
    text = (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE))


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_the_versions_that_the_tests_ran_with(lock: str) -> None:
    pins = pinned()
    different = {
        name: (version, pins.get(name))
        for name, version in locked(lock).items()
        if not name.startswith(("nvidia-", "cuda-", "triton")) and pins.get(name) != version.removesuffix("+cpu")
    }
    assert different == {}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_has_a_hash(lock: str) -> None:
    text = (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) == len(locked(lock)) > 50
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_the_gpu_lock_names_the_cuda_packages_and_the_cpu_lock_none() -> None:
    assert {"triton", "nvidia-nccl-cu13", "nvidia-cublas"} <= set(locked("gpu"))
    assert not [name for name in locked("cpu") if name.startswith(("nvidia-", "triton"))]
    assert locked("cpu")["torch"] == f"{locked('gpu')['torch']}+cpu"


def test_the_image_runs_as_a_number_without_a_shell_between_signal_and_program() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER 10001:10001$", dockerfile, flags=re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["python", "-m", "reinit"\]$', dockerfile, flags=re.MULTILINE)
    assert 'test -n "${GIT_COMMIT}"' in dockerfile


def test_what_the_dockerfile_copies_is_let_through_to_the_build() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, flags=re.MULTILINE)
        for name in line.split()
    ]
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert {"jobs", "reinit", "aggregate", "pyproject.toml"} <= set(copied)
    for name in copied:
        assert f"!{name.split('/')[0]}" in allowed
        assert (ROOT / name.replace("${LOCK}", "cpu")).exists()
