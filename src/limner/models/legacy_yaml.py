"""The .yaml configurations that old checkpoints came with. Tensors say all but two things: what the network predicts,
and which layer of the text encoder is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from limner.errors import BadInput
from limner.models.load import Checkpoint
from limner.sampling.model_sampling import make_sampling


@dataclass(frozen=True)
class Configuration:
    """velocity: the network predicts it instead of noise. layer: of the text encoder; None as the family has it."""

    velocity: bool = False
    layer: int | None = None


def read_configuration(path: Path) -> Configuration:
    """What a file says. Raises BadInput when it is no such configuration."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path.name} is not YAML.", why=str(error)) from error
    params = _inside(content, "model", "params")
    if params is None:
        raise BadInput(f"{path.name} is no configuration of a checkpoint.", why="It has no model with params.")
    text = _inside(params, "cond_stage_config", "params") or {}
    layer = text.get("layer_idx") if text.get("layer") == "hidden" else None
    layer = -2 if text.get("layer") == "penultimate" else layer
    if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int)):
        raise BadInput(f"{path.name}: layer_idx is {layer!r}.", why="It must be a whole number.")
    return Configuration(params.get("parameterization") == "v", layer)


def _inside(content: Any, *names: str) -> Mapping[str, Any] | None:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else None


def configured(checkpoint: Checkpoint, configuration: Configuration) -> Checkpoint:
    """A checkpoint as its configuration says."""
    model, clip = checkpoint.model, checkpoint.clip
    if configuration.velocity:
        model = model.clone()
        model.add_object_patch("model_sampling", make_sampling("v"))
    if configuration.layer is not None and clip is not None:
        clip = clip.clone()
        clip.clip_layer(configuration.layer)
    return Checkpoint(model, clip, checkpoint.vae)
