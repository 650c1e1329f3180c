"""Names that packs take from a module of ComfyUI which only imports them."""

from __future__ import annotations

import importlib

import pytest

from limner.compat.finder import installed


@pytest.mark.parametrize(
    ("module", "name", "owner"),
    [
        ("comfy.ldm.modules.diffusionmodules.openaimodel", "SpatialTransformer", "comfy.ldm.modules.attention"),
        ("comfy.model_patcher", "PatcherInjection", "comfy.patcher_extension"),
        ("comfy_extras.nodes_model_advanced", "rescale_zero_terminal_snr_sigmas", "comfy.model_sampling"),
        ("comfy.model_base", "UNetModel", "comfy.ldm.modules.diffusionmodules.openaimodel"),
    ],
)
def test_a_class_or_function_comes_from_the_module_that_has_it(module: str, name: str, owner: str) -> None:
    with installed():
        found = getattr(importlib.import_module(module), name)
        assert found is getattr(importlib.import_module(owner), name)


def test_modules_pass_on_libraries_and_one_another() -> None:
    with installed():
        samplers = importlib.import_module("comfy.samplers")
        assert samplers.torch is importlib.import_module("torch")
        assert samplers.F is importlib.import_module("torch.nn.functional")
        assert samplers.comfy is importlib.import_module("comfy")
        assert importlib.import_module("comfy.sd").model_management is importlib.import_module("comfy.model_management")


def test_a_name_of_several_meanings_is_not_guessed() -> None:
    with installed(), pytest.raises(AttributeError, match="unknown to Limner"):
        _ = importlib.import_module("comfy.samplers").HunyuanVideo


def test_a_name_that_nothing_has_is_still_missing() -> None:
    with installed(), pytest.raises(ImportError, match="cannot import name"):
        exec("from comfy.samplers import something_of_next_year")


def test_what_limner_uses_itself_is_not_passed_on() -> None:
    with installed():
        assert not hasattr(importlib.import_module("comfy.samplers"), "placeholder")
        assert not hasattr(importlib.import_module("comfy.samplers"), "LimnerError")


def test_the_api_of_v3_passes_nothing_on() -> None:
    with installed():
        assert not hasattr(importlib.import_module("comfy_api.latest"), "ModelPatcher")
