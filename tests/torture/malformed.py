"""Files gone wrong: seeded mutations of good study and cluster files, as bytes, tokens and trees.

Law: file `n` of a seed is the same on every machine, whatever was made before it. A mutation may leave a file good:
what is asked is that reading ends in a value or in a refusal, so a good one is no waste.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from jobs.yamlfile import parse_yaml

ROOT: Final = Path(__file__).parents[2]

Kind = Literal["study", "cluster"]


@dataclass(frozen=True)
class Malformed:
    """One file, how it came about, and what it was meant to be."""

    number: int
    kind: Kind
    name: str
    """The good file that it was made from."""
    steps: tuple[str, ...]
    """The mutations, in order."""
    data: bytes


# ------------------------------------------------------------------------------------------------------ good files

_SITES: Final = {
    "volume": "store: file:///results\nstore_claim: results\nplaces: {model: /data/model}\n"
    "data_volumes: [{claim: d, path: /data, sub_path: nlp}]\nseeds_per_pod: 1\n",
    "queue": "store: s3://bucket/prefix\nqueue: gpus\ngpus: 4\ncpu: 8500m\nephemeral_storage: 20Gi\n"
    "tolerations: [{key: nvidia.com/gpu, operator: Equal, value: present, effect: NoExecute, seconds: 30}]\n",
    "secrets": "store: s3://bucket\nsecrets: [{name: s3, path: /secrets/s3, keys: {credentials: credentials}}]\n"
    "env: {AWS_SHARED_CREDENTIALS_FILE: /secrets/s3/credentials, AWS_REGION: eu-west-1}\nlabels: {cost: nlp}\n",
}
_IMAGE: Final = f"image: registry.example/reinit@sha256:{'0' * 64}\n"


def good_files() -> dict[tuple[Kind, str], str]:
    """Every shipped study, the shipped cluster file, and three sites that use what it leaves at its default."""
    found: dict[tuple[Kind, str], str] = {}
    for path in sorted((ROOT / "jobs" / "studies").glob("*.yaml")):
        found["study", path.stem] = path.read_text(encoding="utf-8")
    found["cluster", "shipped"] = (ROOT / "k8s" / "cluster.yaml").read_text(encoding="utf-8")
    for name, text in _SITES.items():
        found["cluster", name] = _IMAGE + text
    return found


# ------------------------------------------------------------------------------------------------------- mutations

STRANGE: Final[tuple[str, ...]] = (
    *("", "~", "null", "true", "-1", "0", "1", "1e400", "-1e400", "1e-400", ".nan", "-.inf", "0x1f", "0o17", "1_000"),
    *("9" * 20, "9" * 400, "9" * 401, "1" + "0" * 300, "-" + "9" * 30, "1e308", "0." + "0" * 350 + "1"),
    *(
        "!!python/object/apply:os.system ['true']",
        "!!binary aGk=",
        "!!set {a}",
        "! x",
        "!!int 5",
        "&a *a",
        "*a",
        "&a x",
    ),
    *("'", '"', "[", "{", "]", "}", "|", ">", "- -", "? [a]", "? ", ": ", "<<: {a: b}", "{}", "[]", "[[]]", "{a: {}}"),
    *('"\\u202e"', '"\\x1b[2J"', '"\\0"', '"\\ud800"', '"\\u2028"', "\u202egnp", "a\u200bb", "\ufeff", "é" * 300),
    *("../../etc/passwd", "/", "a/../b", "file:///", "s3://", "s3://u:p@b/x", "file:///%00", "file:///a%2f..%2fb"),
    *("[/red]", "[bold]", ":bomb:", "{0}", "{x}", "%s", "$(A)", "$$(A)", "`id`", "=1+1", "\\", "a" * 5000),
    *("full", "all", "paper", "yes", "2024-01-01", "1:30", "[0, 0]", "[-1]", "[1.5]", "[" * 40 + "]" * 40),
    *("[500, 500]", "{default: 1}", "{500: 3, full: 1}", "{task: sst2}", "[sst2]", "[{}]", "[null]", "10000", "10001"),
)
"""Values to put where another one stood."""

_BYTES: Final = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xfe\xff",
    b"\r",
    b"\t",
    b"\x1b[31m",
    b"\x85",
    b"\xc2\x85",
    b"\xed\xa0\x80",
)
_TOKENS: Final = re.compile(r"[\w./@:-]+|\s+|.", re.DOTALL)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 20))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_BYTES) + data[at:]


def _windows(data: bytes, _: random.Random) -> bytes:
    return b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")


def _other_encoding(data: bytes, rng: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-7", "cp037")), "replace")


def _noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 50, 5000))) if rng.random() < 0.5 else data + rng.randbytes(20)


def _swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _double_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    return b"\n".join([*lines[:at], *[lines[at]] * rng.choice((2, 2, 3, 500)), *lines[at + 1 :]])


def _drop_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def _indent(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = rng.choice((b"  ", b"\t", b" ", b"- ", b"#")) + lines[at]
    return b"\n".join(lines)


def _long_line(data: bytes, rng: random.Random) -> bytes:
    filler = rng.choice((b"a", b" ", b"[", b"- ", b"{a: ", b"&a ", b"'", b"9", b"\\")) * rng.choice(
        (200, 3000, 100_000)
    )
    at = rng.choice([0, len(data), data.find(b":") + 1])
    return data[:at] + filler + data[at:]


def _laughs(data: bytes, rng: random.Random) -> bytes:
    width, depth = rng.choice(((10, 9), (2, 30), (300, 3)))
    lines = [f"z0: &z0 [{', '.join(['x'] * width)}]"]
    lines += [f"z{n}: &z{n} [{', '.join([f'*z{n - 1}'] * width)}]" for n in range(1, depth)]
    return data + "\n".join(lines).encode() + b"\n"


def _token(data: bytes, rng: random.Random) -> bytes:
    tokens = _TOKENS.findall(data.decode("utf-8", "replace"))
    if not tokens:
        return data
    at = rng.randrange(len(tokens))
    other = tokens[rng.randrange(len(tokens))]
    tokens[at : at + 1] = rng.choice(([], [other], [tokens[at]] * 2, [rng.choice(STRANGE)], [tokens[at], other]))
    return "".join(tokens).encode("utf-8", "surrogatepass")


def _value(data: bytes, rng: random.Random) -> bytes:
    """Another value behind a key of one line."""
    lines = data.decode("utf-8", "replace").split("\n")
    keyed = [at for at, line in enumerate(lines) if re.match(r"\s*(- )?[\w/.-]+:", line)]
    if keyed:
        at = rng.choice(keyed)
        lines[at] = f"{lines[at].partition(':')[0]}: {rng.choice(STRANGE)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


TEXT: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (
    *(_cut, _flip, _insert, _windows, _other_encoding, _noise),
    *(_swap_lines, _double_line, _drop_line, _indent, _long_line, _laughs),
    *(_token, _token, _value, _value, _value),
)
"""Mutations of a file's bytes and tokens; those that find the most stand twice."""

