"""Published models under the names that the diffusers library gives them, at full size and without numbers."""

from typing import Any

import pytest
import torch

from limner.models.detect import detect
from limner.models.inspect import describe
from limner.weights import CheckpointHeader
from tests.models.test_published import MODELS, built

diffusers = pytest.importorskip("diffusers", reason="compares with the diffusers library")

UNET = {"sample_size": 64, "layers_per_block": 2}
DOWN, PLAIN_DOWN, UP, PLAIN_UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
XL = {
    **UNET, "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280), "use_linear_projection": True,
    "down_block_types": (PLAIN_DOWN, DOWN, DOWN), "up_block_types": (UP, UP, PLAIN_UP),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
REFINER = {
    **UNET, "cross_attention_dim": 1280, "block_out_channels": (384, 768, 1536, 1536), "use_linear_projection": True,
    "down_block_types": (PLAIN_DOWN, DOWN, DOWN, PLAIN_DOWN), "up_block_types": (PLAIN_UP, UP, UP, PLAIN_UP),
    "transformer_layers_per_block": 4, "attention_head_dim": (6, 12, 24, 24), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2560,
}  # fmt: skip
SD3 = {"num_layers": 24, "num_attention_heads": 24, "pos_embed_max_size": 192, "caption_projection_dim": 1536}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "sd15-unet": ("UNet2DConditionModel", {**UNET, "cross_attention_dim": 768}),
    "sd15-inpaint-unet": ("UNet2DConditionModel", {**UNET, "cross_attention_dim": 768, "in_channels": 9}),
    "sd21-v-unet": ("UNet2DConditionModel", {
        **UNET, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}),
    "sdxl-base-unet": ("UNet2DConditionModel", XL),
    "sdxl-inpaint-unet": ("UNet2DConditionModel", {**XL, "in_channels": 9}),
    "sdxl-refiner-unet": ("UNet2DConditionModel", REFINER),
    "sd3-medium": ("SD3Transformer2DModel", {**SD3, "pooled_projection_dim": 2048, "joint_attention_dim": 4096}),
    "sd35-medium": ("SD3Transformer2DModel", {
        **SD3, "pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))}),
    "sd35-large": ("SD3Transformer2DModel", {
        **SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}),
    "flux-dev": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "flux-schnell": ("FluxTransformer2DModel", {}),
    "flux-fill": ("FluxTransformer2DModel", {"guidance_embeds": True, "in_channels": 384, "out_channels": 64}),
    "chroma": ("ChromaTransformer2DModel", {}),
    "qwen-image": ("QwenImageTransformer2DModel", {}),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_under_the_librarys_names_is_the_same_model(name: str, prefix: str) -> None:
    kind, config = PUBLISHED[name]
    with torch.device("meta"):
        theirs = getattr(diffusers, kind)(**config)
    header = CheckpointHeader.of({prefix + key: value for key, value in theirs.state_dict().items()})
    match = detect(header)
    assert match.family.name == MODELS[name].family
    config = match.family.infer_config(match.diffusion, {})
    expected = dict(MODELS[name].config)
    assert {key: getattr(config, key) for key in expected} == expected
    network = built(header)
    assert {key: match.diffusion.shape(key) for key in network.state_dict()} == {
        key: tuple(value.shape) for key, value in network.state_dict().items()
    }
    layout = "reference" if name == "qwen-image" else "diffusers"  # whose own names the reference keeps
    assert describe(header)[1] == f"kind:       {MODELS[name].says}, {layout} layout"
