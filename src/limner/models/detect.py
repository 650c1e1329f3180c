"""Which family a checkpoint belongs to: a pure function of its header."""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from limner.errors import BadInput
from limner.models.convert import is_diffusers_unet, unet_from_diffusers
from limner.models.family import Family
from limner.weights.header import CheckpointHeader
from limner.weights.targets import renamed

PREFIXES = ("model.diffusion_model.", "model.model.", "net.")


@dataclass(frozen=True)
class Match:
    """A family, where its diffusion model is in the file, and that part of the header under the reference's names."""

    family: Family
    prefix: str
    diffusion: CheckpointHeader


@dataclass(frozen=True)
class Near:
    """How close a family came. found, wanted: of the marks that something is there; missing: of all marks."""

    family: str
    found: int
    wanted: int
    missing: tuple[str, ...]


@cache
def families() -> Mapping[str, Family]:
    """Every family by name: the modules of this folder that have a `FAMILY`, or `FAMILIES` where they are several."""
    package = import_module("limner.models")
    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = import_module(f"limner.models.{info.name}")
        several = (getattr(module, "FAMILY", None), *getattr(module, "FAMILIES", ()))
        found |= {family.name: family for family in several if isinstance(family, Family)}
    return found


def diffusion_prefix(header: CheckpointHeader) -> str:
    """What the names of the diffusion model begin with in this file; "" when it is the whole file."""
    counts = Counter(next((prefix for prefix in PREFIXES if name.startswith(prefix)), None) for name in header)
    counts.pop(None, None)
    if counts:
        prefix, number = counts.most_common(1)[0]
        if prefix is not None and number > 5:
            return prefix
    return "model." if sum(name.startswith("model.") for name in header) > 5 else ""


def detect(header: CheckpointHeader) -> Match:
    """The family of a checkpoint or of a bare diffusion model, in the reference's or diffusers' layout.

    Raises BadInput that names the nearest family when none matches, and both when two match that have nothing to do
    with each other.
    """
    prefix = diffusion_prefix(header)
    diffusion = from_diffusers(header.select(prefix))
    matching = [family for family in families().values() if all(mark.test(diffusion) for mark in family.marks)]
    if not matching:
        raise unknown_family(header, nearest(diffusion))
    best = max(matching, key=lambda family: len(family.marks))
    told = {mark.name for mark in best.marks}
    others = [family.title for family in matching if not told.issuperset(mark.name for mark in family.marks)]
    if others:
        raise BadInput(
            f"{header.path.name} holds tensors of {best.title} and of {', '.join(others)}.",
            why="A file has one diffusion model; which of them is meant cannot be told.",
            do="Keep each model in a file of its own.",
        )
    return Match(best, prefix, diffusion)


def from_diffusers(diffusion: CheckpointHeader) -> CheckpointHeader:
    """A diffusion model in the diffusers library's layout under the reference's names; any other as it is."""
    if is_diffusers_unet(diffusion.tensors):
        return unet_from_diffusers(diffusion)
    known = families().values()
    layouts = [layout for family in known for layout in (family.diffusers, *family.layouts) if layout is not None]
    matching = [layout for layout in layouts if all(mark.test(diffusion) for mark in layout.marks)]
    if not matching:
        return diffusion
    layout = max(matching, key=lambda layout: len(layout.marks))
    return renamed(diffusion, layout.targets(diffusion))


def nearest(diffusion: CheckpointHeader) -> Sequence[Near]:
    """All families, the closest first. What is not there, as in most files, brings none of them closer."""
    found = []
    for family in families().values():
        missing = tuple(mark.name for mark in family.marks if not mark.test(diffusion))
        there = [mark.name for mark in family.marks if not mark.name.startswith("no ")]
        found.append(Near(family.title, len(set(there) - set(missing)), len(there), missing))
    return sorted(found, key=lambda near: (near.found == 0, len(near.missing)))


def unknown_family(header: CheckpointHeader, near: Sequence[Near]) -> BadInput:
    """No family claims this file: say what was seen and what to do."""
    best = near[0]
    closest = f"Closest is {best.family} ({best.found} of {best.wanted} marks; lacking: {', '.join(best.missing[:3])})."
    return BadInput(
        f"{header.path.name}: {len(header)} tensors, but no known diffusion model.",
        why=closest if 2 * best.found >= best.wanted else "No known family has tensors of such names.",
        do=_what_it_may_be(header),
    )


def _what_it_may_be(header: CheckpointHeader) -> str:
    names = list(header)
    if any("lora_" in name or ".lora" in name for name in names):
        return "It is a LoRA: load it with Load LoRA."
    if any(name.startswith(("controlnet_", "control_model.", "input_hint_block.")) for name in names):
        return "It is a ControlNet: load it with Load ControlNet Model."
    if any(name.startswith(("text_model.", "encoder.block.", "model.layers.")) for name in names):
        return "It is a text encoder: load it with Load CLIP."
    if any(name.startswith(("vision_model.", "visual.", "model.visual.")) for name in names):
        return "It is a vision encoder: load it with Load CLIP Vision."
    if any(name.startswith(("decoder.", "encoder.down", "taesd_decoder.")) for name in names):
        return "It is a VAE: load it with Load VAE."
    return "If the model is new, open an issue with the output of `limner inspect --strip`."
