"""Tiny networks, saved and loaded once per process: every test prepares its own run on them, as a worker does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from reinit.network import Network
from tests.reinit.architectures import CONFIGS, REFUSED, load, save


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model folder of an architecture by its name in `CONFIGS` or `REFUSED`."""
    return cache(lambda kind: save((CONFIGS | REFUSED)[kind](), tmp_path_factory.mktemp(kind)))


@pytest.fixture(scope="session")
def network_of(folder_of: Callable[[str], Path]) -> Callable[[str], Network]:
    """The loaded network of an architecture, as it was loaded, whatever an earlier test did to it."""
    loaded = cache(lambda kind: load(folder_of(kind)))

    def pristine(kind: str) -> Network:
        network = loaded(kind)
        network.reset()
        return network

    return pristine
