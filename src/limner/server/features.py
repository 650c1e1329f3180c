"""What the server can do, as it tells clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limner.settings import Settings


def features(settings: Settings) -> dict[str, Any]:
    """What the server can do, as told by `/features` and in a socket's handshake."""
    return {"supports_preview_metadata": True, "max_upload_size": settings.max_upload_bytes}
