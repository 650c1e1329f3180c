"""Compiling the parts of a model that a sampling run calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from limner.sampling.wrappers import WrappersMP

COMPILE_KEY = "torch.compile"
TORCH_COMPILE_KWARGS = "torch_compile_kwargs"


class Compiled:
    """How one part of a model is compiled; each network that takes its place is compiled once."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = dict(arguments)
        self._made: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()

    def of(self, module: nn.Module) -> Any:
        """The compiled call of a network."""
        found = self._made.get(module)
        if found is None:
            found = self._made[module] = torch.compile(module._call_impl, **self._arguments)
        return found


def apply_torch_compile_factory(compiled_module_dict: Mapping[str, Any]) -> Callable[..., Any]:
    """A wrapper of `apply_model` within which the named parts of the model are their compiled selves.

    compiled_module_dict: dotted name to a `Compiled` or to a compiled module.
    """

    def apply_torch_compile_wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for name, compiled in compiled_module_dict.items():
                module = executor.class_obj
                for part in name.split("."):
                    module = getattr(module, part)
                call = compiled.of(module) if isinstance(compiled, Compiled) else compiled
                # The slot that nn.Module.compile() fills; for the time of this call only, as clones share the network.
                stack.callback(setattr, module, "_compiled_call_impl", module._compiled_call_impl)
                module._compiled_call_impl = call
            return executor(*args, **kwargs)

    return apply_torch_compile_wrapper


def set_torch_compile_wrapper(
    model: Any,
    backend: str,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    keys: Sequence[str] = ("diffusion_model",),
    *args: Any,
    **kwargs: Any,
) -> None:
    """Compile parts of a model while it samples. Settings are those of torch.compile.

    keys: dotted names of the parts. A later call takes the place of an earlier one.
    """
    del args, kwargs
    settings: dict[str, Any] = {
        "backend": backend,
        "options": options,
        "mode": mode,
        "fullgraph": fullgraph,
        "dynamic": dynamic,
    }
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    wrapper = apply_torch_compile_factory({name: Compiled(settings) for name in keys or ("diffusion_model",)})
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY, wrapper)
    model.model_options.setdefault("transformer_options", {})[TORCH_COMPILE_KWARGS] = settings
