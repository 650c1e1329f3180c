"""ControlNets of transformers: what they are shown, and that what they say fits the model."""

from dataclasses import replace

import pytest
import torch

from limner.errors import BadInput
from limner.models.control.flux import ControlFlux, ControlFluxConfig
from limner.models.control.kind import ControlFile
from limner.models.control.load import control_of, detect
from limner.models.control.qwen_image import ControlQwenImage, ControlQwenImageConfig
from limner.models.control.sd3 import ControlMMDiT, ControlMMDiTConfig
from limner.models.control.sd35 import ControlSD35, ControlSD35Config
from limner.models.flux import Flux, FluxConfig
from limner.models.load import model_of
from limner.models.qwen_image import QwenImageConfig, QwenImageTransformer2DModel
from limner.models.sd3 import MMDiT, MMDiTConfig
from limner.weights import CheckpointHeader
from tests.models.checkpoints import memory
from tests.models.control.make import seeded

TINY_MMDIT = MMDiTConfig(hidden_size=128, depth=2, num_heads=2, mlp_width=256, adm_in_channels=12, context_dim=20,
                         pos_embed_max_size=8)  # fmt: skip
TINY_QWEN = QwenImageConfig(num_layers=2, num_attention_heads=2, attention_head_dim=32, joint_attention_dim=20,
                            mlp_width=128, axes_dims_rope=(4, 14, 14))  # fmt: skip
TINY_FLUX = FluxConfig(vec_in_dim=12, context_in_dim=20, hidden_size=128, num_heads=1, depth=2, depth_single_blocks=2)
HINT = (3, 4, 4, 4, 4, 4, 4, 4, 16)
PICTURE = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(2))


class Coder:
    """An autoencoder of eight pixels a cell whose latents are the mean colours, 16 channels of them."""

    latent_dim = 2

    def __init__(self, frames=False):
        self.frames = frames
        self.latent_dim = 3 if frames else 2
        self.seen = []

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        self.seen.append(pixels)
        latent = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8).repeat(1, 6, 1, 1)[:, :16]
        return latent.unsqueeze(2) if self.frames else latent


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def diffusers_names(state):
    """A tiny MMDiT control's tensors as InstantX publishes them."""
    from limner.models.sd3 import diffusers_names as names
    from limner.weights.targets import Part

    found = {}
    for theirs, target in names(128, 3).items():
        name, part = (target.name, target) if isinstance(target, Part) else (target, None)
        if name in state and not name.startswith("joint_blocks.2."):
            value = state[name]
            if part is not None and part.length is not None:
                value = value.narrow(0, part.start, part.length)
            found[theirs] = value.clone()
    return {**found, **{name: value for name, value in state.items() if name.startswith(("controlnet", "pos_embed_i"))}}


def answered(control, model, x, coder, sigma=0.7, mask=None, **cond):
    """What a control says of x, told that a run has begun; `mask` for those that take one."""
    control.set_cond_hint(PICTURE, 1.0, vae=coder, extra_concat=[] if mask is None else [mask])
    control.pre_run(model.model, model.sampling.percent_to_sigma)
    with torch.inference_mode():
        return control.get_control(x, torch.full((len(x),), sigma), cond, 1, {})


@pytest.fixture(scope="module")
def mmdit():
    return model_of(CheckpointHeader.of(seeded(MMDiT(TINY_MMDIT)).state_dict()), memory())


