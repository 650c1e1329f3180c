"""Virtual modules: names from tables, seams, and what is said of a name that is not there."""

import importlib
import inspect
import logging
import sys
from types import ModuleType
from unittest import mock

import pytest

from limner.compat.finder import current, installed
from limner.compat.tables import FOLDER, Table, read_table, shipped

HOME = "tests.compat.finder_home"


@pytest.fixture
def home():
    module = ModuleType(HOME)
    module.greet = lambda: "home"
    module.VALUE = 1
    module._private = 2
    sys.modules[HOME] = module
    yield module
    del sys.modules[HOME]


@pytest.fixture
def finder(home, tmp_path):
    tables = {
        "oldlib": Table(home=HOME, seams=frozenset({"greet"}), absent={"Wan": "belongs to the Wan family."}),
        "oldlib.deep.er": Table(names={"join": "os.path:join", "path": "os:path", "gone": "no_such_module_x:y"}),
        "oldlib.closed": Table(note="use oldlib instead."),
    }
    with installed(base=tmp_path, tables=tables) as finder:
        yield finder


def test_public_names_of_the_home_are_names_of_the_module(finder):
    import oldlib

    assert oldlib.VALUE == 1
    assert oldlib.greet() == "home"
    assert not hasattr(oldlib, "_private")


def test_every_spelling_of_import_works(finder):
    import oldlib.deep.er as er  # noqa: PLR0402 - the spelling is what is tested
    from oldlib import VALUE, deep
    from oldlib.deep import er as same
    from oldlib.deep.er import join

    assert er is same is deep.er is importlib.import_module("oldlib.deep.er")
    assert VALUE == 1
    assert join("a", "b") == "a/b"


def test_a_submodule_is_there_without_being_imported(finder):
    import oldlib

    assert oldlib.deep.er.join("a", "b") == "a/b"


def test_a_star_import_brings_the_public_names(finder):
    names = {}
    exec("from oldlib import *", names)
    assert names["VALUE"] == 1
    assert "Wan" not in names


def test_an_unknown_name_is_an_import_error_that_names_it(finder):
    with pytest.raises(ImportError, match="VALU"):
        from oldlib import VALU  # noqa: F401
    import oldlib

    with pytest.raises(AttributeError, match=r"oldlib\.VALU is unknown to Limner\. Nearest: VALUE"):
        _ = oldlib.VALU


def test_an_absent_name_says_why(finder):
    import oldlib

    with pytest.raises(AttributeError, match=r"oldlib\.Wan: belongs to the Wan family\."):
        _ = oldlib.Wan
    with pytest.raises(AttributeError, match=r"use oldlib instead\."):
        _ = importlib.import_module("oldlib.closed").thing


def test_a_name_whose_home_cannot_be_imported_is_missing_not_fatal(finder):
    er = importlib.import_module("oldlib.deep.er")
    assert not hasattr(er, "gone")
    with pytest.raises(AttributeError, match="no_such_module_x"):
        _ = er.gone


def test_a_module_outside_the_tables_is_not_found(finder):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("oldlib.nothing")


def test_assigning_to_a_seam_changes_the_home(finder, home):
    import oldlib

    oldlib.greet = lambda: "pack"
    assert home.greet() == "pack"
    assert oldlib.greet() == "pack"
    assert [(patch.name, patch.seam) for patch in finder.patches] == [("greet", True)]
    assert finder.patches[0].file == __file__


def test_a_change_in_the_home_is_seen_by_packs(finder, home):
    import oldlib

    home.greet = lambda: "later"
    assert oldlib.greet() == "later"


def test_uninstalling_gives_the_seam_back(home, tmp_path):
    with installed(base=tmp_path, tables={"oldlib": Table(home=HOME, seams=frozenset({"greet"}))}):
        importlib.import_module("oldlib").greet = lambda: "pack"
    assert home.greet() == "home"
    assert "oldlib" not in sys.modules
    assert current() is None or "oldlib" not in current().names()


def test_mock_patch_undoes_a_seam(finder, home):
    with mock.patch("oldlib.greet", return_value="mocked"):
        assert home.greet() == "mocked"
    assert home.greet() == "home"


