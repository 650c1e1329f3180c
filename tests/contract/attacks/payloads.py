"""What attackers send: names that lead elsewhere, and values of every JSON type."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

SECRET = "THE-SECRET-OUTSIDE"

NAMES = {
    "up": "../secret.txt",
    "far up": "../../../../../../../../../../etc/passwd",
    "up inside": "a/../../secret.txt",
    "up at the end": "a/..",
    "only up": "..",
    "absolute": "/etc/passwd",
    "double slash": "//etc/passwd",
    "backslashes": "..\\..\\secret.txt",
    "mixed slashes": "..\\../secret.txt",
    "drive": "C:\\Windows\\win.ini",
    "drive with slash": "C:/Windows/win.ini",
    "share": "\\\\server\\share\\x",
    "file address": "file:///etc/passwd",
    "NUL": "a\0.png",
    "NUL after a good name": "in.png\0../secret.txt",
    "line break": "a\r\nX-Evil: 1",
    "overlong": "a" * 5000,
    "many folders": "a/" * 3000 + "x",
    "long name": "a" * 300 + ".png",
    "encoded": "%2e%2e%2fsecret.txt",
    "twice encoded": "%252e%252e%252fsecret.txt",
    "overlong UTF-8 of a dot": "%c0%ae%c0%ae/secret.txt",
    "full-width dots": "\uff0e\uff0e/secret.txt",
    "annotated": "../secret.txt [input]",
    "annotated output": "../../secret.txt [output]",
    "annotated odd": "x [../..]",
    "home": "~/secret.txt",
    "variable": "$HOME/secret.txt",
    "device": "nul",
    "device with extension": "con.txt",
    "stream": "a.txt::$DATA",
    "link": "link.txt",
    "link to a folder": "linked/secret.txt",
    "dots and spaces": ".. /secret.txt",
    "empty": "",
    "dot": ".",
}


def encoded() -> dict[str, str]:
    """The names as one segment of a path: encoded once, and twice where that differs."""
    found = {name: quote(text, safe="") for name, text in NAMES.items() if text}
    return found | {f"{name}, twice": quote(quote(text, safe=""), safe="") for name, text in NAMES.items() if text}


def deep(opening: str, closing: str, levels: int = 100_000) -> bytes:
    """JSON nested deeper than any parser's stack."""
    return (opening * levels + closing * levels).encode()


RAW: dict[str, bytes] = {
    "nothing": b"",
    "a space": b" ",
    "half an object": b"{",
    "half a text": b'{"a": "',
    "two values": b"{}{}",
    "not JSON": b"<xml/>",
    "NaN": b"NaN",
    "Infinity": b'{"number": Infinity, "clear": -Infinity}',
    "a huge number": b'{"number": 1e999999, "clear": 1e999999}',
    "a huge integer": b'{"number": ' + b"9" * 5000 + b"}",
    "deep lists": deep("[", "]"),
    "deep objects": deep('{"a":', "}")[:-1],
    "not UTF-8": b"\xff\xfe\x00",
    "overlong UTF-8": b'{"a": "\xc0\xae"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "half a pair": b'{"a": "\\ud800", "delete": ["\\udfff"]}',
    "a key twice": b'{"a": 1, "a": {}}',
    "NULs": b"\0" * 100,
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
}

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**63, -(2**70), 10**400, 1.5, -0.0, 1e308),
    *("", "x", "\0", "../x", "\u202e", "🦊" * 100, "a" * 70_000),
    *([], [[]], [None], ["x"], [1, 2, 3], ["x", 0], [["x"]], [{}], [True], ["1", 1.5], ["1", "0"], ["1", -1], [0, 0]),
    *({}, {"a": None}, {"": ""}, {"__value__": []}, {"a": {"a": {"a": []}}}),
)
"""Every JSON type, small, large and odd."""
ODD_NUMBERS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b'"\\ud800"', b'"\\udc00x"', b'["\\ud800"]')
"""Values that Python's parser takes, though JSON has none of them or they are no text."""


def bodies(fields: list[str], good: dict[str, Any]) -> list[bytes]:
    """A good body with every value in every field, one at a time; and in a field nobody knows."""
    made = []
    for field in [*fields, "no_such_field"]:
        rest = {name: value for name, value in good.items() if name != field}
        made += [json.dumps({**rest, field: value}).encode() for value in VALUES]
        head = json.dumps(rest).encode()[:-1] + (b", " if rest else b"")
        made += [head + json.dumps(field).encode() + b": " + value + b"}" for value in ODD_NUMBERS]
    return made
