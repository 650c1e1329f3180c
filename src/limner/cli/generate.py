"""limner generate: a picture from words."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from limner.cli.assemble import assembled
from limner.cli.run import execute
from limner.errors import BadInput
from limner.settings import Settings
from limner.store import Store

STARTER = "limner-starter.safetensors"
# What a full-size Stable Diffusion 1 checkpoint is used with; a file may say otherwise in `limner_defaults`.
DEFAULTS: Mapping[str, Any] = {
    "width": 512, "height": 512, "steps": 20, "cfg": 7.0, "sampler": "dpmpp_2m", "scheduler": "karras",
    "prompt": "a red apple", "negative": "",
}  # fmt: skip


def generate(
    prompt: str = "",
    /,
    *,
    settings: Settings,
    seed: int = -1,
    steps: int = 0,
    size: str = "",
    model: str = STARTER,
    negative: str = "",
    cfg: float = 0.0,
    count: int = 1,
    output: str = "",
) -> Iterator[str]:
    """Draw a picture from words and print where it is.

    prompt: what to draw; the model's own example if left out.
    seed: the same seed and words give the same picture; a new one each time if left out.
    steps: how many sampling steps; the model's own number if left out.
    size: width×height in pixels, for example 512x768; the model's native size if left out.
    model: a checkpoint of the model folders.
    negative: what to keep away from.
    cfg: how strictly the words are followed; the model's own value if left out.
    count: how many pictures.
    output: the folder for results, in place of the output folder.
    """
    from dataclasses import replace

    if output:
        settings = replace(settings, output_directory=output)
    with assembled(settings, owned=False) as parts:
        chosen = {**DEFAULTS, **checkpoint_defaults(parts.store, model)}
        chosen |= {name: value for name, value in (("steps", steps), ("cfg", cfg), ("prompt", prompt)) if value}
        chosen |= {"negative": negative or chosen["negative"], **parse_size(size)}
        chosen["seed"] = secrets.randbits(48) if seed < 0 else seed
        yield from execute(parts, text_to_image(model, chosen, count))


def checkpoint_defaults(store: Store, model: str) -> dict[str, Any]:
    """What a checkpoint says it is best used with: `limner_defaults` in its metadata. Raises NotFound."""
    from limner.weights.safetensors import read_spans

    path = store.folders.path("checkpoints", model)
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return {}
    _, metadata = read_spans(path)
    found: dict[str, Any] = json.loads(metadata.get("limner_defaults", "{}"))
    return found


def parse_size(text: str) -> dict[str, int]:
    """Width and height of `512x768` or `512`; nothing for an empty text. Raises BadInput."""
    if not text:
        return {}
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise BadInput(f"--size {text} is no size.", do="Write width×height in pixels, for example 512x768.")
    return {"width": int(sides[0]), "height": int(sides[-1])}


def text_to_image(model: str, chosen: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The prompt that draws `count` pictures."""

    def call(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    return {
        "checkpoint": call("CheckpointLoaderSimple", ckpt_name=model),
        "positive": call("CLIPTextEncode", text=chosen["prompt"], clip=["checkpoint", 1]),
        "negative": call("CLIPTextEncode", text=chosen["negative"], clip=["checkpoint", 1]),
        "latent": call("EmptyLatentImage", width=chosen["width"], height=chosen["height"], batch_size=count),
        "sampler": call(
            "KSampler",
            model=["checkpoint", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=chosen["seed"],
            steps=chosen["steps"],
            cfg=chosen["cfg"],
            sampler_name=chosen["sampler"],
            scheduler=chosen["scheduler"],
            denoise=1.0,
        ),
        "picture": call("VAEDecode", samples=["sampler", 0], vae=["checkpoint", 2]),
        "save": call("SaveImage", images=["picture", 0], filename_prefix="limner"),
    }
