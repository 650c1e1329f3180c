"""The course of a training as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from PIL import Image as Picture
from PIL import ImageDraw

from limner.errors import BadInput
from limner.graph import Kind, Run, Ui, node
from limner.nodes.saving import Extra, Prompt, save_files, temp_prefix

SIZE = (800, 480)
_MARGIN = 40
_INK, _LINE, _PAPER = (60, 60, 60), (0, 90, 200), (255, 255, 255)


@node(
    "LossGraphNode",
    category="training",
    title="Plot Loss Graph",
    python_module="comfy_extras.nodes_train",
    output_node=True,
    experimental=True,
)
def plot(
    run: Run,
    loss: Annotated[Mapping[str, Any], Kind("LOSS_MAP", {"default": {}})],
    filename_prefix: str = "loss_graph",
    prompt: Prompt = None,  # noqa: ARG001 - shown, not kept
    extra_pnginfo: Extra = None,  # noqa: ARG001
) -> Ui:
    """The losses of a training, step by step, as a picture in the temp folder.

    loss: what the training returned.
    filename_prefix: the start of the name.
    """
    values = [float(value) for value in loss.get("loss", ())]
    if not values:
        raise BadInput("There is no loss to plot.", why="The training returned none.")
    buffer = io.BytesIO()
    graph(values).save(buffer, "PNG")
    prefix = f"{filename_prefix}_{temp_prefix()}"
    return Ui({"images": save_files(run, "temp", prefix, "png", [buffer.getvalue()])})


def graph(values: Sequence[float]) -> Picture.Image:
    """A line through the values, from left to right, between the least and the greatest."""
    picture = Picture.new("RGB", SIZE, _PAPER)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = _MARGIN * 2, _MARGIN, SIZE[0] - _MARGIN, SIZE[1] - _MARGIN
    least, greatest = min(values), max(values)
    span = (greatest - least) or 1.0
    across = (right - left) / max(1, len(values) - 1)
    points = [(left + across * i, bottom - (value - least) / span * (bottom - top)) for i, value in enumerate(values)]
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=_INK, width=1)
    draw.line(points if len(points) > 1 else points * 2, fill=_LINE, width=2)
    draw.text((4, top - 6), f"{greatest:.4g}", fill=_INK)
    draw.text((4, bottom - 6), f"{least:.4g}", fill=_INK)
    draw.text((left, bottom + 8), "step 1", fill=_INK)
    draw.text((right - 40, bottom + 8), str(len(values)), fill=_INK)
    return picture
