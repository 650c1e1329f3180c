"""Videos: what travels between nodes as VIDEO, read from files or put together from pictures, written through PyAV.

Pictures are tensors (frames, height, width, 3) float32 in 0..1 and sound is `{"waveform": (1, channels, samples),
"sample_rate": int}`. Torch is imported when tensors are made, not before.
"""

from __future__ import annotations

import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from limner.errors import BadInput
from limner.store.audio import encode_stream, layout_of, open_container, read_audio

if TYPE_CHECKING:
    import numpy as np
    import torch

Target = Path | str | io.BytesIO
_OF_THE_FILE = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder"})
"""What muxers say of the file that they write; it does not belong to the next one."""


class AudioInput(TypedDict):
    """Sound: waveform (batch, channels, samples) float32 in -1..1, and its sample rate in Hz."""

    waveform: torch.Tensor
    sample_rate: int


class VideoCodec(str, Enum):
    """How pictures are coded."""

    AUTO = "auto"
    H264 = "h264"

    @classmethod
    def as_input(cls) -> list[str]:
        """The values, as the choices of a node's input."""
        return [member.value for member in cls]


class VideoContainer(str, Enum):
    """What kind of file holds them."""

    AUTO = "auto"
    MP4 = "mp4"

    @classmethod
    def as_input(cls) -> list[str]:
        """The values, as the choices of a node's input."""
        return [member.value for member in cls]

    @classmethod
    def get_extension(cls, value: str | VideoContainer) -> str:
        """The file extension of a container, without the dot: mp4 for `auto` as well."""
        cls(value)
        return "mp4"


@dataclass
class VideoComponents:
    """The parts of a video. images: (frames, height, width, 3); metadata: what its file says of it."""

    images: torch.Tensor
    frame_rate: Fraction
    audio: AudioInput | None = None
    metadata: dict[str, Any] | None = None