@pytest.fixture(scope="module")
def qwen():
    network = seeded(QwenImageTransformer2DModel(TINY_QWEN))
    return model_of(CheckpointHeader.of(network.state_dict()), memory())


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_residuals_of_an_mmdit_fit_its_patches(mmdit, size):
    control = control_of(CheckpointHeader.of(diffusers_names(
        seeded(ControlMMDiT(ControlMMDiTConfig(TINY_MMDIT))).state_dict()
    )), memory())  # fmt: skip
    assert (control.compression_ratio, control.latent_format.channels, control.concat_mask) == (1, 16, False)
    x, text, vector = noise(2, 16, *size), noise(2, 5, 20), noise(2, 12)
    coder = Coder()
    found = answered(control, mmdit, x, coder, c_crossattn=text, y=vector)
    assert coder.seen[0].shape == (1, size[0] * 8, size[1] * 8, 3)
    assert [tuple(one.shape) for one in found["output"]] == [(2, -(-size[0] // 2) * -(-size[1] // 2), 128)] * 2
    with mmdit.loaded() as network, torch.inference_mode():
        plain = network(x, torch.tensor([700.0, 700]), text, vector)
        assert not torch.allclose(network(x, torch.tensor([700.0, 700]), text, vector, control=found), plain)


def test_a_seventeenth_channel_is_a_mask(mmdit):
    config = ControlMMDiTConfig(TINY_MMDIT, 17)
    control = control_of(CheckpointHeader.of(diffusers_names(seeded(ControlMMDiT(config)).state_dict())), memory())
    assert control.concat_mask
    with pytest.raises(BadInput, match="needs a mask"):
        control.set_cond_hint(PICTURE, 1.0, vae=Coder())
    with pytest.raises(BadInput, match="needs a VAE"):
        control.set_cond_hint(PICTURE, 1.0)
    cond = {"c_crossattn": noise(1, 5, 20), "y": noise(1, 12)}
    x, mask = noise(1, 16, 4, 6), torch.zeros(1, 1, 40, 56)
    filled = answered(control, mmdit, x, Coder(), mask=mask, **cond)
    kept = answered(control, mmdit, x, Coder(), mask=1 - mask, **cond)
    assert not torch.allclose(filled["output"][0], kept["output"][0])


@pytest.mark.parametrize("kind", [None, 0, 1])
def test_a_control_of_35_large_takes_its_patches_from_the_model(mmdit, kind):
    network = seeded(ControlSD35(ControlSD35Config(replace(TINY_MMDIT, out_channels=16))))
    state = {**network.state_dict(), **({} if kind is None else {"control_type": torch.tensor([kind])})}
    control = control_of(CheckpointHeader.of(state), memory())
    coder, x = Coder(), noise(1, 16, 5, 7)
    found = answered(control, mmdit, x, coder, y=noise(1, 12), c_crossattn=noise(1, 5, 20))
    shown = coder.seen[0]
    assert (float(shown.max()) > 32) == (kind == 1)  # edges are shown 127.5 a + 0.5, whatever the autoencoder makes
    with mmdit.loaded() as base, torch.inference_mode():
        from limner.models.control.sd3 import padded

        tokens = base.x_embedder(padded(x, 2)) + base.positions(3, 4)
        hint = control.hint_for(x, 1)
        expected = network(x, hint, torch.tensor([700.0]), None, noise(1, 12), embed=lambda _: tokens)
    assert torch.allclose(found["output"][1], expected["output"][1], atol=1e-3, rtol=1e-3)


def test_a_control_of_35_large_on_another_model_is_refused(qwen):
    state = seeded(ControlSD35(ControlSD35Config(TINY_MMDIT))).state_dict()
    control = control_of(CheckpointHeader.of(state), memory())
    with pytest.raises(BadInput, match=r"Stable Diffusion 3\.5"):
        answered(control, qwen, noise(1, 16, 4, 6), Coder(), y=noise(1, 12))


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize("channels", [16, 17])
def test_residuals_of_qwen_image_fit_its_patches_at_odd_sizes(qwen, size, channels):
    """Rule S22: with places in float32 and contiguous rotations, at sides that are no multiple of a patch's."""
    network = seeded(ControlQwenImage(ControlQwenImageConfig(TINY_QWEN, channels)))
    control = control_of(CheckpointHeader.of(network.state_dict()), memory())
    assert control.concat_mask == (channels == 17)
    x, text = noise(1, 16, 1, *size), noise(1, 5, 20)
    mask = torch.ones(1, 1, 40, 56) if channels == 17 else None
    found = answered(control, qwen, x, Coder(frames=True), c_crossattn=text, mask=mask)
    patches = -(-size[0] // 2) * -(-size[1] // 2)
    assert [tuple(one.shape) for one in found["input"]] == [(1, patches, 64)] * 60
    assert all(one.is_contiguous() and one.dtype == torch.float32 for one in found["input"])
    with qwen.loaded() as model, torch.inference_mode():
        plain = model(x, torch.tensor([0.7]), text)
        assert not torch.allclose(model(x, torch.tensor([0.7]), text, control=found), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_residuals_of_qwen_image_are_of_the_dtype_of_what_it_computes_in(dtype):
    network = seeded(ControlQwenImage(ControlQwenImageConfig(TINY_QWEN))).to(dtype)
    with torch.inference_mode():
        x = noise(1, 16, 1, 5, 7).to(dtype)
        found = network(x, x, torch.tensor([0.7]), noise(1, 5, 20).to(dtype))
    assert found["input"][0].dtype == dtype


@pytest.fixture(scope="module")
def flux():
    return model_of(CheckpointHeader.of(seeded(Flux(TINY_FLUX)).state_dict()), memory())


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize("shown", ["latent", "mask", "picture"])
def test_residuals_of_flux_fit_its_patches(flux, size, shown):
    config = ControlFluxConfig(TINY_FLUX, 17 if shown == "mask" else 16, HINT if shown == "picture" else ())
    control = control_of(CheckpointHeader.of(seeded(ControlFlux(config)).state_dict()), memory())
    assert (control.latent_format is None, control.concat_mask) == (shown == "picture", shown == "mask")
    x, text, vector = noise(1, 16, *size), noise(1, 5, 20), noise(1, 12)
    mask = torch.ones(1, 1, 40, 56) if shown == "mask" else None
    cond = {"c_crossattn": text, "y": vector, "guidance": torch.tensor([3.5])}
    found = answered(control, flux, x, Coder(), mask=mask, **cond)
    assert (len(found["input"]), len(found["output"])) == (19, 38)
    assert {tuple(one.shape) for part in found.values() for one in part} == {
        (1, -(-size[0] // 2) * -(-size[1] // 2), 128)
    }
    assert not torch.allclose(
        found["input"][0],
        answered(control, flux, x, Coder(), mask=mask, **{**cond, "guidance": torch.zeros(1)})["input"][0],
    )
    with flux.loaded() as network, torch.inference_mode():
        plain = network(x, torch.tensor([0.7]), text, vector)
        assert not torch.allclose(network(x, torch.tensor([0.7]), text, vector, control=found), plain)


def test_a_residual_of_flux_is_scaled_once_however_often_it_stands(flux):
    config = ControlFluxConfig(TINY_FLUX)
    control = control_of(CheckpointHeader.of(seeded(ControlFlux(config)).state_dict()), memory())
    x, cond = noise(1, 16, 4, 6), {"c_crossattn": noise(1, 5, 20), "y": noise(1, 12)}
    plain = answered(control, flux, x, Coder(), **cond)
    second = control.copy().set_cond_hint(PICTURE, 0.5, vae=Coder())
    second.set_previous_controlnet(control)
    second.pre_run(flux.model, flux.sampling.percent_to_sigma)
    with torch.inference_mode():
        found = second.get_control(x, torch.tensor([0.7]), cond, 1, {})
    assert len({id(one) for one in found["output"]}) == 2
    assert torch.allclose(found["output"][37], plain["output"][37] * 1.5, atol=1e-4)


def test_a_union_control_of_flux_is_told_what_it_is_shown(flux):
    config = ControlFluxConfig(TINY_FLUX, modes=4)
    control = control_of(CheckpointHeader.of(seeded(ControlFlux(config)).state_dict()), memory())
    x, cond = noise(1, 16, 4, 6), {"c_crossattn": noise(1, 5, 20), "y": noise(1, 12)}
    found = []
    for kind in ([], [0], [3]):
        control.set_extra_arg("control_type", kind)
        found.append(answered(control, flux, x, Coder(), **cond)["input"][0])
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[1], found[2])
    control.set_extra_arg("control_type", [4])
    with pytest.raises(BadInput, match="no kind number 4"):
        answered(control, flux, x, Coder(), **cond)


def test_two_pictures_are_encoded_one_by_one_where_the_autoencoder_would_take_them_for_a_video(qwen):
    network = seeded(ControlQwenImage(ControlQwenImageConfig(TINY_QWEN)))
    control = control_of(CheckpointHeader.of(network.state_dict()), memory())
    coder = Coder(frames=True)
    control.set_cond_hint(PICTURE.expand(2, -1, -1, -1), 1.0, vae=coder)
    assert control.make_hint(noise(2, 16, 1, 4, 6)).shape == (2, 16, 1, 4, 6)
    assert [len(seen) for seen in coder.seen] == [1, 1]


def test_each_kind_is_recognised_by_its_own_marks():
    found = {}
    for state in (
        diffusers_names(ControlMMDiT(ControlMMDiTConfig(TINY_MMDIT)).state_dict()),
        ControlSD35(ControlSD35Config(TINY_MMDIT)).state_dict(),
        ControlQwenImage(ControlQwenImageConfig(TINY_QWEN)).state_dict(),
        ControlFlux(ControlFluxConfig(TINY_FLUX, 17, modes=3)).state_dict(),
    ):
        header = CheckpointHeader.of(state)
        kind, layout = detect(header)
        found[kind.name] = kind.infer_config(layout.convert(header), {})
        assert ControlFile(header, memory()).said == {}
    assert found["control-mmdit"] == ControlMMDiTConfig(TINY_MMDIT)
    assert found["control-qwen"] == ControlQwenImageConfig(TINY_QWEN)
    assert found["control-flux"] == ControlFluxConfig(TINY_FLUX, 17, modes=3)
    assert found["control-mmdit-large"].mmdit.depth == 2
