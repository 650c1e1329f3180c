"""Small vision encoders and style models."""

import torch
from torch import nn

from limner.models.clip_vision import ClipVision
from limner.models.load_vision import clip_vision_of
from limner.models.style_models import ReduxImageEncoder, StyleAdapter, StyleModel, style_model_of
from limner.models.vision.transformer import VisionConfig, VisionTransformer
from limner.weights import CheckpointHeader
from tests.models.checkpoints import memory

TINY = VisionConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=1, patch_size=4, image_size=16,
    projection_dim=12, hidden_act="gelu",
)  # fmt: skip


def seeded(module: nn.Module) -> nn.Module:
    """The module with seeded weights of some size."""
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return module.eval().requires_grad_(False)


def tiny_vision(**changes) -> nn.Module:
    """An encoder of three layers for pictures of 16 pixels."""
    return seeded(VisionTransformer(VisionConfig(**{**TINY.__dict__, **changes})))


def tiny_siglip() -> nn.Module:
    """One without a class token and projection."""
    return tiny_vision(class_token=False, projection_dim=None, hidden_act="gelu_pytorch_tanh")


def clip_vision(network: nn.Module | None = None) -> ClipVision:
    """The same as nodes hand it on."""
    return clip_vision_of(CheckpointHeader.of((network or tiny_vision()).state_dict()), memory())


def redux(takes: int = 16, gives: int = 8) -> nn.Module:
    return seeded(ReduxImageEncoder(takes, gives))


def adapter(takes: int = 16, gives: int = 8) -> nn.Module:
    return seeded(StyleAdapter(takes, gives, heads=1, layers=2, tokens=3))


def style_model(network: nn.Module | None = None) -> StyleModel:
    return style_model_of(CheckpointHeader.of((network or redux()).state_dict()), memory())


def open_clip(network: nn.Module) -> dict[str, torch.Tensor]:
    """An encoder's tensors as OpenCLIP names them."""
    state = {name.removeprefix("vision_model."): value for name, value in network.state_dict().items()}
    ends = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "pre_layrnorm.weight": "ln_pre.weight", "pre_layrnorm.bias": "ln_pre.bias",
        "post_layernorm.weight": "ln_post.weight", "post_layernorm.bias": "ln_post.bias",
    }  # fmt: skip
    found = {there: state[here] for here, there in ends.items()} | {"proj": state["visual_projection.weight"].t()}
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    for number in range(3):
        layer, block = f"encoder.layers.{number}", f"transformer.resblocks.{number}"
        for leaf in ("weight", "bias"):
            found |= {f"{block}.{there}.{leaf}": state[f"{layer}.{here}.{leaf}"] for here, there in inner.items()}
            found[f"{block}.attn.in_proj_{leaf}"] = torch.cat(
                [state[f"{layer}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            )
    return found
