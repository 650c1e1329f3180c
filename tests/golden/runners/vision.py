"""Vision encoders of any kind, known by their headers, and how pictures are prepared for them."""

from __future__ import annotations

from pathlib import Path

import torch

from limner.models.vision.kind import CLIP_MEAN, CLIP_STD, recognise
from limner.models.vision.preprocess import preprocess
from limner.weights import CheckpointHeader
from tests.golden.case import Case, Check, UnsupportedCaseError, unsupported


@torch.inference_mode()
def vision(path: Path, folder: Path) -> list[Check]:
    """One pass of the prepared picture: `inputs` of the case says with which mean and cut."""
    case = Case(path, folder)
    if "image" not in case.inputs or "preprocessed" not in case.expected:
        raise UnsupportedCaseError("No prepared picture.")
    match = recognise(CheckpointHeader.of(case.state_dict()))
    if match is None:
        raise UnsupportedCaseError("No kind of vision encoder here has these keys.")
    kind, part = match
    with torch.device("meta"):
        network = kind.network(kind.infer_config(part, case.config))
    network.load_state_dict({name: part.tensor(name) for name in network.state_dict()}, assign=True)
    image, size = case.inputs["image"], case.config["image_size"]
    half = (0.5, 0.5, 0.5)
    prepared = {
        "preprocessed": preprocess(image, size, CLIP_MEAN, CLIP_STD),
        "preprocessed_nocrop_half": preprocess(image, size, half, half, crop=False),
    }
    seen = network.eval()(case.expected["preprocessed"], intermediate_output=-2)
    found = prepared | {"last": seen.last, "penultimate": seen.layer, "image_embeds": seen.embeds}
    return [case.check(name, found[name]) if name in found else unsupported(name) for name in case.expected]


RUNNERS = {"*/forward*.safetensors": vision}
