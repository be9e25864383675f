"""The environment of a pod, or of a container started by hand: what `python -m reinit` reads, as a dict.

Law: pure; the same for Kubernetes and for `docker run`, apart from how each quotes it; `reinit.environment` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from jobs.cell import Cell
from jobs.cluster import CACHE, TMP, Cluster, amount

_WRITABLE: Final = {
    # Libraries keep caches under the home folder, which is read-only in the container.
    "HOME": TMP,
    "HF_HOME": f"{TMP}/huggingface",
    "XDG_CACHE_HOME": f"{TMP}/cache",
    "TORCH_EXTENSIONS_DIR": f"{TMP}/torch-extensions",
    "TRITON_CACHE_DIR": f"{TMP}/triton",
    "TOKENIZERS_PARALLELISM": "false",
}
_OFFLINE: Final = {"HF_HUB_CACHE": f"{CACHE}/hub", "HF_HUB_OFFLINE": "1"}


def pod_environment(cell: Cell, seeds: Sequence[int], cluster: Cluster) -> dict[str, str]:
    """Name to value; the site's own variables come last and may change any that is not the pod's contract."""
    return {
        "REINIT_CELLS": compact([cell.model_dump(mode="json")]),
        "REINIT_SEEDS": compact(list(seeds)),
        **({"REINIT_SEEDS_PER_POD": str(cluster.seeds_per_pod)} if chunks(seeds, cluster) > 1 else {}),
        "REINIT_STORE": cluster.store,
        "REINIT_PLACES": compact(cluster.places),
        "REINIT_IMAGE": cluster.image,
        "REINIT_DEVICE": "cuda" if cluster.gpus else "cpu",
        # One process a GPU: reinit.launch starts them.
        "REINIT_GPUS": str(cluster.gpus),
        # A library would count the node's cores, not the pod's.
        "REINIT_THREADS": str(_threads(cluster)),
        "REINIT_GRACE_SECONDS": str(cluster.grace_seconds),
        **_WRITABLE,
        **(_OFFLINE if cluster.cache_claim else {}),
        **cluster.env,
    }


def chunks(seeds: Sequence[int], cluster: Cluster) -> int:
    """Number of pods that a cell's seeds are shared among; the last may have fewer."""
    return 1 if cluster.seeds_per_pod is None else max(1, -(-len(seeds) // cluster.seeds_per_pod))


def compact(value: Mapping[str, object] | Sequence[object]) -> str:
    """JSON of one form: sorted keys, no spaces, non-ASCII text as it is unless it would not show or move the rest."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _threads(cluster: Cluster) -> int:
    """Whole cores of one process of the pod."""
    return max(1, int(amount(cluster.cpu) / max(1, cluster.gpus)))
