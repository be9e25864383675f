"""`reinit run` for real: shared out, stopped and continued, failing loudly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.store import open_store
from tests.reinit.tiny import MINILM, tiny_cell, write_sentences

pytestmark = pytest.mark.slow


def a_study(folder: Path, *, rows: int = 12, epochs: int = 1, seeds: int = 2) -> Path:
    """Two depths on the tiny task; `rows` other than 12 contradict the data."""
    revision = tiny_cell(folder).task.source.revision
    text = f"""
name: tiny
title: Two depths on a few sentences
note: For tests.
model: {{name: "{MINILM.name}", revision: "{MINILM.revision}", layers: 6}}
recipe: {{duration: {{kind: epochs, epochs: {epochs}}}, batch_size: 4, learning_rate: 1e-4, max_length: 16}}
tasks:
  - name: tiny
    source: {{kind: folder, name: tiny, revision: "{revision}"}}
    text: [sentence]
    label: label
    labels: ["0", "1"]
    metrics: [accuracy]
    train_rows: {rows}
    validation_rows: [8]
families:
  - {{family: progressive, preserved: [6, 2], sizes: [8], seeds: {seeds}}}
"""
    path = folder.parent / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def command(study: Path, store: str, folder: Path, *more: str) -> list[str]:
    run = ["run", str(study), "--store", store, "--place", f"tiny={folder}", "--threads", "1", *more]
    return [sys.executable, "-c", "from jobs.cli import main; main()", *run]


def finished(command: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=250)


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "200"}


def science(store: str) -> dict[str, str]:
    """What was measured, by cell and seed."""
    runs = Path(store.removeprefix("file://")) / "runs"
    return {f"{p.parent.name}/{p.name.split('.')[0]}": p.name.split(".")[1] for p in runs.glob("*/*.json")}


def test_results_do_not_depend_on_how_runs_are_shared_out_and_the_store_may_be_a_bucket(
    tmp_path: Path, s3_url: str
) -> None:
    folder = write_sentences(tmp_path / "data")
    study = a_study(folder)
    one, bucket = f"file://{tmp_path}/one", s3_url
    first = finished(command(study, one, folder, "--workers", "1"), tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    second = finished(command(study, bucket, folder, "--workers", "2"), tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    in_bucket = {
        f"{digest}/{seed}": result.science12
        for digest in {key.split("/")[0] for key in science(one)}
        for seed, result in open_store(bucket).results(digest).results.items()
    }
    assert in_bucket == science(one)
    assert len(in_bucket) == 4
    assert not (tmp_path / "one" / "logs").exists(), "the store has logs of failed runs alone"
    again = finished(command(study, bucket, folder), tmp_path)
    assert "all 4 runs are already done" in again.stdout


def test_ctrl_c_keeps_finished_runs_and_the_same_command_does_the_rest(tmp_path: Path) -> None:
    folder = write_sentences(tmp_path / "data")
    study, store = a_study(folder, epochs=8), f"file://{tmp_path}/store"
    arguments = command(study, store, folder, "--workers", "1")
    said = ""
    with subprocess.Popen(
        arguments, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if "1/4" in line:
                process.send_signal(signal.SIGINT)
                break
        said += process.stdout.read()
    assert process.returncode == 130, said
    assert "finished runs are in the store" in said
    kept = science(store)
    assert 1 <= len(kept) < 4
    rest = finished(arguments, tmp_path)
    assert rest.returncode == 0, rest.stdout + rest.stderr
    assert f"{len(kept)} of 4 runs already done" in rest.stdout
    assert len(science(store)) == 4
    assert kept.items() <= science(store).items()


def test_a_packages_model_is_read_from_its_place_and_checked_there(tmp_path: Path) -> None:
    folder = write_sentences(tmp_path / "data")
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"others")
    place = ["--place", f"{MINILM.name}={weights.parent}"]
    done = finished(command(a_study(folder), f"file://{tmp_path}/store", folder, *place), tmp_path)
    assert done.returncode == 65, done.stdout + done.stderr
    assert "are not the ones that the cell names" in done.stderr
    assert str(weights.parent) in done.stderr


def test_a_task_that_the_data_do_not_fit_stops_the_study_before_any_training(tmp_path: Path) -> None:
    folder = write_sentences(tmp_path / "data")
    store = f"file://{tmp_path}/store"
    done = finished(command(a_study(folder, rows=13), store, folder), tmp_path)
    assert done.returncode == 65, done.stdout + done.stderr
    assert "another number of rows" in done.stderr
    assert "expected: 13" in done.stderr
    assert science(store) == {}


def test_weights_with_another_hash_stop_the_study_before_any_training(tmp_path: Path) -> None:
    folder = write_sentences(tmp_path / "data")
    study, store = a_study(folder), f"file://{tmp_path}/store"
    study.write_text(study.read_text().replace(MINILM.revision, "sha256:" + "0" * 64), encoding="utf-8")
    done = finished(command(study, store, folder), tmp_path)
    assert done.returncode == 65, done.stdout + done.stderr
    assert "not the ones that the cell names" in done.stderr
    assert MINILM.revision in done.stderr
    assert science(store) == {}


def test_a_worker_that_is_killed_is_told_with_the_run_it_was_at(tmp_path: Path) -> None:
    folder = write_sentences(tmp_path / "data")
    study, store = a_study(folder, epochs=100), f"file://{tmp_path}/store"
    process = subprocess.Popen(
        command(study, store, folder, "--workers", "1"),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "1/4" in line:
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "killed by signal 9" in errors
    # The next run is handed out a moment after the first is told.
    assert "tiny-8-finetune" in errors or "between two runs" in errors
    assert science(store), "the run that was finished before is kept"


def test_a_result_is_made_again_bit_by_bit_and_one_that_was_altered_is_not(tmp_path: Path) -> None:
    folder = write_sentences(tmp_path / "data")
    study, store = a_study(folder, seeds=1), f"file://{tmp_path}/store"
    first = finished(command(study, store, folder, "--workers", "1"), tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    digest = next(iter(science(store))).partition("/")[0]
    main = [sys.executable, "-c", "from jobs.cli import main; main()", "reproduce"]
    place = ["--place", f"tiny={folder}", "--check"]
    again = finished([*main, digest[:8], "--store", store, *place], tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "equal, bit by bit" in again.stdout
    assert len(science(store)) == 2  # the check writes elsewhere
    path = next((tmp_path / "store" / "runs" / digest).iterdir())
    altered = json.loads(path.read_text())
    altered["metrics"]["dev.tsv/accuracy"] += 0.125
    (tmp_path / "altered.json").write_text(json.dumps(altered))
    told = finished([*main, str(tmp_path / "altered.json"), *place], tmp_path)
    assert told.returncode == 65, told.stdout + told.stderr
    assert "one of the two is wrong" in told.stdout
