"""A checkpoint at work, for `limner quantize`: prompts of a file, or a workflow that loads it. (No command here.)"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from limner.cli.assemble import Parts, assembled, make_memory
from limner.cli.generate import DEFAULTS
from limner.cli.run import execute, read_workflow
from limner.errors import BadInput
from limner.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from limner.models.load import Checkpoint
    from limner.models.model import Model
    from limner.quantize.inputs import Observer
    from limner.quantize.report import Calibrated, Compared
    from limner.quantize.samples import Progress
    from limner.quantize.search import Found
    from limner.quantize.watch import Watch
    from limner.weights import CheckpointHeader
    from limner.weights.quant.recipe import Choice, Recipe

SEEDS = ("seed", "noise_seed")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class Work(Protocol):
    """What a model is measured on. title: in reports."""

    title: str
    samples: int

    def watched(self, watch: Watch) -> Model:
        """Draw all samples with the network watched; the model as it was without that."""

    def drawn(self, file: Path, number: int) -> list[tuple[str, Tensor]]:
        """Titles and pictures of the first samples, drawn with another checkpoint in the place of the first."""


def work_of(source: Path, given: Path, settings: Settings, samples: int, steps: int) -> Work:
    """JSON is a workflow, all else a file of prompts. samples, steps: 0 means the usual number."""
    if given.suffix.lower() == ".json":
        return Workflow(source, given, settings, samples or 4, steps)
    return Prompts(source, given, settings, samples, steps)


@contextmanager
def bar(what: str, unit: str = "step") -> Iterator[Progress]:
    """Progress as a line on a terminal."""
    with tqdm(total=1, unit=unit, desc=what, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as shown:

        def progress(done: int, of: int) -> None:
            shown.total = of
            shown.update(done - shown.n)

        yield progress


class Prompts:
    """Prompts of a file, sampled with the checkpoint's own text encoders."""

    def __init__(self, source: Path, given: Path, settings: Settings, samples: int, steps: int) -> None:
        from limner.models.reading import read_header
        from limner.quantize.samples import read_samples, usual_of

        self.title = given.name
        self._source, self._memory = source, make_memory(settings)
        told = read_header(source, self._memory).metadata.get("limner_defaults", "{}")
        usual = usual_of({**DEFAULTS, **json.loads(told)})
        self._samples = read_samples(given, usual, samples or None, steps or None)
        self.samples = len(self._samples)

    def watched(self, watch: Watch) -> Model:
        """Every sample's latent; the autoencoder is not needed for that."""
        from limner.quantize.samples import latent_of
        from limner.quantize.watch import watched

        loaded = self._loaded(self._source)
        seen = watched(loaded.model, watch)
        with bar("calibrating") as progress:
            total = sum(one.steps for one in self._samples)
            for place, sample in enumerate(self._samples):
                before = sum(one.steps for one in self._samples[:place])

                def from_here(done: int, of: int, before: int = before) -> None:
                    del of
                    progress(before + done, total)

                latent_of(seen, loaded.clip, sample, from_here)
        return loaded.model

    def drawn(self, file: Path, number: int) -> list[tuple[str, Tensor]]:
        """By prompt."""
        from limner.quantize.samples import picture_of

        loaded, chosen = self._loaded(file), self._samples[:number]
        found = []
        with bar("drawing", "picture") as progress:
            for place, sample in enumerate(chosen, 1):
                found.append((f"{sample.prompt} (seed {sample.seed})", picture_of(loaded, sample)))
                progress(place, len(chosen))
        return found

    def _loaded(self, file: Path) -> Checkpoint:
        from limner.models.load import load_checkpoint

        return load_checkpoint(file, self._memory)


@dataclass
class Workflow:
    """A workflow that loads the checkpoint, run by an engine as `limner run` does; each time with other seeds."""

    source: Path
    given: Path
    settings: Settings
    samples: int
    steps: int
    title: str = field(init=False)

    def __post_init__(self) -> None:
        self.title = self.given.name

    def watched(self, watch: Watch) -> Model:
        """All runs as one prompt, so that nothing is loaded twice."""
        from limner.quantize.watch import watched

        loaded: list[Model] = []

        def changed(model: Model) -> Model:
            loaded.append(model)
            return watched(model, watch)

        with tempfile.TemporaryDirectory(prefix="limner-") as folder:
            self._run(folder, self.samples, self.source, changed)
        if not loaded:
            raise BadInput(
                f"{self.given.name} does not load {self.source.name}.",
                why="Inputs of its layers are measured while the workflow samples with it.",
                do="Choose that file in the workflow's loader; it lies in one of the model folders.",
            )
        return loaded[0]

    def drawn(self, file: Path, number: int) -> list[tuple[str, Tensor]]:
        """The first pictures that the workflow saves."""
        import numpy as np
        import torch
        from PIL import Image

        found = []
        with tempfile.TemporaryDirectory(prefix="limner-") as folder:
            written = self._run(folder, min(number, self.samples), file, lambda model: model)
            for place, path in enumerate(written[:number], 1):
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
                found.append((f"{self.title}, picture {place}", torch.from_numpy(pixels)))
        return found

    def _run(self, folder: str, number: int, file: Path, change: Callable[[Model], Model]) -> list[Path]:
        """The pictures of so many runs. file: read in place of the source. change: what becomes of its model."""
        chosen = replace(self.settings, output_directory=folder)
        with assembled(chosen, owned=False) as parts, _loading(parts, self.source, file, change):
            parts.compat.packs.load()
            prompt, _ = read_workflow(self.given, parts)
            written = [Path(line) for line in execute(parts, _repeated(prompt, number, self.steps))]
        return [path for path in written if path.suffix.lower() in PICTURES]


