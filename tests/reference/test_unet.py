"""The UNets of Stable Diffusion against the diffusers library, by way of its names for the tensors."""

from typing import Any

import pytest
import torch

from benchmarks._live_bytes import peak_of
from limner.models.detect import detect, from_diffusers
from limner.models.unet import timestep_embedding
from limner.weights import CheckpointHeader
from tests.reference.make import apart, ours, seeded

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: nothing to compare with")

DOWN, CROSS_DOWN, UP, CROSS_UP = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
FOUR = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (CROSS_DOWN,) * 3 + (DOWN,),
    "up_block_types": (UP,) + (CROSS_UP,) * 3,
}
SD1: dict[str, Any] = {**FOUR, "attention_head_dim": 8, "cross_attention_dim": 768}
SD2: dict[str, Any] = {
    **FOUR, "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True,
}  # fmt: skip
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
    "up_block_types": (CROSS_UP, CROSS_UP, UP),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = {
    **SDXL,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
    "up_block_types": (UP, CROSS_UP, CROSS_UP, UP),
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
}
X4 = {
    **SD2,
    "in_channels": 7,
    "block_out_channels": (256, 512, 512, 1024),
    "down_block_types": (DOWN,) + (CROSS_DOWN,) * 3,
    "up_block_types": (CROSS_UP,) * 3 + (UP,),
    "attention_head_dim": 8,
    "only_cross_attention": (True, True, True, False),
    "num_class_embeds": 1000,
}
SSD1B = {
    **SDXL,
    "transformer_layers_per_block": (1, (2, 2), (4, 4)),
    "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 1),
    "mid_block_type": "UNetMidBlock2D",
}
VEGA = {
    **SDXL,
    "transformer_layers_per_block": (1, (1, 1), (2, 2)),
    "reverse_transformer_layers_per_block": ((2, 2, 2), (1, 1, 1), 1),
    "mid_block_type": "UNetMidBlock2D",
}
KOALA = {**SDXL, "layers_per_block": 1, "transformer_layers_per_block": (1, 2, 5), "mid_block_type": None}
SMALL = {**SDXL, "layers_per_block": 1, "transformer_layers_per_block": 1, "mid_block_type": None,
         "addition_embed_type": None, "projection_class_embeddings_input_dim": None}  # fmt: skip

PUBLISHED = {
    "SD 1.5": (SD1, "sd1", None),
    "SD 1.5 inpainting": ({**SD1, "in_channels": 9}, "sd1", None),
    "SD 1.5 InstructPix2Pix": ({**SD1, "in_channels": 8}, "sd1", "sd1_ip2p"),
    "SD 2.1": (SD2, "sd2", None),
    "SD 2 inpainting": ({**SD2, "in_channels": 9}, "sd2", None),
    "SD 2.1 unCLIP H": (
        {**SD2, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048}, "sd2", "sd2_unclip"
    ),
    "SD 2.1 unCLIP L": (
        {**SD2, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 1536}, "sd2", "sd2_unclip"
    ),
    "SD x4 upscaler": (X4, "sd_x4", None),
    "SDXL": (SDXL, "sdxl", None),
    "SDXL inpainting": ({**SDXL, "in_channels": 9}, "sdxl", None),
    "SDXL InstructPix2Pix": ({**SDXL, "in_channels": 8}, "sdxl", "sdxl_ip2p"),
    "SDXL refiner": (REFINER, "sdxl_refiner", None),
    "SSD-1B": (SSD1B, "sdxl", "ssd1b"),
    "Segmind Vega": (VEGA, "sdxl", "vega"),
    "KOALA 700M": (KOALA, "sdxl", "koala_700m"),
    "KOALA 1B": (
        {**KOALA, "transformer_layers_per_block": (1, 2, 6), "mid_block_type": "UNetMidBlock2DCrossAttn"},
        "sdxl", "koala_1b",
    ),
    "SD-XS 0.9": ({**SMALL, "cross_attention_dim": 1024}, "sd2", None),
    "SD-XS": (
        {**SMALL, "cross_attention_dim": 768, "attention_head_dim": 8, "use_linear_projection": False}, "sd1", None
    ),
}  # fmt: skip


