"""Qwen-Image: recognised, computed within its memory, looked into by packs, told of a prompt."""

import pytest
import torch

from benchmarks._live_bytes import peak_of
from benchmarks._straightforward import qwen_image as straightforward
from limner.errors import BadInput
from limner.models import qwen_image
from limner.models.detect import detect
from limner.models.layers.hooks import Hooks
from limner.models.layers.lifetimes import rotate
from limner.models.load import load_diffusion_model, model_of
from limner.models.qwen_image import (
    START,
    QwenImageConfig,
    QwenImageTransformer2DModel,
    modulate,
    picture_places,
    rotation_of,
    text_places,
)
from limner.models.text.encode import Encoded
from limner.weights import CheckpointHeader, save
from tests.models.checkpoints import memory, real_header

TINY = QwenImageConfig(
    num_layers=3, num_attention_heads=2, attention_head_dim=32, joint_attention_dim=20, mlp_width=256,
    axes_dims_rope=(4, 14, 14),
)  # fmt: skip


def tiny() -> QwenImageTransformer2DModel:
    """Three blocks with seeded weights."""
    torch.manual_seed(0)
    network = QwenImageTransformer2DModel(TINY).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network


def inputs(height: int = 6, width: int = 9) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.randn(2, 16, 1, height, width),
        "timesteps": torch.tensor([0.7, 0.2]),
        "context": torch.randn(2, 5, 20),
    }


@torch.inference_mode()
def output(network, /, changed=None, **options):
    return network(**inputs() | (changed or {}), transformer_options=options)


# -- the file -----------------------------------------------------------------------------------------------------


def test_the_published_file_is_recognised_and_its_dimensions_read():
    match = detect(real_header("qwen-image"))
    config = match.family.infer_config(match.diffusion, {})
    assert match.family.name == "qwen_image"
    assert config == QwenImageConfig()


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "model.", ""])
def test_a_file_is_the_same_network_under_any_prefix(tmp_path, prefix):
    save(tmp_path / "tiny.safetensors", {prefix + name: t for name, t in tiny().state_dict().items()}, {})
    model = load_diffusion_model(tmp_path / "tiny.safetensors", memory())
    with torch.inference_mode(), model.loaded() as network:
        assert torch.allclose(network(**inputs()), output(tiny()), atol=1e-6)


def test_a_truncated_file_names_what_is_missing():
    tensors = tiny().state_dict()
    del tensors["transformer_blocks.1.attn.to_k.weight"]
    model = model_of(CheckpointHeader.of(tensors, {}), memory())
    with pytest.raises(BadInput, match=r"transformer_blocks\.1\.attn\.to_k\.weight"), model.loaded():
        pass


def test_a_control_network_of_it_is_not_taken_for_it():
    tensors = tiny().state_dict() | {"controlnet_blocks.0.weight": torch.zeros(1, 1)}
    with pytest.raises(BadInput) as caught:
        detect(CheckpointHeader.of(tensors, {}))
    assert "Qwen-Image" in caught.value.why


@pytest.mark.parametrize("axes", [(8, 12, 14), (4, 13, 15)])
def test_axes_that_do_not_fill_a_head_are_refused(axes):
    with pytest.raises(BadInput, match="cannot tell frame, row and column"):
        QwenImageConfig.from_header(CheckpointHeader.of(tiny().state_dict(), {}), {"axes_dims_rope": axes})


# -- the memory of a block ----------------------------------------------------------------------------------------


