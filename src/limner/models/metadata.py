"""The `config` of a file's metadata: what its tensors' shapes cannot tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from limner.errors import BadInput
from limner.weights.header import CheckpointHeader

_COMPONENTS = frozenset({"unet", "clip_l", "vae", "sampling", "tokenizer"})


def overrides(header: CheckpointHeader, component: str) -> Mapping[str, Any]:
    """What the file's `config` metadata says of one component; a flat config is about the only one there is.

    Raises BadInput when the config is not JSON or not an object.
    """
    text = header.metadata.get("config")
    if text is None:
        return {}
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{header.path.name}: its `config` metadata is not JSON.", why=str(error)) from error
    if not isinstance(config, dict):
        raise BadInput(f"{header.path.name}: its `config` metadata is not an object.")
    if not _COMPONENTS & config.keys():
        return config
    part = config.get(component) or {}
    if not isinstance(part, dict):
        raise BadInput(f"{header.path.name}: `{component}` in its `config` metadata is not an object.")
    return part


def said(header: CheckpointHeader, *components: str) -> dict[str, Any]:
    """What the file's config says of these components, where it says anything."""
    return {name: dict(said) for name in components if (said := overrides(header, name))}
