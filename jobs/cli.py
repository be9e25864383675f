"""The `reinit` command: the composition root, where the three packages meet.

Law: what a command needs beyond `jobs` is imported inside its body, so that `--help`, `plan` and `render` start without
torch; nothing here computes, it reads arguments, calls, and shows.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs import __version__
from jobs.errors import ConfigurationError, ReinitError, SpecError
from jobs.plan import Plan, PlannedCell
from jobs.study import Study, load_study, shipped_studies, study_schema

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from jobs.found import Found
    from jobs.store import Store

app = typer.Typer(
    help="Which layers of a pretrained transformer does a task use? Partial reinitialisation as batch jobs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Piped output is read by programs and logs, which need no line breaks of ours.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
errors = Console(stderr=True, highlight=False)


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
OutputOption = Annotated[Output, typer.Option("--output", help="A table for people, or JSON.")]
PlaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--place", metavar="NAME=PATH", help="Folder of a model or data set that the study names NAME; repeatable."
    ),
]


ClusterOption = Annotated[Path, typer.Option("--cluster", metavar="FILE", help="The site: see k8s/cluster.yaml.")]


@app.callback(invoke_without_command=True)
def _version(
    *, version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False
) -> None:
    if version:
        print(__version__)  # noqa: T201  for scripts: no console, no wrapping
        raise typer.Exit


@app.command()
def studies() -> None:
    """List the shipped studies, one line each."""
    table = _table("study", "title")
    for name, title in shipped_studies().items():
        table.add_row(name, title)
    console.print(table)


@app.command()
def plan(
    study: StudyArgument,
    store: MaybeStoreOption = None,
    cells: Annotated[bool, typer.Option("--cells", help="One line a cell instead of a summary.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what a study asks for: cells, runs, optimiser steps, and what --store has already."""
    loaded = load_study(study)
    planned = loaded.plan()
    found = _open(store).all_results({each.cell.digest for each in planned}) if store else None
    _warn(found or {})
    if output is Output.JSON:
        _print_json(_plan_json(loaded, planned, found))
    elif cells:
        console.print(_cell_table(planned, found))
    else:
        console.print(_plan_table(loaded, planned, found))
        finetunes = f"{planned.finetunes:,} finetunes with {planned.finetune_steps:,} optimiser steps"
        console.print(f"[bold]{len(planned):,} cells, {planned.runs:,} runs[/bold]: {finetunes}")


@app.command()
def run(
    study: StudyArgument,
    store: StoreOption,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CELL", help="Run this cell only, by prefix of name or digest; repeatable."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; by default one a GPU, or one on a CPU.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of a worker; by default the cores shared evenly.")
    ] = None,
    place: PlaceOption = None,
) -> None:
    """Run what is missing here, without containers. Stop with Ctrl-C; the same command continues."""
    from jobs.local import Run, run_locally, this_machine

    planned = _chosen(load_study(study).plan(), only)
    opened = _open(store)
    opened.check()
    found = opened.all_results({each.cell.digest for each in planned})
    _warn(found)
    runs = [Run(each.cell, seed) for each in planned for seed in each.seeds if seed not in found[each.cell.digest].done]
    total = sum(len(each.seeds) for each in planned)
    if not runs:
        console.print(f"all {total} runs are already done")
        return
    machine = this_machine(workers, threads)
    where = f"{len(machine.gpus)} GPUs" if machine.gpus else "CPU"
    console.print(
        f"{total - len(runs)} of {total} runs already done; {len(runs)} to do on {where}, "
        f"{machine.workers} workers with {machine.threads} threads each"
    )
    summary = run_locally(runs, store, _places(place), machine, _log_folder(), console)
    if summary.errors:
        for error in summary.errors[1:]:
            errors.print(escape(str(error)), style="red")
        raise summary.errors[0]
    if summary.stopped:
        raise typer.Exit(130)
    diverged = f", {summary.diverged} of them diverged" if summary.diverged else ""
    console.print(f"{summary.done} runs done{diverged}")


