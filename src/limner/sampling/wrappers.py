"""Wrappers and callbacks that packs hang on a model: around which calls they go, and running a chain of them.

They lie in `transformer_options` as {"wrappers": {kind: {key: [functions]}}}, and likewise "callbacks". A wrapper is
called with an executor and the arguments of what it wraps; calling the executor goes on inwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Function = Callable[..., Any]
Options = dict[str, Any]


class CallbacksMP:
    """When a callback of a model is called, by the names that `add_callback_with_key` takes."""

    ON_CLONE = "on_clone"
    ON_LOAD = "on_load_after"
    ON_DETACH = "on_detach_after"
    ON_CLEANUP = "on_cleanup"
    ON_PRE_RUN = "on_pre_run"
    ON_PREPARE_STATE = "on_prepare_state"
    ON_APPLY_HOOKS = "on_apply_hooks"
    ON_REGISTER_ALL_HOOK_PATCHES = "on_register_all_hook_patches"
    ON_INJECT_MODEL = "on_inject_model"
    ON_EJECT_MODEL = "on_eject_model"

    @classmethod
    def init_callbacks(cls) -> dict[str, dict[str | None, list[Function]]]:
        """An empty list of each kind."""
        return {}


class WrappersMP:
    """What a wrapper of a model goes around, outermost first."""

    OUTER_SAMPLE = "outer_sample"
    PREPARE_SAMPLING = "prepare_sampling"
    SAMPLER_SAMPLE = "sampler_sample"
    PREDICT_NOISE = "predict_noise"
    CALC_COND_BATCH = "calc_cond_batch"
    APPLY_MODEL = "apply_model"
    DIFFUSION_MODEL = "diffusion_model"

    @classmethod
    def init_wrappers(cls) -> dict[str, dict[str | None, list[Function]]]:
        """An empty list of each kind."""
        return {}


def _of(options: Options, is_model_options: bool) -> Options:
    return options.get("transformer_options", {}) if is_model_options else options


def _add(family: str, kind: str, key: str | None, function: Function, options: Options, is_model_options: bool) -> None:
    if is_model_options:
        options = options.setdefault("transformer_options", {})
    options.setdefault(family, {}).setdefault(kind, {}).setdefault(key, []).append(function)


def _all(family: str, kind: str, options: Options, is_model_options: bool) -> list[Function]:
    by_key = _of(options, is_model_options).get(family, {}).get(kind, {})
    return [function for functions in by_key.values() for function in functions]


def _with_key(family: str, kind: str, key: str | None, options: Options, is_model_options: bool) -> list[Function]:
    found: list[Function] = _of(options, is_model_options).get(family, {}).get(kind, {}).get(key, [])
    return found


def add_callback(
    call_type: str, callback: Function, transformer_options: Options, is_model_options: bool = False
) -> None:
    """Add a callback without a key. is_model_options: the options are `model_options`, which hold the others."""
    _add("callbacks", call_type, None, callback, transformer_options, is_model_options)


def add_callback_with_key(
    call_type: str, key: str, callback: Function, transformer_options: Options, is_model_options: bool = False
) -> None:
    """Add a callback under a key."""
    _add("callbacks", call_type, key, callback, transformer_options, is_model_options)


def get_callbacks_with_key(
    call_type: str, key: str, transformer_options: Options, is_model_options: bool = False
) -> list[Function]:
    """The callbacks of a kind under a key."""
    return _with_key("callbacks", call_type, key, transformer_options, is_model_options)


def get_all_callbacks(call_type: str, transformer_options: Options, is_model_options: bool = False) -> list[Function]:
    """The callbacks of a kind under all keys."""
    return _all("callbacks", call_type, transformer_options, is_model_options)


def add_wrapper(
    wrapper_type: str, wrapper: Function, transformer_options: Options, is_model_options: bool = False
) -> None:
    """Add a wrapper without a key."""
    _add("wrappers", wrapper_type, None, wrapper, transformer_options, is_model_options)


def add_wrapper_with_key(
    wrapper_type: str, key: str, wrapper: Function, transformer_options: Options, is_model_options: bool = False
) -> None:
    """Add a wrapper under a key."""
    _add("wrappers", wrapper_type, key, wrapper, transformer_options, is_model_options)


def get_wrappers_with_key(
    wrapper_type: str, key: str, transformer_options: Options, is_model_options: bool = False
) -> list[Function]:
    """The wrappers of a kind under a key."""
    return _with_key("wrappers", wrapper_type, key, transformer_options, is_model_options)


def get_all_wrappers(wrapper_type: str, transformer_options: Options, is_model_options: bool = False) -> list[Function]:
    """The wrappers of a kind under all keys, outermost first."""
    return _all("wrappers", wrapper_type, transformer_options, is_model_options)


def _takes(function: Function, name: str) -> bool:
    """Whether a function can be given an argument of that name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # one that does not tell
        return True
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