def block_inputs(dtype):
    torch.manual_seed(2)
    image, text = torch.randn(1, 240, 64, dtype=dtype), torch.randn(1, 16, 64, dtype=dtype)
    places = torch.cat((text_places(16, 8), picture_places(1, 15, 16, {})))
    return image, text, torch.randn(1, 64, dtype=dtype), rotation_of(places, TINY.axes_dims_rope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_gives_the_same_bits_as_the_straightforward_order(dtype):
    block = tiny().transformer_blocks[0].to(dtype)
    image, text, temb, rotation = block_inputs(dtype)
    with torch.inference_mode():
        expected = straightforward(block, image, text, temb, rotation)
        found = block.over(image.clone(), text.clone(), None, temb, rotation, Hooks({}))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_needs_far_less_memory_than_the_straightforward_order(dtype):
    block = tiny().transformer_blocks[0].to(dtype)
    image, text, temb, rotation = block_inputs(dtype)
    most = peak_of(straightforward, block, image, text, temb, rotation, module=block)
    least = peak_of(block.over, image, text, None, temb, rotation, Hooks({}), module=block)
    floor = 5 * image.nbytes  # inside the feed-forward four times the width, and what goes in or comes out
    assert least < 0.5 * most
    assert least < 1.15 * floor


def test_rotation_is_the_same_in_every_way_it_is_computed(monkeypatch):
    """In place, with gradients, and in the form that is compiled."""
    x = torch.randn(2, 31, 3, 32)
    rotation = rotation_of(picture_places(1, 1, 31, {}), TINY.axes_dims_rope)
    recorded = rotate(x, rotation)
    with torch.inference_mode():
        in_place = rotate(x.clone(), rotation)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        compiled = rotate(x.clone(), rotation)
    assert torch.allclose(recorded, in_place, atol=1e-6)
    assert torch.allclose(recorded, compiled, atol=1e-6)
    assert torch.equal(recorded[:, 15], x[:, 15])  # the middle is at zero
    assert torch.allclose(recorded.norm(dim=-1), x.norm(dim=-1), atol=1e-4)


def test_a_block_holds_nothing_when_it_is_done():
    block = tiny().transformer_blocks[0]
    image, text, temb, rotation = block_inputs(torch.float32)
    with torch.inference_mode():
        found = block.over(image, text, None, temb, rotation, Hooks({}))
    assert (found[0].data_ptr(), found[1].data_ptr()) == (text.data_ptr(), image.data_ptr())


# -- what the network is given ------------------------------------------------------------------------------------


def test_a_latent_without_frames_comes_back_without_frames():
    flat = output(tiny(), {"x": inputs()["x"][:, :, 0]})
    assert torch.equal(flat, output(tiny())[:, :, 0])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5)])
def test_any_size_is_computed(size):
    x = torch.randn(1, 16, 1, *size)
    found = output(tiny(), {"x": x, "timesteps": torch.tensor([0.5]), "context": torch.randn(1, 3, 20)})
    assert found.shape == x.shape
    assert found.isfinite().all()


def test_masked_text_tokens_change_nothing():
    given = inputs()
    mask = torch.tensor([[1, 1, 1, 0, 0]]).expand(2, -1)
    other = given["context"].clone()
    other[:, 3:] = 7
    assert torch.allclose(
        output(tiny(), {"attention_mask": mask}), output(tiny(), {"attention_mask": mask, "context": other}), atol=1e-6
    )
    assert not torch.allclose(output(tiny()), output(tiny(), {"context": other}), atol=1e-3)


@pytest.mark.parametrize("method", ["index", "offset", "uxo"])
def test_each_way_to_see_pictures_is_another(method):
    pictures = {"ref_latents": [torch.randn(2, 16, 1, 4, 6), torch.randn(2, 16, 1, 6, 2)]}
    found = output(tiny(), pictures | {"ref_latents_method": method})
    plain = output(tiny(), pictures)
    assert found.shape == inputs()["x"].shape
    assert torch.allclose(found, plain, atol=1e-6) is (method == "index")


def test_an_unknown_way_to_see_pictures_is_refused():
    with pytest.raises(BadInput, match="'inside'"):
        output(tiny(), {"ref_latents": [torch.zeros(2, 16, 1, 2, 2)], "ref_latents_method": "inside"})


def test_places_are_scaled_and_moved_by_the_ropes_options():
    rope = {"scale_x": 2.0, "shift_x": 0.5, "shift_y": 3.0, "shift_t": 7.0}
    plain, changed = picture_places(1, 2, 3, {}), picture_places(1, 2, 3, rope)
    assert plain.tolist() == [[0, -1, -1], [0, -1, 0], [0, -1, 1], [0, 0, -1], [0, 0, 0], [0, 0, 1]]
    assert changed[:3].tolist() == [[7, 2, -1.5], [7, 2, 0.5], [7, 2, 2.5]]
    assert len(changed) == len(plain)
    assert not torch.allclose(output(tiny()), output(tiny(), rope_options=rope), atol=1e-4)
    assert torch.equal(output(tiny()), output(tiny(), rope_options={"scale_x": 1.0, "shift_t": 0.0}))


def test_conditions_bring_pictures_into_model_space():
    model = model_of(CheckpointHeader.of(tiny().state_dict(), {}), memory())
    latent = torch.randn(1, 16, 1, 4, 4)
    found = model.extra_conds(
        cross_attn=torch.zeros(1, 3, 20), noise=latent, reference_latents=[latent], reference_latents_method="offset"
    )
    assert torch.equal(found["ref_latents"].cond[0], qwen_image.FAMILY.latent.process_in(latent))
    assert found["ref_latents_method"] == "offset"


