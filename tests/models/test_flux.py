"""FLUX.1: recognised, computed, looked into by packs."""

import json

import pytest
import torch

from limner.errors import BadInput
from limner.models import flux
from limner.models.detect import detect
from limner.models.flux import FluxConfig
from limner.models.layers.rope import grid_ids, rotation
from limner.models.layers.streams import DoubleStreamBlock, SingleStreamBlock
from limner.models.load import load_diffusion_model, model_of
from limner.sampling.wrappers import WrappersMP
from limner.weights import CheckpointHeader, save
from limner.weights.targets import Part, swap_halves
from tests.models.checkpoints import memory, real_header
from tests.models.make import TINY_FLUX, tiny_flux

CONFIG = {"config": json.dumps({"unet": {"num_heads": TINY_FLUX.num_heads, "axes_dim": TINY_FLUX.axes_dim}})}
PUBLISHED = {
    "image_model": "flux", "in_channels": 16, "patch_size": 2, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
    "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip


def inputs(height: int = 6, width: int = 9, channels: int = 16) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.randn(2, channels, height, width),
        "timesteps": torch.tensor([0.7, 0.2]),
        "context": torch.randn(2, 5, 20),
        "y": torch.randn(2, 12),
        "guidance": torch.tensor([3.5, 1.0]),
    }


@torch.inference_mode()
def output(network, /, changed=None, **options):
    return network(**inputs() | (changed or {}), transformer_options=options)


def header(tensors) -> CheckpointHeader:
    return CheckpointHeader.of(tensors, CONFIG)


def in_diffusers_names(state) -> dict[str, torch.Tensor]:
    """The same tensors as the diffusers library has them."""
    found = {}
    for theirs, target in flux.diffusers_targets(3, 2, 64, 256).items():
        part = target if isinstance(target, Part) else Part(target)
        if part.name in state:
            rows = state[part.name] if part.length is None else state[part.name].narrow(0, part.start, part.length)
            found[theirs] = swap_halves(rows) if part.swapped else rows
    return found


# -- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family", "differs"),
    [
        ("flux-dev", "flux", {}),
        ("flux-schnell", "flux_schnell", {"guidance_embed": False}),
        ("flux-fill", "flux_fill", {"in_channels": 96}),
    ],
)
def test_published_files_are_recognised_and_their_dimensions_read(name, family, differs):
    model = model_of(real_header(name), memory())
    assert model.family.name == family
    assert model.model.model_config.unet_config.items() >= (PUBLISHED | differs).items()


@pytest.mark.parametrize(
    ("channels", "guidance", "family", "joined"),
    [
        (16, True, "flux", ()),
        (32, True, "flux", ("scaled_image",)),
        (96, True, "flux_fill", ("scaled_image", "pixel_mask")),
        (16, False, "flux_schnell", ()),
    ],
)
def test_each_variant_is_told_by_its_input_and_its_guidance(channels, guidance, family, joined):
    model = model_of(header(tiny_flux(in_channels=channels, guidance_embed=guidance).state_dict()), memory())
    assert (model.family.name, model.model.concat_keys) == (family, joined)


def test_what_is_predicted_is_a_velocity_of_a_shifted_flow_but_for_schnell():
    found = {}
    for name in ("flux-dev", "flux-fill", "flux-schnell"):
        sampling = model_of(real_header(name), memory()).sampling
        found[name] = (float(sampling.sigma_min), float(sampling.percent_to_sigma(0.5)))
    assert found["flux-dev"] == found["flux-fill"] == pytest.approx((0.000315751, 0.7595), abs=1e-4)
    assert found["flux-schnell"] == pytest.approx((0.001, 0.5), abs=1e-4)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "model.", ""])
