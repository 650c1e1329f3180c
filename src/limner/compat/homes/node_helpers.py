"""`node_helpers`: small things that node code shares."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from PIL import ImageFile, UnidentifiedImageError

from limner.compat.host import current

__all__ = ["conditioning_set_values", "hasher", "image_alpha_fix", "pillow", "string_to_torch_dtype"]


def conditioning_set_values(
    conditioning: list[Any], values: Mapping[str, Any] | None = None, append: bool = False
) -> list[Any]:
    """The conditioning with these options set; `append` adds lists to what is there."""
    found = []
    for entry in conditioning:
        options = dict(entry[1])
        for key, value in (values or {}).items():
            old = options.get(key)
            options[key] = old + value if append and old is not None else value
        found.append([entry[0], options, *entry[2:]])
    return found


@cache
def _tolerance() -> threading.Lock:
    return threading.Lock()


def pillow(fn: Callable[..., Any], arg: Any) -> Any:
    """`fn(arg)` of Pillow's; a file that is cut off or cannot be told is tried again tolerantly."""
    try:
        return fn(arg)
    except (OSError, UnidentifiedImageError, ValueError):
        with _tolerance():
            before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                return fn(arg)
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = before


def hasher() -> Callable[..., Any]:
    """The hash of `--default-hashing-function`."""
    return getattr(hashlib, current().settings.default_hashing_function)  # type: ignore[no-any-return]


def string_to_torch_dtype(string: str) -> Any:
    """`fp32`, `fp16` or `bf16` as torch's dtype, None for any other text."""
    import torch  # noqa: PLC0415 - packs import this module before torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.get(string)


def image_alpha_fix(destination: Any, source: Any) -> tuple[Any, Any]:
    """Both pictures with the destination's number of channels: the source loses alpha, or gains an opaque one."""
    import torch  # noqa: PLC0415 - packs import this module before torch

    if destination.shape[-1] < source.shape[-1]:
        source = source[..., : destination.shape[-1]]
    elif destination.shape[-1] > source.shape[-1]:
        source = torch.nn.functional.pad(source, (0, destination.shape[-1] - source.shape[-1]), value=1.0)
    return destination, source
