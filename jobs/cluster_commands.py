"""The commands of `reinit` that are about a cluster: manifests and their check, and the Jobs of a study there.

Law: as `jobs.cli`, which gives them their names: what a command needs is imported inside its body, and nothing here
computes.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from jobs.errors import SpecError, TransientError
from jobs.options import (
    CellArgument,
    ClusterOption,
    ContextOption,
    DryRun,
    KubeconfigOption,
    MaybeClusterOption,
    Output,
    OutputOption,
    SiteStoreOption,
    StudyArgument,
    api_of,
    chosen_cells,
    site_of,
    store_at,
    store_url,
)
from jobs.plan import Plan, PlannedCell
from jobs.study import load_study
from jobs.views import BAR, console, errors, escape, lint_json, print_json, show_findings, warn

if TYPE_CHECKING:
    from jobs.status import Status


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
        print_json(lint_json(report, site.version))
    else:
        show_findings(report, site.version)
    if report.of(Level.REFUSED) or (strict and report.findings):
        raise typer.Exit(SpecError.exit_code)


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

    loaded, site = load_study(study), site_of(cluster)
    cells = chosen_cells(loaded.plan(), only)
    surveyed = store_at(store or site.store).survey(each.cell for each in cells)
    found = surveyed.found
    warn(found, passed_over=surveyed.passed_over)
    api = api_of(site, kubeconfig, context)
    with Progress(*BAR, console=errors, transient=True) as bar:
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
    loaded, site = load_study(study), site_of(cluster) if cluster else None
    planned, opened = loaded.plan(), store_at(store_url(store, site))
    cells = [each.cell for each in planned]
    digests = {cell.digest for cell in cells}
    api = api_of(site, kubeconfig, context) if site else None

    def look() -> Status:
        found, failures = opened.survey(cells).found, opened.all_failures(digests)
        observed = observe(api, now()) if api else None
        return study_status(loaded.name, planned, found, failures, observed, site)

    if watch:
        _watch(look, interval, everything)
    elif output is Output.JSON:
        print_json(status_json(look()))
    else:
        console.print(board(look(), now(), everything=everything))


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
    site = site_of(cluster) if cluster else None
    if site and (live := live_log(api_of(site, kubeconfig, context), chosen.digest, follow=follow, tail=tail)):
        pod, lines = live
        errors.print(f"pod {escape(pod)}", style="bold")
        for line in lines:
            print(printable(line), flush=True)  # noqa: T201  a pod's own text: no markup, no wrapping
        return
    kept = store_at(store_url(store, site)).logs(chosen.digest)
    if not kept:
        where = "neither a pod's nor in the store" if site else "not in the store; a pod's needs --cluster"
        raise TransientError(
            f"no log of {chosen.name}", got=where, remedy=f"reinit status {study} says where it stands"
        )
    for each in kept:
        errors.print(f"attempt {escape(each.attempt)}, from the store", style="bold")
        for line in each.text.splitlines()[-(tail or 0) :]:
            print(printable(line))  # noqa: T201  the same


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
    digests = frozenset(each.cell.digest for each in chosen_cells(loaded.plan(), only)) if only else frozenset()
    api = api_of(site_of(cluster), kubeconfig, context)
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


RENDERED_STATES = ("missing", "failed")
"""States whose runs another Job can mend; all others are done."""


def _in_states(planned: Plan, only: str, url: str) -> Sequence[PlannedCell]:
    """The cells with a run in one of the states, as the store has it. Their seeds stay whole: a pod skips what is done,
    and a Job that is rendered again is the same Job.
    """
    states = only.split(",")
    if not set(states) <= set(RENDERED_STATES):
        raise SpecError("--only is malformed", expected="states with commas", got=only, allowed="missing, failed")
    opened = store_at(url)
    digests = {each.cell.digest for each in planned}
    surveyed, failures = opened.survey(each.cell for each in planned), opened.all_failures(digests)
    found = surveyed.found
    warn(found, passed_over=surveyed.passed_over)

    def is_chosen(each: PlannedCell) -> bool:
        cell, records = found[each.cell.digest], failures[each.cell.digest].records
        return any(cell.state(seed, records) in states for seed in each.seeds)

    return [each for each in planned if is_chosen(each)]


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
