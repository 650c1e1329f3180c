"""The vision encoder of CLIP: L, H and G, at 224 or 336 pixels. Radford et al. 2021; Cherti et al. 2023."""

from __future__ import annotations

from limner.models.family import has
from limner.models.layers.shapes import Overrides
from limner.models.vision.kind import VisionKind
from limner.models.vision.transformer import VisionConfig, VisionTransformer
from limner.weights.header import CheckpointHeader

LARGE_LAYERS = 24
"""Of OpenAI's L, which was trained with quick_gelu; those of LAION are deeper and have the exact function."""


def _infer_config(header: CheckpointHeader, overrides: Overrides) -> VisionConfig:
    large = header.count("vision_model.encoder.layers.{}.layer_norm1.weight") in (LARGE_LAYERS, LARGE_LAYERS - 1)
    return VisionConfig.from_state(header.shapes(), overrides, "quick_gelu" if large else "gelu")


VISION = VisionKind(
    name="clip",
    title="CLIP",
    marks=(
        has("vision_model.embeddings.class_embedding"),
        has("vision_model.embeddings.patch_embedding.weight"),
        has("vision_model.encoder.layers.0.layer_norm1.weight"),
        has("vision_model.pre_layrnorm.weight"),
    ),
    infer_config=_infer_config,
    network=VisionTransformer,
)
