"""Secrets planted wherever a pod may have them are in nothing that it leaves behind, whatever goes wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from jobs.store import open_store
from reinit.log import redacted
from tests.make import a_cell, a_result, some_predictions
from tests.reinit.pod import Pod

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted/secret+access=key",
    "AWS_SESSION_TOKEN": "planted-session-token==",
    "HF_TOKEN": "hf_planted_token",
    "WANDB_API_KEY": "planted-api-key",
    "DATABASE_PASSWORD": 'planted "quoted" password',
}
IN_FILES = {
    "AWS_SHARED_CREDENTIALS_FILE": "planted-secret-of-a-file",
    "HF_TOKEN_PATH": "hf_planted_token_of_a_file",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "planted.identity.token",
}
PASSWORD = "planted-password-of-a-url"
SECRETS = (*PLANTED.values(), *IN_FILES.values(), PASSWORD)

TELLS_ALL = """
import os, sys, traceback
from pathlib import Path
from reinit.session import Session
def prepare(self, cells):
    files = {name: Path(value).read_text() for name, value in os.environ.items() if name in %r}
    print(dict(os.environ), files)
    print("and", os.environ["WANDB_API_KEY"], file=sys.stderr)
    self.log.emit("loading", f"with {dict(os.environ)}")
    raise %s(f"cannot connect with {dict(os.environ)} and {files}")
Session.prepare = prepare
"""


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, str]:
    """An environment with every secret."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    texts = {
        "AWS_SHARED_CREDENTIALS_FILE": "[default]\naws_access_key_id = AKIA\naws_secret_access_key = {}\n",
        "HF_TOKEN_PATH": "{}\n",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "{}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text.format(IN_FILES[name]), encoding="utf-8")
    files = {name: str(folder / name) for name in texts}
    return {**PLANTED, **files, "AWS_ACCESS_KEY_ID": "AKIA", "HTTPS_PROXY": f"http://user:{PASSWORD}@127.0.0.1:9"}


def left_behind(pod: Pod, store: Path) -> Iterator[tuple[str, str]]:
    """Every text that somebody else may read."""
    yield "stdout, as kubectl logs", pod.out
    yield "stderr, as kubectl logs", pod.errors
    yield "the termination message", pod.last_word
    for path in store.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(store)), path.read_text(encoding="utf-8", errors="replace")


def leaks(pod: Pod, store: Path) -> list[tuple[str, str]]:
    forms = {form for secret in SECRETS for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))}
    return [(where, form) for where, text in left_behind(pod, store) for form in forms if form in text]


def broken(error: str) -> str:
    return TELLS_ALL % (sorted(IN_FILES), error)


def bad_spec(pod: Pod) -> None:
    pod.environment = {**(pod.environment or {}), "REINIT_CELLS": f"[{PLANTED['HF_TOKEN']}"}


def url_with_a_user(pod: Pod) -> None:
    pod.store_url = f"s3://user:{PASSWORD}@bucket/prefix"


def endpoint_that_is_none(pod: Pod) -> None:
    pod.store_url = "s3://bucket/prefix"
    pod.environment = {**(pod.environment or {}), "AWS_ENDPOINT_URL_S3": f"ftp//user:{PASSWORD}@host"}


def mistake(pod: Pod) -> None:
    pod.before = broken("ZeroDivisionError")


def refusal(pod: Pod) -> None:
    pod.before = "from jobs.errors import DataError\n" + broken("DataError")


def transient(pod: Pod) -> None:
    pod.before = "from jobs.errors import TransientError\n" + broken("TransientError")


def all_done(pod: Pod) -> None:
    open_store(pod.store_url).put(a_result(), some_predictions())


@pytest.mark.parametrize(
    ("provoke", "code"),
    [
        (bad_spec, 64),
        (url_with_a_user, 78),
        (endpoint_that_is_none, 78),
        (mistake, 1),
        (refusal, 65),
        (transient, 75),
        (all_done, 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_planted_secret_is_in_anything_that_a_pod_leaves(
    provoke: Callable[[Pod], None], code: int, tmp_path: Path, planted: dict[str, str]
) -> None:
    store = tmp_path / "store"
    pod = Pod(tmp_path / "pod-1", f"file://{store}", [a_cell()], environment=planted)
    provoke(pod)
    assert pod.run() == code, pod.errors
    assert pod.last_word
    assert leaks(pod, store) == []


def test_what_the_leaks_are_looked_for_in_would_show_them(tmp_path: Path, planted: dict[str, str]) -> None:
    """The control: the same pod with nothing blotted out leaves every secret."""
    store = tmp_path / "store"
    before = "import reinit.log\nreinit.log.redacted = lambda text, environment=None: text\n" + broken(
        "ZeroDivisionError"
    )
    pod = Pod(tmp_path / "pod-1", f"file://{store}", [a_cell()], environment=planted, before=before)
    assert pod.run() == 1
    assert {form for _, form in leaks(pod, store)} >= {*IN_FILES.values(), PLANTED["HF_TOKEN"], PASSWORD}


def test_short_values_and_words_that_are_no_secrets_stay() -> None:
    environment = {"HF_TOKEN": "abc", "TOKENIZERS_PARALLELISM": "false-or-true", "HOME": "/home/somebody"}
    assert redacted("abc false-or-true /home/somebody", environment) == "abc false-or-true /home/somebody"
    assert redacted("see https://user@host/x and //a:b@c", environment) == "see https://***@host/x and //***@c"


def test_a_file_of_secrets_that_is_not_there_is_no_failure() -> None:
    assert redacted("text", {"HF_TOKEN_PATH": os.devnull + "/none"}) == "text"
