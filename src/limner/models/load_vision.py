"""Files to ClipVision: which vision encoder they hold."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models.clip_vision import ClipVision
from limner.models.metadata import overrides
from limner.models.reading import read_header
from limner.models.vision.kind import PREFIXES, recognise
from limner.models.what import what_it_is
from limner.weights import CheckpointHeader, NetworkSource

CHECKPOINT_PREFIXES = (
    "embedder.model.visual.", "conditioner.embedders.0.open_clip.model.visual.", "cond_stage_model.model.visual.",
    "clip_l_vision.",
)  # fmt: skip
"""Where checkpoints that are shown pictures have their vision encoder: unCLIP, video, views of an object, cascades."""


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
        why=f"Found: {what_it_is(header) or 'nothing that is known'}.",
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
