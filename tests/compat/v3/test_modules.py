"""The modules of comfy_api, comfy_config and comfy.comfy_types, imported by the names that packs write."""

from __future__ import annotations

import importlib
import json

import pytest

from limner.compat.finder import installed


@pytest.fixture(autouse=True)
def finder(tmp_path):
    with installed(base=tmp_path) as one:
        yield one


def test_the_latest_api_is_imported_as_packs_write_it() -> None:
    from comfy_api.latest import IO, UI, ComfyAPI, ComfyAPISync, ComfyExtension, Input, InputImpl, Types, io, ui

    assert io is IO
    assert ui is UI
    assert issubclass(InputImpl.VideoFromFile, Input.Video)
    assert Types.VideoContainer("mp4") is Types.VideoContainer.MP4
    assert Types.MESH("v", "f").faces == "f"
    assert (ComfyAPI().VERSION, ComfyAPISync().VERSION) == ("latest", "latest")
    assert ComfyExtension.__name__ == "ComfyExtension"


@pytest.mark.parametrize("version", ["latest", "v0_0_1", "v0_0_2"])
def test_every_version_has_the_same_classes(version: str) -> None:
    module = importlib.import_module(f"comfy_api.{version}")
    latest = importlib.import_module("comfy_api.latest")
    assert module.io.ComfyNode is latest.io.ComfyNode
    assert importlib.import_module(f"comfy_api.{version}._io").ComfyNode is latest.io.ComfyNode
    assert importlib.import_module(f"comfy_api.{version}.ui").PreviewImage is latest.ui.PreviewImage
    assert module.ComfyExtension is latest.ComfyExtension


def test_a_node_written_against_the_virtual_modules_describes_itself() -> None:
    scope: dict = {}
    exec(
        """
from comfy_api.latest import ComfyExtension, io
class Fox(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Fox", inputs=[io.Image.Input("image"), io.Int.Input("legs", default=4)],
                         outputs=[io.Image.Output()])
    @classmethod
    def execute(cls, image: io.Image.Type, legs: int) -> io.NodeOutput:
        return io.NodeOutput((image, legs))
""",
        scope,
    )
    told = json.loads(json.dumps(scope["Fox"].GET_NODE_INFO_V1()))
    assert told["input"]["required"] == {"image": ["IMAGE", {}], "legs": ["INT", {"default": 4}]}
    assert scope["Fox"].execute(image=1, legs=3).args == ((1, 3),)


def test_the_older_modules_have_the_same_values() -> None:
    import torch
    from comfy_api.input import AudioInput, ImageInput, MaskInput, VideoInput
    from comfy_api.input.basic_types import LatentInput
    from comfy_api.input_impl import VideoFromComponents
    from comfy_api.input_impl.video_types import VideoFromFile
    from comfy_api.internal import ComfyAPIBase, classproperty
    from comfy_api.latest import InputImpl
    from comfy_api.latest._util import MESH
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_api.util import VideoCodec, VideoComponents
    from comfy_api.util.video_types import VideoContainer
    from comfy_api.version_list import supported_versions

    assert (ImageInput, MaskInput) == (torch.Tensor, torch.Tensor)
    assert (VideoFromFile, VideoFromComponents) == (InputImpl.VideoFromFile, InputImpl.VideoFromComponents)
    assert issubclass(VideoFromFile, VideoInput)
    assert (VideoCodec.H264.value, VideoContainer.MP4.value) == ("h264", "mp4")
    assert VideoComponents(1, 2).audio is None
    assert len(supported_versions) == 3
    assert all((AudioInput, LatentInput, ComfyAPIBase, classproperty, MESH, set_torch_compile_wrapper))


def test_annotations_of_v1_nodes_are_there() -> None:
    from comfy.comfy_types import IO, CheckLazyMixin, ComfyNodeABC, FileLocator, InputTypeDict
    from comfy.comfy_types.node_typing import IO as SAME
    from comfy.types import UnetWrapperFunction

    class Fox(ComfyNodeABC, CheckLazyMixin):
        @classmethod
        def INPUT_TYPES(cls) -> InputTypeDict:
            return {"required": {"a": (IO.INT, {"lazy": True}), "b": (IO.ANY, {}), "c": (IO.IMAGE, {"lazy": True})}}

        RETURN_TYPES = (IO.INT,)

    assert IO is SAME
    assert (str(IO.INT), IO.INT == "INT", json.dumps(IO.IMAGE)) == ("INT", True, '"IMAGE"')
    assert Fox().check_lazy_status(a=None, b=None, c=1) == ["a"]
    assert FileLocator(filename="a", subfolder="", type="output")["type"] == "output"
    assert UnetWrapperFunction is not None


def test_kinds_of_several_fit_each_of_theirs_and_any_fits_all() -> None:
    from comfy.comfy_types import IO

    assert not (IO.ANY != "IMAGE")  # noqa: SIM202 - the comparison that the engine makes
    assert not (IO.NUMBER != "INT")  # noqa: SIM202
    assert IO.NUMBER != "STRING"
    assert IO.INT != "FLOAT"
    assert {IO.INT: 1}["INT"] == 1


def test_a_class_without_inputs_is_no_v1_node() -> None:
    from comfy.comfy_types import ComfyNodeABC

    with pytest.raises(TypeError):
        type("Bare", (ComfyNodeABC,), {})()


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        ("comfy_api_nodes.apinode_utils", "download_url_to_bytesio", "paid services"),
        ("comfy_api.internal.async_to_sync", "create_sync_class", "ComfyAPISync"),
        ("comfy_api.internal", "register_versions", "comfy_api.latest.ComfyAPI"),
    ],
)
def test_what_is_not_there_says_what_to_use(module: str, name: str, instead: str) -> None:
    with pytest.raises(AttributeError, match=instead):
        getattr(importlib.import_module(module), name)
