"""Controls against the diffusers library, at reduced width, by way of its names for the tensors."""

import json

import pytest
import torch

from limner.models.control.load import detect
from limner.weights import CheckpointHeader
from tests.reference.make import apart, seeded

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: nothing to compare with")


def ours(tensors, **config):
    """Our network of the kind that claims these tensors, with their values."""
    header = CheckpointHeader.of(tensors, {"config": json.dumps(config)})
    kind, layout = detect(header)
    converted = layout.convert(header)
    with torch.device("meta"):
        made = kind.network(kind.infer_config(converted, config))
    made.load_state_dict({name: converted.tensor(name) for name in made.state_dict()}, assign=True)
    return made.eval()


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SD1 = {
    "block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1, "cross_attention_dim": 12, "attention_head_dim": 4, "norm_num_groups": 8,
    "conditioning_embedding_out_channels": (4, 6, 8, 10),
}  # fmt: skip
XL = {
    **SD1, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": (1, 2),
    "use_linear_projection": True, "transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 5 + 6 * 8,
}  # fmt: skip


def vector():
    """XL's added conditions, as diffusers takes them and as one vector."""
    pooled, sizes = normal(2, 5), torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
    angles = diffusers.models.embeddings.get_timestep_embedding(sizes.flatten(), 8, True, 0).reshape(2, -1)
    return {"text_embeds": pooled, "time_ids": sizes}, torch.cat((pooled, angles), 1)


@pytest.mark.parametrize(("kind", "size"), [("sd1", 8), ("sd1", 7), ("xl", 8)])
def test_a_control_net_computes_what_diffusers_does(kind, size):
    reference = seeded(diffusers.ControlNetModel(**(SD1 if kind == "sd1" else XL)))
    x, hint, text, time = normal(2, 4, 8, size), normal(2, 3, 64, 8 * size), normal(2, 5, 12), torch.tensor([900.0, 3])
    added, y = vector() if kind == "xl" else (None, None)
    heads = {"num_heads": 4} if kind == "sd1" else {"num_head_channels": 32}
    with torch.inference_mode():
        down, middle = reference(x, time, text, hint, added_cond_kwargs=added, return_dict=False)
        found = ours(reference.state_dict(), norm_groups=8, **heads)(x, hint, time, text, y=y)
    assert len(found["output"]) == len(down)
    for one, other in zip([*found["output"], *found["middle"]], [*down, middle], strict=True):
        assert apart(one, other) < 1e-4


@pytest.mark.parametrize("kinds", [[3], [0, 4]])
def test_a_union_control_net_computes_what_diffusers_does(kinds):
    reference = seeded(diffusers.ControlNetUnionModel(
        **XL, num_control_type=6, num_trans_channel=32, num_trans_head=8, num_proj_channel=32,
    ))  # fmt: skip
    for layer in reference.transformer_layes:  # diffusers lets the rows of a batch attend to each other, not the hints
        layer.attn.batch_first = True
    x, text, time = normal(2, 4, 8, 8), normal(2, 5, 12), torch.tensor([900.0, 3])
    hints = [normal(2, 3, 64, 64, seed=seed) for seed in kinds]
    added, y = vector()
    marks = torch.zeros(2, 6)
    marks[:, kinds] = 1
    with torch.inference_mode():
        down, middle = reference(
            x, time, text, hints, control_type=marks, control_type_idx=kinds, conditioning_scale=[1.0] * len(kinds),
            added_cond_kwargs=added, return_dict=False,
        )  # fmt: skip
        hint = torch.stack(hints, 1) if len(hints) > 1 else hints[0]
        network = ours(reference.state_dict(), norm_groups=8, num_head_channels=32)
        found = network(x, hint, time, text, y=y, control_type=kinds)
    for one, other in zip([*found["output"], *found["middle"]], [*down, middle], strict=True):
        assert apart(one, other) < 1e-4


@pytest.mark.parametrize("kind", ["full_adapter", "light_adapter", "full_adapter_xl"])
def test_an_adapter_computes_what_diffusers_does(kind):
    xl = kind == "full_adapter_xl"
    channels = [8, 16, 32] if kind == "light_adapter" else [8, 16, 32, 32]
    reference = seeded(diffusers.T2IAdapter(
        3, channels, 4 if kind == "light_adapter" else 2, 16 if xl else 8, adapter_type=kind
    ))  # fmt: skip
    picture = normal(2, 3, 96, 160)
    network = ours(reference.state_dict())
    with torch.inference_mode():
        for one, other in zip(network.features(picture), reference(picture), strict=True):
            assert apart(one, other) < 1e-4


# -- transformers -----------------------------------------------------------------------------------------------------

MMDIT = {"sample_size": 32, "num_layers": 3, "attention_head_dim": 64, "num_attention_heads": 2,
         "caption_projection_dim": 128, "pooled_projection_dim": 24, "pos_embed_max_size": 16}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{}, {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}, {"extra_conditioning_channels": 1}],
    ids=["3", "3.5-medium", "inpaint"],
)
def test_a_control_net_of_sd3_computes_what_diffusers_does(changes):
    reference = seeded(diffusers.SD3ControlNetModel(**MMDIT, joint_attention_dim=48, **changes))
    x, hint = normal(2, 16, 12, 20), normal(2, 16 + changes.get("extra_conditioning_channels", 0), 12, 20, seed=2)
    text, vector_, time = normal(2, 11, 48), normal(2, 24), torch.tensor([900.0, 30])
    with torch.inference_mode():
        expected = reference(x, hint, 1.0, text, vector_, time, return_dict=False)[0]
        found = ours(reference.state_dict())(x, hint, time, text, vector_)
    assert len(found["output"]) == 3
    for one, other in zip(found["output"], expected, strict=True):
        assert apart(one, other) < 1e-4


