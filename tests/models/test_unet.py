"""The UNet: what its shapes tell, its hooks, its layouts. Its numbers are the golden cases' business."""

from dataclasses import replace

import pytest
import torch

from limner.errors import BadInput
from limner.models.layers import attention
from limner.models.unet import UNetConfig, timestep_embedding
from tests.models.make import TINY_UNET, shapes_of, tiny_unet

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([500.0, 20.5])
CONTEXT = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))
Y = torch.ones(2, 12)


@torch.inference_mode()
def predict(unet, x=X, **more):
    return unet(x, T[: len(x)], CONTEXT[: len(x)], **more)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_channels": 9, "out_channels": 8},
        {"use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 4, "adm_in_channels": 12},
        {"transformer_depth": (0, 2), "transformer_depth_middle": 3, "transformer_depth_output": (0, 0, 2, 2)},
        {"transformer_depth_middle": -1},
        {"transformer_depth_middle": -2},
        {"channel_mult": (1, 2, 4), "num_res_blocks": (2, 1, 3), "transformer_depth": (0, 0, 1, 0, 0, 0),
         "transformer_depth_output": (0, 0, 0, 1, 1, 0, 0, 0, 0)},
    ],
)  # fmt: skip
def test_the_config_that_shapes_tell_is_the_one_the_unet_was_made_with(changes):
    config = replace(TINY_UNET, **changes)
    said = {"num_heads": config.num_heads, "num_head_channels": config.num_head_channels, "norm_groups": 4}
    unet = tiny_unet(**changes)
    assert UNetConfig.from_state(shapes_of(unet), said) == config
    y = Y if config.adm_in_channels else None
    x = torch.zeros(2, config.in_channels, 8, 8)
    assert predict(unet, x, y=y).shape == (2, config.out_channels, 8, 8)


def test_without_a_config_convolutional_projections_mean_eight_heads_and_linear_ones_heads_64_wide():
    conv = UNetConfig.from_state(shapes_of(tiny_unet()), {"norm_groups": 4})
    wide = {"model_channels": 64, "norm_groups": 32, "use_linear_in_transformer": True}
    linear = UNetConfig.from_state(shapes_of(tiny_unet(**wide)), {})
    assert (conv.num_heads, conv.num_head_channels) == (8, -1)
    assert (linear.num_heads, linear.num_head_channels) == (-1, 64)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"model_channels": 320}, "model_channels = 320, the tensors say 8"),
        ({"channel_mult": [1, 2, 4, 4]}, "channel_mult"),
        ({"context_dim": 768}, "context_dim"),
        ({"adm_in_channels": 2816}, "adm_in_channels"),
        ({"num_heads": 3}, "cannot be split into attention heads"),
        ({"num_heads": -1, "num_head_channels": 5}, "cannot be split into attention heads"),
        ({"norm_groups": 3}, "does not divide"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(said, complaint):
    with pytest.raises(BadInput, match=complaint):
        UNetConfig.from_state(shapes_of(tiny_unet()), {"norm_groups": 4, **said})


def test_a_missing_tensor_is_named():
    shapes = shapes_of(tiny_unet())
    del shapes["out.2.weight"]
    with pytest.raises(BadInput, match=r"out\.2\.weight is missing"):
        UNetConfig.from_state(shapes, {"norm_groups": 4})


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (9, 8)])
def test_any_latent_size_keeps_its_size(size):
    unet = tiny_unet(channel_mult=(1, 2, 2), num_res_blocks=(1, 1, 1), transformer_depth=(1, 1, 1),
                     transformer_depth_output=(1,) * 6)  # fmt: skip
    assert predict(unet, torch.zeros(1, 4, *size)).shape == (1, 4, *size)


def test_the_channels_last_layout_is_kept_and_changes_nothing():
    unet = tiny_unet()
    plain = predict(unet)
    last = predict(unet.to(memory_format=torch.channels_last), X.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain, last, atol=1e-5)


def test_the_input_decides_the_dtype_of_the_computation():
    found = predict(tiny_unet(), X.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), predict(tiny_unet()), atol=0.05)


