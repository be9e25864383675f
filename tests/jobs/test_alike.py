"""Documents like one before come out as if each were read and checked by itself."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.alike import Patterns
from jobs.checks import Checks, lint_job
from jobs.documents import Document, read_documents, read_whole
from jobs.finding import Loc
from jobs.lint import lint_paths, lint_text
from jobs.manifest import to_yaml
from jobs.rules import Site
from jobs.yamlvalues import BadDocument
from tests.jobs.test_lint import BASES, MUTATIONS, REFUSED, SITE, WARNED, Manifest

PAGE = """\
kind: "Job"
metadata:
  name: first
  labels: {a: b, c: d}
  flow: [a,
    b
    ]
  text: |
    key: value
    other
  folded: one
    two
  here:
    below
list:
- 1
- 'x'
- - deep
  - b: "c"
# comment: d
last: word
"""
HEAD = re.compile(r"\s*(?:- )*(?:[a-z]+: ?)?")
RAW = st.sampled_from(
    [
        *("other", '"other"', "'other'", "7", "07", "0x1F", "1e5", "yes", "~", "null", "a:b", "a: b", "a:", "a #b"),
        *('"a\\"b\\\\"', '"a\\nb"', '"a', '"a" b', "'it''s'", "&x a", "*x", "!!str a", "! a", "{a: b}", "[a]", "|"),
        *("1" * 500, ".nan", "2001-01-01", "<<", "=", "a,b", "a]", "é", "a\tb", "---", "--- a", "", " a", "a ", "- a"),
    ]
) | st.text(alphabet=" :#'\"\\-[]{}&*!|>%@`,ab01.e~\n", max_size=6)
BETWEEN = st.sampled_from([*["---\n"] * 3, "---\n---\n", "--- # said\n", "...\n---\n", "%YAML 1.1\n---\n", "\r\n", ""])


def said(read: Iterator[Document]) -> list[Any]:
    """Everything that a reader of documents learns."""
    found: list[Any] = []
    try:
        found.extend(
            (each.number, repr(each.data), [(loc, each.line(loc)) for loc in paths(each.data)]) for each in read
        )
    except BadDocument as bad:
        found.append((bad.rule, bad.problem, bad.line, bad.got, bad.allowed))
    return found


def paths(data: Any, loc: Loc = ()) -> Iterator[Loc]:
    """The path of every value, and of one that is not there."""
    yield loc
    yield (*loc, "absent")
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, inner in entries:
        yield from paths(inner, (*loc, key))


def whole(text: str) -> Iterator[Document]:
    return (Document(data, number, node) for number, (data, node) in enumerate(read_whole(text), 1) if data is not None)


def with_lines(data: st.DataObject, page: str, most: int = 3) -> str:
    """The page with a few lines that end otherwise."""
    lines = page.split("\n")
    for index in data.draw(st.lists(st.integers(0, len(lines) - 2), max_size=most)):
        head = HEAD.match(lines[index])
        assert head is not None
        lines[index] = head[0] + data.draw(RAW)
    return "\n".join(lines)


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_a_stream_of_documents_alike_reads_as_it_does_from_end_to_end(data: st.DataObject) -> None:
    text = PAGE
    for _ in range(data.draw(st.integers(1, 4))):
        text += data.draw(BETWEEN) + with_lines(data, PAGE)
    assert said(read_documents(text, Patterns())) == said(whole(text))


@settings(deadline=None, max_examples=400)
@given(raw=RAW, line=st.integers(0, PAGE.count("\n") - 1))
def test_one_scalar_of_any_kind_reads_as_it_does_from_end_to_end(raw: str, line: int) -> None:
    lines = PAGE.split("\n")
    head = HEAD.match(lines[line])
    assert head is not None
    lines[line] = head[0] + raw
    text = f"{PAGE}---\n{PAGE}---\n" + "\n".join(lines)
    assert said(read_documents(text, Patterns())) == said(whole(text))


@settings(deadline=None, max_examples=200)
@given(text=st.text(alphabet="{}[]&*!<>:-?\"'|%@`,#\n ab10.e~", max_size=30))
def test_no_text_reads_otherwise_in_parts(text: str) -> None:
    above = f"a: b\n---\n{text}\n---\nc: d"
    assert said(read_documents(above, Patterns())) == said(whole(above))


def test_what_stands_above_a_character_that_yaml_forbids_is_still_checked() -> None:
    text = to_yaml([BASES["one GPU"]])
    report = lint_text(text + "---\n" + text.replace("sst2", "\x7f"), "x.yaml", SITE)
    assert report.jobs == 1
    assert [(each.rule, each.document) for each in report.findings] == [("yaml-syntax", 2)]


def test_a_document_alike_is_not_read_and_shares_what_it_has_in_common() -> None:
    text = f"{PAGE}---\n{PAGE}---\n" + PAGE.replace("word", "thing").replace('"c"', '"\\"q\\" \\\\"')
    _, first, second = read_documents(text, Patterns())
    assert second.pattern is first.pattern is not None
    assert second.changed == (("list", 2, 1, "b"), ("last",))
    assert second.data["metadata"] is first.data["metadata"]
    assert (second.data["last"], first.data["last"]) == ("thing", "word")
    assert second.data["list"][2][1] == {"b": '"q" \\'}
    assert first.data["list"][2][1] == {"b": "c"}


def test_aliases_and_merges_are_read_again() -> None:
    for page in ("a: &x one\nb: *x\n", "a: &x\n  c: one\nb:\n  <<: *x\n"):
        text = f"---\n{page}---\n{page.replace('one', 'two')}"
        found = list(read_documents(text, Patterns()))
        assert [each.changed for each in found] == [(), ()]
        assert repr(found[1].data) == repr(found[0].data).replace("one", "two")


def test_documents_alike_are_known_across_files(tmp_path: Path) -> None:
    for index in range(3):
        manifest = copy.deepcopy(BASES["one GPU"])
        manifest["metadata"]["name"] = f"Job-{index}"
        (tmp_path / f"{index}.yaml").write_text("# first line\n" * index + to_yaml([manifest]), encoding="utf-8")
    found = lint_paths([str(tmp_path)], SITE).findings
    assert [(each.rule, each.got, each.line) for each in found] == [
        ("name", f'"Job-{index}"', index + 5) for index in range(3)
    ]


# ------------------------------------------------------------------------------------------------------------- checks

MISTAKES: list[Callable[[Manifest], Any]] = [
    lambda _: None,
    *MUTATIONS.values(),
    *(mutation for _, mutation in (*REFUSED, *WARNED)),
]
VALUES: list[Any] = [
    *("", "main", "other", "Indexed", "Never", "OnFailure", "Always", "In", "NotIn", "FailIndex", "Ignore", "Count"),
    *("1m", "1500m", "2Ti", "16Gi", "-1", "0", "1", "Memory", "HugePages", "a/b", "v1.2", "Upper", "z" * 60, "z" * 70),
    *("/tmp", "/x:y", "shm", "tmp", "sh", "-c", "python -m reinit", "None", "root", "Unconfined", "Exists", "ALL"),
    *(0, 1, -1, 9, 143, 70_000, 2**31, 2.5, True, False, None),
]


def scalars(data: Any) -> list[Loc]:
    return [loc for loc in paths(data) if loc[-1:] != ("absent",) and not isinstance(at(data, loc), dict | list)]


def stream(jobs: list[Manifest]) -> str:
    """The Jobs one below the other, in whatever style their scalars need, without aliases."""
    whole: list[Manifest] = json.loads(json.dumps(jobs))
    return yaml.dump_all(whole, Dumper=yaml.CSafeDumper, sort_keys=False, explicit_start=True, width=10**6)


def at(data: Any, loc: Loc) -> Any:
    for part in loc:
        data = data[part]
    return data


@settings(deadline=None, max_examples=200)
@given(data=st.data(), version=st.sampled_from(["1.30", "1.32", "1.37"]))
def test_a_job_alike_is_found_to_have_what_it_has_by_itself(data: st.DataObject, version: str) -> None:
    base = copy.deepcopy(BASES[data.draw(st.sampled_from(sorted(BASES)))])
    data.draw(st.sampled_from(MISTAKES))(base)
    jobs = [base]
    for _ in range(3):
        other = copy.deepcopy(base)
        for loc in data.draw(st.lists(st.sampled_from(scalars(base)), max_size=4)):
            at(other, loc[:-1])[loc[-1]] = data.draw(st.sampled_from(VALUES))
        jobs.append(other)
    jobs = data.draw(st.permutations(jobs))
    checks = Checks(Site(version, frozenset({"cpu", "memory"})))
    for document, manifest in zip(read_documents(stream(jobs), Patterns()), jobs, strict=True):
        assert repr(document.data) == repr(manifest)
        assert checks.of(document) == lint_job(manifest, checks.site)


def test_every_single_scalar_of_a_job_is_checked_as_by_itself() -> None:
    manifest = BASES["one GPU"]
    locs = scalars(manifest)
    jobs = [manifest, manifest]
    for loc, value in itertools.product(locs, ("", "-1", -1, True, None)):
        other = copy.deepcopy(manifest)
        at(other, loc[:-1])[loc[-1]] = value
        jobs.append(other)
    checks = Checks(SITE)
    for document, made in zip(read_documents(stream(jobs), Patterns()), jobs, strict=True):
        assert checks.of(document) == lint_job(made, SITE), document.changed


def test_findings_in_jobs_alike_name_their_own_lines() -> None:
    other = copy.deepcopy(BASES["one GPU"])
    other["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "1Gi"
    jobs = [BASES["one GPU"], BASES["another namespace"], other, other]
    text = to_yaml(jobs)
    found = [each for each in lint_text(text, "x.yaml", SITE).findings if each.rule == "request-above-limit"]
    lines = [number for number, line in enumerate(text.split("\n"), 1) if line.strip() == 'memory: "16Gi"']
    asked = [number for number in lines if text.split("\n")[number - 2].strip().startswith("cpu")]
    assert [each.document for each in found] == [3, 4]
    assert {each.line for each in found} <= set(asked)
    assert [each.got for each in found] == ['"16Gi"', '"16Gi"']
