"""Hooks on conditions: changes of a model that hold for some conditions only, with strengths that follow a schedule.

A `HookGroup` is what HOOKS sockets carry and what a condition has under "hooks". Conditions are grouped by it, and each
group is predicted with its own weights, options and models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from torch import Tensor

from limner.sampling.wrappers import merge_nested_dicts

Values = dict[str, Any]
Conditioning = list[list[Any]]
PURE_NOISE = 999999999.9


class EnumHookMode(Enum):
    """Whether the weights of each group are made anew at each change, or kept."""

    MinVram = "minvram"
    MaxSpeed = "maxspeed"


class EnumHookType(Enum):
    """What a hook changes."""

    Weight = "weight"
    ObjectPatch = "object_patch"
    AdditionalModels = "add_models"
    TransformerOptions = "transformer_options"
    Injections = "add_injections"


class EnumWeightTarget(Enum):
    """Whose weights a hook changes."""

    Model = "model"
    Clip = "clip"


class EnumHookScope(Enum):
    """Whether a hook holds for the whole run or for the conditions that have it."""

    AllConditioning = "all_conditioning"
    HookedOnly = "hooked_only"


class HookRef:
    """What clones of a hook have in common."""


def default_should_register(hook: Any, model: Any, model_options: Values, target_dict: Values, registered: Any) -> bool:
    """Every hook is registered."""
    del hook, model, model_options, target_dict, registered
    return True


def create_target_dict(target: EnumWeightTarget | None = None, **kwargs: Any) -> Values:
    """What hooks are being registered with."""
    return {**({} if target is None else {"target": target}), **kwargs}


class Hook:
    """A change. Clones are equal: they share `hook_ref`. hook_keyframe: how strong it is when."""

    def __init__(
        self,
        hook_type: EnumHookType | None = None,
        hook_ref: HookRef | None = None,
        hook_id: str | None = None,
        hook_keyframe: HookKeyframeGroup | None = None,
        hook_scope: EnumHookScope = EnumHookScope.AllConditioning,
    ) -> None:
        self.hook_type = hook_type
        self.hook_ref = hook_ref or HookRef()
        self.hook_id = hook_id
        self.hook_keyframe = hook_keyframe or HookKeyframeGroup()
        self.hook_scope = hook_scope
        self.custom_should_register: Callable[..., bool] = default_should_register

    @property
    def strength(self) -> float:
        """How strong it is now."""
        return self.hook_keyframe.strength

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hook) and type(other) is type(self) and other.hook_ref is self.hook_ref

    def __hash__(self) -> int:
        return hash(self.hook_ref)

    def initialize_timesteps(self, model: Any) -> None:
        """A run of this model begins."""
        self.reset()
        self.hook_keyframe.initialize_timesteps(model)

    def reset(self) -> None:
        """Back to the first keyframe."""
        self.hook_keyframe.reset()

    def clone(self) -> Any:
        """The same change with keyframes of its own."""
        other = type(self)()
        other.__dict__.update(self.__dict__)
        return other

    def should_register(self, model: Any, model_options: Values, target_dict: Values, registered: HookGroup) -> bool:
        """Whether it is to be registered."""
        return self.custom_should_register(self, model, model_options, target_dict, registered)

    def add_hook_patches(self, model: Any, model_options: Values, target_dict: Values, registered: HookGroup) -> bool:
        """Register it with a model. Returns whether that was done."""
        if not self.should_register(model, model_options, target_dict, registered):
            return False
        done = self._register(model, model_options, target_dict)
        if done:
            registered.add(self)
        return done

    def _register(self, model: Any, model_options: Values, target_dict: Values) -> bool:
        del model, model_options, target_dict
        return False

    def on_apply_hooks(self, model: Any, transformer_options: Values) -> None:
        """Its group is being predicted."""


class WeightHook(Hook):
    """Changes of weights. weights, weights_clip: of the model and the text encoder.

    need_weight_init: `weights` is a LoRA's tensors by their names in the file, for both; else patches by weight.
    """

    def __init__(self, strength_model: float = 1.0, strength_clip: float = 1.0) -> None:
        super().__init__(hook_type=EnumHookType.Weight)
        self.weights: Any = None
        self.weights_clip: Any = None
        self.need_weight_init = True
        self._strength_model = strength_model
        self._strength_clip = strength_clip

    @property
    def strength_model(self) -> float:
        """How strongly the model is changed now."""
        return self._strength_model * self.strength

    @property
    def strength_clip(self) -> float:
        """How strongly the text encoder is changed now."""
        return self._strength_clip * self.strength

    def _register(self, model: Any, model_options: Values, target_dict: Values) -> bool:
        del model_options
        clip = target_dict.get("target") == EnumWeightTarget.Clip
        strength = self._strength_clip if clip else self._strength_model
        if self.need_weight_init:
            patches = model.lora_patches(self.weights) if self.weights is not None else {}
        else:
            patches = self.weights_clip if clip else self.weights
        model.add_hook_patches(self, patches or {}, strength_patch=strength)
        return True


class ObjectPatchHook(Hook):
    """Things put in the place of a model's parts while its group is predicted."""

    def __init__(
        self, object_patches: Values | None = None, hook_scope: EnumHookScope = EnumHookScope.AllConditioning
    ) -> None:
        super().__init__(hook_type=EnumHookType.ObjectPatch, hook_scope=hook_scope)
        self.object_patches = object_patches

    def _register(self, model: Any, model_options: Values, target_dict: Values) -> bool:
        del model_options, target_dict
        for name, obj in (self.object_patches or {}).items():
            model.add_object_patch(name, obj)
        return True