def test_a_file_is_the_same_network_under_any_prefix_and_in_the_layout_of_diffusers(tmp_path, prefix):
    state = tiny_flux().state_dict()
    found = []
    for number, tensors in enumerate((state, in_diffusers_names(state))):
        path = tmp_path / f"{number}.safetensors"
        save(path, {prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, CONFIG)
        model = load_diffusion_model(path, memory())
        with torch.inference_mode(), model.loaded() as network:
            found.append(network(**inputs()))
    assert torch.allclose(found[0], output(tiny_flux()), atol=1e-4)
    assert torch.equal(found[0], found[1])


def test_heads_are_told_by_the_width_of_their_norms_and_axes_by_it_where_nothing_else_says():
    config = FluxConfig.from_state(header(tiny_flux().state_dict()).shapes(), {})
    assert (config.num_heads, config.axes_dim) == (2, (4, 14, 14))


@pytest.mark.parametrize(
    ("lost", "lacking"),
    [
        ("final_layer.", "final_layer.adaLN_modulation.1.weight"),
        ("double_blocks.0.", "double_blocks.0.img_attn.norm.key_norm.scale"),
        ("img_in.", "img_in.weight"),
    ],
)
def test_a_truncated_file_is_named_as_the_nearest_and_what_it_lacks(lost, lacking):
    tensors = {name: value for name, value in tiny_flux().state_dict().items() if not name.startswith(lost)}
    with pytest.raises(BadInput) as caught:
        detect(header(tensors))
    assert caught.value.why == f"Closest is Flux (3 of 4 marks; lacking: {lacking})."


@pytest.mark.parametrize("layout", [dict, in_diffusers_names])
def test_a_file_without_some_of_its_blocks_is_not_taken_for_a_shorter_network(layout):
    tensors = {name: value for name, value in layout(tiny_flux().state_dict()).items() if "e_blocks.1." not in name}
    tensors = {name: value for name, value in tensors.items() if not name.startswith("transformer_blocks.1.")}
    with pytest.raises(BadInput, match=r"blocks\.\{\} up to 2 the file lacks 1"):
        model_of(header(tensors), memory())


def test_a_file_mixed_of_two_families_is_refused():
    tensors = tiny_flux().state_dict()
    tensors["txt_in.individual_token_refiner.blocks.0.norm1.weight"] = torch.ones(64)
    with pytest.raises(BadInput, match="no known diffusion model") as caught:
        detect(header(tensors))
    assert "lacking: no txt_in.individual_token_refiner.blocks.0.norm1.weight" in caught.value.why


@pytest.mark.parametrize("name", ["double_blocks.1.txt_attn.qkv.bias", "single_blocks.1.norm.key_norm.scale"])
def test_a_file_that_lacks_a_tensor_inside_says_which(name):
    tensors = tiny_flux().state_dict()
    del tensors[name]
    model = model_of(header(tensors), memory())
    with pytest.raises(BadInput, match=f"lacks 1 of .* tensors: {name}"), model.loaded():
        pass


def test_a_truncated_file_in_the_layout_of_diffusers_says_which_part_is_missing():
    tensors = in_diffusers_names(tiny_flux().state_dict())
    del tensors["single_transformer_blocks.1.attn.to_k.weight"]
    with pytest.raises(BadInput, match=r"a part of single_blocks\.1\.linear1\.weight is missing"):
        detect(header(tensors))


@pytest.mark.parametrize(
    "said", [{"depth": 19}, {"in_channels": 96}, {"guidance_embed": False}, {"num_heads": 3}], ids=str
)
def test_a_config_that_contradicts_the_shapes_is_refused(said):
    with pytest.raises(BadInput, match=next(iter(said))):
        FluxConfig.from_state(header(tiny_flux().state_dict()).shapes(), said)


@pytest.mark.parametrize("said", [{"axes_dim": (8, 12, 14)}, {"axes_dim": (7, 13, 12)}], ids=str)
def test_axes_that_do_not_make_up_a_head_are_refused(said):
    with pytest.raises(BadInput, match="cannot be split into"):
        FluxConfig.from_state(header(tiny_flux().state_dict()).shapes(), {"num_heads": 2, **said})


# -- what the network is given ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7)])
def test_any_size_is_computed(size):
    found = output(tiny_flux(), inputs(*size))
    assert found.shape == (2, 16, *size)
    assert found.isfinite().all()


def test_a_vector_for_another_model_is_refused_and_none_is_zeros():
    network = tiny_flux()
    with pytest.raises(BadInput, match="4 wide, this Flux model takes 12"):
        output(network, {"y": torch.zeros(2, 4)})
    assert torch.equal(output(network, {"y": None}), output(network, {"y": torch.zeros(2, 12)}))


def test_guidance_changes_the_picture_and_schnell_takes_none():
    network, schnell = tiny_flux(), tiny_flux(guidance_embed=False)
    assert not torch.allclose(output(network), output(network, {"guidance": None}), atol=1e-3)
    assert torch.equal(output(schnell), output(schnell, {"guidance": None}))


@pytest.mark.parametrize(
    ("method", "places"),
    [
        ("index", [(1, 0, 0), (2, 0, 0)]),
        ("offset", [(1, 0, 0), (1, 0, 3)]),
        (None, [(1, 0, 0), (1, 0, 3)]),
        ("uxo", [(0, 3, 5), (0, 5, 8)]),
    ],
)
def test_pictures_to_go_by_lie_where_their_method_puts_them(method, places):
    network = tiny_flux()
    pictures = [torch.zeros(1, 16, 4, 6), torch.zeros(1, 16, 6, 2)]
    patches, ids = network.with_references(torch.zeros(1, 16, 6, 9), pictures, method, {})
    assert patches.shape[1] == ids.shape[1] == 15 + 6 + 3
    assert [tuple(int(one) for one in ids[0, first]) for first in (15, 21)] == places


def test_an_unknown_way_to_see_pictures_is_refused():
    with pytest.raises(BadInput, match="'inside'"):
        output(tiny_flux(), {"ref_latents": [torch.zeros(2, 16, 2, 2)], "ref_latents_method": "inside"})


def test_a_mask_over_text_and_patches_hides_what_it_forbids():
    given, network = inputs(), tiny_flux()
    other = given["context"].clone()
    other[:, 3:] = 7
    mask = torch.zeros(2, 20, 20)
    mask[:, :, 3:5] = -torch.inf
    plain, hidden = (output(network, {"attention_mask": mask, "context": text}) for text in (given["context"], other))
    assert torch.allclose(plain, hidden, atol=1e-6)
    assert not torch.allclose(output(network), output(network, {"context": other}), atol=1e-3)


def test_a_control_is_added_to_the_picture_alone():
    network = tiny_flux()
    pictures = {"ref_latents": [torch.randn(2, 16, 4, 4)]}
    zeros = [torch.zeros(2, 15, 64), None]
    none = {"control": {"input": zeros, "output": zeros}}
    assert torch.equal(output(network, pictures | none), output(network, pictures))
    for kind in ("input", "output"):
        given = {"control": {kind: [None, torch.randn(2, 15, 64)]}}
        assert not torch.allclose(output(network, pictures | given), output(network, pictures), atol=1e-3)


def test_conditions_are_the_networks_arguments():
    model = model_of(header(tiny_flux().state_dict()), memory())
    noise, text = torch.randn(1, 16, 4, 4), torch.zeros(1, 3, 20)
    plain = model.extra_conds(cross_attn=text, noise=noise, pooled_output=torch.ones(1, 12))
    assert plain["guidance"].tolist() == [3.5]
    assert plain["y"].tolist() == [[1.0] * 12]
    found = model.extra_conds(
        cross_attn=text, noise=noise, guidance=2.0, reference_latents=[noise], reference_latents_method="uxo"
    )
    assert found["guidance"].tolist() == [2.0]
    assert torch.equal(found["ref_latents"].cond[0], flux.FLUX.latent.process_in(noise))
    assert found["ref_latents_method"] == "uxo"
    assert "guidance" not in model.extra_conds(cross_attn=text, noise=noise, guidance=None)


def test_a_prompt_encoded_for_another_family_is_refused():
    model = model_of(header(tiny_flux().state_dict()), memory())
    with pytest.raises(BadInput, match="is 768 wide, Flux takes 20") as caught:
        model.extra_conds(cross_attn=torch.zeros(1, 77, 768), noise=torch.zeros(1, 16, 4, 4))
    assert "type flux" in caught.value.do


def test_gradients_reach_every_weight_that_shapes_the_output():
    network = tiny_flux()
    found = network(**inputs())
    assert torch.allclose(found, output(network), atol=1e-5)
    found.square().mean().backward()
    without = {name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()}
    assert without == set()


# -- packs: blocks taken over -----------------------------------------------------------------------------------------

BLOCKS = [("double_block", 1), ("single_block", 1)]


@pytest.mark.parametrize("place", BLOCKS, ids=str)
def test_a_replaced_block_sees_its_inputs_and_keeps_them(place):
    network, seen = tiny_flux(), []

    def replace(args, extra):
        before = {name: args[name].clone() for name in ("img", "txt") if name in args}
        found = extra["original_block"](args)
        seen.append(all(torch.equal(args[name], value) for name, value in before.items()))
        seen.append(set(found) == set(before) and not torch.equal(found["img"], args["img"]))
        assert args["vec"].shape == (2, 64)
        assert args["pe"].shape == (1, 1, 20, 16, 2, 2)
        return found

    found = output(network, patches_replace={"dit": {place: replace}})
    assert torch.equal(found, output(network))
    assert seen == [True, True]


@pytest.mark.parametrize("place", BLOCKS, ids=str)
def test_a_block_that_is_skipped_changes_nothing_of_its_streams(place):
    network = tiny_flux()
    skipped = output(network, patches_replace={"dit": {place: lambda args, _: args}})
    assert not torch.allclose(skipped, output(network), atol=1e-3)
    del (network.double_blocks if place[0] == "double_block" else network.single_blocks)[1]
    assert torch.equal(skipped, output(network))


@pytest.mark.parametrize("place", BLOCKS, ids=str)
def test_what_goes_into_a_block_may_be_changed(place):
    network = tiny_flux()

    def half(args, extra):
        return extra["original_block"]({**args, "vec": args["vec"] / 2})

    assert not torch.allclose(output(network, patches_replace={"dit": {place: half}}), output(network), atol=1e-3)


def test_patches_after_blocks_see_every_block_and_change_its_streams():
    network, seen = tiny_flux(), []

    def look(args):
        seen.append((args["block_index"], args["img"], args["img"].clone(), args["x"].shape))
        return args

    assert torch.equal(output(network, patches={"double_block": [look]}), output(network))
    assert [index for index, *_ in seen] == [0, 1, 2]
    assert all(torch.equal(kept, then) for _, kept, then, _ in seen)

    def silence(args):
        return {**args, "img": args["img"] * 0}

    for point in ("double_block", "single_block"):
        assert not torch.allclose(output(network, patches={point: [silence]}), output(network), atol=1e-3)


def test_a_patch_of_the_input_may_put_tokens_of_another_picture_behind():
    """As USO does with style tokens: they are text of their own, at the place 0."""
    network = tiny_flux()

    def more(args):
        text, places = args["txt"], args["txt_ids"]
        style = torch.randn(len(text), 4, 64, generator=torch.Generator().manual_seed(3))
        return {
            **args, "txt": torch.cat((style, text), dim=1), "txt_ids": torch.cat((places[:, :1].expand(-1, 4, -1), places), dim=1)
        }  # fmt: skip

    def behind(args):
        image, places = args["img"], args["img_ids"]
        return {**args, "img": torch.cat((image, image[:, :3]), dim=1), "img_ids": torch.cat((places, places[:, :3] + 1), dim=1)}  # fmt: skip

    for patch in (more, behind):
        found = output(network, patches={"post_input": [patch]})
        assert found.shape == inputs()["x"].shape
        assert not torch.allclose(found, output(network), atol=1e-3)
    assert torch.equal(output(network, patches={"post_input": [lambda args: args]}), output(network))


def test_a_wrapper_goes_around_the_network():
    network, seen = tiny_flux(), []

    def wrapper(executor, x, timesteps, context, *args, **kwargs):
        seen.append(type(executor.class_obj).__name__)
        return 2 * executor(x, timesteps, context, *args, **kwargs)

    wrappers = {WrappersMP.DIFFUSION_MODEL: {None: [wrapper]}}
    assert torch.equal(output(network, wrappers=wrappers), 2 * output(network))
    assert seen == ["Flux"]


def test_attention_is_what_a_pack_puts_in_its_place():
    network, seen = tiny_flux(), []

    def override(func, q, k, v, heads, *args, **kwargs):
        options = kwargs["transformer_options"]
        seen.append((options["block_index"], q.shape[1], heads))
        return func(q, k, v, heads, *args, **kwargs)

    assert torch.equal(output(network, optimized_attention_override=override), output(network))
    assert seen == [(0, 20, 2), (1, 20, 2), (2, 20, 2), (0, 20, 2), (1, 20, 2)]


# -- packs: places ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rope", [{}, {"scale_x": 1.0, "scale_y": 1.0, "shift_x": 0, "shift_y": 0, "shift_t": 0.0}])
def test_places_that_are_neither_scaled_nor_moved_are_as_before(rope):
    network = tiny_flux()
    _, ids = network.process_img(torch.zeros(1, 16, 6, 9), transformer_options={"rope_options": rope})
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    assert torch.equal(ids[0], torch.stack((rows * 0, rows, columns), dim=-1).flatten(0, 1))
    assert torch.equal(output(network, rope_options=rope), output(network))


@pytest.mark.parametrize("index", [0, 1])
def test_places_are_scaled_and_moved_in_the_closed_form(index):
    """From shift on, as many as there were, to (length - 1) · scale + shift; the picture's index is moved as well."""
    rope = {"scale_x": 2.0, "scale_y": 0.5, "shift_x": 3.0, "shift_y": -1.0, "shift_t": 7.0}
    _, ids = tiny_flux().process_img(torch.zeros(1, 16, 6, 9), index, 4, 8, {"rope_options": rope})
    expected = [[index + 7, row, column] for row in (3, 3.5, 4) for column in (11, 13, 15, 17, 19)]
    assert ids[0].tolist() == expected


def test_a_models_rope_options_reach_the_network():
    model = model_of(header(tiny_flux().state_dict()), memory())
    scaled = model.clone()
    scaled.set_model_rope_options(2.0, 0.0, 1.0, 0.5, 1.0, 0.0)
    given = {name: value for name, value in inputs().items() if name not in ("x", "timesteps", "context")}
    found = [
        one.apply_model(inputs()["x"], inputs()["timesteps"], c_crossattn=inputs()["context"],
                        transformer_options=one.model_options["transformer_options"], **given)
        for one in (model, scaled)
    ]  # fmt: skip
    rope = {"scale_x": 2.0, "shift_y": 0.5}
    plain, changed = (output(tiny_flux(), rope_options=options) for options in ({}, rope))
    sigma = inputs()["timesteps"][:, None, None, None]
    assert torch.allclose(found[0], inputs()["x"] - sigma * plain, atol=1e-5)
    assert torch.allclose(found[1], inputs()["x"] - sigma * changed, atol=1e-5)


# -- packs: blocks by themselves --------------------------------------------------------------------------------------


def streams():
    """Patches, text, the vector and the rotations of both."""
    torch.manual_seed(2)
    ids = torch.cat((torch.zeros(1, 5, 3), grid_ids(3, 4, {})), dim=1)
    return torch.randn(1, 12, 64), torch.randn(1, 5, 64), torch.randn(1, 64), rotation(ids, (8, 12, 12))


def seeded(block):
    torch.manual_seed(0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return block.eval()


@torch.inference_mode()
def test_blocks_that_are_called_by_themselves_do_not_write_over_their_inputs():
    img, txt, vec, pe = streams()
    before = img.clone(), txt.clone(), vec.clone(), pe.clone()
    double, single = seeded(DoubleStreamBlock(64, 2, 4.0, qkv_bias=True)), seeded(SingleStreamBlock(64, 2))
    for _ in range(2):
        image, text = double(img=img, txt=txt, vec=vec, pe=pe)
        both = single(torch.cat((txt, img), dim=1), vec=vec, pe=pe)
    assert all(torch.equal(one, other) for one, other in zip((img, txt, vec, pe), before, strict=True))
    assert image.shape == img.shape
    assert text.shape == txt.shape
    assert both.shape == (1, 17, 64)


@torch.inference_mode()
def test_blocks_without_modulation_have_none_and_take_it_as_it_is():
    img, txt, vec, pe = streams()
    own, given = (seeded(DoubleStreamBlock(64, 2, 4.0, True, modulation=modulation)) for modulation in (True, False))
    assert not any("_mod" in name for name in given.state_dict())
    given.load_state_dict({name: value for name, value in own.state_dict().items() if "_mod" not in name})
    expected = own(img, txt, vec, pe)
    found = given(img, txt, (own.img_mod(vec), own.txt_mod(vec)), pe)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

    own, given = (seeded(SingleStreamBlock(64, 2, modulation=modulation)) for modulation in (True, False))
    assert not any("modulation" in name for name in given.state_dict())
    given.load_state_dict({name: value for name, value in own.state_dict().items() if "modulation" not in name})
    both = torch.cat((txt, img), dim=1)
    assert torch.equal(given(both, own.modulation(vec)[0], pe), own(both, vec, pe))


@torch.inference_mode()
def test_stretches_of_tokens_may_have_modulations_of_their_own():
    img, txt, vec, pe = streams()
    block = seeded(SingleStreamBlock(64, 2))
    both, two = torch.cat((txt, img), dim=1), torch.stack((vec, -vec), dim=1)
    same = block(both, torch.stack((vec, vec), dim=1), pe, modulation_dims=[(0, 5, 0), (5, None, 1)])
    assert torch.allclose(same, block(both, vec, pe), atol=1e-5)
    apart = block(both, two, pe, modulation_dims=[(0, 5, 0), (5, None, 1)])
    assert not torch.allclose(apart, same, atol=1e-2)


@torch.inference_mode()
def test_text_may_lie_behind_the_patches():
    img, txt, vec, _ = streams()
    ids = torch.cat((torch.zeros(1, 5, 3), grid_ids(3, 4, {})), dim=1)
    block = seeded(DoubleStreamBlock(64, 2, 4.0, qkv_bias=True))
    flipped = seeded(DoubleStreamBlock(64, 2, 4.0, qkv_bias=True, flipped_img_txt=True))
    expected = block(img, txt, vec, rotation(ids, (8, 12, 12)))
    found = flipped(img, txt, vec, rotation(ids.roll(-5, 1), (8, 12, 12)))
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))


