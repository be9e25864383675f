"""`Cluster`: what a site decides, and nothing of the experiment.

Law: no field here can move a score, so none enters a digest; a new image or queue makes new Jobs, never new cells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, StringConstraints

from jobs.spec import validated
from jobs.tasks import Frozen
from jobs.yamlfile import read_yaml

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""A Kubernetes resource quantity, for example `500m` or `16Gi`."""


class Cluster(Frozen):
    """One site. Read from the file that `--cluster` names."""

    image: Annotated[str, StringConstraints(pattern=r"^[^\s@]+@sha256:[0-9a-f]{64}$")]
    """Container image by digest, `registry/name@sha256:...`: a tag may change between two pods of one study."""
    store: Annotated[str, StringConstraints(pattern=r"^(s3://[^/\s]+(/\S*)?|file:///\S+)$")]
    """Where results go; `s3://bucket/prefix`, or `file:///` on a volume that every pod mounts."""
    namespace: DnsLabel = "reinit"
    service_account: DnsLabel = "reinit"
    gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs of one pod, one process each; 0 runs on the CPU."""
    gpu_resource: str = "nvidia.com/gpu"
    cpu: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?m?$")] = "4"
    """Cores of one pod, `4` or `4000m`; its processes share them as threads."""
    memory: Quantity = "16Gi"
    """Memory of one pod, /dev/shm counted in."""
    shm: Quantity = "1Gi"
    """Size of /dev/shm."""
    scratch: Quantity = "10Gi"
    """Size of /tmp."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """Failures that a Job may have before it is given up; evictions and stops after progress are not counted."""
    ttl_seconds: PositiveInt | None = 604_800
    """How long a finished Job stays visible; None keeps it."""
    places: dict[str, str] = Field(default_factory=dict)
    """Folders inside the container for names of models and data."""
    cache_claim: DnsLabel | None = None
    """Persistent volume claim with a hub cache, mounted read-only at /cache; pods then ask no hub."""
    env: dict[str, str] = Field(default_factory=dict)
    """More environment for the container."""


def read_cluster(path: Path) -> Cluster:
    """The site of a YAML file.

    Raises:
        SpecError: the file cannot be read or is not a Cluster.
    """
    return validated(Cluster, read_yaml(path))