class AdditionalModelsHook(Hook):
    """Models that are loaded for the run."""

    def __init__(self, models: list[Any] | None = None, key: str | None = None) -> None:
        super().__init__(hook_type=EnumHookType.AdditionalModels)
        self.models = models
        self.key = key

    def _register(self, model: Any, model_options: Values, target_dict: Values) -> bool:
        del model, model_options, target_dict
        return True


class TransformerOptionsHook(Hook):
    """Entries of `transformer_options`, for the run or for the group."""

    def __init__(
        self, transformers_dict: Values | None = None, hook_scope: EnumHookScope = EnumHookScope.AllConditioning
    ) -> None:
        super().__init__(hook_type=EnumHookType.TransformerOptions, hook_scope=hook_scope)
        self.transformers_dict: Values = transformers_dict or {}

    def _register(self, model: Any, model_options: Values, target_dict: Values) -> bool:
        del model, target_dict
        if self.hook_scope == EnumHookScope.AllConditioning:
            inside = model_options.setdefault("transformer_options", {})
            merge_nested_dicts(inside, self.transformers_dict, copy_dict1=False)
        return True

    def on_apply_hooks(self, model: Any, transformer_options: Values) -> None:
        """Its entries, where they hold for the group alone."""
        del model
        if self.hook_scope == EnumHookScope.HookedOnly:
            merge_nested_dicts(transformer_options, self.transformers_dict, copy_dict1=False)


WrapperHook = TransformerOptionsHook


class InjectionsHook(Hook):
    """Injections of a model, for the run."""

    def __init__(
        self,
        key: str | None = None,
        injections: list[Any] | None = None,
        hook_scope: EnumHookScope = EnumHookScope.AllConditioning,
    ) -> None:
        super().__init__(hook_type=EnumHookType.Injections, hook_scope=hook_scope)
        self.key = key
        self.injections = injections

    def _register(self, model: Any, model_options: Values, target_dict: Values) -> bool:
        del model_options, target_dict
        model.set_injections(self.key or "hook", self.injections or [])
        return True


