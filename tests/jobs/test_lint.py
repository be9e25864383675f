"""Manifests as a cluster would judge them: what a real server answered, and each answer again on Jobs of our own."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.cell import Epochs, Model, Permute, Probe, Recipe, Reinit, Treatment, Truncate
from jobs.checks import lint_job
from jobs.cluster import Cluster
from jobs.errors import SpecError
from jobs.finding import Finding, Level
from jobs.lint import known_version, lint_paths, lint_text
from jobs.manifest import job, to_yaml
from jobs.rules import QUEUE, Site
from jobs.schemas import VERSIONS
from jobs.tasks import GLUE
from tests.make import a_cell

Manifest = dict[str, Any]
REJECTIONS = Path(__file__).parent / "recorded" / "rejections"
IMAGE = "registry.example/reinit@sha256:" + "0" * 64
SITE = Site("1.32")

RECORDED = {
    "backofflimitperindex-nonindexed": "indexed-only",
    "bad-label-value": "label-value",
    "bad-label-value-template": "label-value",
    "duplicate-env": "env-duplicate",
    "env-value-number": "wrong-type",
    "exit-codes-duplicate": "exit-codes-duplicate",
    "exit-codes-unknown-container": "exit-codes-container",
    "exit-codes-unsorted": "exit-codes-order",
    "exit-codes-zero-in": "exit-codes-zero",
    "failindex-without-backofflimitperindex": "fail-index",
    "failure-policy-with-onfailure": "restart-policy",
    "gpu-fraction": "whole-devices",
    "gpu-limit-differs": "device-limit",
    "gpu-request-without-limit": "device-limit",
    "indexed-name-too-long": "indexed-name-length",
    "label-value-too-long": "label-value",
    "limit-below-request": "request-above-limit",
    "mount-without-volume": "mount-volume",
    "name-63-accepted": "name-room",
    "name-bad-characters": "name",
    "name-too-long": "name-length",
    "name-with-dot": "name-dot",
    "pod-condition-without-status": "pod-condition-status",
    "psa-warning": "pod-security",
    "replacement-policy-with-failure-policy": "replacement-policy",
    "restart-policy-always": "restart-policy",
    "restart-policy-missing": "restart-policy",
    "unknown-field": "unknown-field",
}
"""The rule that each recorded manifest breaks."""

ACCEPTED = {"duplicate-env", "name-63-accepted", "name-with-dot", "pod-condition-without-status", "psa-warning"}
"""What the server took, silently or with a warning."""

NEEDS_THE_SERVER = {"name-taken", "namespace-missing", "template-changed"}
"""What only the server's state tells."""

OTHER_FIELD = {
    "bad-label-value-template": "spec.template.metadata.labels",
    "name-too-long": "metadata.name",
    "unknown-field": "spec.backoffLimitt",
    "env-value-number": "spec.template.spec.containers[0].env[0].value",
}
"""Where our path is another: the server leaves out `metadata`, blames a label made of the name, or names none."""


def recorded(case: str) -> Manifest:
    found: Manifest = yaml.safe_load((REJECTIONS / f"{case}.yaml").read_text(encoding="utf-8"))
    return found


def of(level: Level, found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.level is level]


def rules(found: list[Finding]) -> set[str]:
    return {each.rule for each in found}


def test_every_recorded_manifest_is_expected_here() -> None:
    assert {path.stem for path in REJECTIONS.glob("*.yaml")} == {*RECORDED, *NEEDS_THE_SERVER}


@pytest.mark.parametrize("case", sorted(set(RECORDED) - ACCEPTED))
def test_what_the_server_refused_is_refused_once_and_at_the_servers_field(case: str) -> None:
    text = (REJECTIONS / f"{case}.txt").read_text(encoding="utf-8")
    server = re.search(r"is invalid: (\S+): ", text)
    (finding,) = of(Level.REFUSED, lint_job(recorded(case), SITE))
    assert finding.rule == RECORDED[case]
    assert finding.field.startswith(OTHER_FIELD.get(case) or (server[1] if server else "?"))
    assert finding.got
    assert finding.allowed


@pytest.mark.parametrize("case", sorted(ACCEPTED))
def test_what_the_server_took_and_somebody_regrets_is_a_warning(case: str) -> None:
    found = lint_job(recorded(case), SITE)
    assert not of(Level.REFUSED, found)
    assert RECORDED[case] in rules(found)


