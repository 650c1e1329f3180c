"""comfy.utils, comfy.ops, comfy.model_management and comfy_extras' small helpers, used as packs use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.compat.using import place


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("use_utils")
    with place(folder):
        yield folder


# comfy.utils


def test_tensors_are_saved_and_loaded_with_their_metadata(base: Path) -> None:
    import comfy.utils

    file = base / "some.safetensors"
    comfy.utils.save_torch_file({"a.weight": torch.arange(4.0)}, str(file), metadata={"note": "fox"})
    found, metadata = comfy.utils.load_torch_file(str(file), safe_load=True, return_metadata=True)
    assert found["a.weight"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert metadata["note"] == "fox"
    assert list(comfy.utils.load_torch_file(file)) == ["a.weight"]


def test_prefixes_of_names_are_replaced(base: Path) -> None:
    from comfy.utils import state_dict_prefix_replace

    plain = {"old.a": 1, "other.b": 2}
    assert state_dict_prefix_replace(dict(plain), {"old.": "new."}) == {"new.a": 1, "other.b": 2}
    assert state_dict_prefix_replace(dict(plain), {"old.": "new."}, filter_keys=True) == {"new.a": 1}


def test_pictures_are_scaled_and_cut_to_the_shape(base: Path) -> None:
    import comfy.utils

    image = torch.rand(1, 3, 8, 16)
    doubled = comfy.utils.common_upscale(image, 32, 16, "nearest-exact", "disabled")
    square = comfy.utils.common_upscale(image, 8, 8, "bilinear", "center")
    assert torch.equal(doubled, image.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.allclose(square, image[..., 4:12], atol=1e-6)
    assert comfy.utils.common_upscale(image, 4, 4, "lanczos", "disabled").shape == (1, 3, 4, 4)
    assert comfy.utils.common_upscale(image, 4, 4, "bislerp", "disabled").shape == (1, 3, 4, 4)


def test_a_function_in_tiles_gives_what_it_gives_in_one_piece(base: Path) -> None:
    from comfy.utils import get_tiled_scale_steps, tiled_scale

    image = torch.rand(1, 3, 48, 40)
    seen: list[tuple[int, ...]] = []

    def double(tile: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(tile.shape[-2:]))
        return F.interpolate(tile, scale_factor=2, mode="nearest")

    found = tiled_scale(image, double, tile_x=16, tile_y=16, overlap=4, upscale_amount=2, out_channels=3)
    assert torch.allclose(found, F.interpolate(image, scale_factor=2, mode="nearest"), atol=1e-5)
    assert len(seen) == get_tiled_scale_steps(40, 48, 16, 16, 4)
    assert max(max(shape) for shape in seen) == 16


def test_attributes_are_found_by_dotted_names(base: Path) -> None:
    import comfy.utils

    module = nn.Sequential(nn.Linear(2, 3))
    assert comfy.utils.get_attr(module, "0.weight") is module[0].weight
    before = comfy.utils.set_attr(module, "0.bias", nn.Parameter(torch.ones(3)))
    assert comfy.utils.get_attr(module, "0.bias").tolist() == [1.0, 1.0, 1.0]
    assert before.shape == (3,)


def test_a_progress_bar_tells_the_running_node(base: Path, tmp_path: Path) -> None:
    # rule P2
    import comfy.utils

    from limner.graph import CURRENT_RUN
    from tests.compat.v3.make import running

    with running(tmp_path) as run:
        bar = comfy.utils.ProgressBar(4)
        bar.update(1)
        bar.update_absolute(3, 4)
        told = [one[:3] for one in run.sink.told]
    assert told == [("7", 1, 4), ("7", 3, 4)]
    assert CURRENT_RUN.get() is None
    assert comfy.utils.PROGRESS_BAR_ENABLED is True


def test_names_of_the_unets_parts_are_known(base: Path) -> None:
    import comfy.utils

    assert ("time_embed.0.weight", "time_embedding.linear_1.weight") in comfy.utils.UNET_MAP_BASIC
    assert len(comfy.utils.UNET_MAP_BASIC) >= 14


# comfy.model_management


def test_devices_and_dtypes_of_this_machine(base: Path) -> None:
    import comfy.model_management as mm

    device = mm.get_torch_device()
    assert isinstance(device, torch.device)
    assert mm.get_torch_device_name(torch.device("cpu")) == "cpu"
    for place_of in (mm.unet_offload_device, mm.text_encoder_offload_device, mm.intermediate_device):
        assert place_of() == torch.device("cpu")
    for place_of in (mm.vae_device, mm.text_encoder_device):
        assert place_of().type in ("cpu", device.type)
    assert mm.is_device_mps(torch.device("mps"))
    assert not mm.is_device_mps(torch.device("cpu"))
    assert mm.is_intel_xpu() is False
    assert mm.should_use_fp16(torch.device("cpu")) is False
    assert mm.unet_dtype(device=torch.device("cpu")) in (torch.float32, torch.bfloat16, torch.float16)
    assert mm.unet_manual_cast(torch.float32, torch.device("cpu")) is None


def test_memory_is_counted_in_bytes_and_given_back(base: Path) -> None:
    import comfy.model_management as mm

    assert mm.get_free_memory(torch.device("cpu")) > 1024**2
    total, torch_total = mm.get_free_memory(torch.device("cpu"), torch_free_too=True)
    assert total >= 0
    assert torch_total >= 0
    mm.soft_empty_cache()
    mm.unload_all_models()
    with pytest.raises(mm.OOM_EXCEPTION):
        raise torch.OutOfMemoryError("full")


def test_a_tensor_is_cast_to_a_device_and_dtype(base: Path) -> None:
    import comfy.model_management

    found = comfy.model_management.cast_to_device(torch.ones(2), torch.device("cpu"), torch.float16)
    assert (found.dtype, found.device.type) == (torch.float16, "cpu")


# comfy.ops


def test_layers_are_made_without_starting_values_and_cast_to_their_input(base: Path) -> None:
    import comfy.ops

    for kit in (comfy.ops.disable_weight_init, comfy.ops.manual_cast):
        layer = kit.Linear(3, 2, dtype=torch.float32)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 2, 0]]))
            layer.bias.zero_()
        assert layer(torch.tensor([[3.0, 4, 5]])).tolist() == [[3.0, 8.0]]
    half = comfy.ops.manual_cast.Linear(3, 2, dtype=torch.float16)
    with torch.no_grad():
        half.weight.fill_(1)
        half.bias.zero_()
    assert half(torch.ones(1, 3)).dtype == torch.float32, "the weights follow the input"


def test_operations_are_picked_by_the_dtypes(base: Path) -> None:
    from comfy.ops import disable_weight_init, manual_cast, pick_operations

    assert pick_operations(torch.float32, torch.float32) is disable_weight_init
    assert pick_operations(torch.float16, torch.float32) is manual_cast


# comfy_extras


def test_a_state_dict_of_an_upscaler_is_refused_in_words(base: Path) -> None:
    from comfy_extras.chainner_models import model_loading

    with pytest.raises(Exception, match="upscale"):
        model_loading.load_state_dict({"a": torch.ones(1)})


def test_a_picture_is_laid_over_another_within_a_mask(base: Path) -> None:
    from comfy_extras.nodes_mask import composite

    below, above = torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 2, 2)
    found = composite(below.clone(), above, 1, 1, multiplier=1)
    half = composite(below.clone(), above, 1, 1, mask=torch.full((1, 2, 2), 0.5), multiplier=1)
    assert found[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert float(half[0, 0, 1, 1]) == 0.5


def test_latents_are_put_into_one_batch(base: Path) -> None:
    from comfy_extras.nodes_latent import LatentBatch

    one, two = {"samples": torch.zeros(1, 4, 2, 2)}, {"samples": torch.ones(2, 4, 2, 2)}
    found = LatentBatch.execute(one, two)[0]["samples"]
    assert found.shape == (3, 4, 2, 2)
    assert found.sum() == 2 * 4 * 4


def test_noise_of_a_seed_is_that_of_the_sampler(base: Path) -> None:
    # rule S1
    from comfy_extras.nodes_custom_sampler import Noise_RandomNoise

    latent = {"samples": torch.zeros(2, 4, 4, 4)}
    noise = Noise_RandomNoise(5)
    expected = torch.randn(2, 4, 4, 4, generator=torch.manual_seed(5))
    assert noise.seed == 5
    assert torch.equal(noise.generate_noise(latent), expected)


def test_sizes_are_told_to_the_text_encoders_of_sdxl_or_it_is_said_why_not(base: Path) -> None:
    from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXL

    assert CLIPTextEncodeSDXL.__name__ == "CLIPTextEncodeSDXL"


def test_upscaling_by_a_model_is_importable(base: Path) -> None:
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    assert ImageUpscaleWithModel.__name__ == "ImageUpscaleWithModel"
