"""LoRA: merged weights, and the names by which files call a model's weights."""

from __future__ import annotations

from pathlib import Path

from limner.models.lora import text_names, unet_names
from limner.models.sd1 import FAMILY
from limner.models.unet import UNetConfig
from limner.weights import CheckpointHeader, make_patches, read_adapters
from tests.golden.case import Case, Check, UnsupportedCaseError, unsupported

KEY = "k.weight"


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

    The network's own weights are read off the case: those that it names by themselves.
    """
    expected = Case(path, folder).data["map"]
    stem = path.name.split(".")[0]
    if stem == "sd15":
        prefix = "diffusion_model."
        own = [key.removeprefix(prefix) for name, key in expected.items() if key in (name, name + ".weight")]
        found = unet_names(own, prefix, FAMILY.lora_aliases(UNetConfig(), own))
    elif stem == "clip_sd15":
        prefix = "clip_l.transformer."
        own = [key.removeprefix(prefix) for name, key in expected.items() if name.startswith("text_encoders.")]
        found = text_names(own, prefix)
    else:
        raise UnsupportedCaseError("Names of another family.")
    known = {prefix + name for name in own}
    wrong = [name for name, key in expected.items() if found.get(name) != (key if key in known else None)]
    return [Check("names", float(len(wrong)))]


RUNNERS = {"lora/*.safetensors": merged, "lora_keys/*": names}
