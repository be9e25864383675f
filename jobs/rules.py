"""What the API server refuses in a Job, and what it takes and somebody regrets: rules about the Job itself.

Law: a rule is a small function from a Job to findings; it looks at values, never at names of files or at labels of
this project. Wrong types are the schema's business and are passed over here. Rules about the pod are in
`jobs.podrules`. Source: kubernetes/pkg/apis/batch/validation, and the recorded answers in tests/jobs/recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from jobs.finding import At, Finding
from jobs.names import (
    MOST_LABEL,
    check_labels,
    check_metadata,
    dns_label,
    dns_subdomain,
    qualified_name,
)

QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Label that hands a Job to a Kueue queue."""

MOST_RULES: Final = 20
MOST_INDEXES: Final = 100_000
POD_AFFIX: Final = len("-abcde")
KUEUE_AFFIXES: Final = len("job-") + len("-abcde")

AVAILABLE: Final = {"successPolicy": "1.31", "managedBy": "1.32"}
"""Fields of a Job that an older server has behind a switch that is off: it drops them in silence."""


@dataclass(frozen=True)
class Site:
    """What the rules need to know of the cluster."""

    version: str
    queue_resources: frozenset[str] | None = None
    """Resources that the Kueue queue covers; None where nobody said."""

    @property
    def minor(self) -> int:
        """32 of 1.32."""
        return minor(self.version)


def minor(version: str) -> int:
    """31 of 1.31."""
    return int(version.partition(".")[2])


@dataclass(frozen=True)
class Job:
    """The parts of a Job that rules ask for again and again."""

    top: At
    site: Site
    spec: At = field(init=False)
    pod: At = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", self.top["spec"])
        object.__setattr__(self, "pod", self.top.down("spec", "template", "spec"))

    @property
    def indexed(self) -> bool:
        """Whether each pod has an index."""
        return self.spec["completionMode"].text == "Indexed"

    @property
    def queue(self) -> str:
        """The Kueue queue that the Job is handed to, or nothing."""
        return self.top.down("metadata", "labels", QUEUE).text

    def containers(self) -> Iterator[At]:
        """Containers and init containers."""
        yield from self.pod["initContainers"]
        yield from self.pod["containers"]


Rule = Callable[[Job], Iterator[Finding]]


def name(job: Job) -> Iterator[Finding]:
    """The name goes into labels, pods' names and hostnames."""
    at = job.top.down("metadata", "name")
    if not at.text:
        generated = job.top.down("metadata", "generateName")
        if not generated.text:
            yield at.refused("name-missing", "The Job has no name.", "metadata.name or metadata.generateName")
        elif allowed := dns_subdomain(f"{generated.text}abcde"):
            yield generated.refused("name", "The start of the Job's name is malformed.", allowed)
        return
    if allowed := dns_subdomain(at.text):
        yield at.refused("name", "The Job's name is malformed.", allowed)
    elif len(at.text) > MOST_LABEL:
        yield at.refused(
            "name-length", "The Job's name becomes a label of its pods.", "at most 63 characters", _length(at)
        )
    elif "." in at.text:
        allowed = "a-z, 0-9 and -, so that it is a DNS label"
        yield at.warning("name-dot", "The Job's name is used in pods' names and hostnames, and has a dot.", allowed)


def name_room(job: Job) -> Iterator[Finding]:
    """Controllers append to the name; what no longer fits is cut or refused."""
    at = job.top.down("metadata", "name")
    if not at.text or len(at.text) > MOST_LABEL:
        return
    index = len(f"-{max(0, (job.spec['completions'].number or 1) - 1)}") if job.indexed else 0
    if len(at.text) + index > MOST_LABEL:
        allowed = f"at most {MOST_LABEL - index} characters, so that the last index still fits in a DNS label"
        yield at.refused("indexed-name-length", "Pods of this Job could not be created.", allowed, _length(at))
        return
    affixes = max(index + POD_AFFIX, KUEUE_AFFIXES if job.queue else 0)
    if len(at.text) + affixes > MOST_LABEL:
        allowed = f"at most {MOST_LABEL - affixes} characters: {affixes} more are appended, and a label holds 63"
        problem = "The Job's name leaves no room for what is appended; pods' names are cut."
        yield at.warning("name-room", problem, allowed, _length(at))


