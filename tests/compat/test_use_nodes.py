"""Built-in classes called as Python objects, as packs call them, on a small checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.compat.using import place


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("use_nodes")
    with place(folder):
        yield folder


@pytest.fixture(scope="module")
def loaded(base: Path) -> tuple[Any, Any, Any]:
    import nodes

    return nodes.CheckpointLoaderSimple().load_checkpoint("tiny.safetensors")


def encoded(clip: Any, text: str) -> Any:
    import nodes

    return nodes.CLIPTextEncode().encode(clip, text)[0]


def test_texts_are_encoded_and_a_layer_is_left_out(loaded: Any) -> None:
    import nodes

    clip = loaded[1]
    whole = nodes.CLIPTextEncode().encode(clip, "a fox")[0]
    earlier = nodes.CLIPTextEncode().encode(nodes.CLIPSetLastLayer().set_last_layer(clip, -2)[0], "a fox")[0]
    again = nodes.CLIPTextEncode().encode(clip=clip, text="a fox")[0]
    assert whole[0][0].shape[:2] == (1, 77)
    assert torch.equal(whole[0][0], again[0][0])
    assert not torch.equal(whole[0][0], earlier[0][0])


def test_conditionings_are_joined_as_their_names_say(loaded: Any) -> None:
    import nodes

    fox, hen = encoded(loaded[1], "fox"), encoded(loaded[1], "hen")
    combined = nodes.ConditioningCombine().combine(fox, hen)[0]
    concatenated = nodes.ConditioningConcat().concat(fox, hen)[0]
    mean = nodes.ConditioningAverage().addWeighted(fox, hen, 0.25)[0]
    zero = nodes.ConditioningZeroOut().zero_out(fox)[0]
    masked = nodes.ConditioningSetMask().append(fox, torch.ones(4, 4), "default", 0.5)[0]
    timed = nodes.ConditioningSetTimestepRange().set_range(fox, 0.25, 0.75)[0]
    assert combined == fox + hen
    assert concatenated[0][0].shape[1] == 2 * 77
    assert torch.allclose(mean[0][0], 0.25 * fox[0][0] + 0.75 * hen[0][0])
    assert not zero[0][0].any()
    assert (masked[0][1]["mask"].shape, masked[0][1]["mask_strength"]) == ((1, 4, 4), 0.5)
    assert (timed[0][1]["start_percent"], timed[0][1]["end_percent"]) == (0.25, 0.75)
    assert "mask" not in fox[0][1], "the given conditioning stays as it was"


def test_pictures_and_latents_are_scaled(base: Path) -> None:
    import nodes

    image = torch.rand(1, 8, 12, 3)
    nearest = nodes.ImageScale().upscale(image, "nearest-exact", 24, 16, "disabled")[0]
    half = nodes.ImageScaleBy().upscale(image, "area", 0.5)[0]
    latent = nodes.EmptyLatentImage().generate(64, 32, 2)[0]
    larger = nodes.LatentUpscaleBy().upscale({"samples": torch.rand(1, 4, 4, 6)}, "nearest-exact", 2.0)[0]
    assert torch.equal(nearest, image.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.allclose(half, F.avg_pool2d(image.movedim(-1, 1), 2).movedim(1, -1), atol=1e-6)
    assert latent["samples"].shape == (2, 4, 4, 8)
    assert larger["samples"].shape == (1, 4, 8, 12)
    assert nodes.MAX_RESOLUTION == 16384


def test_pictures_go_through_the_autoencoder_whole_and_in_tiles(loaded: Any) -> None:
    import nodes

    vae, image = loaded[2], torch.rand(1, 64, 64, 3)
    cropped = nodes.VAEEncode.vae_encode_crop_pixels(torch.rand(1, 66, 71, 3))
    whole = nodes.VAEEncode().encode(vae, image)[0]
    tiled = nodes.VAEEncodeTiled().encode(vae, image, 512, 64, 64, 8)[0]
    back = nodes.VAEDecode().decode(vae, whole)[0]
    back_tiled = nodes.VAEDecodeTiled().decode(vae, whole, 512, 64, 64, 8)[0]
    assert cropped.shape[1] % 8 == cropped.shape[2] % 8 == 0
    assert whole["samples"].shape[:2] == (1, 4)
    assert torch.allclose(tiled["samples"], whole["samples"], atol=1e-4), "one tile holds it all"
    assert back.shape[-1] == 3
    assert torch.allclose(back_tiled, back, atol=1e-4)


def test_a_picture_to_be_filled_in_gives_a_latent_and_two_conditionings(loaded: Any) -> None:
    import nodes

    fox = encoded(loaded[1], "fox")
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    node = nodes.InpaintModelConditioning()
    positive, negative, latent = node.encode(fox, fox, torch.rand(1, 64, 64, 3), loaded[2], mask, True)
    assert {"concat_latent_image", "concat_mask"} <= set(positive[0][1])
    assert {"concat_latent_image", "concat_mask"} <= set(negative[0][1])
    assert torch.equal(latent["noise_mask"].reshape(64, 64), mask[0])


def test_sampling_by_the_common_function_is_sampling_by_the_node(loaded: Any) -> None:
    import nodes

    model, clip, _ = loaded
    fox, nothing = encoded(clip, "fox"), encoded(clip, "")
    latent = nodes.EmptyLatentImage().generate(64, 64, 1)[0]
    common = nodes.common_ksampler(model, 5, 2, 4.0, "euler", "normal", fox, nothing, latent, denoise=1.0)[0]
    node = nodes.NODE_CLASS_MAPPINGS["KSampler"]().sample(model, 5, 2, 4.0, "euler", "normal", fox, nothing, latent)[0]
    other = nodes.common_ksampler(model, 6, 2, 4.0, "euler", "normal", fox, nothing, latent)[0]
    assert torch.equal(common["samples"], node["samples"])
    assert common["samples"].isfinite().all()
    assert not torch.equal(common["samples"], other["samples"])


def test_a_lora_of_a_file_changes_the_model_by_its_strength(base: Path, loaded: Any) -> None:
    import nodes
    from safetensors.torch import save_file

    (base / "models" / "loras").mkdir(exist_ok=True)
    name = "lora_unet_time_embed_0"
    width = loaded[0].model.diffusion_model.state_dict()["time_embed.0.weight"].shape
    parts = {"lora_up.weight": torch.ones(width[0], 1), "lora_down.weight": torch.ones(1, width[1])}
    save_file({f"{name}.{part}": value for part, value in parts.items()}, base / "models" / "loras" / "t.safetensors")
    model, clip = nodes.LoraLoader().load_lora(loaded[0], loaded[1], "t.safetensors", 0.0, 0.0)
    assert (model, clip) == (loaded[0], loaded[1])
    changed = nodes.LoraLoader().load_lora(loaded[0], loaded[1], "t.safetensors", 0.5, 0.0)[0]
    assert changed is not loaded[0]
    assert len(changed.patches) == 1


def test_pictures_are_saved_and_previewed(base: Path) -> None:
    import nodes

    image = torch.zeros(1, 8, 8, 3)
    saved = nodes.SaveImage().save_images(image, "use")["ui"]["images"]
    shown = nodes.PreviewImage().save_images(image)["ui"]["images"]
    assert (saved[0]["filename"], saved[0]["type"]) == ("use_00001_.png", "output")
    assert shown[0]["type"] == "temp"
    assert (base / "temp" / shown[0]["filename"]).is_file()
