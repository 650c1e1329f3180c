"""Stable Diffusion 3: recognised, computed, looked into by packs, told of a prompt."""

import pytest
import torch

from limner.errors import BadInput
from limner.models import sd3
from limner.models.detect import detect
from limner.models.load import load_diffusion_model, model_of
from limner.models.sd3 import MMDiT, MMDiTConfig
from limner.models.text.encode import Encoded
from limner.nodes import model_sampling
from limner.weights import CheckpointHeader, save
from limner.weights.targets import Part, swap_halves
from tests.models.checkpoints import memory, real_header

TINY = MMDiTConfig(
    hidden_size=64, depth=3, num_heads=1, mlp_width=96, adm_in_channels=12, context_dim=20, pos_embed_max_size=8,
    qk_norm="rms", x_block_self_attn_layers=(0,),
)  # fmt: skip


def tiny(**changes) -> MMDiT:
    """Three blocks with seeded weights, the first with attention of its own."""
    torch.manual_seed(0)
    network = MMDiT(MMDiTConfig(**{**TINY.__dict__, **changes})).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def inputs(height: int = 6, width: int = 9) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.randn(2, 16, height, width),
        "timesteps": torch.tensor([700.0, 20.0]),
        "context": torch.randn(2, 5, 20),
        "y": torch.randn(2, 12),
    }


@torch.inference_mode()
def output(network, **options):
    return network(**inputs(), transformer_options=options)


def in_diffusers_names(state) -> dict[str, torch.Tensor]:
    """The same tensors as the diffusers library has them."""
    found = {}
    for theirs, target in sd3.diffusers_names(TINY.hidden_size, TINY.depth).items():
        part = target if isinstance(target, Part) else Part(target)
        if part.name in state:
            rows = state[part.name] if part.length is None else state[part.name].narrow(0, part.start, part.length)
            found[theirs] = swap_halves(rows) if part.swapped else rows
    return found


@pytest.mark.parametrize(
    ("name", "depth", "normed", "alone", "side"),
    [("sd3-medium", 24, None, 0, 192), ("sd35-medium", 24, "rms", 13, 384), ("sd35-large", 38, "rms", 0, 192)],
)
def test_published_files_are_recognised_and_their_dimensions_read(name, depth, normed, alone, side):
    match = detect(real_header(name))
    config = match.family.infer_config(match.diffusion, {})
    assert match.family.name == "sd3"
    assert (config.depth, config.num_heads, config.hidden_size) == (depth, depth, 64 * depth)
    assert (config.qk_norm, len(config.x_block_self_attn_layers), config.pos_embed_max_size) == (normed, alone, side)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "model.", ""])
