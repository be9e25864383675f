"""A hub's cache as its client lays it out: blobs by hash, snapshots of links to them, refs; and data sets to put in."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

COMMIT = "0123456789" * 4


def a_repository(
    cache: Path, kind: str, name: str, files: Mapping[str, bytes], *, commit: str = COMMIT, listed: Any = None
) -> Path:
    """The snapshot folder of a repository; `listed` are the files that the hub told of, where its client kept that."""
    root = cache / f"{kind}s--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    if listed is not None:
        tree = {"format_version": 1, "files": {path: {"size": 1, "blob_id": "0" * 40} for path in listed}}
        (root / "trees").mkdir(exist_ok=True)
        (root / "trees" / f"{commit}.json").write_text(json.dumps(tree))
    return snapshot


def parquet(metadata: Mapping[str, Any] | None = None, **columns: list[Any]) -> bytes:
    """A Parquet file of these columns; `metadata` are the features that `datasets` writes beside the schema."""
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()


def a_card(*configs: Mapping[str, Any], **more: Any) -> bytes:
    """A README whose header lists configurations."""
    header = {"language": ["en"], **({"configs": list(configs)} if configs else {}), **more}
    return f"---\n{yaml.safe_dump(header)}---\n# A data set\n".encode()


def a_config(name: str, **splits: str) -> dict[str, Any]:
    """An entry of `configs`: split to the pattern of its files."""
    return {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}


FEATURES = {
    "sentence": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["negative", "positive"], "_type": "ClassLabel"},
}
SST2 = {
    # The first configuration of the card is another one, as in nyu-mll/glue.
    "README.md": a_card(
        a_config("ax", test="ax/test-*"), a_config("sst2", train="sst2/train-*", validation="sst2/validation-*")
    ),
    "sst2/train-00000-of-00002.parquet": parquet(FEATURES, sentence=["a", "b"], label=[1, 0]),
    "sst2/train-00001-of-00002.parquet": parquet(FEATURES, sentence=["c"], label=[1]),
    "sst2/validation-00000-of-00001.parquet": parquet(FEATURES, sentence=["d", "e"], label=[0, 1]),
}
"""Three sentences to train on and two to score, with labels that have names, as the hub carries GLUE's sst2."""
AX = {"ax/test-00000-of-00001.parquet": parquet(sentence=["x"], label=[-1])}
SCRIPT = {"README.md": a_card(dataset_info={"config_name": "sst2"}), "dataset_infos.json": b"{}", "LICENSE": b"free"}
"""What is left of a repository that makes its rows by a script, without the script."""


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its times of change, so that whatever is written there shows."""
    found = {}
    for parent, children, names in os.walk(folder):
        for path in (Path(parent), *(Path(parent, name) for name in [*children, *names])):
            state = path.lstat()
            found[str(path)] = (state.st_mtime_ns, state.st_ctime_ns)
    return found


def make_read_only(folder: Path) -> None:
    """Take away every permission to write below a folder; the superuser is not bound by it."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not Path(parent, name).is_symlink():
                Path(parent, name).chmod(0o444)
        Path(parent).chmod(0o555)


def make_writable(folder: Path) -> None:
    """Give it back, so that the folder can be removed."""
    folder.chmod(0o755)
    for parent, children, _ in os.walk(folder):
        for name in children:
            Path(parent, name).chmod(0o755)
