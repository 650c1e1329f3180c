"""The web front end: files of an installed package or of a chosen folder, served as they are."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from limner.errors import BadInput, Forbidden
from limner.server.keys import FRONT_END
from limner.server.releases import INSTALLED, front_end_release
from limner.server.replies import file_type
from limner.store.paths import resolve_inside

PACKAGE = "comfyui_frontend_package"
NOT_KEPT = {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "0"}


@dataclass(frozen=True)
class FrontEnd:
    """Where the front end's files are: None when there is none. docs, templates: pages that some packages bring."""

    root: Path | None
    docs: Path | None = None
    templates: Path | None = None

    def extensions(self) -> list[str]:
        """Addresses of the front end's own extension scripts."""
        if self.root is None:
            return []
        files = sorted((self.root / "extensions").rglob("*.js"))
        return ["/" + quote(file.relative_to(self.root).as_posix()) for file in files]


def find_front_end(chosen: str | None, version: str = INSTALLED, base: Path | None = None) -> FrontEnd:
    """The front end of the chosen folder, else of the chosen release, else of the installed package, whose code is not
    run.

    version: as --front-end-version has it. base: where releases are kept, the working directory by default.
    Raises BadInput when the chosen folder has no index.html, and what `front_end_release` raises.
    """
    if chosen is not None:
        root: Path | None = Path(chosen).expanduser().absolute()
        if root is None or not (root / "index.html").is_file():
            raise BadInput(f"{chosen} is no web front end.", why="It has no index.html.", do="Check --front-end-root.")
    elif version != INSTALLED:
        root = front_end_release(version, base or Path.cwd())
    else:
        root = _package_folder(PACKAGE, "static")
    return FrontEnd(
        root,
        docs=_package_folder("comfyui_embedded_docs", "docs"),
        templates=_package_folder("comfyui_workflow_templates", "templates"),
    )


def _package_folder(package: str, folder: str) -> Path | None:
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / folder).is_dir():
            return Path(place) / folder
    return None


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None when it is not there. Nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


async def index(request: web.Request) -> web.StreamResponse:
    """The page itself, asked for anew each time, so that an update is seen."""
    root = request.app[FRONT_END].root
    if root is None:
        return web.Response(
            status=404,
            text="No web front end is installed. Install the package comfyui-frontend-package, or start with "
            "--front-end-root FOLDER. The API works without.",
        )
    return web.FileResponse(root / "index.html", headers=NOT_KEPT)


async def file(request: web.Request) -> web.StreamResponse:
    """Any other file of the front end."""
    path = request.match_info["path"]
    # Where the page names no icon, browsers ask for this one.
    return await send_below(request.app[FRONT_END].root, "assets/favicon.ico" if path == "favicon.ico" else path)


async def docs(request: web.Request) -> web.StreamResponse:
    """A page of the embedded documentation."""
    return await send_below(request.app[FRONT_END].docs, request.match_info["path"])


async def send_below(root: Path | None, path: str) -> web.StreamResponse:
    """The file at a path below a folder; 404 when there is none or the path would leave the folder."""
    if root is None or not path or path.endswith("/"):
        raise web.HTTPNotFound
    try:
        found = resolve_inside(root, path)
        there = found.is_file()
    except (Forbidden, BadInput, OSError, ValueError):
        there = False
    if not there:
        raise web.HTTPNotFound
    return web.FileResponse(found, headers={"Content-Type": file_type(found.name)})
