import io
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from aggregate import figures
from aggregate.aggregate import FILES, Written, aggregate_runs, aggregate_studies
from aggregate.coverage import Extras
from aggregate.frame import read_frame
from aggregate.reference import load_authors
from jobs.cell import Reinit
from jobs.errors import ConfigurationError, DataError
from jobs.found import Damaged
from jobs.plan import Plan, PlannedCell
from jobs.result import DivergedRun, RunResult
from jobs.store import open_store
from tests.aggregate.evil import EVIL
from tests.aggregate.runs import (
    SMALL,
    a_frame,
    cell,
    every_family,
    permuted,
    planned,
    progressive_plans,
    rising,
    scored,
)
from tests.aggregate.runs import found as found_of
from tests.make import MODEL, a_failure, a_provenance, a_result, some_predictions

PLANS = progressive_plans()
RESULTS = scored(PLANS, rising)
HOLE = RESULTS[1:]
# Two depths make no curve: for tests of what is written around a figure, which need none drawn.
TWO_PLANS, TWO_RESULTS = PLANS[:2], RESULTS[:6]
Results = list[RunResult | DivergedRun]


@dataclass(frozen=True)
class About:
    name: str = "a-study"
    title: str = "A title"
    note: str = "A note."


def written(out: Path, *, plans: list[PlannedCell] = PLANS, results: Results = RESULTS, **options: Any) -> Written:
    runs = a_frame(plans, results)
    extras = options.pop("extras", Extras())
    return aggregate_runs(About(), runs, extras, out, **options)


