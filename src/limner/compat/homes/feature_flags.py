"""`comfy_api.feature_flags`: what this server and a connected client can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limner.compat.finder import current
from limner.settings import Settings


def get_server_features() -> dict[str, Any]:
    """What the server can do. max_upload_size: bytes."""
    host = getattr(current(), "host", None)
    settings: Settings = getattr(host, "settings", None) or Settings()
    return {"supports_preview_metadata": True, "max_upload_size": settings.max_upload_bytes}


SERVER_FEATURE_FLAGS = get_server_features()


def get_connection_feature(
    sockets_metadata: Mapping[str, Mapping[str, Any]], sid: str, feature_name: str, default: Any = False
) -> Any:
    """What a connected client said of a feature."""
    return sockets_metadata.get(sid, {}).get("feature_flags", {}).get(feature_name, default)


def supports_feature(sockets_metadata: Mapping[str, Mapping[str, Any]], sid: str, feature_name: str) -> bool:
    """Whether a connected client said that it has a feature."""
    return get_connection_feature(sockets_metadata, sid, feature_name, False) is True
