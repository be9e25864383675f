"""`Api`: the few requests that this project makes of a Kubernetes API server, in one namespace.

Law: plain JSON in and out; the official client brings the configuration, its credentials and its connections. What
waiting may mend is tried again, at the server's own pace where it names one; every other answer is an error that
says what was asked, as whom, and what to do. All requests here may be repeated without harm.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from jobs.errors import ConfigurationError, ReinitError, SpecError, TransientError
from jobs.pods import Object, one_line

PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between the tries of one request, where the server names none."""

MOST_WAIT: Final = 120.0
"""Seconds; a server that asks for a longer pause gets this one."""

PAGE: Final = 500
"""Objects of one answer to a LIST."""

THREADS: Final = 8
"""Requests at a time: what an API server's fair queues let one user have without throttling others."""

PATHS: Final[Mapping[str, str]] = {"jobs": "/apis/batch/v1", "pods": "/api/v1", "events": "/api/v1"}
GROUPS: Final[Mapping[str, str]] = {"jobs": "jobs.batch"}

REFUSALS: Final[Mapping[int, tuple[str, str]]] = {
    401: ("the cluster does not accept the credentials", "log in again, as for kubectl; a token may have expired"),
    403: (
        "no permission to {asked}",
        "grant it: kubectl -n {namespace} create role reinit-{verb} --verb={verbs} --resource={resource}, then bind it",
    ),
    404: (
        "nothing there to {asked}",
        "kubectl create namespace {namespace}, or correct `namespace` in the cluster file",
    ),
    409: (
        "another manager owns a field: cannot {asked}",
        "somebody else changed that field of the Job; delete the Job, or take the change back",
    ),
    507: (
        "the namespace has no room for another Job",
        "remove finished Jobs or ask for more quota, then submit again: it goes on where it stopped",
    ),
}
"""Problem and remedy by status, where somebody must do something first; 507 stands for a 403 by a quota."""

_PASSING: Final = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    text: str
    warnings: tuple[str, ...] = ()
    """For people, from the answer's headers: what it accepted and would rather not."""

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object; what is not one becomes a message."""
        try:
            read = json.loads(self.text)
        except ValueError:
            read = None
        return read if isinstance(read, dict) else {"message": one_line(self.text)}

    @property
    def message(self) -> str:
        """What an error says."""
        return one_line(str(self.body.get("message") or self.text or f"HTTP {self.status}"), 1000)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, in the words that permissions are granted in."""

    verb: str
    kind: str
    name: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    content: str = "application/json"
    part: str = ""
    """A subresource, such as `log`."""

    @property
    def method(self) -> str:
        """The HTTP method."""
        return {"patch": "PATCH", "delete": "DELETE"}.get(self.verb, "GET")

    @property
    def resource(self) -> str:
        """As a Role names it."""
        return GROUPS.get(self.kind, self.kind) + (f"/{self.part}" if self.part else "")

    def __str__(self) -> str:
        """`list pods`, `patch jobs.batch demo-...`."""
        return f"{self.verb} {self.resource} {self.name}".rstrip()


def connect(namespace: str, *, kubeconfig: str | None = None, context: str | None = None) -> Api:
    """The cluster that a kubeconfig names, or the one this runs in. Sends nothing yet.

    Args:
        namespace: where the Jobs are.
        kubeconfig: a file; by default `KUBECONFIG`, then `~/.kube/config`, then the pod's service account.
        context: a context of that file; by default its current one.

    Raises:
        ConfigurationError: there is no usable configuration.
    """
    from kubernetes import client, config

    settings = client.Configuration()
    # Requests are repeated here, where a 429's own pause is known and each repeat is safe.
    settings.retries = False
    settings.connection_pool_maxsize = THREADS
    try:
        # The library reads KUBECONFIG when it is imported, and never again.
        named = kubeconfig or os.environ.get("KUBECONFIG")
        try:
            config.load_kube_config(config_file=named, context=context, client_configuration=settings)
        except config.ConfigException:
            if named or context or "KUBERNETES_SERVICE_HOST" not in os.environ:
                raise
            config.load_incluster_config(client_configuration=settings)
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            "no usable configuration of a cluster",
            expected="a kubeconfig with a current context, or a pod's service account",
            got=one_line(str(error)),
            remedy="set KUBECONFIG, or name a file with --kubeconfig and a context with --context",
        ) from error
    return Api(client.ApiClient(settings), namespace)


