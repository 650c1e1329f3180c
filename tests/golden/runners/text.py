"""Text encoders: their networks, what families make of them, and their tokenizers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import NotFound
from limner.models.detect import families
from limner.models.text.embeddings import vectors_of
from limner.models.text.encode import Encoded, EncodeSettings, encode_weighted, not_padding
from limner.models.text.kinds import EncoderKind, encoders
from limner.models.text.qwen25_vision import VisionConfig, VisionTower, patches_of
from limner.models.text.recipe import RowSettings, TextEncoding, TextPart
from limner.models.text.tokenizer import Row, RowTokenizer
from limner.models.text.vocabulary import Vocabularies, Vocabulary
from limner.models.text.weighting import parse_weights
from limner.weights import CheckpointHeader
from tests.golden import weights
from tests.golden.case import Case, Check, UnsupportedCaseError, unsupported
from tests.golden.runners.lora import shapes_alone

REPOSITORY = Path(__file__).resolve().parents[3]

# Least length, and whether `embedding:NAME` is known, of families that are not here, by how a case is called.
LENGTHS = {"flux": (256, True), "mochi": (256, False), "ltxv": (128, False), "pixart": (1, False)}
OMNIGEN2 = (
    "<|im_start|>system\nYou are a helpful assistant that generates high-quality images based on user instructions."
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
)


# -- networks ---------------------------------------------------------------------------------------------------------


def network(case: Case, manifest: str = "manifest", config: Mapping[str, Any] | None = None) -> nn.Module:
    """The network of a case's weights, of the kind that its tensors fit."""
    kind = _kind(shapes_alone(case.manifest(manifest), manifest))
    with torch.device("meta"):
        made = kind.network(kind.config(case.shapes(manifest), case.config if config is None else config))
    made.load_state_dict(case.state_dict(manifest), assign=True)
    return made.eval()


def _kind(header: CheckpointHeader) -> EncoderKind:
    for kind in encoders().values():
        if kind.fits(kind.convert(header)):
            return kind
    raise UnsupportedCaseError("No text encoder here has these keys.")


@torch.inference_mode()
def encoder(path: Path, folder: Path) -> list[Check]:
    """Every output of a text encoder by itself, and of its rows with weights."""
    case = Case(path, folder)
    if "encode_settings" not in case.metadata or "manifest" not in case.metadata.get("weights", {}):
        raise UnsupportedCaseError("No text encoder by itself.")
    made = network(case)
    found = _outputs(made, case)
    return [case.check(name, found[name]) if name in found else unsupported(name) for name in case.expected]


def _outputs(made: Any, case: Case) -> dict[str, Tensor]:
    ids, expected = case.inputs["token_ids"], case.expected
    special = case.metadata["encode_settings"]["special_tokens"]
    mask = not_padding(ids, special.get("end"), special["pad"])
    rows = [
        list(zip(*row, strict=True)) for row in zip(ids.tolist(), case.inputs["token_weights"].tolist(), strict=True)
    ]
    # the class that makes encode_pooled always projects where it has a projection
    settings = encode_settings(case.metadata["encode_settings"], return_mask="attention_mask" in expected)
    encoded = encode_weighted(made, rows, settings)
    plain = made(ids, -2)
    found = {
        "last": plain.last, "last_no_mask": plain.last, "penultimate": plain.hidden, "hidden_m2": plain.hidden,
        "pooled": plain.pooled, "pooled_projected": plain.projected, "mask_used": mask.long(),
        "encode_cond": encoded.cond, "encode_pooled": encoded.pooled, **encoded.extra,
    }  # fmt: skip
    if "penultimate_ln" in expected:
        found["penultimate_ln"] = made(ids, -2, final_norm=True).hidden
    if "last_masked" in expected:
        found["last_masked"] = made(ids, attention_mask=mask).last
    if "hidden_m3" in expected:
        found["hidden_m3"] = made(ids, -3).hidden
    if "all" in expected:
        inner = [made(ids, layer).hidden for layer in range(-made.depth, -1)]
        found["all"] = torch.stack([made.embed(ids), *inner, plain.last], dim=1)
    return {name: value for name, value in found.items() if value is not None}


