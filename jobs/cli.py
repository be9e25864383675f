"""The `reinit` command: the composition root, where the three packages meet.

Law: what a command needs beyond `jobs` is imported inside its body, so that `--help`, `plan` and `render` start without
torch; nothing here computes, it reads arguments, calls, and shows.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from jobs import __version__
from jobs.errors import ConfigurationError, DataError, ReinitError, SpecError, TransientError
from jobs.plan import Plan, PlannedCell
from jobs.study import Study, load_study, shipped_studies, study_schema

if TYPE_CHECKING:
    from jobs.api import Api
    from jobs.cluster import Cluster
    from jobs.found import Found
    from jobs.lint import Report
    from jobs.reproduce import Command, Comparison
    from jobs.result import DivergedRun, RunResult
    from jobs.status import Status
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
_BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())


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
PlaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--place", metavar="NAME=PATH", help="Folder of a model or data set that the study names NAME; repeatable."
    ),
]


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
        if notes := _plan_notes(planned):
            console.print(notes)


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
    from jobs.backends import open_objects
    from jobs.container import docker_run

    site = _container_site(cluster, image, store, gpus)
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
def lint(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files, folders, or - for stdin; YAML or JSON.")
    ],
    k8s_version: Annotated[
        str, typer.Option("--k8s-version", metavar="VERSION", help="Kubernetes of the cluster, 1.30 to 1.37.")
    ] = "1.32",
    queue_resources: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Resources that the Kueue queue covers: cpu,memory,nvidia.com/gpu."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings refuse too.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say offline what a cluster would refuse in Jobs, and what it would take and somebody regret.

    Ends with 0 where nothing is refused, with 64 otherwise.
    """
    from jobs.finding import Level
    from jobs.lint import known_version, lint_paths
    from jobs.rules import Site

    covered = None if queue_resources is None else frozenset(filter(None, map(str.strip, queue_resources.split(","))))
    site = Site(known_version(k8s_version), covered)
    report = lint_paths(paths, site)
    if output is Output.JSON:
        _print_json(_lint_json(report, site.version))
    else:
        _show_findings(report, site.version)
    if report.of(Level.REFUSED) or (strict and report.findings):
        raise typer.Exit(SpecError.exit_code)


@app.command()
def submit(
    study: StudyArgument,
    *,
    cluster: ClusterOption,
    store: SiteStoreOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CELL", help="Submit this cell only, by prefix of name or digest; repeatable."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Delete Jobs that ended without all results, and make them again.")
    ] = False,
    dry_run: Annotated[
        DryRun | None, typer.Option("--dry-run", help="`server`: the API server checks every Job and keeps none.")
    ] = None,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
) -> None:
    """Apply the Jobs that are missing to a cluster. What is done or at work is left alone; repeat it at any time."""
    from jobs.board import submitted_lines
    from jobs.kube import submit as submit_cells

    loaded, site = load_study(study), _site(cluster)
    cells = _chosen(loaded.plan(), only)
    found = _open(store or site.store).all_results({each.cell.digest for each in cells})
    _warn(found)
    api = _api(site, kubeconfig, context)
    with Progress(*_BAR, console=errors, transient=True) as bar:
        task = bar.add_task("submitting", total=len(cells))
        submitted = submit_cells(
            api,
            loaded.name,
            cells,
            site,
            found,
            retry_failed=retry_failed,
            dry_run=dry_run is not None,
            report=lambda _: bar.advance(task),
        )
    for line in submitted_lines(submitted, dry_run=dry_run is not None):
        console.print(escape(line), soft_wrap=True)


@app.command()
def status(
    study: StudyArgument,
    *,
    cluster: MaybeClusterOption = None,
    store: SiteStoreOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="A line for every cell, not only for those to look at.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until nothing is at work.")] = False,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two looks of --watch.")] = 15,
    output: OutputOption = Output.TABLE,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
) -> None:
    """Show what is done, running, waiting or failed and why, or missing. Without --cluster, by the store alone."""
    from jobs.board import board, status_json
    from jobs.result import now
    from jobs.status import observe, study_status

    if watch and (output is Output.JSON or cluster is None):
        raise SpecError("--watch follows a cluster, in a table", expected="--cluster FILE, and no --output json")
    loaded, site = load_study(study), _site(cluster) if cluster else None
    planned, opened = loaded.plan(), _open(_store_url(store, site))
    digests = {each.cell.digest for each in planned}
    api = _api(site, kubeconfig, context) if site else None

    def look() -> Status:
        found, failures = opened.all_results(digests), opened.all_failures(digests)
        observed = observe(api, now()) if api else None
        return study_status(loaded.name, planned, found, failures, observed, site)

    if watch:
        _watch(look, interval, everything)
    elif output is Output.JSON:
        _print_json(status_json(look()))
    else:
        console.print(board(look(), now(), everything=everything))


