"""Where transformers see the patches of a picture."""

from __future__ import annotations

from typing import Annotated

from limner.graph import Float, node
from limner.nodes.kinds import MODEL

Scale = Annotated[float, Float(min=0.0, max=100.0, step=0.1)]
Shift = Annotated[float, Float(min=-256.0, max=256.0, step=0.1)]


@node("ScaleROPE", category="advanced/model_patches", title="", style="v3", experimental=True,
      python_module="comfy_extras.nodes_rope")  # fmt: skip
def scale_rope(
    model: MODEL,
    scale_x: Scale = 1.0,
    shift_x: Shift = 0.0,
    scale_y: Scale = 1.0,
    shift_y: Shift = 0.0,
    scale_t: Scale = 1.0,
    shift_t: Shift = 0.0,
) -> MODEL:
    """The model, which sees patches further apart, or elsewhere; only models with rotary embeddings heed it.

    model: the diffusion model.
    scale_x, scale_y: how far apart columns and rows lie; below 1 a large picture looks as small as those learned.
    shift_x, shift_y: by how many patches they are moved.
    scale_t: how far apart frames lie, where the model knows time.
    shift_t: by how many frames they are moved.
    """
    changed = model.clone()
    changed.set_model_rope_options(scale_x, shift_x, scale_y, shift_y, scale_t, shift_t)
    return changed