def encode_settings(said: Mapping[str, Any], return_mask: bool) -> EncodeSettings:
    """Our settings for a case's `encode_settings`."""
    special = said["special_tokens"]
    return EncodeSettings(
        layer=None if said.get("layer", "last") == "last" else said["layer_idx"],
        final_norm=said.get("layer_norm_hidden_state", True),
        project=True,
        masked=said.get("enable_attention_masks", False),
        zero_masked=said.get("zero_out_masked", False),
        return_mask=return_mask,
        start=special.get("start", -1),
        end=special.get("end", -1),
        pad=special["pad"],
    )


@torch.inference_mode()
def vision(path: Path, folder: Path) -> list[Check]:
    """A picture as patches, and the tower's vectors of it."""
    case = Case(path, folder)
    shapes = case.shapes()
    if "merger.ln_q.weight" not in shapes or "image" not in case.inputs:
        raise UnsupportedCaseError("No vision tower of Qwen2.5-VL.")
    config = VisionConfig.from_state(shapes, case.config)
    tower = VisionTower(config)
    tower.load_state_dict(case.state_dict())
    pixels, grid = patches_of(case.inputs["image"], config)
    found = {"pixels": pixels, "grid": torch.tensor([grid]), "embeds": tower(pixels, grid)}
    for name in case.expected:
        if name.startswith("pixels_first"):
            found[name] = pixels[: len(case.expected[name])]
    return [case.check(name, found[name]) if name in found else unsupported(name) for name in case.expected]


# -- families ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def combined(path: Path, folder: Path) -> list[Check]:
    """Prompt to conditioning by the family that a case is named after: tokenizers, encoders, what is made of them."""
    case = Case(path, folder)
    if "encodes" not in case.metadata:
        raise UnsupportedCaseError("No prompts to encode.")
    names = case.metadata["weights"].keys() - {"seed"}
    recipe = _recipe(path.name, names)
    parts = [part for part in recipe.parts if part.encoder in names]
    made = {part.encoder: network(case, part.encoder, case.manifest(part.encoder).get("config")) for part in parts}
    checks = []
    for name, asked in case.metadata["encodes"].items():
        layer = (asked["clip_options"] or {}).get("layer")
        prompt = asked["prompt"] if recipe.template is None else recipe.template(asked["prompt"], {})
        outputs, tokens = {}, {}
        for part in parts:
            kind = encoders()[part.encoder]
            tokens[part.key] = tokenizer(kind, part, folder).rows(prompt)
            settings = part.settings.with_special(part.settings.special(kind.special))
            if layer is not None:
                settings = EncodeSettings(**{**settings.__dict__, "layer": layer})
            outputs[part.encoder] = encode_weighted(made[part.encoder], tokens[part.key], settings)  # type: ignore[arg-type]
        found = recipe.combine(outputs)
        found = found if recipe.trim is None else recipe.trim(tokens, found)
        checks += _held(case, name, found)
    return checks


def _held(case: Case, name: str, found: Encoded) -> list[Check]:
    cond = case.expected[f"{name}.cond"]
    checks = [case.check(f"{name}.cond", found.cond[..., : cond.shape[-1]])]  # wide ones are stored in part
    if f"{name}.pooled" in case.expected:
        assert found.pooled is not None
        checks.append(case.check(f"{name}.pooled", found.pooled))
    for key in (key for key in case.expected if key.startswith(f"{name}.") and key not in checks):
        extra = key.removeprefix(f"{name}.")
        if extra not in ("cond", "pooled"):
            checks.append(case.check(key, found.extra[extra]) if extra in found.extra else unsupported(key))
    return checks


def _recipe(name: str, names: Any) -> TextEncoding:
    """The encoding that takes these encoders, of the family whose name the case's begins with, as far as one does."""
    plain = name.replace("_", "").replace("-", "")
    candidates = []
    for family in families().values():
        text = family.text
        if text is not None and text.required() <= names <= text.kinds():
            words = [word.replace("_", "") for word in (family.name, *text.types)]
            candidates.append((max(len(word) * plain.startswith(word) for word in words), text))
    length, found = max(candidates, key=lambda one: one[0], default=(0, None))
    if not length or found is None:
        raise UnsupportedCaseError(f"No family here that {name} is named after takes {', '.join(sorted(names))}.")
    return found


