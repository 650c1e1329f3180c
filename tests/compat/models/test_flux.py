"""Flux and Chroma as packs reach into them: classes by ComfyUI's names, blocks by themselves, a pass of their own."""

import types

import pytest
import torch

from limner.models.chroma import Chroma, ChromaConfig
from limner.models.layers.rope import rotate
from limner.models.load import model_of
from limner.weights import CheckpointHeader
from tests.models.checkpoints import memory, real_header
from tests.models.make import TINY_FLUX, tiny_flux
from tests.models.test_flux import CONFIG, inputs, output

pytestmark = pytest.mark.usefixtures("base")
DIMENSIONS = {**TINY_FLUX.__dict__, "axes_dim": list(TINY_FLUX.axes_dim)}
TINY_CHROMA = ChromaConfig(
    context_in_dim=20, hidden_size=64, num_heads=2, depth=1, depth_single_blocks=2, axes_dim=(8, 12, 12),
    in_dim=64, hidden_dim=24, n_layers=2,
)  # fmt: skip


def tiny_chroma() -> Chroma:
    torch.manual_seed(0)
    network = Chroma(TINY_CHROMA).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network


def loaded(network):
    return model_of(CheckpointHeader.of(network.state_dict(), CONFIG), memory())


@pytest.mark.parametrize("guidance", [True, False])
def test_a_loaded_flux_is_one_by_comfyuis_names(guidance):
    import comfy.model_base
    import comfy.supported_models
    from comfy.ldm.chroma.model import Chroma as ChromaByName
    from comfy.ldm.flux.layers import DoubleStreamBlock, EmbedND, LastLayer, MLPEmbedder, Modulation, SingleStreamBlock
    from comfy.ldm.flux.model import Flux

    model = loaded(tiny_flux(guidance_embed=guidance))
    network = model.model.diffusion_model
    assert isinstance(network, Flux)
    assert not isinstance(network, ChromaByName)
    assert all(isinstance(block, DoubleStreamBlock) for block in network.double_blocks)
    assert all(isinstance(block, SingleStreamBlock) for block in network.single_blocks)
    assert isinstance(network.final_layer, LastLayer)
    assert isinstance(network.time_in, MLPEmbedder)
    assert isinstance(network.pe_embedder, EmbedND)
    assert isinstance(network.double_blocks[0].img_mod, Modulation)
    assert isinstance(model.model, comfy.model_base.Flux)
    assert not isinstance(model.model, comfy.model_base.Chroma)
    found = {name for name in ("Flux", "FluxInpaint", "FluxSchnell", "Chroma")
             if isinstance(model.model.model_config, getattr(comfy.supported_models, name))}  # fmt: skip
    assert found == {"Flux" if guidance else "FluxSchnell"}


def test_a_loaded_chroma_is_one_by_comfyuis_names():
    import comfy.model_base
    import comfy.supported_models
    from comfy.ldm.chroma.layers import Approximator, DoubleStreamBlock, LastLayer, SingleStreamBlock
    from comfy.ldm.chroma.model import Chroma as ChromaByName
    from comfy.ldm.flux.model import Flux

    model = loaded(tiny_chroma())
    network = model.model.diffusion_model
    assert isinstance(network, ChromaByName)
    assert not isinstance(network, Flux)
    assert isinstance(network.distilled_guidance_layer, Approximator)
    assert isinstance(network.final_layer, LastLayer)
    assert isinstance(network.double_blocks[0], DoubleStreamBlock)
    assert isinstance(network.single_blocks[0], SingleStreamBlock)
    assert not any(isinstance(one, DoubleStreamBlock | SingleStreamBlock) for one in tiny_flux().modules())
    assert isinstance(model.model, comfy.model_base.Chroma)
    assert isinstance(model.model.model_config, comfy.supported_models.Chroma)
    assert not isinstance(model.model.model_config, comfy.supported_models.Flux | comfy.supported_models.ChromaRadiance)


def test_a_configuration_is_that_of_the_reference():
    import comfy.supported_models

    config = model_of(real_header("chroma"), memory()).model.model_config.unet_config
    assert config.items() >= {
        "image_model": "chroma", "in_channels": 64, "patch_size": 2, "out_channels": 64, "context_in_dim": 4096,
        "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
        "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120,
        "n_layers": 5,
    }.items()  # fmt: skip
    flux = model_of(real_header("flux-fill"), memory()).model.model_config.unet_config
    found = [one.__name__ for one in comfy.supported_models.models if one.matches(flux)]
    assert found == ["Flux", "FluxInpaint"]


