"""Files and graphs of the families at reduced width.

A family is here once, in the table `SMALL` of `tests.families.small`: its networks, what its files call them, and the
graph that a person would draw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from limner.models.convert import clip_to_open_clip
from limner.weights import save
from tests.families.networks import AUTOENCODERS, ENCODERS, Part

Link = list[Any]
"""An output of a node: its id and which one."""
SIDE = 64
"""Of a picture, in pixels."""
WORDS = ("", "stable_diffusion", "sdxl", "sd3")


class Graph:
    """A prompt of the API, built node by node."""

    def __init__(self) -> None:
        self.prompt: dict[str, dict[str, Any]] = {}

    def outputs(self, kind: str, number: int, **inputs: Any) -> list[Link]:
        """A new node, and links to its first outputs."""
        name = str(len(self.prompt) + 1)
        self.prompt[name] = {"class_type": kind, "inputs": inputs}
        return [[name, place] for place in range(number)]

    def add(self, kind: str, **inputs: Any) -> Link:
        """A new node, and a link to its first output."""
        return self.outputs(kind, 1, **inputs)[0]


class Loaded(NamedTuple):
    """What the loaders gave. vision: a vision encoder, of a family that has one."""

    model: Link
    clip: Link
    vae: Link
    vision: Link | None = None


class Prepared(NamedTuple):
    """What the sampler is given."""

    model: Link
    positive: Link
    negative: Link
    latent: Link


Encode = Callable[[Graph, Loaded, str], Link]
Prepare = Callable[[Graph, Loaded, Link, Link], Prepared]


@dataclass(frozen=True)
class Small:
    """A family, or one of its builds, at reduced width.

    name: also of its files, unless `files` names another entry that has the same. family: and the build of it that it
    is, by name. diffusion: its network; marks: tensors beside it. text: the prefix of each text encoder in a checkpoint; `open_clip` says which of them it has in
    open_clip's layout. vae: prefix and name of its autoencoder; None for pixels. type: the loader's word for its text.
    encode: a prompt to conditioning. prepare: the loaded parts and both conditionings to what the sampler is given.
    vision: prefix of the vision encoder in its checkpoint, and that encoder. extra: files beside it, path → network. side: of the picture that comes out. zeroed: what
    it does not show is nothing, as a person would draw it whose prompt is costly. tolerance: mean absolute difference
    of pixels, of 255, that computing in bfloat16 may make.
    """

    name: str
    family: tuple[str, str | None]
    diffusion: Part
    text: Mapping[str, str]
    vae: tuple[str, str] | None
    type: str
    encode: Encode
    prepare: Prepare
    cfg: float = 2.0
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    open_clip: frozenset[str] = frozenset()
    files: str = ""
    extra: Mapping[str, Part] = field(default_factory=dict)
    vision: tuple[str, Part] | None = None
    side: int = SIDE
    zeroed: bool = False
    tolerance: float = 1.0

    @property
    def file(self) -> str:
        """What its files are called."""
        return f"{self.files or self.name}.safetensors"


def write(small: Small, models: Path) -> None:
    """Its checkpoint, its diffusion model alone, and what is beside it. Files that are there already stay."""
    diffusion, marks = small.diffusion.tensors(), dict(small.marks)
    config: dict[str, Any] = {"unet": small.diffusion.config}
    _save(models / "diffusion_models" / small.file, {**diffusion, **marks}, {"config": json.dumps(config)})
    whole = {f"model.diffusion_model.{name}": value for name, value in diffusion.items()} | marks
    tokenizers = {}
    for kind, prefix in small.text.items():
        encoder = ENCODERS[kind]
        tensors = encoder.tensors()
        tensors = clip_to_open_clip(tensors) if kind in small.open_clip else tensors
        whole |= {prefix + name: value for name, value in tensors.items()}
        config[kind] = encoder.config
        assert encoder.tokenizer is not None
        tokenizers[f"{kind}.tokenizer_json"] = encoder.tokenizer()
    if small.vision is not None:
        prefix, sees = small.vision
        whole |= {prefix + name: value for name, value in sees.tensors().items()}
        config["clip_vision"] = sees.config
        _save(models / "clip_vision" / small.file, sees.tensors(), {"config": json.dumps(sees.config)})
    if small.vae is not None:
        prefix, name = small.vae
        whole |= {prefix + key: value for key, value in AUTOENCODERS[name].tensors().items()}
        config["vae"] = AUTOENCODERS[name].config
    _save(models / "checkpoints" / small.file, whole, {"config": json.dumps(config), **tokenizers})
    for path, part in small.extra.items():
        _save(models / path, part.tensors(), {"config": json.dumps(part.config)})


def write_shared(base: Path) -> None:
    """The text encoders and autoencoders in files of their own, and a picture with a hole in the input folder."""
    for kind, encoder in ENCODERS.items():
        assert encoder.tokenizer is not None
        said = {"config": json.dumps({kind: encoder.config}), "tokenizer_json": encoder.tokenizer()}
        _save(base / "models" / "text_encoders" / f"{kind}.safetensors", encoder.tensors(), said)
    for name, part in AUTOENCODERS.items():
        said = {"config": json.dumps({"vae": part.config})}
        _save(base / "models" / "vae" / f"{name}.safetensors", part.tensors(), said)
    (base / "input").mkdir(parents=True, exist_ok=True)
    picture = Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGBA")
    ImageDraw.Draw(picture).ellipse((8, 8, 40, 40), fill=(200, 40, 90, 255))
    picture.paste((0, 0, 0, 0), (32, 32, 56, 56))
    picture.save(base / "input" / "picture.png")
    picture.rotate(90).save(base / "input" / "other.png")


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, {name: value.contiguous() for name, value in tensors.items()}, dict(metadata))


# -- graphs -----------------------------------------------------------------------------------------------------------


def from_checkpoint(graph: Graph, small: Small) -> Loaded:
    """Everything from one file."""
    if small.vision is not None:
        return Loaded(*graph.outputs("unCLIPCheckpointLoader", 4, ckpt_name=small.file))
    model, clip, vae = graph.outputs("CheckpointLoaderSimple", 3, ckpt_name=small.file)
    return Loaded(model, clip, vae if small.vae is not None else _pixels(graph))


def from_split_files(graph: Graph, small: Small) -> Loaded:
    """The diffusion model, the text encoders and the autoencoder from files of their own."""
    model = graph.add("UNETLoader", unet_name=small.file, weight_dtype="default")
    names = [f"{kind}.safetensors" for kind in reversed(small.text)]
    if len(names) == 1:
        clip = graph.add("CLIPLoader", clip_name=names[0], type=small.type, device="default")
    elif len(names) == 2:
        clip = graph.add("DualCLIPLoader", clip_name1=names[0], clip_name2=names[1], type=small.type)
    else:
        clip = graph.add("TripleCLIPLoader", **{f"clip_name{n}": name for n, name in enumerate(names, 1)})
    if small.vae is None:
        return Loaded(model, clip, _pixels(graph))
    vae = graph.add("VAELoader", vae_name=f"{small.vae[1]}.safetensors")
    vision = None if small.vision is None else graph.add("CLIPVisionLoader", clip_name=small.file)
    return Loaded(model, clip, vae, vision)


def _pixels(graph: Graph) -> Link:
    return graph.add("VAELoader", vae_name="pixel_space")


def workflow(small: Small, load: Callable[[Graph, Small], Loaded], prompt: str = "a cat") -> dict[str, Any]:
    """The whole prompt: loaders, text, latent, two steps, picture, file."""
    graph = Graph()
    loaded = load(graph, small)
    positive = small.encode(graph, loaded, prompt)
    if small.zeroed:
        negative = graph.add("ConditioningZeroOut", conditioning=positive)
    else:
        negative = small.encode(graph, loaded, "on a mat")
    told = small.prepare(graph, loaded, positive, negative)
    sampled = graph.add(
        "KSampler", model=told.model, positive=told.positive, negative=told.negative, latent_image=told.latent, seed=5,
        steps=2, cfg=small.cfg, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    pictures = graph.add("VAEDecode", samples=sampled, vae=loaded.vae)
    graph.add("SaveImage", images=pictures, filename_prefix=small.name)
    return graph.prompt


def seeded_tensor(*shape: int, seed: int = 1) -> Tensor:
    """Normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
