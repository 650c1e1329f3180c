"""Hooks: changes of a model for some conditions only, and how strong they are when."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Annotated, NamedTuple

from limner.graph import Choice, Conditioning, Float, Folder, Int, Mask, Run, node
from limner.graph.kinds import Kind
from limner.models.load import load_checkpoint
from limner.models.merging import towards
from limner.models.reading import read_header
from limner.nodes.kinds import CLIP, HOOK_KEYFRAMES, HOOKS, TIMESTEPS_RANGE
from limner.sampling import hooks as hooking

_log = logging.getLogger(__name__)

LoraName = Annotated[str, Folder("loras")]
CheckpointName = Annotated[str, Folder("checkpoints")]
HookStrength = Annotated[float, Float(min=-20.0, max=20.0, step=0.01)]
KeyframeStrength = Annotated[float, Float(min=0.0, max=10.0, step=0.001)]
Percent = Annotated[float, Float(min=0.0, max=1.0, step=0.001)]
Strength = Annotated[float, Float(min=0.0, max=10.0, step=0.01)]
Area = Annotated[str, Choice(("default", "mask bounds"))]
Interpolation = Annotated[str, Choice(("linear", "ease_in", "ease_out", "ease_in_out"))]
Floats = Annotated[list[float], Kind("FLOATS", extra={"default": -1, "min": -1, "step": 0.001, "forceInput": True})]

hook_node = partial(node, python_module="comfy_extras.nodes_hooks", experimental=True)


class Pair(NamedTuple):
    """Both conditionings."""

    positive: Conditioning
    negative: Conditioning


class Ranges(NamedTuple):
    """A range of progress, and what is before and after it."""

    inside: TIMESTEPS_RANGE
    before: TIMESTEPS_RANGE
    after: TIMESTEPS_RANGE


# -- hooks ------------------------------------------------------------------------------------------------------------


@hook_node("CreateHookLora", category="advanced/hooks/create", title="Create Hook LoRA")
def lora(
    run: Run,
    lora_name: LoraName,
    strength_model: HookStrength = 1.0,
    strength_clip: HookStrength = 1.0,
    prev_hooks: HOOKS | None = None,
) -> HOOKS:
    """A LoRA as a hook, beside those that there are."""
    before = prev_hooks or hooking.HookGroup()
    if strength_model == 0 and strength_clip == 0:
        return before.clone()
    header = read_header(run.store.folders.path("loras", lora_name), run.memory)
    tensors = {name: header.tensor(name) for name in header}
    return before.clone_and_combine(hooking.create_hook_lora(tensors, strength_model, strength_clip))


@hook_node("CreateHookLoraModelOnly", category="advanced/hooks/create", title="Create Hook LoRA (MO)")
def lora_model_only(
    run: Run, lora_name: LoraName, strength_model: HookStrength = 1.0, prev_hooks: HOOKS | None = None
) -> HOOKS:
    """A LoRA as a hook that leaves the text encoder alone."""
    return lora(run, lora_name, strength_model, 0.0, prev_hooks)


@hook_node("CreateHookModelAsLora", category="advanced/hooks/create", title="Create Hook Model as LoRA")
def model_as_lora(
    run: Run,
    ckpt_name: CheckpointName,
    strength_model: HookStrength = 1.0,
    strength_clip: HookStrength = 1.0,
    prev_hooks: HOOKS | None = None,
) -> HOOKS:
    """The way from the model to another checkpoint as a hook; strength 1 is all of it."""
    before = prev_hooks or hooking.HookGroup()
    found = load_checkpoint(run.store.folders.path("checkpoints", ckpt_name), run.memory)
    text = {} if found.clip is None else towards(found.clip)
    made = hooking.create_hook_model_as_lora(towards(found.model), text, strength_model, strength_clip)
    return before.clone_and_combine(made)


@hook_node("CreateHookModelAsLoraModelOnly", category="advanced/hooks/create", title="Create Hook Model as LoRA (MO)")
def model_as_lora_model_only(
    run: Run, ckpt_name: CheckpointName, strength_model: HookStrength = 1.0, prev_hooks: HOOKS | None = None
) -> HOOKS:
    """The same, leaving the text encoder alone."""
    return model_as_lora(run, ckpt_name, strength_model, 0.0, prev_hooks)


@hook_node("CombineHooks2", category="advanced/hooks/combine", title="Combine Hooks [2]")
def combine_2(hooks_A: HOOKS | None = None, hooks_B: HOOKS | None = None) -> HOOKS | None:  # noqa: N803 - names of the wire
    """All hooks of both."""
    return _combined([hooks_A, hooks_B])


@hook_node("CombineHooks4", category="advanced/hooks/combine", title="Combine Hooks [4]")
def combine_4(
    hooks_A: HOOKS | None = None,  # noqa: N803
    hooks_B: HOOKS | None = None,  # noqa: N803
    hooks_C: HOOKS | None = None,  # noqa: N803
    hooks_D: HOOKS | None = None,  # noqa: N803
) -> HOOKS | None:
    """All hooks of four."""
    return _combined([hooks_A, hooks_B, hooks_C, hooks_D])


@hook_node("CombineHooks8", category="advanced/hooks/combine", title="Combine Hooks [8]")
def combine_8(
    hooks_A: HOOKS | None = None,  # noqa: N803
    hooks_B: HOOKS | None = None,  # noqa: N803
    hooks_C: HOOKS | None = None,  # noqa: N803
    hooks_D: HOOKS | None = None,  # noqa: N803
    hooks_E: HOOKS | None = None,  # noqa: N803
    hooks_F: HOOKS | None = None,  # noqa: N803
    hooks_G: HOOKS | None = None,  # noqa: N803
    hooks_H: HOOKS | None = None,  # noqa: N803
) -> HOOKS | None:
    """All hooks of eight."""
    return _combined([hooks_A, hooks_B, hooks_C, hooks_D, hooks_E, hooks_F, hooks_G, hooks_H])


def _combined(groups: Sequence[HOOKS | None]) -> HOOKS | None:
    return hooking.HookGroup.combine_all_hooks(groups)


# -- strengths that follow progress -----------------------------------------------------------------------------------


@hook_node("SetHookKeyframes", category="advanced/hooks/scheduling", title="Set Hook Keyframes")
def set_keyframes(hooks: HOOKS, hook_kf: HOOK_KEYFRAMES | None = None) -> HOOKS:
    """Hooks whose strengths follow keyframes."""
    if hook_kf is None:
        return hooks
    changed = hooks.clone()
    changed.set_keyframes_on_hooks(hook_kf)
    return changed


@hook_node(
    "CreateHookKeyframe",
    category="advanced/hooks/scheduling",
    title="Create Hook Keyframe",
    output_names=("HOOK_KF",),
)
def keyframe(
    strength_mult: HookStrength = 1.0, start_percent: Percent = 0.0, prev_hook_kf: HOOK_KEYFRAMES | None = None
) -> HOOK_KEYFRAMES:
    """One more point of progress from which on a strength holds."""
    return _with_keyframes(prev_hook_kf, [(start_percent, strength_mult)])


@hook_node(
    "CreateHookKeyframesInterpolated",
    category="advanced/hooks/scheduling",
    title="Create Hook Keyframes Interp.",
    output_names=("HOOK_KF",),
)
def keyframes_interpolated(
    strength_start: KeyframeStrength = 1.0,
    strength_end: KeyframeStrength = 1.0,
    *,
    interpolation: Interpolation,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    keyframes_count: Annotated[int, Int(min=2, max=100, step=1)] = 5,
    print_keyframes: bool = False,
    prev_hook_kf: HOOK_KEYFRAMES | None = None,
) -> HOOK_KEYFRAMES:
    """A strength that goes from one number to another over a range of progress."""
    weights = hooking.InterpolationMethod.get_weights
    strengths = weights(strength_start, strength_end, keyframes_count, interpolation)
    return _spread(strengths, start_percent, end_percent, print_keyframes, prev_hook_kf)


@hook_node(
    "CreateHookKeyframesFromFloats",
    category="advanced/hooks/scheduling",
    title="Create Hook Keyframes From Floats",
    output_names=("HOOK_KF",),
)
def keyframes_from_floats(
    floats_strength: Floats,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    *,
    print_keyframes: bool = False,
    prev_hook_kf: HOOK_KEYFRAMES | None = None,
) -> HOOK_KEYFRAMES:
    """Strengths spread evenly over a range of progress."""
    strengths = [floats_strength] if isinstance(floats_strength, int | float) else list(floats_strength)
    return _spread(strengths, start_percent, end_percent, print_keyframes, prev_hook_kf)


def _spread(
    strengths: Sequence[float], start: float, end: float, printed: bool, before: HOOK_KEYFRAMES | None
) -> HOOK_KEYFRAMES:
    starts = hooking.InterpolationMethod.get_weights(start, end, len(strengths), hooking.InterpolationMethod.LINEAR)
    points = [(float(at), float(strength)) for at, strength in zip(starts, strengths, strict=True)]
    for at, strength in points if printed else ():
        _log.info("Hook keyframe: from %.3f on, strength %.3f", at, strength)
    return _with_keyframes(before, points)


def _with_keyframes(before: HOOK_KEYFRAMES | None, points: Sequence[tuple[float, float]]) -> HOOK_KEYFRAMES:
    """(start, strength) points added; only the first holds for a step at least."""
    group = hooking.HookKeyframeGroup() if before is None else before.clone()
    for number, (start, strength) in enumerate(points):
        group.add(hooking.HookKeyframe(strength, start, guarantee_steps=0 if number else 1))
    return group


@hook_node(
    "ConditioningTimestepsRange",
    category="advanced/hooks",
    title="Timesteps Range",
    output_names=("TIMESTEPS_RANGE", "BEFORE_RANGE", "AFTER_RANGE"),
)
def timesteps_range(start_percent: Percent = 0.0, end_percent: Percent = 1.0) -> Ranges:
    """A range of progress."""
    return Ranges((start_percent, end_percent), (0.0, start_percent), (end_percent, 1.0))


# -- conditioning -----------------------------------------------------------------------------------------------------


@hook_node("ConditioningSetProperties", category="advanced/hooks/cond single", title="Cond Set Props")
def set_properties(
    cond_NEW: Conditioning,  # noqa: N803
    strength: Strength = 1.0,
    *,
    set_cond_area: Area,
    mask: Mask | None = None,
    hooks: HOOKS | None = None,
    timesteps: TIMESTEPS_RANGE | None = None,
) -> Conditioning:
    """A conditioning with a mask, hooks and a range of progress."""
    return hooking.set_conds_props([cond_NEW], strength, set_cond_area, mask, hooks, timesteps)[0]


@hook_node("ConditioningSetPropertiesAndCombine", category="advanced/hooks/cond single", title="Cond Set Props Combine")
def set_properties_and_combine(
    cond: Conditioning,
    cond_NEW: Conditioning,  # noqa: N803
    strength: Strength = 1.0,
    *,
    set_cond_area: Area,
    mask: Mask | None = None,
    hooks: HOOKS | None = None,
    timesteps: TIMESTEPS_RANGE | None = None,
) -> Conditioning:
    """A conditioning, and another with a mask, hooks and a range of progress."""
    return hooking.set_conds_props_and_combine(
        [cond], [cond_NEW], strength, set_cond_area, mask, hooks, timesteps
    )[0]  # fmt: skip


@hook_node("ConditioningSetDefaultCombine", category="advanced/hooks/cond single", title="Cond Set Default Combine")
def set_default(cond: Conditioning, cond_DEFAULT: Conditioning, hooks: HOOKS | None = None) -> Conditioning:  # noqa: N803
    """A conditioning, and another for the places that it leaves."""
    return hooking.set_default_conds_and_combine([cond], [cond_DEFAULT], hooks)[0]


@hook_node("PairConditioningSetProperties", category="advanced/hooks/cond pair", title="Cond Pair Set Props")
def pair_set_properties(
    positive_NEW: Conditioning,  # noqa: N803
    negative_NEW: Conditioning,  # noqa: N803
    strength: Strength = 1.0,
    *,
    set_cond_area: Area,
    mask: Mask | None = None,
    hooks: HOOKS | None = None,
    timesteps: TIMESTEPS_RANGE | None = None,
) -> Pair:
    """Both conditionings with a mask, hooks and a range of progress."""
    pair = [positive_NEW, negative_NEW]
    return Pair(*hooking.set_conds_props(pair, strength, set_cond_area, mask, hooks, timesteps))


@hook_node(
    "PairConditioningSetPropertiesAndCombine",
    category="advanced/hooks/cond pair",
    title="Cond Pair Set Props Combine",
)
def pair_set_properties_and_combine(
    positive: Conditioning,
    negative: Conditioning,
    positive_NEW: Conditioning,  # noqa: N803
    negative_NEW: Conditioning,  # noqa: N803
    strength: Strength = 1.0,
    *,
    set_cond_area: Area,
    mask: Mask | None = None,
    hooks: HOOKS | None = None,
    timesteps: TIMESTEPS_RANGE | None = None,
) -> Pair:
    """Both conditionings, and two others with a mask, hooks and a range of progress."""
    old, new = [positive, negative], [positive_NEW, negative_NEW]
    return Pair(*hooking.set_conds_props_and_combine(old, new, strength, set_cond_area, mask, hooks, timesteps))


@hook_node(
    "PairConditioningSetDefaultCombine",
    category="advanced/hooks/cond pair",
    title="Cond Pair Set Default Combine",
)
def pair_set_default(
    positive: Conditioning,
    negative: Conditioning,
    positive_DEFAULT: Conditioning,  # noqa: N803
    negative_DEFAULT: Conditioning,  # noqa: N803
    hooks: HOOKS | None = None,
) -> Pair:
    """Both conditionings, and two others for the places that they leave."""
    old, new = [positive, negative], [positive_DEFAULT, negative_DEFAULT]
    return Pair(*hooking.set_default_conds_and_combine(old, new, hooks))


@hook_node("PairConditioningCombine", category="advanced/hooks/cond pair", title="Cond Pair Combine")
def pair_combine(
    positive_A: Conditioning,  # noqa: N803
    negative_A: Conditioning,  # noqa: N803
    positive_B: Conditioning,  # noqa: N803
    negative_B: Conditioning,  # noqa: N803
) -> Pair:
    """Two pairs as one."""
    return Pair(*hooking.combine_with_new_conds([positive_A, negative_A], [positive_B, negative_B]))


@hook_node("SetClipHooks", category="advanced/hooks/clip", title="Set CLIP Hooks")
def set_clip_hooks(
    clip: CLIP, *, apply_to_conds: bool = True, schedule_clip: bool = False, hooks: HOOKS | None = None
) -> CLIP:
    """A text encoder under hooks: for the diffusion model too, and a prompt for each range that keyframes make."""
    changed = clip.clone()
    if hooks is None:
        return changed
    if apply_to_conds:
        changed.apply_hooks_to_conds = hooks
    forced = hooks.clone()
    if not schedule_clip:
        forced.set_keyframes_on_hooks(None)
    changed.use_clip_schedule = schedule_clip
    changed.patcher.forced_hooks = forced
    changed.patcher.register_all_hook_patches(forced, hooking.create_target_dict(hooking.EnumWeightTarget.Clip))
    return changed