@pytest.fixture(scope="module")
def aggregated(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A complete study, aggregated once for the tests that read its files or copy them."""
    return written(tmp_path_factory.mktemp("study") / "new" / "folder")


@pytest.fixture
def earlier(aggregated: Written, tmp_path: Path) -> Path:
    """A folder with the files of an earlier aggregation, for a test to write into."""
    out = tmp_path / "earlier"
    shutil.copytree(aggregated.files[0].parent, out)
    return out


REFERENCE = {f"reference.{kind}" for kind in ("md", "tex", "csv")}
TABLES = [name for name in FILES if not name.startswith("reference.") and name.split(".")[0] not in figures.NAMES]
FIGURES = [f"{name}.{kind}" for name in ("progressive", "heatmap") for kind in figures.KINDS]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_complete_study_writes_every_file_and_nothing_else(aggregated: Written) -> None:
    assert [file.name for file in aggregated.files] == [*TABLES[:-1], *FIGURES, TABLES[-1]]
    assert set(contents(aggregated.files[0].parent)) == {*TABLES, *FIGURES}


def test_a_study_with_every_cell_may_write_every_file_but_the_reference() -> None:
    drawn = figures.draw_all(a_frame(every_family(), []))
    assert {f"{name}.{kind}" for name in drawn for kind in figures.KINDS} == set(FILES) - set(TABLES) - REFERENCE


def test_the_same_results_give_the_same_bytes(aggregated: Written, tmp_path: Path) -> None:
    written(tmp_path, results=RESULTS[::-1])
    assert contents(tmp_path) == contents(aggregated.files[0].parent)


def test_a_study_with_a_hole_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 15 runs have no score"):
        written(tmp_path / "out", results=HOLE)
    assert not (tmp_path / "out").exists()


def test_a_refusal_leaves_the_files_of_before(earlier: Path) -> None:
    before = contents(earlier)
    with pytest.raises(DataError):
        written(earlier, results=HOLE)
    assert contents(earlier) == before


def test_a_partial_study_is_marked_in_table_coverage_and_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    result = written(tmp_path, results=HOLE, allow_partial=True, console=Console(file=out, width=200))
    assert "n = 2 of 3; 1 missing" in (tmp_path / "table.md").read_text()
    assert "n = 2 of 3; 1 missing" in (tmp_path / "table.tex").read_text()
    assert "n = 2 of 3; 1 missing" in (tmp_path / "table.csv").read_text()
    assert "planned runs without a score: 1 of 15" in (tmp_path / "coverage.md").read_text()
    assert "n = 2 of 3; 1 missing" in out.getvalue()
    assert result.notes[0] == "INCOMPLETE: planned runs without a score: 1 of 15."


def test_damage_is_refused_and_with_allow_partial_noted(tmp_path: Path) -> None:
    extras = Extras(damaged=(Damaged("runs/x", "sha256 differs"),))
    with pytest.raises(DataError, match="not complete"):
        written(tmp_path, plans=TWO_PLANS, results=TWO_RESULTS, extras=extras)
    written(tmp_path, plans=TWO_PLANS, results=TWO_RESULTS, extras=extras, allow_partial=True)
    assert "damaged: runs/x: sha256 differs" in (tmp_path / "coverage.md").read_text()


def test_a_study_without_progressive_cells_removes_the_figure_of_an_earlier_one(earlier: Path) -> None:
    (earlier / "mine.txt").write_text("kept")
    plans = [planned(cell(permuted(1, 0, 2, 3)), families=("permutation",))]
    written(earlier, plans=plans, results=scored(plans, rising))
    assert set(contents(earlier)) == {*TABLES, "mine.txt"} - {"paper.md", "paper.tex"}


def test_a_failure_while_writing_leaves_the_files_of_before(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(earlier)

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigurationError, match="No space"):
        written(earlier, plans=TWO_PLANS, results=TWO_RESULTS[1:], allow_partial=True)
    assert contents(earlier) == before


def test_the_parquet_file_holds_the_frame(aggregated: Written) -> None:
    pd.testing.assert_frame_equal(read_frame(aggregated.files[0].parent / "runs.parquet"), aggregated.frame)


def test_evil_names_titles_and_notes_reach_no_file_unescaped(tmp_path: Path) -> None:
    models = [SMALL.model_copy(update={"name": text, "layers": 2}) for text in EVIL.values()]
    plans = [plan for model in models for plan in progressive_plans(model=model)]
    text, out = "".join(EVIL.values()), io.StringIO()
    runs = a_frame(plans, scored(plans, rising))
    aggregate_runs(About("a-study", text, text), runs, Extras(), tmp_path, console=Console(file=out))
    text_files = [name for name in contents(tmp_path) if not name.endswith((".parquet", ".pdf", ".png"))]
    assert {"claims.md", "claims.json", "effects.csv", "report.html"} <= set(text_files)
    assert {"paper.md", "paper.tex", "progressive.svg", "heatmap.svg", "table.csv"} <= set(text_files)
    for name in text_files:
        assert all(line.isprintable() for line in (tmp_path / name).read_text().split("\n"))
    assert all(line.isprintable() for line in out.getvalue().split("\n"))
    for name in ("table.md", "claims.md", "paper.md", "progressive.svg", "heatmap.svg"):
        assert "<script>" not in (tmp_path / name).read_text()
    for name in ("table.tex", "paper.tex"):
        lines = (tmp_path / name).read_text().splitlines()
        assert not [line for line in lines if r"\input{" in line and not line.startswith("%")]


def test_what_a_store_holds_becomes_tables_with_its_failures_damage_and_duplicates_said(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    for one in TWO_RESULTS[1:]:
        store.put(one, some_predictions(one.seed))
    again = a_result(HOLE[0].cell, HOLE[0].seed, score=0.5, later=9_999, provenance=a_provenance(device="another"))
    store.put(again, some_predictions(again.seed))
    lost = RESULTS[0]
    store.put_failure(a_failure(lost.cell, lost.seed, reason="out of memory"))
    (tmp_path / "store" / lost.key).write_bytes(b"<Error/>")
    digests = [each.cell.digest for each in TWO_PLANS]
    found, failures = store.all_results(digests), store.all_failures(digests)
    with pytest.raises(DataError) as caught:
        aggregate_studies([(About(), Plan(TWO_PLANS))], found, failures, tmp_path / "out")
    assert f"failed: {lost.cell.name}, seed 1: out of memory" in str(caught.value)
    assert "damaged: runs/" in str(caught.value)
    aggregate_studies([(About(), Plan(TWO_PLANS))], found, failures, tmp_path / "out", allow_partial=True)
    text = (tmp_path / "out" / "coverage.md").read_text()
    assert "duplicate: sst2-500-finetune" in text
    assert "2 results, largest difference" in text


def test_claims_are_written_and_shown_and_marked_where_runs_are_missing(tmp_path: Path) -> None:
    out = io.StringIO()
    result = written(tmp_path, results=HOLE, allow_partial=True, console=Console(file=out, width=200))
    assert [claim.id for claim in result.claims] == [f"E{number}" for number in range(1, 14)]
    incomplete = "INCOMPLETE: planned runs without a score: 1 of 15."
    assert json.loads((tmp_path / "claims.json").read_text())["holes"] == incomplete
    assert incomplete in (tmp_path / "claims.md").read_text()
    assert out.getvalue().count("not enough data") >= 13
    assert (tmp_path / "effects.csv").read_text().startswith("effect,model")


def test_several_studies_are_one_table_of_all_their_cells_each_once(tmp_path: Path) -> None:
    second = [replace(TWO_PLANS[0], seeds=(3, 4)), PLANS[2]]
    results = scored([*TWO_PLANS, *second], rising)
    store = open_store((tmp_path / "store").as_uri())
    for one in results:
        store.put(one, some_predictions(one.seed))
    studies = [(About("one", "First"), Plan(TWO_PLANS)), (About("two", "Second"), Plan(second))]
    digests = {each.cell.digest for _, plan in studies for each in plan}
    found, failures = store.all_results(digests), store.all_failures(digests)
    both = aggregate_studies(studies, found, failures, tmp_path / "out")
    shared = both.frame[both.frame["digest"] == TWO_PLANS[0].cell.digest]
    assert shared["seed"].tolist() == [1, 2, 3, 4]
    assert shared["planned"].all()
    assert list(dict.fromkeys(both.frame["study"])) == ["one, two", "one", "two"]
    assert "# one: First; two: Second" in (tmp_path / "out" / "table.md").read_text()
    assert both.frame["digest"].nunique() == 3


def test_a_hole_in_several_studies_names_the_commands_that_fill_it(tmp_path: Path) -> None:
    studies = [(About("one"), Plan(TWO_PLANS)), (About("two"), Plan(PLANS[2:3]))]
    with pytest.raises(DataError) as caught:
        aggregate_studies(studies, {}, {}, tmp_path)
    assert "the union of studies one, two is not complete" in str(caught.value)
    assert "`reinit run one --store URL` and `reinit run two --store URL` run what" in str(caught.value)


def test_a_study_named_twice_is_one(tmp_path: Path) -> None:
    found = found_of(TWO_RESULTS)
    studies = [(About(), Plan(TWO_PLANS))] * 2
    twice = aggregate_studies(studies, found, {}, tmp_path / "twice")
    once = aggregate_studies([(About(), Plan(TWO_PLANS))], found, {}, tmp_path / "once")
    pd.testing.assert_frame_equal(twice.frame, once.frame)
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")


def test_the_authors_values_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    redrawn = [Reinit(layers=tuple(range(k, 12))) for k in (12, 6, 0)]
    plans = [planned(cell(treatment, model=MODEL, size=5000)) for treatment in redrawn]
    written(tmp_path, plans=plans, results=scored(plans, rising), reference=load_authors())
    assert set(contents(tmp_path)) >= REFERENCE
    assert "| sst2 | 5000 | progressive | LayerNorm kept |" in (tmp_path / "reference.md").read_text()
    assert "authors' code" in (tmp_path / "progressive.svg").read_text()
    written(tmp_path, plans=plans, results=scored(plans, rising))
    assert not REFERENCE & set(contents(tmp_path))


def test_authors_values_for_a_study_that_has_no_counterpart_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to compare"):
        written(tmp_path / "out", reference=load_authors())
    assert not (tmp_path / "out").exists()
