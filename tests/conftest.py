"""What holds for every test: no network, one thread, and no GPU test without a GPU.

Law: no fixture of one package lives here; `tests/jobs`, `tests/reinit` and `tests/aggregate` have their own.
"""

import os

import pytest

# Set before any test module imports a library that reads them, and inherited by every process a test starts.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
# The networks here are tiny: threads cost more than they bring, pytest-xdist uses the cores already, and a
# sum over one thread has one order.
os.environ["OMP_NUM_THREADS"] = "1"


pytest_plugins = ["tests.s3", "tests.browser"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and not _has_gpu():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
