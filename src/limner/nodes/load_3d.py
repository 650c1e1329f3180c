"""3-D models as the browser shows them: pictures of a scene, and the scene itself."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, NamedTuple

import torch

from limner.graph import FileIn, Image, Int, Kind, Mask, Run, Text, Ui, node
from limner.nodes.image_files import load_image
from limner.nodes.kinds import VIDEO
from limner.store.files import MESHES
from limner.store.video import VideoFromFile

ModelFile = Annotated[str, FileIn("input", suffixes=tuple(sorted(MESHES)), below="3d", extra={"file_upload": True})]
Side = Annotated[int, Int(min=1, max=4096, step=1)]
Camera = Annotated[dict[str, Any], Kind("LOAD3D_CAMERA")]
Scene = dict[str, Any]
"""What the browser sends: files `image`, `mask`, `normal`, `lineart`, `recording`, and its camera, `camera_info`."""

viewer = partial(node, category="3d", python_module="comfy_extras.nodes_load_3d", experimental=True)


class View(NamedTuple):
    """A scene as it is seen."""

    image: Image
    mask: Mask
    mesh_path: str
    normal: Image
    lineart: Image
    camera_info: Camera
    recording_video: VIDEO | None


class AnimatedView(NamedTuple):
    """A moving scene as it is seen."""

    image: Image
    mask: Mask
    mesh_path: str
    normal: Image
    camera_info: Camera
    recording_video: VIDEO | None


@viewer("Load3D", title="Load 3D")
def load_3d(
    run: Run,
    model_file: ModelFile,
    image: Annotated[Scene, Kind("LOAD_3D")],
    width: Side = 1024,  # noqa: ARG001 - the browser's
    height: Side = 1024,  # noqa: ARG001
) -> View:
    """What the browser shows of a 3-D model.

    image: what was seen, as the browser sent it.
    """
    return View(*_seen(run, image, model_file), _picture(run, image, "lineart"), *_camera(run, image))


@viewer("Load3DAnimation", title="Load 3D - Animation")
def load_animation(
    run: Run,
    model_file: ModelFile,
    image: Annotated[Scene, Kind("LOAD_3D_ANIMATION")],
    width: Side = 1024,  # noqa: ARG001
    height: Side = 1024,  # noqa: ARG001
) -> AnimatedView:
    """What the browser shows of a moving 3-D model.

    image: what was seen, as the browser sent it.
    """
    return AnimatedView(*_seen(run, image, model_file), *_camera(run, image))


def _seen(run: Run, scene: Scene, model_file: str) -> tuple[Image, Mask, str, Image]:
    mask = load_image(run, scene["mask"]).MASK
    return _picture(run, scene, "image"), mask, model_file, _picture(run, scene, "normal")


def _picture(run: Run, scene: Scene, name: str) -> Image:
    """A picture of the scene; black where the browser sent none."""
    if scene.get(name):
        return load_image(run, scene[name]).IMAGE
    return torch.zeros_like(load_image(run, scene["image"]).IMAGE)


def _camera(run: Run, scene: Scene) -> tuple[Any, VideoFromFile | None]:
    recording = scene.get("recording")
    video = VideoFromFile(str(run.store.files.existing(recording))) if recording else None
    return scene.get("camera_info"), video


@viewer("Preview3D", title="Preview 3D", output_node=True)
def preview(model_file: Annotated[str, Text(multiline=False)] = "", *, camera_info: Camera | None = None) -> Ui:
    """Show a 3-D model of the output folder.

    camera_info: where it is seen from.
    """
    return Ui({"result": (model_file, camera_info)})


@viewer("Preview3DAnimation", title="Preview 3D - Animation", output_node=True)
def preview_animation(
    model_file: Annotated[str, Text(multiline=False)] = "", *, camera_info: Camera | None = None
) -> Ui:
    """Show a moving 3-D model of the output folder.

    camera_info: where it is seen from.
    """
    return Ui({"result": (model_file, camera_info)})