@pytest.mark.parametrize("case", sorted(NEEDS_THE_SERVER))
def test_what_only_the_servers_state_tells_is_not_refused(case: str) -> None:
    assert not of(Level.REFUSED, lint_job(recorded(case), SITE))


@pytest.mark.parametrize("path", sorted(REJECTIONS.parent.glob("*/job.json")), ids=lambda path: path.parent.name)
def test_what_a_server_keeps_is_not_refused(path: Path) -> None:
    report = lint_paths([str(path)], SITE)
    assert report.jobs == 1
    assert not report.of(Level.REFUSED)


# ------------------------------------------------------------------------------------- the same on Jobs of our own


def ours(**site: Any) -> Manifest:
    """A rendered Job as a reader gets it, without shared parts."""
    made = job("paper", a_cell(6, 7), (1, 2, 3), Cluster(image=IMAGE, store="s3://bucket/prefix", **site))
    found: Manifest = json.loads(json.dumps(made))
    return found


BASES = {
    "one GPU": ours(),
    "eight of another make": ours(gpus=8, gpu_resource="amd.com/gpu", cache_claim="hub", memory="1.5Ti", cpu="2500m"),
    "another namespace": ours(namespace="other", ttl_seconds=None, retries=0),
}


def pod(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["template"]["spec"]
    return found


def main(manifest: Manifest) -> Manifest:
    found: Manifest = pod(manifest)["containers"][0]
    return found


def device(manifest: Manifest) -> str:
    return next(str(name) for name in main(manifest)["resources"]["limits"] if "/" in name)


def last_codes(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["podFailurePolicy"]["rules"][-1]["onExitCodes"]
    return found


def indexed(manifest: Manifest, completions: int = 1200) -> Manifest:
    return set_in(manifest["spec"], completionMode="Indexed", completions=completions, parallelism=4)


def set_in(mapping: Manifest, **values: Any) -> Manifest:
    mapping.update(values)
    return mapping


def pod_condition(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]
    return found


def succeeds(manifest: Manifest, *rules: Manifest) -> Manifest:
    return set_in(manifest["spec"], successPolicy={"rules": list(rules)})


def indexed_and_long(manifest: Manifest) -> None:
    indexed(manifest)
    manifest["metadata"]["name"] = "q" * 59


MUTATIONS: dict[str, Callable[[Manifest], Any]] = {
    "backofflimitperindex-nonindexed": lambda m: set_in(m["spec"], backoffLimitPerIndex=4),
    "bad-label-value": lambda m: set_in(m["metadata"]["labels"], team="a/b"),
    "bad-label-value-template": lambda m: set_in(m["spec"]["template"]["metadata"]["labels"], team="ends-in-"),
    "duplicate-env": lambda m: main(m)["env"].append({"name": "REINIT_STORE", "value": "s3://other"}),
    "env-value-number": lambda m: main(m)["env"].append({"name": "LEVEL", "value": 2.5}),
    "exit-codes-duplicate": lambda m: set_in(last_codes(m), values=[3, 9, 9]),
    "exit-codes-unknown-container": lambda m: set_in(last_codes(m), containerName="sidecar"),
    "exit-codes-unsorted": lambda m: set_in(last_codes(m), values=[9, 3]),
    "exit-codes-zero-in": lambda m: set_in(last_codes(m), values=[0, 7]),
    "failindex-without-backofflimitperindex": lambda m: set_in(
        m["spec"]["podFailurePolicy"]["rules"][2], action="FailIndex"
    ),
    "failure-policy-with-onfailure": lambda m: set_in(pod(m), restartPolicy="OnFailure"),
    "gpu-fraction": lambda m: [
        set_in(main(m)["resources"][part], **{device(m): "1500m"}) for part in ("requests", "limits")
    ],
    "gpu-limit-differs": lambda m: set_in(main(m)["resources"]["requests"], **{device(m): "3"}),
    "gpu-request-without-limit": lambda m: main(m)["resources"]["limits"].pop(device(m)),
    "indexed-name-too-long": indexed_and_long,
    "label-value-too-long": lambda m: set_in(m["metadata"]["labels"], team="t" * 64),
    "limit-below-request": lambda m: set_in(main(m)["resources"]["requests"], memory="1600Gi"),
    "mount-without-volume": lambda m: main(m)["volumeMounts"].append({"name": "corpus", "mountPath": "/corpus"}),
    "name-63-accepted": lambda m: set_in(m["metadata"], name="z" * 60),
    "name-bad-characters": lambda m: set_in(m["metadata"], name="sweep-7-"),
    "name-too-long": lambda m: set_in(m["metadata"], name="z" * 70),
    "name-with-dot": lambda m: set_in(m["metadata"], name="v1.2"),
    "pod-condition-without-status": lambda m: m["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0].pop(
        "status"
    ),
    "psa-warning": lambda m: main(m).pop("securityContext"),
    "replacement-policy-with-failure-policy": lambda m: set_in(m["spec"], podReplacementPolicy="TerminatingOrFailed"),
    "restart-policy-always": lambda m: set_in(pod(m), restartPolicy="Always"),
    "restart-policy-missing": lambda m: pod(m).pop("restartPolicy"),
    "unknown-field": lambda m: set_in(pod(m), activeDeadlineSecond=60),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("version", VERSIONS)
def test_our_jobs_are_clean_for_every_version(base: str, version: str) -> None:
    assert lint_job(BASES[base], Site(version)) == []


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("case", sorted(RECORDED))
def test_each_recorded_mistake_is_found_in_our_own_jobs_too(case: str, base: str) -> None:
    manifest = copy.deepcopy(BASES[base])
    MUTATIONS[case](manifest)
    found = lint_job(manifest, SITE)
    assert rules(found) == {RECORDED[case]}
    assert {each.level for each in found} == {Level.WARNING if case in ACCEPTED else Level.REFUSED}
    assert all(each.got and each.allowed and each.field for each in found)


# ------------------------------------------------------------------------------------------ what no server recorded

REFUSED: list[tuple[str, Callable[[Manifest], Any]]] = [
    ("annotations-size", lambda m: set_in(m["metadata"]["annotations"], big="x" * 262_145)),
    ("annotation-key", lambda m: set_in(m["metadata"]["annotations"], **{"a b": "c"})),
    ("completion-mode", lambda m: set_in(m["spec"], completionMode="Numbered")),
    ("ephemeral-containers", lambda m: set_in(pod(m), ephemeralContainers=[{"name": "debug", "image": IMAGE}])),
    ("exit-codes-empty", lambda m: set_in(last_codes(m), values=[])),
    ("exit-codes-many", lambda m: set_in(last_codes(m), values=list(range(1, 257)))),
    (
        "failure-rules",
        lambda m: set_in(m["spec"]["podFailurePolicy"], rules=m["spec"]["podFailurePolicy"]["rules"] * 7),
    ),
    ("hostname", lambda m: set_in(pod(m), hostname="a.b")),
    ("indexed-parallelism", lambda m: [indexed(m), set_in(m["spec"], parallelism=100_001)]),
    ("managed-by", lambda m: set_in(m["spec"], managedBy="somebody")),
    ("medium", lambda m: set_in(pod(m)["volumes"][0]["emptyDir"], medium="Disk")),
    ("pod-condition-type", lambda m: set_in(pod_condition(m), type="-")),
    ("success-count", lambda m: [indexed(m, 3), succeeds(m, {"succeededCount": 4})]),
    ("success-rule", lambda m: [indexed(m), succeeds(m, {})]),
    ("success-rules", lambda m: [indexed(m), succeeds(m)]),
    ("user-id", lambda m: set_in(pod(m)["securityContext"], runAsUser=-1)),
    ("choice", lambda m: set_in(main(m), imagePullPolicy="Sometimes")),
    ("container-name", lambda m: pod(m)["containers"].append(copy.deepcopy(main(m)))),
    ("containers", lambda m: set_in(pod(m), containers=[])),
    ("dns", lambda m: set_in(pod(m), dnsPolicy="None")),
    ("env-name", lambda m: main(m)["env"].append({"name": "A=B", "value": ""})),
    ("env-source", lambda m: main(m)["env"].append({"name": "A", "valueFrom": {}})),
    ("exit-codes-operator", lambda m: set_in(last_codes(m), operator="Is")),
    ("failure-action", lambda m: set_in(m["spec"]["podFailurePolicy"]["rules"][1], action="Retry")),
    ("failure-rule", lambda m: m["spec"]["podFailurePolicy"]["rules"].append({"action": "Count"})),
    ("file-mode", lambda m: pod(m)["volumes"].append({"name": "s", "secret": {"secretName": "s", "defaultMode": 644}})),
    ("image-missing", lambda m: main(m).pop("image")),
    ("indexed-completions", lambda m: set_in(m["spec"], completionMode="Indexed")),
    ("label-key", lambda m: set_in(m["metadata"]["labels"], **{"-a": "b"})),
    ("label-value", lambda m: set_in(pod(m), nodeSelector={"gpu": "A100 80GB"})),
    ("max-failed-indexes", lambda m: set_in(m["spec"], maxFailedIndexes=3)),
    ("mount-path", lambda m: main(m)["volumeMounts"].append({"name": "tmp", "mountPath": "/tmp"})),
    ("mount-subpath", lambda m: set_in(main(m)["volumeMounts"][0], subPath="../etc")),
    ("name-missing", lambda m: m["metadata"].pop("name")),
    ("namespace", lambda m: set_in(m["metadata"], namespace="No.")),
    ("negative", lambda m: set_in(m["spec"], backoffLimit=-1)),
    ("pod-deadline", lambda m: set_in(pod(m), activeDeadlineSeconds=0)),
    ("port", lambda m: set_in(main(m), ports=[{"containerPort": 70_000}])),
    ("privileged", lambda m: set_in(main(m)["securityContext"], privileged=True)),
    ("quantity", lambda m: set_in(main(m)["resources"]["limits"], memory="16 GB")),
    ("reference-name", lambda m: set_in(pod(m), imagePullSecrets=[{"name": "My_Secret"}])),
    ("required-field", lambda m: m["spec"].pop("template")),
    ("resource-name", lambda m: set_in(main(m)["resources"]["limits"], gpu="1")),
    ("schema", lambda m: set_in(m["spec"], backoffLimit=2**31)),
    ("schema-enum", lambda m: set_in(m, apiVersion="batch/v2")),
    ("toleration", lambda m: set_in(pod(m), tolerations=[{"key": "a", "operator": "Exists", "value": "b"}])),
    ("volume-name", lambda m: pod(m)["volumes"].append({"name": "tmp", "emptyDir": {}})),
    ("volume-source", lambda m: pod(m)["volumes"].append({"name": "other"})),
    ("wrong-type", lambda m: set_in(main(m), command="python -m reinit")),
]
WARNED: list[tuple[str, Callable[[Manifest], Any]]] = [
    ("fractional-bytes", lambda m: set_in(main(m)["resources"]["requests"], memory="100m")),
    ("group-without-user", lambda m: pod(m)["securityContext"].pop("runAsUser")),
    ("image-digest", lambda m: set_in(main(m), image="registry.example/reinit:v3")),
    ("job-deadline", lambda m: set_in(m["spec"], activeDeadlineSeconds=3600)),
    ("memory-limit", lambda m: main(m)["resources"].pop("limits") and main(m)["resources"].pop("requests")),
    ("memory-volume", lambda m: set_in(pod(m)["volumes"][1]["emptyDir"], sizeLimit="2Ti")),
    ("memory-volume", lambda m: pod(m)["volumes"][1]["emptyDir"].pop("sizeLimit")),
    ("selector", lambda m: set_in(m["spec"], selector={"matchLabels": {"a": "b"}})),
    ("service-account-token", lambda m: pod(m).pop("automountServiceAccountToken")),
    ("shell-command", lambda m: set_in(main(m), command=["/bin/bash", "-lc", "cd /x && python -m reinit"])),
    ("shell-command", lambda m: set_in(main(m), command=["bash", "-euo", "pipefail", "-c", "python -m reinit"])),
    ("shell-command", lambda m: set_in(main(m), command=["sh"], args=["-c", "python -m reinit"])),
]


def test_every_rule_has_its_mistake_in_this_file() -> None:
    folder = Path(lint_job.__code__.co_filename).parent
    sources = [
        folder / f"{name}.py" for name in ("documents", "lint", "names", "podrules", "rules", "schemas", "yamlvalues")
    ]
    named = re.compile(r'(?:refused|warning|BadDocument|_bad)\((?:\w+, )?\s*"([a-z0-9-]+)"')
    known = {rule for path in sources for rule in named.findall(path.read_text(encoding="utf-8"))}
    here = Path(__file__).read_text(encoding="utf-8")
    assert len(known) > 70
    assert not {rule for rule in known if f'"{rule}"' not in here}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("rule", "mutation"), REFUSED, ids=[f"{i}-{rule}" for i, (rule, _) in enumerate(REFUSED)])
def test_what_a_server_would_refuse_is_refused(rule: str, mutation: Callable[[Manifest], Any], base: str) -> None:
    manifest = copy.deepcopy(BASES[base])
    mutation(manifest)
    assert rule in rules(of(Level.REFUSED, lint_job(manifest, SITE)))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("rule", "mutation"), WARNED, ids=[f"{i}-{rule}" for i, (rule, _) in enumerate(WARNED)])
def test_what_somebody_would_regret_is_a_warning_alone(
    rule: str, mutation: Callable[[Manifest], Any], base: str
) -> None:
    manifest = copy.deepcopy(BASES[base])
    mutation(manifest)
    found = lint_job(manifest, SITE)
    assert rules(found) == {rule}
    assert {each.level for each in found} == {Level.WARNING}


def test_an_exec_in_the_shell_hands_signals_on() -> None:
    manifest = copy.deepcopy(BASES["one GPU"])
    main(manifest)["command"] = ["sh", "-c", "cd /x && exec python -m reinit"]
    assert lint_job(manifest, SITE) == []


# ------------------------------------------------------------------------------------------------------ Pod Security


def container_context(**values: Any) -> Callable[[Manifest], Any]:
    return lambda m: set_in(main(m)["securityContext"], **values)


def pod_context(**values: Any) -> Callable[[Manifest], Any]:
    return lambda m: set_in(pod(m)["securityContext"], **values)


VIOLATIONS: dict[str, Callable[[Manifest], Any]] = {
    "AppArmor": pod_context(appArmorProfile={"type": "Unconfined"}),
    "AppArmor annotation": lambda m: set_in(
        m["spec"]["template"]["metadata"],
        annotations={"container.apparmor.security.beta.kubernetes.io/main": "unconfined"},
    ),
    "a capability": container_context(capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]}),
    "capabilities kept": container_context(capabilities={"drop": ["NET_RAW"]}),
    "escalation": container_context(allowPrivilegeEscalation=True),
    "host IPC": lambda m: set_in(pod(m), hostIPC=True),
    "host PID": lambda m: set_in(pod(m), hostPID=True),
    "host network": lambda m: set_in(pod(m), hostNetwork=True),
    "host path": lambda m: set_in(pod(m)["volumes"][0], emptyDir=None, hostPath={"path": "/data"}),
    "host port": lambda m: set_in(main(m), ports=[{"containerPort": 80, "hostPort": 80}]),
    "host process": pod_context(windowsOptions={"hostProcess": True}),
    "init container": lambda m: set_in(
        pod(m),
        initContainers=[{**main(m), "name": "first", "securityContext": {"allowPrivilegeEscalation": False}}],
    ),
    "nfs": lambda m: set_in(pod(m)["volumes"][0], emptyDir=None, nfs={"server": "a", "path": "/"}),
    "privileged": container_context(privileged=True, allowPrivilegeEscalation=True),
    "procMount": container_context(procMount="Unmasked"),
    "root": container_context(runAsUser=0),
    "root allowed": container_context(runAsNonRoot=False),
    "root not excluded": lambda m: pod(m)["securityContext"].pop("runAsNonRoot"),
    "seccomp": lambda m: pod(m)["securityContext"].pop("seccompProfile"),
    "seccomp off": container_context(seccompProfile={"type": "Unconfined"}),
    "selinux type": pod_context(seLinuxOptions={"type": "spc_t"}),
    "selinux user": container_context(seLinuxOptions={"user": "root"}),
    "sysctl": pod_context(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_each_control_of_pod_security_restricted_is_checked(violation: str) -> None:
    manifest = copy.deepcopy(BASES["one GPU"])
    VIOLATIONS[violation](manifest)
    found = lint_job(manifest, SITE)
    assert rules(found) == {"pod-security"}
    assert all(each.level is Level.WARNING for each in found)


def test_settings_allowed_since_a_version_are_allowed_from_there_on() -> None:
    manifest = copy.deepcopy(BASES["one GPU"])
    pod_context(sysctls=[{"name": "net.ipv4.tcp_rmem", "value": "1 2 3"}])(manifest)
    assert rules(lint_job(manifest, Site("1.31"))) == {"pod-security"}
    assert lint_job(manifest, Site("1.32")) == []
    main(manifest)["livenessProbe"] = {"httpGet": {"port": 80, "host": "169.254.169.254"}}
    assert lint_job(manifest, Site("1.33")) == []
    assert rules(lint_job(manifest, Site("1.34"))) == {"pod-security"}


# --------------------------------------------------------------------------------------------- queues and versions


def test_a_queue_that_does_not_cover_a_resource_refuses_the_job() -> None:
    manifest = copy.deepcopy(BASES["one GPU"])
    site = Site("1.32", frozenset({"cpu", "memory"}))
    assert lint_job(manifest, site) == []  # in no queue
    manifest["metadata"]["labels"][QUEUE] = "research"
    (finding,) = lint_job(manifest, site)
    assert (finding.rule, finding.level) == ("queue-resources", Level.REFUSED)
    assert "nvidia.com/gpu" in finding.got
    assert finding.allowed == "cpu, memory"
    assert lint_job(manifest, Site("1.32", frozenset({"cpu", "memory", "nvidia.com/gpu"}))) == []


def test_a_queue_makes_a_deadline_harmless_and_suspend_harmful_and_the_name_shorter() -> None:
    manifest = copy.deepcopy(BASES["one GPU"])
    manifest["metadata"]["labels"][QUEUE] = "research"
    manifest["spec"]["activeDeadlineSeconds"] = 60
    assert lint_job(manifest, SITE) == []
    manifest["spec"]["suspend"] = True
    assert rules(lint_job(manifest, SITE)) == {"queue-suspend"}
    del manifest["spec"]["suspend"]
    manifest["metadata"]["name"] = "a" * 53
    assert lint_job(manifest, SITE) == []
    manifest["metadata"]["name"] = "a" * 54
    assert rules(lint_job(manifest, SITE)) == {"name-room"}


def test_a_field_that_a_version_drops_in_silence_is_a_warning_and_one_that_it_lacks_is_refused() -> None:
    manifest = copy.deepcopy(BASES["one GPU"])
    indexed(manifest)
    manifest["spec"]["successPolicy"] = {"rules": [{"succeededCount": 3}]}
    assert rules(lint_job(manifest, Site("1.30"))) == {"availability"}
    assert lint_job(manifest, Site("1.31")) == []
    del manifest["spec"]["successPolicy"]
    pod(manifest)["resources"] = {"limits": {"memory": "1Gi"}}
    (finding,) = lint_job(manifest, Site("1.31"))
    assert finding.rule == "unknown-field"
    assert "1.32" in finding.remedy


@pytest.mark.parametrize("text", ["1.30", "v1.37", "1.32.4", "v1.33.0"])
def test_a_version_is_read_with_or_without_v_and_patch(text: str) -> None:
    assert known_version(text) in VERSIONS


@pytest.mark.parametrize("text", ["1.29", "1.38", "", "latest", "2"])
def test_an_unknown_version_is_refused_with_those_known(text: str) -> None:
    with pytest.raises(SpecError, match=r"1\.37"):
        known_version(text)


# ------------------------------------------------------------------------------------------------- whatever we render

layers = st.sets(st.integers(0, 47)).map(lambda found: tuple(sorted(found)))
treatments: st.SearchStrategy[Treatment] = st.one_of(
    st.builds(
        Reinit,
        layers=layers.filter(bool),
        keep_layernorm=st.booleans(),
        lr_scale=st.floats(1e-6, 1e6),
        pooler=st.sampled_from(["keep", "redraw"]),
    ),
    st.permutations(range(48)).map(lambda order: Permute(order=tuple(order))),
    st.builds(Probe, depth=st.integers(1, 48), fit=st.sampled_from(["recipe", "converged"])),
    st.builds(Truncate, depth=st.integers(1, 48)),
)
clusters = st.builds(
    Cluster,
    image=st.just(IMAGE),
    store=st.sampled_from(["s3://bucket", "s3://bucket/a/b"]),
    namespace=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
    gpus=st.integers(0, 16),
    gpu_resource=st.sampled_from(["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.5gb"]),
    cpu=st.sampled_from(["1", "0.5", "2500m", "64"]),
    memory=st.sampled_from(["4Gi", "1.5Ti", "17179869184", "20G"]),
    shm=st.sampled_from(["64Mi", "1Gi", "4000M"]),
    retries=st.integers(0, 100),
    ttl_seconds=st.none() | st.integers(1, 10**6),
    cache_claim=st.none() | st.just("hub-cache"),
    # Names that a site may take: the pod's own, and those of secrets, are refused in `env`.
    env=st.dictionaries(st.from_regex(r"SITE_[A-Z0-9_]{0,9}", fullmatch=True), st.text(max_size=20), max_size=3),
)


@settings(deadline=None, max_examples=60)
@given(
    study=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True),
    treatment=treatments,
    size=st.integers(1, 60_000),
    seeds=st.integers(1, 30),
    site=clusters,
    rate=st.floats(1e-9, 1.0),
)
def test_whatever_is_rendered_is_clean_for_every_version(
    study: str, treatment: Treatment, size: int, seeds: int, site: Cluster, rate: float
) -> None:
    cell = a_cell(
        model=Model(name="some/model", revision="0" * 40, layers=48),
        task=GLUE["sst2"],
        treatment=treatment,
        size=size,
        recipe=Recipe(duration=Epochs(epochs=1), learning_rate=rate),
    )
    manifest = job(study, cell, range(1, seeds + 1), site)
    for version in VERSIONS:
        assert lint_job(manifest, Site(version)) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), value=JSON)
