"""Files to CONTROL_NET. Only headers are read here; weights are read when a control is first used."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from limner.errors import BadInput, NotFound
from limner.memory import MemoryManager
from limner.models import replaced
from limner.models.control.base import ControlBase
from limner.models.control.kind import ControlFile, ControlKind, Layout
from limner.models.folders import ENDINGS, UNET_NAMES
from limner.models.reading import read_header
from limner.weights import CheckpointHeader


@cache
def kinds() -> Mapping[str, ControlKind]:
    """Every kind of control by name: the modules of this folder that have a `CONTROL`."""
    package = import_module("limner.models.control")
    found: dict[str, ControlKind] = {}
    for module in pkgutil.iter_modules(package.__path__):
        kind = getattr(import_module(f"{package.__name__}.{module.name}"), "CONTROL", None)
        if isinstance(kind, ControlKind):
            found[kind.name] = kind
    return found


def detect(header: CheckpointHeader) -> tuple[ControlKind, Layout]:
    """Which kind of control a file is, and in which layout: the one with most marks of those that hold.

    Raises BadInput that says what the file may be when none matches.
    """
    layouts = [(kind, layout) for kind in kinds().values() for layout in kind.layouts]
    matching = [(kind, layout) for kind, layout in layouts if all(mark.test(header) for mark in layout.marks)]
    if matching:
        return max(matching, key=lambda one: len(one[1].marks))

    def lacking(one: tuple[ControlKind, Layout]) -> list[str]:
        return [mark.name for mark in one[1].marks if not mark.test(header)]

    nearest = min(layouts, key=lambda one: (len(lacking(one)), -len(one[1].marks)))
    raise BadInput(
        f"{header.path.name}: {len(header)} tensors, but no known ControlNet or T2I adapter.",
        why=f"Closest is {nearest[0].title} (lacking: {', '.join(lacking(nearest)[:3])}).",
        do=_what_it_may_be(header),
    )


def _what_it_may_be(header: CheckpointHeader) -> str:
    names = list(header)
    if any(name.startswith("after_proj_list.") for name in names):
        return "It is a ControlNet of HunyuanDiT, a model family that this version does not support."
    if any(name.startswith(("backbone.0.", "backbone.10.")) for name in names):
        return "It is a ControlNet of Stable Cascade, a model family that this version does not support."
    if any("lora_" in name or ".lora" in name for name in names):
        return "It is a LoRA: load it with Load LoRA."
    if any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in names):
        return "It is a checkpoint: load it with Load Checkpoint."
    return "`limner inspect` says what the file holds; model patches are loaded with ModelPatchLoader."


def load_controlnet(path: str | Path, memory: MemoryManager, model: Any = None) -> ControlBase:
    """The control of a file, or of a folder of the diffusers library.

    model: the diffusion model to whose weights those of a "difference" ControlNet are added.

    Raises NotFound for a folder without weights, BadInput when the file is no control that is known.
    """
    found: ControlBase | None = replaced.get("load_controlnet", str(path), model)
    return read_controlnet(path, memory, model) if found is None else found


def read_controlnet(path: str | Path, memory: MemoryManager, model: Any = None) -> ControlBase:
    """The same by Limner itself, whatever packs have put in its place."""
    return control_of(read_header(_file(Path(path)), memory), memory, model)


def control_of(header: CheckpointHeader, memory: MemoryManager, model: Any = None) -> ControlBase:
    """The control of a header."""
    kind, layout = detect(header)
    return kind.make(kind, ControlFile(layout.convert(header), memory, model))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for ending in ENDINGS:
        for stem in UNET_NAMES:
            if (path / (stem + ending)).is_file():
                return path / (stem + ending)
    raise NotFound(
        f"{path.name} holds no ControlNet.",
        why=f"Looked in the folder for {', '.join(UNET_NAMES)} with the endings {', '.join(ENDINGS)}.",
        do="Download the model again, all of it.",
    )
