"""Killed at any instant, a study loses nothing, doubles nothing and ends with the bits of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from jobs.backends import open_objects
from jobs.result import RunResult
from jobs.store import Store, open_store
from tests.figures import full, record
from tests.torture.study import Tiny
from tests.zygote import ADDRESS, Forked, zygote

KILLS: Final = full(200, 20)
DEPTHS: Final = full("[6, 4, 2, 0]", "[6, 2]")
SEEDS: Final = full(30, 10)
SEED: Final = int(os.environ.get("REINIT_TORTURE_SEED", "") or random.SystemRandom().randrange(10**6))
IMAGE: Final = "registry.example/reinit@sha256:" + "0" * 64
TARGET: Final = "at least 200 kills over at least 100 runs: every run exactly once, all equal to an unkilled study's"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("kills"), DEPTHS, SEEDS)


@pytest.fixture(scope="module")
def unkilled(tiny: Tiny) -> Store:
    """The same study, started as users start it and left alone."""
    url = f"file://{tiny.folder}/unkilled"
    done = subprocess.run(
        tiny.command(url, "--workers", "2"), env=tiny.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return open_store(url)


class Killer:
    """Starts the study, or pods of it, again and again, and kills them at instants of a seeded random generator."""

    def __init__(self, tiny: Tiny, url: str, address: str) -> None:
        self.tiny, self.url, self.address = tiny, url, address
        self.random = random.Random(SEED)
        self.kills = self.processes = self.starts = 0
        self.objects = open_objects(url, attempts=8)
        self.reach, self.allowed = 2.0, 0
        self.by_kind = dict.fromkeys(("study", "worker", "starter", "pod"), 0)
        (self.zygote,) = _children(os.getpid(), "tests.zygote")
        self.log = (tiny.folder / "killed.log").open("ab")
        self.nothing = os.open(os.devnull, os.O_RDONLY)

    def live_once(self) -> None:
        """One start, and the kill or kills that end it."""
        kind = self.random.choices(("study", "worker", "starter", "pod"), (4, 2, 2, 3))[0]
        if kind == "pod":
            self._kill_pods()
            return
        # Workers that lost their starter may still be there.
        orphans = _children(self.zygote)
        run = self._start("reinit", self._arguments("--workers", str(self.random.choice((2, 3)))), {})
        self._wait_a_while(run)
        if run.poll() is not None:
            return
        workers = [each for each in _children(self.zygote) if each not in (run.pid, *orphans)]
        if kind == "worker" and not workers:
            kind = "starter"
        # Left alone, a starter's workers finish what they are at, beside the next start.
        of_kind = {"study": [run.pid, *workers], "starter": [run.pid], "worker": workers[-1:]}
        self._kill(kind, of_kind[kind])
        run.wait(600)

    def finish(self) -> None:
        """Left alone at last."""
        run = self._start("reinit", self._arguments("--workers", "2"), {})
        code = run.wait(600)
        self.log.close()
        os.close(self.nothing)
        assert code == 0, (self.tiny.folder / "killed.log").read_text()[-3000:]

    def adapt(self) -> bool:
        """Keep the runs in step with the kills; False once there are kills enough, or no runs left."""
        done, total = self._done(), self.tiny.plan.runs
        self.allowed = int(0.9 * total * self.kills / KILLS)
        self.reach = min(15.0, max(0.5, self.reach * (0.8 if done > self.allowed else 1.15)))
        return self.kills < KILLS and done < total

    def _done(self) -> int:
        """Runs that the store has objects of, by one LIST."""
        return len({key.rpartition("/")[2].split(".")[0] + key.split("/")[1] for key in self.objects.keys("runs/")})

    def _kill_pods(self) -> None:
        """Two pods at a time, by chance of the same cell, each at an instant of its own."""
        cells = [self.random.choice(self.tiny.plan) for _ in range(2)]
        pods = [self._start("pod", [], self.tiny.pod(each, self.url, f"pod-{self.starts}")) for each in cells]
        for pod in pods:
            self._wait_a_while(pod)
            if pod.poll() is None:
                self._kill("pod", [pod.pid])
                pod.wait(60)

    def _arguments(self, *more: str) -> list[str]:
        return self.tiny.command(self.url, *more)[3:]

    def _start(self, program: str, arguments: list[str], more: dict[str, str]) -> Forked:
        self.starts += 1
        variables = self.tiny.environment | {ADDRESS: self.address} | more
        descriptors = (self.nothing, self.log.fileno(), self.log.fileno())
        return Forked(self.address, "pod" if program == "pod" else "reinit", arguments, variables, descriptors)

    def _wait_a_while(self, process: Forked) -> None:
        """Until an instant by chance; a sooner one where more runs are done than kills allow for."""
        deadline, is_ahead = time.monotonic() + self.random.uniform(0, self.reach), False
        while time.monotonic() < deadline and process.poll() is None:
            if not is_ahead and self._done() > self.allowed:
                deadline, is_ahead = min(deadline, time.monotonic() + self.random.uniform(0, 1)), True
            time.sleep(0.01)

    def _kill(self, kind: str, victims: list[int]) -> None:
        hit = 0
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                hit += 1
        self.processes += hit
        self.kills += hit > 0
        self.by_kind[kind] += hit > 0


def _children(process: int, word: str = "") -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(each) for each in children if word in Path(f"/proc/{each}/cmdline").read_text()]


def assert_as_unkilled(tiny: Tiny, url: str, unkilled: Store) -> int:
    """Every run once and equal bit by bit; returns how many were done more than once, with equal results."""
    runs = sum(len(each.seeds) for each in tiny.plan)
    table = tiny.aggregated(url)
    assert len(table) == runs
    assert table[["digest", "seed"]].drop_duplicates().shape[0] == runs
    assert set(table["status"]) == {"done"}
    store, expected = open_store(url), tiny.found(unkilled)
    twice = 0
    for digest, found in tiny.found(store).items():
        assert not found.contradictions
        assert not found.damaged
        assert {each.largest_difference for each in found.duplicates} <= {0.0}
        twice += len(found.duplicates)
        for seed, result in found.results.items():
            other = expected[digest].results[seed]
            assert isinstance(result, RunResult)
            assert isinstance(other, RunResult)
            assert (result.science12, result.provenance.numerics) == (other.science12, other.provenance.numerics)
            assert store.predictions(result.predictions) == unkilled.predictions(other.predictions)
    return twice


def test_a_study_killed_again_and_again_has_every_run_once_with_the_bits_of_an_unkilled_one(
    tiny: Tiny, unkilled: Store, s3_url: str
) -> None:
    print(f"REINIT_TORTURE_SEED={SEED}")  # noqa: T201  with it the same instants come again
    tiny.environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    store, total = open_store(s3_url), tiny.plan.runs
    with zygote(tiny.folder) as address:
        killer = Killer(tiny, s3_url, address)
        while killer.adapt():
            killer.live_once()
        left = total - tiny.done(store)
        killer.finish()
    twice = assert_as_unkilled(tiny, s3_url, unkilled)
    assert killer.kills >= KILLS, f"the study was complete after {killer.kills} kills"
    kinds = ", ".join(f"{number} of a {kind}" for kind, number in killer.by_kind.items())
    figure = f"{killer.kills} kills ({kinds}; {killer.processes} processes) over {total} runs, {left} of them left for"
    figure += f" the end; {total} of {total} once in the frame, {twice} done twice with equal bits; all equal to the"
    record("test_kills", f"{figure} unkilled study's (seed {SEED}, forked starts)", TARGET)


def test_starts_killed_while_they_import_and_load_leave_nothing_wrong(tiny: Tiny, unkilled: Store, s3_url: str) -> None:
    """Real starts, as users start them, since the forked ones above have imported everything already."""
    tiny.environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    chance, starts = random.Random(SEED), full(12, 2)
    for _ in range(starts):
        run = subprocess.Popen(
            tiny.command(s3_url, "--workers", "2"),
            env=tiny.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(chance.uniform(0, 12))
        victims = [run.pid, *_children(run.pid)]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        run.wait()
    done = subprocess.run(
        tiny.command(s3_url, "--workers", "2"), env=tiny.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_as_unkilled(tiny, s3_url, unkilled)
    record("test_kills", f"{starts} real starts killed within 12 s, the import included: the same", TARGET)


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    bucket: str = "" if request.param == "folder" else request.getfixturevalue("s3_url")
    return bucket or (tmp_path / "store").as_uri()


def test_killed_at_every_call_of_the_write_path_no_half_object_is_taken_for_a_result(
    url: str, request: pytest.FixtureRequest
) -> None:
    script = [sys.executable, "-m", "tests.torture.failat", url, str(full(1, 7))]
    done = subprocess.run(script, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stdout)
    assert counted["without"] + counted["with"] == counted["kills"] > 0
    assert min(counted["without"], counted["with"]) > 0, "kills on one side of the write alone show little"
    assert counted["calls"] > counted["kills"] * full(0, 3)
    store = request.node.callspec.params["url"]
    figure = f"a put to a {store} killed at {counted['kills']} of {counted['calls']} instants, each before or after a "
    figure += f"call of the system: {counted['without']} times no result, {counted['with']} times all, never a half"
    record("test_kills", figure, TARGET)


def test_a_put_that_writes_in_place_would_be_noticed(tmp_path: Path) -> None:
    script = [sys.executable, "-m", "tests.torture.failat", (tmp_path / "store").as_uri(), "1", "careless"]
    done = subprocess.run(script, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "killed at call" in done.stderr
