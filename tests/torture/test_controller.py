"""Our Jobs under a Job controller that restarts, evicts, doubles and forgets: in the end every run is there once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import jobs.kube
from aggregate.frame import frame
from jobs.api import Answer, Api, Asked
from jobs.cluster import Cluster as Site
from jobs.kube import Submitted, cancel, submit
from jobs.manifest import NEVER_RETRIED, STOPPED
from jobs.plan import Plan, PlannedCell
from jobs.store import open_store
from tests.figures import full, record
from tests.jobcontroller import JobController, Pod
from tests.kube_api import Cluster
from tests.make import a_cell
from tests.pod import Pod as RealPod
from tests.pod import environment, start, why_no_pods
from tests.reinit.tiny import write_sentences
from tests.test_local_runs import a_study, command, finished
from tests.test_pods import COMMIT, a_node, rendered, results
from tests.torture.standin import Checkpoints, Fault, Program

SEED: Final = int(os.environ.get("REINIT_TORTURE_SEED", "") or random.SystemRandom().randrange(10**6))
SCHEDULES: Final = full(2000, 100)
TARGET: Final = "random schedules of a Job controller: every run exactly once"
PLAN: Final = Plan(PlannedCell(a_cell(*range(depth)), (1, 2, 3), ("progressive",)) for depth in range(2))
FAULTS: Final[tuple[Fault, ...]] = ("killed before", "killed half-way", "killed after", "refused", "answer lost")
counted: Counter[str] = Counter()


class InProcess(Api):
    """The client over a cluster in this process: everything but HTTP."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(SimpleNamespace(configuration=SimpleNamespace(host="in-process")), "reinit")
        self._cluster = cluster

    def request(self, asked: Asked, *, expected: Any = ()) -> Answer:
        path = f"/apis/batch/v1/namespaces/reinit/{asked.kind}/{asked.name}"
        status, value = self._cluster.answer(asked.method, path, dict(asked.query), asked.body or "")
        answer = Answer(status, json.dumps(value))
        if 200 <= status < 300 or status in expected:
            return answer
        raise self._refused(asked, answer)


@dataclass
class Live:
    """A Job that has a controller."""

    thing: dict[str, Any]
    controller: JobController
    programs: dict[Pod, Program] = field(default_factory=dict)
    doubles: int = 0
    """Pods that were started beside another of the same index."""

    @property
    def running(self) -> list[tuple[Pod, Program]]:
        """Pods whose end is not known yet."""
        return [(pod, program) for pod, program in self.programs.items() if pod.phase == "Running"]


