"""Prompts of many built-in nodes, run by the engine from their JSON."""

import json

import pytest
import torch
from PIL import Image as Picture

from limner.engine import Engine, NodeRegistry
from limner.nodes.video import create
from limner.settings import Settings
from limner.store import Store
from limner.store.audio import encode_audio
from tests.engine.make import Bench, call


@pytest.fixture
async def bench(tmp_path):
    settings = Settings(base_directory=str(tmp_path))
    store = Store.open(settings)
    engine = Engine(settings, store, NodeRegistry.open())
    await engine.start()
    for kind in ("input", "temp", "output"):
        store.files.root(kind).mkdir(parents=True, exist_ok=True)
    yield Bench(engine)
    await engine.close()
    store.close()


async def outputs(bench, prompt, **body):
    entry = await bench.run(prompt, **body)
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry["outputs"]


async def test_pictures_go_through_lists_effects_and_animations(bench, tmp_path):
    prompt = {
        "a": call("EmptyImage", width=16, height=8, batch_size=3, color=0x808080),
        "list": call("RebatchImages", images=["a", 0], batch_size=2),
        "noise": call("ImageAddNoise", image=["list", 0], seed=1, strength=0.2),
        "blur": call("ImageBlur", image=["noise", 0], blur_radius=1, sigma=1.0),
        "stitch": call(
            "ImageStitch",
            image1=["blur", 0],
            direction="right",
            match_image_size=True,
            spacing_width=0,
            spacing_color="white",
            image2=["blur", 0],
        ),
        "save": call(
            "SaveAnimatedWEBP",
            images=["stitch", 0],
            filename_prefix="clip",
            fps=8.0,
            lossless=True,
            quality=80,
            method="default",
        ),
    }
    found = await outputs(bench, prompt, extra_data={"extra_pnginfo": {"workflow": {"nodes": []}}})
    assert [entry["filename"] for entry in found["save"]["images"]] == ["clip_00001_.webp", "clip_00002_.webp"]
    assert found["save"]["animated"] == [True, False]
    with Picture.open(tmp_path / "output" / "clip_00001_.webp") as picture:
        assert picture.size == (32, 8)
        assert (
            json.loads(picture.getexif()[0x0110].removeprefix("prompt:"))["a"]["class_type"] == "EmptyImage"
        )  # rule H1
        assert picture.getexif()[0x010F] == 'workflow:{"nodes": []}'


async def test_files_that_the_browser_made_are_read(bench, tmp_path):
    (tmp_path / "temp" / "threed").mkdir()
    Picture.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "temp" / "threed" / "a.png")
    (tmp_path / "input" / "3d").mkdir()
    (tmp_path / "input" / "3d" / "fox.glb").write_bytes(b"")
    tone = encode_audio(torch.zeros(1, 800).numpy(), 8000)
    (tmp_path / "input" / "tone.flac").write_bytes(tone)
    create(torch.zeros(2, 16, 16, 3), 8.0).save_to(tmp_path / "input" / "film.mp4")
    scene = dict.fromkeys(("image", "mask", "normal", "lineart"), "threed/a.png [temp]")
    prompt = {
        "scene": call(
            "Load3D", model_file="3d/fox.glb", image=scene | {"camera_info": {}, "recording": ""}, width=4, height=4
        ),
        "show": call("Preview3D", model_file=["scene", 2], camera_info=["scene", 5]),
        "camera": call("WebcamCapture", image="threed/a.png [temp]", width=0, height=0, capture_on_queue=True),
        "size": call("GetImageSize", image=["camera", 0]),
        "wide": call("PreviewAny", source=["size", 0]),
        "record": call("RecordAudio", audio="tone.flac"),
        "load": call("LoadAudio", audio="tone.flac"),
        "mix": call("AudioMerge", audio1=["load", 0], audio2=["record", 0], merge_method="mean"),
        "hear": call("PreviewAudio", audio=["mix", 0]),
        "film": call("LoadVideo", file="film.mp4"),
        "parts": call("GetVideoComponents", video=["film", 0]),
        "made": call("CreateVideo", images=["parts", 0], fps=["parts", 2], audio=["mix", 0]),
        "keep": call("SaveVideo", video=["made", 0], filename_prefix="video/ComfyUI", format="auto", codec="auto"),
        "image": call("LoadImageOutput", image="seen.png [output]"),
        "mask": call("MaskPreview", mask=["image", 1]),
    }
    Picture.new("RGB", (2, 2)).save(tmp_path / "output" / "seen.png")
    found = await outputs(bench, prompt)
    assert found["show"]["result"] == ["3d/fox.glb", {}]
    assert found["wide"]["text"] == ["4"]
    assert found["hear"]["audio"][0]["type"] == "temp"
    assert found["keep"]["images"][0]["filename"] == "ComfyUI_00001_.mp4"
    assert len(found["mask"]["images"]) == 1


async def test_pictures_are_sent_over_the_socket_each_time(bench):
    prompt = {
        "a": call("EmptyImage", width=3, height=2, batch_size=2, color=0xFF0000),
        "send": call("SaveImageWebsocket", images=["a", 0]),
    }
    for _ in range(2):
        await outputs(bench, prompt)
        sent = [event for event in bench.events if event.type == "preview"]
        assert [event.image_type for event in sent] == ["image/png"] * 2
        assert sent[0].image.startswith(b"\x89PNG")


async def test_a_pattern_that_runs_away_is_cancelled_and_the_next_prompt_runs(bench):
    slow = {
        "a": call(
            "RegexMatch",
            string="a" * 40 + "!",
            regex_pattern="(a+)+$",
            case_insensitive=True,
            multiline=False,
            dotall=False,
        ),
        "b": call("PreviewAny", source=["a", 0]),
    }
    accepted = await bench.engine.submit({"prompt": slow, "client_id": "me"})
    await bench.until("executing")
    bench.engine.interrupt()
    entry = await bench.engine.wait(accepted.prompt_id)
    assert entry["status"]["status_str"] == "error"
    assert [name for name, _ in entry["status"]["messages"]][-1] == "execution_interrupted"
    found = await outputs(bench, slow | {"a": {**slow["a"], "inputs": {**slow["a"]["inputs"], "string": "aaa"}}})
    assert found["b"]["text"] == ["True"]


DEFAULT_PREFIXES = {
    "SaveImage": "ComfyUI",
    "SaveAnimatedWEBP": "ComfyUI",
    "SaveAnimatedPNG": "ComfyUI",
    "SaveWEBM": "ComfyUI",
    "SaveLatent": "latents/ComfyUI",
    "SaveVideo": "video/ComfyUI",
    "SaveAudio": "audio/ComfyUI",
    "SaveAudioMP3": "audio/ComfyUI",
    "SaveAudioOpus": "audio/ComfyUI",
    "SaveGLB": "mesh/ComfyUI",
    "SaveSVGNode": "svg/ComfyUI",
}


@pytest.mark.parametrize("kind", DEFAULT_PREFIXES)
def test_results_of_each_kind_have_their_own_folder(kind):  # rule F5
    port = NodeRegistry.open().get(kind).input("filename_prefix")
    assert port.options["default"] == DEFAULT_PREFIXES[kind]
