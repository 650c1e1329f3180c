"""Files to MODEL, CLIP and VAE. Only headers are read here; weights are read when a model is first used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from limner.errors import BadInput
from limner.memory import MemoryManager
from limner.models import replaced
from limner.models.autoencoder import VAE, Autoencoder
from limner.models.clip import CLIP, TextEncoder
from limner.models.convert import clip_text, vae_from_diffusers
from limner.models.detect import Match, detect
from limner.models.metadata import overrides
from limner.models.model import Model
from limner.models.text.clip import CLIPText, CLIPTextConfig
from limner.models.text.encode import EncodeSettings
from limner.models.text.tokenizer import ClipTokenizer, installed_vocabulary, parse_tokenizer, read_vocabulary
from limner.models.vae.kl import AutoencoderKL, KLConfig
from limner.models.vae.taesd import TAESD, TAESDConfig
from limner.sampling.model_sampling import make_sampling
from limner.weights import CheckpointHeader, LazyTensor, NetworkSource, files

MODEL_PREFIX = "diffusion_model."


class Checkpoint(NamedTuple):
    """What a checkpoint holds. `clip` None: it has no text encoder. A missing VAE says so when it is used."""

    model: Model
    clip: CLIP | None
    vae: VAE


def read_header(path: str | Path, memory: MemoryManager) -> CheckpointHeader:
    """The header of a file, mapped unless the settings forbid it."""
    return files.header(path, use_mmap=not memory.settings.disable_mmap)


def load_checkpoint(path: str | Path, memory: MemoryManager, embeddings: Sequence[Path] = ()) -> Checkpoint:
    """All that a checkpoint holds. embeddings: folders of textual inversions, for its text encoder.

    Raises BadInput when no family matches or a part contradicts itself.
    """
    folders = [str(folder) for folder in embeddings]
    found = replaced.get(
        "load_checkpoint_guess_config", path, output_vae=True, output_clip=True, embedding_directory=folders
    )
    return read_checkpoint(path, memory, embeddings) if found is None else Checkpoint(*found[:3])


def read_checkpoint(path: str | Path, memory: MemoryManager, embeddings: Sequence[Path] = ()) -> Checkpoint:
    """The same by Limner itself, whatever packs have put in its place."""
    return from_state(read_header(path, memory), memory, embeddings)


def from_state(header: CheckpointHeader, memory: MemoryManager, embeddings: Sequence[Path] = ()) -> Checkpoint:
    """The same of tensors that have been read."""
    match = detect(header)
    clip = None
    for spec in match.family.text_encoders:
        for prefix in spec.prefixes:
            part = clip_text(header.select(prefix))
            if clip is None and _is_clip(part):
                clip = _clip(header, part, spec.name, memory, embeddings)
    vae = None
    for prefix in match.family.vae_prefixes:
        part = header.select(prefix)
        vae = _vae(header, part, memory) if vae is None and len(part) else vae
    return Checkpoint(_model(header, match, memory), clip, vae or VAE(None, None, memory, header.path.name))


def load_diffusion_model(path: str | Path, memory: MemoryManager) -> Model:
    """The diffusion model of a file, whatever else is in it. Raises BadInput when no family matches."""
    found: Model | None = replaced.get("load_diffusion_model", path)
    return read_diffusion_model(path, memory) if found is None else found


def read_diffusion_model(path: str | Path, memory: MemoryManager) -> Model:
    """The same by Limner itself."""
    return model_of(read_header(path, memory), memory)


def model_of(header: CheckpointHeader, memory: MemoryManager) -> Model:
    """The diffusion model of a header."""
    return _model(header, detect(header), memory)


def _model(header: CheckpointHeader, match: Match, memory: MemoryManager) -> Model:
    family = match.family
    config = family.infer_config(match.diffusion, overrides(header, "unet"))
    source = NetworkSource(
        "diffusion model", partial(family.network, config), match.diffusion.tensors, header.identity, MODEL_PREFIX,
        said=_said(header, "unet", "sampling"),
    )  # fmt: skip
    prediction = family.prediction(match.diffusion, header)
    return Model(family, config, source, make_sampling(prediction.kind, **prediction.settings), memory)


def load_clip(
    paths: Sequence[str | Path],
    type: str,  # noqa: A002 - the node's name for it
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
) -> CLIP:
    """The text encoder of a file. type: which family it is for, by the loader node's word.

    Raises BadInput for files that are no CLIP-L, the only text encoder known so far.
    """
    folders = [str(folder) for folder in embeddings]
    found: CLIP | None = replaced.get("load_clip", list(paths), embedding_directory=folders)
    return read_clip(paths, type, memory, embeddings) if found is None else found


def read_clip(
    paths: Sequence[str | Path],
    type: str,  # noqa: A002
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
) -> CLIP:
    """The same by Limner itself."""
    return clip_of([read_header(path, memory) for path in paths], type, memory, embeddings)


def clip_of(
    headers: Sequence[CheckpointHeader],
    type: str,  # noqa: A002
    memory: MemoryManager,
    embeddings: Sequence[Path] = (),
) -> CLIP:
    """The same of tensors that have been read."""
    if len(headers) != 1:
        raise BadInput(f"{len(headers)} text encoders together are not supported.", why="Known is CLIP-L alone.")
    header = headers[0]
    for prefix in ("", "cond_stage_model.", "text_encoder.", "clip_l.", "text_encoders.clip_l."):
        part = clip_text(header.select(prefix))
        if _is_clip(part):
            return _clip(header, part, "clip_l", memory, embeddings)
    raise BadInput(
        f"{header.path.name} is no text encoder that is known here.",
        why=f"It was asked for as {type}; known is CLIP-L, whose layers are named text_model.encoder.layers.0 ….",
        do="`limner inspect` says what the file is.",
    )


def _said(header: CheckpointHeader, *components: str) -> dict[str, Any]:
    """What the file's config says of these components, where it says anything."""
    return {name: dict(said) for name in components if (said := overrides(header, name))}


