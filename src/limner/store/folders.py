"""Model folders: which there are, where they lie, and what is in them."""

from __future__ import annotations

import difflib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.errors import NotFound
from limner.store.model_paths import FILE_NAME, read_model_paths
from limner.store.paths import resolve_inside

log = logging.getLogger(__name__)

WEIGHTS = frozenset({".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"})

# key, folders below models/, extensions (none: every file), and the order in which /models names them
REGISTRY: tuple[tuple[str, tuple[str, ...], frozenset[str]], ...] = (
    ("checkpoints", ("checkpoints",), WEIGHTS),
    ("configs", ("configs",), frozenset({".yaml"})),
    ("loras", ("loras",), WEIGHTS),
    ("vae", ("vae",), WEIGHTS),
    ("text_encoders", ("text_encoders", "clip"), WEIGHTS),
    ("diffusion_models", ("unet", "diffusion_models"), WEIGHTS),
    ("clip_vision", ("clip_vision",), WEIGHTS),
    ("style_models", ("style_models",), WEIGHTS),
    ("embeddings", ("embeddings",), WEIGHTS),
    ("diffusers", ("diffusers",), frozenset({"folder"})),
    ("vae_approx", ("vae_approx",), WEIGHTS),
    ("controlnet", ("controlnet", "t2i_adapter"), WEIGHTS),
    ("gligen", ("gligen",), WEIGHTS),
    ("upscale_models", ("upscale_models",), WEIGHTS),
    ("custom_nodes", (), frozenset()),
    ("hypernetworks", ("hypernetworks",), WEIGHTS),
    ("photomaker", ("photomaker",), WEIGHTS),
    ("classifiers", ("classifiers",), frozenset({""})),
    ("model_patches", ("model_patches",), WEIGHTS),
    ("audio_encoders", ("audio_encoders",), WEIGHTS),
)
LEGACY = {"unet": "diffusion_models", "clip": "text_encoders"}
OUTPUTS = (
    ("checkpoints", "checkpoints"),
    ("loras", "loras"),
    ("vae", "vae"),
    ("text_encoders", "clip"),
    ("diffusion_models", "diffusion_models"),
)
"""Folder key and the sub-folder of the output folder whose files belong to it, so that what was saved can be loaded."""

FolderTable = dict[str, tuple[list[str], set[str]]]
"""Roots and extensions by folder key, as node packs have them."""

_RACY_NS = 100_000_000
"""A folder changed this shortly before it was listed may change again without a new time stamp: list it once more."""


@dataclass
class _Folder:
    roots: list[Path]
    extensions: frozenset[str]
    source: tuple[tuple[str, ...], frozenset[str]] | None = None
    listing: tuple[str, ...] = ()
    times: dict[str, int] = field(default_factory=dict)
    listed: bool = False


