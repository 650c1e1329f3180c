"""Releases of web front ends on GitHub, fetched once and kept: --front-end-version."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limner.errors import BadInput, Forbidden, LimnerError
from limner.store.paths import resolve_inside

log = logging.getLogger(__name__)

INSTALLED = "comfyanonymous/ComfyUI@latest"
"""The default of the flag, which means the installed package."""
CHOICE = re.compile(
    r"(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<repo>[A-Za-z0-9][\w.-]*)@(?P<version>latest|prerelease|v?\d[\w.+-]*)"
)
FOLDER = "web_custom_versions"
ASSET = "dist.zip"
LARGEST = 512 << 20
SECONDS = 30

Fetch = Callable[[str], bytes]
"""The bytes at an address. Raises OSError."""


def fetch(address: str) -> bytes:
    """The bytes at an https address."""
    if not address.startswith("https://"):
        raise OSError(f"{address} is no https address")
    request = urllib.request.Request(address, headers={"User-Agent": "limner", "Accept": "*/*"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310 - https, checked above
        found: bytes = reply.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise OSError(f"{address} is larger than {LARGEST} bytes")
    return found


def front_end_release(choice: str, base: Path, get: Fetch = fetch) -> Path:
    """The folder of the front end `owner/repo@version`, fetched unless it is there from before.

    base: the folder that holds `web_custom_versions`. `latest` and `prerelease` ask GitHub each time; where that cannot
    be reached, the newest that is there is taken, with a warning.

    Raises BadInput for a choice that is none, and LimnerError when there is no such release or it cannot be fetched.
    """
    found = CHOICE.fullmatch(choice)
    if found is None:
        raise BadInput(
            f"--front-end-version {choice} is not understood.", do="Write OWNER/REPO@VERSION, @latest or @prerelease."
        )
    owner, repo, version = found["owner"], found["repo"], found["version"]
    place = base / FOLDER / f"{owner}_{repo}"
    if version[0] in "v0123456789" and _is_whole(place / version.removeprefix("v")):
        return place / version.removeprefix("v")
    try:
        release = _choose(
            json.loads(get(f"https://api.github.com/repos/{owner}/{repo}/releases?per_page=100")), version
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        return _kept(place, choice, error)
    if release is None:
        raise LimnerError(f"{owner}/{repo} has no release {version}.", do="Choose another with --front-end-version.")
    target = resolve_inside(place, str(release["tag_name"]).removeprefix("v").replace("/", "_"))
    if not _is_whole(target):
        _unpack(release, target, choice, get)
    return target


def _choose(releases: list[dict[str, Any]], version: str) -> dict[str, Any] | None:
    """The release of a version; the newest, or the newest that is marked as early, for the two words."""
    for release in releases:
        early, tag = bool(release.get("prerelease")), str(release["tag_name"]).removeprefix("v")
        if (
            tag == version.removeprefix("v")
            or (version == "latest" and not early)
            or (version == "prerelease" and early)
        ):
            return release
    return None


def _kept(place: Path, choice: str, error: Exception) -> Path:
    """The newest version that is there already."""
    present = [folder for folder in place.iterdir() if _is_whole(folder)] if place.is_dir() else []
    if not present or choice.rpartition("@")[2] not in ("latest", "prerelease"):
        do = "Check the network, or use --front-end-root."
        raise LimnerError(f"The front end {choice} cannot be fetched.", why=f"{error}.", do=do) from error
    newest = max(present, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.name)])
    log.warning("GitHub cannot be asked for %s (%s); %s is used.", choice, error, newest.name)
    return newest


def _unpack(release: dict[str, Any], target: Path, choice: str, get: Fetch) -> None:
    """Fetch a release's files and put them in place at once."""
    addresses = [asset["browser_download_url"] for asset in release.get("assets", ()) if asset.get("name") == ASSET]
    if not addresses:
        raise LimnerError(f"The release {release['tag_name']} of {choice} has no {ASSET}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    log.info("Fetching the front end %s …", release["tag_name"])
    with tempfile.TemporaryDirectory(dir=target.parent) as spare:
        try:
            with zipfile.ZipFile(io.BytesIO(get(addresses[0]))) as archive:
                _extract(archive, Path(spare) / "files")
        except (OSError, zipfile.BadZipFile, Forbidden) as error:
            raise LimnerError(f"The front end {choice} cannot be fetched.", why=f"{error}.") from error
        if not _is_whole(Path(spare) / "files"):
            raise LimnerError(f"The release {release['tag_name']} of {choice} has no index.html.")
        shutil.rmtree(target, ignore_errors=True)
        (Path(spare) / "files").replace(target)


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    """Every file of an archive below a folder; names that would leave it are refused, and so is too much."""
    if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
        raise OSError("it unpacks to too much")
    for entry in archive.infolist():
        if not entry.is_dir():
            path = resolve_inside(folder, entry.filename)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(entry))


def _is_whole(folder: Path) -> bool:
    return (folder / "index.html").is_file()
