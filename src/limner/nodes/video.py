"""Video: from pictures and sound, taken apart, from and to files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from limner.errors import BadInput
from limner.graph import Choice, FileIn, Float, Image, Int, Run, Text, Ui, node
from limner.nodes.kinds import AUDIO, VIDEO
from limner.nodes.saving import Extra, Prompt, carried, pixel_bytes, shown, whole_file
from limner.store.files import VIDEOS
from limner.store.video import (
    VideoCodec,
    VideoComponents,
    VideoContainer,
    VideoFromComponents,
    VideoFromFile,
    write_video,
)

Prefix = Annotated[str, Text(multiline=False)]
Upload = Annotated[str, FileIn("input", suffixes=tuple(sorted(VIDEOS)), extra={"video_upload": True})]
# encoder and pixel format; AV1 gains from ten bits even where the pictures have eight
WEBM = {"vp9": ("libvpx-vp9", "yuv420p"), "av1": ("libsvtav1", "yuv420p10le")}

video_node = partial(node, category="image/video", python_module="comfy_extras.nodes_video", style="v3")


class Components(NamedTuple):
    """What a video is made of."""

    images: Image
    audio: AUDIO | None
    fps: float


@video_node("SaveWEBM", title="", output_node=True, experimental=True)
def save_webm(
    run: Run,
    images: Image,
    filename_prefix: Prefix = "ComfyUI",
    *,
    codec: Annotated[str, Choice(tuple(WEBM))],
    fps: Annotated[float, Float(min=0.01, max=1000.0, step=0.01)] = 24.0,
    crf: Annotated[float, Float(min=0, max=63.0, step=1)] = 32.0,
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """The batch as WebM in the output folder, with prompt and workflow inside.

    images: the pictures.
    filename_prefix: folders and the start of the name.
    codec: AV1 makes smaller files and takes longer.
    fps: pictures a second.
    crf: higher is smaller and worse.
    """
    if len(images) == 0:
        raise BadInput("There are no pictures to save as WebM.")
    encoder, pixels = WEBM[codec]
    height, width = images.shape[1:3]
    target = run.store.files.next_name("output", filename_prefix, "webm", width=width, height=height)
    with whole_file(target.path()) as path:
        write_video(
            path,
            _frames(run, images),
            Fraction(round(fps * 1000), 1000),
            container="webm",
            codec=encoder,
            pixels=pixels,
            options={"crf": str(round(crf))},
            bit_rate=0,
            metadata=carried(run, prompt, extra_pnginfo),
        )
    return Ui({"images": [shown(target, "output")], "animated": (True,)})


def _frames(run: Run, images: Tensor) -> Iterator[np.ndarray[Any, Any]]:
    for index, image in enumerate(images):
        run.progress(index, len(images))
        yield pixel_bytes(_coloured(image))


def _coloured(image: Tensor) -> Tensor:
    """Three channels, of grey and of transparent pictures too."""
    return image.expand(-1, -1, 3) if image.shape[-1] == 1 else image[..., :3]


@video_node("SaveVideo", title="Save Video", output_node=True)
def save_video(
    run: Run,
    video: VIDEO,
    filename_prefix: Prefix = "video/ComfyUI",
    format: Annotated[str, Choice(VideoContainer.as_input())] = "auto",  # noqa: A002 - the wire's name
    codec: Annotated[str, Choice(VideoCodec.as_input())] = "auto",
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """A video in the output folder, with prompt and workflow inside; coded anew only where that is needed.

    video: the video.
    filename_prefix: folders and the start of the name.
    format: the kind of file.
    codec: how pictures are coded.
    """
    width, height = video.get_dimensions()
    extension = VideoContainer.get_extension(format)
    target = run.store.files.next_name("output", filename_prefix, extension, width=width, height=height)
    texts = carried(run, prompt, extra_pnginfo)
    with whole_file(target.path()) as path:
        video.save_to(path, VideoContainer(format), VideoCodec(codec), texts or None)
    return Ui({"images": [shown(target, "output")], "animated": (True,)})


@video_node("CreateVideo", title="Create Video")
def create(
    images: Image, fps: Annotated[float, Float(min=1.0, max=120.0, step=1.0)] = 30.0, *, audio: AUDIO | None = None
) -> VIDEO:
    """A video of pictures.

    images: the pictures.
    fps: pictures a second.
    audio: the sound.
    """
    return VideoFromComponents(VideoComponents(images, Fraction(fps), audio))


@video_node("GetVideoComponents", title="Get Video Components")
def components(video: VIDEO) -> Components:
    """The pictures and the sound of a video, and how many pictures it shows a second.

    video: the video.
    """
    parts = video.get_components()
    return Components(parts.images, parts.audio, float(parts.frame_rate))


@video_node("LoadVideo", title="Load Video")
def load(run: Run, file: Upload) -> VIDEO:
    """A video of the input folder.

    file: the file.
    """
    return VideoFromFile(str(run.store.files.existing(file)))


@load.changes_when
def _digest(run: Run, file: str) -> str:
    digest: str = run.store.files.digest(run.store.files.existing(file))
    return digest


@node(
    "LTXVPreprocess",
    category="image",
    title="",
    python_module="comfy_extras.nodes_lt",
    style="v3",
    output_names=("output_image",),
)
def compress(image: Image, img_compression: Annotated[int, Int(min=0, max=100)] = 35) -> Image:
    """Each picture as it looks after a video codec, which LTX-Video expects of the picture it begins with.

    image: the picture; an odd last row or column is left out.
    img_compression: H.264's rate factor; 0 changes nothing.
    """
    if img_compression == 0:
        return image
    return torch.stack([_compressed(one, img_compression) for one in image]).to(image)


def _compressed(image: Tensor, factor: int) -> Tensor:
    buffer = io.BytesIO()
    options = {"crf": str(min(factor, 51))}  # H.264 ends there
    write_video(buffer, [pixel_bytes(_coloured(image))], Fraction(1), options=options)
    return VideoFromFile(buffer).get_components().images[0]
