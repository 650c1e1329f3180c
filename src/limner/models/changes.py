"""What can be hung on a model beside its weights: hooks of sampling and network, callbacks, wrappers, injections.

The names are those that node packs call. Everything lies in `model_options` or beside it and is copied by `clone`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from limner.models.options import Hook, ModelOptions, copied
from limner.sampling.wrappers import CallbacksMP, PatcherInjection, merge_nested_dicts

Registry = dict[str, dict[str | None, list[Hook]]]


class Changes:
    """The part of a model that knows what was hung on it.

    callbacks, wrappers: {kind: {key: [functions]}}. injections: functions that change the network before it runs and
    take the change back. attachments: anything. additional_models: loaded together with this one.
    """

    model_options: ModelOptions
    object_patches: dict[str, Any]

    def __init__(self) -> None:
        self.model_options = {"transformer_options": {}}
        self.object_patches = {}
        self.object_patches_backup: dict[str, Any] = {}
        self.weight_wrapper_patches: dict[str, list[Hook]] = {}
        self.attachments: dict[str, Any] = {}
        self.additional_models: dict[str, list[Any]] = {}
        self.callbacks: Registry = CallbacksMP.init_callbacks()
        self.wrappers: Registry = {}
        self.injections: dict[str, list[PatcherInjection]] = {}
        self.is_injected = False
        self.skip_injection = False
        self.is_clip = False
        self.force_cast_weights = False
        self.weight_inplace_update = False
        self.parent: Any = None

    def copy_changes_to(self, other: Changes) -> None:
        """Give a clone copies of all of it; what was attached decides how it is copied by `on_model_patcher_clone`."""
        other.model_options = copied(self.model_options)
        other.object_patches = dict(self.object_patches)
        other.weight_wrapper_patches = {name: list(found) for name, found in self.weight_wrapper_patches.items()}
        other.callbacks = cast(Registry, copied(self.callbacks))
        other.wrappers = cast(Registry, copied(self.wrappers))
        other.injections = {key: list(found) for key, found in self.injections.items()}
        other.skip_injection = self.skip_injection
        other.is_clip = self.is_clip
        other.force_cast_weights = self.force_cast_weights
        other.weight_inplace_update = self.weight_inplace_update
        other.parent = self
        for key, attachment in self.attachments.items():
            clone = getattr(attachment, "on_model_patcher_clone", None)
            other.attachments[key] = clone() if callable(clone) else attachment
        other.additional_models = {
            key: [model.clone() for model in models] for key, models in self.additional_models.items()
        }

    @property
    def options(self) -> dict[str, Any]:
        """The hooks: `model_options` itself, as sampling reads it."""
        return cast(dict[str, Any], self.model_options)

    # -- hooks ----------------------------------------------------------------------------------------------------

    def set_model_sampler_cfg_function(self, function: Hook, disable_cfg1_optimization: bool = False) -> None:
        """Replace the guidance formula: args dict → residual; the older form takes (cond, uncond, scale)."""
        if len(inspect.signature(function).parameters) == 3:
            self.model_options["sampler_cfg_function"] = lambda args: function(
                args["cond"], args["uncond"], args["cond_scale"]
            )
        else:
            self.model_options["sampler_cfg_function"] = function
        self._keep_uncond(disable_cfg1_optimization)

    def set_model_sampler_post_cfg_function(self, function: Hook, disable_cfg1_optimization: bool = False) -> None:
        """Add a function of the guided prediction: args dict → tensor."""
        self.model_options.setdefault("sampler_post_cfg_function", []).append(function)
        self._keep_uncond(disable_cfg1_optimization)

    def set_model_sampler_pre_cfg_function(self, function: Hook, disable_cfg1_optimization: bool = False) -> None:
        """Add a function of the predictions before guidance: args dict → list."""
        self.model_options.setdefault("sampler_pre_cfg_function", []).append(function)
        self._keep_uncond(disable_cfg1_optimization)

    def _keep_uncond(self, wanted: bool) -> None:
        if wanted:
            self.model_options["disable_cfg1_optimization"] = True

    def set_model_sampler_calc_cond_batch_function(self, function: Hook) -> None:
        """Replace the evaluation of all conditions: args dict → list of predictions."""
        self.model_options["sampler_calc_cond_batch_function"] = function

    def set_model_unet_function_wrapper(self, function: Hook) -> None:
        """Wrap each call of the network: (apply_model, args dict) → tensor."""
        self.model_options["model_function_wrapper"] = function

    def set_model_denoise_mask_function(self, function: Hook) -> None:
        """Change the inpaint mask at each step: (sigma, mask, extra_options) → mask."""
        self.model_options["denoise_mask_function"] = function

    def set_model_patch(self, patch: Hook, name: str) -> None:
        """Add a hook at a named point of the network."""
        self.model_options["transformer_options"].setdefault("patches", {}).setdefault(name, []).append(patch)

    def set_model_patch_replace(
        self, patch: Hook, name: str, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Replace an attention or block at a place of the network."""
        place = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
        self.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault(name, {})[place] = patch

    def set_model_attn1_patch(self, patch: Hook) -> None:
        """Before self-attention: (q, k, v, extra_options) → q, k, v."""
        self.set_model_patch(patch, "attn1_patch")

    def set_model_attn2_patch(self, patch: Hook) -> None:
        """Before cross-attention."""
        self.set_model_patch(patch, "attn2_patch")

    def set_model_attn1_replace(
        self, patch: Hook, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """In place of self-attention."""
        self.set_model_patch_replace(patch, "attn1", block_name, number, transformer_index)

    def set_model_attn2_replace(
        self, patch: Hook, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """In place of cross-attention."""
        self.set_model_patch_replace(patch, "attn2", block_name, number, transformer_index)

    def set_model_attn1_output_patch(self, patch: Hook) -> None:
        """After self-attention: (n, extra_options) → n."""
        self.set_model_patch(patch, "attn1_output_patch")

    def set_model_attn2_output_patch(self, patch: Hook) -> None:
        """After cross-attention."""
        self.set_model_patch(patch, "attn2_output_patch")

    def set_model_input_block_patch(self, patch: Hook) -> None:
        """After each block on the way down: (h, transformer_options) → h."""
        self.set_model_patch(patch, "input_block_patch")

    def set_model_input_block_patch_after_skip(self, patch: Hook) -> None:
        """The same, after the skip was stored."""
        self.set_model_patch(patch, "input_block_patch_after_skip")

    def set_model_output_block_patch(self, patch: Hook) -> None:
        """Before each block on the way up: (h, hsp, transformer_options) → h, hsp."""
        self.set_model_patch(patch, "output_block_patch")

    def set_model_emb_patch(self, patch: Hook) -> None:
        """On the time embedding: (emb, model_channels, transformer_options) → emb."""
        self.set_model_patch(patch, "emb_patch")

    def set_model_forward_timestep_embed_patch(self, patch: Hook) -> None:
        """A (class, handler) pair for layers of that class."""
        self.set_model_patch(patch, "forward_timestep_embed_patch")

    def set_model_double_block_patch(self, patch: Hook) -> None:
        """After each two-stream block."""
        self.set_model_patch(patch, "double_block")

    def set_model_post_input_patch(self, patch: Hook) -> None:
        """After the input projections."""
        self.set_model_patch(patch, "post_input")

    def set_model_rope_options(
        self, scale_x: float, shift_x: float, scale_y: float, shift_y: float, scale_t: float, shift_t: float, **_: Any
    ) -> None:
        """Scale and shift rotary positions."""
        self.model_options["transformer_options"]["rope_options"] = {
            "scale_x": scale_x, "shift_x": shift_x, "scale_y": scale_y, "shift_y": shift_y,
            "scale_t": scale_t, "shift_t": shift_t,
        }  # fmt: skip

    def set_model_noise_refiner_patch(self, patch: Hook) -> None:
        """After each block that refines the noise alone."""
        self.set_model_patch(patch, "noise_refiner")

    # -- attachments and other models -----------------------------------------------------------------------------

    def set_attachments(self, key: str, attachment: Any) -> None:
        """Keep anything with the model; clones share it."""
        self.attachments[key] = attachment

    def get_attachment(self, key: str) -> Any:
        """What was attached under this key, or None."""
        return self.attachments.get(key)

    def remove_attachments(self, key: str) -> None:
        """Forget an attachment."""
        self.attachments.pop(key, None)

    def set_additional_models(self, key: str, models: list[Any]) -> None:
        """Load these together with this model."""
        self.additional_models[key] = models

    def remove_additional_models(self, key: str) -> None:
        """Forget them."""
        self.additional_models.pop(key, None)

    def get_additional_models_with_key(self, key: str) -> list[Any]:
        """Those under a key."""
        return self.additional_models.get(key, [])

    def get_additional_models(self) -> list[Any]:
        """All of them."""
        return [model for models in self.additional_models.values() for model in models]

    def get_nested_additional_models(self) -> list[Any]:
        """All of them, and those that they bring, each once."""
        found: list[Any] = []
        pending = self.get_additional_models()
        while pending:
            model = pending.pop(0)
            if not any(model is known for known in found):
                found.append(model)
                pending += model.get_additional_models()
        return found

    def model_patches_models(self) -> list[Any]:
        """Models that its hooks compute with, which are loaded together with it."""
        found: list[Any] = []
        for hook in self._hooks():
            if hasattr(hook, "models"):
                found += hook.models()
        return found

    def model_patches_to(self, target: Any) -> None:
        """Tell its hooks where, or in which dtype, they are going to run."""
        for owner, name, hook in self._places():
            if hasattr(hook, "to"):
                owner[name] = hook.to(target)

    def _hooks(self) -> Iterator[Any]:
        for _, _, hook in self._places():
            yield hook

    def _places(self) -> Iterator[tuple[Any, Any, Any]]:
        options = cast(dict[str, Any], self.model_options)
        inside = options.get("transformer_options", {})
        for hooks in inside.get("patches", {}).values():
            yield from ((hooks, number, hook) for number, hook in enumerate(hooks))
        for hooks in inside.get("patches_replace", {}).values():
            yield from ((hooks, place, hook) for place, hook in list(hooks.items()))
        if "model_function_wrapper" in options:
            yield options, "model_function_wrapper", options["model_function_wrapper"]

    # -- callbacks and wrappers -----------------------------------------------------------------------------------

    def add_callback(self, call_type: str, callback: Hook) -> None:
        """Call a function when something happens (`CallbacksMP`)."""
        self.add_callback_with_key(call_type, None, callback)

    def add_callback_with_key(self, call_type: str, key: str | None, callback: Hook) -> None:
        """The same, under a key."""
        self.callbacks.setdefault(call_type, {}).setdefault(key, []).append(callback)

    def remove_callbacks_with_key(self, call_type: str, key: str | None) -> None:
        """Forget those of a key."""
        self.callbacks.get(call_type, {}).pop(key, None)

    def get_callbacks(self, call_type: str, key: str | None) -> list[Hook]:
        """Those of a key."""
        return self.callbacks.get(call_type, {}).get(key, [])

    def get_all_callbacks(self, call_type: str) -> list[Hook]:
        """Those of all keys."""
        return [function for functions in self.callbacks.get(call_type, {}).values() for function in functions]

    def call_back(self, call_type: str, *args: Any) -> None:
        """Something happened: call those who wanted to know, with this model and what there is to say."""
        for function in self.get_all_callbacks(call_type):
            function(self, *args)

    def add_wrapper(self, wrapper_type: str, wrapper: Hook) -> None:
        """Go around a call of sampling (`WrappersMP`)."""
        self.add_wrapper_with_key(wrapper_type, None, wrapper)

    def add_wrapper_with_key(self, wrapper_type: str, key: str | None, wrapper: Hook) -> None:
        """The same, under a key."""
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, wrapper_type: str, key: str | None) -> None:
        """Forget those of a key."""
        self.wrappers.get(wrapper_type, {}).pop(key, None)

    def get_wrappers(self, wrapper_type: str, key: str | None) -> list[Hook]:
        """Those of a key."""
        return self.wrappers.get(wrapper_type, {}).get(key, [])

    def get_all_wrappers(self, wrapper_type: str) -> list[Hook]:
        """Those of all keys."""
        return [function for functions in self.wrappers.get(wrapper_type, {}).values() for function in functions]

    def options_for_run(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of model options with this model's wrappers and callbacks among its transformer options."""
        found: dict[str, Any] = copied(dict(options))
        inside = found.setdefault("transformer_options", {})
        for name, own in (("wrappers", self.wrappers), ("callbacks", self.callbacks)):
            inside[name] = merge_nested_dicts(inside.get(name, {}), own, copy_dict1=False)
        return found

    def add_weight_wrapper(self, name: str, function: Hook) -> None:
        """Change a weight each time it is used: weight → weight."""
        self.weight_wrapper_patches.setdefault(name, []).append(function)

    # -- injections -----------------------------------------------------------------------------------------------

    def set_injections(self, key: str, injections: list[PatcherInjection]) -> None:
        """Change the network by these while it is in use."""
        self.injections[key] = injections

    def remove_injections(self, key: str) -> None:
        """Forget them."""
        self.injections.pop(key, None)

    def get_injections(self, key: str) -> list[PatcherInjection] | None:
        """Those of a key, or None."""
        return self.injections.get(key)

    def inject_model(self) -> None:
        """Make the changes, unless they are made or not wanted."""
        if self.is_injected or self.skip_injection:
            return
        for injections in self.injections.values():
            for injection in injections:
                injection.inject(self)
                self.is_injected = True
        if self.is_injected:
            self.call_back(CallbacksMP.ON_INJECT_MODEL)

    def eject_model(self) -> None:
        """Take them back."""
        if not self.is_injected:
            return
        for injections in self.injections.values():
            for injection in injections:
                injection.eject(self)
        self.is_injected = False
        self.call_back(CallbacksMP.ON_EJECT_MODEL)

    @contextmanager
    def use_ejected(self, skip_and_inject_on_exit_only: bool = False) -> Iterator[Changes]:
        """Without the changes for as long as the block lasts."""
        was, skipped = self.is_injected, self.skip_injection
        self.eject_model()
        self.skip_injection = True
        try:
            yield self
        finally:
            self.skip_injection = skipped
            if was and (not skipped or skip_and_inject_on_exit_only):
                self.inject_model()

    # -- a run ----------------------------------------------------------------------------------------------------

    def pre_run(self) -> None:
        """Sampling begins."""
        self.call_back(CallbacksMP.ON_PRE_RUN)

    def prepare_state(self, timestep: Any) -> None:
        """A step begins, at these sigmas."""
        self.call_back(CallbacksMP.ON_PREPARE_STATE, timestep)

    def cleanup(self) -> None:
        """Sampling has ended."""
        self.call_back(CallbacksMP.ON_CLEANUP)
