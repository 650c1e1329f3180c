"""Animations: frames, their time, and the texts inside, byte by byte."""

import io
import json
import struct

import pytest
import torch
from PIL import Image as Picture

from limner.errors import BadInput
from limner.nodes import image_animated, image_files
from tests.nodes.make import run_in

PROMPT = {"1": {"class_type": "Ä", "inputs": {}}}
EXTRA = {"workflow": {"nodes": []}, "more": [1, 2]}


@pytest.fixture
def run(tmp_path):
    return run_in(tmp_path)


def frames(*values):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 4, 6, 3).clone()


def saved(run, shown):
    entry = shown["images"][0]
    return run.store.files.resolve(entry["type"], entry["subfolder"], entry["filename"])


def test_a_webp_holds_all_frames_exactly_and_their_time(run):
    shown = image_animated.save_webp(run, frames(0.0, 0.5, 1.0), "a/b", 7.0, method="default").ui
    assert shown["images"] == [{"filename": "b_00001_.webp", "subfolder": "a", "type": "output"}]
    assert list(shown["animated"]) == [True]
    with Picture.open(saved(run, shown)) as picture:
        assert picture.n_frames == 3
        picture.seek(1)
        picture.load()
        assert picture.info["duration"] == 142  # 1000 / 7, cut off
        assert picture.convert("RGB").getpixel((0, 0)) == (127, 127, 127)


def test_a_webp_carries_its_texts_in_exif_fields_that_count_downwards(run):  # rule H3
    shown = image_animated.save_webp(run, frames(0.0), method="fastest", prompt=PROMPT, extra_pnginfo=EXTRA).ui
    assert list(shown["animated"]) == [False]
    with Picture.open(saved(run, shown)) as picture:
        exif = picture.getexif()
    assert exif[0x0110] == "prompt:" + json.dumps(PROMPT)
    assert exif[0x010F] == "workflow:" + json.dumps(EXTRA["workflow"])
    assert exif[0x010E] == "more:" + json.dumps(EXTRA["more"])


def chunks(data):
    """Kind and content of each chunk of a PNG."""
    at, found = 8, []
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += length + 12
    return found


def test_an_animated_png_carries_its_texts_in_chunks_after_the_data(run):  # rule H3
    shown = image_animated.save_png(run, frames(0.0, 1.0), "ComfyUI", 4.0, prompt=PROMPT, extra_pnginfo=EXTRA).ui
    data = saved(run, shown).read_bytes()
    found = chunks(data)
    texts = [content for kind, content in found if kind == b"comf"]
    assert texts == [
        key + b"\0" + json.dumps(value).encode()
        for key, value in ((b"prompt", PROMPT), (b"workflow", EXTRA["workflow"]), (b"more", EXTRA["more"]))
    ]
    kinds = [kind for kind, _ in found]
    assert kinds.index(b"comf") > kinds.index(b"IDAT")
    with Picture.open(io.BytesIO(data)) as picture:
        assert picture.n_frames == 2
        assert picture.info["duration"] == 250


@pytest.mark.parametrize("form", ["webp", "png", "still"])
def test_metadata_can_be_left_out(tmp_path, form):  # rule H2
    run = run_in(tmp_path, disable_metadata=True)
    texts = {"prompt": PROMPT, "extra_pnginfo": EXTRA}
    if form == "webp":
        shown = image_animated.save_webp(run, frames(0.0, 1.0), method="default", **texts).ui
    elif form == "png":
        shown = image_animated.save_png(run, frames(0.0, 1.0), **texts).ui
    else:
        shown = image_files.save_image(run, frames(0.0), **texts).ui
    data = saved(run, shown).read_bytes()
    for word in (b"prompt", b"workflow", b"comf", b"class_type"):
        assert word not in data


def test_animations_keep_alpha(run):
    rgba = torch.zeros(2, 4, 4, 4)
    rgba[1, ..., 3] = 1
    for shown in (
        image_animated.save_webp(run, rgba, method="slowest").ui,
        image_animated.save_png(run, rgba).ui,
    ):
        with Picture.open(saved(run, shown)) as picture:
            assert picture.convert("RGBA").getpixel((0, 0))[3] == 0


def test_a_result_of_the_output_folder_is_loaded_by_its_annotated_name(run):
    shown = image_files.save_image(run, frames(0.0)).ui["images"][0]
    loaded = image_files.load_output(run, f"{shown['filename']} [output]")
    assert loaded.IMAGE.shape == (1, 4, 6, 3)
    assert image_files.load_output.companions["changes_when"](run, f"{shown['filename']} [output]")


def test_a_camera_picture_is_loaded_from_where_the_browser_put_it(run):
    folder = run.store.files.root("temp") / "webcam"
    folder.mkdir()
    Picture.new("RGB", (3, 2), (255, 0, 0)).save(folder / "1.png")
    made = image_files.webcam(run, "webcam/1.png [temp]")
    assert made[0, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_a_picture_too_wide_for_webp_is_refused_in_words(run):
    with pytest.raises(BadInput, match="17000×1"):
        image_animated.save_webp(run, torch.zeros(1, 1, 17000, 3), method="fastest")
    assert list(run.store.files.root("output").iterdir()) == []


def test_grey_frames_are_saved_and_other_channels_refused(run):
    shown = image_animated.save_png(run, torch.rand(2, 4, 4, 1)).ui
    with Picture.open(saved(run, shown)) as picture:
        assert picture.n_frames == 2
    with pytest.raises(BadInput, match="2, 2, 5"):
        image_animated.save_png(run, torch.rand(2, 2, 2, 5))


def test_a_single_frame_carries_its_texts_too_and_none_is_refused(run):
    shown = image_animated.save_png(run, frames(0.5), prompt=PROMPT).ui
    assert [kind for kind, _ in chunks(saved(run, shown).read_bytes())].count(b"comf") == 1
    for save in (image_animated.save_png, lambda run, images: image_animated.save_webp(run, images, method="default")):
        with pytest.raises(BadInput, match="no pictures"):
            save(run, frames(0.5)[:0])
