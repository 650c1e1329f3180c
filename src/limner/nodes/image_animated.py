"""Batches of pictures as animations."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from limner.graph import Choice, Float, Image, Int, Run, Ui, node
from limner.nodes.saving import Extra, Prompt, carried, pixel_bytes, save_files
from limner.store.media import encode_animated_png, encode_animated_webp

Rate = Annotated[float, Float(min=0.01, max=1000.0, step=0.01)]
Method = Annotated[str, Choice(("default", "fastest", "slowest"))]
METHODS = {"default": 4, "fastest": 0, "slowest": 6}

animated = partial(node, category="image/animation", python_module="comfy_extras.nodes_images", output_node=True)


@animated("SaveAnimatedWEBP", title="SaveAnimatedWEBP")
def save_webp(
    run: Run,
    images: Image,
    filename_prefix: str = "ComfyUI",
    fps: Rate = 6.0,
    lossless: bool = True,
    quality: Annotated[int, Int(min=0, max=100)] = 80,
    *,
    method: Method,
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """The batch as one animated WebP in the output folder, with prompt and workflow inside."""
    data = encode_animated_webp(
        [pixel_bytes(image) for image in images],
        int(1000.0 / fps),
        carried(run, prompt, extra_pnginfo),
        lossless=lossless,
        quality=quality,
        method=METHODS[method],
    )
    files = save_files(run, "output", filename_prefix, "webp", [data], (images.shape[2], images.shape[1]))
    return Ui({"images": files, "animated": (len(images) != 1,)})


@animated("SaveAnimatedPNG", title="SaveAnimatedPNG")
def save_png(
    run: Run,
    images: Image,
    filename_prefix: str = "ComfyUI",
    fps: Rate = 6.0,
    compress_level: Annotated[int, Int(min=0, max=9)] = 4,
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """The batch as one animated PNG in the output folder, with prompt and workflow inside."""
    texts = carried(run, prompt, extra_pnginfo)
    data = encode_animated_png([pixel_bytes(image) for image in images], int(1000.0 / fps), texts, compress_level)
    files = save_files(run, "output", filename_prefix, "png", [data], (images.shape[2], images.shape[1]))
    return Ui({"images": files, "animated": (True,)})
