"""What nodes show, and the helpers that save for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from limner.compat.v3 import io, ui
from limner.store.audio import decode_audio, tags
from tests.compat.v3.make import running

PROMPT, EXTRA = {"1": {"class_type": "Füchse", "inputs": {}}}, {"workflow": {"nodes": []}}


class Cls:
    """What a node class carries while it runs."""

    hidden = io.HiddenHolder(prompt=PROMPT, extra_pnginfo=EXTRA)


def pictures(count: int = 2) -> torch.Tensor:
    images = torch.zeros(count, 8, 6, 3)
    for index in range(count):
        images[index] = (index + 1) / (count + 1)
    return images


def test_pictures_are_saved_under_running_numbers_with_prompt_and_workflow_inside(tmp_path: Path) -> None:
    # rules F2, H2
    with running(tmp_path):
        shown = ui.ImageSaveHelper.get_save_images_ui(pictures(), "foxes/fox_%width%x%height%", Cls).as_dict()
    assert shown == {
        "images": [
            {"filename": "fox_6x8_00001_.png", "subfolder": "foxes", "type": "output"},
            {"filename": "fox_6x8_00002_.png", "subfolder": "foxes", "type": "output"},
        ]
    }
    with Image.open(tmp_path / "output" / "foxes" / "fox_6x8_00002_.png") as picture:
        assert json.loads(picture.text["prompt"]) == PROMPT
        assert json.loads(picture.text["workflow"]) == EXTRA["workflow"]
        assert np.array(picture)[0, 0, 0] == int(255 * 2 / 3)


def test_without_a_class_or_with_metadata_off_nothing_is_written_into_files(tmp_path: Path) -> None:
    with running(tmp_path):
        one = ui.ImageSaveHelper.save_images(pictures(1), "a", io.FolderType.output, None)[0]
    with running(tmp_path, disable_metadata=True):
        two = ui.ImageSaveHelper.save_images(pictures(1), "a", io.FolderType.output, Cls)[0]
    for saved in (one, two):
        with Image.open(tmp_path / "output" / saved.filename) as picture:
            assert picture.text == {}


def test_animations_hold_every_picture_and_their_texts(tmp_path: Path) -> None:
    # rule H3
    with running(tmp_path):
        png = ui.ImageSaveHelper.get_save_animated_png_ui(pictures(3), "a", Cls, fps=4.0, compress_level=4).as_dict()
        webp = ui.ImageSaveHelper.get_save_animated_webp_ui(
            pictures(3), "a", Cls, fps=4.0, lossless=True, quality=80, method=4
        ).as_dict()
    for told, ending in ((png, "png"), (webp, "webp")):
        (image,) = told["images"]
        assert told["animated"] == [True]
        assert image["filename"] == f"a_00001_.{ending}" or image["filename"].endswith(ending)
        with Image.open(tmp_path / "output" / image["filename"]) as picture:
            assert picture.n_frames == 3
            if ending == "webp":
                assert picture.getexif()[0x0110] == "prompt:" + json.dumps(PROMPT)
    raw = (tmp_path / "output" / png["images"][0]["filename"]).read_bytes()
    assert b"comfprompt\0" in raw


def test_previews_lie_in_temp_under_a_name_of_their_own(tmp_path: Path) -> None:
    # rule F3
    with running(tmp_path):
        shown = ui.PreviewImage(pictures(), cls=Cls).as_dict()
        mask = ui.PreviewMask(torch.tensor([[[0.0, 1.0], [0.5, 0.0]]])).as_dict()
        with Image.open(tmp_path / "temp" / mask["images"][0]["filename"]) as picture:
            grey = np.array(picture).tolist()
    assert shown["animated"] == [False]
    assert [one["type"] for one in shown["images"]] == ["temp", "temp"]
    assert all(one["filename"].startswith("ComfyUI_temp_") for one in shown["images"])
    assert grey == [[[0] * 3, [255] * 3], [[127] * 3, [0] * 3]]


@pytest.mark.parametrize("form", ["flac", "mp3", "opus"])
def test_sound_is_saved_a_file_each_with_its_texts(tmp_path: Path, form: str) -> None:
    audio = {"waveform": torch.zeros(2, 1, 4800), "sample_rate": 24000}
    with running(tmp_path):
        shown = ui.AudioSaveHelper.get_save_audio_ui(audio, "audio/fox", Cls, form, "64k").as_dict()
    assert [one["filename"] for one in shown["audio"]] == [f"fox_00001_.{form}", f"fox_00002_.{form}"]
    path = tmp_path / "output" / "audio" / shown["audio"][0]["filename"]
    assert json.loads(tags(path)["prompt"]) == PROMPT
    assert decode_audio(path)[0].shape[0] == 1


def test_sound_to_be_heard_lies_in_temp(tmp_path: Path) -> None:
    with running(tmp_path):
        shown = ui.PreviewAudio({"waveform": torch.zeros(1, 2, 2400), "sample_rate": 24000}, cls=Cls).as_dict()
    assert [one["type"] for one in shown["audio"]] == ["temp"]


SHOWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "text": (ui.PreviewText("hi"), {"text": ["hi"]}),
    "model": (ui.PreviewUI3D("a.glb", {"zoom": 1}), {"result": ["a.glb", {"zoom": 1}]}),
    "video": (
        ui.PreviewVideo([ui.SavedResult("a.mp4", "video", io.FolderType.output)]),
        {"images": [{"filename": "a.mp4", "subfolder": "video", "type": "output"}], "animated": [True]},
    ),
    "saved": (
        ui.SavedImages([ui.SavedResult("a.png", "", "temp")]),
        {"images": [{"filename": "a.png", "subfolder": "", "type": "temp"}]},
    ),
    "animated": (ui.SavedImages([], is_animated=True), {"images": [], "animated": [True]}),
    "sounds": (ui.SavedAudios([]), {"audio": []}),
}


@pytest.mark.parametrize(("one", "told"), SHOWN.values(), ids=SHOWN)
def test_what_is_shown_is_told_as_clients_read_it(one: Any, told: dict[str, Any]) -> None:
    assert one.as_dict() == told
    assert json.loads(json.dumps(one.as_dict())) == told


def test_a_saved_result_has_its_parts_by_name() -> None:
    one = ui.SavedResult("a.png", "b", io.FolderType.output)
    assert (one.filename, one.subfolder, one.type, one["type"]) == ("a.png", "b", io.FolderType.output, "output")
