"""Networks by themselves: UNets, autoencoders, text encoders, tokenizers; known by their keys, not by their names."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.models.text.clip import CLIPText, CLIPTextConfig
from limner.models.text.embeddings import vectors_of
from limner.models.text.encode import EncodeSettings, encode_weighted
from limner.models.text.tokenizer import ClipTokenizer, Row
from limner.models.text.weighting import parse_weights
from limner.models.unet import UNet, UNetConfig
from limner.models.vae.kl import AutoencoderKL, KLConfig
from limner.models.vae.taesd import TAESD, TAESDConfig
from tests.golden import weights
from tests.golden.case import Case, Check, UnsupportedCaseError, unsupported

# what marks a network, the network, its config
NETWORKS: tuple[tuple[tuple[str, ...], type[nn.Module], Any], ...] = (
    (("input_blocks.0.0.weight", "out.2.weight", "time_embed.0.weight"), UNet, UNetConfig),
    (("encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"), AutoencoderKL, KLConfig),
    (("taesd_encoder.0.weight", "taesd_decoder.1.weight"), TAESD, TAESDConfig),
    (("text_model.encoder.layers.0.self_attn.q_proj.weight", "text_model.final_layer_norm.weight"),
     CLIPText, CLIPTextConfig),
)  # fmt: skip


def network(case: Case, manifest: str = "manifest", config: dict[str, Any] | None = None) -> nn.Module:
    """The network of a case's weights."""
    shapes = case.shapes(manifest)
    for marks, kind, config_type in NETWORKS:
        # a convolution over three axes is a video network of the same key names
        if all(mark in shapes for mark in marks) and all(len(size) < 5 for size in shapes.values()):
            with torch.device("meta"):
                made = kind(config_type.from_state(shapes, case.config if config is None else config))
            made.load_state_dict(case.state_dict(manifest), assign=True)
            return made.eval()
    raise UnsupportedCaseError("No network here has these keys.")


@torch.inference_mode()
def forward(path: Path, folder: Path) -> list[Check]:
    """One pass of a network: a UNet's prediction, an autoencoder's both ways, a text encoder's outputs."""
    case = Case(path, folder)
    if "manifest" not in case.metadata.get("weights", {}):
        raise UnsupportedCaseError("The case has no weights of one network.")
    if "sampler" in case.metadata:
        raise UnsupportedCaseError("A case that samples.")
    outputs = {"encode", "decode"} if "pixels" in case.inputs else {"x"} if "x" in case.inputs else {"last", "pooled"}
    if not outputs <= case.expected.keys() or not {"cls", "encode_settings"} & case.metadata.keys():
        raise UnsupportedCaseError("No bare pass of a network.")
    made = network(case)
    if isinstance(made, UNet):
        found = _unet(made, case)
    elif isinstance(made, CLIPText):
        found = _text(made, case)
    else:
        found = _autoencoder(made, case)
    return [case.check(name, found[name]) if name in found else unsupported(name) for name in case.expected]


def _unet(unet: UNet, case: Case) -> dict[str, Tensor]:
    known = {"x", "timestep", "context", "y"}
    if unknown := case.inputs.keys() - known:
        raise UnsupportedCaseError(f"Inputs that this UNet has not: {sorted(unknown)}.")
    inputs = case.inputs
    return {"x": unet(inputs["x"], inputs["timestep"], inputs.get("context"), inputs.get("y"))}


def _autoencoder(vae: Any, case: Case) -> dict[str, Tensor]:
    return {"encode": vae.encode(case.inputs["pixels"]), "decode": vae.decode(case.inputs["latent"])}


def _text(encoder: CLIPText, case: Case) -> dict[str, Tensor]:
    ids, token_weights = case.inputs["token_ids"], case.inputs["token_weights"]
    plain, normed = encoder(ids, -2), encoder(ids, -2, final_norm=True)
    found = {"last": plain.last, "penultimate": plain.hidden, "penultimate_ln": normed.hidden, "pooled": plain.pooled}
    if plain.projected is not None:
        found["pooled_projected"] = plain.projected
    rows = [list(zip(*row, strict=True)) for row in zip(ids.tolist(), token_weights.tolist(), strict=True)]
    # the class that makes encode_pooled always projects where it has a projection
    encoded = encode_weighted(encoder, rows, encode_settings(case.metadata["encode_settings"], project=True))
    return found | {"encode_cond": encoded.cond, "encode_pooled": encoded.pooled}


def encode_settings(said: dict[str, Any], project: bool) -> EncodeSettings:
    """Our settings for a case's `encode_settings`."""
    return EncodeSettings(
        layer=None if said["layer"] == "last" else said["layer_idx"],
        final_norm=said.get("layer_norm_hidden_state", True),
        project=project,
        **said["special_tokens"],
    )


