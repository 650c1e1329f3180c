"""Sound from and to files."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch

from limner.graph import Choice, FileIn, Kind, Run, Ui, node
from limner.nodes.kinds import AUDIO
from limner.nodes.saving import Extra, Prompt, carried, save_files, temp_prefix
from limner.store.audio import decode_audio, encode_audio
from limner.store.files import SOUNDS, VIDEOS

Upload = Annotated[str, FileIn("input", suffixes=tuple(sorted(SOUNDS | VIDEOS)), extra={"audio_upload": True})]
PREFIX = "audio/ComfyUI"

audio_node = partial(node, category="audio", python_module="comfy_extras.nodes_audio")


@audio_node("SaveAudio", title="Save Audio (FLAC)", output_node=True)
def save_flac(
    run: Run, audio: AUDIO, filename_prefix: str = PREFIX, prompt: Prompt = None, extra_pnginfo: Extra = None
) -> Ui:
    """Sound as FLAC in the output folder, with prompt and workflow inside."""
    return _save(run, audio, "output", filename_prefix, "flac", carried(run, prompt, extra_pnginfo))


@audio_node("SaveAudioMP3", title="Save Audio (MP3)", output_node=True)
def save_mp3(
    run: Run,
    audio: AUDIO,
    filename_prefix: str = PREFIX,
    quality: Annotated[str, Choice(("V0", "128k", "320k"))] = "V0",
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """Sound as MP3 in the output folder, with prompt and workflow inside.

    quality: bits a second, or V0, as many as are needed.
    """
    return _save(run, audio, "output", filename_prefix, "mp3", carried(run, prompt, extra_pnginfo), quality)


@audio_node("SaveAudioOpus", title="Save Audio (Opus)", output_node=True)
def save_opus(
    run: Run,
    audio: AUDIO,
    filename_prefix: str = PREFIX,
    quality: Annotated[str, Choice(("64k", "96k", "128k", "192k", "320k"))] = "128k",
    prompt: Prompt = None,
    extra_pnginfo: Extra = None,
) -> Ui:
    """Sound as Opus in the output folder, with prompt and workflow inside.

    quality: bits a second.
    """
    return _save(run, audio, "output", filename_prefix, "opus", carried(run, prompt, extra_pnginfo), quality)


@audio_node("PreviewAudio", title="Preview Audio", output_node=True)
def preview(run: Run, audio: AUDIO, prompt: Prompt = None, extra_pnginfo: Extra = None) -> Ui:
    """Sound to be heard but not kept: it goes to the temp folder."""
    return _save(run, audio, "temp", temp_prefix(), "flac", carried(run, prompt, extra_pnginfo))


def _save(
    run: Run, audio: AUDIO, kind: str, prefix: str, form: str, texts: dict[str, str], quality: str = "128k"
) -> Ui:
    rate = audio["sample_rate"]
    files = (encode_audio(one.float().cpu().numpy(), rate, form, quality, texts) for one in audio["waveform"])
    return Ui({"audio": save_files(run, kind, prefix, form, files)})


@audio_node("LoadAudio", title="Load Audio")
def load(run: Run, audio: Upload) -> AUDIO:
    """The sound of a file of the input folder, of a video too."""
    return _load(run, audio)


@load.changes_when
def _digest(run: Run, audio: str) -> str:
    digest: str = run.store.files.digest(run.store.files.existing(audio))
    return digest


@audio_node("RecordAudio", title="Record Audio")
def record(run: Run, audio: Annotated[str, Kind("AUDIO_RECORD")]) -> AUDIO:
    """What was recorded in the browser.

    audio: the file that the browser sent.
    """
    return _load(run, audio)


@record.changes_when
def _recorded(run: Run, audio: str) -> str:
    return _digest(run, audio)


def _load(run: Run, name: str) -> AUDIO:
    samples, rate = decode_audio(run.store.files.existing(name))
    return {"waveform": torch.from_numpy(samples)[None], "sample_rate": rate}
