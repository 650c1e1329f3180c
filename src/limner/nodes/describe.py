"""`python -m limner.nodes.describe` writes descriptions.json: the schemas of every node, so that none is imported for
them. `--check` only says whether it is up to date."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from limner.graph import collect

FOLDER = Path(__file__).parent
CACHE = FOLDER / "descriptions.json"


def build(folder: Path = FOLDER, package: str = "limner.nodes") -> dict[str, Any]:
    """`{file name: {"hash", "schemas"}}` of every node module of a folder."""
    found: dict[str, Any] = {}
    for source in sorted(folder.glob("*.py")):
        if source.name.startswith("_") or source.name == "describe.py":
            continue
        schemas = collect(import_module(f"{package}.{source.stem}"))
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        found[source.name] = {"hash": digest, "schemas": [schema.to_json() for schema in schemas]}
    return found


def dump(described: dict[str, Any]) -> str:
    """The cache as text, a schema a line, so that a change shows as one."""
    files = []
    for name, entry in described.items():
        schemas = ",\n".join(json.dumps(schema, separators=(",", ":")) for schema in entry["schemas"])
        files.append(f'{json.dumps(name)}: {{"hash": "{entry["hash"]}", "schemas": [\n{schemas}\n]}}')
    return "{\n" + ",\n".join(files) + "\n}\n"


def main(arguments: list[str]) -> int:
    """Write the cache, or with --check compare it; returns the exit status."""
    text = dump(build())
    fresh = CACHE.exists() and CACHE.read_text() == text
    if "--check" not in arguments and not fresh:
        CACHE.write_text(text)
    sys.stdout.write(
        f"{CACHE.name}: {'up to date' if fresh else 'out of date' if '--check' in arguments else 'written'}\n"
    )
    return 1 if "--check" in arguments and not fresh else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
