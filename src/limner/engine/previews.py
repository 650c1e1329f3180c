"""Pictures of work in progress, encoded where they arise: in the thread that runs nodes, not on the event loop."""

from __future__ import annotations

from io import BytesIO
from typing import Any

JPEG_QUALITY = 95
DEFAULT_SIDE = 512


def encode_preview(preview: Any, largest: int = DEFAULT_SIDE) -> tuple[bytes, str]:
    """A picture as (bytes of a file, its MIME type).

    preview: a PIL image, or `(format, image, side)` as packs send it, side None for the size it has (rule P4).
    largest: the side of the square that an image without a size of its own is fitted into.
    """
    kind, picture, side = preview if isinstance(preview, tuple) else ("JPEG", preview, largest)
    if side is not None:
        picture = _fitted(picture, int(side))
    buffer = BytesIO()
    if kind == "PNG":
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue(), "image/png"
    if picture.mode not in ("RGB", "L"):
        picture = picture.convert("RGB")
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue(), "image/jpeg"


def _fitted(picture: Any, side: int) -> Any:
    """Shrunk or grown so that its longer side is `side`."""
    from PIL import Image  # noqa: PLC0415 - only prompts with previews need it

    width, height = picture.size
    scale = side / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)