def test_no_value_anywhere_makes_a_rule_fail(data: st.DataObject, value: Any) -> None:
    manifest = copy.deepcopy(BASES["one GPU"])
    place: Any = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 5)) == 0:
            place[key] = value
            break
        place = inner
    for finding in lint_job(manifest, SITE):
        assert str(finding)
        json.dumps(finding.as_dict())


# --------------------------------------------------------------------------------------------------- files and folders


def test_a_clean_stream_counts_jobs_and_skips_other_kinds() -> None:
    other = "apiVersion: v1\nkind: ConfigMap\n---\n\n---\nkind: Job\napiVersion: batch.volcano.sh/v1alpha1\n"
    report = lint_text(to_yaml([BASES["one GPU"]]) + "---\n" + other, "x.yaml", SITE)
    assert (report.jobs, report.skipped, report.findings) == (1, {"ConfigMap": 1, "Job": 1}, [])


def test_lists_and_json_are_unfolded() -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [BASES["one GPU"], BASES["eight of another make"]]}
    for text in (json.dumps(listed), yaml.safe_dump(listed), json.dumps(BASES["one GPU"]) * 2):
        assert lint_text(text, "x", SITE).jobs == 2


def test_a_finding_says_file_line_document_and_job(tmp_path: Path) -> None:
    manifest = copy.deepcopy(BASES["one GPU"])
    main(manifest)["env"][2]["value"] = 7
    text = to_yaml([BASES["eight of another make"], manifest])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "jobs.yml").write_text(text, encoding="utf-8")
    (finding,) = lint_paths([str(tmp_path)], SITE).findings
    line = text.splitlines()[(finding.line or 0) - 1]
    assert line.strip() == "value: 7"
    assert finding.document == 2
    assert finding.name == f"reinit/{manifest['metadata']['name']}"
    assert "sub/jobs.yml" in finding.where
    assert str(finding).splitlines()[2:] == [
        "  field:    spec.template.spec.containers[0].env[2].value",
        "  got:      7",
        "  allowed:  string",
        "  do:       put the value in quotes: YAML read it as another type",
    ]