@app.command()
def render(
    study: StudyArgument,
    cluster: ClusterOption,
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to; - streams to stdout.")],
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="STATES", help="Cells with runs in these states: missing, failed, or both."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="With --only: where to look, if not at the cluster file's store."),
    ] = None,
    k8s_version: Annotated[
        str | None, typer.Option("--k8s-version", metavar="1.N", help="Kubernetes to write for; 1.32 unless said.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Most Jobs in one file.")] = 500,
) -> None:
    """Write one Kubernetes Job per cell, for `kubectl apply`."""
    from jobs.batches import write_batches
    from jobs.cluster import read_cluster
    from jobs.manifest import TARGET, Version, job, to_yaml

    version = Version.parse(k8s_version) if k8s_version else TARGET
    loaded, site = load_study(study), read_cluster(cluster)
    planned = loaded.plan()
    chosen = _in_states(planned, only, store or site.store) if only else planned
    if store and not only:
        raise SpecError("--store is read with --only alone", remedy="the Jobs' store is `store` in the cluster file")
    jobs = [job(loaded.name, each.cell, each.seeds, site, version) for each in chosen]
    if out == "-":
        sys.stdout.write(to_yaml(jobs))
        return
    files = write_batches(Path(out), jobs, batch)
    runs = sum(len(each.seeds) for each in chosen)
    left_out = f"; {len(planned) - len(chosen):,} cells have no run that is {only}" if only else ""
    console.print(f"{len(jobs):,} Jobs with {runs:,} runs in {len(files)} files in {escape(out)}{left_out}")
    if files:
        console.print(f"next: kubectl apply --server-side -k {escape(shlex.quote(out))}")


@app.command()
def docker(
    study: StudyArgument,
    cell: CellArgument,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", metavar="FILE", help="Image, store and limits of a cluster file.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="IMAGE", help="Image by digest, instead of the cluster file's.")
    ] = None,
    store: MaybeStoreOption = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to use; 0 is the CPU.")] = None,
    place: PlaceOption = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="HF_HOME", help="A hub cache, mounted read-only; asks no hub.")
    ] = None,
) -> None:
    """Print the `docker run` line of one cell, to paste."""
    from jobs.container import docker_run
    from jobs.objects import open_objects

    site = _site(cluster, image, store, gpus)
    planned = load_study(study).plan().find(cell)
    where = open_objects(store).url if store else site.store
    if where.startswith("file://") and not store:
        raise SpecError("the cluster's store is a volume, not a folder here", remedy="name one: --store file:///path")
    # A folder of this machine belongs to whoever runs this; the superuser without capabilities is nobody special.
    user = os.getuid() or None if where.startswith("file://") else None
    line = docker_run(
        planned.cell,
        planned.seeds,
        site,
        where,
        _places(place),
        cache=cache.expanduser().resolve() if cache else None,
        user=user,
    )
    print(line)  # noqa: T201  to paste: no console, no wrapping


