"""`Cluster`: what a site decides, and nothing of the experiment.

Law: no field here can move a score, so none enters a digest; a new image or queue makes new Jobs, never new cells.
Everything here ends as text in a manifest that many people may read: secrets are named, never held.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import unquote

from pydantic import Field, StringConstraints, model_validator

from jobs.backends import ALLOWED, is_store
from jobs.price import PRICE
from jobs.shown import SECRET_NAME, USER_IN_URL
from jobs.spec import validated
from jobs.tasks import Frozen
from jobs.yamlfile import read_yaml

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""Name of an object that may hold dots: a secret, a claim, a priority class, a service account, a queue."""
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""A Kubernetes resource quantity, for example `500m` or `16Gi`."""
LabelKey = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
    ),
]
"""Key of a label or annotation, or name of a resource: an optional DNS prefix, a slash, a name."""
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Folder = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$")]
"""An absolute path inside the container, without `..` and without a slash at its end."""
RelativeFolder = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]

IMAGE: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}$"
"""An image by digest. It begins with no dash, so that no command takes it for an option."""
CACHE: Final = "/cache"
"""Where the hub cache is mounted."""
TMP: Final = "/tmp"  # noqa: S108  a path inside the container
SHM: Final = "/dev/shm"  # noqa: S108  the same

OUR_LABELS: Final = ("app.kubernetes.io/", "reinit.dev/", "kueue.x-k8s.io/queue-name")
"""Prefixes of keys that the manifest writes itself."""
OUR_VARIABLES: Final = frozenset(
    f"REINIT_{name}"
    for name in (
        *("CELLS", "SEEDS", "SEEDS_PER_POD", "STORE", "PLACES", "IMAGE", "DEVICE", "GPUS", "THREADS", "POD"),
        *("GRACE_SECONDS", "PARENT"),
    )
)
"""Variables that are the pod's contract; a site that sets one would run something else than the manifest says."""
MOST_AMOUNT: Final = 2.0**60
"""No machine has so many bytes or cores: a larger number is a slip, and the API server would refuse it."""
Seconds = Annotated[int, Field(ge=1, le=2**31 - 1)]

_BYTES: Final = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class Toleration(Frozen):
    """A taint that pods put up with, as in a pod's `tolerations`."""

    key: LabelKey | None = None
    """Key of the taint; None, with `operator: Exists`, stands for every taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether any value of the taint is meant, or one."""
    value: LabelValue | None = None
    """Value of the taint, with `operator: Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """None stands for every effect."""
    seconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """How long a pod stays on a node after the taint came, with `effect: NoExecute`; None is for ever."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.value is not None) != (self.operator == "Equal"):
            raise ValueError("a toleration has a `value` exactly with `operator: Equal`")
        if self.key is None and self.operator == "Equal":
            raise ValueError("a toleration without a `key` has `operator: Exists`")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("a toleration has `seconds` only with `effect: NoExecute`")
        return self


class Secret(Frozen):
    """A Secret of the namespace, mounted read-only as files; its content never appears in a manifest.

    For S3 credentials: a Secret with the key `credentials` that holds an AWS credentials file, mounted at
    `/secrets/s3`, and `AWS_SHARED_CREDENTIALS_FILE: /secrets/s3/credentials` in `env`.
    """

    name: DnsName
    """Name of the Secret; it has to be there."""
    path: Folder
    """Folder that its files appear in."""
    keys: dict[FileName, FileName] = Field(default_factory=dict)
    """Key of the Secret to name of the file; none stands for every key under its own name."""


class DataVolume(Frozen):
    """A persistent volume claim with models or data, mounted read-only; `places` names folders below `path`."""

    claim: DnsName
    """Name of the claim; it has to be there."""
    path: Folder
    """Folder that it appears in."""
    sub_path: RelativeFolder | None = None
    """Folder of the volume that is mounted; None is its root."""


