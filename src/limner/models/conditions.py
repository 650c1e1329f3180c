"""What networks are given beside the latent, from the entries of one condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limner.models.base import BaseModel


def standard_conditions(model: BaseModel, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Text as `c_crossattn`, what is joined to the latent as `c_concat`, the vector as `y`; each where there is one.

    entries: of one condition (`cross_attn`, `concat_latent_image`, `concat_mask`, `pooled_output` …), and the run's
    `noise` (shape and device), `latent_image` and `denoise_mask`.
    """
    found: dict[str, Any] = {}
    if entries.get("cross_attn") is not None:
        found["c_crossattn"] = entries["cross_attn"]
    joined = model.concat_cond(**entries)
    if joined is not None:
        found["c_concat"] = joined
    vector = model.encode_adm(**entries)
    if vector is not None:
        found["y"] = vector
    return found