def test_networks_are_made_by_the_references_arguments():
    from comfy.ldm.chroma.model import Chroma as ChromaByName
    from comfy.ldm.chroma.model import ChromaParams
    from comfy.ldm.flux.model import Flux, FluxParams

    made = Flux(image_model="flux", dtype=torch.float32, device="cpu", operations=None, **DIMENSIONS)
    made.load_state_dict(tiny_flux().state_dict())
    assert torch.equal(output(made), output(tiny_flux()))
    assert made.params.depth == FluxParams(**DIMENSIONS).depth == 3
    assert not hasattr(Flux(final_layer=False, **DIMENSIONS), "final_layer")
    dimensions = {**TINY_CHROMA.__dict__, "in_channels": 64, "out_channels": 64, "out_dim": 64}
    del dimensions["vec_in_dim"], dimensions["guidance_embed"]
    chroma = ChromaByName(image_model="chroma", **dimensions)
    chroma.load_state_dict(tiny_chroma().state_dict())
    assert ChromaParams(**dimensions).n_layers == 2


def test_a_pass_of_a_packs_own_takes_the_networks_place():
    """Packs that cache steps or add to blocks bring a whole `forward_orig`, made of the network's parts."""
    from comfy.ldm.flux.layers import timestep_embedding

    def forward_orig(self, img, img_ids, txt, txt_ids, timesteps, y, guidance=None, control=None,
                     transformer_options=None, attn_mask=None):  # fmt: skip
        img, txt = self.img_in(img), self.txt_in(txt)
        vec = self.time_in(timestep_embedding(timesteps, 256).to(img.dtype))
        if self.params.guidance_embed and guidance is not None:
            vec = vec + self.guidance_in(timestep_embedding(guidance, 256).to(img.dtype))
        vec = vec + self.vector_in(y[:, : self.params.vec_in_dim])
        pe = self.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
        for block in self.double_blocks:
            img, txt = block(img=img, txt=txt, vec=vec, pe=pe, attn_mask=attn_mask)
        img = torch.cat((txt, img), 1)
        for block in self.single_blocks:
            img = block(img, vec=vec, pe=pe, attn_mask=attn_mask)
        return self.final_layer(img[:, txt.shape[1] :], vec)

    network = tiny_flux()
    plain = output(network)
    network.forward_orig = types.MethodType(forward_orig, network)
    assert torch.allclose(output(network), plain, atol=1e-5)


@pytest.mark.parametrize("name", ["Flux", "DoubleStreamBlock", "SingleStreamBlock"])
def test_a_class_that_a_pack_patches_runs_the_packs_way(name, monkeypatch):
    import comfy.ldm.flux.layers
    import comfy.ldm.flux.model

    network, calls = tiny_flux(), []
    plain = output(network)
    owner = getattr(comfy.ldm.flux.model if name == "Flux" else comfy.ldm.flux.layers, name)
    method = "forward_orig" if name == "Flux" else "forward"
    original = getattr(owner, method)

    def mine(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, mine)
    assert torch.allclose(output(network), plain, atol=1e-6)
    assert calls == {"Flux": [network], "DoubleStreamBlock": [*network.double_blocks]}.get(
        name, [*network.single_blocks]
    )


def test_blocks_are_made_and_called_by_the_references_arguments():
    from comfy.ldm.flux import layers

    made = {"dtype": None, "device": None, "operations": None}
    double = layers.DoubleStreamBlock(64, 2, mlp_ratio=4.0, qkv_bias=True, flipped_img_txt=False, **made)
    single = layers.SingleStreamBlock(64, 2, mlp_ratio=4.0, qk_scale=None, **made)
    pe = layers.EmbedND(dim=32, theta=10000, axes_dim=[8, 12, 12])(torch.zeros(1, 7, 3))
    assert layers.MLPEmbedder(in_dim=8, hidden_dim=4, **made)(torch.zeros(2, 8)).shape == (2, 4)
    first, second = layers.Modulation(64, double=True, **made)(torch.randn(1, 64))
    assert isinstance(first, layers.ModulationOut)
    assert second.gate.shape == (1, 1, 64)
    img, txt = double(img=torch.randn(1, 4, 64), txt=torch.randn(1, 3, 64), vec=torch.randn(1, 64), pe=pe)
    both = single(torch.cat((txt, img), 1), vec=torch.randn(1, 64), pe=pe)
    assert layers.LastLayer(64, 2, 16, **made)(both, torch.randn(1, 64)).shape == (1, 7, 64)
    attention, v = layers.SelfAttention(64, num_heads=2, qkv_bias=True, **made), torch.randn(1, 2, 3, 32).half()
    q, k = attention.norm(v.float(), v.float(), v)
    assert isinstance(attention.norm, layers.QKNorm)
    assert isinstance(attention.norm.query_norm, layers.RMSNorm)
    assert q.dtype == k.dtype == torch.float16
    assert torch.equal(
        layers.apply_mod(torch.ones(1, 2, 3), torch.tensor(2.0), torch.tensor(1.0)), torch.full((1, 2, 3), 3.0)
    )


