"""FLUX.1 against the diffusers library, by way of its names for the tensors."""

import pytest
import torch
from torch import Tensor

from benchmarks._live_bytes import peak_of
from limner.models import flux
from limner.models.detect import detect
from limner.models.layers.patches import patched, unpatched
from limner.models.layers.rope import grid_ids
from limner.weights import CheckpointHeader
from limner.weights.targets import renamed
from tests.reference.make import apart, ours, seeded

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: nothing to compare with")

CONFIG = {"num_heads": 4, "axes_dim": (8, 12, 12)}


def theirs(*, guidance: bool, channels: int = 64) -> torch.nn.Module:
    """Two blocks of two streams, two of one, four heads."""
    return seeded(
        diffusers.FluxTransformer2DModel(
            in_channels=channels, out_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=32,
            num_attention_heads=4, joint_attention_dim=48, pooled_projection_dim=24, guidance_embeds=guidance,
            axes_dims_rope=CONFIG["axes_dim"],
        )
    )  # fmt: skip


def inputs(height: int, width: int, channels: int = 16) -> tuple[Tensor, ...]:
    """Latent, time, text and its vector."""
    torch.manual_seed(1)
    return (
        torch.randn(2, channels, height, width),
        torch.tensor([0.9, 0.03]),
        torch.randn(2, 11, 48),
        torch.randn(2, 24),
    )


def packed(x: Tensor, others: tuple[tuple[Tensor, Tensor], ...] = ()) -> dict[str, Tensor]:
    """Latents as diffusers takes them: patches, and the place of each. others: pictures to go by, with places."""
    patches, rows, columns = patched(x, 2)
    pairs = [(patches, grid_ids(rows, columns, {})), *others]
    return {
        "hidden_states": torch.cat([one for one, _ in pairs], dim=1),
        "img_ids": torch.cat([ids for _, ids in pairs], dim=1)[0],
        "txt_ids": torch.zeros(11, 3),
    }


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
@torch.inference_mode()
def test_the_network_computes_what_diffusers_does(guidance: bool) -> None:
    reference = theirs(guidance=guidance)
    x, time, text, vector = inputs(12, 20)
    strength = torch.tensor([3.5, 1.0]) if guidance else None
    expected = reference(
        **packed(x), encoder_hidden_states=text, pooled_projections=vector, timestep=time, guidance=strength
    ).sample
    found = ours(reference.state_dict(), **CONFIG)(x, time, text, y=vector, guidance=strength)
    assert apart(found, unpatched(expected, 6, 10, 2)) < 1e-4


@torch.inference_mode()
def test_pictures_to_go_by_are_further_patches_of_another_index() -> None:
    """Kontext: the picture to edit lies behind the one that is made, with 1 as its first place."""
    reference = theirs(guidance=True)
    x, time, text, vector = inputs(12, 20)
    picture, strength = torch.randn(2, 16, 8, 6), torch.tensor([2.5, 2.5])
    behind = (patched(picture, 2)[0], grid_ids(4, 3, {}, index=1))
    expected = reference(
        **packed(x, (behind,)), encoder_hidden_states=text, pooled_projections=vector, timestep=time, guidance=strength
    ).sample[:, :60]
    network = ours(reference.state_dict(), **CONFIG)
    found = network(x, time, text, y=vector, guidance=strength, ref_latents=[picture], ref_latents_method="index")
    assert apart(found, unpatched(expected, 6, 10, 2)) < 1e-4


@torch.inference_mode()
def test_channels_joined_to_the_latent_lie_between_its_own_as_diffusers_packs_them() -> None:
    """Control variants: a patch has all cells of the latent's channels, then those of the joined picture's."""
    reference = theirs(guidance=True, channels=128)
    x, time, text, vector = inputs(8, 8, 32)
    strength = torch.tensor([30.0, 10.0])
    expected = reference(
        **packed(x), encoder_hidden_states=text, pooled_projections=vector, timestep=time, guidance=strength
    ).sample
    found = ours(reference.state_dict(), **CONFIG)(x, time, text, y=vector, guidance=strength)
    assert apart(found, unpatched(expected, 4, 4, 2)) < 1e-4
    latent, joined = x.chunk(2, dim=1)
    assert torch.equal(patched(x, 2)[0], torch.cat((patched(latent, 2)[0], patched(joined, 2)[0]), dim=-1))


@torch.inference_mode()
def test_residuals_of_a_control_are_added_where_diffusers_adds_them() -> None:
    reference = theirs(guidance=False)
    x, time, text, vector = inputs(8, 8)
    double, single = list(torch.randn(2, 2, 16, 128)), list(torch.randn(2, 2, 16, 128))
    expected = reference(
        **packed(x), encoder_hidden_states=text, pooled_projections=vector, timestep=time,
        controlnet_block_samples=double, controlnet_single_block_samples=single,
    ).sample  # fmt: skip
    network = ours(reference.state_dict(), **CONFIG)
    found = network(x, time, text, y=vector, control={"input": double, "output": single})
    assert apart(found, unpatched(expected, 4, 4, 2)) < 1e-4


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_every_name_of_diffusers_is_known_and_none_is_left(guidance: bool) -> None:
    header = CheckpointHeader.of(theirs(guidance=guidance).state_dict())
    targets = flux.from_diffusers(header)
    assert set(targets) - set(header) <= {name for name in targets if "guidance_embedder" in name and not guidance}
    match = detect(header)
    with torch.device("meta"):
        network = match.family.network(match.family.infer_config(match.diffusion, CONFIG))
    assert match.family.name == ("flux" if guidance else "flux_schnell")
    assert set(renamed(header, targets).tensors) == set(network.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_network_needs_less_memory_than_diffusers(dtype: torch.dtype) -> None:
    reference = theirs(guidance=False).to(dtype)
    network = ours(reference.state_dict(), **CONFIG)
    x, time, text, vector = (one.to(dtype) for one in inputs(40, 40))
    given = {"encoder_hidden_states": text, "pooled_projections": vector, "timestep": time}
    most = peak_of(reference, **packed(x), **given, module=reference)
    least = peak_of(network, x, time, text, y=vector, module=network)
    assert least < 0.5 * most