class Schedules(RuleBasedStateMachine):
    """A study, its user, a cluster, and bad luck."""

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(prefix="schedule-", dir=shared if shared.is_dir() else None))
        self.store = open_store(self.root.as_uri())
        self.cluster = Cluster(on_delete=self._deleted)
        self.api = InProcess(self.cluster)
        self.jobs: dict[str, Live] = {}
        """By uid."""
        self.zombies: list[Program] = []
        """Programs that run where nobody looks: on a lost node, or of a Job that is gone."""
        self.broken: set[str] = set()
        self.clock = count(1)

    @initialize(retries=st.integers(0, 2), chunk=st.sampled_from([None, None, 1, 2]), keeps=st.booleans())
    def begin(self, retries: int, chunk: int | None, keeps: bool) -> None:
        image = "registry.example/reinit@sha256:" + "0" * 64
        self.site = Site(image=image, store="s3://bucket/prefix", gpus=0, cpu="1", retries=retries, seeds_per_pod=chunk)
        self.checkpoints: Checkpoints | None = {} if keeps else None
        counted["schedules"] += 1
        self._submit(retry=False)

    # ------------------------------------------------------------------------------------------------- the user

    @rule(retry=st.booleans())
    def user_submits(self, retry: bool) -> None:
        self._submit(retry=retry)

    @rule()
    def user_cancels(self) -> None:
        """Pods outlive their Job, and may still be at work when it is submitted again."""
        cancel(self.api, list(self.cluster.objects["jobs"].values()))

    @rule(cell=st.sampled_from(PLAN))
    def a_cell_is_impossible(self, cell: PlannedCell) -> None:
        self.broken.add(cell.cell.digest)

    @precondition(lambda self: self.broken)
    @rule()
    def somebody_mends_it(self) -> None:
        self.broken.clear()

    # ---------------------------------------------------------------------------------------- cluster and nodes

    @rule()
    def controllers_look(self) -> None:
        for thing in self.cluster.objects["jobs"].values():
            live = self.jobs.setdefault(thing["metadata"]["uid"], Live(thing, JobController(thing["spec"])))
            if "polls" in thing:
                continue
            before = live.controller.decided
            for pod in live.controller.sync():
                self._start(live, pod)
            for pod, program in live.running:
                if pod.is_deleting:
                    program.terminate()
            thing["status"] = live.controller.status
            self._check(live, is_new=before is None)

    @rule()
    def back_offs_elapse(self) -> None:
        for live in self._live():
            live.controller.elapse()
        self.controllers_look()

    @rule(which=st.integers(0, 9), steps=st.integers(1, 9))
    def a_pod_runs(self, which: int, steps: int) -> None:
        for live, pod, program in self._one(which):
            program.run(steps)
            self._ended(live, pod, program)

    @rule(which=st.integers(0, 9), steps=st.integers(2, 8))
    def a_pod_runs_and_is_stopped(self, which: int, steps: int) -> None:
        """By a drained node without the condition, or a node that shuts down: what makes 143 worth its rule."""
        for live, pod, program in self._one(which):
            program.run(steps)
            program.terminate()
            program.run(4)
            self._ended(live, pod, program)

    @rule(which=st.integers(0, 9))
    def a_pod_is_killed(self, which: int) -> None:
        for live, pod, program in self._one(which):
            counted["kills"] += 1
            program.kill()
            self._ended(live, pod, program)

    @rule(which=st.integers(0, 9), steps=st.integers(0, 8), fault=st.sampled_from(FAULTS))
    def a_write_of_a_pod_goes_wrong(self, which: int, steps: int, fault: Fault) -> None:
        for live, pod, program in self._one(which):
            counted["bad writes"] += 1
            program.run(steps)
            program.fault = fault
            program.run(4)
            self._ended(live, pod, program)

    @rule(which=st.integers(0, 9), evicted=st.booleans())
    def a_pod_is_deleted(self, which: int, evicted: bool) -> None:
        for _, pod, program in self._one(which):
            counted["evictions" if evicted else "deletions"] += 1
            pod.is_deleting, pod.is_disrupted = True, pod.is_disrupted or evicted
            program.terminate()

    @rule(which=st.integers(0, 9))
    def a_pod_passes_its_deadline(self, which: int) -> None:
        """The kubelet stops it, without anybody's deletion."""
        for _, _, program in self._one(which):
            program.terminate()

    @rule(which=st.integers(0, 9))
    def a_node_is_lost(self, which: int) -> None:
        """The pod is written off, its container status as it was; the program may go on for ever so long."""
        for _, pod, program in self._one(which):
            counted["lost nodes"] += 1
            pod.is_deleting = pod.is_disrupted = True
            pod.phase = "Failed"
            self.zombies.append(program)

    @precondition(lambda self: self.zombies)
    @rule(which=st.integers(0, 9), steps=st.integers(1, 9))
    def a_zombie_runs(self, which: int, steps: int) -> None:
        self.zombies[which % len(self.zombies)].run(steps)

    @rule(which=st.integers(0, 9))
    def a_pod_is_started_twice(self, which: int) -> None:
        for live, pod, _ in self._one(which):
            counted["doubles"] += 1
            live.doubles += 1
            self._start(live, live.controller.duplicate(pod))

    @rule()
    def a_queue_suspends_and_resumes(self) -> None:
        for live in self._live():
            live.controller.suspend()
        self.controllers_look()
        for live in self._live():
            live.controller.resume()

    @rule()
    def finished_jobs_pass_their_time_to_live(self) -> None:
        for live in self._live():
            if live.controller.is_closed:
                del self.cluster.objects["jobs"][live.thing["metadata"]["name"]]

    # --------------------------------------------------------------------------------------------------- the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "site"):
                self._settle()
        finally:
            for program in [*self.zombies, *(each for live in self.jobs.values() for each in live.programs.values())]:
                program.kill()
            shutil.rmtree(self.root)

    def _settle(self) -> None:
        """No more bad luck: the user submits again, until nothing is left to do."""
        self.broken.clear()
        for _ in range(30):
            outcomes = {each.outcome for each in self._submit(retry=True)}
            if outcomes == {"done"} and all(live.controller.is_closed for live in self._live()):
                break
            for _ in range(3):
                self.back_offs_elapse()
                for live in self._live():
                    for pod, program in live.running:
                        program.fault = None
                        program.run()
                        self._ended(live, pod, program)
        else:
            raise AssertionError(f"after 30 rounds without a fault: {[live.controller for live in self._live()]}")
        for zombie in self.zombies:
            zombie.run()
        self._assert_every_run_once()

    def _assert_every_run_once(self) -> None:
        found = self._found()
        table = frame(PLAN, found, self.store.all_failures(list(found)), study="demo")
        assert len(table) == PLAN.runs
        assert len(table[["digest", "seed"]].drop_duplicates()) == PLAN.runs
        assert set(table["status"]) == {"done"}
        for each in found.values():
            assert not each.contradictions
            assert not each.damaged
            assert {duplicate.largest_difference for duplicate in each.duplicates} <= {0.0}
            counted["runs done twice"] += len(each.duplicates)
        for live in self._live():
            assert live.controller.status["conditions"][-1]["type"] in ("Complete", "Failed")

    # -------------------------------------------------------------------------------------------------- the rules

    def _check(self, live: Live, *, is_new: bool) -> None:
        """What holds after each look of a controller."""
        controller = live.controller
        if is_new and controller.decided == ("SuccessCriteriaMet", "CompletionsReached"):
            digest = live.thing["metadata"]["annotations"]["reinit.dev/digest"]
            assert self.store.results(digest).done >= {1, 2, 3}, "a Job is Complete, and a run is missing"
            counted["complete Jobs"] += 1
        is_hopeless = any(pod.exit_code in NEVER_RETRIED and pod.is_tracked for pod in controller.pods)
        assert not is_hopeless or controller.decided is not None, "what cannot be mended is tried again"
        free = [pod for pod in controller.pods if not pod.is_tracked or controller.action(pod) == "Ignore"]
        for pod in free:
            assert pod.is_disrupted or not pod.is_tracked or live.programs[pod].kept, "a restart for nothing"
        paid = controller.completions * (self.site.retries + 1)
        assert len(controller.pods) <= paid + live.doubles + len(free), "more tries than the manifest allows"

    def _ended(self, live: Live, pod: Pod, program: Program) -> None:
        """The kubelet says how a container ended."""
        if program.exit_code is None or pod.phase != "Running":
            return
        pod.end(program.exit_code)
        counted[f"exit {program.exit_code}"] += 1
        if program.exit_code == 0:
            ours = json.loads(program.environment["REINIT_SEEDS"])
            if size := int(program.environment.get("REINIT_SEEDS_PER_POD", 0)):
                index = int(program.environment["JOB_COMPLETION_INDEX"])
                ours = ours[size * index : size * (index + 1)]
            digest = live.thing["metadata"]["annotations"]["reinit.dev/digest"]
            assert self.store.results(digest).done >= set(ours), "a pod says that all is done, and it is not"
        if program.exit_code == STOPPED:
            assert program.kept, "a stop is free of charge, and nothing was kept"

    def _start(self, live: Live, pod: Pod) -> None:
        (container,) = live.thing["spec"]["template"]["spec"]["containers"]
        name = f"{live.thing['metadata']['name']}-{pod.number}"
        variables = environment(container, {}, name, pod.index)
        later = lambda: float(next(self.clock))  # noqa: E731
        live.programs[pod] = Program(
            self.root, variables, later, self.checkpoints, lambda digest: digest in self.broken
        )
        counted["pods"] += 1

    def _deleted(self, name: str) -> None:
        """A Job was deleted: in the foreground its pods end first, otherwise they go on without it."""
        thing = self.cluster.objects["jobs"].get(name)
        for live in self.jobs.values():
            if live.thing["metadata"]["name"] != name or live.controller.is_deleted:
                continue
            live.controller.is_deleted = True
            for pod, program in live.running:
                program.terminate()
                if thing is None:
                    self.zombies.append(program)
                else:
                    program.run(5)
                    program.kill()
                    self._ended(live, pod, program)

    def _live(self) -> Iterator[Live]:
        """Jobs that are there."""
        for thing in list(self.cluster.objects["jobs"].values()):
            if live := self.jobs.get(thing["metadata"]["uid"]):
                yield live

    def _one(self, which: int) -> Iterator[tuple[Live, Pod, Program]]:
        """A running pod, if there is one."""
        found = [(live, pod, program) for live in self._live() for pod, program in live.running]
        if found:
            yield found[which % len(found)]

    def _submit(self, *, retry: bool) -> list[Submitted]:
        counted["submits"] += 1
        return submit(self.api, "demo", PLAN, self.site, self._found(), retry_failed=retry)

    def _found(self) -> Any:
        return self.store.all_results([each.cell.digest for each in PLAN])


