"""LoRA: merged weights, and the names by which files call a model's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limner.errors import BadInput
from limner.models.detect import detect
from limner.models.lora_keys import diffusion_names, text_names
from limner.models.text.kinds import encoders
from limner.weights import CheckpointHeader, make_patches, read_adapters
from limner.weights.targets import swap_halves
from tests.golden import weights
from tests.golden.case import Case, Check, UnsupportedCaseError, unsupported

KEY = "k.weight"
HEADERS = Path(__file__).resolve().parents[2] / "headers"


def merged(path: Path, folder: Path) -> list[Check]:
    """Each adapter on its base weight at its strengths; kinds that match nothing are not supported."""
    case = Case(path, folder)
    checks = []
    for name, said in case.metadata["per_output"].items():
        prefix = said["adapter"] + "/"
        tensors = {key.removeprefix(prefix): value for key, value in case.inputs.items() if key.startswith(prefix)}
        adapters = read_adapters(CheckpointHeader.of(tensors), {"k": KEY}).adapters
        if not adapters:
            checks.append(unsupported(name))
            continue
        patches, _ = make_patches(adapters, said["strength_patch"], said["strength_model"], {KEY})
        checks.append(case.check(name, patches.apply(KEY, case.inputs[said["base"]])))
    return checks


def names(path: Path, folder: Path) -> list[Check]:
    """Every name that the case maps to a weight that exists; names of weights that the network lacks map to none.

    The diffusion model's own weights and dimensions are those of the header of the same name.
    """
    expected = Case(path, folder).data["map"]
    stem = path.name.removesuffix(".json.gz")
    if stem.startswith("clip_"):
        found, known = _text_names(stem, expected)
    else:
        try:
            match = detect(header(stem, folder))
        except BadInput as error:
            raise UnsupportedCaseError(str(error)) from error
        own = tuple(match.diffusion.tensors)
        config = match.family.infer_config(match.diffusion, {})
        found = diffusion_names(own, "diffusion_model.", match.family.lora, config)
        known = {"diffusion_model." + name for name in own}
    wrong = [name for name, target in expected.items() if not _agree(found.get(name), target, known)]
    return [Check("names", float(len(wrong)))]


def _text_names(stem: str, expected: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """What we call the weights that the case names, and those weights."""
    own = [key for name, key in expected.items() if name.startswith("text_encoders.")]
    if not all(key.partition(".")[0] in encoders() for key in own):
        raise UnsupportedCaseError(f"Names of a text encoder that is not here: {stem}.")
    return text_names(own), set(own)


def _agree(found: Any, target: Any, known: set[str]) -> bool:
    """Whether we mean by a name what the case means by it."""
    if isinstance(target, str):
        return bool(found == (target if target in known else None))
    if target["key"] not in known:
        return found is None
    part = (target["key"], target["narrow"] and tuple(target["narrow"]))
    return bool(found == ((*part, swap_halves) if target["function"] else part))


def header(name: str, folder: Path) -> CheckpointHeader:
    """The header of a published file: of the project's fixtures, or beside the cases."""
    for place in (HEADERS, folder.parents[1] / "headers"):
        for stem in (f"{name}-unet", name, *(f"{name}-{kind}" for kind in ("base-unet", "dev", "medium"))):
            file = place / f"{stem}.json.gz"
            if file.is_file():
                return shapes_alone(weights.read_manifest(file), stem)
    raise UnsupportedCaseError(f"No header of {name}.")


def shapes_alone(manifest: dict[str, Any], name: str) -> CheckpointHeader:
    """The names and shapes of a header: [name, shape, kind] in the golden data, [name, dtype, shape] in our fixtures."""
    tensors = [(key, *sorted(rest, key=lambda one: isinstance(one, list))) for key, *rest in manifest["tensors"]]
    return CheckpointHeader.unstripped({"tensors": [(key, "F16", shape) for key, _, shape in tensors]}, name)


RUNNERS = {"lora/*.safetensors": merged, "lora_keys/*": names}
