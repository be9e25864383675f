"""A small server that speaks the part of the Kubernetes API that the client uses, with faults to order.

Law: shapes of answers are those of a real server: Status objects for errors, `continue` tokens, 410 for one that has
expired, apply that makes or changes, foreground deletion that takes a while. One server, one namespace's objects.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import yaml

TOKEN = "a-token-of-the-tests"
ROLE = Path(__file__).parents[1] / "k8s" / "base" / "submitter.yaml"


@lru_cache(maxsize=1)
def granted() -> frozenset[tuple[str, str]]:
    """Resource and verb of everything that the shipped role allows."""
    rules = yaml.safe_load(ROLE.read_text(encoding="utf-8"))["rules"]
    return frozenset((kind, verb) for rule in rules for kind in rule["resources"] for verb in rule["verbs"])


def allowed(method: str, path: str) -> bool:
    """Whether a holder of the shipped role may: this server enforces it in every test."""
    kind, *rest = path.partition("/namespaces/")[2].split("/")[1:]
    resource = "/".join([kind, *rest[1:]])
    single = {"GET": ("get",), "PATCH": ("patch", "create"), "DELETE": ("delete",), "POST": ("create",)}
    plural = {"GET": ("list",), "POST": ("create",), "DELETE": ("deletecollection",)}
    verbs = (single if rest else plural).get(method, ("none",))
    return all((resource, verb) in granted() for verb in verbs)


@dataclass
class Fault:
    """What to answer instead, `times` times, to requests that `method` and `part` of the path select."""

    status: int
    """0 drops the connection; -1 drops it after the request was carried out; -2 in the middle of the answer."""
    method: str = ""
    part: str = ""
    times: int = 1
    message: str = "a fault"
    reason: str = "InternalError"
    headers: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Cluster:
    """What the server holds."""

    objects: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=lambda: {"jobs": {}, "pods": {}, "events": {}}
    )
    logs: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    warning: str | None = None
    deletion_polls: int = 2
    """GETs that still find a Job that is being deleted in the foreground."""
    on_delete: Callable[[str], None] = lambda _name: None
    most_at_once: int = 0
    host: str = ""
    _serial: int = 0
    _now: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, kind: str, thing: dict[str, Any]) -> None:
        """Put an object, as if a controller had."""
        with self._lock:
            self._serial += 1
            meta = thing["metadata"]
            meta.setdefault("uid", f"uid-{self._serial}")
            meta.setdefault("creationTimestamp", f"2026-01-01T00:00:{self._serial % 60:02d}Z")
            self.objects[kind][meta["name"]] = thing

    def asked(self, method: str, part: str = "") -> list[dict[str, str]]:
        """Queries of the requests so far that these select."""
        return [query for verb, path, query in self.requests if verb == method and part in path]

    def kubeconfig(self, folder: Path, token: str = TOKEN) -> Path:
        """A file that leads to this server."""
        path = folder / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.host}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def answer(self, method: str, path: str, query: dict[str, str], body: str) -> tuple[int, Any]:
        """Status and JSON value, or text."""
        parts = path.strip("/").split("/")
        at = parts.index("namespaces") + 2
        kind, name, part = [*parts[at:], "", ""][:3]
        with self._lock:
            if part == "log":
                return (200, self.logs[name]) if name in self.logs else _status(404, "NotFound", f'pods "{name}"')
            if method == "PATCH":
                return self._apply(name, json.loads(body), query)
            if method == "DELETE":
                return self._delete(name, json.loads(body))
            return self._get(kind, name) if name else self._list(kind, query)

    def _apply(self, name: str, manifest: dict[str, Any], query: dict[str, str]) -> tuple[int, Any]:
        if query.get("fieldManager") != "reinit" or query.get("fieldValidation") != "Strict":
            return _status(400, "BadRequest", "fieldManager is required for apply patch")
        there = self.objects["jobs"].get(name)
        if there is not None and there["spec"]["template"] != manifest["spec"]["template"]:
            return _status(422, "Invalid", "spec.template: field is immutable")
        if there is None and "dryRun" not in query:
            self.add("jobs", {**manifest, "status": {}})
        return (200 if there else 201), manifest

    def _delete(self, name: str, options: dict[str, Any]) -> tuple[int, Any]:
        there = self.objects["jobs"].get(name)
        if there is None:
            return _status(404, "NotFound", f'jobs.batch "{name}" not found')
        if (wanted := options["preconditions"]["uid"]) != there["metadata"]["uid"]:
            return _status(409, "Conflict", f"the UID in the precondition ({wanted}) does not match")
        if options["propagationPolicy"] == "Foreground":
            there["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            there["polls"] = self.deletion_polls
        else:
            del self.objects["jobs"][name]
        self.on_delete(name)
        return 200, {"kind": "Status", "status": "Success"}

    def _get(self, kind: str, name: str) -> tuple[int, Any]:
        there = self.objects[kind].get(name)
        if there is not None and "polls" in there:
            there["polls"] -= 1
            if there["polls"] < 0:
                del self.objects[kind][name]
                there = None
        return (200, there) if there else _status(404, "NotFound", f'{kind} "{name}" not found')

    def _list(self, kind: str, query: dict[str, str]) -> tuple[int, Any]:
        wanted = [pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair]
        found = [
            thing
            for _, thing in sorted(self.objects[kind].items())
            if all((thing["metadata"].get("labels") or {}).get(key) == value for key, value in wanted)
        ]
        start, limit = int(query.get("continue", 0)), int(query.get("limit", 0)) or len(found)
        more = {"continue": str(start + limit)} if start + limit < len(found) else {}
        return 200, {"kind": "List", "metadata": more, "items": found[start : start + limit]}


def _status(code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> tuple[int, Any]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    return code, {**status, "reason": reason, "message": message, "details": details or {}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        cluster = cast("_Server", self.server).cluster
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        with cluster._lock:
            cluster._now += 1
            cluster.most_at_once = max(cluster.most_at_once, cluster._now)
            cluster.requests.append((self.command, url.path, query))
            fault = self._fault(cluster, url.path + "?" + url.query)
        try:
            time.sleep(0.002)
            if fault is None or fault.status < 0:
                authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                if not authorised:
                    status, value = _status(401, "Unauthorized", "Unauthorized")
                elif not allowed(self.command, url.path):
                    status, value = _status(403, "Forbidden", f"{self.command} {url.path} is not in the role")
                else:
                    status, value = cluster.answer(self.command, url.path, query, body)
                if fault is None:
                    warning = {"Warning": f'299 - "{cluster.warning}"'} if cluster.warning else {}
                    self._send(status, value, warning)
                    return
            if fault.status <= 0:
                if fault.status == -2:
                    self._send(status, value, {}, whole=False)
                self.close_connection = True
                return
            self._send(*_status(fault.status, fault.reason, fault.message, fault.details), fault.headers)
        finally:
            with cluster._lock:
                cluster._now -= 1

    def _fault(self, cluster: Cluster, path: str) -> Fault | None:
        for fault in cluster.faults:
            if fault.times and self.command.startswith(fault.method) and fault.part in path:
                fault.times -= 1
                return fault
        return None

    def _send(self, status: int, value: Any, headers: dict[str, str], *, whole: bool = True) -> None:
        is_text = isinstance(value, str)
        data = value.encode() if is_text else json.dumps(value).encode()
        sent = data if whole else data[: len(data) // 2]
        # A log comes in chunks, since nobody knows its length.
        length = {"Transfer-Encoding": "chunked"} if is_text else {"Content-Length": str(len(data))}
        self.send_response(status)
        for name, text in {**length, **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if is_text:
            sent = b"%x\r\n%s\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if whole else b"")
        with suppress(OSError):
            self.wfile.write(sent)

    do_GET = do_PATCH = do_DELETE = _serve  # noqa: N815  the library's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's signature
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    cluster: Cluster


@contextmanager
def serve() -> Iterator[Cluster]:
    """A server of an empty cluster on the loopback."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.cluster = Cluster(host=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.cluster
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
