"""Where the memory is: what is loaded on which device, and what else this process holds."""

from __future__ import annotations

from typing import Any

import psutil
from aiohttp.web import Request, Response

from limner.server.keys import DEVICES, ENGINE, Route
from limner.server.replies import json_reply
from limner.server.schemas import NUMBER, SWITCH, TEXT, WHOLE, array, json_of, nullable, obj, words


async def memory(request: Request) -> Response:
    """Each device's memory in bytes, and what this process has of it in rows that add up: networks, results, the rest.

    Beside it what the latest runs were estimated to need and what they took. As long as nothing was loaded there is
    only what the system tells (`ready` is false), so that it is there at once.
    """
    found = await request.app[ENGINE].describe_memory()
    return json_reply(before_loading(request.app[DEVICES]()) if found is None else found)


def before_loading(devices: list[dict[str, Any]]) -> dict[str, Any]:
    """What can be told without torch. devices: as `/system_stats` tells them."""
    memory = psutil.virtual_memory()
    own = psutil.Process().memory_info()
    private = own.rss - getattr(own, "shared", 0)
    described = [_device("cpu", "cpu", memory.total, memory.available, private)]
    for one in devices:
        if one["type"] != "cpu":
            name = f"{one['type']}:{one['index']}"
            described.append(_device(name, one["name"], one["vram_total"], one["vram_free"], 0))
    return {"ready": False, "devices": described, "runs": []}


def _device(device: str, name: str, total: int, free: int, process: int) -> dict[str, Any]:
    memory = {"total": total, "free": free, "cap": None, "process": process}
    rows = [{"kind": "baseline", "bytes": process}] if process else []
    return {"device": device, "name": name, "unified": device == "cpu", **memory, "rows": rows}


KINDS = ("network", "buffers", "results", "pinned", "baseline", "allocator", "libraries", "working", "unaccounted")
ROW = obj(
    "kind bytes",
    kind={
        **words(*KINDS),
        "description": "network: weights that are there. buffers: that weights stream through. results: of nodes, "
        "kept. pinned: weights that wait, page-locked. baseline: the process before anything was loaded. allocator: "
        "what it may keep for later. libraries: not counted, granted up to a bound. working: of what runs.",
    },
    bytes=WHOLE,
    name=TEXT,
    dtype=TEXT,
    streamed={**WHOLE, "description": "Bytes of weights that are brought each time they are used."},
    patched={**WHOLE, "description": "How many of those are patched each time."},
    pinned={**WHOLE, "description": "Bytes of RAM that those wait in, page-locked."},
    in_use=SWITCH,
)
DEVICE = obj(
    "device name unified total free cap process rows",
    device=TEXT,
    name=TEXT,
    unified={**SWITCH, "description": "Whether its memory is the computer's own."},
    total=WHOLE,
    free=WHOLE,
    cap={**nullable(WHOLE), "description": "What --max-vram or --max-ram allow this process."},
    process={**WHOLE, "description": "What this process has of it; on the CPU without mapped files."},
    rows=array(ROW),
)
RUN = obj(
    "name device estimated measured seconds",
    name=TEXT,
    device=TEXT,
    estimated={**WHOLE, "description": "Bytes that it was thought to need beside its weights."},
    measured={**WHOLE, "description": "Bytes that it took at its peak."},
    seconds=NUMBER,
)
MEMORY = obj("ready devices runs", ready=SWITCH, devices=array(DEVICE), runs=array(RUN))

ROUTES = (Route("GET", "/memory", memory, answers={200: json_of("The memory, latest runs first.", MEMORY)}),)
