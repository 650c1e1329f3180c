"""Chroma Radiance: recognised by its keys, drawn patch by patch."""

import torch

from limner.models.chroma_radiance import ChromaRadiance, RadianceConfig
from limner.models.detect import detect
from limner.weights import CheckpointHeader

SMALL = RadianceConfig(
    context_in_dim=24, hidden_size=64, num_heads=2, depth=1, depth_single_blocks=2, axes_dim=(8, 12, 12),
    in_dim=16, hidden_dim=32, n_layers=2, patch_size=4, nerf_hidden_size=8, nerf_mlp_ratio=2, nerf_depth=2,
    nerf_max_freqs=3,
)  # fmt: skip


def small(**changes) -> ChromaRadiance:
    torch.manual_seed(0)
    return ChromaRadiance(RadianceConfig(**{**SMALL.__dict__, **changes})).eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 3, 8, 12, generator=generator), torch.randn(2, 5, 24, generator=generator)
    return x, torch.tensor([0.2, 0.8]), context


def test_the_dimensions_are_read_off_the_tensors() -> None:
    for conv in (True, False):
        header = CheckpointHeader.of(small(nerf_conv=conv).state_dict())
        match = detect(header)
        assert match.family.name == "chroma_radiance"
        found = match.family.infer_config(header, {"num_heads": 2, "axes_dim": (8, 12, 12)})
        assert found == RadianceConfig(**{**SMALL.__dict__, "nerf_conv": conv})


@torch.inference_mode()
def test_a_picture_is_the_same_in_tiles_of_any_size() -> None:
    network, (x, time, context) = small(), inputs()
    whole = network(x, time, context, transformer_options={"chroma_radiance_options": {"nerf_tile_size": 0}})
    for tile in (1, 5):
        options = {"chroma_radiance_options": {"nerf_tile_size": tile}}
        assert torch.allclose(network(x, time, context, transformer_options=options), whole, atol=1e-6)


@torch.inference_mode()
def test_odd_sides_are_continued_from_the_other_edge() -> None:
    network, (x, time, context) = small(), inputs()
    odd = x[:, :, :7, :10]
    wrapped = torch.cat((odd, odd[:, :, :1]), dim=2)
    wrapped = torch.cat((wrapped, wrapped[..., :2]), dim=3)
    assert torch.equal(network(odd, time, context), network(wrapped, time, context)[:, :, :7, :10])


@torch.inference_mode()
def test_a_pixel_depends_on_its_own_value_and_its_place() -> None:
    network = small(nerf_conv=False)
    x, _, _ = inputs()
    said = torch.randn(2 * 6, 64).view(2, 6, 64)
    flat = network.field(torch.full_like(x, 0.5), said, {})
    assert flat[0, :, :4, :4].flatten(1).std(dim=1).min() > 0  # equal pixels of a patch differ by their places
    changed = torch.full_like(x, 0.5)
    changed[:, :, 1, 2] = -0.5
    differs = (network.field(changed, said, {}) - flat).abs().amax(dim=(0, 1)) > 1e-7
    assert differs.nonzero().tolist() == [[1, 2]]