@app.command()
def inspect(
    study: StudyArgument,
    cell: CellArgument,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 1,
    place: PlaceOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what surgery does to each parameter, and which optimiser group it is in."""
    from reinit.inspection import inspect as inspect_cell
    from reinit.inspection import render as render_reports
    from reinit.places import Places

    chosen = load_study(study).plan().find(cell).cell
    reports = inspect_cell(chosen, seed, Places(_places(place)))
    if output is Output.JSON:
        parameters = [asdict(each) for each in reports]
        _print_json({"cell": chosen.name, "seed": seed, "parameters": parameters})
        return
    console.print(f"[bold]{escape(chosen.name)}[/bold] seed {seed}")
    console.print(render_reports(reports))


@app.command()
def aggregate(
    study: StudyArgument,
    store: StoreOption,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for tables and figures.")],
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Mark missing, failed and diverged runs instead of refusing.")
    ] = False,
) -> None:
    """Make the tables and figures of a study from the results in a store."""
    from aggregate.aggregate import aggregate_study

    loaded = load_study(study)
    planned = loaded.plan()
    opened = _open(store)
    digests = {each.cell.digest for each in planned}
    found, failures = opened.all_results(digests), opened.all_failures(digests)
    aggregate_study(loaded, planned, found, failures, _folder(out), allow_partial=allow_partial, console=console)


@app.command()
def doctor(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Check what this study needs, too.")] = None,
    store: MaybeStoreOption = None,
    place: PlaceOption = None,
) -> None:
    """Say what this machine and store can do, before hours are spent. Ends with the first refusal's exit code."""
    from jobs.doctor import Check, machine_checks, store_check

    checks = machine_checks()
    if store:
        checks.append(store_check(store))
    if study:
        from reinit.places import Places
        from reinit.preflight import study_checks

        checks += study_checks(load_study(study).plan(), Places(_places(place)))
    _show_checks(checks)
    refused: list[Check] = [check for check in checks if check.exit_code]
    if refused:
        raise typer.Exit(refused[0].exit_code)


@app.command()
def pin(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model folder, a data folder, or one data file.")],
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="Files of a data folder: train, then validation.")
    ] = None,
) -> None:
    """Print the revision that a study names a local model or data folder by."""
    from reinit.preflight import revision_of

    print(revision_of(path, files or []))  # noqa: T201  to paste: no console, no wrapping


@app.command()
def schema() -> None:
    """Print the JSON Schema of a study file, for editors."""
    _print_json(study_schema())


def main() -> None:
    """Run the command; a refusal is one screen on stderr and a documented exit code."""
    try:
        app()
    except ReinitError as error:
        errors.print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        # Each package brings its own extra, and a login node needs none of them.
        package = "aggregate" if error.name in {"pandas", "scipy", "matplotlib", "pyarrow"} else "train"
        remedy = f"pip install 'partial-reinit[{package}]'"
        errors.print(f"[bold red]error:[/bold red] {error.name} is not installed\n  do:       {escape(remedy)}")
        sys.exit(ConfigurationError.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has seen enough; Python would complain again while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)


def _open(url: str) -> Store:
    from jobs.store import open_store

    return open_store(url)


def _warn(found: Mapping[str, Found]) -> None:
    """What the store holds that no table will be made of, while there is still time to look."""
    for each in found.values():
        for contradiction in each.contradictions:
            keys = ", ".join(contradiction.keys)
            errors.print(f"[yellow]two results of one run disagree:[/yellow] {escape(keys)}", soft_wrap=True)
        for damaged in each.damaged:
            text = escape(f"{damaged.key}: {damaged.reason}")
            errors.print(f"[yellow]not a result, so not counted:[/yellow] {text}", soft_wrap=True)


def _places(options: Sequence[str] | None) -> dict[str, Path]:
    """Places of the environment, overridden by `--place`."""
    from reinit.places import Places

    places = dict(Places.from_environment().folders)
    for option in options or ():
        name, equals, path = option.partition("=")
        if not equals or not name or not path:
            raise SpecError("--place is malformed", expected="NAME=PATH", got=option)
        places[name] = Path(path).expanduser().resolve()
    return places


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError("cannot make the output folder", where=str(path), got=error.strerror) from error
    return path