def test_every_parameter_gets_a_gradient():
    unet = tiny_unet(adm_in_channels=12)
    unet(X, T, CONTEXT, Y).square().mean().backward()
    assert [name for name, parameter in unet.named_parameters() if parameter.grad is None] == []


def test_a_vector_that_is_missing_or_not_wanted_is_refused():
    with pytest.raises(BadInput, match="needs a vector y"):
        predict(tiny_unet(adm_in_channels=12))
    with pytest.raises(BadInput, match="takes no vector y"):
        predict(tiny_unet(), y=Y)


def test_control_residuals_are_used_from_the_end_and_the_lists_stay_as_they_are():
    unet = tiny_unet()
    # the last entry belongs to the last skip, which is of the smallest level, 16 channels wide
    output = [None, None, None, torch.ones(2, 16, 4, 4)]
    control = {"output": output, "middle": [torch.ones(2, 16, 4, 4)], "input": [torch.ones(2, 4, 8, 8)[:, :1]]}
    assert not torch.allclose(predict(unet), predict(unet, control=control))
    assert torch.equal(predict(unet, control=control), predict(unet, control=control))
    assert [len(tensors) for tensors in control.values()] == [4, 1, 1]


def test_control_of_zeros_changes_nothing():
    zeros = {"output": [None, torch.zeros(1)], "middle": [torch.zeros(1)], "input": [None]}
    assert torch.equal(predict(tiny_unet()), predict(tiny_unet(), control=zeros))


def test_block_patches_are_called_where_their_names_say():
    seen = []

    def note(point):
        def patch(h, *rest):
            seen.append((point, rest[-1]["block"]))
            return (h, rest[0]) if point == "output_block_patch" else h

        return patch

    points = ("input_block_patch", "input_block_patch_after_skip", "output_block_patch")
    predict(tiny_unet(), transformer_options={"patches": {point: [note(point)] for point in points}})
    both = [(point, ("input", n)) for n in range(4) for point in points[:2]]
    assert seen == [*both, *(("output_block_patch", ("output", n)) for n in range(4))]


def test_a_middle_patch_is_called_in_each_transformer_between_its_attentions():
    seen = []

    def patch(x, options):
        seen.append((options["block"], options["transformer_index"]))
        return x

    predict(tiny_unet(), transformer_options={"patches": {"middle_patch": [patch]}})
    blocks = [("input", 1), ("input", 3), ("middle", 0), *(("output", n) for n in range(4))]
    assert seen == [(block, number) for number, block in enumerate(blocks)]


def test_attention_patches_see_the_features_before_projection_and_can_change_them():
    widths = set()

    def patch(x, context, value, options):
        widths.add((x.shape[-1], context.shape[-1], options["n_heads"]))
        return x, context * 0, value * 0

    found = predict(tiny_unet(), transformer_options={"patches": {"attn2_patch": [patch]}})
    assert widths == {(8, 6, 2), (16, 6, 2)}
    assert torch.allclose(found, predict_with_context(torch.zeros_like(CONTEXT)), atol=1e-6)


@torch.inference_mode()
def predict_with_context(context):
    return tiny_unet()(X, T, context)


def test_output_patches_see_what_an_attention_gives():
    double = {"patches": {"attn1_output_patch": [lambda x, options: x * 0]}}
    silent = tiny_unet()
    for name, parameter in silent.named_parameters():
        if "attn1.to_out" in name:
            parameter.data.zero_()
    assert torch.allclose(predict(tiny_unet(), transformer_options=double), predict(silent))


@pytest.mark.parametrize(("key", "calls"), [(("input", 1), 2), (("input", 1, 1), 1), (("input", 9), 0)])
def test_a_replacement_takes_over_its_block_or_one_transformer_of_it(key, calls):
    seen = []

    def replace_attention(q, k, v, options):
        seen.append((q.shape, options["block"], options["block_index"]))
        return v

    unet = tiny_unet(transformer_depth=(2, 1))
    predict(unet, transformer_options={"patches_replace": {"attn1": {key: replace_attention}}})
    assert len(seen) == calls
    assert all(place[1] == ("input", 1) for place in seen)


