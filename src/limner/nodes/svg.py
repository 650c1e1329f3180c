"""Vector pictures: files in memory, saved with the prompt inside."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limner.graph import Run, Ui, node
from limner.nodes.kinds import SVG
from limner.nodes.saving import Extra, Prompt, carried_values, save_files

_OPENING = re.compile(r"""<svg\b(?:[^>"']|"[^"]*"|'[^']*')*>""", re.IGNORECASE)


@dataclass
class Svg:
    """Several SVG files in memory."""

    data: list[io.BytesIO]


@node(
    "SaveSVGNode",
    category="image/save",
    title="SaveSVGNode",
    python_module="comfy_extras.nodes_images",
    output_node=True,
)
def save(
    run: Run, svg: SVG, filename_prefix: str = "svg/ComfyUI", prompt: Prompt = None, extra_pnginfo: Extra = None
) -> Ui:
    """Vector pictures in the output folder, with prompt and workflow inside."""
    values = carried_values(run, prompt, extra_pnginfo)
    files = (with_metadata(one.getvalue(), values) for one in svg.data)
    return Ui({"images": save_files(run, "output", filename_prefix, "svg", files)})


def with_metadata(data: bytes, values: Mapping[str, Any]) -> bytes:
    """An SVG file with the values as JSON in a <metadata> element, its first; a file that is no SVG stays as it is."""
    text = data.decode("utf-8", "surrogateescape")
    opening = _OPENING.search(text)
    if not values or opening is None or opening.group().endswith("/>"):
        return data
    carried = json.dumps(values).replace("]]>", "]]]]><![CDATA[>")  # the section must not end within a text
    element = f"<metadata><![CDATA[{carried}]]></metadata>"
    return (text[: opening.end()] + element + text[opening.end() :]).encode("utf-8", "surrogateescape")