class Cluster(Frozen):
    """One site. Read from the file that `--cluster` names; `k8s/cluster.yaml` shows every field."""

    image: Annotated[str, StringConstraints(pattern=IMAGE)]
    """Container image by digest, `registry/name@sha256:...`: a tag may change between two pods of one study."""
    image_pull_policy: Literal["Always", "IfNotPresent"] = "Always"
    """`Always` asks the registry whether this namespace may use the image, and transfers nothing that the node has;
    `IfNotPresent` also starts where the registry cannot be reached."""
    image_pull_secret: DnsName | None = None
    """Secret of type `kubernetes.io/dockerconfigjson` with access to a private registry."""
    store: Annotated[str, StringConstraints(pattern=r"^(s3://[^/\s]+(/\S*)?|file:///\S+)$")]
    """Where results go: `s3://bucket/prefix`, or `file:///path`, a folder that `store_claim` is mounted at."""
    store_claim: DnsName | None = None
    """Persistent volume claim (ReadWriteMany) of a `file://` store, mounted read-write at the store's path."""
    namespace: DnsLabel = "reinit"
    """Namespace of the Jobs; it has to be there."""
    service_account: DnsName = "reinit"
    """Service account of the pods. Workload identity (IRSA and its like) is an annotation of this account, made once
    by the site, for example `eks.amazonaws.com/role-arn`; the pods then find credentials by themselves. The
    Kubernetes API token is never mounted."""
    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] = 10_001
    """Numeric user and group of the container, and group of its volumes; scanners ask for at least 10,000."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs of one pod, one process each; 0 runs on the CPU. A cell's batch size must divide by it."""
    gpu_resource: LabelKey = "nvidia.com/gpu"
    """Resource that counts GPUs, as the node's device plugin names it."""
    gpu_type: LabelValue | None = None
    """Model of the GPU, a node selector on `nvidia.com/gpu.product`, as NVIDIA's feature discovery labels nodes; where
    nodes carry another label, use `node_selector`. `reinit plan` estimates for it."""
    gpu_hour_price: Annotated[str, StringConstraints(pattern=PRICE)] | None = None
    """What a GPU costs for an hour, `2.50 EUR`, for `reinit plan`; it is in no manifest. None prints no money."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that pods put up with; GPU nodes are often tainted with `nvidia.com/gpu`."""
    priority_class: DnsName | None = None
    """PriorityClass of the pods; None is the cluster's default."""
    queue: DnsName | None = None
    """Kueue LocalQueue of the namespace, set as the label `kueue.x-k8s.io/queue-name` and in no other way: Kueue's
    webhook suspends the Job and Kueue starts it. Every resource asked for must be covered by the queue."""
    cpu: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?m?$")] = "4"
    """Cores of one pod, `4` or `4000m`; its processes share them as threads. Requests equal limits."""
    memory: Quantity = "16Gi"
    """Memory of one pod, /dev/shm counted in: what lies there is charged to the container."""
    shm: Quantity = "1Gi"
    """Size of /dev/shm, in memory; ranks on several GPUs exchange data there."""
    scratch: Quantity = "10Gi"
    """Size of /tmp, on the node's disk; a pod that writes more is evicted."""
    ephemeral_storage: Quantity | None = None
    """Request and limit of `ephemeral-storage` (/tmp and logs). Unset by default: a Kueue queue that does not cover
    this resource never admits the Job. Some scanners and quotas ask for it; then at least `scratch`."""
    deadline_seconds: Seconds | None = None
    """Longest life of one pod on its node, `activeDeadlineSeconds` of the pod: it also ends a pod whose image or secret
    is missing, and does not run while a pod waits for a GPU. Each end by it counts as a failure. Unset by default."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """Failures that a Job, or each index of an Indexed Job, may have before it is given up; evictions and stops after
    progress are not counted."""
    grace_seconds: Seconds = 120
    """From SIGTERM to SIGKILL: time to reach a step's end, to keep a checkpoint there and to record why."""
    ttl_seconds: Seconds | None = 604_800
    """How long a finished Job stays visible; None keeps it."""
    seeds_per_pod: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Seeds that one pod runs, one after another in one warm process; None is all of a cell. A smaller number makes an
    Indexed Job whose pods run side by side: sooner done, and each loads libraries, rows and weights anew."""
    places: dict[str, str] = Field(default_factory=dict)
    """Folders inside the container for names of models and data, packages among them: `package:NAME` is a model's."""
    cache_claim: DnsName | None = None
    """Persistent volume claim with a hub cache (`hub/` as HF_HOME has it), mounted read-only at /cache; pods then ask
    no hub (HF_HUB_OFFLINE=1). It serves models and data sets; `reinit doctor STUDY` fills it (`k8s/cache-fill`)."""
    data_volumes: tuple[DataVolume, ...] = ()
    """Claims with models and data for `places`, mounted read-only."""
    secrets: tuple[Secret, ...] = ()
    """Secrets mounted as files."""
    env: dict[VariableName, str] = Field(default_factory=dict)
    """More environment for the container, readable by whoever can read the Job: no secrets."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """More labels for Job and pod, for example a cost centre."""
    annotations: dict[LabelKey, str] = Field(default_factory=dict)
    """More annotations for Job and pod."""

    @property
    def store_folder(self) -> str | None:
        """Folder of a `file://` store, None for any other."""
        if not self.store.startswith("file://"):
            return None
        return unquote(self.store.removeprefix("file://")).rstrip("/")

    @property
    def mount_paths(self) -> list[str]:
        """Every folder of the container that something is mounted at."""
        return [
            *(TMP, SHM),
            *([CACHE] if self.cache_claim else []),
            *([self.store_folder] if self.store_folder is not None else []),
            *(volume.path for volume in self.data_volumes),
            *(secret.path for secret in self.secrets),
        ]

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        for mistake in chain(_mounts(self), _sizes(self), _names(self)):
            raise ValueError(mistake)
        return self


def _mounts(site: Cluster) -> Iterator[str]:
    """What is wrong with the store's volume and with where things are mounted."""
    folder = site.store_folder
    if (folder is None) != (site.store_claim is None):
        yield "`store_claim` belongs to a file:// store, and a file:// store needs one: a pod's own disk is lost"
    if folder is not None and (not folder.strip("/") or ".." in folder.split("/") or ":" in folder):
        yield f"a file:// store is a folder below the root, without colons, got {site.store}"
    if not is_store(site.store):
        # Not shown: what stands before an @ may be a password.
        yield f"`store` is not the URL of a store; expected {ALLOWED}, without a user"
    for one, other in combinations(site.mount_paths, 2):
        if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
            yield f"two things cannot be mounted at {one} and {other}: give each a folder of its own"