def _log_folder() -> Path:
    """Where workers leave what libraries print."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "reinit"


def _chosen(planned: Plan, only: Sequence[str] | None) -> Sequence[PlannedCell]:
    if not only:
        return planned
    chosen = {each.cell.digest: each for each in (planned.find(prefix) for prefix in only)}
    return [each for each in planned if each.cell.digest in chosen]


RENDERED_STATES = ("missing", "failed")
"""States whose runs another Job can mend; all others are done."""


def _in_states(planned: Plan, only: str, url: str) -> Sequence[PlannedCell]:
    """The cells with a run in one of the states, as the store has it. Their seeds stay whole: a pod skips what is done,
    and a Job that is rendered again is the same Job.
    """
    states = only.split(",")
    if not set(states) <= set(RENDERED_STATES):
        raise SpecError("--only is malformed", expected="states with commas", got=only, allowed="missing, failed")
    opened = _open(url)
    digests = {each.cell.digest for each in planned}
    found, failures = opened.all_results(digests), opened.all_failures(digests)
    _warn(found)

    def is_chosen(each: PlannedCell) -> bool:
        cell, records = found[each.cell.digest], failures[each.cell.digest].records
        return any(cell.state(seed, records) in states for seed in each.seeds)

    return [each for each in planned if is_chosen(each)]


def _site(cluster: Path | None, image: str | None, store: str | None, gpus: int | None) -> Cluster:
    """The cluster file's settings, or the usual ones, with what the command line says instead."""
    from jobs.cluster import Cluster, read_cluster
    from jobs.spec import validated
    from jobs.yamlfile import parse_yaml

    if cluster is None and (image is None or store is None):
        raise SpecError(
            "where is the image, and where do results go?", expected="--cluster FILE, or --image and --store"
        )
    # Without a file the store is only what a container's own replaces.
    fields = read_cluster(cluster).model_dump(mode="json") if cluster else {"store": "s3://unused"}
    if gpus is not None:
        fields |= {"gpus": gpus, "gpu_type": None}
    if image is not None:
        fields |= {"image": image}
    return validated(Cluster, parse_yaml(json.dumps(fields), "the command line"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", no_wrap=True)
    return table


_NUMBERS = {"cells", "runs", "steps", "seeds", "done", "layers"}


def _plan_table(study: Study, planned: Plan, found: Mapping[str, Found] | None) -> Table:
    table = _table("family", "task", "size", "cells", "runs", "steps", *(["done"] if found is not None else []))
    table.title, table.title_justify = f"{study.name}: {escape(study.title)}", "left"
    for (family, task, size), group in _groups(planned).items():
        runs = sum(len(each.seeds) for each in group)
        steps = sum(len(each.seeds) * each.cell.steps for each in group)
        row = [escape(family), task, size, f"{len(group):,}", f"{runs:,}", f"{steps:,}"]
        if found is not None:
            row.append(f"{sum(_done(each, found) for each in group):,}")
        table.add_row(*row)
    return table


def _groups(planned: Plan) -> dict[tuple[str, str, str], list[PlannedCell]]:
    """Cells by family, task and size; a cell that families share counts once, with those that share it."""
    groups: dict[tuple[str, str, str], list[PlannedCell]] = {}
    for each in planned:
        key = (" + ".join(each.families), each.cell.task.name, str(each.cell.size))
        groups.setdefault(key, []).append(each)
    return groups


def _cell_table(planned: Plan, found: Mapping[str, Found] | None) -> Table:
    table = _table("cell", "family", "seeds", "steps", *(["done"] if found is not None else []))
    for each in planned:
        row = [each.cell.name, escape(" + ".join(each.families)), f"{len(each.seeds):,}", f"{each.cell.steps:,}"]
        if found is not None:
            row.append(f"{_done(each, found):,}")
        table.add_row(*row)
    return table


def _done(each: PlannedCell, found: Mapping[str, Found]) -> int:
    return len(set(each.seeds) & set(found[each.cell.digest].done))


def _plan_json(study: Study, planned: Plan, found: Mapping[str, Found] | None) -> dict[str, Any]:
    return {
        "study": study.name,
        "cells": [
            {
                "name": each.cell.name,
                "digest": each.cell.digest,
                "families": each.families,
                "seeds": each.seeds,
                "steps": each.cell.steps,
                **({} if found is None else {"done": sorted(set(each.seeds) & set(found[each.cell.digest].done))}),
                "cell": each.cell.model_dump(mode="json"),
            }
            for each in planned
        ],
        "runs": planned.runs,
        "finetunes": planned.finetunes,
        "finetune_steps": planned.finetune_steps,
    }


def _show_checks(checks: Sequence[Any]) -> None:
    table = _table("", "what", "found")
    for check in checks:
        mark = "[red]no[/red]" if check.exit_code else "[green]ok[/green]"
        table.add_row(mark, escape(check.what), escape(check.found))
    for column in table.columns:
        column.no_wrap = False
    console.print(table)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
