"""Time to make 10,000 Jobs and to write them as YAML: this project's writer beside PyYAML's, in Python and in C.

    python benchmarks/render.py [--jobs 10000]

The same manifests, quoted alike and read back as equal. Prints seconds of CPU, ratios and size. The floor is the
encoding of the same values as JSON by the standard library, which is C and knows no indentation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import yaml

from jobs.cluster import Cluster
from jobs.manifest import Manifest, job, to_yaml
from jobs.study import load_study

T = TypeVar("T")

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


def _timed(what: Callable[[], T], times: int = 3) -> tuple[float, T]:
    """Least CPU seconds of several calls: the first also pays for memory that the others find."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        made = what()
        seconds.append(time.process_time() - start)
    return min(seconds), made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    count = parser.parse_args().jobs
    cells = list(itertools.islice(itertools.cycle(load_study("paper").plan()), count))
    made, jobs = _timed(lambda: [job("paper", each.cell, each.seeds, SITE) for each in cells])
    ours, text = _timed(lambda: to_yaml(jobs))
    floor, _ = _timed(lambda: [json.dumps(each) for each in jobs])
    print(f"{count:,} Jobs made in {made:.2f} s, {len(text) / 1e6:.1f} MB of YAML")
    print(f"{'writer':<24}{'seconds':>9}{'to ours':>9}")
    print(f"{'this project':<24}{ours:>9.2f}{1:>9.1f}")
    print(f"{'json.dumps (floor)':<24}{floor:>9.2f}{floor / ours:>9.2f}")
    for name, base in (("PyYAML, C", yaml.CSafeDumper), ("PyYAML, Python", yaml.SafeDumper)):
        theirs, other = _timed(partial(_by_library, jobs, base), times=1)
        print(f"{name:<24}{theirs:>9.2f}{theirs / ours:>9.1f}")
        first = slice(0, other.index("\n---\n", 4) if count > 1 else None)
        if yaml.safe_load(other[first]) != jobs[0]:
            raise SystemExit(f"{name} wrote something else")
    if list(yaml.load_all(text, Loader=yaml.CSafeLoader)) != jobs:
        raise SystemExit("what this project wrote does not read back as the same values")
    print("every document reads back as the value that it was made of")


if __name__ == "__main__":
    main()