def shapes_alone(**config: Any) -> CheckpointHeader:
    with torch.device("meta"):
        return CheckpointHeader.of(diffusers.UNet2DConditionModel(sample_size=64, **config).state_dict())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_in_the_librarys_layout_are_recognised_and_keep_every_tensor(name: str) -> None:
    config, family, variant = PUBLISHED[name]
    header = shapes_alone(**config)
    match = detect(header)
    ours = match.family.infer_config(match.diffusion, {})
    found = match.family.variant(ours)
    assert (match.family.name, found.name if found else None) == (family, variant)
    with torch.device("meta"):
        network = match.family.network(ours)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == match.diffusion.shapes()


def test_a_network_of_no_known_family_is_in_the_references_names_all_the_same() -> None:
    depth = {**SD2, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}
    found = from_diffusers(shapes_alone(**depth))
    assert found.shape("label_emb.0.0.weight") == (1280, 4)
    assert not [name for name in found if "_blocks." in name.replace("input_blocks", "").replace("output_blocks", "")
                and "transformer_blocks" not in name]  # fmt: skip


# -- what they compute ------------------------------------------------------------------------------------------------

TIME, TEXT, WIDTH = 8, 64, 96
NARROW = {"cross_attention_dim": TEXT, "attention_head_dim": (2, 4, 8, 8), "block_out_channels": (32, 64, 128, 128)}
THREE = {
    "cross_attention_dim": TEXT, "attention_head_dim": (2, 4, 8), "block_out_channels": (32, 64, 128),
    "addition_time_embed_dim": TIME, "projection_class_embeddings_input_dim": WIDTH,
}  # fmt: skip
REDUCED = {
    "SD 1.5": {**SD1, **NARROW, "attention_head_dim": 4},
    "SD 2.1": {**SD2, **NARROW},
    "SD 2.1 unCLIP": {
        **SD2, **NARROW, "class_embed_type": "projection", "projection_class_embeddings_input_dim": WIDTH
    },
    "SD x4 upscaler": {**X4, **NARROW, "attention_head_dim": 2, "block_out_channels": (32, 96, 96, 128)},
    "SDXL": {**SDXL, **THREE, "transformer_layers_per_block": (1, 2, 3)},
    "SDXL refiner": {
        **REFINER, **THREE, **NARROW, "transformer_layers_per_block": 2,
    },
    "SSD-1B": {**SSD1B, **THREE},
    "KOALA 700M": {**KOALA, **THREE},
}  # fmt: skip


def theirs(name: str) -> torch.nn.Module:
    return seeded(diffusers.UNet2DConditionModel(sample_size=32, **REDUCED[name]))


def heads(name: str) -> dict[str, int]:
    said = REDUCED[name]["attention_head_dim"]
    return {"num_heads": said} if isinstance(said, int) else {"num_head_channels": 16}


def inputs(name: str, height: int, width: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the library's network, and of ours."""
    torch.manual_seed(1)
    x = torch.randn(2, REDUCED[name].get("in_channels", 4), height, width)
    time, text = torch.tensor([900.0, 30.0]), torch.randn(2, 7, TEXT)
    told: dict[str, Any] = {"sample": x, "timestep": time, "encoder_hidden_states": text, "return_dict": False}
    y = None
    if REDUCED[name].get("num_class_embeds"):
        y = torch.tensor([20, 350])
        told["class_labels"] = y
    elif REDUCED[name].get("class_embed_type"):
        y = torch.randn(2, WIDTH)
        told["class_labels"] = y
    elif REDUCED[name].get("addition_embed_type"):
        pooled, sizes = torch.randn(2, WIDTH - 6 * TIME), torch.rand(2, 6) * 1000
        told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        y = torch.cat((pooled, timestep_embedding(sizes.flatten(), TIME).reshape(2, -1)), dim=1)
    return told, {"x": x, "timesteps": time, "context": text, "y": y}


@pytest.mark.parametrize("name", REDUCED)
def test_the_network_computes_what_diffusers_does(name: str) -> None:
    reference = theirs(name)
    told, said = inputs(name, 16, 24)
    with torch.inference_mode():
        found = ours(reference.state_dict(), **heads(name))(**said)
        assert apart(found, reference(**told)[0]) < 1e-4


@pytest.mark.parametrize("name", REDUCED)
def test_the_network_needs_less_memory_than_diffusers(name: str) -> None:
    reference = theirs(name)
    network = ours(reference.state_dict(), **heads(name))
    told, said = inputs(name, 32, 32)
    most = peak_of(reference, module=reference, **told)
    least = peak_of(network, module=network, **said)
    assert least < 0.8 * most