def test_gradients_reach_every_weight_that_shapes_the_output():
    network = tiny()
    found = network(**inputs())
    assert torch.allclose(found, output(network), atol=1e-5)
    found.square().mean().backward()
    without = {name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()}
    last = "transformer_blocks.2."
    names = ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
    assert without == {
        name for name in network.state_dict() if any(name.startswith(last + part) for part in names)
    }  # the text goes nowhere after the last block


# -- packs --------------------------------------------------------------------------------------------------------


def test_a_replaced_block_sees_its_inputs_and_keeps_them():
    network, seen = tiny(), []

    def replace(args, extra):
        before = args["img"].clone(), args["txt"].clone()
        found = extra["original_block"](args)
        seen.append((args["img"] - before[0], args["txt"] - before[1], found["img"] - args["img"]))
        return found

    found = output(network, patches_replace={"dit": {("double_block", 1): replace}})
    assert torch.allclose(found, output(network), atol=1e-6)
    (image, text, change) = seen[0]
    assert not image.any()
    assert not text.any()
    assert change.any()


def test_a_skipped_block_changes_nothing():
    network = tiny()
    skipped = output(network, patches_replace={"dit": {("double_block", 1): lambda args, _: args}})
    del network.transformer_blocks[1]
    assert torch.allclose(skipped, output(network), atol=1e-6)


def test_patches_after_blocks_see_every_block_and_change_its_streams():
    network, seen = tiny(), []

    def look(args):
        seen.append((args["block_index"], args["img"], args["img"].clone(), args["x"].shape))
        return args

    assert torch.allclose(output(network, patches={"double_block": [look]}), output(network), atol=1e-6)
    assert [index for index, *_ in seen] == [0, 1, 2]
    assert all(torch.equal(kept, then) for _, kept, then, _ in seen)
    assert seen[0][3] == inputs()["x"].shape

    def silence(args):
        return {**args, "img": args["img"] * 0}

    assert not torch.allclose(output(network, patches={"double_block": [silence]}), output(network), atol=1e-3)


def test_a_patch_of_the_input_may_add_tokens_with_places_of_their_own():
    network = tiny()

    def more(args):
        image, places = args["img"], args["img_ids"]
        return {**args, "img": torch.cat((image, image[:, :3]), dim=1), "img_ids": torch.cat((places, places[:3] + 1))}

    found = output(network, patches={"post_input": [more]})
    assert found.shape == inputs()["x"].shape
    assert not torch.allclose(found, output(network), atol=1e-4)


def test_a_control_is_added_to_the_picture_alone():
    network = tiny()
    pictures = {"ref_latents": [torch.randn(2, 16, 1, 4, 4)]}
    zero = [torch.zeros(2, 15, 64), None, torch.zeros(2, 15, 64)]
    assert torch.equal(output(network, pictures | {"control": {"input": zero}}), output(network, pictures))
    residual = [None, torch.randn(2, 15, 64)]
    assert not torch.allclose(output(network, pictures | {"control": {"input": residual}}), output(network, pictures))


# -- the prompt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "system", "before"),
    [
        ({}, qwen_image.SYSTEM, ""),
        ({"images": 0}, qwen_image.SYSTEM, ""),
        ({"images": 1}, qwen_image.SYSTEM_EDIT, qwen_image.VISION),
    ],
)
def test_a_prompt_is_asked_as_a_question(options, system, before):
    assert qwen_image.template("a {} fox", options) == (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{before}a {{}} fox<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_prompt_may_bring_its_own_template():
    assert qwen_image.template("fox", {"llama_template": "see {}!", "images": 2}) == "see fox!"
    whole = "<|im_start|>user\nfox<|im_end|>"
    assert qwen_image.template(whole, {"images": 1}) == whole


@pytest.mark.parametrize(
    ("ids", "first"),
    [
        ((START, 5, 6, START, 872, 198, 9, 10), 6),
        ((START, 5, START, 872, 7, 9), 2),
        ((START, 5, 6), 0),
        ((5, 6), 0),
        ((START, 5, START, 872, 198, torch.zeros(4), 9, START, 77), 5),
    ],
)
def test_what_the_template_added_before_the_prompt_is_cut(ids, first):
    length = len(ids)
    encoded = Encoded(torch.arange(float(length)).view(1, length, 1), torch.zeros(1, 1))
    found = qwen_image.trim({"qwen25_7b": [[(one, 1.0) for one in ids]]}, encoded)
    assert found.cond[0, 0, 0] == first
    assert found.cond.shape[1] == length - first


def test_modulation_is_scale_and_shift():
    vectors = torch.tensor([[[1.0, 2.0, 3.0]]])  # shift, scale, gate of one feature
    assert modulate(torch.tensor([[[10.0]]]), vectors).item() == 31.0
