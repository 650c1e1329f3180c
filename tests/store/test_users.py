from __future__ import annotations

import json

import pytest

from limner.errors import BadInput, Forbidden, NotFound
from limner.store.users import AlreadyThere, Users


def users(tmp_path, **more):
    return Users(tmp_path / "user", **more)


def test_everyone_is_the_default_user_in_single_user_mode(tmp_path):
    store = users(tmp_path)
    assert store.user(None) == store.user("someone") == "default"
    assert store.describe() == {"storage": "server", "migrated": False}
    store.update_settings("default", {})
    assert store.describe()["migrated"] is True


def test_users_are_made_known_and_kept(tmp_path):
    user = users(tmp_path, multi=True).add("Ann Ö.")
    assert user.startswith("Ann-_")
    again = users(tmp_path, multi=True)
    assert again.describe() == {"storage": "server", "users": {user: "Ann Ö."}}
    assert again.user(user) == user
    with pytest.raises(BadInput, match="Duplicate username"):
        again.add("Ann Ö.")


@pytest.mark.parametrize("claimed", [None, "", "unknown", "../default"])
def test_unknown_users_are_forbidden(tmp_path, claimed):
    with pytest.raises(Forbidden):
        users(tmp_path, multi=True).user(claimed)


def test_settings_are_merged_and_kept(tmp_path):
    users(tmp_path).update_settings("default", {"a": 1, "b": [2]})
    users(tmp_path).update_settings("default", {"b": 3})
    assert users(tmp_path).settings("default") == {"a": 1, "b": 3}
    text = (tmp_path / "user/default/comfy.settings.json").read_text()
    assert text == json.dumps({"a": 1, "b": 3}, indent=4)


def test_damaged_settings_read_as_empty_and_are_kept_when_written_over(tmp_path):
    file = tmp_path / "user/default/comfy.settings.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"half')
    store = users(tmp_path)
    assert store.settings("default") == {}
    store.update_settings("default", {"a": 1})
    assert store.settings("default") == {"a": 1}
    assert [found.read_text() for found in file.parent.glob("*.damaged-*")] == ['{"half']


def test_files_are_written_read_moved_and_deleted(tmp_path):
    store = users(tmp_path)
    path = store.write("default", "workflows/a.json", b"{}")
    assert store.relative("default", path) == "workflows/a.json"
    with pytest.raises(AlreadyThere):
        store.write("default", "workflows/a.json", b"2", overwrite=False)
    store.write("default", "workflows/b.json", b"2", overwrite=False)
    with pytest.raises(AlreadyThere):
        store.move("default", "workflows/a.json", "workflows/b.json", overwrite=False)
    store.move("default", "workflows/a.json", "deep/er/c.json")
    assert store.file("default", "deep/er/c.json").read_bytes() == b"{}"
    store.delete("default", "workflows/b.json")
    assert store.list("default", "workflows") == []
    for act in (store.delete, store.file):
        with pytest.raises(NotFound):
            act("default", "workflows/b.json")
    with pytest.raises(NotFound):
        store.move("default", "absent", "x")


@pytest.mark.parametrize("name", ["", ".", "folder"])
def test_a_folder_is_not_written_over(tmp_path, name):
    store = users(tmp_path)
    store.write("default", "folder/a", b"")
    with pytest.raises(BadInput):
        store.write("default", name, b"x")


@pytest.mark.parametrize("name", ["../other/a", "/etc/passwd", "a/../../users.json", "..", "a\\b"])
def test_user_files_cannot_lead_out(tmp_path, name):
    store = users(tmp_path)
    store.write("default", "a", b"")
    for act in (store.file, store.delete, store.list, store.tree):
        with pytest.raises(Forbidden):
            act("default", name)
    with pytest.raises(Forbidden):
        store.move("default", "a", name)
    with pytest.raises(Forbidden):
        store.write("default", name, b"")


@pytest.mark.parametrize("user", ["", "a/b", "..", "/"])
def test_a_user_id_is_one_name(tmp_path, user):
    with pytest.raises(Forbidden):
        users(tmp_path).path(user, "x")


def test_listings_have_the_forms_that_clients_ask_for(tmp_path):
    store = users(tmp_path)
    for name in ("w/b.json", "w/sub/a.json"):
        store.write("default", name, b"123")
    assert store.list("default", "w") == ["b.json"]
    assert store.list("default", "w", recurse=True) == ["b.json", "sub/a.json"]
    assert store.list("default", "w", recurse=True, split=True) == [
        ["b.json", "b.json"],
        ["sub/a.json", "sub", "a.json"],
    ]
    (info,) = store.list("default", "w", full_info=True)
    assert (info["path"], info["size"]) == ("b.json", 3)
    assert isinstance(info["modified"], float)
    assert isinstance(info["created"], float)
    with pytest.raises(NotFound):
        store.list("default", "absent")


def test_the_tree_names_folders_first(tmp_path):
    store = users(tmp_path)
    assert store.tree("default") == []
    for name in ("w/B.json", "w/sub/a.json", "c.css"):
        store.write("default", name, b"123")
    assert [(entry["type"], entry["path"]) for entry in store.tree("default")] == [
        ("directory", "w/sub"),
        ("directory", "w"),
        ("file", "w/sub/a.json"),
        ("file", "w/B.json"),
        ("file", "c.css"),
    ]
    assert [entry["path"] for entry in store.tree("default", "w/sub")] == ["w/sub/a.json"]
    with pytest.raises(NotFound):
        store.tree("default", "absent")
    with pytest.raises(BadInput):
        store.tree("default", "c.css")
