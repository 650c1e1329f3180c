"""`comfy.cli_args`: the settings as an argparse namespace."""

from __future__ import annotations

import argparse
import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limner.compat.finder import current as current_finder
from limner.compat.host import Host, current
from limner.settings import add_flags

_NAMES = [
    "DEFAULT_VERSION_STRING",
    "EnumAction",
    "LatentPreviewMethod",
    "PerformanceFeature",
    "args",
    "database_default_path",
    "is_valid_directory",
    "parser",
]

DEFAULT_VERSION_STRING = "comfyanonymous/ComfyUI@latest"


class LatentPreviewMethod(enum.Enum):
    """How previews are made while sampling."""

    NoPreviews = "none"
    Auto = "auto"
    Latent2RGB = "latent2rgb"
    TAESD = "taesd"

    @classmethod
    def from_string(cls, value: str) -> LatentPreviewMethod | None:
        """The method of that name, or None."""
        return next((one for one in cls if one.value == value), None)


class PerformanceFeature(enum.Enum):
    """The speed-ups of --fast."""

    Fp16Accumulation = "fp16_accumulation"
    Fp8MatrixMultiplication = "fp8_matrix_mult"
    CublasOps = "cublas_ops"
    AutoTune = "autotune"


class EnumAction(argparse.Action):
    """An argparse action whose values are members of an enumeration, given as `type`."""

    def __init__(self, **kwargs: Any) -> None:
        members = kwargs.pop("type", None)
        if members is None or not issubclass(members, enum.Enum):
            raise ValueError("type must be an enumeration")
        kwargs.setdefault("choices", tuple(one.value for one in members))
        super().__init__(**kwargs)
        self._members = members

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's signature
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002 - argparse's signature
    ) -> None:
        """Store the member, or the list of members."""
        is_list = isinstance(values, list | tuple)
        found = [self._members(one) for one in values] if is_list and values else self._members(values)
        setattr(namespace, self.dest, found)


def is_valid_directory(path: str) -> str:
    """The path. Raises argparse.ArgumentTypeError when it is no folder that can be read."""
    if not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f"{path} is not a directory.")
    return path


class Args(argparse.Namespace):
    """Every flag by name. Packs read them; what they set is what other packs read, and how previews are made."""

    def __setattr__(self, name: str, value: Any) -> None:
        chosen = name == "preview_method" and hasattr(self, name)
        super().__setattr__(name, value)
        finder = current_finder() if chosen else None
        if finder is not None:
            method = str(getattr(value, "value", value))
            finder.set_seam(("limner.nodes._previewers", "chosen_method"), lambda _: method)

    def get(self, name: str, default: Any = None) -> Any:
        """A flag, or the default."""
        return getattr(self, name, default)


def _make(host: Host) -> Args:
    settings = host.settings
    values = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    values["preview_method"] = LatentPreviewMethod(settings.preview_method)
    values["fast"] = {PerformanceFeature(one) for one in settings.fast}
    values["database_url"] = settings.database_url or f"sqlite:///{_database(host)}"
    extra = settings.extra_model_paths_config
    values["extra_model_paths_config"] = [list(extra)] if extra else None
    return Args(**values)


def _database(host: Host) -> Path:
    return Path(host.store.files.root("user")) / "comfyui.db"


def _parser(_: Host) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_flags(made)
    return made


def __getattr__(name: str) -> Any:
    if name == "args":
        return current().part("args", _make)
    if name == "parser":
        return current().part("parser", _parser)
    if name == "database_default_path":
        return str(_database(current()))
    raise AttributeError(f"comfy.cli_args has no {name}.")


def __dir__() -> list[str]:
    return _NAMES
