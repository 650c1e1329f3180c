"""comfy_extras.chainner_models.model_loading: upscale models, through the package `spandrel` where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor

from limner.compat.homes.not_yet import placeholder
from limner.errors import LimnerError

PyTorchModel = placeholder("PyTorchModel", "upscale")


def load_state_dict(state_dict: Mapping[str, Tensor]) -> Any:
    """The upscale network of tensors. Raises LimnerError where spandrel is not installed or does not know it."""
    try:
        spandrel = import_module("spandrel")
    except ImportError as error:
        raise LimnerError(
            "The upscale model cannot be loaded.",
            why="The package spandrel, which knows these networks, is not installed.",
            do="Install it: `pip install spandrel`.",
        ) from error
    return spandrel.ModelLoader().load_from_state_dict(dict(state_dict)).eval().model
