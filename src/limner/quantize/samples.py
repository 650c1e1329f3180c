"""What a model is measured on: prompts with their settings from a file of words, and pictures drawn from them.

A line is a prompt; after `|` may follow settings, `seed=3 size=128x96 cfg=3 steps=8 sampler=euler negative="blurry"`.
What a line does not say is as the model is best used, and the seed is the number of the line. A line that begins with
`#` is a remark.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadInput, NotFound
from limner.models.clip import CLIP
from limner.models.load import Checkpoint
from limner.models.model import Model
from limner.sampling.run import ksample
from limner.sampling.samplers import SAMPLERS
from limner.sampling.schedulers import SCHEDULERS

Progress = Callable[[int, int], None]
"""Called with how many steps are done, and of how many."""


def silent(done: int, of: int) -> None:
    """Progress that nobody wants to hear of."""
    del done, of


@dataclass(frozen=True)
class Sample:
    """One picture to be drawn."""

    prompt: str
    negative: str = ""
    seed: int = 0
    width: int = 512
    height: int = 512
    steps: int = 20
    cfg: float = 7.0
    sampler: str = "dpmpp_2m"
    scheduler: str = "karras"


USUAL = Sample("")
"""What a full-size Stable Diffusion 1 checkpoint is used with."""


def read_samples(
    path: Path, usual: Sample = USUAL, number: int | None = None, steps: int | None = None
) -> list[Sample]:
    """The samples of a file. usual: what lines do not say. number: so many; the file again with other seeds if too few.

    Raises NotFound without the file, BadInput with the line that is not understood.
    """
    if not path.is_file():
        raise NotFound(f"There is no file of prompts {path}.", do="Name a text file with a prompt on each line.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path.name} is no text in UTF-8.", why=f"{error.reason} at byte {error.start}.") from error
    return repeated(parsed(text, path.name, usual), number, steps)


def parsed(text: str, where: str, usual: Sample = USUAL) -> list[Sample]:
    """The samples of a text. where: what it is called in messages. Raises BadInput as `read_samples` does."""
    told = [
        (place, line) for place, line in enumerate(text.splitlines(), 1) if line.strip() and line.lstrip()[0] != "#"
    ]
    if not told:
        raise BadInput(f"{where} holds no prompts.", do="Write one on each line.")
    return [_sample(line, f"{where}, line {place}", replace(usual, seed=usual.seed + place)) for place, line in told]


def repeated(samples: Sequence[Sample], number: int | None = None, steps: int | None = None) -> list[Sample]:
    """So many samples; the same again with other seeds if there are too few. steps: of each, in place of its own."""
    wanted = number or len(samples)
    found = [replace(samples[i % len(samples)], seed=samples[i % len(samples)].seed + 1000 * (i // len(samples)))
             for i in range(wanted)]  # fmt: skip
    return [replace(one, steps=steps) for one in found] if steps else found


def usual_of(told: Mapping[str, Any]) -> Sample:
    """What a checkpoint says of its use, `limner_defaults` of its metadata, as a sample."""
    fields = {name: told[name] for name in ("width", "height", "steps", "cfg", "sampler", "scheduler") if name in told}
    return replace(USUAL, **fields)


def _sample(line: str, where: str, usual: Sample) -> Sample:
    prompt, _, settings = line.partition("|")
    found: dict[str, Any] = {"prompt": prompt.strip()}
    try:
        words = shlex.split(settings)
    except ValueError as error:
        raise BadInput(f"{where}: {settings.strip()} is not understood.", why=f"{error}.") from error
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in _SETTINGS:
            raise BadInput(
                f"{where}: {word!r} is no setting.",
                do=f"Write name=value; names are {', '.join(_SETTINGS)}.",
            )
        try:
            found |= _SETTINGS[name](value)
        except ValueError as error:
            raise BadInput(f"{where}: {word!r} is no {name}.", why=str(error)) from error
    return replace(usual, **found)


def _side(value: str) -> int:
    side = int(value)
    if not 16 <= side <= 16384:
        raise ValueError("A side has 16 to 16384 pixels.")
    return side


def _size(value: str) -> dict[str, Any]:
    width, _, height = value.partition("x")
    return {"width": _side(width), "height": _side(height or width)}


def _steps(value: str) -> dict[str, Any]:
    steps = int(value)
    if not 1 <= steps <= 10000:
        raise ValueError("There are 1 to 10000 steps.")
    return {"steps": steps}


def _one_of(name: str, known: Sequence[str]) -> Callable[[str], dict[str, Any]]:
    def checked(value: str) -> dict[str, Any]:
        if value not in known:
            raise ValueError(f"Known are {', '.join(known)}.")
        return {name: value}

    return checked


_SETTINGS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "seed": lambda value: {"seed": int(value)},
    "size": _size,
    "width": lambda value: {"width": _side(value)},
    "height": lambda value: {"height": _side(value)},
    "steps": _steps,
    "cfg": lambda value: {"cfg": float(value)},
    "sampler": _one_of("sampler", SAMPLERS),
    "scheduler": _one_of("scheduler", SCHEDULERS),
    "negative": lambda value: {"negative": value},
}


def latent_of(model: Model, clip: CLIP | None, sample: Sample, progress: Progress = silent) -> Tensor:
    """What the model draws, before the autoencoder decodes it. Raises BadInput without a text encoder."""
    if clip is None:
        raise BadInput(
            "There is no text encoder in the checkpoint to read prompts with.",
            do="Give a workflow that loads the model and its text encoders, in place of a file of prompts.",
        )
    words, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (sample.prompt, sample.negative)
    )
    cell = model.latent_format.downscale
    empty = torch.zeros(1, model.latent_format.channels, sample.height // cell, sample.width // cell)
    done = ksample(
        model, sample.seed, sample.steps, sample.cfg, sample.sampler, sample.scheduler, words, negative,
        {"samples": empty}, callback=lambda step, _clean, _x, total: progress(step + 1, total),
    )  # fmt: skip
    found: Tensor = done["samples"]
    return found


def picture_of(checkpoint: Checkpoint, sample: Sample, progress: Progress = silent) -> Tensor:
    """The picture, (height, width, 3) in 0..1."""
    drawn: Tensor = checkpoint.vae.decode(latent_of(checkpoint.model, checkpoint.clip, sample, progress))
    return drawn.reshape(-1, *drawn.shape[-3:])[0].clamp(0, 1).float().cpu()
