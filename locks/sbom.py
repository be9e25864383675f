"""The software bill of materials of an image: a CycloneDX 1.6 document of what a lock installs.

Law: the standard library alone, no network, no clock: equal locks give equal bytes. It names the Python packages;
what the base image brings is that image's own bill.

    python3 locks/sbom.py locks/cpu.txt > sbom.cdx.json
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any

PATH = "/opt/reinit/sbom.cdx.json"
"""Where it is in the image."""


def components(lock: str) -> list[dict[str, Any]]:
    """One for each package of the lock, with the hashes of the files that pip may take.

    Raises:
        ValueError: an entry without version or hash.
    """
    found = []
    for entry in re.split(r"\n(?=[^\s#])", "\n" + lock):
        text = entry.strip()
        if not text or text.startswith("#"):
            continue
        named = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", text)
        hashes = sorted(set(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", text)))
        if not named or not hashes:
            raise ValueError(f"no version or no hash: {text.splitlines()[0]}")
        name = re.sub(r"[-_.]+", "-", named[1]).lower()
        purl = f"pkg:pypi/{name}@{named[2].replace('+', '%2B')}"
        files = [
            {"type": "distribution", "url": purl, "hashes": [{"alg": "SHA-256", "content": each}]} for each in hashes
        ]
        found.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": named[2],
                "purl": purl,
                "externalReferences": files,
            }
        )
    return sorted(found, key=lambda each: str(each["bom-ref"]))


def document(lock: str) -> dict[str, Any]:
    """The whole document."""
    parts = components(lock)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(parts, sort_keys=True))}",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "reinit", "name": "reinit"}},
        "components": parts,
        "dependencies": [{"ref": "reinit", "dependsOn": [each["bom-ref"] for each in parts]}],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(Path(sys.argv[1]).read_text(encoding="utf-8")), indent=1) + "\n")
