"""Hook nodes: values as they are made, and whole runs of a small model under them."""

from types import SimpleNamespace

import pytest
import torch

from limner.models.load import load_checkpoint
from limner.models.lora import load_lora
from limner.nodes import hooks
from limner.sampling import CFGGuider, get_sampler
from limner.weights import save
from tests.models.checkpoints import checkpoint, memory, tensors
from tests.nodes.make import run_in

UP, DOWN = "lora_unet_out_2.lora_up.weight", "lora_unet_out_2.lora_down.weight"


def lora_tensors():
    generator = torch.Generator().manual_seed(1)
    return {
        UP: torch.randn(4, 2, 1, 1, generator=generator),
        DOWN: torch.randn(2, 8, 3, 3, generator=generator),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.randn(16, 1, generator=generator),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.randn(1, 8, generator=generator),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hooks")
    save(folder / "a.safetensors", lora_tensors())
    other = {name: value + 0.05 if value.is_floating_point() else value for name, value in tensors().items()}
    checkpoint(folder, other, "other.safetensors")
    checkpoint(folder)
    return folder


@pytest.fixture
def run(files, tmp_path):
    made = run_in(tmp_path)
    made.store.folders = SimpleNamespace(path=lambda _key, name: files / name)
    object.__setattr__(made, "memory", memory())
    return made


@pytest.fixture(scope="module")
def model(files):
    return load_checkpoint(files / "tiny.safetensors", memory()).model


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(seed):
    return [[noise(seed, 1, 4, 6), {}]]


LEVELS = torch.tensor([4.0, 2.0, 1.0, 0.0])


def painted(model, positive, negative=None):
    guider = CFGGuider(model)
    guider.set_conds(positive, plain(4) if negative is None else negative)
    guider.set_cfg(2.0)
    latent = torch.zeros(1, 4, 8, 8)
    return guider.sample(noise(5, 1, 4, 8, 8), latent, get_sampler("euler"), LEVELS, seed=1)


def patched(model, strength):
    other = model.clone()
    key = "diffusion_model.out.2.weight"
    tensors_ = lora_tensors()
    delta = torch.einsum("or,rikl->oikl", tensors_[UP][..., 0, 0], tensors_[DOWN])
    other.add_patches({key: ("diff", (delta,))}, strength)
    return other


def hooked(conditioning, group):
    return hooks.set_properties(conditioning, set_cond_area="default", hooks=group)


def test_a_hook_on_both_conditionings_is_a_patched_model(model, run):
    group = hooks.lora_model_only(run, "a.safetensors", 0.5)
    pair = hooks.pair_set_properties(plain(3), plain(4), set_cond_area="default", hooks=group)
    assert torch.allclose(painted(model, *pair), painted(patched(model, 0.5), plain(3)), atol=1e-4)


def test_a_hook_on_one_conditioning_changes_that_one_only(model, run):
    group = hooks.lora(run, "a.safetensors", 0.5, 0.0)
    made = painted(model, hooked(plain(3), group))
    assert not torch.allclose(made, painted(model, plain(3)), atol=1e-3)
    assert not torch.allclose(made, painted(patched(model, 0.5), plain(3)), atol=1e-3)


def test_after_a_hooked_run_the_model_is_what_it_was(model, run):
    before = painted(model, plain(3))
    painted(model, hooked(plain(3), hooks.lora(run, "a.safetensors", 1.0, 1.0)))
    assert torch.equal(painted(model, plain(3)), before)


def test_a_hook_of_strength_zero_now_changes_nothing(model, run):
    group = hooks.set_keyframes(hooks.lora(run, "a.safetensors"), hooks.keyframe(0.0))
    assert torch.allclose(painted(model, hooked(plain(3), group)), painted(model, plain(3)), atol=1e-5)


def test_a_keyframe_sets_in_where_it_starts(model, run):
    frames = hooks.keyframe(0.5, 0.0, hooks.keyframe(1.0, 1.0))
    early = hooks.set_keyframes(hooks.lora(run, "a.safetensors", 1.0), frames)
    half = hooks.lora(run, "a.safetensors", 0.5)
    assert torch.allclose(painted(model, hooked(plain(3), early)), painted(model, hooked(plain(3), half)), atol=1e-5)


def test_another_checkpoint_as_a_hook_at_full_strength_is_that_checkpoint(model, run, files):
    group = hooks.model_as_lora_model_only(run, "other.safetensors", 1.0)
    pair = hooks.pair_set_properties(plain(3), plain(4), set_cond_area="default", hooks=group)
    other = load_checkpoint(files / "other.safetensors", memory()).model
    assert torch.allclose(painted(model, *pair), painted(other, plain(3)), atol=1e-4)


def test_lora_hooks_without_strength_are_those_before(run):
    before = hooks.lora(run, "a.safetensors")
    same = hooks.lora(run, "none.safetensors", 0.0, 0.0, before)
    assert same.hooks == before.hooks
    assert hooks.lora(run, "none.safetensors", 0.0, 0.0).hooks == []


def test_hooks_are_combined(run):
    first, second = hooks.lora(run, "a.safetensors"), hooks.model_as_lora(run, "other.safetensors")
    assert len(hooks.combine_2(first, second)) == 2
    assert len(hooks.combine_4(hooks_D=first)) == 1
    assert len(hooks.combine_8(hooks_A=first, hooks_H=second)) == 2
    assert hooks.combine_2() is None


def strengths(group):
    return [(round(one.start_percent, 6), round(one.strength, 6), one.guarantee_steps) for one in group.keyframes]


def test_keyframes_are_kept_in_order(caplog):
    group = hooks.keyframe(0.5, 0.25, hooks.keyframe(2.0, 0.75, hooks.keyframe(1.0)))
    assert strengths(group) == [(0.0, 1.0, 1), (0.25, 0.5, 1), (0.75, 2.0, 1)]


def test_interpolated_keyframes_go_evenly_and_only_the_first_is_guaranteed(caplog):
    caplog.set_level("INFO")
    group = hooks.keyframes_interpolated(
        0.0, 1.0, interpolation="linear", start_percent=0.2, end_percent=0.6, keyframes_count=3, print_keyframes=True
    )
    assert strengths(group) == [(0.2, 0.0, 1), (0.4, 0.5, 0), (0.6, 1.0, 0)]
    assert "from 0.400 on, strength 0.500" in caplog.text


@pytest.mark.parametrize(("method", "middle"), [("ease_in", 0.25), ("ease_out", 0.75), ("ease_in_out", 0.5)])
def test_interpolations_bend(method, middle):
    group = hooks.keyframes_interpolated(0.0, 1.0, interpolation=method, keyframes_count=3)
    assert group.keyframes[1].strength == pytest.approx(middle)


@pytest.mark.parametrize(
    ("floats", "expected"), [(0.5, [(0.0, 0.5, 1)]), ([1, 2, 3], [(0.0, 1, 1), (0.5, 2, 0), (1.0, 3, 0)])]
)
def test_keyframes_from_floats(floats, expected):
    assert strengths(hooks.keyframes_from_floats(floats)) == expected


def test_setting_no_keyframes_changes_nothing(run):
    group = hooks.lora(run, "a.safetensors")
    assert hooks.set_keyframes(group) is group


def test_a_range_has_a_before_and_an_after():
    assert hooks.timesteps_range(0.2, 0.7) == ((0.2, 0.7), (0.0, 0.2), (0.7, 1.0))


def test_properties_are_set_on_copies():
    given = plain(3)
    mask = torch.ones(8, 8)
    changed = hooks.set_properties(given, 0.5, set_cond_area="mask bounds", mask=mask, timesteps=(0.1, 0.9))
    values = changed[0][1]
    assert values["mask"].shape == (1, 8, 8)
    assert (values["mask_strength"], values["set_area_to_bounds"]) == (0.5, True)
    assert (values["start_percent"], values["end_percent"]) == (0.1, 0.9)
    assert given[0][1] == {}


def test_conditionings_are_combined_singly_and_in_pairs():
    first, second = plain(1), plain(2)
    assert len(hooks.set_properties_and_combine(first, second, set_cond_area="default")) == 2
    pair = hooks.pair_set_properties_and_combine(first, second, second, first, set_cond_area="default")
    assert (len(pair.positive), len(pair.negative)) == (2, 2)
    assert hooks.pair_combine(first, second, second, first).negative == [*second, *first]


def test_a_default_holds_where_the_others_leave_room(model):
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    inside = hooks.set_properties(plain(3), set_cond_area="default", mask=mask)
    whole = hooks.set_default(inside, plain(7))
    assert whole[1][1]["default"] is True
    only_default = hooks.pair_set_default([], plain(4), plain(7), plain(8))
    assert torch.allclose(painted(model, only_default.positive), painted(model, plain(7)), atol=1e-5)
    assert torch.isfinite(painted(model, whole)).all()
    assert not torch.allclose(painted(model, whole), painted(model, inside), atol=1e-3)


@pytest.fixture
def clip(files):
    return load_checkpoint(files / "tiny.safetensors", memory()).clip


def encoded(clip):
    return clip.encode_from_tokens_scheduled(clip.tokenize("cat dog"))


def test_a_text_encoder_under_hooks_is_a_patched_one(clip, run, files):
    group = hooks.lora(run, "a.safetensors", 0.0, 0.5)
    (entry,) = encoded(hooks.set_clip_hooks(clip, hooks=group))
    _, patched_clip = load_lora(files / "a.safetensors", None, clip, 0.0, 0.5)
    assert torch.allclose(entry[0], encoded(patched_clip)[0][0], atol=1e-5)
    assert not torch.allclose(entry[0], encoded(clip)[0][0], atol=1e-3)
    assert entry[1]["hooks"] is group
    assert "hooks" not in encoded(hooks.set_clip_hooks(clip, apply_to_conds=False, hooks=group))[0][1]


def test_without_a_schedule_keyframes_do_not_count(clip, run):
    group = hooks.lora(run, "a.safetensors", 0.0, 0.5)
    later = hooks.set_keyframes(group, hooks.keyframe(0.0))
    assert torch.equal(
        encoded(hooks.set_clip_hooks(clip, hooks=group))[0][0], encoded(hooks.set_clip_hooks(clip, hooks=later))[0][0]
    )


def test_with_a_schedule_a_prompt_is_encoded_for_each_range(clip, run):
    frames = hooks.keyframe(0.0, 0.0, hooks.keyframe(1.0, 0.4))
    group = hooks.set_keyframes(hooks.lora(run, "a.safetensors", 0.0, 0.5), frames)
    entries = encoded(hooks.set_clip_hooks(clip, schedule_clip=True, hooks=group))
    assert [(one[1]["clip_start_percent"], one[1]["clip_end_percent"]) for one in entries] == [(0.0, 0.4), (0.4, 1.0)]
    assert torch.allclose(entries[0][0], encoded(clip)[0][0], atol=1e-5)
    whole = encoded(hooks.set_clip_hooks(clip, hooks=hooks.lora(run, "a.safetensors", 0.0, 0.5)))
    assert torch.allclose(entries[1][0], whole[0][0], atol=1e-5)


def test_no_hooks_change_nothing(clip):
    assert torch.equal(encoded(hooks.set_clip_hooks(clip))[0][0], encoded(clip)[0][0])
