"""Control groups: how much memory a container or a service may take, and how much of that is left.

A process is in a group inside groups, and each may have a limit: the smallest counts. Version 2 has one tree, version 1
one for memory alone; a computer may have both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60
"""Version 1 writes a number near 2⁶³ where there is no limit."""


@dataclass(frozen=True)
class _Version:
    """Where a version mounts its tree below the mount point, and how its files are called."""

    folders: tuple[str, ...]
    limits: tuple[str, ...]
    usage: str
    reclaimable: tuple[str, ...]


# Above memory.high a process is slowed down until it hardly runs, so it is a limit as well.
_V2 = _Version(("", "unified"), ("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))
_V1 = _Version(
    ("memory",), ("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)


@dataclass(frozen=True)
class Group:
    """A group with a limit, in bytes. used: what its processes take, less file pages that can be dropped."""

    limit: int
    used: int


def limit(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int | None:
    """Bytes that this process and what shares its groups may take; None without a limit."""
    return min((group.limit for group in groups(mount, membership)), default=None)


def available(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int | None:
    """Bytes that are left until the first limit; None without one."""
    return min((max(0, group.limit - group.used) for group in groups(mount, membership)), default=None)


def groups(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> Iterator[Group]:
    """The groups with a limit that this process is in, of both versions.

    The path of a group is that of the host where a container sees only its own: then the mount point is the group, and
    what is not there is passed over.
    """
    for version, path in _memberships(membership):
        for folder in version.folders:
            for place in _places(mount / folder, path):
                group = _group(place, version)
                if group is not None:
                    yield group


def _memberships(file: Path) -> list[tuple[_Version, str]]:
    """The version and the group of each line `number:controllers:path`; the roots where the file is not there."""
    if not file.is_file():
        return [(_V2, "/"), (_V1, "/")]
    found = []
    for line in file.read_text(errors="replace").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found.append((_V2, path))
        elif "memory" in controllers.split(","):
            found.append((_V1, path))
    return found


def _places(root: Path, path: str) -> Iterator[Path]:
    """The folders from the root to a group. A group outside of what is mounted is written with `..`: the root alone."""
    yield root
    parts = PurePosixPath(path).parts[1:]
    if ".." in parts:
        return
    for length in range(1, len(parts) + 1):
        yield root.joinpath(*parts[:length])


def _group(place: Path, version: _Version) -> Group | None:
    limits = [number for name in version.limits if (number := _number(place / name)) is not None]
    least = min((one for one in limits if one < UNLIMITED), default=None)
    used = _number(place / version.usage)
    if least is None or used is None:
        return None
    return Group(least, max(0, used - _reclaimable(place / "memory.stat", version)))


def _number(file: Path) -> int | None:
    """The number in a file; None where it says `max` or cannot be read."""
    try:
        text = file.read_text().strip()
    except OSError:  # not there, or another's
        return None
    return int(text) if text.isdecimal() else None


def _reclaimable(stat: Path, version: _Version) -> int:
    try:
        text = stat.read_text()
    except OSError:
        return 0
    values = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line)
    return sum(int(values.get(name, 0)) for name in version.reclaimable)
