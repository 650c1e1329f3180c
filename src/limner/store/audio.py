"""Sound as bytes: FLAC, MP3, Opus and AAC through PyAV, samples as float arrays (channels, samples) in -1..1."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.errors import BadInput, NotFound

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("flac", "mp3", "opus", "wav")
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
"""The only sample rates that Opus knows."""
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_CODECS = {"flac": "flac", "mp3": "libmp3lame", "opus": "libopus", "wav": "pcm_s16le"}
_VARIABLE = {"V0": 0, "V2": 2, "V4": 4}
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_BLOCK = 1 << 16

Source = Path | str | bytes | io.BytesIO


def open_container(source: Source) -> Any:
    """A PyAV container to read from. Raises BadInput for what is no sound or video, NotFound for no file."""
    import av  # noqa: PLC0415 - needed only where media is read

    name = source if isinstance(source, (str, Path)) else "the data"
    try:
        if isinstance(source, bytes):
            return av.open(io.BytesIO(source))
        if isinstance(source, io.BytesIO):
            source.seek(0)
            return av.open(source)
        return av.open(str(source))
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {name!s}.") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadInput(f"{name!s} cannot be read as sound or video.", why=f"{error}.") from error


def decode_audio(source: Source) -> tuple[np.ndarray[Any, Any], int]:
    """The first audio stream as (channels, samples) float32, and its sample rate.

    Raises BadInput when there is none, or when it is damaged.
    """
    with open_container(source) as container:
        found = read_audio(container)
    if found is None:
        raise BadInput(f"{source if isinstance(source, (str, Path)) else 'The data'} has no sound in it.")
    return found


def read_audio(container: Any, start: float = 0.0, duration: float = 0.0) -> tuple[np.ndarray[Any, Any], int] | None:
    """The first audio stream of an open container, or None. start, duration: seconds; 0 takes all that follows."""
    import av  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    if not container.streams.audio:
        return None
    stream = container.streams.audio[0]
    rate = int(stream.codec_context.sample_rate or 0)
    if not rate or not stream.codec_context.channels:
        raise BadInput(f"{Path(container.name).name or 'The data'} is no sound.", why="It says no rate or no channels.")
    resampler = av.AudioResampler(format="fltp", layout=stream.layout.name, rate=rate)
    parts: list[np.ndarray[Any, Any]] = []
    first: float | None = None
    try:
        if start > 0:
            container.seek(max(0, int((start - 1) * av.time_base)), any_frame=False)
        for frame in container.decode(stream):
            if first is None:
                first = float(frame.time or 0.0)
            if duration and frame.time is not None and frame.time > start + duration:
                break
            parts.extend(one.to_ndarray() for one in resampler.resample(frame))
        parts.extend(one.to_ndarray() for one in resampler.resample(None))
    except av.FFmpegError as error:
        if not parts:
            raise BadInput("The sound cannot be decoded.", why=f"{error}.") from error
    if not parts:
        return None
    samples = np.concatenate(parts, axis=1)
    skip = max(0, round((start - (first or 0.0)) * rate)) if start > 0 else 0
    return samples[:, skip : skip + round(duration * rate) if duration else None], rate


def resample(samples: np.ndarray[Any, Any], rate: int, new_rate: int) -> np.ndarray[Any, Any]:
    """The same sound (channels, samples) at another sample rate."""
    import av  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    if rate == new_rate or samples.shape[1] == 0:
        return samples
    layout = layout_of(samples.shape[0])
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=new_rate)
    parts = [one.to_ndarray() for frame in _frames(samples, rate, layout) for one in resampler.resample(frame)]
    parts.extend(one.to_ndarray() for one in resampler.resample(None))
    return np.concatenate(parts, axis=1)


def layout_of(channels: int) -> str:
    """FFmpeg's name of the layout of that many channels. Raises BadInput for a number without one."""
    if channels not in _LAYOUTS:
        raise BadInput(f"Sound of {channels} channels cannot be written.", do="Mix it to one or two channels.")
    return _LAYOUTS[channels]


def encode_audio(
    samples: np.ndarray[Any, Any],
    rate: int,
    form: str = "flac",
    quality: str = "128k",
    texts: Mapping[str, str] | None = None,
) -> bytes:
    """A sound file of samples (channels, samples) in -1..1, with texts as its tags.

    form: one of FORMATS. quality: bits a second (`128k`) or, of MP3, a variable rate (`V0`); FLAC and WAV keep all.
    Opus and MP3 get the nearest sample rate they know. Raises BadInput for another form, quality or layout.
    """
    import av  # noqa: PLC0415

    if form not in _CODECS:
        raise BadInput(f"There is no sound format {form!r}.", do=f"Use one of {', '.join(FORMATS)}.")
    known = {"opus": OPUS_RATES, "mp3": MP3_RATES}.get(form, (rate,))
    target = next((one for one in known if one >= rate), known[-1])
    samples = resample(samples, rate, target)
    layout = layout_of(samples.shape[0])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        container.metadata.update(texts or {})
        stream: Any = container.add_stream(_CODECS[form], rate=target, layout=layout)
        if form in {"mp3", "opus"}:
            if form == "mp3" and quality in _VARIABLE:
                stream.codec_context.qscale = True
                stream.codec_context.global_quality = _VARIABLE[quality] * 118  # FF_QP2LAMBDA
            else:
                stream.bit_rate = bits(quality)
        encode_stream(container, stream, samples, target, layout)
    return buffer.getvalue()


def bits(quality: str) -> int:
    """`128k` as bits a second. Raises BadInput for anything else."""
    digits = quality.removesuffix("k")
    if not (digits.isascii() and digits.isdigit() and digits != quality and 0 < int(digits) <= 2000):
        raise BadInput(f"{quality!r} is no quality of sound.", do="Use bits a second, such as 128k.")
    return int(digits) * 1000


def encode_stream(container: Any, stream: Any, samples: np.ndarray[Any, Any], rate: int, layout: str) -> None:
    """Encode samples (channels, samples) into a stream of an open container, and flush it."""
    import av  # noqa: PLC0415

    context = stream.codec_context
    converter = av.AudioResampler(format=context.format.name, layout=layout, rate=rate, frame_size=_size(context))
    for frame in _frames(samples, rate, layout):
        for one in converter.resample(frame):
            container.mux(stream.encode(one))
    for one in converter.resample(None):
        container.mux(stream.encode(one))
    container.mux(stream.encode(None))


def _size(context: Any) -> int | None:
    context.open(strict=False)
    return int(context.frame_size) or None


def _frames(samples: np.ndarray[Any, Any], rate: int, layout: str) -> Iterator[Any]:
    import av  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    for at in range(0, samples.shape[1], _BLOCK):
        block = np.ascontiguousarray(samples[:, at : at + _BLOCK], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.pts = at
        yield frame


def tags(source: Source) -> dict[str, str]:
    """The texts that a sound or video file carries, of its container and of its first stream."""
    with open_container(source) as container:
        streams: Iterable[Any] = container.streams
        found: dict[str, str] = {}
        for stream in list(streams)[:1]:
            found.update(stream.metadata)
        return {**found, **container.metadata}
