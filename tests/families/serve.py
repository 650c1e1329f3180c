"""A server whose model folders hold every small family, asked as a client asks it."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.families.make import write, write_shared
from tests.families.small import SMALL
from tests.serving import Server

FLOAT32 = ("--cpu", "--force-fp32", "--fp32-vae", "--fp32-text-enc")
BFLOAT16 = ("--cpu", "--bf16-unet", "--bf16-vae", "--bf16-text-enc")
RUN_SECONDS = 60.0


def write_all(base: Path) -> None:
    """The files of every family below a server's folder."""
    write_shared(base)
    for small in SMALL:
        write(small, base / "models")


def picture(server: Server, prompt: Mapping[str, Any]) -> Image.Image:
    """The picture that a prompt makes, fetched from /view. Fails with the server's own words where it makes none."""
    try:
        number = server.post("/prompt", {"prompt": prompt})["prompt_id"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"the prompt is refused: {error.read().decode()}") from error
    deadline = time.monotonic() + RUN_SECONDS
    while number not in (history := server.get(f"/history/{number}")):
        assert time.monotonic() < deadline, f"the prompt did not end in {RUN_SECONDS:.0f} s"
        time.sleep(0.005)
    entry = history[number]
    saved = [image for output in entry["outputs"].values() for image in output.get("images", ())]
    assert saved, json.dumps(entry["status"]["messages"][-1], indent=1)
    (image,) = saved
    query = urllib.parse.urlencode(image)
    with urllib.request.urlopen(f"{server.url}/view?{query}", timeout=30) as reply:
        assert reply.headers["Content-Type"] == "image/png"
        return Image.open(io.BytesIO(reply.read()))


def apart(one: Image.Image, other: Image.Image) -> float:
    """The mean absolute difference of two pictures, of 255."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())