def _length(at: At) -> str:
    return f"shorten it by hand or hash its end; it has {len(at.text)} characters"


def metadata(job: Job) -> Iterator[Finding]:
    """Namespace, labels and annotations of the Job and of its pods."""
    namespace = job.top.down("metadata", "namespace")
    if namespace.text and (allowed := dns_label(namespace.text)):
        yield namespace.refused("namespace", "The namespace is malformed.", allowed)
    yield from check_metadata(job.top["metadata"])
    yield from check_metadata(job.spec.down("template", "metadata"))
    yield from check_labels(job.pod["nodeSelector"])


def counts(job: Job) -> Iterator[Finding]:
    """Numbers of a Job are not negative."""
    names = ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "backoffLimitPerIndex")
    for key in (*names, "maxFailedIndexes", "ttlSecondsAfterFinished"):
        at = job.spec[key]
        if at.number is not None and at.number < 0:
            yield at.refused("negative", "The number must not be negative.", "0 or more")


def indexes(job: Job) -> Iterator[Finding]:
    """What belongs to the Indexed mode, and what that mode needs."""
    mode, completions, parallelism = (job.spec[key] for key in ("completionMode", "completions", "parallelism"))
    if mode.present and mode.text not in {"Indexed", "NonIndexed"}:
        yield mode.refused("completion-mode", "There is no such completion mode.", "Indexed, NonIndexed")
    if job.indexed and completions.number is None:
        yield completions.refused("indexed-completions", "An Indexed Job says how many indexes it has.", "a number")
    if job.indexed and (parallelism.number or 0) > MOST_INDEXES:
        yield parallelism.refused("indexed-parallelism", "Too many pods at once.", f"at most {MOST_INDEXES:,}")
    if not job.indexed:
        for key in ("backoffLimitPerIndex", "successPolicy"):
            if (at := job.spec[key]).present:
                got = f"{at.value} with completionMode {mode.text or 'NonIndexed'}"
                yield at.refused("indexed-only", f"{key} needs indexes.", "completionMode: Indexed", got=got)
    failed = job.spec["maxFailedIndexes"]
    if failed.present and not job.spec["backoffLimitPerIndex"].present:
        yield failed.refused("max-failed-indexes", "maxFailedIndexes counts indexes.", "with backoffLimitPerIndex only")
    elif failed.number is not None and failed.number > (completions.number or MOST_INDEXES):
        yield failed.refused("max-failed-indexes", "More than there are.", f"at most {completions.value} (completions)")


def restart_policy(job: Job) -> Iterator[Finding]:
    """A Job's pods end; with rules about failures they must not restart in place."""
    at = job.pod["restartPolicy"]
    if at.text not in {"OnFailure", "Never"}:
        yield at.refused("restart-policy", "A Job's pods end.", "OnFailure, Never", "the default, Always, is refused")
        return
    for key in ("podFailurePolicy", "backoffLimitPerIndex"):
        if job.spec[key].present and at.text != "Never":
            yield at.refused("restart-policy", f"{key} needs pods that do not restart in place.", "Never")


def replacement_policy(job: Job) -> Iterator[Finding]:
    """When a pod that ends is replaced."""
    at = job.spec["podReplacementPolicy"]
    allowed = ["Failed"] if job.spec["podFailurePolicy"].present else ["Failed", "TerminatingOrFailed"]
    if at.present and at.text not in allowed:
        why = " beside a podFailurePolicy" if len(allowed) == 1 else ""
        yield at.refused("replacement-policy", f"This podReplacementPolicy is not possible{why}.", ", ".join(allowed))