class Api:
    """Requests in one namespace; safe to use from several threads.

    Args:
        client: a `kubernetes.client.ApiClient`.
        namespace: where the Jobs are.
        pauses: seconds between the tries of one request.
    """

    def __init__(self, client: Any, namespace: str, *, pauses: tuple[float, ...] = PAUSES) -> None:
        self._client = client
        self.namespace = namespace
        self.pauses = pauses
        self._gate = threading.Lock()
        self._not_before = 0.0

    @property
    def host(self) -> str:
        """The server."""
        return str(self._client.configuration.host)

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """All objects of a kind that carry these labels, page by page; afresh where the pages expire meanwhile.

        Raises:
            ConfigurationError, TransientError: as in `request`.
        """
        for size in (PAGE, PAGE, 0):
            found: list[Object] = []
            token = ""
            while True:
                query = {"labelSelector": selector, "limit": str(size or ""), "continue": token}
                asked = Asked("list", kind, query={key: value for key, value in query.items() if value})
                answer = self.request(asked, expected={410})
                if answer.status == 410:
                    break
                found += answer.body.get("items") or []
                token = (answer.body.get("metadata") or {}).get("continue") or ""
                if not token:
                    return found
        raise TransientError(f"the list of {kind} expires while it is read", where=self.host, got=answer.message)

    def get(self, kind: str, name: str) -> Object | None:
        """One object, None where there is none."""
        answer = self.request(Asked("get", kind, name), expected={404})
        return None if answer.status == 404 else answer.body

    def apply(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Answer:
        """Server-side apply as field manager `reinit`, never over what somebody else has set.

        Raises:
            SpecError: the server refuses what the manifest says.
            ConfigurationError: another manager owns a field; or as in `request`.
            TransientError: as in `request`.
        """
        query = {"fieldManager": "reinit", "fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        name = manifest["metadata"]["name"]
        body = json.dumps(manifest, ensure_ascii=False)
        return self.request(Asked("patch", "jobs", name, query, body, "application/apply-patch+yaml"))

    def delete(self, job: Object, *, foreground: bool) -> None:
        """Delete this very Job and its pods; a later one of the same name is left alone. Gone already is fine."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground" if foreground else "Background",
            "preconditions": {"uid": job["metadata"]["uid"]},
        }
        asked = Asked("delete", "jobs", job["metadata"]["name"], body=json.dumps(options))
        answer = self.request(asked, expected={404, 409})
        if answer.status == 409 and "uid" not in answer.message.lower():
            raise TransientError(f"the server could not {asked}", where=self.host, got=answer.message)

    def log(self, pod: str, *, tail: int | None = None) -> str | None:
        """What a pod has said so far; None where it has no log: it is gone, or its container never started."""
        query = {"container": "main", **({} if tail is None else {"tailLines": str(tail)})}
        answer = self.request(Asked("get", "pods", pod, query, part="log"), expected={400, 404})
        return answer.text if answer.status == 200 else None

    def follow(self, pod: str, *, tail: int | None = None) -> Iterator[str]:
        """Lines of a pod as it says them, until its container ends; a dropped connection is taken up where it broke."""
        query = {"container": "main", "follow": "true", "timestamps": "true"}
        last = ""
        tries = 0
        while True:
            resumed = {"sinceTime": last[:19] + "Z"} if last else {} if tail is None else {"tailLines": str(tail)}
            asked = Asked("get", "pods", pod, {**query, **resumed}, part="log")
            try:
                for line in self._lines(asked):
                    stamp, _, text = line.partition(" ")
                    # A stamp has nanoseconds, and a resumed log begins at the whole second before.
                    if stamp > last:
                        last, tries = stamp, 0
                        yield text
            except TransientError:
                if tries >= len(self.pauses):
                    raise
                time.sleep(self.pauses[tries])
                tries += 1
            else:
                return

    def _lines(self, asked: Asked) -> Iterator[str]:
        from urllib3.exceptions import HTTPError

        try:
            response = self._send(asked, stream=True)
            if response.status != 200:
                answer = Answer(response.status, response.data.decode(errors="replace"))
                if answer.status in {400, 404}:
                    return
                raise self._refused(asked, answer)
            rest = b""
            for chunk in response.stream(decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")
        except HTTPError as error:
            raise self._unreachable(asked, error) from error

    def request(self, asked: Asked, *, expected: Collection[int] = ()) -> Answer:
        """The server's answer; errors that are not `expected` are raised.

        Raises:
            TransientError: no server, or one that has no time; tried as often as there are pauses.
            ConfigurationError: not allowed, or not known to be who one says.
            SpecError: the request says something impossible.
        """
        from urllib3.exceptions import HTTPError

        error: ReinitError
        for pause in (*self.pauses, None):
            self._wait_for_the_gate()
            try:
                answer = self._answer(self._send(asked))
            except HTTPError as broken:
                error = self._unreachable(asked, broken)
            else:
                if 200 <= answer[0].status < 300 or answer[0].status in expected:
                    return answer[0]
                error = self._refused(asked, answer[0])
                if pause is not None and answer[1] is not None:
                    self._close_the_gate(answer[1])
                    continue
            if pause is None or not isinstance(error, TransientError):
                raise error
            time.sleep(pause)
        raise AssertionError("the last pass returns or raises")

    def _send(self, asked: Asked, *, stream: bool = False) -> Any:
        headers = {"Accept": "*/*" if asked.part else "application/json", "User-Agent": "reinit"}
        if asked.body is not None:
            headers["Content-Type"] = asked.content
        query: list[tuple[str, str]] = [*asked.query.items()]
        self._client.update_params_for_auth(headers, query, ["BearerToken"])
        path = f"{PATHS[asked.kind]}/namespaces/{quote(self.namespace)}/{asked.kind}"
        path += "".join(f"/{quote(part)}" for part in (asked.name, asked.part) if part)
        url = f"{self.host}{path}?{urlencode(query)}".rstrip("?")
        import urllib3

        return self._client.rest_client.pool_manager.request(
            asked.method,
            url,
            headers=headers,
            body=None if asked.body is None else asked.body.encode(),
            preload_content=not stream,
            retries=False,
            timeout=urllib3.Timeout(connect=10, read=None if stream else 60),
        )

    def _answer(self, response: Any) -> tuple[Answer, float | None]:
        """The answer, and the pause that the server asks for."""
        warnings = re.findall(r'299 \S+ "((?:[^"\\]|\\.)*)"', ", ".join(response.headers.getlist("Warning")))
        answer = Answer(response.status, response.data.decode(errors="replace"), tuple(map(one_line, warnings)))
        after = response.headers.get("Retry-After", "")
        seconds = min(float(after), MOST_WAIT) if response.status in _PASSING and after.isdigit() else None
        return answer, seconds

    def _wait_for_the_gate(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            time.sleep(left)

    def _close_the_gate(self, seconds: float) -> None:
        """A server that asks one request to wait means all of them."""
        with self._gate:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _unreachable(self, asked: Asked, error: Exception) -> ReinitError:
        from urllib3.exceptions import SSLError

        if isinstance(error, SSLError):
            remedy = "correct the certificate authority in the kubeconfig"
            return ConfigurationError("the cluster is not who it should be", where=self.host, got=error, remedy=remedy)
        return TransientError(
            f"no answer from the cluster, asked to {asked}",
            where=self.host,
            got=one_line(str(error)),
            remedy="see that `kubectl get jobs` works here: VPN, proxy, context; then do the same again",
        )

    def _refused(self, asked: Asked, answer: Answer) -> ReinitError:
        """What an answer other than success means; only a TransientError is tried again."""
        where = f"namespace {self.namespace} of {self.host}"
        got = answer.message
        if answer.status in _PASSING or (answer.status == 409 and not _is_owned(answer)):
            return TransientError(f"the cluster could not {asked}", where=where, got=f"{answer.status}: {got}")
        no_room = answer.status == 403 and "exceeded quota" in got
        problem, remedy = REFUSALS.get(507 if no_room else answer.status, ("the cluster refuses to {asked}", None))
        verbs = "create,patch" if asked.verb == "patch" else asked.verb
        words = {"asked": asked, "namespace": self.namespace, "verb": asked.verb, "verbs": verbs, "kind": asked.kind}
        words["resource"] = asked.resource
        kind = ConfigurationError if remedy else SpecError
        remedy = remedy and remedy.format(**words)
        return kind(problem.format(**words), where=where, got=f"{answer.status}: {got}", remedy=remedy)


def _is_owned(answer: Answer) -> bool:
    """A conflict with another field manager; the other conflicts pass, such as a Job that is still being deleted."""
    causes = (answer.body.get("details") or {}).get("causes") or ()
    return any(cause.get("reason") == "FieldManagerConflict" for cause in causes)
