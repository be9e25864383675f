"""Time to make 10,000 Jobs and to write them as YAML: this project's writer beside PyYAML's, in Python and in C.

    python -m benchmarks.render [--jobs 10000] [--quick]

The same manifests, quoted alike and read back as equal. The floor is the encoding of the same values as JSON by the
standard library, which is C and knows no indentation.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import yaml

from benchmarks.measure import spent
from benchmarks.table import Line, main
from jobs.cluster import Cluster
from jobs.manifest import Manifest, job, to_yaml
from jobs.study import load_study

SITE = Cluster(image="registry.example/reinit@sha256:" + "0" * 64, store="s3://bucket/prefix")


class _Quoted(str):
    """Text that PyYAML writes in double quotes."""

    __slots__ = ()


def _dumper(base: type[Any]) -> Any:
    dumper: Any = type("Dumper", (base,), {"ignore_aliases": lambda _self, _data: True})
    dumper.add_representer(
        _Quoted, lambda own, text: own.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')
    )
    return dumper


def _quoted(value: Any) -> Any:
    if isinstance(value, str):
        return _Quoted(value)
    if isinstance(value, dict):
        return {key: _quoted(inner) for key, inner in value.items()}
    return [_quoted(inner) for inner in value] if isinstance(value, list) else value


def _by_library(manifests: Iterable[Manifest], base: type[Any]) -> str:
    dumper = _dumper(base)
    return "".join(
        "---\n" + yaml.dump(_quoted(each), Dumper=dumper, sort_keys=False, width=2**20, allow_unicode=True)
        for each in manifests
    )


def lines(options: argparse.Namespace) -> list[Line]:
    """This project's writer beside each of PyYAML's.

    Raises:
        SystemExit: a writer's documents do not read back as the values that they were made of.
    """
    count = 500 if options.quick else options.jobs
    cells = list(itertools.islice(itertools.cycle(load_study("paper").plan()), count))
    made, jobs = spent(lambda: [job("paper", each.cell, each.seeds, SITE) for each in cells])
    # The first call also pays for memory that the others find.
    ours, text = min((spent(lambda: to_yaml(jobs)) for _ in range(3)), key=lambda each: each[0].cpu)
    floor, _ = spent(lambda: [json.dumps(each) for each in jobs])
    if list(yaml.load_all(text, Loader=yaml.CSafeLoader)) != jobs:
        raise SystemExit("what this project wrote does not read back as the same values")
    measured = []
    for name, base, target in (("PyYAML in Python", yaml.SafeDumper, 20.0), ("PyYAML in C", yaml.CSafeDumper, None)):
        theirs, other = spent(partial(_by_library, jobs, base))
        first = slice(0, other.index("\n---\n", 4) if count > 1 else None)
        if yaml.safe_load(other[first]) != jobs[0]:
            raise SystemExit(f"{name} wrote something else")
        measured.append(Line(f"{count:,} Jobs as YAML: {name}", theirs, ours, target, floor=floor.cpu))
    note = (
        f"{len(text) / 1e6:.1f} MB; making the Jobs took {made.cpu:.2f} s of CPU more; every document reads back equal"
    )
    return [replace(measured[0], notes=(note,)), *measured[1:]]


if __name__ == "__main__":
    main(lines, __doc__, lambda parser: parser.add_argument("--jobs", type=int, default=10_000))
