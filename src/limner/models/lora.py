"""LoRA files: the names by which they call a model's weights, and loading them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from limner.errors import BadInput
from limner.models.clip import CLIP
from limner.models.detect import families
from limner.models.lora_files import under_known_names
from limner.models.lora_keys import text_names
from limner.models.model import Model
from limner.weights import CheckpointHeader, files, read_adapters
from limner.weights.patches import AdapterFile

__all__ = ["clip_keys", "load_lora", "model_keys", "text_names"]

_log = logging.getLogger(__name__)


def model_keys(model: Model) -> dict[str, Any]:
    """What a LoRA file may call this model's weights: name without suffix → patch key."""
    return model.lora_names()


def clip_keys(clip: CLIP) -> dict[str, str]:
    """What a LoRA file may call this text encoder's weights."""
    return text_names(clip.source.tensors)


def load_lora(
    path: str | Path, model: Model | None, clip: CLIP | None, strength_model: float, strength_clip: float
) -> tuple[Model | None, CLIP | None]:
    """Clones of the two with a LoRA file's changes added; None stays None, strength 0 adds nothing.

    Names in the file that belong to neither are warned about, as workflows go on without them. Raises BadInput when
    the file cannot be read, or when nothing in it belongs to either; but one of text encoders alone may be given to a
    model without them.
    """
    manager = model or clip
    if manager is None:
        return None, None
    header = under_known_names(files.header(path, use_mmap=not manager.memory.settings.disable_mmap))
    found = _found(header, model, clip)
    if len(found.unused) == len(header) and not (clip is None and _of_text(header)):
        raise _of_another_kind(header, model, clip) or of_another(header, model)
    return _with(found, header, model, clip, strength_model, strength_clip)


def add_lora(
    header: CheckpointHeader, model: Model | None, clip: CLIP | None, strength_model: float, strength_clip: float
) -> tuple[Model | None, CLIP | None]:
    """The same of tensors that have been read; where nothing belongs to either, there is a warning and no error."""
    header = under_known_names(header)
    return _with(_found(header, model, clip), header, model, clip, strength_model, strength_clip)


def _found(header: CheckpointHeader, model: Model | None, clip: CLIP | None) -> AdapterFile:
    return read_adapters(header, _keys(model, clip))


def _keys(model: Model | None, clip: CLIP | None) -> dict[str, Any]:
    return (model_keys(model) if model is not None else {}) | (clip_keys(clip) if clip is not None else {})


def _with(
    found: AdapterFile, header: CheckpointHeader, model: Model | None, clip: CLIP | None, strength_model: float,
    strength_clip: float,
) -> tuple[Model | None, CLIP | None]:  # fmt: skip
    new_model, new_clip = model, clip
    if model is not None and strength_model:
        new_model = model.clone()
        new_model.add_patches(found.adapters, strength_model)
        _refuse_growth(header, new_model)
    if clip is not None and strength_clip:
        new_clip = clip.clone()
        new_clip.add_patches(found.adapters, strength_clip)
    if found.unused and ((model is not None and clip is not None) or len(found.unused) == len(header)):
        _warn(header, found.unused)
    return new_model, new_clip


def _refuse_growth(header: CheckpointHeader, model: Model) -> None:
    """Raise BadInput where a LoRA makes a weight larger of a model that cannot be shown more."""
    for key, size in model.patches.shapes().items():
        own = model.source.tensors[key.removeprefix(model.source.prefix)].shape
        if size != own and model.patched_config == model.config:
            raise BadInput(
                f"{header.path.name} makes {key} {list(size)} large, in this {model.family.title} model it is "
                f"{list(own)}.",
                why="It is made for a model that is shown another number of channels.",
                do="Choose the model that it was made for.",
            )


def _warn(header: CheckpointHeader, unused: tuple[str, ...]) -> None:
    if len(unused) == len(header):
        _log.warning("%s changes nothing: it is made for another model, or it is no LoRA.", header.path.name)
    shown = ", ".join(unused[:5]) + (" …" if len(unused) > 5 else "")
    _log.warning("%s: %d tensors belong to nothing in the model: %s", header.path.name, len(unused), shown)


_OF_TEXT = ("lora_te", "lora_prior_te", "text_encoder")


def _of_text(header: CheckpointHeader) -> bool:
    """Whether all of a LoRA's tensors are text encoders'."""
    return len(header) > 0 and all(name.startswith(_OF_TEXT) for name in header)


def _of_another_kind(header: CheckpointHeader, model: Model | None, clip: CLIP | None) -> BadInput | None:
    """What to say of a file that changes weights of the model, but by a kind of change that is not known."""
    keys = _keys(model, clip)
    for name in header:
        parts = name.split(".")
        cuts = (cut for cut in range(len(parts) - 1, 0, -1) if ".".join(parts[:cut]) in keys)
        if (cut := next(cuts, None)) is not None:
            return BadInput(
                f"{header.path.name}: none of its {len(header)} tensors is of a kind that is known.",
                why=f"{name} is named after a weight of the model, but ends in .{'.'.join(parts[cut:])}.",
                do="Use a LoRA of another kind: plain LoRA, DoRA and whole differences are known.",
            )
    return None


def of_another(header: CheckpointHeader, model: Model | None) -> BadInput:
    """Nothing in a LoRA belongs to what it was given: say what it looks like."""
    title = "these text encoders" if model is None else f"this {model.family.title} model"
    if not header:
        return BadInput(f"{header.path.name} holds no tensors.", do="Get a complete file.")
    names = [name for name in header if not name.startswith(_OF_TEXT)] or list(header)
    flat = {name.replace(".", "_") for name in names}
    like = {
        family.title: None
        for family in families().values()
        if any(sign in name for sign in family.lora.signs for name in flat)
    }
    if model is not None:
        like.pop(model.family.title, None)
    guess = f", as in LoRAs for {_one_of(list(like))}" if like else ", which no known model family has"
    return BadInput(
        f"{header.path.name}: none of its {len(header)} tensors belongs to {title}.",
        why=f"They have names like {names[0]}{guess}.",
        do="Choose a LoRA made for this model, or the model that it was made for."
        if like
        else "Choose a LoRA made for this model; `limner inspect` says what a file holds.",
    )


def _one_of(titles: list[str], most: int = 5) -> str:
    """The first few of several."""
    if len(titles) > most:
        return f"{', '.join(titles[:most])} …"
    return " or ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)