@app.command()
def logs(
    study: StudyArgument,
    cell: CellArgument,
    *,
    cluster: MaybeClusterOption = None,
    store: SiteStoreOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while the pod runs.")] = False,
    tail: Annotated[int | None, typer.Option(min=1, help="Only this many lines from the end.")] = None,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
) -> None:
    """Print a cell's log: of its pod while that is there, else of all attempts that left one in the store."""
    from jobs.kube import live_log
    from jobs.pods import printable

    chosen = load_study(study).plan().find(cell).cell
    site = _site(cluster) if cluster else None
    if site and (live := live_log(_api(site, kubeconfig, context), chosen.digest, follow=follow, tail=tail)):
        pod, lines = live
        errors.print(f"pod {escape(pod)}", style="bold")
        for line in lines:
            print(printable(line), flush=True)  # noqa: T201  a pod's own text: no markup, no wrapping
        return
    kept = _open(_store_url(store, site)).logs(chosen.digest)
    if not kept:
        where = "neither a pod's nor in the store" if site else "not in the store; a pod's needs --cluster"
        raise TransientError(
            f"no log of {chosen.name}", got=where, remedy=f"reinit status {study} says where it stands"
        )
    for each in kept:
        errors.print(f"attempt {escape(each.attempt)}, from the store", style="bold")
        for line in each.text.splitlines()[-(tail or 0) :]:
            print(printable(line))  # noqa: T201  the same


@app.command()
def cancel(
    study: StudyArgument,
    *,
    cluster: ClusterOption,
    task: Annotated[str, typer.Option(help="Only this task.")] = "",
    size: Annotated[str, typer.Option(help="Only this size.")] = "",
    treatment: Annotated[str, typer.Option(metavar="PREFIX", help="Only treatments whose name begins so.")] = "",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CELL", help="Only this cell; repeatable.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
) -> None:
    """Stop Jobs of a study: says which, asks, then deletes them. Finished runs stay in the store."""
    from jobs.board import jobs_table
    from jobs.kube import Selection, to_cancel
    from jobs.kube import cancel as cancel_jobs
    from jobs.result import now
    from jobs.status import observe

    loaded = load_study(study)
    digests = frozenset(each.cell.digest for each in _chosen(loaded.plan(), only)) if only else frozenset()
    api = _api(_site(cluster), kubeconfig, context)
    observed = observe(api, now())
    chosen = to_cancel(observed, loaded.name, Selection(task, size, treatment, digests))
    if not chosen:
        console.print("nothing to cancel: no Job of this study is at work on that")
        return
    console.print(jobs_table(observed, [each["metadata"]["name"] for each in chosen]))
    if not yes and not typer.confirm(f"stop these {len(chosen)} Jobs?"):
        raise typer.Exit(130)
    cancel_jobs(api, chosen)
    console.print(f"{len(chosen)} Jobs deleted; their pods have their grace to stop")


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
    study: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Shipped studies' names, or YAML files.")],
    store: StoreOption,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for tables and figures.")],
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Mark missing, failed and diverged runs instead of refusing.")
    ] = False,
) -> None:
    """Make the tables, figures and claims of a study, or of several together, from the results in a store."""
    from aggregate.aggregate import aggregate_studies

    studies = [(each, each.plan()) for each in map(load_study, study)]
    opened = _open(store)
    digests = {each.cell.digest for _, plan in studies for each in plan}
    found, failures = opened.all_results(digests), opened.all_failures(digests)
    aggregate_studies(studies, found, failures, _folder(out), allow_partial=allow_partial, console=console)


