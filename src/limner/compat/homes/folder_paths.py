"""`folder_paths`: model folders and the input, output, temp and user folders, as packs read and change them."""

from __future__ import annotations

import mimetypes
import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from limner.compat.host import current
from limner.errors import Forbidden, NotFound
from limner.graph import CURRENT_RUN
from limner.store.files import Files, split_annotation
from limner.store.folders import LEGACY, WEIGHTS
from limner.store.paths import resolve_inside

_NAMES = [
    "CacheHelper",
    "add_model_folder_path",
    "annotated_filepath",
    "base_path",
    "cache_helper",
    "exists_annotated_filepath",
    "extension_mimetypes_cache",
    "filename_list_cache",
    "filter_files_content_types",
    "filter_files_extensions",
    "folder_names_and_paths",
    "get_annotated_filepath",
    "get_directory_by_type",
    "get_filename_list",
    "get_folder_paths",
    "get_full_path",
    "get_full_path_or_raise",
    "get_input_directory",
    "get_input_subfolders",
    "get_output_directory",
    "get_save_image_path",
    "get_temp_directory",
    "get_user_directory",
    "input_directory",
    "map_legacy",
    "models_dir",
    "output_directory",
    "recursive_search",
    "set_input_directory",
    "set_output_directory",
    "set_temp_directory",
    "set_user_directory",
    "supported_pt_extensions",
    "temp_directory",
    "user_directory",
]

_KINDS = {"output_directory": "output", "temp_directory": "temp", "input_directory": "input", "user_directory": "user"}


class CacheHelper:
    """A dict that is active within a `with` block; packs keep listings in it for one request."""

    def __init__(self) -> None:
        self.cache: dict[str, tuple[list[str], dict[str, float], float]] = {}
        self.active = False

    def get(self, key: str, default: Any = None) -> Any:
        """What is kept under a key while active, else the default."""
        return self.cache.get(key, default) if self.active else default

    def set(self, key: str, value: Any) -> None:
        """Keep a value while active."""
        if self.active:
            self.cache[key] = value

    def clear(self) -> None:
        """Forget everything."""
        self.cache.clear()

    def __enter__(self) -> CacheHelper:
        self.active = True
        return self

    def __exit__(self, *_: object) -> None:
        self.active = False
        self.clear()


def __getattr__(name: str) -> Any:
    if name == "folder_names_and_paths":
        return current().store.folders.table()
    if name in _KINDS:
        return str(_files().root(_KINDS[name]))
    if name == "base_path":
        return str(current().base)
    if name == "models_dir":
        return str(current().base / "models")
    makers: dict[str, Any] = {
        "supported_pt_extensions": lambda _: set(WEIGHTS),
        "filename_list_cache": lambda _: {},
        "extension_mimetypes_cache": lambda _: {"webp": "image", "fbx": "model"},
        "cache_helper": lambda _: CacheHelper(),
    }
    if name in makers:
        return current().part(f"folder_paths.{name}", makers[name])
    raise AttributeError(f"folder_paths has no {name}.")


def __dir__() -> list[str]:
    return _NAMES


def map_legacy(folder_name: str) -> str:
    """Today's key of a model folder: `unet` is `diffusion_models`, `clip` is `text_encoders`."""
    return LEGACY.get(folder_name, folder_name)


def _files() -> Files:
    """The folders of the prompt that runs, which are its API key's where there are keys; else the server's."""
    run = CURRENT_RUN.get()
    files: Files = (current() if run is None or run.store is None else run).store.files
    return files


def get_output_directory() -> str:
    """The output folder."""
    return str(_files().root("output"))


def get_temp_directory() -> str:
    """The temp folder."""
    return str(_files().root("temp"))


def get_input_directory() -> str:
    """The input folder."""
    return str(_files().root("input"))


def get_user_directory() -> str:
    """The user folder."""
    return str(current().store.files.root("user"))


def set_output_directory(output_dir: str) -> None:
    """Write results there from now on."""
    current().store.files.move("output", Path(output_dir))


def set_temp_directory(temp_dir: str) -> None:
    """Write temporary files there from now on."""
    current().store.files.move("temp", Path(temp_dir))


def set_input_directory(input_dir: str) -> None:
    """Read inputs there from now on."""
    current().store.files.move("input", Path(input_dir))


def set_user_directory(user_dir: str) -> None:
    """Packs find users' files there from now on."""
    current().store.files.move("user", Path(user_dir))


def get_directory_by_type(type_name: str) -> str | None:
    """The folder of `output`, `temp` or `input`, None for any other word."""
    return str(_files().root(type_name)) if type_name in ("output", "temp", "input") else None