def test_whatever_the_schedule_every_run_is_there_exactly_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.kube, "GONE_PAUSES", (0.0,))
    print(f"REINIT_TORTURE_SEED={SEED}")  # noqa: T201  with it the same schedules come again
    counted.clear()
    run_state_machine_as_test(
        seed(SEED)(Schedules),
        settings=settings(
            max_examples=SCHEDULES,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
        # Left alone, most schedules would be a few steps long: too short for one thing to lead to another.
        _min_steps=15,
    )
    exits = ", ".join(f"{number} × {name}" for name, number in sorted(counted.items()) if name.startswith("exit"))
    bad_luck = ", ".join(
        f"{counted[name]} {name}" for name in ("kills", "bad writes", "evictions", "deletions", "lost nodes", "doubles")
    )
    figure = f"{counted['schedules']} schedules with {counted['pods']} pods ({bad_luck}; {exits}), "
    figure += f"{counted['complete Jobs']} Jobs Complete, none with a run missing; every run once, "
    assert counted[f"exit {STOPPED}"], "no pod was stopped after progress"
    record(
        "test_controller", f"{figure}{counted['runs done twice']} done twice with equal results (seed {SEED})", TARGET
    )


@pytest.mark.skipif(bool(why_no_pods()), reason=why_no_pods() or "runs here")
@pytest.mark.parametrize(
    "site", full([{}, {"seeds_per_pod": 1}], [{}]), ids=lambda site: "indexed" if site else "plain"
)
def test_real_pods_of_a_rendered_job_under_bad_luck_end_with_every_run_once(
    tmp_path: Path, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pods are Linux namespaces with the real program; the controller that restarts them is the model."""
    chance = random.Random(SEED)
    study = a_study(write_sentences(tmp_path / "data"))
    job, node = rendered(tmp_path, study, **site), a_node(tmp_path)
    only = ("--only", job["metadata"]["annotations"]["reinit.dev/digest"])
    monkeypatch.setenv("REINIT_GIT_COMMIT", COMMIT)
    began = time.monotonic()
    done = finished(command(study, f"file://{tmp_path}/alone", study.parent / "data", *only), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    # Bad luck comes while a pod that is let alone would be at work, however fast the machine.
    while_at_work = (time.monotonic() - began) / 2
    controller, real, fates = JobController(job["spec"]), dict[Pod, RealPod](), Counter[str]()
    bad_luck = full(6, 2)
    try:
        while not controller.is_closed:
            controller.elapse()
            for pod in controller.sync():
                real[pod] = start(job, node, index=pod.index, attempt=f"{len(real):05}")
            if (
                sum(fates.values()) < bad_luck
                and chance.random() < 0.3
                and any(pod.is_active for pod in controller.pods)
            ):
                fates["double"] += 1
                pod = controller.duplicate(next(pod for pod in controller.pods if pod.is_active))
                real[pod] = start(job, node, index=pod.index, attempt=f"{len(real):05}")
            for pod, running in real.items():
                if pod.is_deleting and pod.phase == "Running":
                    running.signal(signal.SIGTERM)
            for pod, running in real.items():
                if pod.phase == "Running":
                    if sum(fates.values()) < bad_luck:
                        time.sleep(chance.uniform(0, while_at_work))
                        fates[suffer(pod, running, chance, may_count=controller.failed < 2)] += 1
                    pod.end(running.wait())
    finally:
        for running in real.values():
            running.__exit__(None, None, None)
    assert results(f"file://{tmp_path}/results", job) == results(f"file://{tmp_path}/alone", job)
    assert controller.decided == ("SuccessCriteriaMet", "CompletionsReached")
    assert fates.total() > fates["none"], "no pod met bad luck"
    codes = ", ".join(str(pod.exit_code) for pod in controller.pods)
    bad = ", ".join(f"{number} {fate}" for fate, number in sorted(fates.items()))
    figure = f"{len(real)} real pods of {'an Indexed' if site else 'a'} Job ({bad}; exits {codes}): the same"
    record("test_controller", figure, TARGET)


def suffer(pod: Pod, running: RealPod, chance: random.Random, *, may_count: bool) -> str:
    """A fate by chance; failures that count stay within the Job's retries."""
    if running.process.poll() is not None:
        return "none"
    fate = chance.choice(["evicted", "node lost", *(["killed"] if may_count else [])])
    if fate != "killed":
        pod.is_deleting = pod.is_disrupted = True
    running.signal(signal.SIGTERM if fate == "evicted" else signal.SIGKILL)
    return fate