@contextmanager
def _loading(parts: Parts, source: Path, file: Path, change: Callable[[Model], Model]) -> Iterator[None]:
    """Within the block, nodes that load the source get another file, and its model changed."""
    from limner.models import replaced
    from limner.models.load import read_checkpoint, read_diffusion_model
    from limner.models.text.vocabulary import Vocabularies

    before = dict(replaced.LOADERS)
    folders, settings = parts.store.folders, parts.settings

    def checkpoint(path: Path, **given: Any) -> Any:
        if not source.samefile(path):
            other = before.get("load_checkpoint_guess_config")
            return None if other is None else other(path, **given)
        words = Vocabularies.beside(folders.roots("text_encoders"), None if settings.offline else settings.model_hub)
        found = read_checkpoint(file, parts.memory(), folders.roots("embeddings"), words)
        return found._replace(model=change(found.model))

    def diffusion(path: Path) -> Any:
        if not source.samefile(path):
            other = before.get("load_diffusion_model")
            return None if other is None else other(path)
        return change(read_diffusion_model(file, parts.memory()))

    replaced.LOADERS |= {"load_checkpoint_guess_config": checkpoint, "load_diffusion_model": diffusion}
    try:
        yield
    finally:
        replaced.LOADERS.clear()
        replaced.LOADERS.update(before)


def _repeated(prompt: dict[str, Any], number: int, steps: int) -> dict[str, Any]:
    """The prompt so many times as one, each with other seeds, and with so many steps where that is said."""
    found: dict[str, Any] = {}
    for place in range(number):
        for name, call in prompt.items():
            inputs = {key: _input(prompt, key, value, place, steps) for key, value in call.get("inputs", {}).items()}
            found[f"{place}/{name}"] = {**call, "inputs": inputs}
    return found


def _input(prompt: dict[str, Any], name: str, value: Any, place: int, steps: int) -> Any:
    if isinstance(value, list) and len(value) == 2 and str(value[0]) in prompt:
        return [f"{place}/{value[0]}", value[1]]
    if name in SEEDS and isinstance(value, int):
        return value + place
    return steps if name == "steps" and steps and isinstance(value, int) else value


# -- What is learnt of it --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Of a search. snr: of the output at least, dB. nbytes: of the layers at most. Neither: there is none."""

    snr: float | None = None
    nbytes: int | None = None


@dataclass(frozen=True)
class Known:
    """What becomes of each tensor, and from what that follows."""

    choices: Sequence[Choice]
    calibrated: Calibrated | None = None
    found: Found | None = None
    work: Work | None = None


PASSES = 6
"""Passes of the network that a search measures noise on."""


def learn(
    work: Work, header: CheckpointHeader, recipe: Recipe, also: Sequence[str], observer: Observer, limits: Limits
) -> Known:
    """What a model at work says of its inputs, and of how its layers are best kept. also: further layouts for them."""
    from limner.models.detect import detect
    from limner.quantize.choosing import Layers, options_of, searched, unreached, with_inputs
    from limner.quantize.report import Calibrated
    from limner.quantize.watch import Watch

    searching = limits != Limits()
    layers = Layers.in_file(header, detect(header))
    ways = [replace(recipe, layout=name).choices(header, layers.prefix) for name in (recipe.layout, *also)]
    watch = Watch(keep=PASSES if searching else 0)
    model = work.watched(watch)
    choices, *ladder = (list(with_inputs(one, layers, watch.inputs, observer)) for one in ways)
    calibrated = Calibrated(work.title, work.samples, watch.seen, observer, unreached(choices, layers, watch.inputs))
    if not searching:
        return Known(choices, calibrated, None, work)
    with bar("searching", "trial") as progress:
        changed, found = searched(
            model, watch.passes, choices, options_of(choices, ladder, layers), layers,
            least_snr=limits.snr, most_bytes=limits.nbytes, progress=progress,
        )  # fmt: skip
    return Known(changed, calibrated, found, work)


def compared(work: Work, source: Path, target: Path, number: int) -> list[Compared]:
    """The first samples, drawn with both files."""
    from limner.quantize.report import Compared

    pairs = zip(work.drawn(source, number), work.drawn(target, number), strict=True)
    return [Compared(title, exact, made) for (title, exact), (_, made) in pairs]