def test_chromas_blocks_take_their_modulation_as_it_is_given():
    """Packs that were written for the blocks that Chroma had of its own import them from its own module."""
    from comfy.ldm.chroma.layers import ChromaModulationOut, DoubleStreamBlock, SingleStreamBlock
    from comfy.ldm.flux.layers import EmbedND
    from comfy.ldm.flux.layers import SingleStreamBlock as OfFlux

    torch.manual_seed(0)
    double, single = DoubleStreamBlock(64, 2, 4.0, qkv_bias=True), SingleStreamBlock(64, 2, 4.0, operations=None)
    assert not any("_mod" in name or "modulation" in name for name in (*double.state_dict(), *single.state_dict()))
    pe = EmbedND(32, 10000, [8, 12, 12])(torch.zeros(1, 7, 3))
    none = ChromaModulationOut(shift=torch.zeros(1, 1, 64), scale=torch.zeros(1, 1, 64), gate=torch.zeros(1, 1, 64))
    all_of_it = none._replace(gate=torch.ones(1, 1, 64))
    img, txt = torch.randn(1, 4, 64), torch.randn(1, 3, 64)
    same = double(img=img, txt=txt, vec=((none, none), (none, none)), pe=pe)
    assert torch.equal(same[0], img)
    changed = double(img=img, txt=txt, vec=((all_of_it, none), (none, none)), pe=pe)
    assert not torch.allclose(changed[0], img, atol=1e-2)
    assert torch.equal(changed[1], txt)
    both = torch.cat((txt, img), dim=1)
    of_flux = OfFlux(64, 2, modulation=False)
    of_flux.load_state_dict(single.state_dict())
    assert torch.equal(single(both, vec=all_of_it, pe=pe), of_flux(both, vec=all_of_it, pe=pe))


def test_rotary_positions_are_those_of_the_core():
    from comfy.ldm.flux.layers import EmbedND
    from comfy.ldm.flux.math import apply_rope, apply_rope1, attention, rope

    torch.manual_seed(0)
    ids = torch.randint(0, 40, (2, 9, 3)).float()
    pe = EmbedND(32, 10000, [8, 12, 12])(ids)
    by_name = torch.cat([rope(ids[..., axis], dim, 10000) for axis, dim in enumerate((8, 12, 12))], dim=-3)
    assert torch.equal(pe[:, 0], by_name)
    q, k, v = (torch.randn(2, 9, 2, 32) for _ in range(3))
    in_heads = [one.transpose(1, 2) for one in (q, k, v)]
    turned = apply_rope(*in_heads[:2], pe)
    with torch.inference_mode():
        for mine, theirs in zip((q, k), turned, strict=True):
            assert torch.allclose(rotate(mine.clone(), pe).transpose(1, 2), theirs, atol=1e-6)
    assert torch.equal(apply_rope1(in_heads[0], pe), turned[0])
    expected = torch.nn.functional.scaled_dot_product_attention(*turned, in_heads[2]).transpose(1, 2).flatten(2)
    assert torch.allclose(attention(*in_heads, pe=pe), expected, atol=1e-5)


def test_a_pack_that_goes_around_the_network_gets_its_arguments_in_their_order():
    from comfy.patcher_extension import WrappersMP

    network, seen = tiny_flux(), []

    def wrapper(executor, x, timestep, context, y=None, guidance=None, ref_latents=None, control=None,
                transformer_options=None, **kwargs):  # fmt: skip
        seen.append((x.shape, timestep.shape, context.shape, y.shape, guidance.shape, transformer_options["mine"]))
        return executor(x, timestep, context, y, guidance, ref_latents, control, transformer_options, **kwargs)

    output(network, wrappers={WrappersMP.DIFFUSION_MODEL: {"mine": [wrapper]}}, mine=7)
    given = inputs()
    assert seen == [(*(given[name].shape for name in ("x", "timesteps", "context", "y", "guidance")), 7)]
