"""The options and arguments that commands of `reinit` share, and what is behind them: stores, sites, cells of a plan.

Law: an option that two commands have reads the same in both, and means the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.errors import SpecError
from jobs.plan import Plan, PlannedCell

if TYPE_CHECKING:
    from jobs.api import Api
    from jobs.cluster import Cluster
    from jobs.store import Store


class Reference(StrEnum):
    """Whose values stand beside a study's."""

    AUTHORS = "authors"


class DryRun(StrEnum):
    """Who checks what is not sent for good."""

    SERVER = "server"


class Output(StrEnum):
    """How a command prints what it found."""

    TABLE = "table"
    JSON = "json"


StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A shipped study's name, or a YAML file.")]
CellArgument = Annotated[
    str, typer.Argument(metavar="CELL", help="A unique prefix of a cell's name or digest within STUDY.")
]
StoreOption = Annotated[
    str, typer.Option("--store", metavar="URL", help="Where results are: file:///path or s3://bucket/prefix.")
]
MaybeStoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="Where results are: file:///path or s3://bucket/prefix.")
]
SiteStoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="Where results are, if not where the cluster file says.")
]
ClusterOption = Annotated[Path, typer.Option("--cluster", metavar="FILE", help="The site: see k8s/cluster.yaml.")]
MaybeClusterOption = Annotated[
    Path | None, typer.Option("--cluster", metavar="FILE", help="The site: see k8s/cluster.yaml.")
]
KubeconfigOption = Annotated[
    str | None, typer.Option("--kubeconfig", metavar="FILE", help="By default KUBECONFIG, then ~/.kube/config.")
]
ContextOption = Annotated[str | None, typer.Option("--context", help="A context of the kubeconfig.")]
OutputOption = Annotated[Output, typer.Option("--output", help="A table for people, or JSON.")]
PriceOption = Annotated[
    str | None, typer.Option("--price", metavar="'AMOUNT CUR'", help="What a GPU costs for an hour: '2.50 EUR'.")
]
PlaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--place", metavar="NAME=PATH", help="Folder of a model or data set that the study names NAME; repeatable."
    ),
]


def store_at(url: str) -> Store:
    """The store of `--store`; `jobs.store` is loaded only now."""
    from jobs.store import open_store

    return open_store(url)


def site_of(path: Path) -> Cluster:
    """What a cluster file says."""
    from jobs.cluster import read_cluster

    return read_cluster(path)


def api_of(site: Cluster, kubeconfig: str | None, context: str | None) -> Api:
    """The site's API server, by a kubeconfig."""
    from jobs.api import connect

    return connect(site.namespace, kubeconfig=kubeconfig, context=context)


def store_url(store: str | None, site: Cluster | None) -> str:
    """`--store`, else the cluster file's."""
    if store or site:
        return store or (site.store if site else "")
    raise SpecError("where are the results?", expected="--store URL, or --cluster FILE, which names a store")


def made_folder(path: Path) -> Path:
    """`path`, made where it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError("cannot make the output folder", where=str(path), got=error.strerror) from error
    return path


def log_folder() -> Path:
    """Where workers leave what libraries print."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "reinit"


def chosen_cells(planned: Plan, only: Sequence[str] | None) -> Sequence[PlannedCell]:
    """The cells that `--only` names, all without it, in the order of the plan."""
    if not only:
        return planned
    chosen = {each.cell.digest: each for each in (planned.find(prefix) for prefix in only)}
    return [each for each in planned if each.cell.digest in chosen]
