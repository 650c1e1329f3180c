"""ComfyAPI, its versions, resources, compiling, project files: the rest of comfy_api and comfy_config."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from limner.compat.finder import installed
from limner.compat.homes import comfy_config, feature_flags
from limner.compat.homes.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS, set_torch_compile_wrapper
from limner.compat.host import Host
from limner.compat.v3 import io
from limner.compat.v3.api import ComfyAPI, ComfyAPISync, get_all_versions
from limner.compat.v3.internal import ProxiedSingleton, classproperty, first_real_override, lock_class
from limner.errors import LimnerError, NotFound
from limner.sampling.wrappers import WrapperExecutor, WrappersMP
from limner.settings import Settings
from tests.compat.v3.make import running


def test_progress_is_told_of_the_running_node_or_of_another(tmp_path: Path) -> None:
    # rule P2
    with running(tmp_path) as run:
        asyncio.run(ComfyAPI().execution.set_progress(1, 4))
        ComfyAPISync().execution.set_progress(2, 4, node_id="9")
    assert run.sink.told == [("7", 1, 4, None), ("9", 2, 4, None)]


def test_a_preview_may_be_a_tensor_and_may_keep_its_size(tmp_path: Path) -> None:
    # rule P4
    with running(tmp_path) as run:
        ComfyAPISync().execution.set_progress(1, 2, preview_image=torch.ones(1, 5, 7, 3), ignore_size_limit=True)
    form, picture, side = run.sink.told[0][3]
    assert (form, picture.size, side) == ("JPEG", (7, 5), None)
    assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_outside_of_nodes_progress_has_nowhere_to_go() -> None:
    with pytest.raises(LimnerError, match="No node is running"):
        ComfyAPISync().execution.set_progress(1, 2)


def test_there_is_one_object_of_each_version_of_the_api() -> None:
    assert ComfyAPI() is ComfyAPI()
    assert ComfyAPI() is not ComfyAPISync()
    assert [one.version for one in get_all_versions()] == ["latest", "0.0.2", "0.0.1"]
    assert all(one.api_class().execution is ComfyAPI().execution for one in get_all_versions())


def test_resources_are_read_once_and_a_missing_one_gives_its_default(tmp_path: Path) -> None:
    (tmp_path / "models" / "loras").mkdir(parents=True)
    file = tmp_path / "models" / "loras" / "fox.safetensors"
    save_file({"a": torch.ones(2)}, file)
    resources = io.ResourcesLocal()
    with running(tmp_path) as run, installed(host=Host(run.settings, run.store)):
        first = resources.get(io.TorchDictFolderFilename("loras", "fox.safetensors"))
        file.unlink()
        assert resources.get(io.TorchDictFolderFilename("loras", "fox.safetensors")) is first
        assert resources.get(io.TorchDictFolderFilename("loras", "none.safetensors"), None) is None
        with pytest.raises(NotFound):
            resources.get(io.TorchDictFolderFilename("loras", "none.safetensors"))
    assert first["a"].tolist() == [1.0, 1.0]


class Network(torch.nn.Module):
    """A network of one's own: those of torch itself are not compiled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1


class Base:
    """A model as wrappers of its apply_model see it."""

    def __init__(self) -> None:
        self.diffusion_model = Network()

    def apply_model(self, x: torch.Tensor) -> torch.Tensor:
        return self.diffusion_model(x)


class Patched:
    """What a model patcher has of wrappers."""

    def __init__(self) -> None:
        self.model_options: dict = {}
        self.wrappers: dict = {}

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.pop((kind, key), None)

    def add_wrapper_with_key(self, kind: str, key: str, wrapper) -> None:
        self.wrappers[kind, key] = wrapper


def test_compiling_wraps_the_network_for_the_time_of_a_call_and_gives_the_same() -> None:
    graphs: list[object] = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model, base = Patched(), Base()
    set_torch_compile_wrapper(model, backend=backend)
    set_torch_compile_wrapper(model, backend=backend)
    assert model.model_options["transformer_options"][TORCH_COMPILE_KWARGS]["backend"] is backend
    (wrapper,) = model.wrappers.values()
    assert list(model.wrappers) == [(WrappersMP.APPLY_MODEL, COMPILE_KEY)]
    x = torch.ones(1, 2)
    expected = base.apply_model(x)
    for _ in range(2):
        found = WrapperExecutor.new_class_executor(base.apply_model, base, [wrapper]).execute(x)
        assert torch.allclose(found, expected)
    assert len(graphs) == 1, "compiled once, called twice"
    assert base.diffusion_model._compiled_call_impl is None


def test_a_packs_project_file_is_read_into_values(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        """
        [project]
        name = "fox"
        version = "1.2.3"
        license = {file = "LICENSE"}
        dependencies = ["numpy"]
        requires-python = ">=3.10"
        [project.urls]
        Repository = "https://example.org/fox"
        [tool.comfy]
        PublisherId = "fox"
        DisplayName = "The Fox"
        web = "js"
        Banner = "b.png"
        Models = [{location = "/checkpoints/a", model_url = "https://example.org/a"}]
        """,
        encoding="utf-8",
    )
    (tmp_path / "__init__.py").touch()
    found = comfy_config.extract_node_configuration(tmp_path)
    assert found is not None
    assert (found.project.name, found.project.version, found.project.license.file) == ("fox", "1.2.3", "LICENSE")
    assert (found.project.dependencies, found.project.requires_python) == (["numpy"], ">=3.10")
    assert found.project.urls.repository == "https://example.org/fox"
    assert (found.tool_comfy.display_name, found.tool_comfy.web, found.tool_comfy.banner_url) == (
        "The Fox",
        "js",
        "b.png",
    )
    assert found.tool_comfy.models == [comfy_config.Model("/checkpoints/a", "https://example.org/a")]
    assert comfy_config.extract_node_configuration(tmp_path / "none") is None


def test_features_of_the_server_and_of_its_clients() -> None:
    told = feature_flags.get_server_features()
    assert told == {
        "supports_preview_metadata": True,
        "max_upload_size": Settings().max_upload_bytes,
    }
    clients = {"a": {"feature_flags": {"supports_preview_metadata": True, "words": "many"}}}
    assert feature_flags.supports_feature(clients, "a", "supports_preview_metadata")
    assert not feature_flags.supports_feature(clients, "a", "words"), "only what is exactly true"
    assert not feature_flags.supports_feature(clients, "b", "supports_preview_metadata")
    assert feature_flags.get_connection_feature(clients, "a", "words") == "many"


def test_the_machinery_that_packs_may_use() -> None:
    class Mine(ProxiedSingleton):
        @classproperty
        def NAME(cls):
            return cls.__name__

        def work(self):
            return 1

    class Other(Mine):
        def work(self):
            return 2

    assert (Mine.NAME, Other.NAME) == ("Mine", "Other")
    assert Mine() is Mine.get_instance()
    assert Other() is not Mine()
    assert first_real_override(Mine, "work", base=Mine) is None
    assert first_real_override(Other, "work", base=Mine) is not None
    with pytest.raises(AttributeError):
        lock_class(Other).x = 1
