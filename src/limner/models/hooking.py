"""Hooks on conditions, on the model's side: which are registered, and the weights and options of the group at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limner.models.changes import Changes
from limner.sampling.hooks import (
    EnumHookMode,
    Hook,
    HookGroup,
    WeightHook,
    create_transformer_options_from_hooks,
)
from limner.sampling.wrappers import CallbacksMP
from limner.weights import Patch, Patches, make_patches


class Hooking(Changes):
    """A model whose weights follow hooks.

    hook_patches: what each weight hook changes, at its own strength. current_hooks: the group whose weights are in the
    network. forced_hooks: a group that holds whatever the conditions say. hook_mode: kept for packs; patched weights
    are always made anew from what differs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hook_patches: dict[Any, Patches] = {}
        self.hook_patches_backup: dict[Any, Patches] | None = None
        self.hook_backup: dict[str, Any] = {}
        self.cached_hook_patches: dict[Any, Patches] = {}
        self.current_hooks: HookGroup | None = None
        self.forced_hooks: HookGroup | None = None
        self.hook_mode = EnumHookMode.MaxSpeed

    def copy_changes_to(self, other: Any) -> None:
        """Give a clone copies of all of it."""
        super().copy_changes_to(other)
        other.hook_patches = dict(self.hook_patches)
        other.forced_hooks = None if self.forced_hooks is None else self.forced_hooks.clone()
        other.hook_mode = self.hook_mode

    def weight_keys(self) -> set[str]:
        """The names of its weights, as patches use them."""
        raise NotImplementedError

    def base_patches(self) -> Patches:
        """The changes of its weights without hooks."""
        raise NotImplementedError

    def write_patches(self, patches: Patches) -> None:
        """Turn the network that is in use into one with these patches."""
        raise NotImplementedError

    def set_hook_mode(self, hook_mode: EnumHookMode) -> None:
        """How weights of several groups are kept."""
        self.hook_mode = hook_mode

    def has_hooks(self) -> bool:
        """Whether anything but the plain weights may be wanted."""
        return bool(self.hook_patches) or self.current_hooks is not None or self.forced_hooks is not None

    def register_all_hook_patches(
        self,
        hooks: HookGroup | None,
        target_dict: dict[str, Any],
        model_options: dict[str, Any] | None = None,
        registered: HookGroup | None = None,
    ) -> HookGroup:
        """Let each hook of a group say what it changes."""
        self.restore_hook_patches()
        registered = HookGroup() if registered is None else registered
        options = {} if model_options is None else model_options
        before = dict(self.hook_patches)
        for hook in hooks.hooks if hooks is not None else ():
            hook.add_hook_patches(self, options, target_dict, registered)
        for callback in self.get_all_callbacks(CallbacksMP.ON_REGISTER_ALL_HOOK_PATCHES):
            callback(self, hooks, target_dict, options, registered)
        self.hook_patches_backup = before
        return registered

    def add_hook_patches(
        self, hook: Hook, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Take in what a weight hook changes. Returns the targets that exist here."""
        added, used = make_patches(patches, strength_patch, strength_model, self.weight_keys())
        self.hook_patches[hook.hook_ref] = self.hook_patches.get(hook.hook_ref, Patches()) + added
        return used

    def get_combined_hook_patches(self, hooks: HookGroup | None) -> Patches:
        """What a group changes at its hooks' present strengths."""
        found = Patches()
        for hook in hooks.hooks if hooks is not None else ():
            if isinstance(hook, WeightHook):
                found += scaled(self.hook_patches.get(hook.hook_ref, Patches()), hook.strength)
        return found

    def apply_hooks(
        self, hooks: HookGroup | None, transformer_options: dict[str, Any] | None = None, force_apply: bool = False
    ) -> dict[str, Any]:
        """Make the network that of a group, and its options. Returns the options."""
        hooks = HookGroup.combine_all_hooks([self.forced_hooks, hooks])
        options = create_transformer_options_from_hooks(self, hooks, transformer_options)
        self.patch_hooks(hooks, force_apply=force_apply)
        for callback in self.get_all_callbacks(CallbacksMP.ON_APPLY_HOOKS):
            callback(self, hooks)
        return options

    def patch_hooks(self, hooks: HookGroup | None, force_apply: bool = False) -> None:
        """Make the network's weights those of a group."""
        del force_apply
        self.write_patches(self.base_patches() + self.get_combined_hook_patches(hooks))
        self.current_hooks = hooks

    def unpatch_hooks(self, whitelist_keys_set: Any = None) -> None:
        """Make the network's weights those without hooks."""
        del whitelist_keys_set
        if self.current_hooks is not None:
            self.patch_hooks(None)

    def prepare_hook_patches_current_keyframe(self, t: Any, hook_group: HookGroup | None, model_options: Any) -> None:
        """Go to the keyframes of this sigma."""
        options = model_options.get("transformer_options", {})
        for hook in hook_group.hooks if hook_group is not None else ():
            hook.hook_keyframe.prepare_current_keyframe(t, options)

    def restore_hook_patches(self) -> None:
        """Forget what was registered for the last run."""
        if self.hook_patches_backup is not None:
            self.hook_patches = self.hook_patches_backup
            self.hook_patches_backup = None
        self.current_hooks = None

    def clear_cached_hook_weights(self) -> None:
        """Nothing is cached."""
        self.cached_hook_patches.clear()

    def clean_hooks(self) -> None:
        """Back to the weights without hooks."""
        self.unpatch_hooks()
        self.clear_cached_hook_weights()


def scaled(patches: Patches, strength: float) -> Patches:
    """Patches at a part of their strength."""
    if strength == 1.0:
        return patches
    return Patches(
        tuple(
            Patch(one.key, one.adapter, one.strength * strength, one.strength_model, one.offset, one.function)
            for one in patches.entries
        )
    )