def test_a_control_net_of_sd35_large_computes_what_diffusers_does():
    """Its patches are made by the model that is sampled; here the embedding is given."""
    reference = seeded(
        diffusers.SD3ControlNetModel(**MMDIT, joint_attention_dim=None, pos_embed_type=None, use_pos_embed=False)
    )
    x, hint = normal(2, 16, 12, 20), normal(2, 16, 12, 20, seed=2)
    patches, vector_, time = normal(2, 60, 128), normal(2, 24), torch.tensor([900.0, 30])
    with torch.inference_mode():
        expected = reference(patches, hint, 1.0, None, vector_, time, return_dict=False)[0]
        found = ours(reference.state_dict())(x, hint, time, None, vector_, embed=lambda shown: patches)
    for one, other in zip(found["output"], expected, strict=True):
        assert apart(one, other) < 1e-4


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize("size", [(8, 12), (4, 16)])  # an even number of patches: the middle of an odd one differs
def test_a_control_net_of_qwen_image_computes_what_diffusers_does(extra, size):
    reference = seeded(diffusers.QwenImageControlNetModel(
        num_layers=2, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=48, axes_dims_rope=(8, 12, 12),
        extra_condition_channels=extra,
    ))  # fmt: skip
    height, width = size
    x, hint = normal(2, 16, 1, height, width), normal(2, 16 + extra // 4, 1, height, width, seed=2)
    text, time = normal(2, 7, 48), torch.tensor([0.9, 0.03])

    def packed(latent):
        cells = latent.reshape(2, -1, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return cells.reshape(2, height * width // 4, -1)

    with torch.inference_mode():
        expected = reference(
            packed(x), packed(hint), 1.0, text, torch.ones(2, 7), time, [[(1, height // 2, width // 2)]] * 2,
            return_dict=False,
        )  # fmt: skip
        found = ours(reference.state_dict(), axes_dims_rope=(8, 12, 12))(x, hint, time, text)
    assert len(found["input"]) == 60
    for number, other in enumerate(expected):
        assert apart(found["input"][number * 30], other) < 1e-4
        assert found["input"][number * 30 + 29] is found["input"][number * 30]


@pytest.mark.parametrize("kind", ["latent", "union", "inpaint", "picture", "double only"])
def test_a_control_net_of_flux_computes_what_diffusers_does(kind):
    changes = {
        "union": {"num_mode": 5}, "picture": {"conditioning_embedding_channels": 16},
        "double only": {"num_single_layers": 0},
    }.get(kind, {})  # fmt: skip
    channels = 17 if kind == "inpaint" else 16
    sizes = {"num_layers": 2, "num_single_layers": 3, "attention_head_dim": 32, "num_attention_heads": 2,
             "joint_attention_dim": 20, "pooled_projection_dim": 12, "axes_dims_rope": (4, 14, 14),
             "guidance_embeds": True}  # fmt: skip
    picture = {"patch_size": 2} if kind == "picture" else {}
    reference = diffusers.FluxControlNetModel(**{**sizes, **changes, **picture})
    if kind == "inpaint":
        reference.controlnet_x_embedder = torch.nn.Linear(4 * channels, 64)
    seeded(reference)
    x, text, vector_ = normal(2, 16, 8, 12), normal(2, 7, 20), normal(2, 12)
    time, guidance = torch.tensor([0.9, 0.03]), torch.tensor([3.5, 3.5])
    hint = torch.rand(2, 3, 64, 96) if kind == "picture" else normal(2, channels, 8, 12, seed=2)
    places = torch.stack(torch.meshgrid(torch.zeros(1), torch.arange(4.0), torch.arange(6.0), indexing="ij"), -1)

    def packed(latent):
        return latent.reshape(2, -1, 4, 2, 6, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 24, -1)

    with torch.inference_mode():
        doubles, singles = reference(
            packed(x), hint * 2 - 1 if kind == "picture" else packed(hint),
            torch.tensor([[2], [2]]) if kind == "union" else None, 1.0, text, vector_, time,
            places.reshape(-1, 3), torch.zeros(7, 3), guidance, return_dict=False,
        )  # fmt: skip
        network = ours(reference.state_dict(), num_heads=2, axes_dim=(4, 14, 14))
        found = network(x, hint, time, text, vector_, guidance, [2] if kind == "union" else [])
    assert (len(found["input"]), len(found["output"])) == (19, 38 if singles else 0)
    inputs = [found["input"][0], found["input"][1 if kind == "picture" else 10]]
    outputs = [found["output"][n if kind == "picture" else 13 * n] for n in range(3)] if singles else []
    for one, other in zip([*inputs, *outputs], [*doubles, *(singles or ())], strict=True):
        assert apart(one, other) < 1e-4
