"""What a process of the image can see and do, as JSON. It is read from standard input inside a running container.

Law: the standard library alone; nothing is judged here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path


def writes(folder: str) -> bool:
    """Whether a file can be made in it."""
    try:
        (Path(folder) / "probe").touch()
    except OSError:
        return False
    return True


# Of the container's main process: one that is let in later has rights of its own.
status = dict(line.split(":", 1) for line in Path("/proc/1/status").read_text(encoding="utf-8").splitlines())
found = {
    "user": [*status["Uid"].split(), *status["Gid"].split()],
    "capabilities": [status[f"Cap{kind}"].strip() for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "writable": [each for each in ("/", "/etc", "/opt/reinit", "/usr", "/tmp", "/dev/shm") if writes(each)],
    "tools": [name for name in ("cc", "gcc", "g++", "c++", "clang", "nvcc", "pip") if shutil.which(name)],
    "built": [
        str(path)
        for variable in ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR")
        for path in Path(os.environ[variable]).rglob("*")
    ],
    "network": [path.name for path in Path("/sys/class/net").iterdir()],
    "commit": os.environ["REINIT_GIT_COMMIT"],
    "billed": len(json.loads(Path("/opt/reinit/sbom.cdx.json").read_text(encoding="utf-8"))["components"]),
}
sys.stdout.write(json.dumps(found))
