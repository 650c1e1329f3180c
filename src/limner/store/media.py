"""Pictures as bytes: PNG with the prompt in it, previews, channels and masks, all of bounded size."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from limner.errors import BadInput, NotFound

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded: 13 377 × 13 377, 0.7 GB as RGBA. Pillow's own line between odd and hostile."""

Source = Path | bytes


def open_image(source: Source) -> Image:
    """A decoded picture (its first frame). Raises BadInput for a file that is no picture, damaged, or too large."""
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - Pillow is not needed to start

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError as error:
        raise _bad(source, "It is not a picture of a known format.") from error
    except FileNotFoundError as error:
        raise NotFound(f"There is no picture {source!s}.") from error
    except Exception as error:  # decoders of damaged headers raise whatever they stumble over
        raise _bad(source, f"It is damaged or too large: {error}.") from error
    try:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise _bad(source, f"It is {width} × {height} pixels; the most is {MAX_PIXELS}.")
        picture.load()
    except BadInput:
        picture.close()
        raise
    except Exception as error:
        picture.close()
        raise _bad(source, f"It is damaged: {error}.") from error
    return picture


def _bad(source: Source, why: str) -> BadInput:
    name = source.name if isinstance(source, Path) else "the upload"
    return BadInput(f"The picture {name} cannot be read.", why=why, do="Use a whole PNG, JPEG or WebP file.")


def text_chunks(prompt: Mapping[str, Any] | None, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """The texts that a result carries: `prompt`, and one of each key of extra_pnginfo (`workflow`), as JSON."""
    chunks = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return chunks | {str(key): json.dumps(value) for key, value in (extra_pnginfo or {}).items()}


def encode_png(pixels: np.ndarray[Any, Any], texts: Mapping[str, str] | None = None, compress_level: int = 4) -> bytes:
    """PNG of an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, with text chunks.

    Raises BadInput for another shape or type.
    """
    return _png(_picture(pixels), texts, compress_level)


def _picture(pixels: np.ndarray[Any, Any]) -> Image:
    from PIL import Image  # noqa: PLC0415

    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype.name != "uint8" or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in {3, 4})):
        raise BadInput(
            f"An array {pixels.shape} of {pixels.dtype} cannot be saved as a picture.",
            why="It must be (height, width), or that with 1, 3 or 4 channels, of uint8.",
        )
    return Image.fromarray(pixels)


def encode_animated_png(
    frames: Sequence[np.ndarray[Any, Any]],
    duration: int,
    texts: Mapping[str, str] | None = None,
    compress_level: int = 4,
) -> bytes:
    """Animated PNG of arrays (H, W, 3 or 4) uint8; the texts are `comf` chunks (key, NUL, text) after the first data.

    duration: milliseconds a frame.
    """
    from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415

    info = PngInfo()
    for key, text in (texts or {}).items():
        # the length of a chunk is known to its reader, so that nothing but the key's end needs a mark
        name = key.replace("\0", "").encode("latin-1", "ignore")
        info.add(b"comf", name + b"\0" + text.encode("latin-1", "replace"), after_idat=True)
    return _animation("PNG", frames, duration, pnginfo=info, compress_level=compress_level)


PROMPT_TAG, FIRST_EXTRA_TAG = 0x0110, 0x010F
"""The EXIF fields (Model; Make and downwards) in which a WebP carries its texts, each as `key:text`."""


def encode_animated_webp(
    frames: Sequence[np.ndarray[Any, Any]],
    duration: int,
    texts: Mapping[str, str] | None = None,
    *,
    lossless: bool = True,
    quality: int = 80,
    method: int = 4,
) -> bytes:
    """WebP of arrays (H, W, 3 or 4) uint8, animated when there are several; the texts are EXIF fields `key:text`.

    duration: milliseconds a frame. quality: 0..100, of lossless files the effort. method: 0 is fastest, 6 smallest.
    """
    from PIL import Image  # noqa: PLC0415

    exif = Image.Exif()
    tag = FIRST_EXTRA_TAG
    for key, text in (texts or {}).items():
        place = PROMPT_TAG if key == "prompt" else tag
        tag -= key != "prompt"
        exif[place] = f"{key}:{text}"
    return _animation("WEBP", frames, duration, exif=exif, lossless=lossless, quality=quality, method=method)


