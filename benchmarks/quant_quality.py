"""What does each layout cost in quality, what does calibration give back, and does a search beat one layout for all?

python -m benchmarks.quant_quality [--quick] [--pictures N] [--steps K] [--layouts A,B]

Pictures of the starter model, drawn by the ordinary sampler with its layers rounded, against the same in full
precision, PSNR in dB / SSIM: 50 prompts of `training/concepts.txt`, none of them among the 12 that calibration and
search saw. Inputs are rounded as on hardware that does it, whatever this machine has.

Budgets: calibrated fixed scales are better than scales of 1, and a search is better than one layout for all at the
size of that layout. Half a dB may be lost where there is nothing to gain: float8 has the same relative precision at any
scale until inputs exceed 448, which the starter's never do, and in the fewest bytes of all there is nothing to choose.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

import limner
from benchmarks import report
from limner.memory import MemoryManager
from limner.models.load import Checkpoint, load_checkpoint
from limner.quantize.choosing import Layers, options_of, with_inputs
from limner.quantize.inputs import OBSERVERS
from limner.quantize.pictures import likeness
from limner.quantize.samples import Sample, latent_of
from limner.quantize.search import Option, Trial, measured, replaced, within
from limner.quantize.watch import Watch, watched
from limner.settings import Settings
from limner.weights.quant import REGISTRY, QuantizedTensor, computing, quantize, sqnr
from limner.weights.quant.recipe import Choice, Recipe

STARTER = Path(limner.__file__).parent / "assets" / "limner-starter.safetensors"
CONCEPTS = Path(__file__).parent.parent / "training" / "concepts.txt"
LADDER = ("int4_groups", "nf4", "int8_rowwise")
"""What a search chooses among, beside keeping float16."""
CALIBRATION = 12
KEPT = 3
TOLERANCE = 0.5


def prompts() -> list[str]:
    """Every concept by its name, in an order that mixes them."""
    lines = [line for line in CONCEPTS.read_text(encoding="utf-8").splitlines() if "|" in line and line[0] != "#"]
    names = [f"{line.split('|')[1].strip()}, 3d style" for line in lines]
    return [names[place * 37 % len(names)] for place in range(len(names))]


@dataclass(frozen=True)
class Quality:
    """Means over pictures."""

    psnr: float
    ssim: float

    def __str__(self) -> str:
        return f"{self.psnr:.1f} / {self.ssim:.4f}"


class Bench:
    """The starter model, what it draws in full precision, and what its layers were given on other prompts."""

    def __init__(self, pictures: int, steps: int) -> None:
        self.checkpoint: Checkpoint = load_checkpoint(STARTER, MemoryManager(Settings(cpu=True)))
        self.model = self.checkpoint.model
        words = prompts()
        usual = Sample("", width=128, height=128, steps=steps, cfg=3.0)
        both = [replace(usual, prompt=prompt, seed=seed) for seed, prompt in enumerate(words)]
        self.samples, seen = both[CALIBRATION : CALIBRATION + pictures], both[:CALIBRATION]
        self.watch = Watch(KEPT)
        for sample in seen:
            latent_of(watched(self.model, self.watch), self.checkpoint.clip, sample)
        self.layers = Layers.of_model(self.model)
        start = perf_counter()
        self.exact = [self._picture(sample) for sample in self.samples]
        print(f"{pictures} pictures in full precision: {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    def _picture(self, sample: Sample) -> Tensor:
        decoded: Tensor = self.checkpoint.vae.decode(latent_of(self.model, self.checkpoint.clip, sample))
        return decoded[0].clamp(0, 1)

    def weight(self, layer: str) -> Tensor:
        """In float32."""
        return self.model.source.patched(f"{layer}.weight").float()

    def choices(self, recipe: Recipe) -> list[Choice]:
        """For each tensor of the network."""
        return recipe.choices(self.layers.header, "")

    def rounded(self, choices: Mapping[str, Choice]) -> Quality:
        """Pictures with layers as chosen against those in full precision."""
        with self.model.loaded() as network:
            trial = Trial(network, (), self.weight)
            made = {layer: trial.rounded(layer, one) for layer, one in choices.items() if one.layout is not None}
            with replaced(network, made), computing(emulate=True):
                pairs = zip(self.exact, map(self._picture, self.samples), strict=True)
                alike = [likeness(exact, picture) for exact, picture in pairs]
        return Quality(*(sum(getattr(one, name) for one in alike) / len(alike) for name in ("psnr", "ssim")))

    def by_layer(self, choices: Sequence[Choice]) -> dict[str, Choice]:
        """Those that are quantized."""
        return {self.layers.of[one.name]: one for one in choices if one.layout is not None}


def weights_only(choice: Choice) -> Choice:
    """The same without rounding of inputs."""
    return replace(choice, options={**choice.options, "full_precision": True})


def scale_of_one(choice: Choice) -> Choice:
    """The same with a fixed scale that nobody measured."""
    return replace(choice, inputs={"input_scale": torch.tensor(1.0)})


def pooled(bench: Bench, choices: Mapping[str, Choice]) -> tuple[float, float]:
    """SQNR of all weights together, and the least of any, dB."""
    exact, made, each = [], [], []
    for layer, choice in choices.items():
        weight = bench.weight(layer)
        rounded = QuantizedTensor.from_float(weight, choice.layout or "", **choice.options).dequantize()
        exact.append(weight.flatten())
        made.append(rounded.flatten())
        each.append(sqnr(weight, rounded))
    return sqnr(torch.cat(exact), torch.cat(made)), min(each)


def searched(bench: Bench) -> dict[str, list[Option]]:
    """What every layer costs in each way of the ladder, measured at the output."""
    first, *others = (bench.choices(Recipe(name)) for name in LADDER)
    options = options_of(first, others, bench.layers)
    with bench.model.loaded() as network:
        start = perf_counter()
        found = measured(Trial(network, bench.watch.passes, bench.weight), options)
        print(f"search: {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return found


class Searched:
    """The best pictures for each size, drawn once."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.known = searched(bench)
        self._drawn: dict[int, Quality] = {}

    def __call__(self, nbytes: int) -> Quality:
        """Of so many bytes, to a thousandth of all."""
        total = sum(several[-1].nbytes for several in self.known.values())
        part = nbytes * 1000 // total
        if part not in self._drawn:
            chosen = within(self.known, nbytes)
            self._drawn[part] = self._bench.rounded({layer: option.choice for layer, option in chosen.items()})
        return self._drawn[part]