class HookGroup:
    """Hooks that belong together, each once."""

    def __init__(self) -> None:
        self.hooks: list[Hook] = []

    def __len__(self) -> int:
        return len(self.hooks)

    def add(self, hook: Hook) -> None:
        """Take one in."""
        if hook not in self.hooks:
            self.hooks.append(hook)

    def remove(self, hook: Hook) -> None:
        """Leave one out."""
        if hook in self.hooks:
            self.hooks.remove(hook)

    def get_type(self, hook_type: EnumHookType) -> list[Any]:
        """Those of a type."""
        return [hook for hook in self.hooks if hook.hook_type == hook_type]

    def contains(self, hook: Hook) -> bool:
        """Whether it, or a clone of it, is there."""
        return hook in self.hooks

    def is_subset_of(self, other: HookGroup) -> bool:
        """Whether all are in the other."""
        return all(hook in other.hooks for hook in self.hooks)

    def new_with_common_hooks(self, other: HookGroup) -> HookGroup:
        """Those that are in both."""
        return self._of([hook.clone() for hook in self.hooks if other.contains(hook)])

    def clone(self) -> HookGroup:
        """A group of clones."""
        return self._of([hook.clone() for hook in self.hooks])

    def clone_and_combine(self, other: HookGroup | None) -> HookGroup:
        """A group of clones of both."""
        found = self.clone()
        for hook in other.hooks if other is not None else ():
            found.add(hook.clone())
        return found

    @staticmethod
    def _of(hooks: Sequence[Hook]) -> HookGroup:
        found = HookGroup()
        for hook in hooks:
            found.add(hook)
        return found

    def set_keyframes_on_hooks(self, hook_kf: HookKeyframeGroup | None) -> None:
        """Give all of them these keyframes."""
        shared = HookKeyframeGroup() if hook_kf is None else hook_kf.clone()
        for hook in self.hooks:
            hook.hook_keyframe = shared

    def get_hooks_for_clip_schedule(self) -> dict[Any, list[tuple[tuple[float, float], HookKeyframe | None]]]:
        """The weight hooks, each with the ranges of progress in which its strength stays, and its keyframe then."""
        found: dict[Any, list[tuple[tuple[float, float], HookKeyframe | None]]] = {}
        for hook in self.get_type(EnumHookType.Weight):
            keyframes = hook.hook_keyframe.keyframes
            ranges: list[tuple[tuple[float, float], HookKeyframe | None]] = []
            for number, keyframe in enumerate(keyframes):
                start = keyframe.start_percent if number else 0.0
                end = keyframes[number + 1].start_percent if number + 1 < len(keyframes) else 1.0
                if end > start:
                    ranges.append(((start, end), keyframe))
            found[hook] = ranges or [((0.0, 1.0), None)]
        return found

    def reset(self) -> None:
        """All back to their first keyframe."""
        for hook in self.hooks:
            hook.reset()

    @staticmethod
    def combine_all_hooks(hooks_list: Sequence[HookGroup | None], require_count: int = 0) -> HookGroup | None:
        """One group of all; the group itself where there is one; None where there are none or fewer than required."""
        groups = [group for group in hooks_list if group is not None]
        if not groups or len(groups) < require_count:
            return None
        found = groups[0]
        for group in groups[1:]:
            found = found.clone_and_combine(group)
        return found


class HookKeyframe:
    """A strength from a point of progress on. guarantee_steps: how many steps it holds at least."""

    def __init__(self, strength: float, start_percent: float = 0.0, guarantee_steps: int = 1) -> None:
        self.strength = strength
        self.start_percent = float(start_percent)
        self.start_t = PURE_NOISE
        self.guarantee_steps = guarantee_steps

    def get_effective_guarantee_steps(self, max_sigma: Any) -> int:
        """None for one that begins before the sampled range."""
        return 0 if self.start_t > float(max_sigma) else self.guarantee_steps

    def clone(self) -> HookKeyframe:
        """The same at its start."""
        other = HookKeyframe(self.strength, self.start_percent, self.guarantee_steps)
        other.start_t = self.start_t
        return other


class HookKeyframeGroup:
    """Keyframes in the order of their starts, and which of them holds now."""

    def __init__(self) -> None:
        self.keyframes: list[HookKeyframe] = []
        self.reset()

    def reset(self) -> None:
        """Back to the first keyframe."""
        self._used_steps = 0
        self._index = 0
        self._now: float | None = None

    @property
    def _current_keyframe(self) -> HookKeyframe | None:
        return self.keyframes[self._index] if self.has_index(self._index) else None

    @property
    def strength(self) -> float:
        """The strength of the keyframe that holds now; 1 without keyframes."""
        current = self._current_keyframe
        return 1.0 if current is None else current.strength

    def add(self, keyframe: HookKeyframe) -> None:
        """Take one in; one with the same start comes after those that are there."""
        self.keyframes = sorted([*self.keyframes, keyframe], key=lambda one: one.start_percent)

    def has_guarantee_steps(self) -> bool:
        """Whether any holds for a number of steps."""
        return any(keyframe.guarantee_steps > 0 for keyframe in self.keyframes)

    def has_index(self, index: int) -> bool:
        """Whether there are so many."""
        return 0 <= index < len(self.keyframes)

    def is_empty(self) -> bool:
        """Whether there are none."""
        return not self.keyframes

    def hold(self, keyframe: HookKeyframe | None) -> None:
        """Make this one the current one."""
        self._index = self.keyframes.index(keyframe) if keyframe in self.keyframes else 0

    def clone(self) -> HookKeyframeGroup:
        """The same keyframes, at the first."""
        other = HookKeyframeGroup()
        other.keyframes = [keyframe.clone() for keyframe in self.keyframes]
        return other

    def initialize_timesteps(self, model: Any) -> None:
        """Starts in progress to starts in sigmas of this model."""
        for keyframe in self.keyframes:
            keyframe.start_t = float(sampling_of(model).percent_to_sigma(keyframe.start_percent))

    def prepare_current_keyframe(self, curr_t: Any, transformer_options: Mapping[str, Any]) -> bool:
        """Go to the keyframe of this sigma. Returns whether it is another one than before."""
        now = float(curr_t)
        current = self._current_keyframe
        if current is None or now == self._now:
            return False
        highest = float(max(transformer_options["sample_sigmas"]))
        before = self._index
        if self._used_steps >= current.get_effective_guarantee_steps(highest):
            for index in range(self._index + 1, len(self.keyframes)):
                candidate = self.keyframes[index]
                if candidate.start_t < now:
                    break
                self._index, self._used_steps = index, 0
                if candidate.get_effective_guarantee_steps(highest) > 0:
                    break
        self._used_steps += 1
        self._now = now
        return self._index != before


