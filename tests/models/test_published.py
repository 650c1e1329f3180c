"""Every published file that belongs here is recognised by names and shapes alone: whole, bare, cut short and mixed.

The facts are those that the reference finds in the same files: dimensions, number of parameters, levels of noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from limner.errors import BadInput
from limner.memory import DefaultSettings, MemoryManager
from limner.models.base import ModelType
from limner.models.detect import detect
from limner.models.inspect import describe
from limner.models.load import model_of
from limner.models.load_text import clip_of
from limner.models.load_vae import vae_of
from limner.weights import CheckpointHeader
from tests.families.networks import Part, redux, siglip, vision
from tests.families.small import SMALL
from tests.models.checkpoints import HEADERS, memory, real_header

FAMILIES = {small.name: small for small in SMALL}
PREFIXES = ("", "model.", "model.diffusion_model.", "model.model.", "net.")
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": (16, 56, 56), "theta": 10000,
    "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
FIRST = {
    "in_channels": 4, "model_channels": 320, "num_res_blocks": (2, 2, 2, 2), "channel_mult": (1, 2, 4, 4),
    "transformer_depth": (1, 1, 1, 1, 1, 1, 0, 0), "transformer_depth_middle": 1, "use_linear_in_transformer": False,
    "transformer_depth_output": (1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0), "context_dim": 768, "adm_in_channels": None,
    "num_heads": 8, "num_head_channels": -1,
}  # fmt: skip
LINEAR = {"use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 64}
SECOND = {**FIRST, **LINEAR, "context_dim": 1024, "attn_precision": torch.float32}
XL = {
    **FIRST, **LINEAR, "num_res_blocks": (2, 2, 2), "channel_mult": (1, 2, 4), "transformer_depth": (0, 0, 2, 2, 10, 10),
    "transformer_depth_middle": 10, "transformer_depth_output": (0, 0, 0, 2, 2, 2, 10, 10, 10), "context_dim": 2048,
    "adm_in_channels": 2816,
}  # fmt: skip
REFINER = {
    **FIRST, **LINEAR, "model_channels": 384, "transformer_depth": (0, 0, 4, 4, 4, 4, 0, 0),
    "transformer_depth_middle": 4, "transformer_depth_output": (0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0),
    "context_dim": 1280, "adm_in_channels": 2560,
}  # fmt: skip
THIRD = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 24, "hidden_size": 1536, "num_heads": 24,
    "adm_in_channels": 2048, "context_dim": 4096, "pos_embed_max_size": 192, "qk_norm": None,
    "x_block_self_attn_layers": (),
}  # fmt: skip
DISCRETE = (0.029167158529162407, 14.614641189575195)
SHIFTED = (0.00031575115281157196, 1.0)
FILL = ("mask", "masked_image")


@dataclass(frozen=True)
class Model:
    """What a file with a diffusion model is. says: the kind that `limner inspect` names. levels: the least and most noise.

    parameters: of the diffusion model. parts: what else is in the file, as `limner inspect` says.
    """

    family: str
    says: str
    parameters: int
    config: Mapping[str, Any]
    type: ModelType = ModelType.EPS
    levels: tuple[float, float] = DISCRETE
    concat: tuple[str, ...] = ()
    parts: tuple[str, ...] = field(default=())


def _sd3(parameters: int, config: Mapping[str, Any]) -> Model:
    levels = (0.002994012087583542, 1.0)
    return Model("sd3", "Stable Diffusion 3", parameters, config, ModelType.FLOW, levels)


def _flux(family: str, says: str, parameters: int, **changes: Any) -> Model:
    return Model(family, says, parameters, {**FLUX, **changes}, ModelType.FLUX, SHIFTED)


_SD1, _SD2, _XL = "Stable Diffusion 1", "Stable Diffusion 2", "Stable Diffusion XL"
_ONE = ("text encoder clip_l under 'cond_stage_model.'", "VAE under 'first_stage_model.'")
MODELS: Mapping[str, Model] = {
    "sd15": Model("sd1", _SD1, 859520964, FIRST, parts=_ONE),
    "sd15-unet": Model("sd1", _SD1, 859520964, FIRST),
    "sd15-inpaint": Model("sd1", _SD1, 859535364, {**FIRST, "in_channels": 9}, concat=FILL, parts=_ONE),
    "sd15-inpaint-unet": Model("sd1", _SD1, 859535364, {**FIRST, "in_channels": 9}, concat=FILL),
    "sd21-v": Model("sd2", _SD2, 865910724, SECOND,
                    parts=("text encoder clip_h under 'cond_stage_model.model.'", "VAE under 'first_stage_model.'")),
    "sd21-v-unet": Model("sd2", _SD2, 865910724, SECOND),
    "sdxl-base": Model("sdxl", _XL, 2567463684, XL, parts=(
        "text encoder clip_l under 'conditioner.embedders.0.transformer.'",
        "text encoder clip_g under 'conditioner.embedders.1.model.'", "VAE under 'first_stage_model.'")),
    "sdxl-base-unet": Model("sdxl", _XL, 2567463684, XL),
    "sdxl-inpaint-unet": Model("sdxl", _XL, 2567478084, {**XL, "in_channels": 9}, concat=FILL),
    "sdxl-refiner": Model("sdxl_refiner", f"{_XL} refiner", 2259526660, REFINER, parts=(
        "text encoder clip_g under 'conditioner.embedders.0.model.'", "VAE under 'first_stage_model.'")),
    "sdxl-refiner-unet": Model("sdxl_refiner", f"{_XL} refiner", 2259526660, REFINER),
    "sd3-medium": _sd3(2084951104, THIRD),
    "sd35-medium": _sd3(2469663936, {**THIRD, "pos_embed_max_size": 384, "qk_norm": "rms",
                                     "x_block_self_attn_layers": tuple(range(13))}),
    "sd35-large": _sd3(8146280768, {**THIRD, "depth": 38, "hidden_size": 2432, "num_heads": 38, "qk_norm": "rms"}),
    "flux-dev": _flux("flux", "Flux", 11901408320),
    "flux-kontext": _flux("flux", "Flux", 11901408320),
    "flux-fill": replace(_flux("flux_fill", "Flux Fill", 11902391360, in_channels=96),
                         concat=("scaled_image", "pixel_mask")),
    "flux-schnell": replace(_flux("flux_schnell", "Flux schnell", 11891178560, guidance_embed=False),
                            type=ModelType.FLOW, levels=(0.0010000000474974513, 1.0)),
    "chroma": _flux("chroma", "Chroma", 8899983424, vec_in_dim=None, guidance_embed=False, in_dim=64, hidden_dim=5120,
                    n_layers=5),
    "qwen-image": Model("qwen_image", "Qwen-Image", 20430401088, {
        "in_channels": 64, "out_channels": 16, "num_layers": 60, "num_attention_heads": 24, "attention_head_dim": 128,
        "joint_attention_dim": 3584, "axes_dims_rope": (16, 56, 56)}, ModelType.FLUX, SHIFTED),
}  # fmt: skip
ENCODERS = {
    "te-clip-l": ("CLIP-L", "stable_diffusion", {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}),
    "te-clip-g": ("CLIP-G", "stable_diffusion", {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20}),
    "te-clip-h": ("CLIP-H", "stable_diffusion", {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}),
    "te-t5xxl": ("T5-XXL", "chroma", {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "num_layers": 24}),
    "te-qwen2.5-vl-7b": ("Qwen2.5-VL 7B", "qwen_image", {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "head_dim": 128, "rope_dims": (16, 24, 24)}),
}  # fmt: skip
AUTOENCODERS = {
    "vae-sd": ("KL autoencoder", 4),
    "vae-flux": ("KL autoencoder", 16),
    "vae-wan2.1": ("Wan 2.1 autoencoder", 16),
    "vae-taesd": ("tiny autoencoder", 4),
    "vae-taef1": ("tiny autoencoder", 16),
}
BARE = [name for name in MODELS if not MODELS[name].parts]
CUT = ("sd15-unet", "sd21-v-unet", "sdxl-base-unet", "sdxl-refiner-unet", "sd-x4-upscaler-unet", "sd3-medium",
       "sd35-medium", "flux-dev", "flux-schnell", "chroma", "qwen-image")  # fmt: skip


@cache
def part(name: str) -> CheckpointHeader:
    """The bare diffusion model of a published file."""
    match = detect(real_header(name))
    return real_header(name).select(match.prefix)


def built(header: CheckpointHeader) -> nn.Module:
    """The network of a bare diffusion model, without numbers."""
    match = detect(header)
    config = match.family.infer_config(match.diffusion, {})
    with torch.device("meta"):
        return match.family.network(config)


def kind(header: CheckpointHeader) -> str:
    """What `limner inspect` says that a file is."""
    return describe(header)[1].removeprefix("kind:       ")


@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_is_recognised_with_the_facts_that_the_reference_finds(name: str) -> None:
    expected, header = MODELS[name], real_header(name)
    model = model_of(header, memory())
    assert model.family.name == expected.family
    assert {key: getattr(model.config, key) for key in expected.config} == dict(expected.config)
    assert model.family.concat(model.config) == expected.concat
    assert model.model.model_type is expected.type
    found = (float(model.sampling.sigma_min), float(model.sampling.sigma_max))
    assert found == pytest.approx(expected.levels, rel=1e-5)
    network = built(header)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected.parameters
    assert set(network.state_dict()) <= set(detect(header).diffusion)


@pytest.mark.parametrize("name", MODELS)
def test_inspect_says_what_a_published_model_is(name: str) -> None:
    expected, lines = MODELS[name], describe(real_header(name))
    assert kind(real_header(name)) == f"{expected.says}, reference layout"
    parts = [line.removeprefix("part:       ") for line in lines if line.startswith("part:")]
    assert [said.split(",")[0] for said in parts[1:]] == list(expected.parts)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", BARE)
def test_a_diffusion_model_is_the_same_under_any_prefix(name: str, prefix: str) -> None:
    bare = part(name)
    match = detect(bare.rename(lambda key: prefix + key))
    assert match.family.name == MODELS[name].family
    assert match.diffusion.shapes() == detect(bare).diffusion.shapes()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_short_is_not_taken_for_a_smaller_model(name: str, share: float) -> None:
    bare = part(name)
    kept = set(list(bare)[: int(len(bare) * share)])
    cut = bare.rename(lambda key: key if key in kept else None)
    try:
        network = built(cut)
    except BadInput:
        return
    assert set(network.state_dict()) - kept


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (("flux-dev", "sd15-unet"), ("Flux", "Stable Diffusion 1")),
        (("sd3-medium", "sdxl-base-unet"), ("Stable Diffusion 3", "Stable Diffusion XL")),
        (("flux-dev", "chroma"), ("Flux", "Chroma")),
    ],
)
def test_two_models_in_one_file_are_refused_with_the_names_of_both(
    names: tuple[str, str], titles: tuple[str, str]
) -> None:
    one, other = (part(name) for name in names)
    mixed = replace(one, tensors={**one.tensors, **other.tensors})
    with pytest.raises(BadInput) as caught:
        detect(mixed)
    assert [title for title in titles if title not in caught.value.what] == []
    assert caught.value.do
    assert kind(mixed).startswith("unknown. A file has one diffusion model")


def test_a_unet_whose_transformers_are_of_two_kinds_is_near_both_and_none() -> None:
    one, other = part("sd15-unet"), part("sd21-v-unet")
    mixed = replace(one, tensors={**one.tensors, **{
        name: entry for name, entry in other.tensors.items() if name.startswith("output_blocks.") and "proj" in name
    }})  # fmt: skip
    with pytest.raises(BadInput, match=r"Closest is Stable Diffusion 1 .*lacking: transformers with convolutional"):
        detect(mixed)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_published_text_encoder_is_recognised(name: str) -> None:
    title, word, expected = ENCODERS[name]
    header = real_header(name)
    assert kind(header) == f"text encoder: {title}"
    clip = clip_of([header], word, memory())
    (encoder,) = clip.encoders
    assert encoder.kind.title == title
    config = encoder.kind.config(encoder.kind.convert(header).shapes(), {})
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_published_autoencoder_is_recognised_bare_and_in_a_checkpoint(name: str) -> None:
    title, channels = AUTOENCODERS[name]
    header = real_header(name)
    assert kind(header) == f"VAE: {title}, {channels} channels, 8 pixels a cell"
    manager = MemoryManager(DefaultSettings(cpu=True))
    for prefix in ("", "first_stage_model.", "vae."):
        vae = vae_of(header.rename(lambda key: prefix + key), manager)  # noqa: B023 - used at once
        assert (vae.latent_channels, vae.spacial_compression_decode()) == (channels, 8)
        assert kind(header.rename(lambda key: prefix + key)).startswith(f"VAE: {title}")  # noqa: B023


@pytest.mark.parametrize(
    ("title", "make"),
    [
        ("vision encoder: CLIP", vision),
        ("vision encoder: SigLIP", siglip),
        ("FLUX.1 Redux", redux),
        (
            "ControlNet of Stable Diffusion 1, 2 or XL",
            lambda: FAMILIES["sdxl_control"].extra["controlnet/sdxl.safetensors"],
        ),
        ("ControlNet of FLUX.1", lambda: FAMILIES["flux_control"].extra["controlnet/flux.safetensors"]),
        ("ControlNet of Qwen-Image", lambda: FAMILIES["qwen_image_control"].extra["controlnet/qwen_image.safetensors"]),
    ],
)
def test_inspect_names_what_stands_beside_a_model(title: str, make: Callable[[], Part]) -> None:
    assert kind(CheckpointHeader.of(make().tensors())) == title


def test_every_published_file_of_the_folder_is_known() -> None:
    unknown = [
        path.name
        for path in HEADERS.iterdir()
        if kind(real_header(path.name[: -len(".json.gz")])).startswith("unknown")
    ]
    assert unknown == ["te-llama3.1-8b.json.gz"]
