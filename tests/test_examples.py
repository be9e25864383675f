"""The examples are what their README says: results that were run, complete, and aggregated in seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.store import open_store
from jobs.study import load_study

EXAMPLES = Path(__file__).parents[1] / "examples"
STUDY = EXAMPLES / "minilm-glue" / "study.yaml"
STORE = f"file://{EXAMPLES / 'minilm-glue' / 'store'}"


@pytest.mark.parametrize("name", ["minilm-glue", "mpnet-sst2"])
def test_every_planned_run_of_an_example_has_a_sound_result_of_one_known_code(name: str) -> None:
    plan = load_study(str(EXAMPLES / name / "study.yaml")).plan()
    found = open_store(f"file://{EXAMPLES / name / 'store'}").all_results({each.cell.digest for each in plan})
    assert not [one for each in found.values() for one in (*each.damaged, *each.contradictions, *each.duplicates)]
    assert all(set(each.seeds) <= found[each.cell.digest].done for each in plan)
    commits = {result.provenance.git_commit for each in found.values() for result in each.results.values()}
    assert len(commits) == 1
    assert not [each for each in commits if each.endswith("+dirty")]


def test_the_example_is_aggregated_without_training(tmp_path: Path) -> None:
    arguments = ["aggregate", str(STUDY), "--store", STORE, "-o", str(tmp_path)]
    main = [sys.executable, "-c", "from jobs.cli import main; main()"]
    done = subprocess.run([*main, *arguments], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"report.html", "progressive.svg", "claims.json", "paper.tex"} <= {path.name for path in tmp_path.iterdir()}
    assert "| 0.789 |" in (tmp_path / "table.md").read_text()
