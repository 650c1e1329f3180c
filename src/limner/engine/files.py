"""Which files a node's file inputs offer, read off the store's folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limner.errors import LimnerError
from limner.graph import Port
from limner.store import Store
from limner.store.files import IMAGES

INDEX = "model_index.json"
"""What a folder of the diffusers library holds."""


class StoreFiles:
    """A `FileLookup` over model folders and the input folder. Lists are taken once: make a new one for each request."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lists: dict[tuple[str, ...], list[str]] = {}

    def choices(self, port: Port) -> Sequence[str]:
        """The names offered: files in order, then those that come without a file."""
        if port.folder is not None:
            return [*self._models(port.folder), *self._pairs(port), *port.also]
        if port.file_in is not None:
            return [*self._files(port), *port.also]
        return port.also

    def accepts(self, port: Port, value: Any) -> bool:
        """Whether it is a name offered, or for a file of the input folder any that exists, in sub-folders too."""
        if not isinstance(value, str) or not value:
            return False
        if value in port.also:
            return True
        if port.folder is not None:
            return value in self._models(port.folder) or value in self._pairs(port)
        if port.file_in is None:
            return False
        try:
            path = self._store.files.annotated(value, port.file_in)
            return path.is_dir() if "/" in port.suffixes else path.is_file()
        except (LimnerError, OSError, ValueError):
            return False

    def _models(self, folder: str) -> list[str]:
        key = ("models", folder)
        if key not in self._lists:
            try:
                folders = self._store.folders
                whole = "folder" in folders.extensions(folder)
                self._lists[key] = list(folders.holding(folder, INDEX) if whole else folders.list(folder))
            except LimnerError:  # a folder that this installation does not have offers nothing
                self._lists[key] = []
        return self._lists[key]

    def _pairs(self, port: Port) -> list[str]:
        """The small autoencoders of a port both of whose files are there."""
        files = self._models("vae_approx") if port.pairs else []
        return [
            name
            for name in port.pairs
            if all(any(file.startswith(f"{name}_{half}") for file in files) for half in ("encoder", "decoder"))
        ]

    def _files(self, port: Port) -> list[str]:
        """Files with the endings of a port: pictures when it names none, all for the ending "", folders for "/"."""
        folder, suffixes = port.file_in or "input", port.suffixes
        key = ("files", folder, port.below, *suffixes)
        if key not in self._lists:
            files, wanted = self._store.files, frozenset() if "" in suffixes else frozenset(suffixes) or IMAGES
            if "/" in suffixes:
                self._lists[key] = files.folders(folder)
            else:
                self._lists[key] = files.below(folder, port.below, wanted) if port.below else files.list(folder, wanted)
        return self._lists[key]
