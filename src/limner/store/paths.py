"""The one function that turns names from outside into paths; everything that opens a file by name goes through it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from limner.errors import Forbidden

LONGEST_NAME = 255
LONGEST_PATH = 4000

_DRIVE = re.compile(r"[A-Za-z]:")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(\..*)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def resolve_inside(root: str | os.PathLike[str], *parts: str, follow_links: bool = False) -> Path:
    """The path of `parts` below `root`, or Forbidden when it could be anywhere else.

    parts: names or relative paths with `/` between names; empty ones and `.` are passed over. Nothing has to exist.
    follow_links: allow links that lead out of the root, which only the machine's owner can have made (model folders
        on another disk); names are checked all the same.

    Refused: absolute parts, `..` even where it would stay inside, backslashes, drive letters, control characters,
    names that Windows gives to devices or cuts short, names over 255 bytes, paths over 4000, and text that is no
    valid file name.
    """
    base = Path(root)
    names: list[str] = []
    for part in parts:
        if not isinstance(part, str):
            raise _refused(part, "It is not text.")
        if part.startswith("/") or _DRIVE.match(part):
            raise _refused(part, "It is an absolute path.")
        names += [name for name in part.split("/") if name not in {"", "."}]
    for name in names:
        if reason := _fault(name):
            raise _refused("/".join(names), reason)
    path = base.joinpath(*names)
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise _refused(names[-1], f"The whole path is longer than {LONGEST_PATH} bytes.")
    if names and not follow_links:
        real, real_base = os.path.realpath(path), os.path.realpath(base)
        if os.path.commonpath((real, real_base)) != real_base:
            raise _refused("/".join(names), "A link on the way leads out of its folder.")
    return path


def _fault(name: str) -> str:
    """Why a single name cannot be used, or nothing."""
    if name == "..":
        return "It leads upwards with `..`."
    if "\\" in name:
        return "It holds a backslash; folders are separated by `/`."
    if _CONTROL.search(name):
        return "It holds a control character."
    if _RESERVED.fullmatch(name):
        return "Windows reserves this name for a device."
    if os.name == "nt" and (":" in name or name[-1] in ". "):
        return "Windows does not keep this name as it is."
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        return "It is not valid text."
    return f"A name is longer than {LONGEST_NAME} bytes." if length > LONGEST_NAME else ""


def _refused(part: object, reason: str) -> Forbidden:
    shown = repr(part)
    shown = shown if len(shown) <= 100 else f"{shown[:97]}…"
    return Forbidden(f"The path {shown} is not allowed.", why=reason, do="Use a name inside the folder.")
