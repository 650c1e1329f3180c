"""Who may talk to the server: pages of its own origin, and programs that are not browsers.

A browser lets any page on the web send requests to a server on the same machine, so the server must look: at `Origin`
(who asks), at `Host` (who is asked; a foreign name that resolves to this machine is DNS rebinding) and at
`Sec-Fetch-Site` (what the browser thinks of the two).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from limner.errors import Forbidden

HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(:(?P<port>[0-9]{1,5}))?")
OPEN_UP = "Start with --enable-cors-header ORIGIN to let pages of another origin in."


@dataclass(frozen=True)
class Guard:
    """Decides from a request's headers.

    enabled: off under --enable-cors-header. loopback: the server listens on this machine alone, so that `Host` must
    name this machine. names: the configured listen names, which are fine as `Host` too.
    """

    enabled: bool = True
    loopback: bool = True
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, listen: str, cors: str | None) -> Guard:
        """The guard of a server that listens on these comma-separated addresses."""
        names = frozenset(part.strip().strip("[]").lower() for part in listen.split(",") if part.strip())
        return cls(cors is None, all(is_loopback(name) for name in names), names)

    def refusal(self, method: str, headers: Mapping[str, str]) -> Forbidden | None:
        """Why this request is refused, or None when it is not."""
        if not self.enabled:
            return None
        host = headers.get("Host")
        asked = split_host(host) if host is not None else None
        if host is not None and (asked is None or not self._serves(asked[0])):
            return Forbidden(
                f"The host {host!r:.80} is not served here.",
                why="The server listens on this machine only, so it must be asked by this machine's name.",
                do="Open it as http://127.0.0.1, or start with --listen and the name you use.",
            )
        origin = headers.get("Origin")
        if origin is not None and not (asked and same_origin(origin, asked)):
            return Forbidden(
                f"Requests of pages from {origin!r:.80} are refused.", why="It is another origin.", do=OPEN_UP
            )
        if headers.get("Sec-Fetch-Site") == "cross-site" and not _is_visit(method, headers):
            return Forbidden("Requests of pages from another site are refused.", do=OPEN_UP)
        return None

    def _serves(self, name: str) -> bool:
        return not self.loopback or is_loopback(name) or name in self.names


def _is_visit(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a person follows a link to the server: that reads nothing and changes nothing."""
    return (
        method in ("GET", "HEAD")
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest", "document") == "document"
    )


def is_loopback(name: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def split_host(host: str) -> tuple[str, int | None] | None:
    """Name and port of a `Host` header, the name in lower case without brackets; None when it is not one."""
    found = HOST.fullmatch(host)
    if found is None:
        return None
    port = int(found["port"]) if found["port"] else None
    return (found["name"].strip("[]").rstrip(".").lower(), port) if port is None or port < 65536 else None


def same_origin(origin: str, asked: tuple[str, int | None]) -> bool:
    """Whether an `Origin` header names the host that was asked.

    A `Host` without port fits any port, because a proxy in front may drop it; otherwise the ports must be equal.
    """
    scheme, _, rest = origin.partition("://")
    if scheme not in ("http", "https") or (found := split_host(rest)) is None:
        return False
    name, port = found
    usual = 443 if scheme == "https" else 80
    return name == asked[0] and (asked[1] is None or (port or usual) == asked[1])