def test_a_file_is_the_same_network_under_any_prefix_and_in_the_layout_of_diffusers(tmp_path, prefix):
    state = tiny().state_dict()
    given = inputs()
    found = []
    for number, tensors in enumerate((state, in_diffusers_names(state))):
        path = tmp_path / f"{number}.safetensors"
        save(path, {prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, {})
        model = load_diffusion_model(path, memory())
        with torch.inference_mode(), model.loaded() as network:
            found.append(network(**given))
    with torch.inference_mode():
        assert torch.allclose(found[0], tiny()(**given), atol=1e-6)
    assert torch.equal(found[0], found[1])


def test_a_truncated_file_in_the_layout_of_diffusers_says_which_part_is_missing(tmp_path):
    tensors = in_diffusers_names(tiny().state_dict())
    del tensors["transformer_blocks.1.attn.to_k.weight"]
    header = CheckpointHeader.of(tensors, {})
    with pytest.raises(BadInput, match=r"joint_blocks\.1\.x_block\.attn\.qkv\.weight is missing"):
        detect(header)


def test_a_file_with_half_of_its_marks_is_named_as_the_nearest(tmp_path):
    tensors = tiny().state_dict()
    del tensors["context_embedder.weight"]
    with pytest.raises(BadInput) as caught:
        detect(CheckpointHeader.of(tensors, {}))
    assert "Stable Diffusion 3 (5 of 6 marks; lacking: context_embedder.weight)" in caught.value.why


def test_a_config_that_says_another_depth_is_refused():
    header = CheckpointHeader.of(tiny().state_dict(), {})
    with pytest.raises(BadInput, match="depth"):
        MMDiTConfig.from_header(header, {"depth": 24})


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


def test_a_skipped_block_changes_nothing_of_its_streams():
    network = tiny()
    skipped = output(network, patches_replace={"dit": {("double_block", 1): lambda args, _: args}})
    del network.joint_blocks[1]
    assert torch.allclose(skipped, output(network), atol=1e-6)


def test_a_block_whose_forward_a_pack_has_wrapped_leaves_its_inputs_alone():
    network, changes = tiny(), []
    block = network.joint_blocks[0]
    original = block.forward

    def wrapped(context, x, c, **options):
        before = x.clone()
        text, image = original(context, x, c, **options)
        changes.append((x - before).abs().max())
        return text, image

    plain = output(network)
    block.forward = wrapped
    assert torch.allclose(output(network), plain, atol=1e-6)
    assert changes == [0]


def test_gradients_reach_every_weight_that_shapes_the_output():
    network = tiny()
    found = network(**inputs())
    assert torch.allclose(found, output(network), atol=1e-5)
    found.square().mean().backward()
    without = {name for name, parameter in network.named_parameters() if not parameter.grad.any()}
    assert without == {"joint_blocks.2.context_block.attn.ln_q.weight"}  # queries of text that goes nowhere


def test_a_picture_beyond_the_table_of_positions_repeats_its_edge():
    network = tiny()
    table = network.positions(12, 8).view(12, 8, -1)
    assert torch.equal(table[0], table[2])
    assert torch.equal(table[2:10], network.pos_embed.view(8, 8, -1))
    assert torch.equal(table[9], table[11])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"context": torch.zeros(2, 5, 30)}, "needs a text of width 20; it is 30 wide"),
        ({"context": None}, "needs a text of width 20; there is none"),
        ({"y": torch.zeros(2, 4)}, "needs a vector of width 12; it is 4 wide"),
        ({"y": None}, "needs a vector of width 12; there is none"),
    ],
)
def test_a_prompt_for_another_model_is_refused(changed, message):
    with pytest.raises(BadInput, match=message):
        tiny()(**inputs() | changed)


def encoded(length: int, width: int, value: float) -> Encoded:
    return Encoded(torch.full((1, length, width), value), torch.full((1, width), value))


def test_text_is_both_clips_side_by_side_and_then_t5():
    found = sd3.combine({
        "clip_l": encoded(77, 768, 1.0), "clip_g": encoded(154, 1280, 2.0), "t5xxl": encoded(80, 4096, 3.0),
    })  # fmt: skip
    assert found.cond.shape == (1, 157, 4096)
    assert found.cond[0, 0].unique_consecutive().tolist() == [1, 2, 0]
    assert found.cond[0, 77:].unique().tolist() == [3]
    assert found.pooled[0].unique_consecutive(return_counts=True)[1].tolist() == [768, 1280]


@pytest.mark.parametrize(
    ("parts", "values", "pooled"),
    [
        ({"clip_l": (77, 768, 1.0)}, [1, 0], [1, 0]),
        ({"clip_g": (77, 1280, 2.0)}, [0, 2, 0], [0, 2]),
        ({"t5xxl": (77, 4096, 3.0)}, [3], [0]),
        ({}, [0], [0]),
    ],
)
def test_what_is_missing_of_the_text_encoders_is_zeros(parts, values, pooled):
    found = sd3.combine({name: encoded(*shape) for name, shape in parts.items()})
    assert found.cond.shape == (1, 77, 4096)
    assert found.pooled.shape == (1, 2048)
    assert found.cond[0, 0].unique_consecutive().tolist() == values
    assert found.pooled[0].unique_consecutive().tolist() == pooled


@pytest.mark.parametrize(("node", "shift", "time"), [("sd3", 5.0, 1000.0), ("aura_flow", 1.73, 1.0)])
def test_the_shift_towards_noise_is_three_unless_a_node_says_otherwise(node, shift, time):
    model = model_of(CheckpointHeader.of(tiny().state_dict(), {}), memory())
    changed = getattr(model_sampling, node)(model, shift)
    for one, strength in ((model, 3.0), (changed, shift)):
        half = one.sampling.percent_to_sigma(0.5)
        assert half == pytest.approx(strength * 0.5 / (1 + (strength - 1) * 0.5), abs=1e-3)
    assert model.sampling.timestep(torch.tensor(0.5)) == pytest.approx(500.0)
    assert changed.sampling.timestep(torch.tensor(0.5)) == pytest.approx(time / 2)
