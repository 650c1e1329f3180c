"""`ComfyAPI` and `ComfyAPISync`: what running code may ask of the engine, and which versions of it there are."""

from __future__ import annotations

from typing import Any, NamedTuple

from limner.compat.v3.internal import ProxiedSingleton
from limner.errors import LimnerError
from limner.graph import CURRENT_RUN


def report_progress(
    value: float, max_value: float, node_id: str | None = None, preview: Any = None, ignore_size_limit: bool = False
) -> None:
    """Tell how far a node is, the running one unless another is named.

    preview: a PIL picture, or a tensor (height, width, 3) or (1, …) in 0..1; ignore_size_limit: shown as large as it
    is. Raises Interrupted when the prompt was interrupted, and LimnerError where no node runs.
    """
    run = CURRENT_RUN.get()
    if run is None:
        raise LimnerError("Progress can be told while a node runs.", why="No node is running here.")
    picture = _picture(preview)
    if picture is not None and ignore_size_limit:
        picture = ("JPEG", picture, None)
    run.sink.progress(node_id or run.node_id, value, max_value, picture)


def _picture(preview: Any) -> Any:
    if preview is None or not hasattr(preview, "detach"):
        return preview
    import numpy as np  # noqa: PLC0415 - needed only with previews
    from PIL import Image  # noqa: PLC0415

    pixels = preview.detach().float().cpu().numpy()
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    return Image.fromarray((pixels[..., :3] * 255).clip(0, 255).astype(np.uint8))


class ComfyAPIBase(ProxiedSingleton):
    """One object of a version of the API."""

    VERSION = "latest"
    STABLE = False


class Execution:
    """`api.execution`, awaited."""

    async def set_progress(
        self,
        value: float,
        max_value: float,
        node_id: str | None = None,
        preview_image: Any = None,
        ignore_size_limit: bool = False,
    ) -> None:
        """Tell how far a node is; see `report_progress`."""
        report_progress(value, max_value, node_id, preview_image, ignore_size_limit)


class ExecutionSync:
    """`api.execution`, called."""

    def set_progress(
        self,
        value: float,
        max_value: float,
        node_id: str | None = None,
        preview_image: Any = None,
        ignore_size_limit: bool = False,
    ) -> None:
        """Tell how far a node is; see `report_progress`."""
        report_progress(value, max_value, node_id, preview_image, ignore_size_limit)


class ComfyAPI(ComfyAPIBase):
    """The API whose methods are awaited."""

    Execution = Execution
    execution = Execution()


class ComfyAPISync(ComfyAPIBase):
    """The API whose methods are called."""

    Execution = ExecutionSync
    execution = ExecutionSync()


class ComfyAPIv2(ComfyAPI):
    """Version 0.0.2: the same so far."""

    VERSION = "0.0.2"


class ComfyAPIv1(ComfyAPI):
    """Version 0.0.1: the same so far."""

    VERSION = "0.0.1"


class ComfyAPIWithVersion(NamedTuple):
    """A version's name and its class."""

    version: str
    api_class: type[ComfyAPIBase]


supported_versions: tuple[type[ComfyAPIBase], ...] = (ComfyAPI, ComfyAPIv2, ComfyAPIv1)


def get_all_versions() -> list[ComfyAPIWithVersion]:
    """Every version, the newest first."""
    return [ComfyAPIWithVersion(one.VERSION, one) for one in supported_versions]