def _is_clip(part: CheckpointHeader) -> bool:
    """Whether it is a CLIP-L; H and G have more than 22 layers."""
    layer = "text_model.encoder.layers.{}.layer_norm1.weight"
    return layer.format(0) in part and layer.format(22) not in part


def _clip(
    header: CheckpointHeader, part: CheckpointHeader, name: str, memory: MemoryManager, embeddings: Sequence[Path]
) -> CLIP:
    said = overrides(header, name)
    config = CLIPTextConfig.from_state(part.shapes(), said)
    start, end = int(said.get("bos_token_id", 49406)), int(said.get("eos_token_id", 49407))
    settings = EncodeSettings(start=start, end=end, pad=int(said.get("pad_token_id", end)))
    text = header.metadata.get("tokenizer_json")

    def make_tokenizer() -> ClipTokenizer:
        bpe = read_vocabulary(installed_vocabulary()) if text is None else parse_tokenizer(text, header.path.name)
        longest = config.max_position_embeddings
        return ClipTokenizer(bpe, settings.start, settings.end, settings.pad, max_length=longest)

    encoder = TextEncoder(name.removeprefix("clip_"), name, make_tokenizer, settings)
    source = NetworkSource(
        "text encoder", partial(CLIPText, config), part.tensors, header.identity, f"{name}.transformer.",
        said=_said(header, name) | ({} if text is None else {"tokenizer_json": text}),
    )  # fmt: skip
    return CLIP(encoder, source, memory, embeddings)


def load_vae(path: str | Path, memory: MemoryManager) -> VAE:
    """A file that is an autoencoder, or a checkpoint that holds one. Raises BadInput when it is neither."""
    return vae_of(read_header(path, memory), memory)


def vae_of(header: CheckpointHeader, memory: MemoryManager, *, strict: bool = True) -> VAE:
    """The autoencoder of a header, bare or inside a checkpoint. strict: raise BadInput at once where there is none."""
    part = header
    for prefix in ("first_stage_model.", "vae."):
        if len(selected := header.select(prefix)):
            part = selected
    vae = _vae(header, part, memory)
    if strict:
        vae.throw_exception_if_invalid()
    return vae


def load_taesd(encoder: str | Path, decoder: str | Path, scale: float, shift: float, memory: MemoryManager) -> VAE:
    """The two files of a tiny autoencoder. scale, shift: of the latents of the large one, as nodes see them."""
    files = read_header(encoder, memory), read_header(decoder, memory)
    tensors = {
        prefix + name.removeprefix(prefix): entry
        for prefix, header in zip(("taesd_encoder.", "taesd_decoder."), files, strict=True)
        for name, entry in header.tensors.items()
    }
    tensors |= {
        f"vae_{name}": LazyTensor.of(torch.tensor(value)) for name, value in (("scale", scale), ("shift", shift))
    }
    return _taesd(replace(files[1], tensors=tensors, identity=files[0].identity + files[1].identity), memory)


def _taesd(header: CheckpointHeader, memory: MemoryManager) -> VAE:
    tensors = dict(header.tensors)
    for name, value in (("vae_scale", 1.0), ("vae_shift", 0.0)):
        tensors.setdefault(name, LazyTensor.of(torch.tensor(value)))
    config = TAESDConfig.from_state(header.shapes(), overrides(header, "vae"))
    kind = Autoencoder(
        channels=config.latent_channels,
        downscale=8,
        encode=lambda network, pictures: network.encode(pictures),  # type: ignore[operator]
        decode=lambda network, latent: network.decode(latent),  # type: ignore[operator]
        encode_bytes_per_pixel=300,
        decode_bytes_per_pixel=300,
    )
    return VAE(kind, NetworkSource("TAESD", partial(TAESD, config), tensors, header.identity), memory, header.path.name)


def _vae(header: CheckpointHeader, part: CheckpointHeader, memory: MemoryManager) -> VAE:
    if "taesd_decoder.1.weight" in part:
        return _taesd(part, memory)
    part = vae_from_diffusers(part)
    if "decoder.conv_in.weight" not in part or len(part.shape("decoder.conv_in.weight")) != 4:
        return VAE(None, None, memory, header.path.name)
    config = KLConfig.from_state(part.shapes(), overrides(header, "vae"))
    kind = Autoencoder(
        channels=config.embed_dim,
        downscale=config.downscale,
        encode=lambda network, pictures: network.encode(pictures),  # type: ignore[operator]
        decode=lambda network, latent: network.decode(latent),  # type: ignore[operator]
        encode_bytes_per_pixel=700,
        decode_bytes_per_pixel=1100,
        colours=config.in_channels,
    )
    source = NetworkSource(
        "VAE", partial(AutoencoderKL, config), part.tensors, header.identity, "first_stage_model.",
        said=_said(header, "vae"),
    )  # fmt: skip
    return VAE(kind, source, memory, header.path.name)
