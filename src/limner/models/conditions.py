"""What networks are given beside the latent, from the entries of one condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limner.sampling.condition_values import ListCond

if TYPE_CHECKING:
    from limner.models.base import BaseModel


def standard_conditions(model: BaseModel, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Text as `c_crossattn`, what is joined to the latent as `c_concat`, the vector as `y`; each where there is one.

    A text for controls alone is `crossattn_controlnet`, which networks pass over.

    entries: of one condition (`cross_attn`, `concat_latent_image`, `concat_mask`, `pooled_output` …), and the run's
    `noise` (shape and device), `latent_image` and `denoise_mask`.
    """
    found: dict[str, Any] = {}
    for name, argument in (("cross_attn", "c_crossattn"), ("cross_attn_controlnet", "crossattn_controlnet")):
        if entries.get(name) is not None:
            found[argument] = entries[name]
    joined = model.concat_cond(**entries)
    if joined is not None:
        found["c_concat"] = joined
    vector = model.encode_adm(**entries)
    if vector is not None:
        found["y"] = vector
    return found


def reference_conditions(model: BaseModel, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Pictures to go by, in model space, as `ref_latents`, and how they are seen, where one condition has them."""
    references = entries.get("reference_latents")
    if not references:
        return {}
    found: dict[str, Any] = {"ref_latents": ListCond([model.process_latent_in(latent) for latent in references])}
    if entries.get("reference_latents_method") is not None:
        found["ref_latents_method"] = entries["reference_latents_method"]
    return found
