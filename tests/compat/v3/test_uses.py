"""A pack as packs are written against comfy_api.latest: every class that packs use, used."""

from __future__ import annotations

import asyncio
import io as bytes_io
import json
from fractions import Fraction
from pathlib import Path

import pytest

from limner.compat.finder import installed
from limner.compat.sources.v3 import V3Class
from tests.compat.v3.make import running


@pytest.fixture(autouse=True)
def finder(tmp_path: Path):
    with installed(base=tmp_path) as one:
        yield one


def told(cls) -> dict:
    return json.loads(json.dumps(V3Class(cls).describe()))


def test_widgets_and_their_values() -> None:
    from comfy_api.latest import io

    class Widgets(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="Widgets",
                inputs=[
                    io.Int.Input("i", default=2, display_mode=io.NumberDisplay.slider),
                    io.Float.Input("f", default=0.5),
                    io.Boolean.Input("b", default=True),
                    io.String.Input("s", default="x"),
                    io.Combo.Input("c", options=["p", "q"], image_folder=io.FolderType.output),
                ],
                outputs=[
                    io.Int.Output("I"),
                    io.Float.Output("F"),
                    io.Boolean.Output("B"),
                    io.String.Output("S"),
                    io.Combo.Output("C", options=["p", "q"]),
                ],
            )

        @classmethod
        def execute(cls, i, f, b, s, c) -> io.NodeOutput:
            return io.NodeOutput(i + 1, f * 2, not b, s.upper(), c)

    info = told(Widgets)
    assert [port[0] for port in info["input"]["required"].values()] == ["INT", "FLOAT", "BOOLEAN", "STRING", "COMBO"]
    assert info["input"]["required"]["i"][1]["display"] == "slider"
    assert info["input"]["required"]["c"][1]["image_folder"] == "output"
    assert info["output"] == ["INT", "FLOAT", "BOOLEAN", "STRING", ["p", "q"]]
    assert Widgets.execute(i=1, f=0.5, b=True, s="x", c="q").args == (2, 1.0, False, "X", "q")


def test_sockets_and_what_comes_through_them() -> None:
    import torch
    from comfy_api.latest import io

    inputs = {
        "image": io.Image.Input("image"),
        "mask": io.Mask.Input("mask"),
        "latent": io.Latent.Input("latent"),
        "conditioning": io.Conditioning.Input("conditioning"),
        "model": io.Model.Input("model"),
        "vae": io.Vae.Input("vae"),
        "clip": io.Clip.Input("clip"),
        "control": io.ControlNet.Input("control"),
        "sigmas": io.Sigmas.Input("sigmas"),
        "audio": io.Audio.Input("audio"),
        "video": io.Video.Input("video"),
        "bbox": io.BBOX.Input("bbox"),
        "box": io.BoundingBox.Input("box"),
        "tracks": io.Tracks.Input("tracks"),
        "upscaler": io.LatentUpscaleModel.Input("upscaler"),
        "any": io.AnyType.Input("any"),
        "own": io.Custom("MINE").Input("own"),
        "several": io.MultiType.Input("several", [io.Image, io.Mask]),
    }
    outputs = [
        *(io.Image.Output(), io.Mask.Output(), io.Latent.Output(), io.Conditioning.Output(), io.Model.Output()),
        *(io.Vae.Output(), io.ControlNet.Output(), io.Sigmas.Output(), io.Sampler.Output(), io.Audio.Output()),
        *(
            io.BBOX.Output(),
            io.BoundingBox.Output(),
            io.Tracks.Output(),
            io.AnyType.Output(),
            io.Custom("MINE").Output(),
        ),
    ]

    class Sockets(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Sockets", inputs=list(inputs.values()), outputs=outputs)

        @classmethod
        def execute(cls, image: io.Image.Type, **more) -> io.NodeOutput:
            return io.NodeOutput(image.mean(), *more)

    kinds = {name: port[0] for name, port in told(Sockets)["input"]["required"].items()}
    assert (kinds["control"], kinds["box"], kinds["several"]) == ("CONTROL_NET", "BOUNDING_BOX", "IMAGE,MASK")
    assert (kinds["any"], kinds["own"], kinds["upscaler"]) == ("*", "MINE", "LATENT_UPSCALE_MODEL")
    assert told(Sockets)["output"][-3:] == ["TRACKS", "*", "MINE"]
    given = dict.fromkeys(list(inputs)[1:])
    found = V3Class(Sockets).function(Sockets)(image=torch.ones(1, 2, 2, 3), **given)
    assert float(found.values[0]) == 1.0


def test_inputs_that_are_not_one() -> None:
    from comfy_api.latest import io

    template = io.MatchType.Template("T")

    class Grown(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="Grown",
                inputs=[
                    io.Autogrow.Input(
                        "v", template=io.Autogrow.TemplateNames(io.Int.Input("n"), names=["a", "b"], min=1)
                    ),
                    io.DynamicCombo.Input(
                        "mode",
                        options=[io.DynamicCombo.Option("x2", []), io.DynamicCombo.Option("by", [io.Int.Input("k")])],
                    ),
                    io.MatchType.Input("m", template=template),
                ],
                outputs=[io.Int.Output(), io.MatchType.Output(template=template)],
            )

        @classmethod
        def execute(cls, v, mode, m):
            return io.NodeOutput(sum(v.values()) * mode.get("k", 2), m)

    call = V3Class(Grown).function(Grown)
    assert call(**{"v.a": 1, "v.b": 2, "mode": "by", "mode.k": 5, "m": "same"}).values == (15, "same")
    assert call(**{"v.a": 1, "mode": "x2", "m": None}).values == (2, None)


def test_hidden_values_and_an_extension() -> None:
    from comfy_api.latest import ComfyExtension, io

    class Hides(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            wanted = [io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo]
            return io.Schema(node_id="Hides", outputs=[io.String.Output()], hidden=wanted)

        @classmethod
        def execute(cls):
            return io.NodeOutput(f"{cls.hidden.unique_id} {cls.hidden.prompt} {cls.hidden.extra_pnginfo}")

    class Pack(ComfyExtension):
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return [Hides]

    (cls,) = asyncio.run(Pack().get_node_list())
    clone = cls.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "3", io.Hidden.prompt: {}}})
    assert clone.execute()[0] == "3 {} None"