class Counting(torch.nn.Module):
    """A linear layer as packs wrap it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x)


@pytest.mark.parametrize(
    "place", ["double_blocks.1.img_attn.qkv", "double_blocks.1.txt_mlp.0", "single_blocks.0.linear1", "single_blocks.0.linear2"]
)  # fmt: skip
def test_a_layer_that_a_pack_has_replaced_is_called(place):
    network = tiny_flux()
    plain = output(network)
    owner, _, leaf = place.rpartition(".")
    wrapped = Counting(network.get_submodule(place))
    setattr(network.get_submodule(owner), leaf, wrapped)
    assert torch.allclose(output(network), plain, atol=1e-5)
    assert wrapped.calls == 1


@pytest.mark.parametrize("kind", ["double_blocks", "single_blocks"])
def test_a_block_whose_forward_a_pack_has_wrapped_leaves_its_inputs_alone(kind):
    network, changes = tiny_flux(), []
    block = getattr(network, kind)[1]
    original = block.forward

    def wrapped(*args, **kwargs):
        image = kwargs.get("img", args[0] if args else None)
        before = image.clone()
        found = original(*args, **kwargs)
        changes.append((image - before).abs().max())
        return found

    plain = output(network)
    block.forward = wrapped
    assert torch.allclose(output(network), plain, atol=1e-6)
    assert changes == [0]