def _bytes(bench: Bench, layer: str, choice: Choice | None, kept: int) -> int:
    if choice is None or choice.layout is None:
        return kept
    return choice.layout.nbytes(bench.layers.header.shape(f"{layer}.weight"), **choice.options)


def row(bench: Bench, name: str, group: int, best_in: Searched, gaussian: Tensor) -> bool:
    """Print the line of a layout; whether its budgets hold. group: weights that share a scale; 0 as usual."""
    layout, known, options = REGISTRY[name], best_in.known, {"group": group} if group else {}
    plain = {layer: replace(one, options=options) for layer, one in bench.by_layer(bench.choices(Recipe(name))).items()}
    total = sum(several[-1].nbytes for several in known.values())
    nbytes = sum(_bytes(bench, layer, plain.get(layer), ways[-1].nbytes) for layer, ways in known.items())
    together, least = pooled(bench, plain)
    alone = bench.rounded({layer: weights_only(one) for layer, one in plain.items()})
    one = calibrated = dynamic = None
    if layout.activations == "dynamic":
        dynamic = bench.rounded(plain)
    if layout.largest_input is not None:
        fixed = bench.by_layer(list(with_inputs(bench.choices(Recipe(name)), bench.layers, bench.watch.inputs, "amax")))
        calibrated = bench.rounded(fixed)
        if name != "int8_smooth":
            one = bench.rounded({layer: scale_of_one(choice) for layer, choice in plain.items()})
    best = best_in(nbytes)
    rounded = quantize(gaussian, name, **options).dequantize()
    cells = (f"{name}, groups of {group}" if group else name, f"{nbytes / total:.3f}", f"{sqnr(gaussian, rounded):.1f}",
             f"{together:.1f} ({least:.1f})", alone, dynamic or "–", one or "–", calibrated or "–", best)  # fmt: skip
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    better = calibrated is None or one is None or calibrated.psnr >= one.psnr - TOLERANCE
    return better and best.psnr >= alone.psnr - TOLERANCE


def observers(bench: Bench, name: str) -> None:
    """Print a line: fixed scales chosen in each way."""
    cells: list[object] = [name]
    for observer in OBSERVERS:
        known = list(with_inputs(bench.choices(Recipe(name)), bench.layers, bench.watch.inputs, observer))  # type: ignore[arg-type]
        cells.append(bench.rounded(bench.by_layer(known)))
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> int:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two prompts, three layouts")
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--layouts", default="", help="names with commas between; all that are not GGUF's if left out")
    asked = parser.parse_args()
    pictures, steps = (2, 3) if asked.quick else (asked.pictures, asked.steps)
    written = [name for name in REGISTRY if REGISTRY[name].writes and not name.startswith("gguf_")]
    names = ["float8_e4m3fn", "int8_rowwise", "nf4"] if asked.quick else written
    names = asked.layouts.split(",") if asked.layouts else names
    bench = Bench(pictures, steps)
    best_in = Searched(bench)
    gaussian = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    print("| layout | bytes of float16's | SQNR, Gaussian | of the weights (least) | weights rounded | inputs by token "
          "| inputs, scale 1 | inputs, calibrated | search, that size |\n" + "|---" * 9 + "|", flush=True)  # fmt: skip
    rows = [(name, 0) for name in names] + ([] if asked.quick else [("int4_groups", 32), ("int4_groups", 16)])
    held = [row(bench, name, group, best_in, gaussian) for name, group in rows]
    print("\n| fixed scales by | " + " | ".join(OBSERVERS) + " |\n" + "|---" * 4 + "|", flush=True)
    for name in ("float8_e4m3fn", "int8_rowwise")[: 1 if asked.quick else 2]:
        observers(bench, name)
    report("quant_quality", layouts=len(held), pictures=pictures, steps=steps, value=held.count(False), budget=0)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
