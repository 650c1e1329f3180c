"""One pass of a diffusion model's network, whatever its family: found by its keys, called with the case's inputs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadInput
from limner.models.detect import detect
from limner.weights import CheckpointHeader
from tests.golden.case import Case, Check, UnsupportedCaseError


def network(case: Case, manifest: str = "manifest") -> nn.Module:
    """The network of a case's weights, by the family that claims them."""
    header = CheckpointHeader.of(case.state_dict(manifest), {"config": json.dumps(case.config)})
    try:
        match = detect(header)
    except BadInput as error:
        raise UnsupportedCaseError(str(error)) from error
    with torch.device("meta"):
        made = match.family.network(match.family.infer_config(match.diffusion, case.config))
    tensors = {name: match.diffusion.tensor(name) for name in made.state_dict()}
    made.load_state_dict(tensors, assign=True)
    return made.eval()


@torch.inference_mode()
def forward(path: Path, folder: Path) -> list[Check]:
    """The network's output for the inputs of the case."""
    case = Case(path, folder)
    if (
        "manifest" not in case.metadata.get("weights", {})
        or case.expected.keys() != {"x"}
        or "sampler" in case.metadata
    ):
        raise UnsupportedCaseError("No bare pass of a diffusion model.")
    arguments = {**case.metadata.get("kwargs", {}), **_gathered(case.inputs)}
    x, time, context = (arguments.pop(name) for name in ("x", "timestep", "context"))
    return [case.check("x", network(case)(x, time, context=context, **arguments))]


def _gathered(inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The inputs by argument: `ref0`, `ref1` … are the list of reference latents, `control0` … a control's residuals."""
    found: dict[str, Any] = {}
    for name in sorted(inputs):
        if match := re.fullmatch(r"(ref|control)\d+", name):
            found.setdefault({"ref": "ref_latents", "control": "control"}[match[1]], []).append(inputs[name])
        else:
            found[name] = inputs[name]
    if "control" in found:
        found["control"] = {"input": found["control"]}
    return found


RUNNERS = {"*/*.safetensors": forward}
