"""Control nodes: what they make of conditionings, and prompts with them, run by the engine."""

import pytest
import torch

from limner.engine import Engine, NodeRegistry
from limner.errors import BadInput
from limner.memory import DefaultSettings, MemoryManager
from limner.models.control.base import ControlBase
from limner.nodes.control import (
    apply_control_net,
    apply_control_net_advanced,
    apply_inpainting_control_net,
    set_union_type,
)
from limner.sampling.latent import LatentFormat
from limner.settings import Settings
from limner.store import Store
from limner.weights import CheckpointHeader
from tests.engine.make import Bench, call
from tests.models.checkpoints import checkpoint, tensors
from tests.models.control.make import control_file, tiny_control


class Plain(ControlBase):
    """A control without a network."""

    def copy(self):
        made = Plain()
        self.copy_to(made)
        return made


PICTURE = torch.rand(1, 12, 16, 3)
TEXT = torch.zeros(1, 3, 8)


def test_without_strength_nothing_is_changed():
    conditioning = [[TEXT, {}]]
    assert apply_control_net(conditioning, Plain(), PICTURE, 0.0) is conditioning
    both = apply_control_net_advanced(conditioning, [], Plain(), PICTURE, 0.0)
    assert both.positive is conditioning


def test_the_old_node_chains_and_holds_for_the_negative_too():
    given = [[TEXT, {}], [TEXT, {}]]
    once = apply_control_net(given, Plain(), PICTURE, 0.5)
    twice = apply_control_net(once, Plain(), PICTURE, 0.25)
    assert given == [[TEXT, {}], [TEXT, {}]]
    assert [options["control"].strength for _, options in twice] == [0.25, 0.25]
    assert twice[0][1]["control"].previous_controlnet is once[0][1]["control"]
    assert twice[0][1]["control_apply_to_uncond"] is True
    assert twice[0][1]["control"].cond_hint_original.shape == (1, 3, 12, 16)


def test_both_conditionings_share_a_control_for_each_that_it_follows():
    once = apply_control_net_advanced([[TEXT, {}]], [[TEXT, {}]], Plain(), PICTURE, 1.0, 0.1, 0.9)
    positive, negative = (branch[0][1]["control"] for branch in once)
    assert positive is negative
    assert positive.timestep_percent_range == (0.1, 0.9)
    assert once.positive[0][1]["control_apply_to_uncond"] is False
    mixed = apply_control_net_advanced(once.positive, [[TEXT, {}]], Plain(), PICTURE)
    assert mixed.positive[0][1]["control"].previous_controlnet is positive
    assert mixed.negative[0][1]["control"].previous_controlnet is None


def test_a_control_that_follows_latents_needs_a_vae_and_one_that_fills_needs_a_mask():
    latent, filling = Plain(), Plain()
    latent.latent_format = LatentFormat()
    filling.concat_mask = True
    with pytest.raises(BadInput, match="needs a VAE"):
        apply_control_net([[TEXT, {}]], latent, PICTURE)
    with pytest.raises(BadInput, match="needs a mask"):
        apply_control_net([[TEXT, {}]], filling, PICTURE)


def test_what_is_masked_is_blackened_and_the_rest_is_told_to_the_network():
    filling = Plain()
    filling.concat_mask = True
    mask = torch.zeros(1, 6, 8)
    mask[:, :, 4:] = 1
    both = apply_inpainting_control_net([[TEXT, {}]], [], filling, None, PICTURE, mask)
    control = both.positive[0][1]["control"]
    assert torch.equal(control.extra_concat_orig[0], 1 - mask[:, None])
    assert control.cond_hint_original[..., 8:].abs().sum() == 0
    assert torch.equal(control.cond_hint_original[..., :8], PICTURE.movedim(-1, 1)[..., :8])
    plain = apply_inpainting_control_net([[TEXT, {}]], [], Plain(), None, PICTURE, mask)
    assert torch.equal(plain.positive[0][1]["control"].cond_hint_original, PICTURE.movedim(-1, 1))


def test_a_mask_is_resized_to_the_hint_and_joined_to_it():
    filling = Plain()
    filling.concat_mask = True
    mask = torch.zeros(1, 1, 6, 8)
    mask[..., 4:] = 1
    filling.set_cond_hint(PICTURE.movedim(-1, 1), 1.0, extra_concat=[mask])
    hint = filling.make_hint(torch.zeros(2, 4, 3, 4))
    assert hint.shape == (1, 4, 24, 32)
    assert hint[:, 3, :, :16].abs().sum() == 0
    assert (hint[:, 3, :, 16:] == 1).all()


