"""The input, output, temp and user folders: names, listings, and where the next result goes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from limner.errors import BadInput, Forbidden, NotFound
from limner.store.atomic import write_atomic, write_new
from limner.store.paths import LONGEST_NAME, resolve_inside

KINDS = ("input", "output", "temp", "user")
SHARED_KINDS = ("input", "output", "temp")
"""Those that requests and annotated names may reach."""
OWNED = "keys"
"""The folder in each of these that holds a folder for each API key."""

IMAGES = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
        *(".png", ".pnm", ".ppm", ".psd", ".tga", ".tif", ".tiff", ".webp"),
    )
)
"""Extensions of pictures that Pillow reads."""
SOUNDS = frozenset((".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp2", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"))
"""Extensions of sound that FFmpeg reads."""
VIDEOS = frozenset(
    (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv")
)
"""Extensions of videos that FFmpeg reads."""
MESHES = frozenset((".fbx", ".glb", ".gltf", ".obj", ".stl"))
"""Extensions of 3-D models that the front end shows."""

_ANNOTATED = re.compile(r"(?P<name>.*?) ?\[(?P<kind>input|output|temp)\]", re.DOTALL)
_BATCH = "%batch_num%"
_SUFFIX_ROOM = 24  # "_", a counter, "_." and an extension


@dataclass(frozen=True)
class SaveTarget:
    """Where results of one save go. counter: the number of the first; `stem` may still hold `%batch_num%`."""

    folder: Path
    subfolder: str
    stem: str
    counter: int
    extension: str = "png"

    def name(self, index: int = 0, batch: int | None = None) -> str:
        """The file name of the result `index` places after the first; batch: its number in the batch, else `index`."""
        stem = self.stem.replace(_BATCH, str(index if batch is None else batch))
        return f"{stem}_{self.counter + index:05}_.{self.extension}"

    def path(self, index: int = 0, batch: int | None = None) -> Path:
        """The whole path of `name`."""
        return self.folder / self.name(index, batch)


class Files:
    """The folders that prompts read from and write to. They are made by `make`, or when first written to."""

    def __init__(self, roots: Mapping[str, Path], hashing: str = "sha256") -> None:
        self._roots = dict(roots)
        self._hashing = hashing
        self._digests: dict[Path, tuple[int, int, str]] = {}
        self._lock = threading.Lock()
        self._owned: dict[str, Files] = {}

    def of(self, owner: str | None) -> Files:
        """The folders as the API key of that name has them, each its own below `keys`; all of them without a name."""
        if owner is None:
            return self
        with self._lock:
            if owner not in self._owned:
                roots = {kind: resolve_inside(self._roots[kind], OWNED, owner) for kind in SHARED_KINDS}
                self._owned[owner] = Files({**self._roots, **roots}, self._hashing)
            return self._owned[owner]

    def root(self, kind: str) -> Path:
        """The folder of a kind: input, output, temp or user. Raises BadInput for any other word."""
        if kind not in self._roots:
            raise BadInput(f"There is no folder kind {kind!r}.", do=f"Use one of {', '.join(self._roots)}.")
        return self._roots[kind]

    def move(self, kind: str, root: Path) -> None:
        """From now on the folder of that kind is this one."""
        self.root(kind)
        with self._lock:
            self._roots[kind] = root
            self._owned.clear()

    def make(self) -> None:
        """Make every folder that is missing: node packs list them when they load."""
        for root in self._roots.values():
            root.mkdir(parents=True, exist_ok=True)

    def resolve(self, kind: str, subfolder: str, name: str) -> Path:
        """The path of a file of a kind. Raises Forbidden when it would lie elsewhere; it need not exist."""
        return resolve_inside(self.root(kind), subfolder, name)

    def annotated(self, name: str, default: str = "input") -> Path:
        """The path of a name such as `fox.png` or `sub/fox.png [output]`; it need not exist."""
        bare, kind = split_annotation(name)
        return resolve_inside(self.root(kind or default), bare)

    def existing(self, name: str, default: str = "input") -> Path:
        """`annotated`, of a file that is there; else NotFound."""
        path = self.annotated(name, default)
        if not path.is_file():
            raise NotFound(
                f"There is no file {name!r}.", why=f"Looked in {path.parent}.", do="Upload it, or choose one."
            )
        return path

    def newest(self, kind: str) -> list[str]:
        """Files at the top of a folder, the latest changed first."""
        folder = self.root(kind)
        return sorted(self.list(kind), key=lambda name: (folder / name).stat().st_mtime_ns, reverse=True)

    def below(self, kind: str, folder: str, extensions: frozenset[str]) -> list[str]:
        """Files anywhere below a folder of a kind, as paths from the kind's own folder; of these extensions, sorted."""
        root, names = self.root(kind), []
        for path, folders, files in os.walk(self.resolve(kind, folder, "")):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found = [name for name in files if not name.startswith(".") and _extension(name) in extensions]
            names += [(Path(path) / name).relative_to(root).as_posix() for name in found]
        return sorted(names)

    def folders(self, kind: str) -> list[str]:
        """Folders at the top of a kind, sorted. Hidden ones are passed over."""
        try:
            with os.scandir(self.root(kind)) as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
        except FileNotFoundError:
            return []

    def list(self, kind: str, extensions: frozenset[str] = frozenset()) -> list[str]:
        """Files at the top of a folder, sorted; of these extensions, or all. Hidden files are passed over."""
        try:
            with os.scandir(self.root(kind)) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not extensions or _extension(name) in extensions)

    def next_name(self, kind: str, prefix: str, ext: str = "png", width: int = 0, height: int = 0) -> SaveTarget:
        """Where the next result with this prefix goes; its folder is made.

        prefix: folders and the start of the name, with `%width% %height% %year% %month% %day% %hour% %minute%
        %second%` (local time) filled in, and `%batch_num%` kept for each image. The counter is one above the highest
        number that stands between the prefix and the next `_` in the folder's names, 1 in a new folder.
        Raises Forbidden for a prefix that leads out of the folder.
        """
        filled = _fill(prefix.replace("\\", "/"), width, height)
        subfolder, _, stem = filled.rpartition("/")
        folder = resolve_inside(self.root(kind), subfolder)
        resolve_inside(folder, stem + "_")
        if len(os.fsencode(stem)) > LONGEST_NAME - _SUFFIX_ROOM:
            raise Forbidden(f"The file name {stem[:60]!r}… is too long.", do="Shorten the file name prefix.")
        folder.mkdir(parents=True, exist_ok=True)
        subfolder = folder.relative_to(self.root(kind)).as_posix()
        return SaveTarget(
            folder, "" if subfolder == "." else subfolder, stem, _highest(folder, stem) + 1, ext.lstrip(".")
        )

    def save_upload(self, kind: str, subfolder: str, name: str, data: bytes, overwrite: bool = False) -> str:
        """Keep an uploaded file and return the name it got.

        A file of the same name and content is used as it is; one of other content gets ` (1)`, ` (2)` … before its
        extension, unless `overwrite`. Raises BadInput for a name with folders in it and Forbidden for one that leads
        out.
        """
        if kind not in SHARED_KINDS:
            raise BadInput(f"Files cannot be uploaded to {kind!r}.", do=f"Use one of {', '.join(SHARED_KINDS)}.")
        if not name or "/" in name or name == ".":
            raise BadInput(f"{name!r} is not a file name.", do="Give folders in `subfolder`.")
        target = self.resolve(kind, subfolder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            write_atomic(target, data)
            return name
        stem, extension = os.path.splitext(name)  # noqa: PTH122 - splits ".bashrc" and "a.tar.gz" as clients expect
        own = hashlib.new(self._hashing, data, usedforsecurity=False).hexdigest()
        number = 0
        while True:
            candidate = f"{stem} ({number}){extension}" if number else name
            target = self.resolve(kind, subfolder, candidate)
            try:
                write_new(target, data)
            except FileExistsError:
                if target.is_file() and target.stat().st_size == len(data) and self.digest(target) == own:
                    return candidate
                number += 1
            else:
                return candidate

    def digest(self, path: Path) -> str:
        """The hash of a file's content (--default-hashing-function), remembered until its size or time changes."""
        try:
            stat = path.stat()
            with self._lock:
                known = self._digests.get(path)
            if known is not None and known[:2] == (stat.st_mtime_ns, stat.st_size):
                return known[2]
            sum_ = hashlib.new(self._hashing, usedforsecurity=False)
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    sum_.update(block)
        except OSError as error:
            raise NotFound(f"The file {path} cannot be read.", why=str(error.strerror)) from error
        digest = sum_.hexdigest()
        with self._lock:
            if len(self._digests) > 4096:
                self._digests.clear()
            self._digests[path] = (stat.st_mtime_ns, stat.st_size, digest)
        return digest

    def wipe_temp(self) -> None:
        """Empty the temp folder; links in it are removed, not followed."""
        try:
            entries = list(os.scandir(self.root("temp")))
        except OSError:
            return  # nothing was ever written there
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108


def split_annotation(name: str) -> tuple[str, str | None]:
    """`"fox.png [output]"` → `("fox.png", "output")`; without a known annotation the name itself and None."""
    found = _ANNOTATED.fullmatch(name)
    return (found["name"], found["kind"]) if found else (name, None)


def _fill(prefix: str, width: int, height: int) -> str:
    if "%" not in prefix:
        return prefix
    now = datetime.now().astimezone()
    values = {
        "width": str(width),
        "height": str(height),
        "year": str(now.year),
        "month": f"{now.month:02}",
        "day": f"{now.day:02}",
        "hour": f"{now.hour:02}",
        "minute": f"{now.minute:02}",
        "second": f"{now.second:02}",
    }
    return re.sub(r"%([a-z]+)%", lambda token: values.get(token[1], token[0]), prefix)


def _highest(folder: Path, stem: str) -> int:
    """The highest counter among the names of a folder that start with this stem; 0 when there is none."""
    start = os.path.normcase(stem + "_")
    length, highest = len(start), 0
    for entry in os.listdir(folder):  # noqa: PTH208 - plain names are all that is needed of ten thousand files
        if os.path.normcase(entry[:length]) == start:
            digits = entry[length:].partition("_")[0]
            if digits.isascii() and digits.isdigit() and len(digits) < 19:
                highest = max(highest, int(digits))
    return highest


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122
