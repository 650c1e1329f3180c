"""`comfy_api.latest.ui`: what nodes show, and helpers that save pictures and sound the way built-in nodes do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from limner.compat import host
from limner.compat.v3.sockets import Image, Mask
from limner.compat.v3.widgets import FolderType
from limner.graph import CURRENT_RUN, Run


class SavedResult(dict[str, str]):
    """A file as clients are told of it: its name, the folder within the kind of folder, and that kind."""

    def __init__(self, filename: str, subfolder: str, type: FolderType | str) -> None:  # noqa: A002 - packs name it
        super().__init__(filename=filename, subfolder=subfolder, type=FolderType(type).value)

    @property
    def filename(self) -> str:
        """The file's name."""
        return self["filename"]

    @property
    def subfolder(self) -> str:
        """Its folder, "" at the top."""
        return self["subfolder"]

    @property
    def type(self) -> FolderType:
        """input, output or temp."""
        return FolderType(self["type"])


class _UIOutput(ABC):
    """Something a node shows."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """As the client gets it."""


class SavedImages(_UIOutput):
    """Pictures that were saved."""

    def __init__(self, results: Sequence[SavedResult], is_animated: bool = False) -> None:
        self.results = list(results)
        self.is_animated = is_animated

    def as_dict(self) -> dict[str, Any]:
        """As the client gets it."""
        return {"images": self.results, **({"animated": [True]} if self.is_animated else {})}


class SavedAudios(_UIOutput):
    """Sounds that were saved."""

    def __init__(self, results: Sequence[SavedResult]) -> None:
        self.results = list(results)

    def as_dict(self) -> dict[str, Any]:
        """As the client gets it."""
        return {"audio": self.results}


def _run() -> Run:
    """The run of the node that shows something; a plain one outside of prompts."""
    return CURRENT_RUN.get() or host.current().run()


def _carried(cls: Any) -> tuple[Any, Any]:
    """The prompt and what else is written into files, off the hidden values of a node class."""
    hidden = getattr(cls, "hidden", None)
    return getattr(hidden, "prompt", None), getattr(hidden, "extra_pnginfo", None)


def _saved(files: Iterable[dict[str, str]]) -> list[SavedResult]:
    return [SavedResult(one["filename"], one["subfolder"], one["type"]) for one in files]


class ImageSaveHelper:
    """Saves pictures (batch, height, width, channels) in 0..1 under the next number of a prefix.

    cls: the node class whose hidden prompt and extra_pnginfo are written into the files; None writes nothing.
    """

    @staticmethod
    def save_images(
        images: Any, filename_prefix: str, folder_type: FolderType, cls: Any = None, compress_level: int = 4
    ) -> list[SavedResult]:
        """A PNG of each picture (rules H2, F2)."""
        from limner.nodes import saving  # noqa: PLC0415 - torch is needed only here
        from limner.store.media import encode_png  # noqa: PLC0415

        run = _run()
        texts = saving.carried(run, *_carried(cls))
        files = (encode_png(saving.pixel_bytes(image), texts, compress_level) for image in images)
        kind = FolderType(folder_type).value
        return _saved(saving.save_files(run, kind, filename_prefix, "png", files, _size(images)))

    @staticmethod
    def get_save_images_ui(images: Any, filename_prefix: str, cls: Any = None, compress_level: int = 4) -> SavedImages:
        """`save_images` into the output folder, to be shown."""
        return SavedImages(ImageSaveHelper.save_images(images, filename_prefix, FolderType.output, cls, compress_level))

    @staticmethod
    def save_animated_png(
        images: Any, filename_prefix: str, folder_type: FolderType, cls: Any, fps: float, compress_level: int
    ) -> SavedResult:
        """One animated PNG of all pictures (rule H3)."""
        from limner.nodes import saving  # noqa: PLC0415
        from limner.store.media import encode_animated_png  # noqa: PLC0415

        run = _run()
        texts = saving.carried(run, *_carried(cls))
        pixels = [saving.pixel_bytes(image) for image in images]
        data = encode_animated_png(pixels, int(1000.0 / fps), texts, compress_level)
        kind = FolderType(folder_type).value
        return _saved(saving.save_files(run, kind, filename_prefix, "png", [data], _size(images)))[0]

    @staticmethod
    def get_save_animated_png_ui(
        images: Any, filename_prefix: str, cls: Any, fps: float, compress_level: int
    ) -> SavedImages:
        """`save_animated_png` into the output folder, to be shown."""
        one = ImageSaveHelper.save_animated_png(images, filename_prefix, FolderType.output, cls, fps, compress_level)
        return SavedImages([one], is_animated=len(images) > 1)

    @staticmethod
    def save_animated_webp(
        images: Any,
        filename_prefix: str,
        folder_type: FolderType,
        cls: Any,
        fps: float,
        lossless: bool,
        quality: int,
        method: int,
    ) -> SavedResult:
        """One animated WebP of all pictures (rule H3). quality: 0..100; method: 0 is fastest, 6 smallest."""
        from limner.nodes import saving  # noqa: PLC0415
        from limner.store.media import encode_animated_webp  # noqa: PLC0415

        run = _run()
        data = encode_animated_webp(
            [saving.pixel_bytes(image) for image in images],
            int(1000.0 / fps),
            saving.carried(run, *_carried(cls)),
            lossless=lossless,
            quality=quality,
            method=method,
        )
        kind = FolderType(folder_type).value
        return _saved(saving.save_files(run, kind, filename_prefix, "webp", [data], _size(images)))[0]

    @staticmethod
    def get_save_animated_webp_ui(
        images: Any, filename_prefix: str, cls: Any, fps: float, lossless: bool, quality: int, method: int
    ) -> SavedImages:
        """`save_animated_webp` into the output folder, to be shown."""
        one = ImageSaveHelper.save_animated_webp(
            images, filename_prefix, FolderType.output, cls, fps, lossless, quality, method
        )
        return SavedImages([one], is_animated=len(images) > 1)


class AudioSaveHelper:
    """Saves sound `{"waveform": (batch, channels, samples), "sample_rate"}` under the next number of a prefix."""

    @staticmethod
    def save_audio(
        audio: Any,
        filename_prefix: str,
        folder_type: FolderType,
        cls: Any = None,
        format: str = "flac",  # noqa: A002 - packs name it
        quality: str = "128k",
    ) -> list[SavedResult]:
        """A file of each sound of the batch. format: flac, mp3 or opus; quality: `V0`, `64k` … `320k`."""
        from limner.nodes import saving  # noqa: PLC0415
        from limner.store.audio import encode_audio  # noqa: PLC0415

        run = _run()
        texts = saving.carried(run, *_carried(cls))
        rate = int(audio["sample_rate"])
        files = (encode_audio(one.float().cpu().numpy(), rate, format, quality, texts) for one in audio["waveform"])
        return _saved(saving.save_files(run, FolderType(folder_type).value, filename_prefix, format, files))

    @staticmethod
    def get_save_audio_ui(
        audio: Any,
        filename_prefix: str,
        cls: Any = None,
        format: str = "flac",  # noqa: A002
        quality: str = "128k",
    ) -> SavedAudios:
        """`save_audio` into the output folder, to be shown."""
        return SavedAudios(AudioSaveHelper.save_audio(audio, filename_prefix, FolderType.output, cls, format, quality))


def _size(images: Any) -> tuple[int, int]:
    return int(images[0].shape[1]), int(images[0].shape[0])


def _temp_prefix() -> str:
    from limner.nodes.saving import temp_prefix  # noqa: PLC0415

    return temp_prefix()


class PreviewImage(_UIOutput):
    """Pictures shown but not kept (rule F3)."""

    def __init__(self, image: Image.Type, animated: bool = False, cls: Any = None, **_: Any) -> None:
        self.values = ImageSaveHelper.save_images(image, _temp_prefix(), FolderType.temp, cls, compress_level=1)
        self.animated = animated

    def as_dict(self) -> dict[str, Any]:
        """As the client gets it."""
        return {"images": self.values, "animated": [self.animated]}


class PreviewMask(PreviewImage):
    """A mask (batch, height, width) shown as grey pictures."""

    def __init__(self, mask: Mask.Type, animated: bool = False, cls: Any = None, **more: Any) -> None:
        grey = mask.reshape((-1, 1, mask.shape[-2], mask.shape[-1])).movedim(1, -1).expand(-1, -1, -1, 3)
        super().__init__(grey, animated, cls, **more)


class PreviewAudio(_UIOutput):
    """Sound to be heard but not kept."""

    def __init__(self, audio: Any, cls: Any = None, **_: Any) -> None:
        self.values = AudioSaveHelper.save_audio(audio, _temp_prefix(), FolderType.temp, cls)

    def as_dict(self) -> dict[str, Any]:
        """As the client gets it."""
        return {"audio": self.values}


class PreviewVideo(_UIOutput):
    """Videos that are files already."""

    def __init__(self, values: Sequence[SavedResult | dict[str, str]], **_: Any) -> None:
        self.values = list(values)

    def as_dict(self) -> dict[str, Any]:
        """As the client gets it."""
        return {"images": self.values, "animated": [True]}


class PreviewUI3D(_UIOutput):
    """A model shown by the 3-D viewer. further: what later viewers also take, such as a background picture."""

    def __init__(self, model_file: str, camera_info: Any, *further: Any, **_: Any) -> None:
        self.model_file = model_file
        self.camera_info = camera_info
        self.further = further

    def as_dict(self) -> dict[str, Any]:
        """As the client gets it."""
        return {"result": [self.model_file, self.camera_info, *self.further]}


class PreviewText(_UIOutput):
    """A text."""

    def __init__(self, value: str, **_: Any) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        """As the client gets it."""
        return {"text": [self.value]}


TORCH_AUDIO_AVAILABLE = True

__all__ = [
    "AudioSaveHelper",
    "ImageSaveHelper",
    "PreviewAudio",
    "PreviewImage",
    "PreviewMask",
    "PreviewText",
    "PreviewUI3D",
    "PreviewVideo",
    "SavedAudios",
    "SavedImages",
    "SavedResult",
    "_UIOutput",
]