@pytest.mark.parametrize(("name", "number"), [("auto", []), ("openpose", [0]), ("repaint", [7])])
def test_a_union_control_is_told_its_kind_by_number(name, number):
    union = Plain()
    assert set_union_type(union, name).extra_args == {"control_type": number}
    assert union.extra_args == {}


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def bench(tmp_path):
    settings = Settings(base_directory=str(tmp_path))
    store = Store.open(settings)
    engine = Engine(
        settings, store, NodeRegistry.open(),
        memory=lambda: MemoryManager(DefaultSettings(force_fp32=True, cpu=True)),
    )  # fmt: skip
    await engine.start()
    for key in ("checkpoints", "controlnet"):
        store.folders.roots(key)[0].mkdir(parents=True, exist_ok=True)
    checkpoint(store.folders.roots("checkpoints")[0], tensors(context_dim=8))
    control_file(store.folders.roots("controlnet")[0], tiny_control(context_dim=8).state_dict())
    yield Bench(engine)
    await engine.close()
    store.close()


BASE = {
    "model": call("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
    "control": call("ControlNetLoader", control_net_name="control.safetensors"),
    "yes": call("CLIPTextEncode", text="cat", clip=["model", 1]),
    "no": call("CLIPTextEncode", text="dog", clip=["model", 1]),
    "blank": call("EmptyLatentImage", width=64, height=64, batch_size=1),
    "picture": call("EmptyImage", width=80, height=64, batch_size=1, color=0x336699),
}


def applied(positive, negative, strength=1.0, start=0.0, end=1.0):
    return call(
        "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=["control", 0],
        image=["picture", 0], strength=strength, start_percent=start, end_percent=end,
    )  # fmt: skip


async def latent(bench, tmp_path, nodes, positive, negative, name):
    """The latent that a prompt saves."""
    sample = call(
        "KSampler", model=["model", 0], seed=5, steps=3, cfg=2.0, sampler_name="euler", scheduler="normal",
        positive=positive, negative=negative, latent_image=["blank", 0], denoise=1.0,
    )  # fmt: skip
    save = call("SaveLatent", samples=["sample", 0], filename_prefix=name)
    entry = await bench.run({**BASE, **nodes, "sample": sample, "save": save})
    assert entry["status"]["status_str"] == "success", entry["status"]
    return CheckpointHeader.read(tmp_path / "output" / f"{name}_00001_.latent").tensor("latent_tensor").clone()


async def test_a_control_changes_the_picture_and_two_change_it_more(bench, tmp_path):
    plain = await latent(bench, tmp_path, {}, ["yes", 0], ["no", 0], "plain")
    one = {"one": applied(["yes", 0], ["no", 0])}
    once = await latent(bench, tmp_path, one, ["one", 0], ["one", 1], "once")
    two = {**one, "two": applied(["one", 0], ["one", 1], 0.5)}
    twice = await latent(bench, tmp_path, two, ["two", 0], ["two", 1], "twice")
    stronger = {"one": applied(["yes", 0], ["no", 0], 1.5)}
    sum_of_both = await latent(bench, tmp_path, stronger, ["one", 0], ["one", 1], "sum")
    assert not torch.allclose(once, plain, atol=1e-2)
    assert not torch.allclose(twice, once, atol=1e-2)
    assert torch.allclose(twice, sum_of_both, rtol=1e-3, atol=1e-3)


async def test_a_control_counts_only_in_its_part_of_the_sampling(bench, tmp_path):
    plain = await latent(bench, tmp_path, {}, ["yes", 0], ["no", 0], "plain")
    never = {"one": applied(["yes", 0], ["no", 0], start=1.0, end=1.0)}
    assert torch.equal(await latent(bench, tmp_path, never, ["one", 0], ["one", 1], "never"), plain)
    nothing = {"one": applied(["yes", 0], ["no", 0], strength=0.0)}
    assert torch.equal(await latent(bench, tmp_path, nothing, ["one", 0], ["one", 1], "nothing"), plain)
    always = {"one": applied(["yes", 0], ["no", 0])}
    whole = await latent(bench, tmp_path, always, ["one", 0], ["one", 1], "whole")
    early = {"one": applied(["yes", 0], ["no", 0], end=0.3)}
    first = await latent(bench, tmp_path, early, ["one", 0], ["one", 1], "first")
    assert not torch.allclose(first, plain)
    assert not torch.allclose(first, whole)


async def test_the_old_node_alone_does_what_the_new_one_does_for_both(bench, tmp_path):
    both = {"one": applied(["yes", 0], ["no", 0], 0.7)}
    new = await latent(bench, tmp_path, both, ["one", 0], ["one", 1], "new")
    old_node = call("ControlNetApply", conditioning=["yes", 0], control_net=["control", 0], image=["picture", 0],
                    strength=0.7)  # fmt: skip
    old = await latent(bench, tmp_path, {"one": old_node}, ["one", 0], ["no", 0], "old")
    assert torch.allclose(old, new, atol=1e-4)


async def test_a_text_for_the_control_alone_changes_the_picture(bench, tmp_path):
    apply = {"one": applied(["yes", 0], ["no", 0])}
    plain = await latent(bench, tmp_path, apply, ["one", 0], ["one", 1], "plain")
    told = call("CLIPTextEncodeControlnet", clip=["model", 1], conditioning=["yes", 0], text="dog dog")
    other = {"told": told, "one": applied(["told", 0], ["no", 0])}
    found = await latent(bench, tmp_path, other, ["one", 0], ["one", 1], "told")
    assert not torch.allclose(found, plain, atol=1e-4)