def _animation(kind: str, frames: Sequence[np.ndarray[Any, Any]], duration: int, **options: Any) -> bytes:
    if not frames:
        raise BadInput(f"There are no pictures to save as {kind}.")
    first, *rest = (_picture(frame) for frame in frames)
    buffer = io.BytesIO()
    try:
        first.save(buffer, kind, save_all=True, duration=duration, append_images=rest, **options)
    except (OSError, ValueError) as error:  # WebP ends at 16 383 pixels a side
        raise BadInput(f"Pictures of {first.width}×{first.height} cannot be saved as {kind}: {error}.") from error
    return buffer.getvalue()


def read_texts(source: Source) -> dict[str, str]:
    """The text chunks of a picture (`prompt`, `workflow`, …); empty for formats without."""
    with open_image(source) as picture:
        return _texts(picture)


def combine_mask(original: Source, mask: Source) -> bytes:
    """PNG of the original with the alpha of the mask picture; the original's texts are kept.

    Raises BadInput when either is no picture or they differ in size.
    """
    with open_image(original) as picture, open_image(mask) as over:
        result = picture.convert("RGBA")
        alpha = over.convert("RGBA").getchannel("A")
        if alpha.size != result.size:
            raise BadInput(
                f"The mask is {alpha.width}×{alpha.height}, its picture {result.width}×{result.height}.",
                why="They must be of one size.",
            )
        result.putalpha(alpha)
        return _png(result, _texts(picture), 4)


def preview(source: Source, form: str, channel: str = "rgba") -> tuple[bytes, str]:
    """A picture re-encoded to be small: the bytes and their content type.

    form: `webp` or `jpeg`, with a quality such as `webp;90`. Alpha needs WebP; JPEG and channel `rgb` drop it.
    """
    parts = form.split(";")
    kind: Literal["webp", "jpeg"] = "jpeg" if parts[0] == "jpeg" and "a" not in channel else "webp"
    quality = min(100, int(parts[-1])) if parts[-1].isascii() and parts[-1].isdigit() and len(parts[-1]) < 4 else 90
    with open_image(source) as picture:
        if kind == "jpeg" or channel == "rgb":
            shown = picture.convert("RGB")
        else:
            shown = picture if picture.mode in {"RGB", "RGBA"} else picture.convert("RGBA")
        buffer = io.BytesIO()
        try:
            shown.save(buffer, kind.upper(), quality=quality)
        except (OSError, ValueError) as error:  # WebP ends at 16 383 pixels a side
            raise _bad(source, f"It cannot be shown as {kind}: {error}.") from error
    return buffer.getvalue(), f"image/{kind}"


def channel_png(source: Source, channel: str) -> bytes:
    """PNG of the colours without alpha (`rgb`), or of alpha alone on black (`a`; opaque where there was none)."""
    from PIL import Image  # noqa: PLC0415

    with open_image(source) as picture:
        if channel == "rgb":
            # dropped, not composited; through RGBA, because a palette's own transparency would be composited
            return _png(picture.convert("RGBA").convert("RGB"), None, 4)
        alpha = picture.convert("RGBA").getchannel("A")
        only = Image.new("RGBA", picture.size)
        only.putalpha(alpha)
        return _png(only, None, 4)


def _texts(picture: Image) -> dict[str, str]:
    found = getattr(picture, "text", None) or picture.info
    return {str(key): str(value) for key, value in found.items() if isinstance(key, str) and isinstance(value, str)}


def _png(picture: Image, texts: Mapping[str, str] | None, compress_level: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=_png_info(texts or {}), compress_level=compress_level)
    return buffer.getvalue()


def _png_info(texts: Mapping[str, str]) -> PngInfo:
    from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415

    info = PngInfo()
    for key, text in texts.items():
        name = key.encode("latin-1", "ignore").decode("latin-1").replace("\0", "")[:79]  # the format's limits on keys
        if name:
            info.add_text(name, text)
    return info