def failure_policy(job: Job) -> Iterator[Finding]:
    """Each rule of a podFailurePolicy has an action and one condition."""
    rules = job.spec.down("podFailurePolicy", "rules")
    if len(list(rules)) > MOST_RULES:
        got = f"{len(list(rules))} rules"
        yield rules.refused("failure-rules", "Too many rules.", f"at most {MOST_RULES}", got=got)
    for rule in rules:
        yield from _action(rule["action"], job)
        codes, conditions = rule["onExitCodes"], rule["onPodConditions"]
        if codes.present == bool(conditions.value):
            got = "both" if codes.present else "neither"
            yield rule.refused("failure-rule", "A rule has one condition.", "onExitCodes or onPodConditions", got=got)
        if codes.present:
            yield from _exit_codes(codes, job)
        for condition in conditions:
            yield from _pod_condition(condition)


def _action(at: At, job: Job) -> Iterator[Finding]:
    actions = ("Count", "FailIndex", "FailJob", "Ignore")
    if at.present and at.text not in actions:
        yield at.refused("failure-action", "There is no such action.", ", ".join(actions))
    if at.text == "FailIndex" and not job.spec["backoffLimitPerIndex"].present:
        allowed = "Count, FailJob, Ignore; FailIndex together with backoffLimitPerIndex"
        yield at.refused("fail-index", "FailIndex needs backoffLimitPerIndex.", allowed)


def _exit_codes(at: At, job: Job) -> Iterator[Finding]:
    operator, values = at["operator"], at["values"]
    if operator.present and operator.text not in {"In", "NotIn"}:
        yield operator.refused("exit-codes-operator", "There is no such operator.", "In, NotIn")
    known = [container["name"].text for container in job.containers()]
    container = at["containerName"]
    if container.present and container.text not in known:
        yield container.refused("exit-codes-container", "No container has this name.", ", ".join(known))
    numbers = [value.number for value in values if value.number is not None]
    if values.present and not numbers:
        yield values.refused("exit-codes-empty", "No exit codes.", "1 to 255 codes")
    if len(numbers) > 255:
        yield values.refused("exit-codes-many", "Too many exit codes.", "at most 255", got=f"{len(numbers)} codes")
    for index, value in enumerate(values):
        if value.number == 0 and operator.text == "In":
            yield value.refused("exit-codes-zero", "0 is success, and no failure to act on.", "1 to 255 with In")
        if value.number is not None and value.number in numbers[:index]:
            yield value.refused("exit-codes-duplicate", "An exit code stands twice.", "each code once")
    if numbers != sorted(numbers):
        allowed = f"ascending: {sorted(set(numbers))}"
        yield values.refused("exit-codes-order", "Exit codes must be in order.", allowed)


def _pod_condition(at: At) -> Iterator[Finding]:
    kind, status = at["type"], at["status"]
    if kind.present and (allowed := qualified_name(kind.text)):
        yield kind.refused("pod-condition-type", "The type of a condition is malformed.", allowed)
    if not status.present:
        problem = 'The server fills in "True"; the object it keeps differs from the file.'
        yield status.warning("pod-condition-status", problem, "True, False, Unknown", 'write status: "True"')
    elif status.text not in {"True", "False", "Unknown"}:
        yield status.refused("pod-condition-status", "There is no such status.", "True, False, Unknown")


def success_policy(job: Job) -> Iterator[Finding]:
    """Each rule of a successPolicy names indexes or how many."""
    policy = job.spec["successPolicy"]
    rules = policy["rules"]
    if policy.present and not 1 <= len(list(rules)) <= MOST_RULES:
        got = f"{len(list(rules))} rules"
        yield rules.refused("success-rules", "The number of rules is wrong.", f"1 to {MOST_RULES}", got=got)
    for rule in rules:
        count = rule["succeededCount"]
        if not count.present and not rule["succeededIndexes"].present:
            yield rule.refused("success-rule", "A rule needs a condition.", "succeededIndexes, succeededCount")
        most = job.spec["completions"].number or MOST_INDEXES
        if count.number is not None and not 1 <= count.number <= most:
            yield count.refused("success-count", "The count is impossible.", f"1 to {most} (completions)")


