"""The vision encoder of SigLIP so400m, versions 1 and 2, of fixed size. Zhai et al. 2023; Tschannen et al. 2025.

It has no class token; the attention pooling that its files hold is read by nobody here.
"""

from __future__ import annotations

from limner.models.family import Mark, has, lacks
from limner.models.vision.kind import VisionKind
from limner.models.vision.transformer import VisionConfig, VisionTransformer

VISION = VisionKind(
    name="siglip",
    title="SigLIP",
    marks=(
        has("vision_model.embeddings.patch_embedding.bias"),
        lacks("vision_model.embeddings.class_embedding"),
        has("vision_model.encoder.layers.0.layer_norm1.weight"),
        has("vision_model.post_layernorm.weight"),
        Mark(
            "patches of a fixed size",  # another version takes any size, and its patches are cut beforehand
            lambda header: len(header.shapes().get("vision_model.embeddings.patch_embedding.weight", ())) == 4,
        ),
    ),
    infer_config=lambda header, overrides: VisionConfig.from_state(header.shapes(), overrides, "gelu_pytorch_tanh"),
    network=VisionTransformer,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    every_layer=True,
)
