"""comfy.model_patcher: what is not a method of a model: options of models and helpers of patching."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from torch import Tensor

from limner.memory import casting
from limner.models.options import copied
from limner.models.patcher import attribute


def string_to_seed(data: str) -> int:
    """A number of 32 bits from a text."""
    crc = 0xFFFFFFFF
    for byte in data.encode() if isinstance(data, str) else data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xEDB88320 if crc & 1 else crc >> 1
    return crc ^ 0xFFFFFFFF


def set_model_options_patch_replace(
    model_options: dict[str, Any], patch: Any, name: str, block_name: str, number: int, transformer_index: Any = None
) -> dict[str, Any]:
    """A copy of options in which an attention or block is replaced."""
    inside = dict(model_options.get("transformer_options", {}))
    replaced = {point: dict(places) for point, places in inside.get("patches_replace", {}).items()}
    place = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
    replaced.setdefault(name, {})[place] = patch
    return {**model_options, "transformer_options": {**inside, "patches_replace": replaced}}


def _with_function(options: dict[str, Any], name: str, function: Any, keep_uncond: bool) -> dict[str, Any]:
    options[name] = [*options.get(name, []), function]
    if keep_uncond:
        options["disable_cfg1_optimization"] = True
    return options


def set_model_options_post_cfg_function(
    model_options: dict[str, Any], post_cfg_function: Any, disable_cfg1_optimization: bool = False
) -> dict[str, Any]:
    """Add a function of the guided prediction."""
    return _with_function(model_options, "sampler_post_cfg_function", post_cfg_function, disable_cfg1_optimization)


def set_model_options_pre_cfg_function(
    model_options: dict[str, Any], pre_cfg_function: Any, disable_cfg1_optimization: bool = False
) -> dict[str, Any]:
    """Add a function of the predictions before guidance."""
    return _with_function(model_options, "sampler_pre_cfg_function", pre_cfg_function, disable_cfg1_optimization)


def create_model_options_clone(orig_model_options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy: dictionaries and lists all the way down."""
    found: dict[str, Any] = copied(dict(orig_model_options))
    return found


def create_hook_patches_clone(orig_hook_patches: Mapping[Any, Any]) -> dict[Any, Any]:
    """A copy."""
    return {hook: copied(patches) for hook, patches in orig_hook_patches.items()}


def wipe_lowvram_weight(m: Any) -> None:
    """Take what was hung on a layer for weights elsewhere off it."""
    m.weight_function, m.bias_function = [], []


def move_weight_functions(m: Any, device: Any) -> int:
    """Bring a layer's functions of weights to a device. Returns the bytes moved: none."""
    del m, device
    return 0


def get_key_weight(model: Any, key: str) -> tuple[Tensor, Any, Any]:
    """(weight, set function, convert function) of a name."""
    owner, _, leaf = key.rpartition(".")
    holder = attribute(model, owner) if owner else model
    return getattr(holder, leaf), getattr(holder, f"set_{leaf}", None), getattr(holder, f"convert_{leaf}", None)


class LowVramPatch:
    """A weight's patches as a function of it."""

    def __init__(self, key: str, patches: Any, convert_func: Any = None, set_func: Any = None) -> None:
        self.key, self.patches, self.convert_func, self.set_func = key, patches, convert_func, set_func

    def __call__(self, weight: Tensor) -> Tensor:
        """The patched weight."""
        from limner.weights.patches import calculate_weight  # noqa: PLC0415 - late, so that replacements are used

        return calculate_weight(self.patches[self.key], weight, self.key)


class AutoPatcherEjector:
    """A model without its injections inside a `with` block."""

    def __init__(self, model: Any, skip_and_inject_on_exit_only: bool = False) -> None:
        self._context = model.use_ejected(skip_and_inject_on_exit_only)

    def __enter__(self) -> Any:
        return self._context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        return self._context.__exit__(kind, error, trace)


class MemoryCounter:
    """Bytes that may still be used."""

    def __init__(self, initial: int, minimum: int = 0) -> None:
        self.value, self.minimum = initial, minimum

    def use(self, weight: Tensor) -> bool:
        """Whether a weight fits; it counts then."""
        used = weight.nelement() * weight.element_size()
        if not self.is_useable(used):
            return False
        self.decrement(used)
        return True

    def is_useable(self, used: int) -> bool:
        """Whether so many bytes are left."""
        return self.value - used > self.minimum

    def decrement(self, used: int) -> None:
        """So many are used."""
        self.value -= used


MODULE_SIZE = casting.module_size
