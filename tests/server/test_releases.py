"""Front ends of GitHub releases: fetched once, kept, and never outside their folder."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from limner.errors import BadInput, LimnerError
from limner.server.frontend import find_front_end
from limner.server.releases import front_end_release


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, text in files.items():
            made.writestr(name.replace("__", "/").replace("_", "."), text)
    return buffer.getvalue()


class GitHub:
    def __init__(self, data: bytes = b"") -> None:
        self.asked: list[str] = []
        self.data = data or archive(index_html="<page>", assets__a_js="1")

    def __call__(self, address: str) -> bytes:
        self.asked.append(address)
        if not address.startswith("https://api.github.com/repos/me/ui/releases"):
            return self.data
        tags = (("v2.0.0-rc", True), ("v1.1.0", False), ("v1.0.0", False))
        files = [{"name": "dist.zip", "browser_download_url": "https://files.example/dist.zip"}]
        return json.dumps([{"tag_name": tag, "prerelease": early, "assets": files} for tag, early in tags]).encode()


def away(address: str) -> bytes:
    raise OSError("no network")


@pytest.mark.parametrize(
    ("version", "folder"), [("latest", "1.1.0"), ("prerelease", "2.0.0-rc"), ("1.0.0", "1.0.0"), ("v1.0.0", "1.0.0")]
)
def test_a_release_is_fetched_into_its_folder(tmp_path: Path, version: str, folder: str) -> None:
    root = front_end_release(f"me/ui@{version}", tmp_path, GitHub())

    assert root == tmp_path / "web_custom_versions" / "me_ui" / folder
    assert ((root / "index.html").read_text(), (root / "assets" / "a.js").read_text()) == ("<page>", "1")
    assert [path.name for path in root.parent.iterdir()] == [folder]


def test_a_version_that_is_there_is_not_asked_for(tmp_path: Path) -> None:
    front_end_release("me/ui@1.0.0", tmp_path, GitHub())

    assert front_end_release("me/ui@v1.0.0", tmp_path, away).name == "1.0.0"
    assert find_front_end(None, "me/ui@1.0.0", tmp_path).root == tmp_path / "web_custom_versions" / "me_ui" / "1.0.0"


def test_without_network_the_newest_that_is_there_is_latest(tmp_path: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        front_end_release(f"me/ui@{version}", tmp_path, GitHub())

    assert front_end_release("me/ui@latest", tmp_path, away).name == "1.1.0"
    with pytest.raises(LimnerError, match="no network"):
        front_end_release("me/ui@3.0.0", tmp_path, away)


@pytest.mark.parametrize("choice", ["ui@1", "me/ui", "me/ui@", "me/ui@../x", "../me/ui@1", "me/ui@1/..", "me/ui@x"])
def test_what_names_no_release_is_refused(tmp_path: Path, choice: str) -> None:
    with pytest.raises(BadInput):
        front_end_release(choice, tmp_path, away)


@pytest.mark.parametrize(
    "data", [b"no zip", archive(other_html="x"), archive(**{"..__x_html": "x", "index_html": "y"})]
)
def test_a_release_that_is_none_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(LimnerError):
        front_end_release("me/ui@latest", tmp_path, GitHub(data))

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_version_that_was_never_released_is_named(tmp_path: Path) -> None:
    with pytest.raises(LimnerError, match=r"no release 9\.9\.9"):
        front_end_release("me/ui@9.9.9", tmp_path, GitHub())


def test_a_folder_wins_over_a_release(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("x")

    assert find_front_end(str(tmp_path), "me/ui@latest", tmp_path).root == tmp_path
