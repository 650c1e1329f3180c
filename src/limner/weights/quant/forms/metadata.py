"""The guide's form: `_quantization_metadata` in the header's metadata, a JSON text that names each quantized layer.

{"format_version": "1.0", "layers": {layer: format or {"format": …, "group_size": …}}}. Layers are called by their names
in the diffusion model; full names are taken too.
"""

from __future__ import annotations

from limner.errors import NotFound
from limner.weights.header import CheckpointHeader
from limner.weights.quant.form import BROKEN, WEIGHT, Form, Found, Stored, as_said, bad, parsed, taken

KEY = "_quantization_metadata"
VERSION = "1.0"
PREFIXES = ("model.diffusion_model.", "model.model.", "net.", "diffusion_model.", "transformer.", "model.")
"""What the names of a diffusion model may begin with in a file."""


def find(header: CheckpointHeader) -> Found:
    """The layers that the metadata names. Raises BadInput where it is no such text, NotFound where a layer is not."""
    if KEY not in header.metadata:
        return Found()
    told = parsed(header, header.metadata[KEY], f"The metadata {KEY}")
    version = told.get("format_version", VERSION)
    if not isinstance(version, str) or version.partition(".")[0] != "1":
        raise bad(header, f"{KEY} has the version {version!r}.", "Version 1 is read.", "Update Limner.")
    layers = told.get("layers")
    if not isinstance(layers, dict):
        raise bad(header, f"{KEY} names no layers.", f"Its `layers` are {layers!r}.")
    weights: dict[str, Stored] = {}
    consumed: set[str] = set()
    for name, settings in layers.items():
        layer = _layer(header, name)
        if layer + WEIGHT in weights:
            raise bad(header, f"{KEY} names the layer {layer!r} twice.", "Once by its full name.")
        weights[layer + WEIGHT] = as_said(header, layer, settings)
        consumed |= taken(layer)
    return Found(tuple(weights.values()), frozenset(consumed), frozenset((KEY,)))


def _layer(header: CheckpointHeader, name: str) -> str:
    for prefix in ("", *PREFIXES):
        if prefix + name + WEIGHT in header:
            return prefix + name
    raise NotFound(
        f"{header.path.name}: there is no layer {name!r}.", why=f"{KEY} says that it is quantized.", do=BROKEN
    )


FORM = Form(find)
