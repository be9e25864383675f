"""10,000 Jobs in a file checked offline: `reinit lint` beside kubernetes-validate.

    python -m benchmarks.lint [--jobs 10000] [--quick]

The same YAML, read and checked as each command does it: kubernetes-validate by the API's schema alone, this project by
the schema, its own rules and Pod Security. The peer checks a sample, since each Job costs it alike, and is multiplied.
The floor is reading the same values as JSON by the standard library.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import install, spent
from benchmarks.render import SITE
from benchmarks.table import Line, main
from jobs.lint import lint_paths
from jobs.manifest import job, to_yaml
from jobs.rules import Site
from jobs.study import load_study

PEERS: Final = ("kubernetes-validate==1.37.0", "importlib-resources==6.5.2")
VERSION: Final = "1.32"
SAMPLE: Final = 100


def lines(options: argparse.Namespace) -> list[Line]:
    """The one line."""
    install(*PEERS)
    from kubernetes_validate.utils import validate_file  # type: ignore[import-not-found, unused-ignore]

    count = 500 if options.quick else options.jobs
    cells = list(itertools.islice(itertools.cycle(load_study("paper").plan()), count))
    jobs = [job("paper", each.cell, each.seeds, SITE) for each in cells]
    with tempfile.TemporaryDirectory() as made:
        whole, part = Path(made, "jobs.yaml"), Path(made, "sample.yaml")
        whole.write_text(to_yaml(jobs), encoding="utf-8")
        sample = jobs[:: max(1, count // SAMPLE)]
        part.write_text(to_yaml(sample), encoding="utf-8")
        ours, report = spent(lambda: lint_paths([str(whole)], Site(VERSION)))
        check: Callable[[], Any] = partial(validate_file, str(part), VERSION, strict=True, quiet=True, no_warn=False)
        theirs, code = spent(check)
    if code or report.jobs != count:
        raise SystemExit(f"kubernetes-validate ended with {code}; ours looked at {report.jobs} Jobs of {count}")
    text = json.dumps(jobs)
    floor, _ = spent(lambda: json.loads(text))
    note = f"theirs measured on {len(sample)} Jobs and multiplied; ours also names {len(report.findings):,} findings"
    scaled = theirs * (count / len(sample))
    return [Line(f"{count:,} Jobs checked: kubernetes-validate", scaled, ours, 20.0, floor=floor.cpu, notes=(note,))]


if __name__ == "__main__":
    main(lines, __doc__, lambda parser: parser.add_argument("--jobs", type=int, default=10_000))