def filter_files_content_types(
    files: Iterable[str], content_types: Collection[Literal["image", "video", "audio", "model"]]
) -> list[str]:
    """The files whose extension is one of these kinds of content."""
    known: dict[str, str] = __getattr__("extension_mimetypes_cache")
    found = []
    for file in files:
        extension = file.rpartition(".")[2].lower()
        if extension not in known:
            kind = mimetypes.guess_type(file, strict=False)[0]
            if not kind:
                continue
            known[extension] = kind.partition("/")[0]
        if known[extension] in content_types:
            found.append(file)
    return found


def annotated_filepath(name: str) -> tuple[str, str | None]:
    """`"fox.png [output]"` → its name and the folder; without an annotation the name and None."""
    bare, kind = split_annotation(name)
    return bare, get_directory_by_type(kind) if kind else None


def get_annotated_filepath(name: str, default_dir: str | None = None) -> str:
    """The path of an annotated name; it need not exist. Raises Forbidden for one that leads out of its folder."""
    bare, folder = annotated_filepath(name)
    return str(resolve_inside(Path(folder or default_dir or get_input_directory()), bare))


def exists_annotated_filepath(name: str) -> bool:
    """Whether there is a file of that annotated name."""
    try:
        return Path(get_annotated_filepath(name)).exists()
    except (Forbidden, ValueError, OSError):
        return False


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    """Look for files of this kind there too; `is_default`: there first. An unknown kind becomes a new one."""
    current().store.folders.add(folder_name, Path(full_folder_path), default=is_default)


def get_folder_paths(folder_name: str) -> list[str]:
    """The roots of a kind. Raises KeyError for one that is not there."""
    table: dict[str, Any] = __getattr__("folder_names_and_paths")
    return list(table[map_legacy(folder_name)][0])


def recursive_search(directory: str, excluded_dir_names: list[str] | None = None) -> tuple[list[str], dict[str, float]]:
    """Every file below a folder, by relative name, and the times at which its folders last changed."""
    if not Path(directory).is_dir():
        return [], {}
    excluded = set(excluded_dir_names or ())
    found: list[str] = []
    times: dict[str, float] = {}
    for folder, names, files in os.walk(directory, followlinks=True):
        names[:] = sorted(name for name in names if name not in excluded)
        times[folder] = Path(folder).stat().st_mtime
        found += [os.path.relpath(Path(folder, file), directory) for file in sorted(files)]
    return found, times


def filter_files_extensions(files: Collection[str], extensions: Collection[str]) -> list[str]:
    """The files that have one of these extensions, sorted; all when there are none."""
    return sorted(file for file in files if not extensions or Path(file).suffix.lower() in extensions)


def get_full_path(folder_name: str, filename: str) -> str | None:
    """The file of that kind and name, None when there is none."""
    folders = current().store.folders
    try:
        return str(folders.path(map_legacy(folder_name), filename))
    except (NotFound, Forbidden):
        return None


def get_full_path_or_raise(folder_name: str, filename: str) -> str:
    """`get_full_path`. Raises FileNotFoundError, which says where was looked and what is near."""
    try:
        return str(current().store.folders.path(map_legacy(folder_name), filename))
    except (NotFound, Forbidden) as error:
        raise FileNotFoundError(str(error)) from error


def get_filename_list_(folder_name: str) -> tuple[list[str], dict[str, float], float]:
    """The files of a kind, when its folders changed, and now."""
    names = get_filename_list(folder_name)
    times = {root: Path(root).stat().st_mtime for root in get_folder_paths(folder_name) if Path(root).is_dir()}
    return names, times, time.perf_counter()


def cached_filename_list_(folder_name: str) -> tuple[list[str], dict[str, float], float] | None:
    """The listing again: what is listed here is remembered until a folder changes."""
    return get_filename_list_(folder_name)


def get_filename_list(folder_name: str) -> list[str]:
    """The files of a kind over all its roots, sorted. Raises KeyError for a kind that is not there."""
    try:
        return list(current().store.folders.list(map_legacy(folder_name)))
    except NotFound as error:
        raise KeyError(folder_name) from error


def get_save_image_path(
    filename_prefix: str, output_dir: str, image_width: int = 0, image_height: int = 0
) -> tuple[str, str, int, str, str]:
    """Folder, name without counter, counter, sub-folder and prefix of the next result; the folder is made.

    Raises Forbidden for a prefix that leads out of the folder.
    """
    from limner.store.files import Files  # noqa: PLC0415 - a view of any folder, not the store's own

    target = Files({"output": Path(output_dir)}).next_name("output", filename_prefix, "png", image_width, image_height)
    subfolder = target.subfolder
    return str(target.folder), target.stem, target.counter, subfolder, filename_prefix


def get_input_subfolders() -> list[str]:
    """The folders below the input folder, by relative name, sorted."""
    root = Path(get_input_directory())
    found = [folder.relative_to(root).as_posix() for folder in root.rglob("*") if folder.is_dir()]
    return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))