def test_two_jobs_of_one_name_are_a_warning() -> None:
    report = lint_text(to_yaml([BASES["one GPU"]] * 2), "x.yaml", SITE)
    assert rules(report.findings) == {"name-twice"}


BILLIONS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{here}: &{here} [{','.join([f'*{above}'] * 9)}]\n" for above, here in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Nine lines that stand for nine to the ninth values."""


@pytest.mark.parametrize(
    ("text", "rule", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "duplicate-key", 3),
        ('{"a": 1, "a": 2}', "duplicate-key", None),
        ("a: [1, 2\nb: 3\n", "yaml-syntax", 2),
        ("kind: Job\n", "object", 1),
        ("- a\n- b\n", "object", 1),
        ("just text\n", "object", 1),
        ("a: !!python/object:os.system x\n", "yaml-tag", 1),
        ("a: &a [*a]\n", "too-large", 1),
        ("a: .nan\n", "not-finite", 1),
        ("a:\n  <<: [1]\n", "yaml-merge", 2),
        ("? [a]\n: b\n", "yaml-key", 1),
        (BILLIONS, "too-large", None),
        ("\x00", "yaml-syntax", None),
    ],
)
def test_what_cannot_be_read_is_a_finding(text: str, rule: str, line: int | None) -> None:
    (finding,) = lint_text(text, "x.yaml", SITE).findings
    assert (finding.level, finding.rule) == (Level.REFUSED, rule)
    assert line is None or finding.line == line


