"""Packs written by the tests, loaded into a process-wide finder that is taken out again."""

import sys
from dataclasses import replace
from textwrap import dedent

import pytest

from limner.compat.setup import Compat
from limner.engine import NodeRegistry
from limner.settings import Settings
from limner.store import Store


@pytest.fixture(scope="session")
def builtins():
    return NodeRegistry.open()


class Workplace:
    """A base folder with packs, and what loads them."""

    def __init__(self, base, builtins):
        self.base = base
        self.builtins = builtins
        self.settings = Settings(base_directory=str(base))
        self.compat = None
        self._stores = []

    def pack(self, name, text, root="custom_nodes", **files):
        folder = self.base / root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(dedent(text))
        for file, content in files.items():
            path = folder / file.replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(content))
        return folder

    def open(self, *, cache=False, **changes):
        self.settings = replace(self.settings, **changes)
        store = Store.open(self.settings, owned=False)
        self._stores.append(store)
        self.compat = Compat(self.settings, store, self.builtins, cache=cache)
        return self.compat

    def load(self, *, cache=False, **changes):
        compat = self.open(cache=cache, **changes)
        compat.packs.load()
        return compat.packs

    def close(self):
        if self.compat is not None:
            self.compat.close()
            self.compat = None
        for store in self._stores:
            store.close()
        self._stores.clear()
        for name in [name for name in sys.modules if str(self.base).replace(".", "_x_") in name]:
            del sys.modules[name]


@pytest.fixture
def place(tmp_path, builtins):
    found = Workplace(tmp_path, builtins)
    yield found
    found.close()