def _sizes(site: Cluster) -> Iterator[str]:
    """What is wrong with amounts."""
    for field in ("cpu", "memory", "shm", "scratch", "ephemeral_storage"):
        if not 0 < amount(getattr(site, field) or "1") < MOST_AMOUNT:
            yield f"`{field}` must be above 0 and no more than a machine can have"
    if amount(site.shm) >= amount(site.memory):
        yield f"{SHM} is part of the memory: shm {site.shm} must be below memory {site.memory}"
    if site.ephemeral_storage is not None and amount(site.ephemeral_storage) < amount(site.scratch):
        yield f"{TMP} is ephemeral storage: expected at least scratch {site.scratch}, got {site.ephemeral_storage}"
    if site.gpu_type is not None and (not site.gpus or "nvidia.com/gpu.product" in site.node_selector):
        yield "`gpu_type` needs gpus of at least 1 and no nvidia.com/gpu.product in node_selector"


def _names(site: Cluster) -> Iterator[str]:
    """Keys and variables that are not the site's to set."""
    for key in (*site.labels, *site.annotations):
        if key.startswith(OUR_LABELS):
            yield f"{key} is set by the manifest; expected a key outside {', '.join(OUR_LABELS)}"
    for name, value in site.env.items():
        if name in OUR_VARIABLES:
            yield f"{name} is set by the manifest and cannot be in env"
        if USER_IN_URL.search(value):
            yield f"{name} holds a URL with a user in it, which may be a password; env can be read by many"
        if SECRET_NAME.search(name):
            yield f"{name} is a secret: mount it as a file with `secrets`; env can be read by many"


def amount(quantity: str) -> float:
    """A quantity as a plain number: bytes, or cores."""
    for suffix, factor in _BYTES.items():
        if quantity.endswith(suffix):
            return float(quantity.removesuffix(suffix)) * factor
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def read_cluster(path: Path) -> Cluster:
    """The site of a YAML file.

    Raises:
        SpecError: the file cannot be read or is not a Cluster.
    """
    return validated(Cluster, read_yaml(path))
