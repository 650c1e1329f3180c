"""Networks of the diffusers library at reduced width, and ours with the same weights."""

import json

import torch
from torch import Tensor, nn

from limner.models.detect import detect
from limner.weights import CheckpointHeader


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with seeded weights about as large as trained ones; norms stay near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(noise * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module.eval()


def ours(tensors: dict[str, Tensor], **config: object) -> nn.Module:
    """Our network of the family that claims these tensors, with their values. config: overrides."""
    header = CheckpointHeader.of(tensors, {"config": json.dumps(config)})
    match = detect(header)
    with torch.device("meta"):
        made = match.family.network(match.family.infer_config(match.diffusion, config))
    made.load_state_dict({name: match.diffusion.tensor(name) for name in made.state_dict()}, assign=True)
    return made.eval()


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())
