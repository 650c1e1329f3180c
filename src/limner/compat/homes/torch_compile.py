"""`comfy_api.torch_helpers`: compiling the parts of a model that a sampling run calls."""

from __future__ import annotations

from limner.models.compiling import (
    COMPILE_KEY,
    TORCH_COMPILE_KWARGS,
    Compiled,
    apply_torch_compile_factory,
    set_torch_compile_wrapper,
)

__all__ = [
    "COMPILE_KEY",
    "TORCH_COMPILE_KWARGS",
    "Compiled",
    "apply_torch_compile_factory",
    "set_torch_compile_wrapper",
]
