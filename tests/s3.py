"""A real S3 server for tests: SeaweedFS on this machine's loopback, one for each test process.

Law: nothing is faked and nothing is left behind. `tests/conftest.py` names this module in `pytest_plugins`; the server
starts with the first test that asks for `s3_server`, and each test has a bucket of its own.
"""

import functools
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "REINITTESTKEY0000001"
SECRET_KEY = "a-secret-of-the-tests-alone"
START_SECONDS = 60
# With these the server opens no port that is not named.
PORTS = [f"-{part}.port{kind}" for part in ("master", "volume", "filer", "s3", "admin") for kind in ("", ".grpc")]
FLAGS = [
    "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false", "-admin.ui=false",
    "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
    # Left alone, the free disk allows so many, and each bucket takes several: a fuller disk would end in status 500.
    "-volume.max=10000",
]  # fmt: skip
AWS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE")

one_loader = functools.cache(create_loader)


@dataclass
class S3Server:
    """A running server and how to reach it."""

    endpoint: str
    client: "S3Client"
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to use the server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def new_bucket(self) -> str:
        """The name of a fresh empty bucket."""
        name = f"bucket-{os.getpid()}-{next(self._numbers)}"
        self.client.create_bucket(Bucket=name)
        return name


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that were free a moment ago, each once."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def connect(endpoint: str) -> "S3Client":
    """A client with the server's credentials that does not wait or repeat."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )


def wait_for_a_write(client: "S3Client", process: subprocess.Popen[bytes], log: Path) -> None:
    """An open port is not enough: volumes come later."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            # One that was killed has it.
            with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no S3 server: {error}\n{log.read_text()[-2000:]}") from error
            time.sleep(0.1)
        else:
            return


class Weed:
    """A server process, which may be killed and started again: what it has on its disk stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "weed.log"
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        endpoint = f"http://127.0.0.1:{self.ports['-s3.port']}"
        self.server = S3Server(endpoint, connect(endpoint))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the server takes writes."""
        weed = Path(sys.executable).with_name("weed")
        flags = [*FLAGS, *(f"{flag}={port}" for flag, port in self.ports.items())]
        environment = os.environ | {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(weed), "mini", f"-dir={self.folder}", *flags],
                env=environment, cwd=self.folder, stdout=output, stderr=output,
            )  # fmt: skip
        wait_for_a_write(self.server.client, self._process, self.log)

    def kill(self) -> None:
        """With SIGKILL, at whatever it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """For good: nothing is left behind."""
        self.server.client.close()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        # The server's own Unix sockets, one for each of its ports.
        for port in self.ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server of this test process; pytest-xdist's workers have one each."""
    weed = Weed(tmp_path_factory.mktemp("s3"))
    try:
        weed.start()
        yield weed.server
    finally:
        weed.close()


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, reached by the environment of this process and of those that it starts."""
    # Each client reads a megabyte of JSON about S3: once is enough.
    monkeypatch.setattr(botocore.session, "create_loader", one_loader)
    for name in AWS:
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()


@pytest.fixture
def s3_url(s3_bucket: str) -> str:
    """URL of an empty store in a bucket."""
    return f"s3://{s3_bucket}/a/prefix"
