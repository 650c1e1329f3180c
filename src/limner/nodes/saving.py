"""What all nodes that write results share: what is carried inside, names, and the entries that clients show.
(No nodes here.)"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from limner.graph import Hidden, Run
from limner.store.atomic import write_atomic
from limner.store.files import SaveTarget
from limner.store.media import text_chunks

Prompt = Annotated[dict[str, Any] | None, Hidden("PROMPT")]
Extra = Annotated[dict[str, Any] | None, Hidden("EXTRA_PNGINFO")]
Shown = dict[str, str]
"""One file as clients are told of it: filename, subfolder, type."""
_LETTERS = "abcdefghijklmnopqrstupvxyz"


def carried(run: Run, prompt: Mapping[str, Any] | None, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """The texts that a result carries (prompt, workflow, …) as JSON; none with --disable-metadata."""
    return {} if run.settings.disable_metadata else text_chunks(prompt, extra)


def carried_values(run: Run, prompt: Mapping[str, Any] | None, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a result carries as values, for formats that hold JSON themselves."""
    if run.settings.disable_metadata:
        return {}
    return ({} if prompt is None else {"prompt": prompt}) | dict(extra or {})


def temp_prefix() -> str:
    """The start of a name in the temp folder that no other preview has."""
    return "ComfyUI_temp_" + "".join(random.choices(_LETTERS, k=5))


def pixel_bytes(image: Tensor) -> np.ndarray[Any, Any]:
    """(H, W, C) uint8 of a picture in 0..1; cut off, not rounded."""
    pixels: np.ndarray[Any, Any] = (255.0 * image.float().cpu().numpy()).clip(0, 255).astype(np.uint8)
    return pixels


def shown(target: SaveTarget, kind: str, index: int = 0) -> Shown:
    """The entry of a result of a kind of folder."""
    return {"filename": target.name(index), "subfolder": target.subfolder, "type": kind}


def save_files(
    run: Run, kind: str, prefix: str, extension: str, files: Iterable[bytes], size: tuple[int, int] = (0, 0)
) -> list[Shown]:
    """Write each file under the next number of its prefix, and return their entries.

    kind: output or temp. size: width and height, for %width% and %height% of the prefix.
    """
    target = run.store.files.next_name(kind, prefix, extension, width=size[0], height=size[1])
    entries = []
    for index, data in enumerate(files):
        run.check()
        write_atomic(target.path(index), data)
        entries.append(shown(target, kind, index))
    return entries


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of `path` at the end; nothing is left when writing fails."""
    spare = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield spare
        spare.replace(path)
    finally:
        spare.unlink(missing_ok=True)