def test_bytes_that_are_not_text_are_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
    (finding,) = lint_paths([str(tmp_path / "a.yaml")], SITE).findings
    assert (finding.rule, finding.line) == ("utf-8", 2)


def test_what_stands_above_a_syntax_error_is_still_checked() -> None:
    report = lint_text(to_yaml([BASES["one GPU"]]) + "---\na: [\n", "x.yaml", SITE)
    assert report.jobs == 1
    assert rules(report.findings) == {"yaml-syntax"}
    assert report.findings[0].document == 2


@settings(deadline=None, max_examples=300)
@given(text=st.one_of(st.text(max_size=40), st.text(alphabet="{}[]&*!<>:-?\"'|%@`,#\n ab10.e~", max_size=40)))
def test_no_text_ends_the_check(text: str) -> None:
    for each in (
        text,
        f'{{"kind": "Job", "apiVersion": "batch/v1", "spec": {text}',
        f"kind: Job\napiVersion: batch/v1\n{text}",
    ):
        assert all(map(str, lint_text(each, "x.yaml", SITE).findings))


@pytest.mark.parametrize(
    "value", ['"\\ud800"', "1e400", "-1e400", "1" * 50, "1" * 5000, "[" * 5000, "NaN", "1e999999999", '"\\u0000"']
)
def test_values_that_no_program_likes_are_findings(value: str) -> None:
    for text in (
        f'{{"kind": "Job", "apiVersion": "batch/v1", "spec": {{"suspend": {value}}}}}',
        f"kind: Job\napiVersion: batch/v1\nspec: {{suspend: {value}}}\n",
    ):
        findings = lint_text(text, "x.json", SITE).findings
        assert of(Level.REFUSED, findings)
        assert all(map(str, findings))