# -- tokenizers -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def vocabulary(kind_name: str, folder: Path) -> Vocabulary:
    """The vocabulary of a kind: of an installed package, or where this machine has one for tests."""
    places = [
        os.environ.get("LIMNER_TEST_TOKENIZERS", ""), folder.parents[2] / "tokenizers",
        REPOSITORY.parent / "shared" / "tokenizers",
    ]  # fmt: skip
    nowhere = CheckpointHeader.of({})
    try:
        found = Vocabularies(tuple(Path(place) for place in places if place))
        return found.find(encoders()[kind_name].vocabulary, nowhere, kind_name)
    except NotFound as error:
        raise UnsupportedCaseError(str(error)) from error


def tokenizer(kind: EncoderKind, part: TextPart, folder: Path) -> RowTokenizer:
    """A kind's tokenizer as a family has it."""
    special = part.settings.special(kind.special)
    rows = part.rows
    return RowTokenizer(
        vocabulary(kind.name, folder), special.start, special.end, special.pad, rows.max_length, rows.min_length,
        pad_to_max=rows.pad_to_max, pad_left=rows.pad_left, weights=rows.weights,
    )  # fmt: skip


def tokens(path: Path, folder: Path) -> list[Check]:
    """Prompts to rows of tokens; prompts to weighted stretches of text."""
    data = Case(path, folder).data
    if "cases" in data and data["cases"] and "segments" in data["cases"][0]:
        wrong = [entry["prompt"] for entry in data["cases"] if not _same_segments(entry)]
        return [Check("segments", float(len(wrong)))]
    name = str(data.get("tokenizer", ""))
    kind, part, template = _named(name)
    rows = tokenizer(kind, part, folder)
    knows = kind.embeddings and part.rows.embeddings
    seed, files = data["embeddings"]["seed"], data["embeddings"]["files"]
    # a file's tensors lie in it in the order of their names
    embeddings = {
        file.removesuffix(".safetensors"): {
            tensor: torch.from_numpy(weights.tensor(tensor, size, rule, seed))
            for tensor, size, rule in sorted(contents)
        }
        for file, contents in files.items()
    }

    def find(name: str) -> Tensor | None:
        contents = embeddings.get(name.removesuffix(".safetensors"))
        return None if contents is None else vectors_of(contents, kind.name)

    wrong_rows = 0
    for entry in data["cases"]:
        expected = [row["tokens"] + [row["then"]] * row["times"] if "then" in row else row["tokens"]
                    for row in entry["batches"]]  # fmt: skip
        ours = rows.rows(template(entry["prompt"]), find if knows else None)
        wrong_rows += not _same_rows(ours, expected, embeddings)
    return [Check("prompts", float(wrong_rows))]


def _named(name: str) -> tuple[EncoderKind, TextPart, Any]:
    """The kind, the family's part and the template that a case's name means."""
    kind_name = next((one for one in sorted(encoders(), key=len, reverse=True) if name.startswith(one)), None)
    for family in families().values():
        text = family.text
        for part in text.parts if text is not None else ():
            rest = name.removeprefix(part.encoder + "_")
            if name in (part.encoder, family.name) or (kind_name == part.encoder and rest in text.types):
                kind = encoders()[part.encoder]
                return kind, part, partial(_template, text)
    if kind_name is not None:
        kind = encoders()[kind_name]
        longest, pad = 77, 49407 if "cascade" in name else None
        clip = kind_name.startswith("clip")
        length, knows = next((said for word, said in LENGTHS.items() if word in name), (1, clip))
        rows = RowSettings(longest if clip else length, longest if clip else None, pad_to_max=clip, embeddings=knows)
        part = TextPart(kind_name, kind_name, (), EncodeSettings(pad=pad), rows)
        return kind, part, str
    if "qwen25" in name:
        kind = encoders()["qwen25_" + name.rpartition("qwen25_")[2]]
        part = TextPart(kind.name, kind.name, (), EncodeSettings(), RowSettings(max_length=None, pad_to_max=False))
        return kind, part, OMNIGEN2.format
    raise UnsupportedCaseError(f"The tokenizer {name}.")


def _template(text: TextEncoding, prompt: str) -> str:
    return prompt if text.template is None else text.template(prompt, {})


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
    "te-*/*.safetensors": encoder,
    "te-*vision*/*.safetensors": vision,
    "te-combined/*": combined,
    "tokenizer/*": tokens,
}
