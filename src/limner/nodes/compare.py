"""`python -m limner.nodes.compare FILE` holds every node's description against a saved /object_info, prose apart.
(No nodes here.)"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.graph import Schema
from limner.graph.describe import describe
from limner.nodes.describe import CACHE

PROSE = frozenset({"tooltip", "description", "output_tooltips"})
"""What may differ: texts for people."""


@dataclass(frozen=True)
class Comparison:
    """How far the nodes agree with a reference.

    total: kinds of the reference. present: those that are here. differences: kind → what differs, `path: here ≠ there`.
    """

    total: int
    present: frozenset[str]
    differences: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        equal = len(self.present) - len(self.differences)
        return f"{len(self.present)} of {self.total} present, {equal} equal"


def compare(schemas: Iterable[Schema], reference: Mapping[str, Any]) -> Comparison:
    """Hold descriptions against those of a reference; kinds that it does not name are passed over."""
    known = {schema.kind: schema for schema in schemas if schema.kind in reference}
    found = {kind: tuple(differences(describe(schema), reference[kind])) for kind, schema in known.items()}
    return Comparison(len(reference), frozenset(known), {kind: lines for kind, lines in found.items() if lines})


def differences(here: Any, there: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, prose apart."""
    if isinstance(here, dict) and isinstance(there, dict):
        for key in (*here, *(key for key in there if key not in here)):
            if key not in PROSE:
                yield from differences(here.get(key, "(absent)"), there.get(key, "(absent)"), f"{path}/{key}")
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for index, (one, other) in enumerate(zip(here, there, strict=True)):
            yield from differences(one, other, f"{path}/{index}")
    elif here != there or isinstance(here, bool) is not isinstance(there, bool):
        yield f"{path}: {json.dumps(here)} ≠ {json.dumps(there)}"


def read(path: Path) -> dict[str, Any]:
    """A saved /object_info, plain or compressed (.gz)."""
    data = path.read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    return found


def described() -> list[Schema]:
    """The schemas of the description cache."""
    entries = json.loads(CACHE.read_bytes()).values()
    return [Schema.from_json(plain) for entry in entries for plain in entry["schemas"]]


def main(arguments: list[str]) -> int:
    """Print what differs and how many are equal; returns the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("Usage: python -m limner.nodes.compare FILE (a saved /object_info, .json or .json.gz)\n")
        return 2
    found = compare(described(), read(Path(arguments[0])))
    for kind, lines in sorted(found.differences.items()):
        sys.stdout.writelines(f"{kind}{line}\n" for line in lines)
    sys.stdout.write(f"{found}\n")
    return 1 if found.differences else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
