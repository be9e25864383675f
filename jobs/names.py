"""Names and labels as the API server wants them.

Law: each check returns what is allowed, in words, or nothing where the text is right.
Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and .../labels/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from jobs.finding import At, Finding

MOST_LABEL: Final = 63
MOST_SUBDOMAIN: Final = 253
MOST_ANNOTATIONS: Final = 256 * 1024

MOST_REMEMBERED: Final = 10_000
"""Texts whose answer is kept: the labels of one Job stand in the next."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_VALUE = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_DNS_LABEL: Final = "at most 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
_DNS_SUBDOMAIN: Final = "at most 253 of a-z, 0-9, - and ., each part beginning and ending with a letter or digit"
_LABEL_VALUE: Final = "empty, or at most 63 of A-Z, a-z, 0-9, -, _ and ., beginning and ending with a letter or digit"
_QUALIFIED: Final = "[prefix/]name: the name like a label's value, the prefix a DNS name of at most 253 characters"


@lru_cache(MOST_REMEMBERED)
def dns_label(text: str) -> str:
    """What a DNS label may be, where the text is none."""
    return "" if len(text) <= MOST_LABEL and _LABEL.fullmatch(text) else _DNS_LABEL


@lru_cache(MOST_REMEMBERED)
def dns_subdomain(text: str) -> str:
    """What a DNS subdomain may be, where the text is none."""
    return "" if len(text) <= MOST_SUBDOMAIN and _SUBDOMAIN.fullmatch(text) else _DNS_SUBDOMAIN


@lru_cache(MOST_REMEMBERED)
def label_value(text: str) -> str:
    """What the value of a label may be, where the text is none."""
    return "" if not text or (len(text) <= MOST_LABEL and _VALUE.fullmatch(text)) else _LABEL_VALUE


@lru_cache(MOST_REMEMBERED)
def qualified_name(text: str) -> str:
    """What the key of a label may be, where the text is none."""
    prefix, slash, name = text.rpartition("/")
    wrong = not name or label_value(name) or (slash and dns_subdomain(prefix))
    return _QUALIFIED if wrong else ""


def check_labels(labels: At) -> Iterator[Finding]:
    """Keys and values of a mapping of labels."""
    for key, value in labels.items():
        if allowed := qualified_name(key):
            yield value.refused("label-key", "The key of a label is malformed.", allowed, got=key)
        if allowed := label_value(value.text):
            yield value.refused("label-value", "The value of a label is malformed.", allowed)


def check_metadata(metadata: At) -> Iterator[Finding]:
    """Labels and annotations of a Job or of its pods."""
    yield from check_labels(metadata["labels"])
    annotations = metadata["annotations"]
    total = 0
    for key, value in annotations.items():
        total += len(key.encode()) + len(value.text.encode("utf-8", "surrogatepass"))
        if allowed := qualified_name(key.lower()):
            yield value.refused("annotation-key", "The key of an annotation is malformed.", allowed, got=key)
    if total > MOST_ANNOTATIONS:
        allowed = f"{MOST_ANNOTATIONS:,} bytes together"
        yield annotations.refused("annotations-size", "The annotations are too large.", allowed, got=f"{total:,} bytes")
