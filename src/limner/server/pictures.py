"""Pictures changed on the way to or from a client. Pillow is imported when first needed: it is slow to load."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from limner.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image


def open_picture(data: bytes) -> Image:
    """A decoded picture. Raises BadInput when the bytes are none, are damaged, or unfold to too many pixels."""
    from PIL import Image as Pillow  # noqa: PLC0415

    try:
        picture = Pillow.open(io.BytesIO(data))
        picture.load()
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise BadInput("The file is not a picture that can be read.", why=f"{error}.") from error
    return picture


def encode(picture: Image, kind: str, **options: int) -> bytes:
    """The bytes of a picture file of that Pillow format."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def to_webp(data: bytes) -> bytes | None:
    """A picture file as WEBP, None when it cannot be read."""
    try:
        picture = open_picture(data)
    except BadInput:
        return None
    return encode(picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGBA"), "WEBP", quality=90)


def preview(data: bytes, kind: str, quality: int, *, opaque: bool) -> bytes:
    """A smaller file of the same picture. kind: webp or jpeg; opaque: leave transparency out."""
    picture = open_picture(data)
    if opaque or kind == "jpeg":
        picture = picture.convert("RGB")
    elif picture.mode not in ("RGB", "RGBA"):
        picture = picture.convert("RGBA")
    return encode(picture, kind.upper(), quality=quality)


def channel(data: bytes, name: str) -> bytes:
    """A PNG of the colours alone (`rgb`), or of the transparency alone over black (`a`; opaque where there is none)."""
    from PIL import Image as Pillow  # noqa: PLC0415

    picture = open_picture(data)
    if name == "rgb":
        # Colours under transparent places are kept, not mixed with a background.
        return encode(picture.convert("RGBA").convert("RGB") if "A" in picture.mode else picture.convert("RGB"), "PNG")
    alpha = Pillow.new("RGBA", picture.size)
    alpha.putalpha(picture.convert("RGBA").getchannel("A"))
    return encode(alpha, "PNG")


def with_mask(original: bytes, mask: bytes) -> bytes:
    """The original with the transparency of `mask`, as PNG; text that stood in it stays (the workflow, mostly).

    Raises BadInput when either is no picture or they differ in size.
    """
    from PIL import PngImagePlugin  # noqa: PLC0415

    source = open_picture(original)
    kept = PngImagePlugin.PngInfo()
    for key, value in getattr(source, "text", {}).items():
        kept.add_text(key, value)
    drawn = open_picture(mask).convert("RGBA")
    if drawn.size != source.size:
        raise BadInput(
            f"The mask is {drawn.width}×{drawn.height}, its picture {source.width}×{source.height}.",
            why="They must be of one size.",
        )
    picture = source.convert("RGBA")
    picture.putalpha(drawn.getchannel("A"))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=4, pnginfo=kept)
    return buffer.getvalue()
