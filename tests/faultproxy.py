"""A bad road to an S3 server: a proxy that passes requests on, and breaks some of them in ways that were seen.

Law: what is broken is drawn from a seed or said by the test, and counted. Nothing else is touched: the `Host` header
and all others pass as they were signed, so that the real server checks the client's real signature.
"""

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self
from urllib.parse import urlsplit

READS: Final = ("truncated", "xml")
"""Faults of answers that have a body."""
WRITES: Final = ("false 200",)
REFUSALS: Final = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "skewed": (403, "RequestTimeTooSkewed"),
    "expired": (403, "ExpiredToken"),
    "revoked": (403, "InvalidAccessKeyId"),
}
FAULTS: Final = (*REFUSALS, *READS, *WRITES, "reset before", "reset after", "late", "silent")
HOP_BY_HOP: Final = {"connection", "keep-alive", "transfer-encoding"}


def error_body(code: str) -> bytes:
    """What an S3 server says of an error."""
    text = f"<Error><Code>{code}</Code><Message>said by the proxy</Message></Error>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()


class FaultProxy:
    """A proxy on the loopback before the server at `endpoint`.

    Args:
        endpoint: URL of the real server.
        rates: share of the requests that suffer a fault, by its name; one that a request cannot suffer passes it on.
        seed: of the draws.
        seconds: longest delay of `late`; `silent` keeps silence until the proxy ends.
    """

    def __init__(
        self, endpoint: str, rates: Mapping[str, float] | None = None, *, seed: int = 0, seconds: float = 0.3
    ) -> None:
        self.upstream = urlsplit(endpoint).netloc
        self.rates = dict(rates or {})
        self.seconds = seconds
        self.script: deque[str] = deque()
        """Faults of the next requests that can suffer them, before any are drawn."""
        self.applies: Callable[[str, str], bool] = lambda _method, _path: True
        """Which requests may suffer: method and path."""
        self.suffered: Counter[str] = Counter()
        self.requests = 0
        self.ended = threading.Event()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        assert set(self.rates) <= set(FAULTS)
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, method: str, path: str) -> str:
        """What befalls this request; nothing, mostly."""
        with self._lock:
            self.requests += 1
            drawn = self._drawn()
            name = self.script[0] if self.script else drawn
            can = not (name in READS and method != "GET") and not (name in WRITES and method != "PUT")
            if not name or not can or not self.applies(method, path):
                return ""
            if self.script:
                self.script.popleft()
            self.suffered[name] += 1
            return name

    def delay(self) -> float:
        """Seconds."""
        with self._lock:
            return self._random.uniform(0, self.seconds)

    def _drawn(self) -> str:
        left = self._random.random()
        for name, rate in self.rates.items():
            left -= rate
            if left < 0:
                return name
        return ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self.serve
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        return

    def handle(self) -> None:
        # Clients break off, too.
        with contextlib.suppress(OSError, HTTPException):
            super().handle()

    def serve(self) -> None:
        """One request: broken, or passed on, or both."""
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.fault(self.command, self.path)
        if fault == "late":
            time.sleep(proxy.delay())
        if fault in ("", "late", "reset after", "truncated"):
            self.pass_on(body, fault)
        elif fault == "silent":
            proxy.ended.wait()
            self.reset()
        elif fault == "reset before":
            self.reset()
        elif fault == "false 200":
            self.answer(200, {"ETag": '"0"'}, b"")
        elif fault == "xml":
            self.answer(200, {"Content-Type": "application/xml"}, error_body("InternalError"))
        else:
            status, code = REFUSALS[fault]
            self.answer(status, {"Content-Type": "application/xml"}, error_body(code))

    def pass_on(self, body: bytes, fault: str) -> None:
        connection = HTTPConnection(self.server.proxy.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException):
            # The server is away: so is the road.
            self.reset()
            return
        finally:
            connection.close()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
        if fault == "reset after":
            self.reset()
            return
        self.answer(answer.status, headers, content, sent=len(content) // 2 if fault == "truncated" else None)

    def answer(self, status: int, headers: Mapping[str, str], content: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
        if sent is not None:
            self.reset()

    def reset(self) -> None:
        """Close so that the peer's kernel is told of a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The socket's own `close` would wait for the handler's files.
        socket.close(self.connection.detach())
