"""Descriptions of packs from earlier starts, keyed by the hash of their sources."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner import __version__
from limner.compat.discovery import Pack
from limner.graph import Port, Schema
from limner.store.atomic import write_atomic

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Described:
    """One kind: its schema, and its entry of `/object_info`."""

    schema: Schema
    entry: Mapping[str, Any]


@dataclass(frozen=True)
class KnownPack:
    """What is kept of a pack."""

    kinds: Mapping[str, Described]
    titles: Mapping[str, str]
    web: Mapping[str, str]


class DescriptionCache:
    """A JSON file of descriptions. Entries of packs that were not asked for are dropped when it is written."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._old: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        try:
            plain = json.loads(file.read_bytes())
            if isinstance(plain, dict) and plain.get("made_by") == _maker():
                self._old = plain["packs"]
        except FileNotFoundError:
            log.debug("No pack has been described yet.")
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s cannot be read; packs are imported: %s", file, error)

    def get(self, pack: Pack) -> KnownPack | None:
        """What is known of a pack whose sources have not changed."""
        plain = self._old.get(str(pack.path))
        try:
            if not isinstance(plain, dict) or plain["digest"] != pack.digest():
                return None
            kinds = {
                kind: Described(Schema.from_json(one["schema"]), one["entry"]) for kind, one in plain["kinds"].items()
            }
        except (OSError, KeyError, TypeError, ValueError) as error:
            log.warning("%s is imported, its description cannot be used: %s", pack.path, error)
            return None
        self._new[str(pack.path)] = plain
        return KnownPack(kinds, plain["titles"], plain["web"])

    def put(
        self, pack: Pack, kinds: Mapping[str, Described], titles: Mapping[str, str], web: Mapping[str, str]
    ) -> None:
        """Keep the descriptions of a pack. A pack whose descriptions are not plain JSON is not kept."""
        if any(_is_special(port) for one in kinds.values() for port in (*one.schema.inputs, *one.schema.outputs)):
            return
        try:
            plain = {
                "digest": pack.digest(),
                "kinds": {kind: {"schema": one.schema.to_json(), "entry": one.entry} for kind, one in kinds.items()},
                "titles": titles,
                "web": web,
            }
            self._new[str(pack.path)] = json.loads(json.dumps(plain))
        except (OSError, TypeError, ValueError) as error:
            log.debug("%s is not kept: %s", pack.path, error)

    def save(self) -> None:
        """Write what is kept, if anything changed."""
        if self._new == self._old:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._file, json.dumps({"made_by": _maker(), "packs": self._new}).encode())


def _is_special(port: Port) -> bool:
    """Whether a kind is more than its text: packs override comparisons, which JSON does not keep."""
    return type(port.kind) is not str


def _maker() -> list[Any]:
    return [FORMAT, __version__, sys.version]