class ModelFolders:
    """The registry of model folders. Names of files are relative to a root, with `/` between folders."""

    def __init__(self, base: Path, *, custom_nodes: Sequence[Path] = ()) -> None:
        self._lock = threading.RLock()
        self._folders = {
            key: _Folder([base / "models" / name for name in names], extensions) for key, names, extensions in REGISTRY
        }
        self._folders["custom_nodes"].roots = list(custom_nodes) or [base / "custom_nodes"]
        self._table: FolderTable | None = None

    @classmethod
    def open(
        cls, base: Path, output: Path, configs: Iterable[Path] = (), custom_nodes: Sequence[Path] = ()
    ) -> ModelFolders:
        """Every root there is: the base folder's, those of path files, the output folder's, and the package's own.

        configs: path files to read after the `extra_model_paths.yaml` of the base folder, if it has one.
        """
        folders = cls(base, custom_nodes=custom_nodes)
        own = base / FILE_NAME
        for file in [*([own] if own.is_file() else []), *configs]:
            for extra in read_model_paths(file):
                folders.add(extra.key, extra.path, default=extra.first)
        for key, name in OUTPUTS:
            folders.add(key, output / name)
        assets = Path(__file__).parent.parent / "assets"
        folders.add("checkpoints", assets)
        folders.add("configs", assets / "configs")
        return folders

    def table(self) -> FolderTable:
        """The registry as a table of `key: (roots, extensions)` that others may change.

        From the first call on the table decides: what is put into it is what is listed and found. ComfyUI's node packs
        have such a table and change it.
        """
        with self._lock:
            if self._table is None:
                self._table = {
                    key: ([str(root) for root in one.roots], set(one.extensions)) for key, one in self._folders.items()
                }
            return self._table

    def _follow(self) -> None:
        """Take over what was changed in the table."""
        table = self._table
        if table is None:
            return
        with self._lock:
            for key, entry in list(table.items()):
                source = tuple(map(str, entry[0])), frozenset(entry[1] if len(entry) > 1 else ())
                folder = self._folders.get(key)
                if folder is None or folder.source != source:
                    roots = [Path(root) for root in dict.fromkeys(source[0])]
                    self._folders[key] = _Folder(roots, source[1], source)
            for key in [key for key in self._folders if key not in table]:
                del self._folders[key]

    def names(self) -> list[str]:
        """The folder keys, in order of registration."""
        self._follow()
        return list(self._folders)

    def roots(self, key: str) -> list[Path]:
        """Where the files of a folder may lie, in the order in which they are looked for."""
        return list(self._folder(key).roots)

    def extensions(self, key: str) -> frozenset[str]:
        """Extensions of the files that belong to a folder, lower-case with the dot; empty means every file."""
        return self._folder(key).extensions

    def add(self, key: str, path: Path, default: bool = False, extensions: Iterable[str] | None = None) -> None:
        """Look for files of this folder at `path` too; `default`: before anywhere else, also if it is known already.

        An unknown key becomes a new folder, of every file unless `extensions` are given.
        """
        with self._lock:
            self._follow()
            key = LEGACY.get(key, key)
            folder = self._folders.setdefault(key, _Folder([], frozenset(extensions or ())))
            if self._table is not None:
                roots = self._table.setdefault(key, ([], set(extensions or ())))[0]
                if str(path) in roots:
                    if not default:
                        return
                    roots.remove(str(path))
                roots.insert(0 if default else len(roots), str(path))
                return
            if path in folder.roots:
                if not default:
                    return
                folder.roots.remove(path)
            folder.roots.insert(0 if default else len(folder.roots), path)
            folder.listed = False

    def infos(self, key: str) -> list[dict[str, Any]]:
        """Name, root index, times (seconds) and size (bytes) of every file that is not hidden."""
        folder, found = self._folder(key), []
        for index, root in enumerate(folder.roots):
            for name, entry in _walk(root, folder.extensions, {}):
                if any(part.startswith(".") for part in name.split("/")):
                    continue
                try:
                    stat = entry.stat()
                except OSError:
                    continue  # a dangling link
                found.append(
                    {
                        "name": name,
                        "pathIndex": index,
                        "modified": stat.st_mtime,
                        "created": stat.st_ctime,
                        "size": stat.st_size,
                    }
                )
        return found

    def list(self, key: str) -> list[str]:
        """The files of a folder over all its roots, sorted, each name once. Raises NotFound for an unknown key."""
        folder = self._folder(key)
        with self._lock:
            if not (folder.listed and all(_changed(path) == time for path, time in folder.times.items())):
                _scan(folder)
            return list(folder.listing)

    def holding(self, key: str, file: str) -> tuple[str, ...]:
        """The folders below its roots that hold a file of this name, sorted, each name once."""
        found: set[str] = set()
        for root in self._folder(key).roots:
            for name, _ in _walk(root, frozenset(), {}):
                folder, _, last = name.rpartition("/")
                if last == file and folder:
                    found.add(folder)
        return tuple(sorted(found))

    def path(self, key: str, name: str) -> Path:
        """The file of this name, in the first root that has it.

        Raises NotFound, which says where was looked and which names are near, and Forbidden for a name that leads out.
        """
        folder = self._folder(key)
        for root in folder.roots:
            path = resolve_inside(root, name, follow_links=True)
            if path.is_file():
                return path
            if path.is_symlink():
                log.warning("%s is a link to a file that is not there.", path)
        raise self._missing(key, name)

    def _folder(self, key: str) -> _Folder:
        self._follow()
        folder = self._folders.get(LEGACY.get(key, key))
        if folder is None:
            near = difflib.get_close_matches(key, self._folders, 3)
            raise NotFound(
                f"There is no model folder {key!r}.",
                do=f"Nearest: {', '.join(near)}." if near else f"There are: {', '.join(self._folders)}.",
            )
        return folder

    def _missing(self, key: str, name: str) -> NotFound:
        present = self.list(key)
        looked = ", ".join(str(root) for root in self._folder(key).roots)
        near = _nearest(name, present)
        if near:
            advice = f"Nearest: {', '.join(near)}."
        else:
            advice = f"Put the file into {self._folder(key).roots[0]}, or choose one that is there."
        return NotFound(f"There is no file {name!r} among {key}.", why=f"Looked in {looked}.", do=advice)


def _nearest(name: str, present: Sequence[str]) -> list[str]:
    """Up to three names like `name`: the same file in another folder first, then similar spelling."""
    last = name.rsplit("/", 1)[-1].lower()
    same = [other for other in present if other.rsplit("/", 1)[-1].lower() == last]
    lower = {other.lower(): other for other in present}
    alike = [lower[found] for found in difflib.get_close_matches(name.lower(), lower, 3, cutoff=0.5)]
    return list(dict.fromkeys(same + alike))[:3]


def _scan(folder: _Folder) -> None:
    started = time.time_ns()
    times: dict[str, int] = {}
    names = {name for root in folder.roots for name, _ in _walk(root, folder.extensions, times)}
    folder.listing = tuple(sorted(names))
    folder.times = times
    folder.listed = all(changed < started - _RACY_NS for changed in times.values())


def _walk(root: Path, extensions: frozenset[str], times: dict[str, int]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files below a root with their relative names. Fills `times` with every folder's time of change.

    Links to folders are followed, except to one that holds the link: that would never end.
    """
    waiting: list[tuple[str, str, frozenset[str]]] = [(str(root), "", frozenset())]
    while waiting:
        folder, prefix, above = waiting.pop()
        times[folder] = _changed(folder)
        real = os.path.realpath(folder)
        if real in above:
            continue
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("The model folder %s cannot be listed: %s", folder, error.strerror)
            continue
        for entry in entries:
            if _is_folder(entry):
                if entry.name != ".git":
                    waiting.append((entry.path, f"{prefix}{entry.name}/", above | {real}))
            elif not extensions or os.path.splitext(entry.name)[1].lower() in extensions:  # noqa: PTH122 - no Path a file
                yield prefix + entry.name, entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _changed(path: str) -> int:
    """When a folder's entries last changed, in nanoseconds; -1 when it is not there."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - called once a folder for every listing
    except OSError:
        return -1
