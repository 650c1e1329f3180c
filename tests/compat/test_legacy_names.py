"""Every name that packs use is there, or says why not and what to use; each that works is used by a test."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from limner.compat.finder import Finder
from limner.compat.setup import Compat
from limner.compat.table import Row, look_up, markdown, read_names, rows, uses
from limner.engine import NodeRegistry
from limner.errors import LimnerError
from limner.settings import Settings
from limner.store import Store

HERE = Path(__file__).parent
NAMES = read_names(HERE / "legacy_names.txt")
SEVERAL = [name for name in NAMES if name.packs > 1]
PAGE = HERE.parents[1] / "docs" / "legacy_names.md"


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finder]:
    settings = Settings(base_directory=str(tmp_path_factory.mktemp("names")))
    store = Store.open(settings)
    compat = Compat(settings, store, NodeRegistry.open(), cache=False)
    yield compat.finder
    compat.close()
    store.close()


@pytest.fixture(scope="module")
def found(finder: Finder) -> dict[str, Row]:
    tests = uses(HERE, finder.names())
    return {row.name.name: row for row in rows(finder, NAMES, tests)}


@pytest.mark.parametrize("name", [name.name for name in NAMES])
def test_a_name_resolves_or_says_why_not(found: dict[str, Row], name: str) -> None:
    row = found[name]
    assert row.state != "unknown", row.reason
    if row.state in ("not yet", "absent", "of packs"):
        assert len(row.reason.split()) > 4


@pytest.mark.parametrize("name", [name.name for name in SEVERAL])
def test_a_name_that_works_is_used_by_a_test(found: dict[str, Row], name: str) -> None:
    row = found[name]
    assert row.test or row.state in ("not yet", "absent", "of packs"), f"{name} is at {row.home}; no test reads it"


def test_the_published_table_is_what_is_so(found: dict[str, Row]) -> None:
    told = [
        line.split("`")[1::2][0] + "|" + line.split("|")[3].strip() for line in _lines(PAGE.read_text(encoding="utf-8"))
    ]
    now = [line.split("`")[1::2][0] + "|" + line.split("|")[3].strip() for line in _lines(markdown(found.values()))]
    assert told == now, "run `make names`"


def _lines(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| `")]


def test_what_stands_for_something_that_is_not_there_says_so_when_it_is_used(found: dict[str, Row]) -> None:
    waiting = [name for name, row in found.items() if row.state == "not yet" and name[-1].isalnum()]
    assert waiting
    for name in waiting:
        module, _, attribute = name.rpartition(".")
        cls = getattr(import_module(module), attribute)
        with pytest.raises(LimnerError, match="cannot be used yet"):
            use(cls)


def use(cls: Any) -> None:
    """Make one; of a node's class also run it, for packs make nodes before they need them."""
    made = cls()
    getattr(made, cls.FUNCTION)()


def test_a_reason_of_a_table_is_told(finder: Finder) -> None:
    gone = [(module, name) for module in finder.names() for name in finder.table(module).absent]
    assert gone
    for module, name in gone:
        with pytest.raises(AttributeError) as error:
            getattr(__import__(module, fromlist=["_"]), name)
        assert finder.table(module).absent[name] in str(error.value)


def test_no_name_is_counted_twice() -> None:
    assert len({name.name for name in NAMES}) == len(NAMES)


def test_a_module_that_nobody_knows_is_unknown(finder: Finder) -> None:
    from limner.compat.table import Name

    assert look_up(finder, Name("no_such_module.thing", 2)).state == "unknown"
    assert look_up(finder, Name("folder_paths.no_such_name", 2)).state == "unknown"


def test_a_test_uses_what_its_expressions_read(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import oldlib.deep as d\n"
        "def test_one():\n    from oldlib import greet, unused\n    import oldlib\n"
        "    assert greet() and d.er.join and oldlib.VALUE.real\n"
        "def helper():\n    from oldlib import hidden\n    hidden()\n"
    )
    found = uses(tmp_path, ["oldlib.deep"])
    assert set(found) == {
        *("oldlib", "oldlib.greet", "oldlib.deep", "oldlib.deep.er", "oldlib.deep.er.join"),
        *("oldlib.VALUE", "oldlib.VALUE.real"),
    }
    assert found["oldlib.greet"].endswith("test_some.py::test_one")