@app.command()
def reproduce(
    result: Annotated[
        str, typer.Argument(metavar="RESULT", help="A result's file or key, or the first digits of a cell's digest.")
    ],
    store: MaybeStoreOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Which run of the cell.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Run it again here and compare bit by bit.")] = False,
    place: PlaceOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the exact command that makes one number again; with --check, do it and compare bit by bit."""
    from jobs.reproduce import as_json, command, find_result, run_again, unplaced

    found = find_result(result, seed, _open(store) if store else None)
    made = command(found, _places(place), Path.cwd() / "again")
    comparison = None
    if output is Output.TABLE:
        _show_command(found, made)
        for name in unplaced(found.cell, _places(place)):
            console.print(escape(f"say where {name} is: --place {name}=FOLDER"), style="yellow")
    if check:
        comparison = run_again(found, _places(place), _log_folder(), errors if output is Output.JSON else console)
    if output is Output.JSON:
        _print_json(as_json(found, made, comparison))
    elif comparison is not None:
        _show_comparison(comparison)
    if comparison is not None and not comparison.is_equal:
        raise typer.Exit(DataError.exit_code)


def _show_command(found: RunResult | DivergedRun, made: Command) -> None:
    """For people: what is made again, and how; lines to paste are printed whole."""
    score = f"{found.cell.task.headline} {found.score!r}" if found.status == "done" else "diverged"
    console.print(f"[bold]{escape(found.cell.name)}[/bold] seed {found.seed}: {escape(score)}")
    provenance = found.provenance
    console.print(
        escape(f"made with commit {provenance.git_commit} on {provenance.device}, numerics {provenance.numerics}")
    )
    if provenance.git_commit.endswith("+dirty"):
        console.print(
            "the code had uncommitted changes, so the commit alone may not give the same bits", style="yellow"
        )
    for name, (then, now) in made.differences.items():
        console.print(escape(f"{name} was {then}, here it is {now}"), style="yellow")
    for line in (made.code, "mkdir -p again", made.run):
        print(line)  # noqa: T201  to paste: no console, no wrapping


def _show_comparison(comparison: Comparison) -> None:
    table = _table("measured", "before", "again")
    for name, (before, after) in comparison.scores.items():
        table.add_row(*map(escape, (name, before, after)))
    console.print(table)
    if comparison.is_equal:
        console.print("equal, bit by bit", style="green")
        return
    if comparison.is_one_version:
        console.print("NOT EQUAL, although both are of one numerics version: one of the two is wrong", style="bold red")
        return
    console.print("not equal; they are of different numerics versions:", style="yellow")
    for name, (before, after) in comparison.moved.items():
        console.print(escape(f"  {name}: {before} before, {after} now"))


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


def _site(path: Path) -> Cluster:
    from jobs.cluster import read_cluster

    return read_cluster(path)


def _api(site: Cluster, kubeconfig: str | None, context: str | None) -> Api:
    from jobs.api import connect

    return connect(site.namespace, kubeconfig=kubeconfig, context=context)


def _store_url(store: str | None, site: Cluster | None) -> str:
    if store or site:
        return store or (site.store if site else "")
    raise SpecError("where are the results?", expected="--store URL, or --cluster FILE, which names a store")


def _watch(look: Callable[[], Status], interval: float, everything: bool) -> None:
    """Redraw until nothing is at work; what fails in passing is shown, and the next look tried."""
    from rich.live import Live

    from jobs.board import board, status_line
    from jobs.result import now

    with Live(console=console, auto_refresh=False) as live:
        while True:
            try:
                status = look()
            except TransientError as error:
                errors.print(f"[yellow]no answer this time:[/yellow] {escape(error.problem)}")
            else:
                if console.is_terminal:
                    live.update(board(status, now(), everything=everything), refresh=True)
                else:
                    console.print(status_line(status))
                if not status.is_active:
                    return
            sleep(interval)


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


def _container_site(cluster: Path | None, image: str | None, store: str | None, gpus: int | None) -> Cluster:
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


def _plan_notes(planned: Plan) -> str:
    """Why there are fewer cells than the families list, and more runs."""
    notes = []
    if shared := planned.shared_cells:
        notes.append(f"{shared:,} cells that families share run once")
    if added := planned.added_runs:
        without = planned.runs - added
        notes.append(f"{added:,} runs give baselines every seed of the cells beside them ({without:,} without)")
    return "; ".join(notes)


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
        "shared_cells": planned.shared_cells,
        "added_runs": planned.added_runs,
        "finetunes": planned.finetunes,
        "finetune_steps": planned.finetune_steps,
    }


_ALIKE = 3
"""Findings of one rule on one field that are shown in full."""


def _show_findings(report: Report, version: str) -> None:
    alike: dict[tuple[str, str], int] = {}
    for each in report.findings:
        key = (each.rule, each.field)
        alike[key] = alike.get(key, 0) + 1
        if alike[key] <= _ALIKE:
            first, *rest = str(each).splitlines()
            console.print(escape(first), style="bold red" if each.level == "refused" else "bold yellow", soft_wrap=True)
            console.print(escape("\n".join(rest)), soft_wrap=True)
    for (rule, field), times in alike.items():
        if times > _ALIKE:
            console.print(escape(f"and {times - _ALIKE:,} more of [{rule}] at {field}"), soft_wrap=True)
    console.print(_lint_summary(report, version), soft_wrap=True)


def _lint_summary(report: Report, version: str) -> str:
    levels = Counter(each.level.value for each in report.findings)
    kinds = ", ".join(f"{times} {kind}" for kind, times in sorted(report.skipped.items()))
    skipped = f"; not looked at: {kinds}" if kinds else ""
    counts = f"{levels['refused']:,} refused, {levels['warning']:,} warnings"
    return escape(f"{report.jobs:,} Jobs against Kubernetes {version}: {counts}{skipped}")


def _lint_json(report: Report, version: str) -> dict[str, Any]:
    return {
        "kubernetes": version,
        "jobs": report.jobs,
        "skipped": dict(sorted(report.skipped.items())),
        "findings": [each.as_dict() for each in report.findings],
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
