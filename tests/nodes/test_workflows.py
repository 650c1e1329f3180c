"""The workflows of the package become prompts of the built-in nodes, with every input in its place."""

import json
from importlib import resources

import pytest

from limner.graph import convert_workflow
from tests.nodes.test_schemas import SCHEMAS


def converted(name):
    text = resources.files("limner").joinpath("assets", "workflows", f"{name}.json").read_text()
    return convert_workflow(json.loads(text), SCHEMAS)


def test_text_to_image():
    prompt = converted("text_to_image")
    assert prompt["3"]["inputs"] == {
        "seed": 7,
        "steps": 20,
        "cfg": 3,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
        "denoise": 1,
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
    }
    assert prompt["5"]["inputs"] == {"width": 128, "height": 128, "batch_size": 1}
    assert prompt["6"]["_meta"]["title"] == "Prompt"


def test_image_to_image():
    prompt = converted("image_to_image")
    assert prompt["10"]["inputs"] == {"image": "example.png"}
    assert prompt["11"]["inputs"] == {
        "upscale_method": "area",
        "width": 128,
        "height": 128,
        "crop": "center",
        "image": ["10", 0],
    }
    assert prompt["3"]["inputs"]["denoise"] == 0.6


@pytest.mark.parametrize("name", ["text_to_image", "image_to_image"])
def test_every_required_input_is_there(name):
    for call in converted(name).values():
        required = {port.name for port in SCHEMAS[call["class_type"]].inputs if port.required}
        assert required <= set(call["inputs"])
