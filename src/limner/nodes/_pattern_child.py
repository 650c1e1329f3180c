"""Regular expressions, in a process of their own: reads one request a line, answers with one line. Run by patterns.py.

A pattern may take longer than anyone wants to wait, and while it runs nothing else in its process does; here that is
only this process, which can be ended. It imports nothing of the package, so that it starts in some ten milliseconds.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import sys
from collections.abc import Callable

LONGEST = 3600
"""Seconds after which a pattern is given up with its process, should whoever asked be gone without ending it."""


def match(string: str, pattern: str, flags: int) -> bool:
    """Whether the pattern is found anywhere; a pattern that is no pattern is never found."""
    try:
        return re.search(pattern, string, flags) is not None
    except re.error:
        return False


def extract(string: str, pattern: str, flags: int, mode: str, group: int) -> str | None:
    """What RegexExtract gives; LookupError when a group that All Groups asks for is missing in a match."""
    try:
        compiled = re.compile(pattern, flags)
    except re.error:
        return ""
    first = compiled.search(string)
    if first is None:
        return ""
    if mode == "First Match":
        return first.group()
    if mode == "First Group":
        return first.group(group) if group <= compiled.groups else ""
    found = compiled.finditer(string)
    if mode == "All Matches":
        return "\n".join(one.group(min(compiled.groups, 1)) or "" for one in found)
    groups = [one.group(group) for one in found] if compiled.groups >= max(group, 1) else []
    if None in groups:
        raise LookupError(f"group {group} is missing in a match")
    return "\n".join(groups)


def replace(string: str, pattern: str, flags: int, replacement: str, count: int) -> str:
    """Every match replaced, or the first `count`; raises re.error or IndexError for what is no pattern."""
    return re.sub(pattern, replacement, string, count=count, flags=flags)


WORK: dict[str, Callable[..., object]] = {"match": match, "extract": extract, "replace": replace}


def main() -> None:
    """Answer until nobody asks any more."""
    nowhere = open(os.devnull, "w")  # noqa: PTH123, SIM115 - open as long as the process
    for line in sys.stdin:
        name, arguments = json.loads(line)
        faulthandler.dump_traceback_later(LONGEST, exit=True, file=nowhere)  # a timer that needs no turn of ours
        try:
            answer = {"value": WORK[name](*arguments)}
        except (re.error, LookupError, OverflowError, RecursionError, MemoryError) as error:
            answer = {"error": str(error) or type(error).__name__}
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
