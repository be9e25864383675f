"""A real browser for tests: Debian's Chromium, driven over the WebDriver protocol.

Law: no network but the driver's own port, and nothing is left behind. Where there is no browser, tests that ask for one
are skipped and say so.
"""

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.s3 import free_ports

START_SECONDS = 60
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=1280,1000",
]  # fmt: skip


@dataclass(frozen=True)
class Browser:
    """One window. Commands and their answers are those of https://www.w3.org/TR/webdriver2/."""

    url: str
    """Of the driver's session."""

    def open(self, page: Path) -> None:
        """Show a local file."""
        self._post("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: object) -> Any:
        """What the body of a function returns, run in the page; a promise is waited for."""
        return self._post("/execute/sync", {"script": script, "args": arguments})

    def press(self, keys: str) -> None:
        """Send keys to whatever has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def emulate(self, feature: str, value: str) -> None:
        """Set a media feature, as `prefers-color-scheme` to `dark`."""
        parameters = {"features": [{"name": feature, "value": value}]}
        self._post("/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": parameters})

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(_ask("GET", f"{self.url}/screenshot"))

    def complaints(self) -> list[str]:
        """What the browser had to say of the page: refused loads, scripts that failed."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def _post(self, path: str, body: object) -> Any:
        return _ask("POST", self.url + path, body)


def _ask(method: str, url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
        return json.load(answer)["value"]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A window of this test process's own browser."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    folder, (port,) = tmp_path_factory.mktemp("browser"), free_ports(1)
    with (folder / "driver.log").open("wb") as log:
        process = subprocess.Popen([driver, f"--port={port}"], stdout=log, stderr=log)
    try:
        window = _window(f"http://127.0.0.1:{port}", [*FLAGS, f"--user-data-dir={folder}"])
        yield window
        _ask("DELETE", window.url)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _window(driver: str, flags: list[str]) -> Browser:
    options = {"args": flags, "binary": shutil.which("chromium")}
    wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(urllib.error.URLError):
            session = _ask("POST", f"{driver}/session", {"capabilities": {"alwaysMatch": wanted}})
            return Browser(f"{driver}/session/{session['sessionId']}")
        if time.monotonic() > deadline:
            raise RuntimeError("the browser did not start")
        time.sleep(0.1)
