"""Users, their settings and their files."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import uuid
from pathlib import Path
from typing import Any

from limner.errors import BadInput, Forbidden, NotFound
from limner.store.atomic import write_atomic, write_new
from limner.store.paths import resolve_inside

log = logging.getLogger(__name__)

DEFAULT = "default"
SETTINGS = "comfy.settings.json"


class AlreadyThere(BadInput):
    """A file of that name exists and was not to be overwritten."""


class Users:
    """Per-user files below the user folder. In single-user mode everyone is `default`."""

    def __init__(self, root: Path, *, multi: bool = False) -> None:
        self._root = root
        self._multi = multi
        self._lock = threading.RLock()

    @property
    def multi(self) -> bool:
        """Whether requests say who asks (--multi-user)."""
        return self._multi

    def user(self, claimed: str | None) -> str:
        """The id of who asks, by the request's `comfy-user` header. Raises Forbidden for an unknown one."""
        if not self._multi:
            return DEFAULT
        if claimed is None or claimed not in self._known():
            raise Forbidden(f"There is no user {claimed!r}.", do="Create the user first.")
        return claimed

    def describe(self) -> dict[str, Any]:
        """What `GET /users` answers."""
        if self._multi:
            return {"storage": "server", "users": self._known()}
        return {"storage": "server", "migrated": (self._root / DEFAULT).is_dir()}

    def add(self, name: str) -> str:
        """Make a user and return the id. Raises BadInput for an empty name and one that is taken."""
        if not isinstance(name, str) or not name.strip():
            raise BadInput("A user needs a name.")
        with self._lock:
            known = self._known()
            if name in known.values():
                raise BadInput("Duplicate username.")
            safe = re.sub(r"[^a-zA-Z0-9-_]+", "-", name)[:64]
            user = f"{safe}_{uuid.uuid4()}"
            _write_json(self._root / "users.json", {**known, user: name})
        return user

    def _known(self) -> dict[str, str]:
        found = _read_json(self._root / "users.json")
        return {str(key): str(value) for key, value in found.items()}

    # Settings

    def settings(self, user: str) -> dict[str, Any]:
        """A user's settings; empty when there are none or the file is damaged."""
        return _read_json(self._settings_file(user))

    def update_settings(self, user: str, changes: dict[str, Any]) -> None:
        """Merge `changes` into a user's settings. A damaged file is kept under another name, not overwritten."""
        with self._lock:
            file = self._settings_file(user)
            settings = _read_json(file, keep_damaged=True)
            _write_json(file, {**settings, **changes})

    def _settings_file(self, user: str) -> Path:
        return self.path(user, SETTINGS)

    # Files

    def path(self, user: str, name: str = "") -> Path:
        """The path of a user's file or folder. Raises Forbidden when it would lie elsewhere; it need not exist."""
        if not user or "/" in user:
            raise Forbidden(f"{user!r} is not a user id.")
        return resolve_inside(resolve_inside(self._root, user), name)

    def file(self, user: str, name: str) -> Path:
        """The path of a user's file that is there; else NotFound."""
        path = self.path(user, name)
        if not path.is_file():
            raise NotFound(f"There is no file {name!r}.")
        return path

    def info(self, user: str, path: Path) -> dict[str, Any]:
        """Path relative to the user's folder, size in bytes, times in seconds since 1970: what `full_info` answers."""
        return _info(path, self.path(user))

    def relative(self, user: str, path: Path) -> str:
        """The name of a user's file, relative to the user's folder."""
        return path.relative_to(self.path(user)).as_posix()

    def tree(self, user: str, folder: str = "") -> list[dict[str, Any]]:
        """Folders and files below a folder, named relative to the user's own (`GET /v2/userdata`).

        Folders first, then by lower-case name; empty when the user has no files yet. Raises NotFound for a
        sub-folder that is not there and BadInput for a file.
        """
        own, root = self.path(user), self.path(user, folder)
        if not root.exists():
            if root == own:
                return []
            raise NotFound("Directory not found")
        if not root.is_dir():
            raise BadInput("Path is not a directory")
        entries: list[dict[str, Any]] = []
        for at, names in _folders(root, recurse=True):
            folder_path = Path(at)
            if folder_path != root:
                path = folder_path.relative_to(own).as_posix()
                entries.append({"name": folder_path.name, "path": path, "type": "directory"})
            for name in filter(_is_kept, names):
                file = folder_path / name
                with contextlib.suppress(OSError):  # removed while we look
                    stat = file.stat()
                    place = {"name": name, "path": file.relative_to(own).as_posix(), "type": "file"}
                    entries.append({**place, "size": stat.st_size, "modified": stat.st_mtime})
        return sorted(entries, key=lambda entry: (entry["type"] != "directory", entry["name"].lower(), entry["path"]))

    def list(
        self, user: str, folder: str, *, recurse: bool = False, full_info: bool = False, split: bool = False
    ) -> list[Any]:
        """Files of a folder, named relative to it (`GET /userdata`), sorted.

        full_info: dicts with path, size, modified, created. split: lists of the name and its parts.
        Raises NotFound when the folder is not there.
        """
        root = self.path(user, folder)
        if not root.is_dir():
            raise NotFound("Directory not found")
        found = sorted(
            Path(at, name) for at, names in _folders(root, recurse=recurse) for name in names if _is_kept(name)
        )
        if full_info:
            return [_info(path, root) for path in found if path.is_file()]
        names = [path.relative_to(root).as_posix() for path in found]
        return [[name, *name.split("/")] for name in names] if split else names

    def write(self, user: str, name: str, data: bytes, overwrite: bool = True) -> Path:
        """Write a user's file, with its folders. Raises AlreadyThere when it exists and is not to be overwritten."""
        path = self._target(user, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            write_atomic(path, data, sync=True)
            return path
        try:
            write_new(path, data)
        except FileExistsError as error:
            raise AlreadyThere("File already exists") from error
        return path

    def delete(self, user: str, name: str) -> None:
        """Delete a user's file. Raises NotFound when it is not there."""
        self.file(user, name).unlink()

    def move(self, user: str, source: str, target: str, overwrite: bool = True) -> Path:
        """Rename a user's file. Raises NotFound, or AlreadyThere as `write` does."""
        old, new = self.file(user, source), self._target(user, target)
        with self._lock:
            if not overwrite and new.exists():
                raise AlreadyThere("File already exists")
            new.parent.mkdir(parents=True, exist_ok=True)
            old.replace(new)
        return new

    def _target(self, user: str, name: str) -> Path:
        path = self.path(user, name)
        if path == self.path(user) or path.is_dir():
            raise BadInput(f"{name!r} is a folder, not a file.")
        return path


def _folders(root: Path, *, recurse: bool) -> list[tuple[str, list[str]]]:
    """Folders below `root` with their file names; links to folders are not followed."""
    if recurse:
        return [(at, names) for at, _, names in os.walk(root)]
    with os.scandir(root) as entries:
        return [(str(root), [entry.name for entry in entries if entry.is_file()])]


def _is_kept(name: str) -> bool:
    """Whether a file is a user's and not one that is just being written."""
    return not (name.startswith(".") and name.endswith(".tmp"))


def _info(path: Path, root: Path) -> dict[str, Any]:
    stat = path.stat()
    name = path.relative_to(root).as_posix()
    return {"path": name, "size": stat.st_size, "modified": stat.st_mtime, "created": stat.st_ctime}


def _read_json(file: Path, *, keep_damaged: bool = False) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    log.error("The file %s is damaged and is taken for empty.", file)
    if keep_damaged:
        file.replace(file.with_name(f"{file.name}.damaged-{uuid.uuid4().hex[:8]}"))
    return {}


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(value, indent=4).encode(), sync=True)
