"""Model patches: recognised, loaded with the model, and heard inside it."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from limner.errors import BadInput
from limner.models.model_patches import (
    BlockwiseControl,
    StyleProjector,
    load_model_patch,
    patch_of,
    style_layers,
)
from limner.nodes.model_patches import qwen_image_control, style_reference
from limner.sampling.latent_formats import FORMATS
from limner.weights import CheckpointHeader, save
from tests.models.checkpoints import memory
from tests.models.control.make import seeded
from tests.models.control.test_transformers import Coder, flux, noise, qwen  # noqa: F401 - fixtures

PICTURE = torch.rand(1, 40, 56, 3, generator=torch.Generator().manual_seed(2))
TOKENS, WIDTH = 9, 6


def blockwise(channels=16):
    return seeded(BlockwiseControl(2, channels, 64))


def projector():
    return seeded(StyleProjector(TOKENS, 4, WIDTH, 128))


def patch(network, prefix=""):
    return patch_of(CheckpointHeader.of({prefix + name: v for name, v in network.state_dict().items()}), memory())


def passed(model, x, text, **more):
    """What the model's network says, as sampling calls it, with the model's hooks."""
    with model.loaded() as network, torch.inference_mode():
        return network(
            x, torch.tensor([0.7]), text, transformer_options=model.model_options["transformer_options"], **more
        )


def seen(layers=24):
    """What a SigLIP encoder would say."""
    return SimpleNamespace(all_hidden_states=noise(1, layers, TOKENS, WIDTH, seed=5))


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_a_blockwise_control_adds_to_the_patches_of_the_picture_after_each_block(qwen, size):  # noqa: F811
    network = blockwise()
    coder, x, text = Coder(frames=True), noise(1, 16, 1, *size), noise(1, 5, 20)
    told = []
    model = qwen.clone()
    model.set_model_double_block_patch(lambda args: told.append(args["img"].clone()) or args)
    model = qwen_image_control(model, patch(network), coder, PICTURE, 0.5)
    model.set_model_double_block_patch(lambda args: told.append(args["img"].clone()) or args)
    passed(model, x, text)
    from limner.models.layers.patches import patched

    latent = FORMATS["Wan21"].process_in(coder.encode(coder.seen[0])).squeeze(2)
    assert coder.seen[0].shape == (1, size[0] * 8, size[1] * 8, 3)
    with torch.inference_mode():
        y = network.img_in(patched(latent, 2)[0])
        for number in range(2):
            before, after = told[2 * number : 2 * number + 2]
            block = network.controlnet_blocks[number]
            expected = block.output_proj(F.gelu(block.input_proj(block.x_rms(before) + block.y_rms(y))))
            assert torch.allclose(after - before, expected * 0.5, atol=1e-4)
    assert len(coder.seen) == 2  # once in the run, once here


def test_pictures_to_edit_behind_the_picture_are_not_changed(qwen):  # noqa: F811
    told = []
    model = qwen.clone()
    model.set_model_double_block_patch(lambda args: told.append(args["img"].clone()) or args)
    model = qwen_image_control(model, patch(blockwise()), Coder(frames=True), PICTURE, 1.0)
    model.set_model_double_block_patch(lambda args: told.append(args["img"].clone()) or args)
    passed(model, noise(1, 16, 1, 4, 6), noise(1, 5, 20), ref_latents=[noise(1, 16, 1, 4, 4)])
    assert not torch.equal(told[0][:, :6], told[1][:, :6])
    assert torch.equal(told[0][:, 6:], told[1][:, 6:])


def test_an_inpainting_patch_is_shown_what_is_kept(qwen):  # noqa: F811
    x, text, found = noise(1, 16, 1, 4, 6), noise(1, 5, 20), {}
    mask = torch.zeros(1, 40, 56)
    mask[..., 28:] = 1
    network = patch(blockwise(17))
    for name, given in (("none", None), ("nothing", torch.zeros(1, 40, 56)), ("half", mask)):
        coder = Coder(frames=True)
        found[name] = passed(qwen_image_control(qwen, network, coder, PICTURE, 1.0, mask=given), x, text)
        if name == "half":
            assert coder.seen[0][:, :, 24:].abs().sum() == 0
    assert torch.allclose(found["none"], found["nothing"])
    assert not torch.allclose(found["none"], found["half"])


def test_without_strength_a_patch_changes_nothing_and_the_first_model_stays_as_it_was(qwen):  # noqa: F811
    x, text = noise(1, 16, 1, 4, 6), noise(1, 5, 20)
    plain = passed(qwen, x, text)
    silent = qwen_image_control(qwen, patch(blockwise()), Coder(frames=True), PICTURE, 0.0)
    loud = qwen_image_control(qwen, patch(blockwise()), Coder(frames=True), PICTURE, 1.0)
    assert torch.allclose(passed(silent, x, text), plain, atol=1e-5)
    assert not torch.allclose(passed(loud, x, text), plain)
    assert torch.allclose(passed(qwen, x, text), plain)


def test_a_patch_is_loaded_together_with_its_model(qwen):  # noqa: F811
    network = patch(blockwise())
    model = qwen_image_control(qwen, network, Coder(frames=True), PICTURE, 1.0)
    assert model.model_patches_models() == [network]
    assert not network.memory.holds(network.source)
    with model.loaded():
        assert network.memory.holds(network.source)


@pytest.mark.parametrize("prefix", ["", "feature_embedder."])
def test_a_style_is_tokens_before_the_text(flux, prefix):  # noqa: F811
    network, output = projector(), seen()
    told = []
    model = style_reference(flux, patch(network, prefix), output)
    model.set_model_post_input_patch(lambda args: told.append(args) or args)
    x, text, vector = noise(2, 16, 4, 6), noise(2, 5, 20), noise(2, 12)
    found = passed(model, x, text, y=vector)
    txt, ids = told[0]["txt"], told[0]["txt_ids"]
    assert (txt.shape, ids.shape) == ((2, 12 + 5, 128), (2, 12 + 5, 3))
    assert ids.abs().sum() == 0
    layers = [output.all_hidden_states[:, place] for place in (-2, -11, -20)]
    with torch.inference_mode():
        parts = []
        for name, layer in zip(("high", "mid", "low"), layers, strict=True):
            fewer = F.silu(getattr(network, f"{name}_embedding_linear")[0](layer.transpose(1, 2))).transpose(1, 2)
            parts.append(getattr(network, f"{name}_projection")(getattr(network, f"{name}_layer_norm")(fewer)))
    assert torch.allclose(txt[1:, :12], torch.cat(parts, 1), atol=1e-4)
    assert not torch.allclose(found, passed(flux, x, text, y=vector))


def test_a_vision_encoder_without_its_layers_is_refused():
    with pytest.raises(BadInput, match="only its last layers"):
        style_layers(SimpleNamespace(penultimate_hidden_states=None), TOKENS)
    with pytest.raises(BadInput, match="12 layers of 9 tokens"):
        style_layers(seen(12), TOKENS)
    with pytest.raises(BadInput, match="made for 729 tokens"):
        try:
            style_layers(seen(), 729)
        except BadInput as error:
            raise BadInput(error.why) from error


def test_a_patch_of_another_kind_is_refused(qwen, flux):  # noqa: F811
    with pytest.raises(BadInput, match="works with a blockwise control of Qwen-Image; the model patch is a style"):
        qwen_image_control(qwen, patch(projector()), Coder(), PICTURE, 1.0)
    with pytest.raises(BadInput, match="works with a style projector"):
        style_reference(flux, object(), seen())


def test_a_file_that_is_no_patch_says_so(tmp_path):
    save(tmp_path / "x.safetensors", {"something": torch.zeros(1)})
    with pytest.raises(BadInput, match="no known model patch"):
        load_model_patch(tmp_path / "x.safetensors", memory())
    save(tmp_path / "y.safetensors", {name: v.contiguous() for name, v in blockwise().state_dict().items()})
    assert load_model_patch(tmp_path / "y.safetensors", memory()).kind.network is BlockwiseControl
