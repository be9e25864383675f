"""The `reinit` command: the composition root, where the three packages meet.

Law: what a command needs beyond `jobs` is imported inside its body, so that `--help`, `plan` and `render` start without
torch; nothing here computes, it reads arguments, calls, and shows.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import __version__
from jobs.cluster_commands import cancel, lint, logs, render, status, submit
from jobs.errors import ConfigurationError, DataError, ReinitError, SpecError
from jobs.options import (
    CellArgument,
    MaybeStoreOption,
    Output,
    OutputOption,
    PlaceOption,
    PriceOption,
    Reference,
    StoreOption,
    StudyArgument,
    chosen_cells,
    log_folder,
    made_folder,
    store_at,
)
from jobs.plan_command import plan
from jobs.study import load_study, shipped_studies, study_schema
from jobs.views import (
    console,
    errors,
    escape,
    escape_lines,
    plain_table,
    print_json,
    show_checks,
    show_command,
    show_compacted,
    show_comparison,
    show_sent,
    warn,
)

if TYPE_CHECKING:
    from jobs.cluster import Cluster

app = typer.Typer(
    help="Which layers of a pretrained transformer does a task use? Partial reinitialisation as batch jobs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    table = plain_table("study", "title")
    for name, title in shipped_studies().items():
        table.add_row(name, title)
    console.print(table)


app.command()(plan)


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
    from jobs.outbox import held_in, outbox_of, send_held

    planned = chosen_cells(load_study(study).plan(), only)
    opened = store_at(store)
    opened.check()
    outbox = outbox_of(store, log_folder())
    show_sent(send_held(outbox, opened))
    surveyed = opened.survey(each.cell for each in planned)
    found = surveyed.found
    warn(found, passed_over=surveyed.passed_over)
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
    summary = run_locally(runs, store, _places(place), machine, log_folder(), console)
    if summary.errors:
        for error in summary.errors[1:]:
            errors.print(escape_lines(str(error)), style="red")
        raise summary.errors[0]
    if summary.stopped:
        if held := held_in(outbox):
            errors.print(f"{held} finished runs wait in {escape(str(outbox))}; the same command sends them first")
        raise typer.Exit(130)
    diverged = f", {summary.diverged} of them diverged" if summary.diverged else ""
    console.print(f"{summary.done} runs done{diverged}")


@app.command("upload")
def upload_results(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An outbox, or the folder of a file:// store.")],
    store: StoreOption,
) -> None:
    """Send results that a pod or laptop could not deliver. Repeat it at any time: what is there is not sent again."""
    from jobs.upload import folder_store, upload

    source, opened = folder_store(folder), store_at(store)
    opened.check()
    sent = upload(source, opened)
    show_sent(sent)
    console.print(f"{len(sent.sent)} results sent, {len(sent.there)} already there, {len(sent.refused)} not sent")
    if sent.refused:
        raise typer.Exit(DataError.exit_code)


@app.command()
def compact(store: StoreOption) -> None:
    """Pack results into snapshots, from which many are read in seconds. Repeat it at any time; nothing is lost."""
    show_compacted(store_at(store).compact())


app.command()(render)


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


for _command in (lint, submit, status, logs, cancel):
    app.command()(_command)


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
        print_json({"cell": chosen.name, "seed": seed, "parameters": parameters})
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
    reference: Annotated[
        Reference | None,
        typer.Option(help="Draw the values of the paper's authors beside the study's, and compare them in a table."),
    ] = None,
    verify_predictions: Annotated[
        bool, typer.Option("--verify-predictions", help="Read every run's predictions too, and count none without.")
    ] = False,
    price: PriceOption = None,
) -> None:
    """Make the tables, figures and claims of a study, or of several together, from the results in a store."""
    from aggregate.aggregate import aggregate_studies
    from aggregate.reference import load_authors
    from jobs.price import price_of

    of_gpu_hour = price_of(price) if price else None
    studies = [(each, each.plan()) for each in map(load_study, study)]
    opened = store_at(store)
    cells = {each.cell.digest: each.cell for _, plan in studies for each in plan}
    surveyed, failures = opened.survey(cells.values()), opened.all_failures(cells)
    found, strays = surveyed.found, surveyed.strays
    if verify_predictions:
        found = opened.with_predictions(found)
    warn(found, strays, surveyed.passed_over)
    authors = load_authors() if reference else None
    aggregate_studies(
        studies,
        found,
        failures,
        made_folder(out),
        strays=strays,
        allow_partial=allow_partial,
        reference=authors,
        price=of_gpu_hour,
        console=console,
    )


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

    found = find_result(result, seed, store_at(store) if store else None)
    made = command(found, _places(place), Path.cwd() / "again")
    comparison = None
    if output is Output.TABLE:
        show_command(found, made)
        for name in unplaced(found.cell, _places(place)):
            console.print(escape(f"say where {name} is: --place {name}=FOLDER"), style="yellow")
    if check:
        comparison = run_again(found, _places(place), log_folder(), errors if output is Output.JSON else console)
    if output is Output.JSON:
        print_json(as_json(found, made, comparison))
    elif comparison is not None:
        show_comparison(comparison)
    if comparison is not None and not comparison.is_equal:
        raise typer.Exit(DataError.exit_code)


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
    show_checks(checks)
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
    print_json(study_schema())


def main() -> None:
    """Run the command; a refusal is one screen on stderr and a documented exit code."""
    try:
        app()
    except ReinitError as error:
        errors.print(f"[bold red]error:[/bold red] {escape_lines(str(error))}", soft_wrap=True)
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
