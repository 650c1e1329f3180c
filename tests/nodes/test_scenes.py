"""3-D scenes that the browser sends, vector files, and the picture of a training."""

import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from limner.errors import BadInput, Forbidden
from limner.nodes import load_3d, loss_graph, svg, video
from tests.nodes.make import run_in


@pytest.fixture
def run(tmp_path):
    made = run_in(tmp_path)
    folder = made.store.files.root("temp") / "threed"
    folder.mkdir()
    for name, colour in (("image", (255, 0, 0, 255)), ("mask", (0, 0, 0, 0)), ("normal", (0, 255, 0, 255))):
        Picture.new("RGBA", (4, 3), colour).save(folder / f"{name}.png")
    return made


def scene(**more):
    names = {name: f"threed/{name}.png [temp]" for name in ("image", "mask", "normal")}
    return names | {"camera_info": {"position": {"x": 1}}, "recording": ""} | more


def test_a_scene_is_what_the_browser_saw(run):
    view = load_3d.load_3d(run, "3d/fox.glb", scene())
    assert view.image[0, 0, 0].tolist() == [1, 0, 0]
    assert view.mask.shape == (1, 3, 4)
    assert view.mask.min() == 1
    assert view.normal[0, 0, 0].tolist() == [0, 1, 0]
    assert view.lineart.shape == view.image.shape
    assert not view.lineart.any()
    assert view.mesh_path == "3d/fox.glb"
    assert view.camera_info == {"position": {"x": 1}}
    assert view.recording_video is None
    assert len(load_3d.load_animation(run, "3d/fox.glb", scene())) == 6


def test_a_recording_comes_as_a_video(run):
    made = video.create(torch.zeros(2, 16, 16, 3), 8.0)
    made.save_to(run.store.files.root("temp") / "threed" / "film.mp4")
    view = load_3d.load_3d(run, "3d/fox.glb", scene(recording="threed/film.mp4 [temp]"))
    assert view.recording_video.get_dimensions() == (16, 16)


def test_a_scene_reaches_no_file_elsewhere(run):
    with pytest.raises(Forbidden):
        load_3d.load_3d(run, "3d/fox.glb", scene(image="../../secret.png [temp]"))


def test_a_preview_hands_model_and_camera_to_the_browser():
    assert list(load_3d.preview("mesh/a.glb", camera_info={"fov": 1}).ui["result"]) == ["mesh/a.glb", {"fov": 1}]
    assert list(load_3d.preview_animation("mesh/a.glb").ui["result"]) == ["mesh/a.glb", None]


PICTURE = b"""<?xml version="1.0"?><!-- drawn --><svg xmlns="http://www.w3.org/2000/svg" data-a="1 > 0"><circle r="1"/></svg>"""


def test_a_vector_file_carries_prompt_and_workflow_as_its_first_element(run):  # rules H2, F5
    prompt = {"1": {"inputs": {"text": "a ]]> b <&"}}}
    value = svg.Svg([io.BytesIO(PICTURE), io.BytesIO(PICTURE)])
    shown = svg.save(run, value, prompt=prompt, extra_pnginfo={"workflow": {"n": 1}}).ui["images"]
    assert [entry["filename"] for entry in shown] == ["ComfyUI_00001_.svg", "ComfyUI_00002_.svg"]
    data = run.store.files.resolve("output", "svg", "ComfyUI_00001_.svg").read_bytes()
    first, circle = ElementTree.fromstring(data)
    assert first.tag.endswith("metadata")
    assert circle.tag.endswith("circle")
    assert json.loads(first.text) == {"prompt": prompt, "workflow": {"n": 1}}


def test_a_vector_file_without_metadata_stays_as_it_is(tmp_path):
    run = run_in(tmp_path, disable_metadata=True)
    svg.save(run, svg.Svg([io.BytesIO(PICTURE)]), prompt={"1": {}})
    assert run.store.files.resolve("output", "svg", "ComfyUI_00001_.svg").read_bytes() == PICTURE
    assert svg.with_metadata(b"no vector \xff", {"prompt": {}}) == b"no vector \xff"


def test_a_training_is_drawn_from_its_greatest_to_its_least_loss(run):
    (entry,) = loss_graph.plot(run, {"loss": [3.0, 1.0, 0.5]}, "losses").ui["images"]
    assert entry["type"] == "temp"
    assert entry["filename"].startswith("losses_")
    blue = (np.array(loss_graph.graph([2.0, 1.0])) == (0, 90, 200)).all(-1)
    rows, columns = blue.nonzero()
    assert rows[columns.argmin()] < rows[columns.argmax()]
    with pytest.raises(BadInput, match="no loss"):
        loss_graph.plot(run, {})
