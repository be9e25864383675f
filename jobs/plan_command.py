"""`reinit plan`: what a study comes to, by the study, the store and the site.

Law: it reads, and changes nothing; without `--store` it asks no server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final

import typer

from jobs.cost import Estimate, estimate, lacking
from jobs.cost_views import estimate_json, estimate_lines, group_hours
from jobs.options import (
    MaybeClusterOption,
    MaybeStoreOption,
    Output,
    OutputOption,
    PriceOption,
    StudyArgument,
    site_of,
    store_at,
)
from jobs.plan import Plan
from jobs.price import price_of
from jobs.study import load_study
from jobs.throughput import measured
from jobs.views import cell_table, console, plan_json, plan_notes, plan_table, print_json, warn

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from jobs.found import Found
    from jobs.store import Store

MOST_OTHER_CELLS: Final = 200
"""Of other studies, by whose results a plan is estimated where its own say too little."""


def plan(
    study: StudyArgument,
    store: MaybeStoreOption = None,
    cluster: MaybeClusterOption = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="MODEL", help="Estimate for this device, as results name it.")
    ] = None,
    price: PriceOption = None,
    cells: Annotated[bool, typer.Option("--cells", help="One line a cell instead of a summary.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what a study asks for and what it will take: cells, runs, steps, hours, money; and what --store has."""
    loaded, site = load_study(study), site_of(cluster) if cluster else None
    planned = loaded.plan()
    asked = price or (site.gpu_hour_price if site else None)
    of_gpu_hour = price_of(asked) if asked else None
    opened = store_at(store) if store else None
    surveyed = opened.survey(each.cell for each in planned) if opened else None
    found = surveyed.found if surveyed else None
    if surveyed:
        warn(surveyed.found, passed_over=surveyed.passed_over)
    estimated = _estimated(planned, opened, found or {}, device, site)
    if output is Output.JSON:
        print_json(plan_json(loaded, planned, found) | {"estimate": estimate_json(estimated, of_gpu_hour)})
        return
    hours = group_hours(estimated, left=found is not None)
    if cells:
        console.print(cell_table(planned, found, hours))
    else:
        console.print(plan_table(loaded, planned, found, hours))
        finetunes = f"{planned.finetunes:,} finetunes with {planned.finetune_steps:,} optimiser steps"
        console.print(f"[bold]{len(planned):,} cells, {planned.runs:,} runs[/bold]: {finetunes}")
        if notes := plan_notes(planned):
            console.print(notes)
        for line in estimate_lines(estimated, of_gpu_hour, study):
            console.print(line, soft_wrap=True)


def _estimated(
    planned: Plan, store: Store | None, found: Mapping[str, Found], device: str | None, site: Cluster | None
) -> Estimate:
    """By the study's own results, and by some of other studies in the store where these say too little."""
    own = [result for each in found.values() for result in each.results.values()]
    if store is not None and lacking(planned, measured(own)):
        # Digests are hashes, so that the first of them are a sample; a store may hold a hundred thousand cells.
        others = [
            digest for digest in store.digests("") if re.fullmatch("[0-9a-f]{64}", digest) and digest not in found
        ]
        some = store.all_results(others[:MOST_OTHER_CELLS]) if others else {}
        own += [result for each in some.values() for result in each.results.values()]
    done = {digest: each.done for digest, each in found.items()}
    wanted = device or (site.gpu_type if site else None)
    return estimate(planned, done, measured(own), device=wanted, gpu=site.gpus > 0 if site else None)