def selector(job: Job) -> Iterator[Finding]:
    """The server makes the selector, unless told that it is made by hand."""
    at = job.spec["selector"]
    if not job.spec["manualSelector"].value:
        if at.present:
            remedy = "leave spec.selector out"
            yield at.warning("selector", "The server makes a Job's selector itself.", "nothing", remedy)
        return
    labels = job.spec.down("template", "metadata", "labels")
    if not at.present:
        yield at.refused("selector", "With manualSelector the selector is required.", "a selector")
    for key, value in at["matchLabels"].items():
        if labels[key].value != value.value:
            allowed = f"a label of spec.template.metadata.labels, where it is {labels[key].value!r}"
            yield value.refused("selector", "The selector does not match the template's labels.", allowed)


def deadline(job: Job) -> Iterator[Finding]:
    """A Job's deadline counts the time that its pods wait for a node; a pod's does not."""
    at, pods = job.spec["activeDeadlineSeconds"], job.pod["activeDeadlineSeconds"]
    if at.present and not job.queue:
        problem = "The Job's deadline also counts the time that its pods wait for a node."
        remedy = "move it to spec.template.spec, where it does not, or let a queue suspend the Job"
        yield at.warning("job-deadline", problem, f"with the label {QUEUE} only", remedy)
    if pods.number is not None and not 1 <= pods.number < 2**31:
        yield pods.refused("pod-deadline", "A pod's deadline is out of range.", f"1 to {2**31 - 1}")


def queue(job: Job) -> Iterator[Finding]:
    """A queue suspends and resumes by itself; it admits only what it covers."""
    label = job.top.down("metadata", "labels", QUEUE)
    suspend = job.spec["suspend"]
    if label.present and suspend.present:
        problem = "The queue sets suspend; written here too, each apply takes it back."
        yield suspend.warning("queue-suspend", problem, f"nothing, with the label {QUEUE}", "leave suspend out")
    covered = job.site.queue_resources
    if not label.present or covered is None:
        return
    for container in job.containers():
        limits, requests = (container.down("resources", part) for part in ("limits", "requests"))
        # A limit without a request is the request.
        for resource, at in {**dict(limits.items()), **dict(requests.items())}.items():
            if resource not in covered:
                problem = f"The queue {label.text} does not cover {resource}: the Job would never be admitted."
                yield at.refused("queue-resources", problem, ", ".join(sorted(covered)), got=resource)


def availability(job: Job) -> Iterator[Finding]:
    """Fields that this version has only behind a switch that is off."""
    for key, since in AVAILABLE.items():
        at = job.spec[key]
        if at.present and job.site.minor < minor(since):
            problem = f"Kubernetes {job.site.version} drops {key} in silence unless an alpha feature is switched on."
            yield at.warning("availability", problem, f"Kubernetes {since} or newer")


def managed_by(job: Job) -> Iterator[Finding]:
    """Who else may run the Job is a name with a domain."""
    at = job.spec["managedBy"]
    if at.present and ("/" not in at.text or len(at.text) > MOST_LABEL or dns_subdomain(at.text.partition("/")[0])):
        yield at.refused("managed-by", "managedBy is malformed.", "domain/name of at most 63 characters")


RULES: Final[tuple[Rule, ...]] = (
    name,
    name_room,
    metadata,
    counts,
    indexes,
    restart_policy,
    replacement_policy,
    failure_policy,
    success_policy,
    selector,
    deadline,
    queue,
    availability,
    managed_by,
)
"""Every rule about the Job itself."""