def sampling_of(model: Any) -> Any:
    """The noise levels of a model, by either of the names they have."""
    return model.model_sampling if hasattr(model, "model_sampling") else model.sampling


class InterpolationMethod:
    """How a value goes from one number to another."""

    LINEAR = "linear"
    EASE_IN = "ease_in"
    EASE_OUT = "ease_out"
    EASE_IN_OUT = "ease_in_out"
    _LIST = (LINEAR, EASE_IN, EASE_OUT, EASE_IN_OUT)

    @classmethod
    def get_weights(cls, num_from: float, num_to: float, length: int, method: str, reverse: bool = False) -> Any:
        """`length` numbers from the first to the second, both included. Raises ValueError for an unknown method."""
        part = np.linspace(0, 1, length)
        curves = {
            cls.LINEAR: part,
            cls.EASE_IN: part**2,
            cls.EASE_OUT: 1 - (1 - part) ** 2,
            cls.EASE_IN_OUT: (1 - np.cos(part * np.pi)) / 2,
        }
        if method not in curves:
            raise ValueError(f"Unrecognized interpolation method '{method}'.")
        weights = num_from + (num_to - num_from) * curves[method]
        return np.flip(weights) if reverse else weights


def get_sorted_list_via_attr(objects: Sequence[Any], attr: str) -> list[Any]:
    """Objects in the order of an attribute, equal ones as they were."""
    return sorted(objects, key=lambda one: getattr(one, attr))


def create_transformer_options_from_hooks(
    model: Any, hooks: HookGroup | None, transformer_options: Any = None
) -> Values:
    """What a group adds to the transformer options of its predictions."""
    found: Values = {} if transformer_options is None else transformer_options
    for hook in hooks.hooks if hooks is not None else ():
        hook.on_apply_hooks(model, found)
    return found


# -- groups from weights ----------------------------------------------------------------------------------------------


def create_hook_lora(lora: Mapping[str, Tensor], strength_model: float, strength_clip: float) -> HookGroup:
    """A group of one hook with a LoRA's tensors."""
    return _weight_group(lora, None, strength_model, strength_clip, need_init=True)


def create_hook_model_as_lora(
    weights_model: Any, weights_clip: Any, strength_model: float, strength_clip: float
) -> HookGroup:
    """A group of one hook with patches by weight."""
    return _weight_group(weights_model, weights_clip, strength_model, strength_clip, need_init=False)


def _weight_group(
    weights: Any, clip: Any, strength_model: float, strength_clip: float, *, need_init: bool
) -> HookGroup:
    hook = WeightHook(strength_model, strength_clip)
    hook.weights, hook.weights_clip, hook.need_weight_init = weights, clip, need_init
    group = HookGroup()
    group.add(hook)
    return group


def get_patch_weights_from_model(model: Any, discard_model_sampling: bool = True) -> Any:
    """A model's weights as patches for a hook, or None for no model."""
    if model is None:
        return None
    found = model.get_key_patches()
    return {
        name: patch
        for name, patch in found.items()
        if not (discard_model_sampling and name.startswith("model_sampling."))
    }


def load_hook_lora_for_models(
    model: Any, clip: Any, lora: Mapping[str, Tensor], strength_model: float, strength_clip: float
) -> tuple[Any, Any, HookGroup]:
    """Clones of both, and a hook group with a LoRA for them."""
    group = create_hook_lora(lora, strength_model, strength_clip)
    return model.clone() if model is not None else None, clip.clone() if clip is not None else None, group


# -- conditioning -----------------------------------------------------------------------------------------------------