Spot = tuple[Any, Any]
"""A mapping or list, and the key or index of one of its values."""


def _spots(tree: Any) -> Iterator[Spot]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _spots(value)


_PLAIN: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2, 12, 13, 500, 10**6, 2**31, 2**32, 2**63, 10**30, -(10**30), 10**399),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e308, 1.5, "", "x", "0", "500", "full", "all", "default", "a" * 3000),
    *([], {}, [[]], [0], [0, 0], [1.5], ["a"], [None], {"a": 1}, {"": ""}, {"kind": "epochs"}, {"kind": "x"}),
    *({"task": "sst2"}, {"family": "single"}, {"family": ["single"]}, "é\u0301", "а", "١", "１", "\u00a0x", "\u202ex"),
    *("sha256:" + "0" * 64, "0" * 40, "f" * 40, "s3://b/p", "file:///x", "/x", "1Gi", "0", "1m", "1e3", "$(X)", "\tx"),
)
"""Values for a tree, of every type and at the edges of ranges."""


def _reshape(  # noqa: C901, PLR0911  a table of changes, written out
    tree: Any, rng: random.Random
) -> str:
    """One change to a tree, in place; says which."""
    spots = list(_spots(tree))
    if not spots:
        return "nothing"
    holder, key = rng.choice(spots)
    here = holder[key]
    how = rng.randrange(9)
    if how == 0:
        del holder[key]
        return f"without {key}"
    if how == 1 and isinstance(holder, dict):
        name = str(key)
        at = rng.randrange(len(name) + 1)
        holder[name[:at] + rng.choice(("x", "", "_", " ", "\u0430")) + name[at + rng.randrange(2) :]] = holder.pop(key)
        return f"{key} misspelt"
    if how == 2:
        other, where = rng.choice(spots)
        if where in other if isinstance(other, dict) else where < len(other):
            holder[key] = copy.deepcopy(other[where])
        return f"{key} from {where}"
    if how == 3:
        deep: Any = here
        for _ in range(rng.choice((1, 2, 30, 60))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        holder[key] = deep
        return f"{key} nested"
    if how == 4 and isinstance(here, list):
        here *= rng.choice((2, 2, 100))
        return f"{key} repeated"
    if how == 5 and isinstance(here, int | float) and not isinstance(here, bool):
        holder[key] = rng.choice(
            (-here, here + 1, here - 1, here * 10**9, str(here), here / 3 if abs(here) < 1e300 else 0.5, [here])
        )
        return f"{key} another number"
    if isinstance(here, str) and rng.random() < 0.6:
        holder[key] = _respelt(here, rng)
        return f"{key} respelt"
    if how == 6 and isinstance(here, list):
        here.append(copy.deepcopy(rng.choice(_PLAIN)))
        return f"{key} with one more"
    holder[key] = copy.deepcopy(rng.choice(_PLAIN))
    return f"{key} replaced"


def _respelt(text: str, rng: random.Random) -> str:
    """Another text, of the same kind for the most part."""
    at = rng.randrange(len(text) + 1)
    digits = re.sub(r"[0-9]+", lambda _: rng.choice(("9" * 390, "9" * 390, "9" * 25, "0", "0.0000001")), text)
    odd = rng.choice(
        ("\0", "\x1b", "\n", "\t", " ", "\u202e", "\ud800", "é", "%00", "%2e%2e/", "..", "/", ":", "@", "-", "$(")
    )
    return rng.choice(
        (digits, digits, text[:at] + odd + text[at:], text[:at], text.upper(), text * 200, rng.choice(STRANGE))
    )


def _as_tree(data: bytes, rng: random.Random) -> tuple[bytes, list[str]]:
    tree = parse_yaml(data, "good.yaml").data
    steps = [_reshape(tree, rng) for _ in range(rng.choice((1, 1, 2, 4)))]
    # JSON is YAML, and whatever it writes means what the tree says.
    return json.dumps(tree).encode(), steps


def malformed(number: int, seed: int, good: dict[tuple[Kind, str], str]) -> Malformed:
    """File `number` of the seed."""
    rng = random.Random(f"{seed}/{number}")
    # Half of them are sites: there are fewer of those, and more fields in one.
    kind: Kind = rng.choice(("study", "cluster"))
    name = rng.choice([each for of, each in good if of == kind])
    data = good[kind, name].encode()
    steps: list[str] = []
    if rng.random() < 0.55:
        data, steps = _as_tree(data, rng)
    if not steps or rng.random() < 0.15:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            mutate = rng.choice(TEXT)
            data = mutate(data, rng)
            steps.append(mutate.__name__.strip("_"))
    return Malformed(number, kind, name, tuple(steps), data)
