"""The machine and the server themselves."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import psutil
from aiohttp.web import Request, Response

from limner.server.features import features
from limner.server.frontend import FrontEnd, installed_version
from limner.server.keys import DEVICES, FRONT_END, SETTINGS, Route
from limner.server.packs import PACKS, scripts
from limner.server.replies import json_reply
from limner.server.schemas import SWITCH, TEXT, TEXTS, WHOLE, array, json_of, nullable, obj

API_VERSION = "0.3.69"
"""The ComfyUI release whose API is spoken; clients compare it, so it is told in place of our own version."""


async def stats(request: Request) -> Response:
    """System and devices. Read without torch, so that it is there at once."""
    return json_reply({"system": system(), "devices": request.app[DEVICES]()})


def system() -> dict[str, Any]:
    """The machine's side of `/system_stats`; memory in bytes."""
    memory = psutil.virtual_memory()
    wanted = wanted_versions("limner", ("comfyui-frontend-package", "comfyui-workflow-templates"))
    return {
        "os": os.name if platform.system() != "Darwin" else "darwin",
        "ram_total": memory.total,
        "ram_free": memory.available,
        "comfyui_version": API_VERSION,
        "limner_version": installed_version("limner"),
        "required_frontend_version": wanted.get("comfyui-frontend-package"),
        "installed_templates_version": installed_version("comfyui-workflow-templates"),
        "required_templates_version": wanted.get("comfyui-workflow-templates"),
        "python_version": sys.version,
        "pytorch_version": installed_version("torch"),
        "embedded_python": "embed" in sys.executable,
        "argv": without_key(sys.argv),
    }


def without_key(arguments: Sequence[str]) -> list[str]:
    """The command line as it may be told: the API key is starred out."""
    shown = [re.sub(r"^(--api-key=).+", r"\1***", one) for one in arguments]
    pairs = zip(["", *shown], shown, strict=False)
    return ["***" if before == "--api-key" and not one.startswith("-") else one for before, one in pairs]


def wanted_versions(distribution: str, names: tuple[str, ...]) -> dict[str, str]:
    """The least version that a distribution asks of each of these dependencies, where it says one."""
    try:
        required = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return {}
    found = {}
    for line in required:
        match = re.match(r"([A-Za-z0-9._-]+)\s*[><=~]=\s*([0-9.]+)", line)
        if match and match[1] in names:
            found[match[1]] = match[2]
    return found


async def tell_features(request: Request) -> Response:
    """What the server can do."""
    return json_reply(features(request.app[SETTINGS]))


async def extensions(request: Request) -> Response:
    """Addresses of the scripts that extend the front end."""
    front_end: FrontEnd = request.app[FRONT_END]
    return json_reply([*front_end.extensions(), *await scripts(request.app[PACKS])])


DEVICE = obj(
    "name type index vram_total vram_free torch_vram_total torch_vram_free",
    name=TEXT,
    type=TEXT,
    index=nullable(WHOLE),
    vram_total=WHOLE,
    vram_free=WHOLE,
    torch_vram_total=WHOLE,
    torch_vram_free=WHOLE,
)
SYSTEM = obj(
    "os ram_total ram_free comfyui_version python_version pytorch_version embedded_python argv",
    os=TEXT,
    ram_total=WHOLE,
    ram_free=WHOLE,
    comfyui_version=TEXT,
    limner_version=nullable(TEXT),
    required_frontend_version=nullable(TEXT),
    installed_templates_version=nullable(TEXT),
    required_templates_version=nullable(TEXT),
    python_version=TEXT,
    pytorch_version=nullable(TEXT),
    embedded_python=SWITCH,
    argv=TEXTS,
)
STATS = obj("system devices", system=SYSTEM, devices=array(DEVICE))
FEATURES = obj("supports_preview_metadata max_upload_size", supports_preview_metadata=SWITCH, max_upload_size=WHOLE)

ROUTES = (
    Route("GET", "/system_stats", stats, answers={200: json_of("The machine.", STATS)}),
    Route("GET", "/features", tell_features, answers={200: json_of("What clients may rely on.", FEATURES)}),
    Route("GET", "/extensions", extensions, answers={200: json_of("Addresses.", TEXTS)}),
)