def test_a_replacement_that_does_the_same_changes_nothing():
    def same(q, k, v, options):
        heads = options["n_heads"]
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    options = {"patches_replace": {"attn2": {("middle", 0): same}}}
    assert torch.allclose(predict(tiny_unet()), predict(tiny_unet(), transformer_options=options), atol=1e-6)


def test_the_callers_options_are_left_as_they_are():
    options = {"cond_or_uncond": [0, 1]}
    predict(tiny_unet(), transformer_options=options)
    assert options == {"cond_or_uncond": [0, 1]}


def test_transformers_are_counted_through_the_network():
    numbers = []

    def patch(x, context, value, options):
        numbers.append(options["transformer_index"])
        return x, context, value

    predict(tiny_unet(), transformer_options={"patches": {"attn1_patch": [patch]}})
    assert numbers == list(range(7))


def test_the_time_embedding_is_cosines_then_sines_in_float32():
    found = timestep_embedding(torch.tensor([0.0, 1.0], dtype=torch.float16), 4)
    assert found.dtype == torch.float32
    expected = torch.tensor([[1, 1, 0, 0], [0.5403023, 0.9999500, 0.8414710, 0.0099998]])
    assert torch.allclose(found, expected, atol=1e-6)


def test_levels_whose_transformers_look_at_the_text_twice_are_seen_by_the_width_of_what_they_look_at():
    unet = tiny_unet(disable_self_attentions=(False, True))
    config = UNetConfig.from_state(shapes_of(unet), {"num_heads": 2, "norm_groups": 4})
    assert config.disable_self_attentions == (False, True)
    assert predict(unet).shape == X.shape


def test_a_number_in_the_vectors_place_has_a_vector_of_its_own():
    unet = tiny_unet(num_classes=5)
    config = UNetConfig.from_state(shapes_of(unet), {"num_heads": 2, "norm_groups": 4})
    assert config.num_classes == 5
    with torch.inference_mode():
        first, last = (unet(X, T, CONTEXT, torch.tensor([number])) for number in (0, 4))
    assert not torch.allclose(first, last)
    with pytest.raises(BadInput, match="needs a vector y"):
        predict(unet)


def test_attention_is_told_the_precision_of_scores_that_the_config_asks_for():
    asked = set()

    def note(attention, *values, **options):
        asked.add(options["attn_precision"])
        return attention(*values, **options)

    options = {"optimized_attention_override": note}
    predict(tiny_unet(attn_precision=torch.float32), transformer_options=options)
    assert asked == {torch.float32}
    predict(tiny_unet(), transformer_options=options)
    assert asked == {torch.float32, None}


def test_attention_scores_beyond_float16_are_no_trouble():
    loud = torch.full((1, 40, 64), 60.0, dtype=torch.float16)
    assert not (loud @ loud.transpose(1, 2)).isfinite().all()
    assert attention.optimized_attention(loud, loud, loud, 1, attn_precision=torch.float32).isfinite().all()


def test_a_hook_on_a_block_is_called_and_changes_nothing_else():
    unet, seen = tiny_unet(), []
    unet.input_blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert torch.equal(predict(unet), predict(tiny_unet()))
    assert seen == [(*X.shape[:1], 8, *X.shape[2:])]


def test_what_goes_in_is_left_as_it_was():
    kept = [value.clone() for value in (X, T, CONTEXT)]
    predict(tiny_unet())
    assert all(torch.equal(now, before) for now, before in zip((X, T, CONTEXT), kept, strict=True))


def test_what_a_pack_keeps_of_an_attention_is_not_written_over():
    kept, copies = [], []

    def keep(value, options):
        kept.append(value)
        copies.append(value.clone())
        return value

    points = ("attn1_output_patch", "middle_patch", "attn2_output_patch", "input_block_patch")
    predict(tiny_unet(), transformer_options={"patches": {point: [keep] for point in points}})
    assert len(kept) > len(points)
    assert all(torch.equal(one, copy) for one, copy in zip(kept, copies, strict=True))
