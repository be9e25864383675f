"""A study while its store dies again and again, and over a road that loses, cuts, delays and lies."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from jobs.backends import open_objects
from jobs.store import Store, open_store
from jobs.study import load_study
from tests.faultproxy import FaultProxy
from tests.figures import full, record
from tests.make import a_cell, a_result, some_predictions
from tests.reinit.tiny import write_sentences
from tests.s3 import S3Server, Weed
from tests.test_local_runs import a_study, command, environment

TARGET: Final = "a server that dies and a proxy that errs: nothing lost, nothing doubled"
SEEDS: Final = full(40, 5)
KILLS: Final = full(12, 2)
LONG_ABSENCE: Final = full(5, 0)
"""The kill after which the server stays away for so long; none in the short form."""
OBJECTS: Final = full(1500, 150)
RATES: Final = {
    "500": 0.03,
    "503": 0.02,
    "reset before": 0.02,
    "reset after": 0.03,
    "truncated": 0.03,
    "xml": 0.02,
    "false 200": 0.03,
    "late": 0.1,
}
"""Of all requests; a reset after the server has done what it was asked is the commonest way to lose an answer."""


class Short:
    """A study of short runs of a real network, and what it measures where nothing goes wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_sentences(folder / "data")
        self.study = a_study(self.data, seeds=SEEDS)
        self.plan = load_study(str(self.study)).plan()
        self.environment = environment(folder)
        self.expected = self._science(self.run_until_done(f"file://{folder}/calm", {})[0])
        assert len(self.expected) == self.plan.runs

    def start(self, url: str, more: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(self.study, url, self.data, "--workers", "2"),
            env=self.environment | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run_until_done(self, url: str, more: dict[str, str], most: int = 10) -> tuple[Store, int]:
        """The store, and how often the command was called."""
        for calls in range(1, most + 1):
            process = self.start(url, more)
            said, _ = process.communicate(timeout=600)
            if process.returncode == 0:
                return open_store(url), calls
            assert process.returncode == 75, said
        raise AssertionError(said)

    def check(self, store: Store) -> None:
        """Every run once, with the bits of the calm study."""
        found = store.all_results([each.cell.digest for each in self.plan])
        extras = [one for each in found.values() for one in (*each.damaged, *each.duplicates, *each.contradictions)]
        assert extras == []
        assert self._science(store) == self.expected
        for each in found.values():
            for result in each.results.values():
                assert result.status == "done"
                store.predictions(result.predictions)
        assert len(store.every_result()) == self.plan.runs

    def _science(self, store: Store) -> dict[tuple[str, int], str]:
        found = store.all_results([each.cell.digest for each in self.plan])
        return {(digest, seed): one.science12 for digest, each in found.items() for seed, one in each.results.items()}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Short:
    return Short(tmp_path_factory.mktemp("short"))


@pytest.fixture
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    running = Weed(tmp_path_factory.mktemp("mortal"))
    try:
        running.start()
        yield running
    finally:
        running.close()


def test_a_server_that_is_killed_and_comes_back_costs_no_run(short: Short, weed: Weed) -> None:
    url = f"s3://{weed.server.new_bucket()}/results"
    draw, ended = random.Random(1), threading.Event()
    kills, away = 0, 0.0

    def haunt() -> None:
        nonlocal kills, away
        while kills < KILLS and not ended.wait(draw.uniform(1, 5)):
            began = time.monotonic()
            weed.kill()
            kills += 1
            # Once longer than the patience of one write: such runs are held.
            ended.wait(45 if kills == LONG_ABSENCE else draw.uniform(0, 4))
            weed.start()
            away += time.monotonic() - began

    haunting = threading.Thread(target=haunt)
    haunting.start()
    try:
        store, calls = short.run_until_done(url, weed.server.environment)
    finally:
        ended.set()
        haunting.join()
    with_environment(weed.server, lambda: short.check(open_store(url)))
    assert store.url == url
    assert kills
    figure = (
        f"{short.plan.runs} runs, server killed {kills} times and away for {away:.0f} s, {calls} calls of the command"
    )
    record("test_store_faults", f"{figure}; each run once, all equal", TARGET)


def test_a_road_that_errs_costs_no_run(short: Short, s3_server: S3Server, s3_bucket: str) -> None:
    url = f"s3://{s3_bucket}/results"
    with FaultProxy(s3_server.endpoint, RATES, seed=2) as proxy:
        _, calls = short.run_until_done(url, s3_server.environment | {"AWS_ENDPOINT_URL_S3": proxy.endpoint})
        suffered = sum(proxy.suffered.values())
        figure = f"{suffered} of {proxy.requests} requests broken"
    short.check(open_store(url))
    assert suffered
    record("test_store_faults", f"{short.plan.runs} runs, {figure}, {calls} calls; each run once, all equal", TARGET)


def test_many_results_over_a_road_that_errs_are_all_there_once(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, cells = f"s3://{s3_bucket}", [a_cell(layer) for layer in range(10)]
    runs = [(cell, seed) for cell in cells for seed in range(OBJECTS // len(cells))]
    with FaultProxy(s3_server.endpoint, RATES, seed=3, seconds=0.05) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        store = Store(open_objects(url))
        store.check()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda run: store.put(a_result(*run), some_predictions(run[1])), runs))
        seen = store.all_results([cell.digest for cell in cells])
        suffered = dict(proxy.suffered)
        figure = f"{sum(suffered.values())} of {proxy.requests} requests broken"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    there = open_store(url)
    assert there.all_results([cell.digest for cell in cells]) == seen
    assert sum(len(each.results) for each in seen.values()) == len(runs)
    assert not [one for each in seen.values() for one in (*each.damaged, *each.duplicates, *each.contradictions)]
    assert len(there.every_result()) == len(runs)
    assert set(suffered) == set(RATES)
    record("test_store_faults", f"{len(runs):,} results written and read, {figure}; none lost, none doubled", TARGET)


def with_environment(server: S3Server, check: Callable[[], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        check()
