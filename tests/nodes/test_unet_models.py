"""Nodes that change a UNet, or say what it is shown, with every family of them."""

import pytest
import torch

from limner.nodes import guidance, inpaint, model_merging_families, model_sampling, unet_patches
from limner.sampling.run import sample, steps_sigmas
from limner.sampling.samplers import get_sampler
from tests.models.test_unet_families import POOLED, TINY, model

EMPTY = [[torch.zeros(1, 5, 6), {"pooled_output": torch.zeros(1, POOLED)}]]
CHANGES = {
    "FreeU": unet_patches.free_u,
    "FreeU_V2": unet_patches.free_u_2,
    "TomePatchModel": unet_patches.token_merging,
    "HyperTile": lambda made: unet_patches.hyper_tile(made, 32, max_depth=2),
    "PatchModelAddDownscale": lambda made: unet_patches.deep_shrink(
        made, 1, 2.0, 0.0, 1.0, downscale_method="bilinear", upscale_method="bilinear"
    ),
    "PerpNeg": lambda made: guidance.perpendicular_negative(made, EMPTY),
    "PerturbedAttentionGuidance": guidance.perturbed_attention,
    "SelfAttentionGuidance": guidance.self_attention,
    "RescaleCFG": guidance.rescale,
    "ModelSamplingDiscrete": lambda made: model_sampling.discrete(made, "v_prediction", True),
}


class Autoencoder:
    """One whose latents are the pictures at an eighth of their size, and one channel of zeros."""

    def encode(self, pixels):
        latent = pixels[:, ::8, ::8].movedim(-1, 1)
        return torch.cat((latent, torch.zeros_like(latent[:, :1])), dim=1)


def sampled(made, positive=None, latent=None):
    torch.manual_seed(4)
    text = [[torch.randn(1, 5, 6), {"pooled_output": torch.randn(1, POOLED)}]]
    noise, sampler = torch.randn(1, 4, 16, 16), get_sampler("euler")
    start = torch.zeros_like(noise) if latent is None else latent["samples"]
    mask = None if latent is None else latent.get("noise_mask")
    sigmas = steps_sigmas(made.sampling, sampler, "normal", 2, 1.0)
    return sample(made, noise, positive or text, EMPTY, 3.0, sampler, sigmas, start, mask, seed=4)


@pytest.mark.parametrize("kind", [kind for kind in TINY if kind != "sd_x4"])
@pytest.mark.parametrize("node", CHANGES)
def test_a_node_that_changes_a_unet_changes_the_picture_of_every_family(kind, node):
    made = model(kind, channel_mult=(1, 2, 4) if kind == "sdxl_refiner" else (1, 4))
    found = sampled(CHANGES[node](made))
    assert found.isfinite().all()
    # tokens are merged at full resolution only, where XL has no attention
    untouched = node == "TomePatchModel" and kind.startswith("sdxl")
    assert torch.allclose(found, sampled(made), atol=1e-6) == untouched


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_an_inpainting_model_sees_the_mask_and_the_picture(kind):
    painter = model(kind, in_channels=9)
    picture, mask = torch.rand(1, 128, 128, 3), torch.zeros(1, 128, 128)
    mask[:, :64] = 1
    prepared = inpaint.inpaint_model_conditioning(EMPTY, EMPTY, Autoencoder(), picture, mask)
    found = sampled(painter, prepared.positive, prepared.latent)
    assert torch.allclose(found[:, :, 8:], prepared.latent["samples"][:, :, 8:], atol=1e-3)
    other = inpaint.inpaint_model_conditioning(EMPTY, EMPTY, Autoencoder(), 1 - picture, mask)
    assert not torch.allclose(sampled(painter, other.positive, prepared.latent), found)


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_an_editing_model_sees_the_picture_to_edit(kind):
    editor = model(kind, in_channels=8)
    pictures = [inpaint.instruct_pix_to_pix(EMPTY, EMPTY, Autoencoder(), torch.rand(1, 128, 128, 3)) for _ in range(2)]
    one, two = (sampled(editor, prepared.positive) for prepared in pictures)
    assert one.isfinite().all()
    assert not torch.allclose(one, two)


@pytest.mark.parametrize(("kind", "node"), [
    ("sd2", model_merging_families.sd2), ("sdxl", model_merging_families.sdxl),
])  # fmt: skip
def test_two_models_of_a_family_are_merged_block_by_block(kind, node):
    one, two = model(kind), model(kind)
    two = two.clone()
    two.add_patches({"diffusion_model.out.2.weight": ("set", (torch.ones(4, 8, 3, 3),))})
    merged = node(one, two, **{"out.": 0.25})
    own = one.source.patched("out.2.weight")
    assert torch.allclose(merged.source.patched("out.2.weight"), 0.25 * own + 0.75, atol=1e-6)
    assert torch.equal(merged.source.patched("time_embed.0.weight"), one.source.patched("time_embed.0.weight"))