class WrapperExecutor:
    """A function inside its wrappers. Called by a wrapper it goes on to the next one, and last to the function.

    original: the function. class_obj: the object it belongs to, if it is a method.
    """

    def __init__(self, original: Function, class_obj: Any, wrappers: Sequence[Function], idx: int) -> None:
        self.original = original
        self.class_obj = class_obj
        self.wrappers = list(wrappers)
        self.idx = idx

    @property
    def is_last(self) -> bool:
        """Whether nothing but the function itself is left."""
        return self.idx == len(self.wrappers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What a wrapper calls: the next wrapper, or the function."""
        return WrapperExecutor(self.original, self.class_obj, self.wrappers, self.idx + 1).execute(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run from here inwards."""
        if self.is_last:
            return self.original(*args, **kwargs)
        wrapper = self.wrappers[self.idx]
        if "latent_shapes" in kwargs and not _takes(wrapper, "latent_shapes"):
            # Wrappers written before there was this argument name all of theirs; they work as they did.
            kwargs = {name: value for name, value in kwargs.items() if name != "latent_shapes"}
        return wrapper(self, *args, **kwargs)

    @classmethod
    def new_executor(cls, original: Function, wrappers: Sequence[Function], idx: int = 0) -> WrapperExecutor:
        """Around a plain function."""
        return cls(original, None, wrappers, idx)

    @classmethod
    def new_class_executor(
        cls, original: Function, class_obj: Any, wrappers: Sequence[Function], idx: int = 0
    ) -> WrapperExecutor:
        """Around a method of `class_obj`."""
        return cls(original, class_obj, wrappers, idx)


def run_network(network: Any, options: dict[str, Any], *arguments: Any, **named: Any) -> Any:
    """A network's own pass, `_forward`, inside the wrappers of diffusion models that `options` has.

    network: the module. options: a copy of transformer_options, usually one of the arguments as well.
    """
    wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
    return WrapperExecutor.new_class_executor(network._forward, network, wrappers).execute(*arguments, **named)


@dataclass
class PatcherInjection:
    """Two functions of a model: one changes it before it runs, the other takes the change back."""

    inject: Function
    eject: Function


def copy_nested_dicts(input_dict: dict[Any, Any]) -> dict[Any, Any]:
    """Dictionaries and lists copied all the way down, everything else shared."""
    copied: dict[Any, Any] = {}
    for key, value in input_dict.items():
        if isinstance(value, dict):
            copied[key] = copy_nested_dicts(value)
        else:
            copied[key] = list(value) if isinstance(value, list) else value
    return copied


def merge_nested_dicts(dict1: dict[Any, Any], dict2: dict[Any, Any], copy_dict1: bool = True) -> dict[Any, Any]:
    """Both in one: lists joined, the first's entries before the second's; of two plain values the second's."""
    merged = copy_nested_dicts(dict1) if copy_dict1 else dict1
    for key, value in dict2.items():
        mine = merged.get(key)
        if isinstance(value, dict):
            merged[key] = merge_nested_dicts(mine if isinstance(mine, dict) else {}, value, copy_dict1=False)
        elif isinstance(value, list):
            merged[key] = [*(mine if isinstance(mine, list) else ()), *value]
        else:
            merged[key] = value
    return merged
