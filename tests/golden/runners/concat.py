"""What inpainting models see beside the latent."""

from __future__ import annotations

from pathlib import Path

import torch

from limner.models.concat import concat_cond
from limner.models.sd1 import FAMILY
from tests.golden.case import Case, Check, unsupported


def concat(path: Path, folder: Path) -> list[Check]:
    """Stable Diffusion 1's nine channels; other families' are not supported."""
    case = Case(path, folder)
    latent, mask = case.inputs["sd_latent"], case.inputs["mask"]
    kinds, noise = ("mask", "masked_image"), torch.zeros_like(latent)
    found = {
        "sd15_inpaint": concat_cond(kinds, FAMILY.latent, noise=noise, concat_latent_image=latent, concat_mask=mask),
        "sd15_inpaint_none": concat_cond(kinds, FAMILY.latent, noise=noise),
    }
    return [case.check(name, found[name]) if name in found else unsupported(name) for name in case.expected]


RUNNERS = {"conditioning/concat_conds*": concat}
