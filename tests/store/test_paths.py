from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.errors import Forbidden
from limner.store.paths import resolve_inside

ATTACKS = [
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "a/../b",
    "/etc/passwd",
    "//server/share",
    "C:",
    "C:/x",
    "c:x",
    "a\\b",
    "..\\x",
    "\\\\server\\share",
    "a\0.png",
    "a\n.png",
    "\x7f",
    "con",
    "CON",
    "nul.png",
    "sub/aux.txt",
    "com1",
    "LPT9.png",
    "com¹",
    "x" * 256,
    "ü" * 128,
    "/".join(["d" * 200] * 30),
    "\ud800",
]


@pytest.mark.parametrize("attack", ATTACKS, ids=[ascii(attack)[:24] for attack in ATTACKS])
def test_paths_that_could_lead_elsewhere_are_forbidden(tmp_path, attack):
    for parts in ((attack,), ("sub", attack), (attack, "x.png")):
        with pytest.raises(Forbidden):
            resolve_inside(tmp_path, *parts)


@pytest.mark.parametrize("value", [None, 3, b"x", ["x"], Path("x")])
def test_what_is_not_text_is_forbidden(tmp_path, value):
    with pytest.raises(Forbidden):
        resolve_inside(tmp_path, value)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), ""),
        (("", ""), ""),
        (("a.png",), "a.png"),
        (("sub", "a.png"), "sub/a.png"),
        (("sub/deep/", "a.png"), "sub/deep/a.png"),
        (("./a//b",), "a/b"),
        (("…", "fuchs ü 狐.png"), "…/fuchs ü 狐.png"),
        (("..a", "...", "a..b"), "..a/.../a..b"),
        (("console.png", "auxiliary"), "console.png/auxiliary"),
        (("%2e%2e",), "%2e%2e"),
        (("~",), "~"),
        (("$HOME",), "$HOME"),
    ],
)
def test_ordinary_names_stay_as_they_are(tmp_path, parts, expected):
    assert resolve_inside(tmp_path, *parts) == tmp_path / expected


def test_a_link_that_leads_out_is_forbidden_unless_links_are_followed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "not yet there")
    for name in ("link", "link/x", "file"):
        with pytest.raises(Forbidden):
            resolve_inside(root, name)
        assert resolve_inside(root, name, follow_links=True) == root / name


def test_links_inside_the_root_and_to_the_root_are_fine(tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "link").symlink_to(root / "a")
    (tmp_path / "alias").symlink_to(root)
    assert resolve_inside(root, "link/x") == root / "link/x"
    assert resolve_inside(tmp_path / "alias", "a/x") == tmp_path / "alias/a/x"


def test_a_folder_whose_name_only_starts_like_the_root_is_outside(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root-secret").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "root-secret")
    with pytest.raises(Forbidden):
        resolve_inside(tmp_path / "root", "link")


_PIECES = st.sampled_from(["..", ".", "/", "\\", "a", "b", "link", "~", "C:", "\0", "%2e", " ", "‥", "．", "/etc"])


@given(st.lists(st.lists(_PIECES, max_size=6).map("".join) | st.text(max_size=8), max_size=4))
def test_whatever_is_given_the_result_lies_inside(parts):
    root = Path(os.path.realpath(__file__)).parent
    try:
        path = resolve_inside(root, *parts)
    except Forbidden:
        return
    assert os.path.commonpath((os.path.normpath(path), str(root))) == str(root)
    assert os.path.commonpath((os.path.realpath(path), str(root))) == str(root)
    assert b"\0" not in os.fsencode(path)