def test_what_nodes_show(tmp_path: Path) -> None:
    import torch
    from comfy_api.latest import io, ui

    sound = {"waveform": torch.zeros(1, 1, 2400), "sample_rate": 24000}
    with running(tmp_path):
        image = ui.PreviewImage(torch.zeros(1, 4, 4, 3)).as_dict()
        mask = ui.PreviewMask(torch.zeros(1, 4, 4)).as_dict()
        audio = ui.PreviewAudio(sound).as_dict()
        for one in (image["images"], mask["images"], audio["audio"]):
            assert (tmp_path / "temp" / one[0]["filename"]).is_file()
    saved = ui.SavedResult("a.mp4", "", io.FolderType.output)
    assert ui.PreviewVideo([saved]).as_dict()["images"][0]["filename"] == "a.mp4"
    assert io.NodeOutput(ui=ui.PreviewText("hi")).ui.as_dict() == {"text": ["hi"]}


def test_videos() -> None:
    import torch
    from comfy_api.latest import InputImpl, Types

    assert Types.VideoContainer.as_input() == ["auto", "mp4"]
    assert Types.VideoCodec.as_input() == ["auto", "h264"]
    assert Types.VideoContainer.get_extension("mp4") == "mp4"
    video = InputImpl.VideoFromComponents(Types.VideoComponents(torch.zeros(4, 16, 16, 3), Fraction(8)))
    buffer = bytes_io.BytesIO()
    video.save_to(buffer, Types.VideoContainer.MP4, Types.VideoCodec.H264)
    assert InputImpl.VideoFromFile(buffer).get_components().images.shape == (4, 16, 16, 3)


def test_a_client_with_a_feature() -> None:
    from comfy_api.feature_flags import supports_feature

    assert supports_feature({"s": {"feature_flags": {"f": True}}}, "s", "f")


def test_kinds_of_v1() -> None:
    from comfy.comfy_types.node_typing import IO

    from limner.graph import kinds_match

    assert kinds_match("LATENT", IO.ANY)
    assert IO.ANY.value == "*"
