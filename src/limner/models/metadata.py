"""The `config` of a file's metadata: what its tensors' shapes cannot tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from limner.errors import BadInput
from limner.weights.header import CheckpointHeader

_COMPONENTS = frozenset({"unet", "vae", "sampling", "tokenizer"})
_ENCODERS = ("clip_", "t5", "umt5", "mt5", "pile_t5", "byt5", "qwen")
"""What the names of text encoders begin with."""


def overrides(header: CheckpointHeader, component: str) -> Mapping[str, Any]:
    """What the file's `config` metadata says of one component; a flat config is about the only one there is.

    Raises BadInput when the config is not JSON or not an object.
    """
    config = _config(header)
    if not components(header):
        return config
    part = config.get(component) or {}
    if not isinstance(part, dict):
        raise BadInput(f"{header.path.name}: `{component}` in its `config` metadata is not an object.")
    return part


def components(header: CheckpointHeader) -> frozenset[str]:
    """The components that the file's config tells apart; none where it is flat."""
    return frozenset(name for name in _config(header) if name in _COMPONENTS or name.startswith(_ENCODERS))


def _config(header: CheckpointHeader) -> Mapping[str, Any]:
    text = header.metadata.get("config")
    if text is None:
        return {}
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{header.path.name}: its `config` metadata is not JSON.", why=str(error)) from error
    if not isinstance(config, dict):
        raise BadInput(f"{header.path.name}: its `config` metadata is not an object.")
    return config


def said(header: CheckpointHeader, *components: str) -> dict[str, Any]:
    """What the file's config says of these components, where it says anything."""
    return {name: dict(said) for name in components if (said := overrides(header, name))}
