"""Autoencoders against the diffusers library, by way of its names for the tensors."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks._live_bytes import peak_of
from limner.models.vae.kind import recognise
from limner.weights import CheckpointHeader
from tests.reference.make import apart, seeded

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: nothing to compare with")


def pictures() -> nn.Module:
    """As Stable Diffusion 3 and Flux have it: sixteen channels, nothing between network and latent."""
    return seeded(
        diffusers.AutoencoderKL(
            block_out_channels=(32, 64, 128, 128), latent_channels=16, norm_num_groups=32, layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            use_quant_conv=False, use_post_quant_conv=False,
        )
    )  # fmt: skip


def videos(kind: str) -> nn.Module:
    """The two classes of one network."""
    common = {"z_dim": 16, "num_res_blocks": 2, "temperal_downsample": [False, True, True], "dim_mult": [1, 2, 4, 4]}
    made = getattr(diffusers, kind)(base_dim=16, **common)
    seeded(made)
    for name, parameter in made.named_parameters():
        if name.endswith("gamma"):
            parameter.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    return made


def tiny() -> nn.Module:
    return seeded(diffusers.AutoencoderTiny(latent_channels=16))


def ours(tensors: dict[str, Tensor]) -> nn.Module:
    """Our network of the kind that claims these tensors, with their values."""
    match = recognise(CheckpointHeader.of(tensors))
    assert match is not None
    kind, header = match
    made = kind.network(kind.infer_config(header, {}))
    made.load_state_dict({name: header.tensor(name) for name in made.state_dict()})
    return made.eval().requires_grad_(False)


@torch.inference_mode()
def test_the_autoencoder_of_sixteen_channels_computes_what_diffusers_does() -> None:
    reference = pictures()
    network = ours(reference.state_dict())
    pixels, latent = torch.randn(1, 3, 40, 32), torch.randn(1, 16, 5, 4)
    assert apart(network.encode(pixels), reference.encode(pixels).latent_dist.mode()) < 1e-4
    assert apart(network.decode(latent), reference.decode(latent).sample) < 1e-4


@pytest.mark.parametrize("frames", [1, 9])
@pytest.mark.parametrize("kind", ["AutoencoderKLWan", "AutoencoderKLQwenImage"])
@torch.inference_mode()
def test_the_video_autoencoder_computes_what_diffusers_does(kind: str, frames: int) -> None:
    reference = videos(kind)
    network = ours(reference.state_dict())
    pixels = torch.randn(1, 3, frames, 24, 16)
    expected = reference.encode(pixels).latent_dist.mode()
    assert apart(network.encode(pixels), expected) < 1e-4
    # diffusers clamps what it decodes
    decoded = network.decode(expected)
    assert decoded.abs().max() > 0.5
    assert apart(decoded.clamp(-1, 1), reference.decode(expected).sample) < 1e-4


@torch.inference_mode()
def test_the_tiny_autoencoder_computes_what_diffusers_does() -> None:
    reference = tiny()
    state = {
        f"taesd_{half}.{int(number) + (half == 'decoder')}.{rest}": value
        for name, value in reference.state_dict().items()
        for half, _, number, rest in [name.split(".", 3)]
    }
    network = ours(state)
    pixels, latent = torch.rand(1, 3, 32, 24) * 2 - 1, torch.randn(1, 16, 4, 3)
    assert apart(network.encode(pixels), reference.encode(pixels).latents) < 1e-4
    assert apart(network.decode(latent), reference.decode(latent).sample) < 1e-4


@pytest.mark.parametrize(
    ("make", "latent"),
    [
        (pictures, (1, 16, 8, 8)),
        (lambda: videos("AutoencoderKLWan"), (1, 16, 1, 6, 6)),
        (lambda: videos("AutoencoderKLWan"), (1, 16, 3, 6, 6)),
        (tiny, (1, 16, 8, 8)),
    ],
    ids=["picture", "frame", "video", "tiny"],
)
def test_decoding_and_encoding_hold_no_more_than_diffusers_does(make, latent: tuple[int, ...]) -> None:
    reference = make().requires_grad_(False)
    state = reference.state_dict()
    if isinstance(reference, diffusers.AutoencoderTiny):
        state = {
            f"taesd_{half}.{int(number) + (half == 'decoder')}.{rest}": value
            for name, value in state.items()
            for half, _, number, rest in [name.split(".", 3)]
        }
    network, z = ours(state), torch.randn(latent)
    assert peak_of(network.decode, z, module=network) <= peak_of(reference.decode, z, module=reference)
    with torch.inference_mode():
        pixels = network.decode(z)
    assert peak_of(network.encode, pixels, module=network) <= peak_of(reference.encode, pixels, module=reference)
