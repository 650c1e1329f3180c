"""What V3 classes say of themselves, down to each key of each kind of input."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from limner.compat.sources.v3 import V3Class
from limner.compat.v3 import io
from limner.graph import kinds_match
from tests.compat.v3.make import node


class Size(str, Enum):
    SMALL = "small"
    LARGE = "large"


OPTIONS = {
    "boolean": (
        io.Boolean.Input("x", default=True, label_on="yes", label_off="no"),
        "BOOLEAN",
        {"default": True, "label_on": "yes", "label_off": "no"},
    ),
    "int": (
        io.Int.Input(
            "x", default=1, min=0, max=9, step=2, control_after_generate=True, display_mode=io.NumberDisplay.slider
        ),
        "INT",
        {"default": 1, "min": 0, "max": 9, "step": 2, "control_after_generate": True, "display": "slider"},
    ),
    "int without a default": (io.Int.Input("x"), "INT", {}),
    "float": (
        io.Float.Input("x", default=0.5, min=0.0, max=1.0, step=0.1, round=0.01, display_mode=io.NumberDisplay.number),
        "FLOAT",
        {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.1, "round": 0.01, "display": "number"},
    ),
    "string": (io.String.Input("x"), "STRING", {"multiline": False}),
    "long string": (
        io.String.Input("x", default="a", multiline=True, placeholder="p", dynamic_prompts=True),
        "STRING",
        {"default": "a", "multiline": True, "placeholder": "p", "dynamicPrompts": True},
    ),
    "combo": (io.Combo.Input("x", ["a", "b"]), "COMBO", {"multiselect": False, "options": ["a", "b"]}),
    "combo of an enum": (
        io.Combo.Input("x", options=Size, default=Size.LARGE),
        "COMBO",
        {"default": "large", "multiselect": False, "options": ["small", "large"]},
    ),
    "combo of files": (
        io.Combo.Input("x", ["a.png"], upload=io.UploadType.image, image_folder=io.FolderType.output),
        "COMBO",
        {"multiselect": False, "options": ["a.png"], "image_upload": True, "image_folder": "output"},
    ),
    "remote combo": (
        io.Combo.Input("x", remote=io.RemoteOptions("/names", True, timeout=500)),
        "COMBO",
        {
            "multiselect": False,
            "remote": {
                "route": "/names",
                "refresh_button": True,
                "control_after_refresh": "first",
                "timeout": 500,
            },
        },
    ),
    "multi combo": (
        io.MultiCombo.Input("x", ["a", "b"], placeholder="p", chip=True),
        "COMBO",
        {"multiselect": True, "options": ["a", "b"], "multi_select": True, "placeholder": "p", "chip": True},
    ),
    "socket": (
        io.Image.Input("x", display_name="X", tooltip="what", lazy=True, extra_dict={"mine": 1}, raw_link=True),
        "IMAGE",
        {"display_name": "X", "tooltip": "what", "lazy": True, "rawLink": True, "mine": 1},
    ),
    "widget's own": (
        io.Int.Input("x", socketless=True, widget_type="KNOB", force_input=True),
        "INT",
        {"socketless": True, "widgetType": "KNOB", "forceInput": True},
    ),
    "an option of a later version": (io.Float.Input("x", gradient=[0, 1]), "FLOAT", {"gradient": [0, 1]}),
    "several kinds": (io.MultiType.Input("x", [io.Image, io.Mask, "FOO"]), "IMAGE,MASK,FOO", {}),
    "several kinds with a widget": (
        io.MultiType.Input(io.Int.Input("x", default=3), [io.Float, io.Int]),
        "INT,FLOAT",
        {"default": 3, "widgetType": "INT"},
    ),
    "anything": (io.AnyType.Input("x"), "*", {}),
    "webcam": (io.Webcam.Input("x"), "WEBCAM", {}),
    "own": (io.Custom("MY_KIND").Input("x"), "MY_KIND", {}),
}


@pytest.mark.parametrize(("one", "kind", "options"), OPTIONS.values(), ids=OPTIONS)
def test_an_input_is_told_by_its_kind_and_options(one: io.Input, kind: str, options: dict[str, Any]) -> None:
    made = node("N", lambda cls, x: None, [one])
    assert V3Class(made).describe()["input"] == {"required": {"x": [kind, options]}}


SOCKETS = """Image IMAGE, Mask MASK, Latent LATENT, Conditioning CONDITIONING, Sampler SAMPLER, Sigmas SIGMAS, Noise NOISE,
Guider GUIDER, Clip CLIP, ControlNet CONTROL_NET, Vae VAE, Model MODEL, ClipVision CLIP_VISION, ClipVisionOutput
CLIP_VISION_OUTPUT, AudioEncoder AUDIO_ENCODER, AudioEncoderOutput AUDIO_ENCODER_OUTPUT, StyleModel STYLE_MODEL, Gligen
GLIGEN, UpscaleModel UPSCALE_MODEL, Audio AUDIO, Video VIDEO, SVG SVG, LoraModel LORA_MODEL, LossMap LOSS_MAP, Voxel
VOXEL, Mesh MESH, Hooks HOOKS, HookKeyframes HOOK_KEYFRAMES, TimestepsRange TIMESTEPS_RANGE, LatentOperation
LATENT_OPERATION, FlowControl FLOW_CONTROL, Accumulation ACCUMULATION, Load3DCamera LOAD3D_CAMERA, Load3D LOAD_3D,
Load3DAnimation LOAD_3D_ANIMATION, Photomaker PHOTOMAKER, Point POINT, FaceAnalysis FACE_ANALYSIS, BBOX BBOX, SEGS SEGS,
WanCameraEmbedding WAN_CAMERA_EMBEDDING, MODEL_PATCH MODEL_PATCH, Autogrow COMFY_AUTOGROW_V3, MatchType
COMFY_MATCHTYPE_V3, ComboDynamic COMFY_COMBODYNAMIC_V3, Tracks TRACKS, BoundingBox BOUNDING_BOX, LatentUpscaleModel
LATENT_UPSCALE_MODEL"""


@pytest.mark.parametrize("pair", " ".join(SOCKETS.split()).split(", "))
def test_every_type_has_its_kind_string(pair: str) -> None:
    name, kind = pair.split()
    assert getattr(io, name).io_type == kind
    assert getattr(io, name).Input.io_type == kind


def test_python_types_are_found_when_annotations_ask_for_them() -> None:
    import torch

    assert io.Image.Type is torch.Tensor
    assert (io.Int.Type, io.String.Type, io.Boolean.Type) == (int, str, bool)
    assert io.Video.Type.__name__ == "VideoInput"


def test_the_schema_becomes_the_properties_of_v1() -> None:
    def execute(cls, a):
        return io.NodeOutput(a)

    made = node(
        "Kind",
        execute,
        [io.Int.Input("a"), io.Image.Input("b", optional=True)],
        [io.Int.Output(display_name="sum"), io.Image.Output(is_output_list=True, tooltip="pictures")],
        display_name="Title",
        category="maths",
        description="Adds.",
        is_input_list=True,
        is_output_node=True,
        is_deprecated=True,
        is_experimental=True,
        not_idempotent=True,
        hidden=[io.Hidden.unique_id],
    )
    assert (made.RETURN_TYPES, made.RETURN_NAMES) == (["INT", "IMAGE"], ["sum", "IMAGE"])
    assert (made.OUTPUT_IS_LIST, made.OUTPUT_TOOLTIPS) == ([False, True], [None, "pictures"])
    assert (made.CATEGORY, made.DESCRIPTION, made.FUNCTION) == ("maths", "Adds.", "EXECUTE_NORMALIZED")
    assert (made.INPUT_IS_LIST, made.OUTPUT_NODE, made.DEPRECATED, made.EXPERIMENTAL) == (True, True, True, True)
    assert (made.API_NODE, made.NOT_IDEMPOTENT) == (False, True)
    types, schema = made.INPUT_TYPES(return_schema=True)
    assert (list(types), schema.node_id) == (["required", "optional", "hidden"], "Kind")
    assert types["hidden"] == {
        "unique_id": ("UNIQUE_ID",),
        "prompt": ("PROMPT",),
        "extra_pnginfo": ("EXTRA_PNGINFO",),
    }
    assert "hidden" not in made.INPUT_TYPES(include_hidden=False)


def test_an_async_execute_has_the_async_function() -> None:
    async def execute(cls):
        return None

    assert node("N", execute).FUNCTION == "EXECUTE_NORMALIZED_ASYNC"


def test_the_description_has_every_key_of_v3_and_hidden_inputs_are_lists() -> None:
    made = node("N", lambda cls: None, outputs=[io.Image.Output()], is_output_node=True, is_api_node=True)
    info = made.GET_NODE_INFO_V1()
    assert list(info) == [
        *("input", "input_order", "output", "output_is_list", "output_name", "output_tooltips", "name"),
        *("display_name", "description", "python_module", "category", "output_node", "deprecated", "experimental"),
        "api_node",
    ]
    assert list(info["input"]) == ["required", "hidden"]
    assert list(info["input"]["hidden"]) == ["auth_token_comfy_org", "api_key_comfy_org", "prompt", "extra_pnginfo"]
    assert [list(value) for value in info["input"]["hidden"].values()][-1] == ["EXTRA_PNGINFO"]
    assert (info["display_name"], info["api_node"], info["category"]) == (None, True, "sd")


def test_the_later_form_of_the_description_has_inputs_and_outputs_by_id() -> None:
    info = node(
        "N", lambda cls, a: None, [io.Int.Input("a", optional=True, min=1)], [io.Mask.Output()]
    ).GET_NODE_INFO_V3()
    assert info["input"] == {"a": ("INT", {"min": 1, "optional": True})}
    assert list(info["output"]) == ["_0_MASK_"]


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([io.Int.Input("a"), io.Image.Input("a")], []),
        ([], [io.Int.Output("a"), io.Image.Output("a")]),
    ],
)
def test_ids_are_unique_inside_inputs_and_inside_outputs(inputs: list[Any], outputs: list[Any]) -> None:
    with pytest.raises(ValueError, match="a"):
        node("N", lambda cls: None, inputs, outputs).GET_SCHEMA()


def test_an_input_and_an_output_may_share_an_id_as_packs_have_it() -> None:
    made = node("N", lambda cls: None, [io.Int.Input("a")], [io.Image.Output("a")])

    assert made.GET_SCHEMA().node_id == "N"


def test_fields_of_later_versions_are_taken_and_told() -> None:
    made = node("N", lambda cls: None, search_aliases=["sum"], is_dev_only=True, some_future_field=3)
    info = made.GET_NODE_INFO_V1()
    assert (info["search_aliases"], info["dev_only"]) == (["sum"], True)
    assert "some_future_field" not in info
    assert made.GET_SCHEMA().price_badge is None


def test_a_class_without_schema_or_work_is_refused() -> None:
    bare = type("Bare", (io.ComfyNode,), {})
    with pytest.raises(Exception, match="define_schema"):
        bare.VALIDATE_CLASS()
    lazy = type("Lazy", (io.ComfyNode,), {"define_schema": classmethod(lambda cls: io.Schema("Lazy"))})
    with pytest.raises(Exception, match="execute"):
        lazy.GET_SCHEMA()


def test_an_own_type_by_decorator_binds_its_input_and_output() -> None:
    @io.comfytype(io_type="FOX")
    class Fox(io.ComfyTypeIO):
        Type = dict

        class Input(io.WidgetInput):
            def __init__(self, name, legs=4, **how):
                super().__init__(name, **how)
                self.legs = legs

            def own_options(self):
                return {**super().own_options(), "legs": self.legs}

    assert Fox.Input("x", legs=3).as_dict() == {"legs": 3}
    assert Fox.Input("x").get_io_type() == Fox.Output().get_io_type() == "FOX"
    assert Fox.Input.Parent is Fox
    assert io.ComfyTypeIO.Output.io_type == "*", "the base is untouched"


def test_the_wildcard_differs_from_nothing() -> None:
    kind = io.AnyType.Input("x").get_io_type()
    assert kinds_match("IMAGE", kind)
    assert kinds_match(kind, "IMAGE")
    assert kind == "*"


def test_a_combo_output_is_the_list_of_its_values() -> None:
    made = node("N", lambda cls: None, outputs=[io.Combo.Output(options=["a", "b"])])
    assert made.RETURN_TYPES == [["a", "b"]]
    assert made.RETURN_NAMES == ["COMBO"]