class VideoInput(ABC):
    """A video. Subclasses say what it is made of and how it is saved; the rest follows from that."""

    @abstractmethod
    def get_components(self) -> VideoComponents:
        """All pictures and all sound, decoded."""

    @abstractmethod
    def save_to(
        self,
        path: Target,
        format: VideoContainer = VideoContainer.AUTO,  # noqa: A002 - the name that callers use
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the video to a file or a buffer. metadata: values that are written into it as JSON."""

    def as_trimmed(
        self, start_time: float = 0.0, duration: float = 0.0, strict_duration: bool = False
    ) -> VideoInput | None:
        """The part from `start_time` on, `duration` seconds long (0: to the end).

        strict_duration: None rather than a shorter video when there is not that much left.
        """
        components = self.get_components()
        rate = float(components.frame_rate)
        first = round(max(0.0, start_time) * rate)
        last = first + round(duration * rate) if duration else len(components.images)
        if first >= len(components.images) or (strict_duration and last > len(components.images)):
            return None
        audio = components.audio
        if audio is not None:
            at, hz = round(first / rate * audio["sample_rate"]), audio["sample_rate"]
            audio = {"waveform": audio["waveform"][..., at : round(last / rate * hz)], "sample_rate": hz}
        return VideoFromComponents(
            VideoComponents(components.images[first:last], components.frame_rate, audio, components.metadata)
        )

    def get_stream_source(self) -> str | io.BytesIO:
        """A path, or a buffer at its start, that holds the video as a file."""
        buffer = io.BytesIO()
        self.save_to(buffer)
        buffer.seek(0)
        return buffer

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height in pixels."""
        images = self.get_components().images
        return int(images.shape[2]), int(images.shape[1])

    def get_frame_count(self) -> int:
        """How many pictures there are."""
        return int(self.get_components().images.shape[0])

    def get_frame_rate(self) -> Fraction:
        """Pictures a second."""
        return Fraction(self.get_components().frame_rate)

    def get_duration(self) -> float:
        """Seconds."""
        components = self.get_components()
        return float(components.images.shape[0] / components.frame_rate)

    def get_container_format(self) -> str:
        """FFmpeg's name of the kind of file that `get_stream_source` gives, such as `mov,mp4,m4a,3gp,3g2,mj2`."""
        with open_container(self.get_stream_source()) as container:
            return str(container.format.name)


class VideoFromFile(VideoInput):
    """A video in a file or a buffer, decoded when its parts are asked for.

    start_time, duration: the part of it that counts, in seconds; duration 0 goes to the end.
    """

    def __init__(self, file: str | Path | io.BytesIO, *, start_time: float = 0.0, duration: float = 0.0) -> None:
        self._file = str(file) if isinstance(file, Path) else file
        self._start = max(0.0, start_time)
        self._duration = max(0.0, duration)

    @property
    def _whole(self) -> bool:
        return not self._start and not self._duration

    def get_stream_source(self) -> str | io.BytesIO:
        """The file itself; of a part of it a buffer."""
        if not self._whole:
            return super().get_stream_source()
        if isinstance(self._file, io.BytesIO):
            self._file.seek(0)
        return self._file

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height in pixels, as the video is shown."""
        with open_container(self._file) as container:
            stream = _video_stream(container, self._file)
            width, height = int(stream.width), int(stream.height)
            first = next(container.decode(stream), None)
            return (height, width) if first is not None and first.rotation % 180 else (width, height)

    def get_duration(self) -> float:
        """Seconds; what the file says, or else counted."""
        with open_container(self._file) as container:
            total = _duration(container, self._file)
        left = max(0.0, total - self._start)
        return min(left, self._duration) if self._duration else left

    def get_frame_count(self) -> int:
        """How many pictures there are; counted where the file does not say."""
        if self._whole:
            with open_container(self._file) as container:
                stream = _video_stream(container, self._file)
                if stream.frames:
                    return int(stream.frames)
                return sum(1 for packet in container.demux(stream) if packet.size)
        return super().get_frame_count()

    def get_frame_rate(self) -> Fraction:
        """Pictures a second."""
        with open_container(self._file) as container:
            return _rate(_video_stream(container, self._file))

    def get_container_format(self) -> str:
        """FFmpeg's name of the kind of file."""
        with open_container(self._file) as container:
            return str(container.format.name)

    def as_trimmed(
        self, start_time: float = 0.0, duration: float = 0.0, strict_duration: bool = False
    ) -> VideoInput | None:
        """The part from `start_time` on; nothing is decoded yet."""
        mine = self.get_duration()
        if start_time < 0:
            start_time = max(0.0, mine + start_time)
        left = mine - start_time
        if left <= 0 or (strict_duration and duration > left + 1e-6):
            return None
        wanted = min(duration, left) if duration else (left if self._duration else 0.0)
        return VideoFromFile(self._file, start_time=self._start + start_time, duration=wanted)

    def get_components(self) -> VideoComponents:
        """All pictures and all sound, decoded. Raises BadInput for a file without pictures."""
        with open_container(self._file) as container:
            return self.get_components_internal(container)

    def get_components_internal(self, container: Any) -> VideoComponents:
        """`get_components` of an open PyAV container."""
        import torch  # noqa: PLC0415

        stream = _video_stream(container, self._file)
        rate = _rate(stream)
        frames = self._decode(container, stream, rate)
        metadata = {key: _plain(value) for key, value in container.metadata.items()} or None
        with open_container(self._file) as again:
            sound = read_audio(again, self._start, self._duration)
        audio: AudioInput | None = None
        if sound is not None:
            audio = {"waveform": torch.from_numpy(sound[0])[None], "sample_rate": sound[1]}
        images = torch.empty(len(frames), *frames[0].shape)
        for image, frame in zip(images, frames, strict=True):
            image.copy_(torch.from_numpy(frame)).div_(255.0)
        return VideoComponents(images, rate, audio, metadata)

    def _decode(self, container: Any, stream: Any, rate: Fraction) -> list[np.ndarray[Any, Any]]:
        import av  # noqa: PLC0415
        import numpy as np  # noqa: PLC0415

        stream.thread_type = "AUTO"
        half = 0.5 / float(rate)
        if self._start:
            container.seek(int(self._start / stream.time_base), stream=stream)
        frames: list[np.ndarray[Any, Any]] = []
        try:
            for frame in container.decode(stream):
                at = float(frame.time) if frame.time is not None else 0.0
                if self._start and at < self._start - half:
                    continue
                if self._duration and at >= self._start + self._duration - half:
                    break
                picture = frame.to_ndarray(format="rgb24")
                frames.append(np.ascontiguousarray(np.rot90(picture, frame.rotation // 90)))
        except av.FFmpegError as error:
            if not frames:
                raise BadInput(f"The video {_name(self._file)} cannot be decoded.", why=f"{error}.") from error
        if not frames:
            raise BadInput(f"The video {_name(self._file)} has no pictures in that part.")
        return frames

    def save_to(
        self,
        path: Target,
        format: VideoContainer = VideoContainer.AUTO,  # noqa: A002
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the video: its streams as they are where container and codec allow, else coded anew."""
        with open_container(self._file) as container:
            coded = container.streams.video[0].codec_context.name if container.streams.video else ""
            fits = format == VideoContainer.AUTO or str(format.value) in container.format.name.split(",")
            if self._whole and fits and (codec == VideoCodec.AUTO or codec.value == coded):
                _remux(container, path, metadata)
                return
            components = self.get_components_internal(container)
        VideoFromComponents(components).save_to(path, format, codec, metadata)


class VideoFromComponents(VideoInput):
    """A video of pictures and sound that are in memory."""

    def __init__(self, components: VideoComponents) -> None:
        self._components = components

    def get_components(self) -> VideoComponents:
        """The parts it was made of."""
        return VideoComponents(
            self._components.images, self._components.frame_rate, self._components.audio, self._components.metadata
        )

    def save_to(
        self,
        path: Target,
        format: VideoContainer = VideoContainer.AUTO,  # noqa: A002
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an MP4 of H.264 and AAC. Raises BadInput for another container or codec."""
        if format not in (VideoContainer.AUTO, VideoContainer.MP4) or codec not in (VideoCodec.AUTO, VideoCodec.H264):
            raise BadInput(f"A video cannot be written as {format} with {codec}.", do="Use mp4 and h264.")
        parts = self._components
        carried = {key: value for key, value in (parts.metadata or {}).items() if key not in _OF_THE_FILE}
        carried |= metadata or {}
        sound: tuple[np.ndarray[Any, Any], int] | None = None
        if parts.audio is not None:
            rate = int(parts.audio["sample_rate"])
            length = math.ceil(len(parts.images) / parts.frame_rate * rate)
            sound = parts.audio["waveform"][0, :, :length].float().cpu().numpy(), rate
        write_video(path, _bytes_of(parts.images), Fraction(parts.frame_rate), audio=sound, metadata=carried)


def write_video(
    target: Target,
    frames: Iterable[np.ndarray[Any, Any]],
    rate: Fraction,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    bit_rate: int | None = None,
    audio: tuple[np.ndarray[Any, Any], int] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write pictures (height, width, 3 or 4) uint8, all of one size, and sound (channels, samples) to a file or buffer.

    Halved colour planes need even sides: an odd last row or column is left out. metadata: values written as JSON, texts
    as they are. bit_rate: 0 leaves it to the codec's quality (`crf` in options).
    """
    import av  # noqa: PLC0415

    flags = {"movflags": "use_metadata_tags"} if container in ("mp4", "mov") else {}
    with av.open(
        target if isinstance(target, io.BytesIO) else str(target), "w", format=container, options=flags
    ) as out:
        for key, value in (metadata or {}).items():
            out.metadata[str(key)] = value if isinstance(value, str) else json.dumps(value)
        picture_rate = rate.limit_denominator(100_000)
        stream: Any = out.add_stream(codec, rate=picture_rate, options=dict(options or {}))
        stream.pix_fmt = pixels
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        sound: Any = None
        if audio is not None:
            layout = layout_of(audio[0].shape[0])
            name = "libopus" if container == "webm" else "aac"
            sound = out.add_stream(name, rate=audio[1], layout=layout)
        even = pixels.startswith("yuv") and "420" in pixels
        for index, picture in enumerate(frames):
            height, width = picture.shape[0] & (~1 if even else ~0), picture.shape[1] & (~1 if even else ~0)
            if index == 0:
                stream.width, stream.height = width, height
            kind = "rgba" if picture.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(_contiguous(picture[:height, :width]), format=kind)
            out.mux(stream.encode(frame.reformat(format=pixels)))
        out.mux(stream.encode(None))
        if audio is not None:
            encode_stream(out, sound, audio[0], audio[1], layout_of(audio[0].shape[0]))


def _remux(container: Any, path: Target, metadata: Mapping[str, Any] | None) -> None:
    """Copy the streams of an open container; what it says of itself is kept, `metadata` is added."""
    import av  # noqa: PLC0415

    form = container.format.name.split(",")
    kind = "mp4" if "mp4" in form else ("matroska" if "matroska" in form else form[0])
    flags = {"movflags": "use_metadata_tags"} if kind == "mp4" else {}
    with av.open(path if isinstance(path, io.BytesIO) else str(path), "w", format=kind, options=flags) as out:
        out.metadata.update(container.metadata)
        for key, value in (metadata or {}).items():
            out.metadata[str(key)] = value if isinstance(value, str) else json.dumps(value)
        copies = {
            stream.index: out.add_stream_from_template(stream, opaque=True)
            for stream in container.streams
            if stream.type in ("video", "audio", "subtitle")
        }
        for packet in container.demux([container.streams[index] for index in copies]):
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                out.mux(packet)


def _bytes_of(images: torch.Tensor) -> Iterable[np.ndarray[Any, Any]]:
    for image in images:
        array: np.ndarray[Any, Any] = (image.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        yield array[..., :3]


def _contiguous(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np  # noqa: PLC0415

    return np.ascontiguousarray(array)


def _video_stream(container: Any, source: str | io.BytesIO) -> Any:
    if not container.streams.video:
        raise BadInput(f"{_name(source)} has no pictures in it.", do="Choose a video.")
    return container.streams.video[0]


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.base_rate or stream.guessed_rate or 1)


def _duration(container: Any, source: str | io.BytesIO) -> float:
    import av  # noqa: PLC0415

    if container.duration:
        return float(container.duration / av.time_base)
    stream = _video_stream(container, source)
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    count = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    return float(count / _rate(stream))


def _name(source: str | io.BytesIO) -> str:
    return Path(source).name if isinstance(source, str) else "in memory"


def _plain(text: str) -> Any:
    """A text as the JSON value it is, or as itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
