"""One cell as a `docker run` line: the pod of `jobs.manifest` on one machine.

Law: pure; the same environment, user, read-only root and limits as the pod. No secret is on the line: credentials pass
by name, docker takes their values from the environment that it is started in.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from jobs.cell import Cell
from jobs.cluster import CACHE, TMP, Cluster, amount
from jobs.environment import pod_environment
from jobs.manifest import COMMAND

RESULTS: Final = "/results"
"""Where a `file://` store of this machine is mounted."""
PLACES: Final = "/places"
"""Below which folders of this machine are mounted."""

PASSED: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "REINIT_S3_CHECKSUMS",
)
"""Variables of an S3 client that the container gets from whoever starts it, where they are set."""


def docker_run(
    cell: Cell,
    seeds: Sequence[int],
    site: Cluster,
    store: str,
    places: Mapping[str, Path],
    *,
    cache: Path | None = None,
    user: int | None = None,
) -> str:
    """The line, quoted for a shell.

    Args:
        cell: what is run.
        seeds: all of them run in this container.
        site: image, GPUs, memory and cores. Its claims, secrets and places are the cluster's and stay there.
        store: `s3://bucket/prefix`, or `file:///path` on this machine, which is mounted.
        places: folders of this machine for names of models and data, mounted read-only.
        cache: a HF_HOME of this machine, mounted read-only; the container then asks no hub.
        user: numeric user and group; None is the site's. A `file://` store must be writable for it.
    """
    folder = Path(unquote(store.removeprefix("file://"))) if store.startswith("file://") else None
    inside = {name: f"{PLACES}/{number}" for number, name in enumerate(places)}
    here = {
        # One container runs all seeds, and what the cluster mounts is not here.
        "seeds_per_pod": None,
        "places": inside,
        "env": {name: value for name, value in site.env.items() if not _is_mounted(value, site)},
        "data_volumes": (),
        "secrets": (),
        "store": f"file://{RESULTS}" if folder else store,
        "store_claim": "results" if folder else None,
        "cache_claim": "cache" if cache else None,
    }
    environment = pod_environment(cell, seeds, site.model_copy(update=here))
    mounts = [(str(path), inside[name], True) for name, path in places.items()]
    mounts += [(str(folder), RESULTS, False)] if folder else []
    mounts += [(str(cache), CACHE, True)] if cache else []
    owner = site.run_as_user if user is None else user
    words = ["docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    words += ["--user", f"{owner}:{owner}"]
    words += ["--gpus", "all"] if site.gpus else []
    words += ["--cpus", f"{amount(site.cpu):g}", "--memory", _size(site.memory), "--shm-size", _size(site.shm)]
    words += ["--stop-timeout", str(site.grace_seconds)]
    words += ["--tmpfs", f"{TMP}:rw,exec,nosuid,mode=1777,size={_size(site.scratch)}"]
    for source, target, read_only in mounts:
        words += ["--mount", _mount(source, target, read_only=read_only)]
    for name in PASSED if folder is None else ():
        if name not in environment:
            words += ["--env", name]
    for name, value in environment.items():
        words += ["--env", f"{name}={value}"]
    entrypoint, *arguments = COMMAND
    return shlex.join([*words, "--entrypoint", entrypoint, site.image, *arguments])


def _is_mounted(value: str, site: Cluster) -> bool:
    """Whether a variable points into something that only the cluster mounts."""
    return any(value == path or value.startswith(f"{path}/") for path in site.mount_paths if path != TMP)


def _size(quantity: str) -> str:
    """Bytes: docker reads neither `Gi` nor decimal units as Kubernetes does."""
    return str(int(amount(quantity)))


def _mount(source: str, target: str, *, read_only: bool) -> str:
    """A `--mount` value, which is a line of CSV, so that a path may hold commas and colons."""
    line = io.StringIO()
    fields = ["type=bind", f"source={source}", f"target={target}", *(["readonly"] if read_only else [])]
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()
