"""Setting packs up in a process: a host, the finder, the loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from limner.compat.description_cache import DescriptionCache
from limner.compat.finder import Finder, install, uninstall
from limner.compat.homes.nodes import install_special
from limner.compat.host import Host
from limner.compat.packs import Packs

CACHE_FILE = "packs.json"


class Compat:
    """ComfyUI's names in this process, until `close`.

    builtins: the registry of built-in nodes; it must not be the one that gets `packs.source`, or looking a built-in up
    would ask packs. memory: gives the memory manager. cache: whether descriptions of packs are kept in the user folder.
    """

    def __init__(
        self, settings: Any, store: Any, builtins: Any, memory: Callable[[], Any] = lambda: None, *, cache: bool = True
    ) -> None:
        self.host = Host(settings, store, builtins, memory)
        install_special(self.host)
        file = store.files.root("user") / CACHE_FILE
        self.packs = Packs(self.host, DescriptionCache(file) if cache else None)
        self.host.parts["packs"] = self.packs
        self.finder: Finder = install(base=self.host.base, host=self.host)

    def close(self) -> None:
        """Take the names out of the process again."""
        uninstall(self.finder)
        self.packs.close()
