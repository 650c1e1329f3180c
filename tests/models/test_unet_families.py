"""Stable Diffusion 2, XL, its refiner and the x4 upscaler: recognised, told what they need, sampled, saved."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from limner.errors import BadInput
from limner.models import sd2, sdxl
from limner.models.adm import refiner_vector, sdxl_vector, signal_of_betas, signal_of_cosine, unclip_vector
from limner.models.base import ModelType
from limner.models.detect import detect, families
from limner.models.inspect import describe
from limner.models.load import load_checkpoint, load_diffusion_model, model_of
from limner.models.saving import save_checkpoint
from limner.models.sd_x4 import BETAS
from limner.models.unet import UNet
from limner.nodes.family_conditioning import upscale_4x
from limner.sampling.latent_formats import FORMATS
from limner.sampling.run import sample, steps_sigmas
from limner.sampling.samplers import get_sampler
from limner.weights import CheckpointHeader
from limner.weights.lazy import LazyTensor
from tests.models.checkpoints import HEADERS, memory, real_header
from tests.models.make import tiny_unet

POOLED = 16
LINEAR = {"use_linear_in_transformer": True, "num_heads": 2}
TINY = {
    "sd2": LINEAR,
    "sd2_unclip": {**LINEAR, "adm_in_channels": 2 * POOLED},
    "sdxl": {
        **LINEAR, "transformer_depth": (0, 2), "transformer_depth_output": (0, 0, 2, 2),
        "adm_in_channels": POOLED + 6 * 256,
    },
    "sdxl_refiner": {
        **LINEAR, "channel_mult": (1, 2, 2), "num_res_blocks": (1, 1, 1), "transformer_depth": (0, 1, 0),
        "transformer_depth_output": (0, 0, 1, 1, 0, 0), "adm_in_channels": POOLED + 5 * 256,
    },
    "sd_x4": {
        **LINEAR, "in_channels": 7, "transformer_depth": (0, 1), "transformer_depth_output": (0, 0, 1, 1),
        "num_classes": 351, "disable_self_attentions": (False, True),
    },
}  # fmt: skip


def header(kind: str, marks: dict[str, torch.Tensor] | None = None, **changes) -> CheckpointHeader:
    """A small network as a file. marks: tensors beside it."""
    unet = tiny_unet(**{**TINY[kind], **changes})
    tensors = {f"model.diffusion_model.{name}": value for name, value in unet.state_dict().items()}
    return CheckpointHeader.of({**tensors, **(marks or {})}, {"config": '{"num_heads": 2, "norm_groups": 4}'})


def model(kind: str, marks: dict[str, torch.Tensor] | None = None, **changes):
    return model_of(header(kind, marks, **changes), memory())


def told(made, **entries):
    """What the network is given beside the latent."""
    noise = torch.zeros(1, 4, 8, 12)
    sizes = {"width": 96, "height": 64, "seed": 5, "prompt_type": "positive"}
    return made.extra_conds(**{"cross_attn": torch.ones(1, 5, 6), "noise": noise, **sizes, **entries})


def picture(*vectors: torch.Tensor, strength: float = 1.0, noise: float = 0.0) -> dict:
    """One entry of `unclip_conditioning`."""
    output = SimpleNamespace(image_embeds=torch.stack(vectors))
    return {"clip_vision_output": output, "strength": strength, "noise_augmentation": noise}


# -- what a file is ---------------------------------------------------------------------------------------------------

PUBLISHED = {
    "sd21-v": ("sd2", None, ()),
    "sd21-v-unet": ("sd2", None, ()),
    "sd21-unclip-h-unet": ("sd2", "sd2_unclip", ()),
    "sd21-unclip-l-unet": ("sd2", "sd2_unclip", ()),
    "sd-x4-upscaler-unet": ("sd_x4", None, ()),
    "sdxl-base": ("sdxl", None, ()),
    "sdxl-base-unet": ("sdxl", None, ()),
    "sdxl-inpaint-unet": ("sdxl", None, ("mask", "masked_image")),
    "sdxl-refiner": ("sdxl_refiner", None, ()),
    "ssd-1b-unet": ("sdxl", "ssd1b", ()),
    "segmind-vega-unet": ("sdxl", "vega", ()),
    "koala-700m-unet": ("sdxl", "koala_700m", ()),
    "koala-1b-unet": ("sdxl", "koala_1b", ()),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "", "net."])
def test_published_files_are_recognised_under_any_prefix(name, prefix):
    family, variant, concat = PUBLISHED[name]
    whole = real_header(name)
    diffusion = whole.select("model.diffusion_model.").rename(lambda key: prefix + key)
    for file in (whole, diffusion):
        match = detect(file)
        config = match.family.infer_config(match.diffusion, {})
        found = match.family.variant(config)
        assert (match.family.name, found.name if found else None) == (family, variant)
        assert match.family.concat(config) == concat


def test_full_size_dimensions_are_read_off_the_shapes():
    match = detect(real_header("sdxl-base"))
    config = match.family.infer_config(match.diffusion, {})
    assert (config.model_channels, config.context_dim, config.adm_in_channels) == (320, 2048, 2816)
    assert (config.transformer_depth, config.transformer_depth_middle) == ((0, 0, 2, 2, 10, 10), 10)
    assert config.heads(1280) == 20
    upscaler = detect(real_header("sd-x4-upscaler-unet"))
    config = upscaler.family.infer_config(upscaler.diffusion, {})
    assert (config.num_classes, config.heads(512), config.in_channels) == (1000, 8, 7)
    assert config.disable_self_attentions == (False, True, True, False)


def test_every_published_file_is_claimed_by_one_family_more_than_by_any_other():
    for path in HEADERS.glob("sd*.json.gz"):
        diffusion = detect(real_header(path.name.removesuffix(".json.gz"))).diffusion
        matching = [one for one in families().values() if all(mark.test(diffusion) for mark in one.marks)]
        assert len({len(family.marks) for family in matching}) == len(matching), path.name


@pytest.mark.parametrize("kind", TINY)
def test_a_narrow_network_is_of_the_family_of_its_build(kind):
    match = detect(header(kind))
    config = match.family.infer_config(match.diffusion, {"num_heads": 2, "norm_groups": 4})
    variant = match.family.variant(config)
    assert kind == (variant.name if variant else match.family.name)
    assert isinstance(match.family.network(config), UNet)


def test_a_file_with_tensors_missing_says_which_family_it_nearly_is():
    cut = header("sdxl").rename(lambda name: None if ".time_embed.0." in name else name)
    with pytest.raises(BadInput) as caught:
        detect(cut)
    assert "Stable Diffusion XL" in caught.value.why
    assert "time_embed.0.weight" in caught.value.why


def test_a_file_that_ends_before_the_last_block_is_refused_with_what_is_missing():
    cut = header("sdxl").rename(lambda name: None if ".output_blocks.3." in name else name)
    with pytest.raises(BadInput, match=r"output_blocks\.3\.0\.in_layers\.2\.weight is missing"):
        model_of(cut, memory())


def test_a_depth_model_is_refused_with_what_it_lacks():
    with pytest.raises(BadInput, match="takes 5 channels and predicts 4"):
        model("sd2", in_channels=5)


def test_inspect_names_variants_and_finds_each_part_once():
    lines = describe(real_header("ssd-1b-unet"))
    assert "kind:       Stable Diffusion XL (SSD-1B), reference layout" in lines
    parts = [line for line in describe(real_header("sdxl-base")) if line.startswith("part:")]
    assert [part.split(" under ")[0].removeprefix("part:").strip() for part in parts] == [
        "diffusion model", "text encoder clip_l", "text encoder clip_g", "VAE"
    ]  # fmt: skip


# -- what it predicts -------------------------------------------------------------------------------------------------


def spread_of(width: float, channels: int = 4) -> CheckpointHeader:
    """A network whose telling tensor is as wide as this."""
    values = torch.linspace(-1, 1, 64)
    return CheckpointHeader.of(
        {
            sd2.TELLING: values / values.std() * width,
            "input_blocks.0.0.weight": torch.zeros(8, channels, 3, 3),
            "out.2.weight": torch.zeros(4, 8, 3, 3),
        }
    )


def test_stable_diffusion_2_predicts_velocity_where_one_tensor_is_spread_widely():
    assert sd2.prediction(spread_of(0.2), spread_of(0.2)).kind == "v"
    assert sd2.prediction(spread_of(0.05), spread_of(0.05)).kind == "eps"
    assert sd2.prediction(spread_of(0.2, channels=9), spread_of(0.2)).kind == "eps"


def test_shapes_alone_do_not_tell_velocity_but_a_tensor_of_that_name_does():
    found = real_header("sd21-v")
    diffusion = found.select("model.diffusion_model.")
    assert sd2.prediction(diffusion, found).kind == "eps"
    marked = replace(found, tensors={**found.tensors, "v_pred": LazyTensor.of(torch.zeros(0))})
    assert sd2.prediction(diffusion, marked).kind == "v"


def test_playground_says_its_latent_space_and_its_levels():
    playground = model("sdxl", {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)})
    assert playground.latent_format == FORMATS["SDXL_Playground_2_5"]
    assert playground.model.model_type is ModelType.EDM
    assert (playground.sampling.sigma_min, playground.sampling.sigma_max) == pytest.approx((0.002, 80.0))


def test_velocity_over_continuous_levels_ends_where_the_file_says():
    marks = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.01)}
    cosxl = model("sdxl", marks)
    assert cosxl.model.model_type is ModelType.V_PREDICTION_EDM
    assert (cosxl.sampling.sigma_min, cosxl.sampling.sigma_max) == pytest.approx((0.01, 120.0))
    assert cosxl.latent_format == FORMATS["SDXL"]


def test_an_xl_model_of_velocity_may_reach_down_to_pure_noise():
    empty = torch.zeros(0)
    assert model("sdxl", {"v_pred": empty}).sampling.sigma_max < 15
    zero = model("sdxl", {"v_pred": empty, "ztsnr": empty})
    assert zero.model.model_type is ModelType.V_PREDICTION
    assert zero.sampling.sigma_max > 4000


# -- what it is told --------------------------------------------------------------------------------------------------


def test_xl_is_told_the_pooled_text_and_sizes_which_are_the_latents_where_nobody_says_them():
    pooled = torch.randn(1, POOLED)
    found = told(model("sdxl"), pooled_output=pooled, crop_w=3, target_height=80)["y"]
    expected = sdxl_vector(pooled, width=96, height=64, crop_w=3, target_height=80, target_width=96)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("entries", "score"), [
    ({}, 6.0), ({"prompt_type": "negative"}, 2.5), ({"aesthetic_score": 4.0, "prompt_type": "negative"}, 4.0),
])  # fmt: skip
def test_the_refiner_is_told_a_score_by_the_branch_unless_one_is_said(entries, score):
    pooled = torch.randn(1, POOLED)
    found = told(model("sdxl_refiner"), pooled_output=pooled, **entries)["y"]
    assert torch.equal(found, refiner_vector(pooled, width=96, height=64, aesthetic_score=score))


@pytest.mark.parametrize("kind", ["sdxl", "sdxl_refiner"])
def test_a_conditioning_without_pooled_text_is_refused(kind):
    with pytest.raises(BadInput, match="needs the pooled text"):
        told(model(kind))


def test_a_text_of_another_width_is_refused_with_both():
    with pytest.raises(BadInput, match="is 7 wide, Stable Diffusion 2 takes 6"):
        told(model("sd2"), cross_attn=torch.ones(1, 5, 7))


def test_unclip_without_pictures_is_told_zeros():
    assert torch.equal(told(model("sd2_unclip"))["y"], torch.zeros(1, 2 * POOLED))
    assert "y" not in told(model("sd2"))


def test_a_picture_is_told_all_but_clean_with_the_level_of_its_noise():
    vector = torch.randn(POOLED)
    found = told(model("sd2_unclip"), unclip_conditioning=[picture(vector)])["y"]
    assert found.shape == (1, 2 * POOLED)
    assert (found[0, :POOLED] - vector).abs().max() < 0.05
    level = torch.cat((torch.ones(POOLED // 2), torch.zeros(POOLED // 2)))  # cosines, then sines, of 0
    assert torch.equal(found[0, POOLED:], level)


def test_noise_on_a_picture_hides_it_is_drawn_from_the_seed_and_is_weighted_with_it():
    vector = torch.ones(POOLED)

    def of(seed=5, **settings):
        return unclip_vector({"unclip_conditioning": [picture(vector, **settings)], "seed": seed}, 2 * POOLED)

    assert (of(noise=1.0)[0, :POOLED] - vector).abs().mean() > 0.5
    assert torch.equal(of(noise=0.3), of(noise=0.3))
    assert not torch.allclose(of(noise=0.3), of(seed=6, noise=0.3))
    assert torch.allclose(of(noise=0.3, strength=0.5), of(noise=0.3) * 0.5)


def test_several_pictures_are_added_and_noised_again():
    one, two = torch.ones(POOLED), torch.full((POOLED,), -3.0)
    pictures = [picture(one), picture(two, strength=0.5)]
    found = unclip_vector({"unclip_conditioning": pictures, "seed": 5}, 2 * POOLED)
    both = unclip_vector({"unclip_conditioning": [picture(one), picture(two)], "seed": 5}, 2 * POOLED)
    together = unclip_vector({"unclip_conditioning": [picture(one, two)], "seed": 5}, 2 * POOLED)
    assert torch.allclose(both, together)
    assert (found[0, :POOLED] - (one + 0.5 * two)).abs().max() < 0.5
    assert found[0, POOLED:].std() > 0
    assert not torch.allclose(found[0, POOLED:], both.new_zeros(POOLED))


def test_a_picture_of_another_encoder_is_refused():
    with pytest.raises(BadInput, match="vector is 3 wide, the model takes 16"):
        told(model("sd2_unclip"), unclip_conditioning=[picture(torch.ones(3))])


def test_pictures_stand_in_the_place_of_xls_pooled_text(monkeypatch):
    monkeypatch.setattr(sdxl, "PICTURES", 2 * POOLED)
    vector = torch.randn(POOLED)
    found = told(model("sdxl"), unclip_conditioning=[picture(vector)])["y"]
    assert (found[0, :POOLED] - vector).abs().max() < 0.05
    assert found.shape == (1, POOLED + 6 * 256)


def test_the_schedules_of_what_is_told_fall_from_all_signal_to_none():
    for signal in (signal_of_cosine(), signal_of_betas(BETAS)):
        assert len(signal) == 1000
        assert signal[0] > 0.999
        assert signal[-1] < 1e-3
        assert (signal.diff() < 0).all()
    assert float(signal_of_betas(BETAS)[500]) == pytest.approx(
        float((1 - torch.linspace(1e-2, 0.02**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)[500]), rel=1e-5
    )


@pytest.mark.parametrize(("marks", "scaled"), [
    ({}, False), ({"edm_vpred.sigma_max": torch.tensor(120.0)}, True),
])  # fmt: skip
def test_editing_models_see_the_picture_as_the_autoencoder_has_it_but_for_cosxl(marks, scaled):
    editing = model("sdxl", marks, in_channels=8)
    shown = torch.randn(1, 4, 8, 12)
    found = told(editing, pooled_output=torch.zeros(1, POOLED), concat_latent_image=shown)["c_concat"]
    assert torch.allclose(found, editing.latent_format.process_in(shown) if scaled else shown)


def test_the_upscaler_is_shown_the_small_picture_and_told_how_much_noise_is_on_it():
    small = torch.rand(1, 3, 8, 12) * 2 - 1
    upscaler = model("sd_x4")
    clean = told(upscaler, concat_image=small)
    assert torch.equal(clean["c_concat"], small)
    assert clean["y"].tolist() == [0]
    noisy = told(upscaler, concat_image=small, noise_augmentation=0.5)
    assert noisy["y"].tolist() == [175]
    assert torch.equal(noisy["c_concat"], told(upscaler, concat_image=small, noise_augmentation=0.5)["c_concat"])
    signal = float(signal_of_betas(BETAS)[175])
    noise = (noisy["c_concat"] - signal**0.5 * small) / (1 - signal) ** 0.5
    assert noise.std() == pytest.approx(1.0, abs=0.15)
    assert not torch.allclose(
        noisy["c_concat"], told(upscaler, concat_image=small, noise_augmentation=0.5, seed=6)["c_concat"]
    )


def test_the_upscaler_works_without_a_picture_and_refuses_one_of_other_colours():
    assert told(model("sd_x4"))["c_concat"].abs().max() == 0
    with pytest.raises(BadInput, match="has 4 channels, the model takes 3"):
        told(model("sd_x4"), concat_image=torch.zeros(1, 4, 8, 12))


# -- sampled and saved ------------------------------------------------------------------------------------------------


def sampled(made, entries=None, seed=3):
    entries = {"pooled_output": torch.zeros(1, POOLED), **(entries or {})}
    sampler = get_sampler("euler")
    conditioning = [[torch.ones(1, 5, 6), entries]]
    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(seed))
    sigmas = steps_sigmas(made.sampling, sampler, "normal", 2, 1.0)
    return sample(made, noise, conditioning, conditioning, 2.0, sampler, sigmas, torch.zeros_like(noise), seed=seed)


@pytest.mark.parametrize("kind", TINY)
def test_every_family_is_sampled(kind):
    assert sampled(model(kind)).isfinite().all()


def test_the_nodes_conditioning_of_the_upscaler_is_sampled():
    prepared = upscale_4x(torch.rand(1, 8, 12, 3), [[torch.ones(1, 5, 6), {}]], [[torch.ones(1, 5, 6), {}]], 4.0, 0.2)
    assert prepared.latent["samples"].shape == (1, 4, 8, 12)
    upscaler = model("sd_x4")
    with_picture = sampled(upscaler, prepared.positive[0][1])
    assert not torch.allclose(with_picture, sampled(upscaler))


def test_the_score_of_the_refiner_changes_the_picture():
    refiner = model("sdxl_refiner")
    assert not torch.allclose(sampled(refiner, {"aesthetic_score": 9.0}), sampled(refiner, {"aesthetic_score": 1.0}))


MARKS = {
    "noise": {},
    "velocity": {"v_pred": torch.zeros(0)},
    "velocity to pure noise": {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)},
    "continuous velocity": {"edm_vpred.sigma_max": torch.tensor(90.0), "edm_vpred.sigma_min": torch.tensor(0.01)},
    "Playground": {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)},
}


@pytest.mark.parametrize("kind", MARKS)
def test_a_saved_model_is_read_again_as_what_it_was(tmp_path, kind):
    made = model("sdxl", MARKS[kind])
    save_checkpoint(tmp_path / "saved.safetensors", made, None, None, {}, "saved")
    again = load_diffusion_model(tmp_path / "saved.safetensors", memory())
    assert again.model.model_type is made.model.model_type
    assert again.latent_format == made.latent_format
    assert again.sampling.sigma_max == pytest.approx(made.sampling.sigma_max, rel=1e-6)
    assert torch.equal(sampled(again), sampled(made))
    assert load_checkpoint(tmp_path / "saved.safetensors", memory()).clip is None


def test_the_metadata_of_a_saved_model_says_its_architecture(tmp_path):
    for kind, architecture in (
        ("sdxl", "stable-diffusion-xl-v1-base"),
        ("sdxl_refiner", "stable-diffusion-xl-v1-refiner"),
    ):
        save_checkpoint(tmp_path / f"{kind}.safetensors", model(kind), None, None, {}, kind)
        metadata = CheckpointHeader.read(tmp_path / f"{kind}.safetensors").metadata
        assert metadata["modelspec.architecture"] == architecture
