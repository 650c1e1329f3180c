"""Files of users as they are sent: nothing in them may act with the rights of the page."""

from __future__ import annotations

from urllib.parse import quote

from limner.server.replies import file_type

PLAIN = "application/octet-stream"
SHOWN = frozenset(("image", "video", "audio", "font", "model"))
"""Kinds of types that a browser shows or plays, and never runs."""
DATA = frozenset(("text/plain", "text/markdown", "text/csv", "application/json", "application/pdf", "application/zip"))
DRAWING = "image/svg+xml"
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
"""For what a browser might take for a document: it has no origin there, loads nothing and runs nothing."""


def safe_type(name: str, also: frozenset[str] = frozenset()) -> str:
    """The type a file of this name is sent as: its own where that is known to do nothing, plain bytes else.

    also: more types that are harmless where the file is used.
    """
    guessed = file_type(name)
    bare = guessed.partition(";")[0].lower()
    main = bare.partition("/")[0]
    if bare in DATA or bare in also:
        return guessed
    if main in SHOWN and (bare == DRAWING or not bare.endswith("xml")):
        return guessed
    return PLAIN


def inert(name: str, also: frozenset[str] = frozenset()) -> dict[str, str]:
    """The headers to send a user's file with.

    Types that could act (HTML, XML, scripts, and all that is not known) come as bytes to be saved; drawings (SVG),
    which must keep their type to be shown, in a sandbox.
    """
    kind = safe_type(name, also)
    headers = {"Content-Type": kind, "Content-Disposition": disposition(name)}
    if kind == PLAIN and file_type(name) != PLAIN:
        headers["Content-Disposition"] = f"attachment; {disposition(name)}"
    if kind == DRAWING or (kind.startswith(("text/", "application/")) and kind != "application/pdf"):
        headers["Content-Security-Policy"] = SANDBOX
    return headers


def disposition(name: str) -> str:
    """The `filename` of a `Content-Disposition`; with the name in UTF-8 too where it needs that."""
    ascii_only = name.encode("ascii", "replace").decode()
    plain = "".join(letter if " " <= letter <= "~" and letter not in '"\\' else "_" for letter in ascii_only)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return f'filename="{plain}"{extended}'
