"""The built-in classes that need a model, called as packs call them, on the starter model."""

from dataclasses import replace

import pytest

from limner.compat.setup import Compat
from limner.engine import NodeRegistry
from limner.graph import CURRENT_RUN
from limner.settings import Settings
from limner.store import Store
from tests.compat.test_names_loader import Sink

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def compat(tmp_path_factory):
    from limner.memory.manager import MemoryManager

    settings = Settings(base_directory=str(tmp_path_factory.mktemp("base")), cpu=True)
    store = Store.open(settings, owned=False)
    memory = MemoryManager(settings)
    made = Compat(settings, store, NodeRegistry.open(), lambda: memory, cache=False)
    yield made
    made.close()
    store.close()


@pytest.fixture
def running(compat):
    run = replace(compat.host.run(), prompt_id="p", node_id="7", sink=Sink())
    token = CURRENT_RUN.set(run)
    with torch.inference_mode():
        yield run
    CURRENT_RUN.reset(token)


@pytest.fixture(scope="module")
def loaded(compat):
    import nodes

    name = nodes.CheckpointLoaderSimple.INPUT_TYPES()["required"]["ckpt_name"][0][0]
    return nodes.CheckpointLoaderSimple().load_checkpoint(name)


@pytest.fixture(scope="module")
def conditioning(loaded):
    import nodes

    with torch.inference_mode():
        return nodes.CLIPTextEncode().encode(loaded[1], "a fox")[0], nodes.CLIPTextEncode().encode(loaded[1], "")[0]


def test_a_text_is_encoded_as_conditioning(loaded, conditioning, running):
    import nodes

    positive, negative = conditioning
    assert positive[0][0].ndim == 3
    (stopped,) = nodes.CLIPSetLastLayer().set_last_layer(loaded[1], -2)
    (other,) = nodes.CLIPTextEncode().encode(clip=stopped, text="a fox")
    assert not torch.equal(other[0][0], positive[0][0])
    (average,) = nodes.ConditioningAverage().addWeighted(positive, negative, 0.5)
    assert average[0][0].shape == positive[0][0].shape
    (joined,) = nodes.ConditioningConcat().concat(positive, negative)
    assert joined[0][0].shape[1] == positive[0][0].shape[1] + negative[0][0].shape[1]
    (masked,) = nodes.ConditioningSetMask().append(positive, torch.ones(1, 8, 8), "default", 1.0)
    assert "mask" in masked[0][1]


def test_a_latent_is_sampled_and_decoded(loaded, conditioning, running):
    import nodes

    model, _, vae = loaded
    positive, negative = conditioning
    (latent,) = nodes.EmptyLatentImage().generate(64, 64, 1)
    (found,) = nodes.common_ksampler(model, 7, 1, 1.0, "euler", "normal", positive, negative, latent)
    (same,) = nodes.KSampler().sample(model, 7, 1, 1.0, "euler", "normal", positive, negative, latent)
    assert torch.equal(found["samples"], same["samples"])
    assert running.sink.seen[0][:3] == ("7", 1, 1)
    (bigger,) = nodes.LatentUpscaleBy().upscale(found, "nearest-exact", 2.0)
    assert bigger["samples"].shape[-1] == 2 * found["samples"].shape[-1]
    (picture,) = nodes.VAEDecode().decode(vae, found)
    assert picture.shape == (1, 64, 64, 3)
    assert nodes.VAEDecodeTiled().decode(vae, found, 64)[0].shape == picture.shape
    (back,) = nodes.VAEEncode().encode(vae, picture)
    assert back["samples"].shape == found["samples"].shape
    assert nodes.VAEEncodeTiled().encode(vae, picture, 64, 0)[0]["samples"].shape == found["samples"].shape
    assert nodes.ImageScaleBy().upscale(picture, "bilinear", 0.5)[0].shape == (1, 32, 32, 3)


def test_a_part_of_the_steps_is_sampled(loaded, conditioning, running):
    import nodes

    positive, negative = conditioning
    (latent,) = nodes.EmptyLatentImage().generate(64, 64, 1)
    common = (7, 2, 1.0, "euler", "normal", positive, negative)
    (first,) = nodes.common_ksampler(loaded[0], *common, latent, start_step=0, last_step=1)
    (second,) = nodes.common_ksampler(
        loaded[0], *common, first, disable_noise=True, start_step=1, last_step=2, force_full_denoise=True
    )
    (whole,) = nodes.common_ksampler(loaded[0], *common, latent)
    assert torch.allclose(second["samples"], whole["samples"], atol=1e-4)


def test_inpainting_conditions_both_sides(loaded, conditioning, running):
    import nodes

    picture = torch.rand(1, 64, 64, 3)
    found = nodes.InpaintModelConditioning().encode(*conditioning, picture, loaded[2], torch.ones(1, 64, 64), True)
    assert len(found) == 3
    assert "noise_mask" in found[2]


def test_a_lora_that_is_not_there_is_named(loaded, running):
    import nodes

    with pytest.raises(Exception, match=r"no_such\.safetensors"):
        nodes.LoraLoader().load_lora(loaded[0], loaded[1], "no_such.safetensors", 1.0, 1.0)
    assert nodes.LoraLoader.RETURN_TYPES == ("MODEL", "CLIP")
