"""Sound: cut, joined, mixed, made louder."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from limner.errors import BadInput
from limner.graph import Choice, Float, Int, node
from limner.nodes.kinds import AUDIO
from limner.nodes.resize import repeat_to_batch
from limner.store.audio import resample

UNBOUNDED = 2**64 - 1
Seconds = Annotated[float, Float(min=0.0, step=0.01)]
Start = Annotated[float, Float(min=-UNBOUNDED, max=UNBOUNDED, step=0.01)]
Direction = Annotated[str, Choice(("after", "before"))]
Mixing = Annotated[str, Choice(("add", "mean", "subtract", "multiply"))]

audio_node = partial(node, category="audio", python_module="comfy_extras.nodes_audio")


class Channels(NamedTuple):
    """The two sides of a stereo sound."""

    left: AUDIO
    right: AUDIO


@audio_node("EmptyAudio", title="Empty Audio")
def empty(
    duration: Annotated[float, Float(min=0.0, max=UNBOUNDED, step=0.01)] = 60.0,
    sample_rate: Annotated[int, Int()] = 44100,
    channels: Annotated[int, Int(min=1, max=2)] = 2,
) -> AUDIO:
    """Silence.

    duration: seconds.
    sample_rate: samples a second.
    channels: 1 is mono, 2 stereo.
    """
    return {"waveform": torch.zeros(1, channels, round(duration * sample_rate)), "sample_rate": sample_rate}


@audio_node("TrimAudioDuration", title="Trim Audio Duration")
def trim(audio: AUDIO, start_index: Start = 0.0, duration: Seconds = 60.0) -> AUDIO:
    """A part of a sound.

    start_index: seconds from the start; negative from the end.
    duration: seconds.
    """
    waveform, rate = audio["waveform"], audio["sample_rate"]
    length = waveform.shape[-1]
    start = round(start_index * rate)
    start = max(0, min(start + length if start_index < 0 else start, length - 1))
    end = max(0, min(start + round(duration * rate), length))
    if start >= end:
        raise BadInput(
            "Nothing is left of the sound.",
            why=f"It has {length / rate:.2f} s; asked were {duration} s from {start_index} s on.",
            do="Give a longer duration.",
        )
    return {"waveform": waveform[..., start:end], "sample_rate": rate}


@audio_node("SplitAudioChannels", title="Split Audio Channels")
def split(audio: AUDIO) -> Channels:
    """The left and the right side of a stereo sound, each mono."""
    waveform, rate = audio["waveform"], audio["sample_rate"]
    if waveform.shape[1] != 2:
        raise BadInput(f"The sound has {waveform.shape[1]} channels.", why="Only stereo can be split into two.")
    left, right = waveform[:, :1], waveform[:, 1:]
    return Channels({"waveform": left, "sample_rate": rate}, {"waveform": right, "sample_rate": rate})


@audio_node("AudioConcat", title="Audio Concat")
def concat(audio1: AUDIO, audio2: AUDIO, direction: Direction = "after") -> AUDIO:
    """Two sounds one after the other, both stereo, at the higher sample rate of the two.

    direction: where the second stands.
    """
    first, second, rate = _same_rate(audio1, audio2)
    parts = [one.repeat(1, 2, 1) if one.shape[1] == 1 else one for one in (first, second)]
    length = max(len(part) for part in parts)
    parts = [repeat_to_batch(part, length) for part in parts]
    return {"waveform": torch.cat(parts if direction == "after" else parts[::-1], dim=2), "sample_rate": rate}


@audio_node("AudioMerge", title="Audio Merge")
def merge(audio1: AUDIO, audio2: AUDIO, merge_method: Mixing) -> AUDIO:
    """Two sounds at once, as long as the first; the whole is made quieter where it would be cut off.

    merge_method: how; subtract takes the second from the first.
    """
    first, second, rate = _same_rate(audio1, audio2)
    length = first.shape[-1]
    second = torch.nn.functional.pad(second[..., :length], (0, max(0, length - second.shape[-1])))
    if merge_method == "add":
        mixed = first + second
    elif merge_method == "subtract":
        mixed = first - second
    else:
        mixed = first * second if merge_method == "multiply" else (first + second) / 2
    peak = mixed.abs().max() if mixed.numel() else mixed.new_zeros(())
    return {"waveform": mixed / peak if peak > 1 else mixed, "sample_rate": rate}


@audio_node("AudioAdjustVolume", title="Audio Adjust Volume")
def adjust_volume(audio: AUDIO, volume: Annotated[int, Int(min=-100, max=100)] = 1) -> AUDIO:
    """A sound made louder or quieter.

    volume: decibels; 6 doubles, -6 halves.
    """
    if volume == 0:
        return audio
    return {"waveform": audio["waveform"] * 10 ** (volume / 20), "sample_rate": audio["sample_rate"]}


def _same_rate(first: AUDIO, second: AUDIO) -> tuple[Tensor, Tensor, int]:
    """Both waveforms at the higher sample rate of the two."""
    rate = max(first["sample_rate"], second["sample_rate"])
    return _at_rate(first, rate), _at_rate(second, rate).to(first["waveform"]), rate


def _at_rate(audio: AUDIO, rate: int) -> Tensor:
    waveform = audio["waveform"]
    if audio["sample_rate"] == rate:
        return waveform
    resampled = [resample(one.float().cpu().numpy(), audio["sample_rate"], rate) for one in waveform]
    return torch.stack([torch.from_numpy(one) for one in resampled]).to(waveform)
