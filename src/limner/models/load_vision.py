"""Files to ClipVision: which vision encoder they hold. The folder `vision` is the registry."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache, partial
from importlib import import_module
from pathlib import Path

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models.clip_vision import ClipVision
from limner.models.convert import clip_vision
from limner.models.metadata import overrides
from limner.models.reading import read_header
from limner.models.vision.kind import VisionKind
from limner.weights import CheckpointHeader, NetworkSource

PREFIXES = ("", "model.visual.", "clip_vision.", "image_encoder.")
"""What the names of an encoder's own file may begin with."""

CHECKPOINT_PREFIXES = (
    "embedder.model.visual.", "conditioner.embedders.0.open_clip.model.visual.", "cond_stage_model.model.visual.",
    "clip_l_vision.",
)  # fmt: skip
"""Where checkpoints that are shown pictures have their vision encoder: unCLIP, video, views of an object, cascades."""


@cache
def vision_encoders() -> Mapping[str, VisionKind]:
    """Every kind of vision encoder by name: what the modules of the folder `vision` have as `VISION`."""
    package = import_module("limner.models.vision")
    modules = [import_module(f"limner.models.vision.{one.name}") for one in pkgutil.iter_modules(package.__path__)]
    kinds = [module.VISION for module in modules if isinstance(getattr(module, "VISION", None), VisionKind)]
    return {kind.name: kind for kind in kinds}


def recognise(header: CheckpointHeader) -> tuple[VisionKind, CheckpointHeader] | None:
    """The kind of a vision encoder, with its header in transformers' names; None for an unknown one."""
    part = clip_vision(header)
    matching = [kind for kind in vision_encoders().values() if all(mark.test(part) for mark in kind.marks)]
    if not matching:
        return None
    return max(matching, key=lambda kind: len(kind.marks)), part


def load_clip_vision(path: str | Path, memory: MemoryManager) -> ClipVision:
    """A file that is a vision encoder. Raises BadInput when it is none that is known."""
    return clip_vision_of(read_header(path, memory), memory)


def clip_vision_of(header: CheckpointHeader, memory: MemoryManager) -> ClipVision:
    """The vision encoder of a header. Raises BadInput when it has none that is known."""
    for prefix in PREFIXES:
        found = clip_vision_in_checkpoint(header, prefix, memory)
        if found is not None:
            return found
    raise BadInput(
        f"{header.path.name}: {len(header)} tensors, but no known vision encoder.",
        why="CLIP's and SigLIP's are known, in the names of transformers or OpenCLIP.",
        do="Choose a CLIP vision file, such as clip_vision_h or sigclip_vision_patch14_384.",
    )


def clip_vision_in_checkpoint(header: CheckpointHeader, prefix: str, memory: MemoryManager) -> ClipVision | None:
    """The vision encoder of a checkpoint, whose names begin with `prefix` there; None where it has none."""
    match = recognise(header.select(prefix))
    if match is None:
        return None
    kind, part = match
    config = kind.infer_config(part, overrides(header, "clip_vision"))
    source = NetworkSource("CLIP vision", partial(kind.network, config), part.tensors, header.identity, prefix)
    return ClipVision(kind, config, source, memory, header.path.name)


def clip_vision_beside(header: CheckpointHeader, memory: MemoryManager) -> ClipVision | None:
    """The vision encoder of a checkpoint, wherever it is in it; None where it has none."""
    found = (clip_vision_in_checkpoint(header, prefix, memory) for prefix in CHECKPOINT_PREFIXES)
    return next((one for one in found if one is not None), None)
