"""comfy-api-simplified 1.6.0: posts, then opens its socket, then reads the history."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from limner.engine import NodeRegistry
from limner.graph import convert_workflow
from tests.clients.make import ASSETS, PICTURE, Live, has_starter

simplified = pytest.importorskip("comfy_api_simplified")


def workflow(prompt: dict[str, Any]) -> Any:
    return simplified.ComfyWorkflowWrapper(copy.deepcopy(prompt))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_workflow_gives_its_picture(limner: Live) -> None:
    api = simplified.ComfyApiWrapper(limner.url)
    wanted = workflow(PICTURE)
    wanted.set_node_param("Blank", "color", 0xFF8000)

    ((name, data),) = api.queue_and_wait_images(wanted, "Save Image").items()

    assert name.startswith("client_0")
    picture = opened(data)
    assert (picture.size, picture.getpixel((5, 5))) == ((64, 48), (255, 128, 0))


def test_a_workflow_that_is_cached_gives_its_picture_again(limner: Live) -> None:
    api = simplified.ComfyApiWrapper(limner.url)

    first = api.queue_and_wait_images(workflow(PICTURE), "Save Image")
    again = api.queue_and_wait_images(workflow(PICTURE), "Save Image")

    assert list(first.values()) == list(again.values())


def test_an_upload_can_be_loaded(limner: Live, tmp_path: Path) -> None:
    api = simplified.ComfyApiWrapper(limner.url)
    Image.new("RGB", (16, 8), (1, 2, 3)).save(tmp_path / "up.png")

    kept = api.upload_image(str(tmp_path / "up.png"))
    load = {"class_type": "LoadImage", "inputs": {"image": f"{kept['subfolder']}/{kept['name']}"}}
    prompt = {"1": {**load, "_meta": {"title": "Load"}}, "2": PICTURE["2"]}
    (data,) = api.queue_and_wait_images(workflow(prompt), "Save Image").values()

    assert opened(data).getpixel((0, 0)) == (1, 2, 3)


def test_an_execution_error_raises(limner: Live) -> None:
    api = simplified.ComfyApiWrapper(limner.url)
    # The client opens its socket after it has posted: the first node gives it the time to.
    slow = {"class_type": "EmptyImage", "inputs": {"width": 2048, "height": 2048, "batch_size": 1, "color": 9}}
    bigger = {
        "class_type": "ImageScale",
        "inputs": {"image": ["1", 0], "upscale_method": "lanczos", "width": 3000, "height": 3000, "crop": "disabled"},
    }
    outside = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "../../outside"}}

    with pytest.raises(simplified.ComfyApiError):
        api.queue_and_wait_images(workflow({"1": slow, "2": bigger, "3": outside}), "Save Image")


def test_a_prompt_that_is_refused_raises(limner: Live) -> None:
    api = simplified.ComfyApiWrapper(limner.url)

    with pytest.raises(simplified.ComfyApiError, match="400"):
        api.queue_prompt({"1": {"class_type": "Gone", "inputs": {}}})


@pytest.mark.skipif(not has_starter(), reason="the starter checkpoint is not in the package")
def test_words_become_a_picture(limner: Live) -> None:
    api = simplified.ComfyApiWrapper(limner.url)
    saved = json.loads((ASSETS / "workflows" / "text_to_image.json").read_text())
    prompt = workflow(convert_workflow(saved, NodeRegistry.open()))
    prompt.set_node_param("Prompt", "text", "a yellow banana")
    prompt.set_node_param("KSampler", "steps", 4)

    (data,) = api.queue_and_wait_images(prompt, "Save Image").values()

    picture = opened(data)
    assert picture.size == (128, 128)
    assert len(picture.getcolors(1 << 16) or range(1 << 16)) > 100