@pytest.mark.parametrize("bare", ["y", "on", "No", "1e5", "0x10", "1_000", "012", "~", ".5"])
def test_bare_values_that_kubectl_reads_as_another_type_are_refused(bare: str) -> None:
    text = to_yaml([BASES["one GPU"]]).replace('value: "s3://bucket/prefix"', f"value: {bare}")
    found = lint_text(text, "x.yaml", SITE).findings
    assert rules(found) == (set() if bare == "~" else {"wrong-type"})


def test_a_terminal_is_not_commanded_by_a_manifest() -> None:
    manifest = copy.deepcopy(BASES["one GPU"])
    manifest["metadata"]["labels"]["evil"] = "\x1b[2J\n"
    (finding,) = lint_job(manifest, SITE)
    assert "\x1b" not in str(finding)


def test_a_path_that_is_not_there_or_holds_nothing_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(SpecError, match="expected"):
            lint_paths([str(path)], SITE)


def test_a_file_without_objects_is_passed_over_in_a_folder_and_refused_by_name(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("image: a\n", encoding="utf-8")
    assert lint_paths([str(tmp_path)], SITE).findings == []
    assert rules(lint_paths([str(values)], SITE).findings) == {"object"}


def test_a_kustomization_beside_the_jobs_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text(to_yaml([BASES["one GPU"]]), encoding="utf-8")
    (tmp_path / "kustomization.yaml").write_text("resources: [jobs.yaml]\n", encoding="utf-8")
    report = lint_paths([str(tmp_path)], SITE)
    assert (report.jobs, report.findings, dict(report.skipped)) == (1, [], {"Kustomization": 1})
