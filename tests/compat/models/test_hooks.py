"""Hooks on conditions: weights, options and strengths that hold for some conditions, or for some of the time."""

import pytest
import torch

from tests.compat.models.conftest import sampled, text


def lora(value=1.0):
    return {
        "lora_unet_out_2.lora_up.weight": torch.full((4, 1, 1, 1), value),
        "lora_unet_out_2.lora_down.weight": torch.full((1, 8, 3, 3), value),
    }


def hooked(model, strength, hooks=None, **entries):
    import comfy.hooks

    group = hooks or comfy.hooks.create_hook_lora(lora(), strength, 0.0)
    positive = comfy.hooks.set_hooks_for_conditioning(text(1, **entries), group)
    negative = comfy.hooks.set_hooks_for_conditioning(text(0), group)
    return sampled(model, positive=positive, negative=negative)


def patched(model, strength):
    other = model.clone()
    other.add_patches(other.lora_patches(lora()), strength)
    return sampled(other)


def test_a_hook_on_all_conditions_is_the_same_lora_on_the_model(parts):
    assert torch.allclose(hooked(parts.model, 0.5), patched(parts.model, 0.5), atol=1e-4)
    assert not torch.allclose(patched(parts.model, 0.5), sampled(parts.model), atol=1e-3)


def test_a_run_with_hooks_leaves_the_model_as_it_was(parts):
    before = sampled(parts.model)
    hooked(parts.model, 0.5)
    assert torch.equal(sampled(parts.model), before)
    assert not parts.model.hook_patches


def test_a_hook_on_one_condition_leaves_the_other_alone(parts):
    import comfy.hooks

    group = comfy.hooks.create_hook_lora(lora(), 0.5, 0.0)
    one = sampled(parts.model, positive=comfy.hooks.set_hooks_for_conditioning(text(1), group))
    assert not torch.allclose(one, hooked(parts.model, 0.5), atol=1e-3)
    assert not torch.allclose(one, sampled(parts.model), atol=1e-3)


def test_keyframes_change_the_strength_along_the_way(parts):
    import comfy.hooks

    def keyed(*pairs):
        group = comfy.hooks.create_hook_lora(lora(), 1.0, 0.0)
        frames = comfy.hooks.HookKeyframeGroup()
        for strength, start in pairs:
            frames.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
        group.set_keyframes_on_hooks(frames)
        return hooked(parts.model, 1.0, group)

    assert torch.allclose(keyed((0.5, 0.0)), patched(parts.model, 0.5), atol=1e-4)
    off = keyed((0.0, 0.0))
    assert torch.allclose(off, sampled(parts.model), atol=1e-4)
    assert not torch.allclose(keyed((0.0, 0.0), (0.5, 0.5)), off, atol=1e-3)


def test_keyframes_follow_the_sigmas_and_their_guaranteed_steps(parts):
    import comfy.hooks

    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start, steps in ((1.0, 0.0, 1), (0.5, 0.3, 0), (0.25, 0.6, 2)):
        frames.add(comfy.hooks.HookKeyframe(strength, start, steps))
    frames.initialize_timesteps(parts.model.model)
    sigmas = torch.tensor([14.6, 6.0, 2.0, 1.0, 0.5, 0.1, 0.0])
    seen = []
    for sigma in sigmas[:-1]:
        frames.prepare_current_keyframe(sigma, {"sample_sigmas": sigmas})
        seen.append(frames.strength)
    assert seen == [1.0, 1.0, 0.5, 0.25, 0.25, 0.25]
    frames.reset()
    assert frames.strength == 1.0


def test_options_of_a_hook_hold_for_its_group_or_for_the_run(parts):
    import comfy.hooks

    for scope, branches in (("hooked_only", {(0,)}), ("all_conditioning", {(0,), (1,)})):
        seen = set()

        def patch(h, options, seen=seen):
            seen.add(tuple(options["cond_or_uncond"]))
            return h

        hook = comfy.hooks.TransformerOptionsHook(
            {"patches": {"input_block_patch": [patch]}}, comfy.hooks.EnumHookScope(scope)
        )
        group = comfy.hooks.HookGroup()
        group.add(hook)
        sampled(parts.model, positive=comfy.hooks.set_hooks_for_conditioning(text(1), group))
        assert seen == branches


def test_a_groups_hooks_are_told_apart_by_what_they_are_clones_of(base):
    import comfy.hooks

    one, two = (comfy.hooks.create_hook_lora(lora(), 1.0, 1.0) for _ in range(2))
    both = one.clone_and_combine(two)
    assert len(both.hooks) == 2
    assert one.clone().is_subset_of(both)
    assert len(both.clone_and_combine(one).hooks) == 2
    assert len(both.new_with_common_hooks(two).hooks) == 1
    assert comfy.hooks.HookGroup.combine_all_hooks([None, one]) is one
    assert comfy.hooks.HookGroup.combine_all_hooks([None]) is None


def test_a_text_encoder_with_a_schedule_encodes_each_range_of_it(parts):
    import comfy.hooks

    key = next(iter(name for name in parts.clip.patcher.weight_keys() if name.endswith("fc1.weight")))
    weights = {key: ("diff", (torch.randn(16, 8, generator=torch.manual_seed(1)),))}
    group = comfy.hooks.create_hook_model_as_lora(None, weights, 0.0, 1.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((0.0, 0.0), (1.0, 0.5)):
        frames.add(comfy.hooks.HookKeyframe(strength, start))
    group.set_keyframes_on_hooks(frames)
    clip = parts.clip.clone()
    clip.patcher.forced_hooks = group
    clip.use_clip_schedule = True
    clip.patcher.register_all_hook_patches(group, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Clip))
    tokens = clip.tokenize("a cat")
    found = clip.encode_from_tokens_scheduled(tokens)
    ranges = [(entry[1]["clip_start_percent"], entry[1]["clip_end_percent"]) for entry in found]
    assert ranges == [(0.0, 0.5), (0.5, 1.0)]
    plain = parts.clip.encode_from_tokens(tokens)
    assert torch.allclose(found[0][0], plain, atol=1e-5)
    assert not torch.allclose(found[1][0], plain, atol=1e-3)


@pytest.mark.parametrize("method", ["linear", "ease_in", "ease_out", "ease_in_out"])
def test_interpolations_go_from_one_end_to_the_other(base, method):
    import comfy.hooks

    weights = comfy.hooks.InterpolationMethod.get_weights(0.25, 1.0, 5, method)
    assert weights[0] == pytest.approx(0.25)
    assert weights[-1] == pytest.approx(1.0)
    assert (weights[1:] >= weights[:-1]).all()
    assert comfy.hooks.InterpolationMethod.get_weights(0.25, 1.0, 5, method, reverse=True)[0] == pytest.approx(1.0)