def conditioning_set_values_with_hooks(
    conditioning: Sequence[Sequence[Any]],
    values: Mapping[str, Any] | None = None,
    append_hooks: bool = True,
    cache: dict[Any, Any] | None = None,
) -> Conditioning:
    """A copy with entries set; hooks are added to those that are there. cache: so that equal groups stay one."""
    cache = {} if cache is None else cache
    found: Conditioning = []
    for tokens, entries in conditioning:
        changed = dict(entries)
        for name, value in (values or {}).items():
            old = entries.get("hooks") if append_hooks and name == "hooks" else None
            changed[name] = _joined(old, value, cache) if old is not None else value
        found.append([tokens, changed])
    return found


def _joined(old: HookGroup, new: HookGroup | None, cache: dict[Any, Any]) -> Any:
    if (id(old), id(new)) not in cache:
        cache[id(old), id(new)] = old.clone_and_combine(new), old, new  # both kept, so that ids stay theirs
    return cache[id(old), id(new)][0]


def set_hooks_for_conditioning(
    cond: Conditioning, hooks: HookGroup | None, append_hooks: bool = True, cache: dict[Any, Any] | None = None
) -> Conditioning:
    """The conditioning with hooks."""
    if hooks is None:
        return cond
    return conditioning_set_values_with_hooks(cond, {"hooks": hooks}, append_hooks, cache)


def set_timesteps_for_conditioning(cond: Conditioning, timestep_range: tuple[float, float] | None) -> Conditioning:
    """The conditioning in a range of progress."""
    if timestep_range is None:
        return cond
    start, end = timestep_range
    return conditioning_set_values_with_hooks(cond, {"start_percent": start, "end_percent": end})


def set_mask_for_conditioning(
    cond: Conditioning, mask: Tensor | None, set_cond_area: str, strength: float
) -> Conditioning:
    """The conditioning where a mask is."""
    if mask is None:
        return cond
    values = {
        "mask": mask.unsqueeze(0) if mask.ndim < 3 else mask,
        "set_area_to_bounds": set_cond_area != "default",
        "mask_strength": strength,
    }
    return conditioning_set_values_with_hooks(cond, values)


def combine_conditioning(conds: Sequence[Conditioning]) -> Conditioning:
    """All in one."""
    return [entry for cond in conds for entry in cond]


def combine_with_new_conds(conds: Sequence[Conditioning], new_conds: Sequence[Conditioning]) -> list[Conditioning]:
    """Each with its new one."""
    return [combine_conditioning([old, new]) for old, new in zip(conds, new_conds, strict=True)]


def set_conds_props(
    conds: Sequence[Conditioning],
    strength: float,
    set_cond_area: str,
    mask: Tensor | None = None,
    hooks: HookGroup | None = None,
    timesteps_range: tuple[float, float] | None = None,
    append_hooks: bool = True,
) -> list[Conditioning]:
    """Each with hooks, a mask and a range."""
    cache: dict[Any, Any] = {}
    found = []
    for cond in conds:
        changed = set_hooks_for_conditioning(cond, hooks, append_hooks, cache)
        changed = set_mask_for_conditioning(changed, mask, set_cond_area, strength)
        found.append(set_timesteps_for_conditioning(changed, timesteps_range))
    return found


def set_conds_props_and_combine(
    conds: Sequence[Conditioning],
    new_conds: Sequence[Conditioning],
    strength: float = 1.0,
    set_cond_area: str = "default",
    mask: Tensor | None = None,
    hooks: HookGroup | None = None,
    timesteps_range: tuple[float, float] | None = None,
    append_hooks: bool = True,
) -> list[Conditioning]:
    """Each with its new one, which gets hooks, a mask and a range."""
    changed = set_conds_props(new_conds, strength, set_cond_area, mask, hooks, timesteps_range, append_hooks)
    return combine_with_new_conds(conds, changed)


def set_default_conds_and_combine(
    conds: Sequence[Conditioning],
    new_conds: Sequence[Conditioning],
    hooks: HookGroup | None = None,
    timesteps_range: tuple[float, float] | None = None,
    append_hooks: bool = True,
) -> list[Conditioning]:
    """Each with its new one, which holds where no other does."""
    cache: dict[Any, Any] = {}
    defaults = []
    for cond in new_conds:
        changed = set_hooks_for_conditioning(cond, hooks, append_hooks, cache)
        changed = conditioning_set_values_with_hooks(changed, {"default": True})
        defaults.append(set_timesteps_for_conditioning(changed, timesteps_range))
    return combine_with_new_conds(conds, defaults)
