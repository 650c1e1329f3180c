"""limner serve: the API, the sockets and the web front end."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, cast

from limner.cli.assemble import Parts, assembled
from limner.compat.side import ServerSide
from limner.engine import calm_collector
from limner.server.logs import LogFile, LogRing, RingHandler, Tee
from limner.settings import Settings
from limner.store import folders_of

if TYPE_CHECKING:
    from typing import TextIO

log = logging.getLogger(__name__)

QUIET_SECONDS = 2.0
"""How long the queue must have been empty before node modules are imported in the background."""


def serve(settings: Settings) -> None:
    """Serve ComfyUI's API and web front end.

    Flags are ComfyUI's. Each is also a variable (LIMNER_PORT) and a key of limner.toml.
    """
    from limner.server.run import serve as run_server

    ring = LogRing()
    start_logging(settings, ring)
    ring.listen(LogFile(folders_of(settings)["user"]).write)
    for name, reason in settings.idle().items():
        log.warning("--%s changes nothing: %s", name.replace("_", "-"), reason)
    calm_collector()
    with assembled(settings) as parts:
        preload = threading.Thread(target=import_nodes_when_quiet, args=(parts,), daemon=True)
        packs = ServerSide(parts.compat)
        start = preload.start
        asyncio.run(run_server(settings, parts.engine, parts.store, logs=ring, on_first_client=start, packs=packs))


def start_logging(settings: Settings, ring: LogRing) -> None:
    """Log to standard error, or to standard output with --log-stdout, and into the ring that the front end shows."""
    sys.stdout = cast("TextIO", Tee(sys.stdout, ring))
    terminal = logging.StreamHandler(sys.__stdout__ if settings.log_stdout else sys.__stderr__)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=settings.verbose, handlers=[terminal, RingHandler(ring)], force=True)


def import_nodes_when_quiet(parts: Parts) -> None:
    """Import torch and the node modules once nothing runs, so that the first picture need not wait for them."""
    parts.compat.packs.ready.wait()  # prestartup scripts come before torch
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET_SECONDS:
        time.sleep(0.1)
        if parts.engine.queue.remaining():
            quiet_since = time.monotonic()
    parts.engine.preload()