def test_a_patch_outside_the_seams_is_kept_and_told_once(finder, home, caplog):
    import oldlib

    with caplog.at_level(logging.WARNING):
        oldlib.VALUE = 5
        oldlib.VALUE = 6
    assert oldlib.VALUE == 6
    assert home.VALUE == 1
    told = [record for record in caplog.messages if "oldlib.VALUE" in record]
    assert len(told) == 1
    assert told[0].startswith(f"{__file__}:")
    assert "Limner itself does not use that name." in told[0]


def test_a_new_name_is_kept_without_a_word(finder, caplog):
    import oldlib

    oldlib.added_by_a_pack = 3
    assert oldlib.added_by_a_pack == 3
    assert not caplog.messages


def test_the_file_is_where_packs_look_for_the_base_folder(finder, tmp_path):
    import oldlib
    import oldlib.deep.er

    assert oldlib.__file__ == str(tmp_path / "oldlib" / "__init__.py")
    assert oldlib.deep.er.__file__ == str(tmp_path / "oldlib" / "deep" / "er.py")
    assert oldlib.__path__ == []
    assert oldlib.__spec__.name == "oldlib"


def test_source_is_refused_politely_and_names_are_listed(finder):
    import oldlib

    with pytest.raises(OSError, match="source"):
        inspect.getsource(oldlib)
    assert {"VALUE", "greet", "deep", "closed"} <= set(dir(oldlib))
    assert "Wan" not in dir(oldlib)
    assert dict(inspect.getmembers(oldlib))["VALUE"] == 1


def test_a_real_module_of_the_name_gives_way_while_installed(finder, tmp_path, monkeypatch):
    (tmp_path / "reallib.py").write_text("VALUE = 'real'\n")
    monkeypatch.syspath_prepend(tmp_path)
    real = importlib.import_module("reallib")
    with installed(base=tmp_path, tables={"reallib": Table(names={"VALUE": "sys:maxsize"})}):
        value = importlib.import_module("reallib").VALUE
    assert value == sys.maxsize
    assert importlib.import_module("reallib") is real
    del sys.modules["reallib"]


def test_a_table_with_a_key_that_means_nothing_is_refused(tmp_path):
    file = tmp_path / "oldlib.toml"
    file.write_text("hoem = 'x'\n")
    with pytest.raises(ValueError, match="hoem"):
        read_table(file)


def test_a_seam_may_be_a_pattern_and_what_it_adds_is_taken_out_again(home, tmp_path):
    tables = {"oldlib": Table(home=HOME, seams=frozenset({"sample_*"}))}
    with installed(base=tmp_path, tables=tables):
        import oldlib

        oldlib.sample_mine = "mine"
        assert home.sample_mine == oldlib.sample_mine == "mine"
        oldlib.sample_other = "other"
        del oldlib.sample_other
        assert not hasattr(home, "sample_other")
        oldlib.another = 1
        assert not hasattr(home, "another")
    assert not hasattr(home, "sample_mine")


def test_a_table_that_only_says_what_a_name_belongs_to_gives_way_to_a_real_module(finder, tmp_path, monkeypatch):
    (tmp_path / "notelib.py").write_text("VALUE = 'real'\n")
    tables = {"notelib": Table(note="belongs to another program.")}
    with installed(base=tmp_path, tables=tables), pytest.raises(AttributeError, match="another program"):
        _ = importlib.import_module("notelib").VALUE
    monkeypatch.syspath_prepend(tmp_path)
    with installed(base=tmp_path, tables=tables):
        assert importlib.import_module("notelib").VALUE == "real"
    sys.modules.pop("notelib", None)


def test_every_shipped_table_can_be_read():
    for file in FOLDER.glob("*.toml"):
        read_table(file)


def test_a_damaged_table_is_left_out_and_said_to_be(tmp_path, monkeypatch, caplog):
    (tmp_path / "good.toml").write_text('home = "os"\n')
    (tmp_path / "bad.toml").write_text("[absent]\n[absent]\n")
    monkeypatch.setattr("limner.compat.tables.FOLDER", tmp_path)
    assert list(shipped.__wrapped__()) == ["good"]
    assert "bad.toml" in caplog.text
