"""KSampler over a reduced model: conditioning, scaling, guidance, sampler and network together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from limner.errors import BadInput
from limner.memory import DefaultSettings, MemoryManager
from limner.models.load import model_of
from limner.sampling.run import sample, steps_sigmas
from limner.sampling.samplers import get_sampler
from limner.weights import CheckpointHeader
from tests.golden.case import Case, Check, UnsupportedCaseError


@torch.inference_mode()
def ksampler(path: Path, folder: Path) -> list[Check]:
    """The final latent of a run from the case's own noise."""
    case = Case(path, folder)
    said = case.metadata
    if "manifest" not in said.get("weights", {}):
        raise UnsupportedCaseError("The case has no weights of one network.")
    header = CheckpointHeader.of(case.state_dict(), {"config": json.dumps(case.config)})
    try:
        model = model_of(header, MemoryManager(DefaultSettings(force_fp32=True, cpu=True)))
    except BadInput as error:
        raise UnsupportedCaseError(str(error)) from error
    if "y_pos" in case.inputs:
        model.model.encode_adm = lambda **entries: entries["y"]  # told as it is, not made of sizes and texts
    sampler = get_sampler(said["sampler"])
    sigmas = steps_sigmas(model.sampling, sampler, said["scheduler"], said["steps"], said["denoise"])
    found = sample(
        model,
        case.inputs["noise"],
        _conditioning(case, "pos"),
        _conditioning(case, "neg"),
        said["cfg"],
        sampler,
        sigmas,
        case.inputs["latent"],
        case.inputs.get("noise_mask"),
        seed=said["seed"],
    )
    return [case.check("latent", found)]


def _conditioning(case: Case, branch: str) -> list[list[Any]]:
    prefix = branch + "."
    tensors: dict[str, Any] = {
        name.removeprefix(prefix): value for name, value in case.inputs.items() if name.startswith(prefix)
    }
    context = tensors.pop("context")
    numbered = sorted(name for name in tensors if name.startswith("reference_latents"))
    if numbered:
        tensors["reference_latents"] = [tensors.pop(name) for name in numbered]
    if f"y_{branch}" in case.inputs:
        tensors["y"] = case.inputs[f"y_{branch}"]
    return [[context, {**tensors, **case.metadata["conditioning_values"][branch]}]]


RUNNERS = {"*/mini*.safetensors": ksampler}