@torch.inference_mode()
def combined(path: Path, folder: Path) -> list[Check]:
    """Prompt to conditioning through tokenizer and encoder: Stable Diffusion 1 with clip skip, and XL."""
    case = Case(path, folder)
    encoders = case.metadata.get("weights", {}).keys() - {"seed"}
    if encoders not in ({"clip_l"}, {"clip_l", "clip_g"}) or "encodes" not in case.metadata:
        raise UnsupportedCaseError("Other text encoders than CLIP's.")
    checks = []
    made = {}
    for name in sorted(encoders):
        manifest = case.manifest(name)
        made[name] = network(case, name, manifest.get("config", {}))
    for name, asked in case.metadata["encodes"].items():
        layer = (asked["clip_options"] or {}).get("layer")
        found = {}
        for key, encoder in made.items():
            settings = _combined_settings(key, layer, alone=len(made) == 1)
            rows = ClipTokenizer(bpe(), pad=settings.pad).rows(asked["prompt"])
            found[key] = encode_weighted(encoder, rows, settings)  # type: ignore[arg-type]
        conds = [found[key].cond for key in sorted(found, reverse=True)]
        pooled = found["clip_g" if "clip_g" in found else "clip_l"].pooled
        if pooled.shape != case.expected[f"{name}.pooled"].shape:
            raise UnsupportedCaseError("Not combined as Stable Diffusion XL does it.")
        length = min(cond.shape[1] for cond in conds)
        cond = torch.cat([cond[:, :length] for cond in conds], dim=-1)
        checks += [case.check(f"{name}.cond", cond), case.check(f"{name}.pooled", pooled)]
    return checks


def _combined_settings(key: str, layer: int | None, alone: bool) -> EncodeSettings:
    """Alone, CLIP-L gives its last layer; beside CLIP-G both give the one before, bare, and G its projection."""
    if alone:
        return EncodeSettings(layer=layer)
    return EncodeSettings(
        layer=-2 if layer is None else layer,
        final_norm=False,
        project=key == "clip_g",
        pad=0 if key == "clip_g" else 49407,
    )


@torch.inference_mode()
def control(path: Path, folder: Path) -> list[Check]:
    """A UNet under residuals: those that the case says a ControlNet gives; the ControlNet itself is another matter."""
    case = Case(path, folder)
    if not {"unet", "controlnet"} <= case.metadata.get("weights", {}).keys() or "unet_plain" not in case.expected:
        raise UnsupportedCaseError("No ControlNet over a UNet.")
    unet = network(case, "unet", case.config["unet"])
    inputs, expected = case.inputs, case.expected
    number = sum(name.startswith("output") for name in expected)
    residuals = {
        "output": [expected[f"output{n}"] * 0.8 for n in range(number)],
        "middle": [expected["middle"] * 0.8],
    }
    found = {
        "unet_plain": unet(inputs["x"], inputs["timesteps"], inputs["context"]),
        "unet_with_control_0.8": unet(inputs["x"], inputs["timesteps"], inputs["context"], control=residuals),
    }
    return [case.check(name, found[name]) if name in found else unsupported(name) for name in expected]


@lru_cache(maxsize=1)
def bpe() -> Any:
    """The byte-pair encoder of CLIP."""
    return ClipTokenizer.installed().bpe


def tokens(path: Path, folder: Path) -> list[Check]:
    """Prompts to rows of tokens; prompts to weighted stretches of text."""
    case = Case(path, folder)
    data = case.data
    if "cases" in data and data["cases"] and "segments" in data["cases"][0]:
        wrong = [entry["prompt"] for entry in data["cases"] if not _same_segments(entry)]
        return [Check("segments", float(len(wrong)))]
    name = str(data.get("tokenizer", ""))
    if not name.startswith("clip_"):
        raise UnsupportedCaseError(f"The tokenizer {name}.")
    key = name[:6]
    pad = 49407 if key == "clip_l" or "cascade" in name else 0
    tokenizer = ClipTokenizer(bpe(), pad=pad)
    seed, files = data["embeddings"]["seed"], data["embeddings"]["files"]
    # a file's tensors lie in it in the order of their names
    embeddings = {
        file.removesuffix(".safetensors"): {
            tensor: torch.from_numpy(weights.tensor(tensor, size, kind, seed))
            for tensor, size, kind in sorted(contents)
        }
        for file, contents in files.items()
    }

    def find(name: str) -> Tensor | None:
        contents = embeddings.get(name.removesuffix(".safetensors"))
        return None if contents is None else vectors_of(contents, key)

    wrong = 0
    for entry in data["cases"]:
        expected = [row["tokens"] + [row["then"]] * row["times"] if "then" in row else row["tokens"]
                    for row in entry["batches"]]  # fmt: skip
        wrong += not _same_rows(tokenizer.rows(entry["prompt"], find), expected, embeddings)
    return [Check("prompts", float(wrong))]


def _same_segments(entry: dict[str, Any]) -> bool:
    found = parse_weights(entry["prompt"])
    return [text for text, _ in found] == [text for text, _ in entry["segments"]] and all(
        _same_weight(ours.weight, weight) for ours, (_, weight) in zip(found, entry["segments"], strict=True)
    )


def _same_weight(found: float, expected: float) -> bool:
    """The files hold weights rounded to nine digits."""
    return abs(found - expected) <= 1e-8 * max(1.0, abs(expected))


def _same_rows(found: list[Row], expected: list[Any], embeddings: dict[str, dict[str, Tensor]]) -> bool:
    if [len(row) for row in found] != [len(row) for row in expected]:
        return False
    for ours, (token, weight, *word) in zip(chain(*found), chain(*expected), strict=True):
        if isinstance(token, dict):
            vectors = embeddings[token["embedding"]][token["key"]]
            vector = vectors if vectors.dim() == 1 else vectors[token["row"]]
            same = isinstance(ours[0], Tensor) and torch.equal(ours[0][: vector.shape[0]], vector[: ours[0].shape[0]])
        else:
            same = ours[0] == token
        if not same or not _same_weight(ours[1], weight) or (word and word[0] != ours[2]):
            return False
    return True


RUNNERS = {
    "*/*.safetensors": forward,
    "te-combined/*": combined,
    "controlnet-*/*": control,
    "tokenizer/*": tokens,
}
