"""Listening: sockets, TLS, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import webbrowser
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from aiohttp import web

from limner.errors import BadInput, LimnerError
from limner.server.app import make_app
from limner.server.packs import NoPacks, PackSide
from limner.server.security import is_loopback

if TYPE_CHECKING:
    from ssl import SSLContext

    from limner.engine import Engine
    from limner.server.keys import DeviceProbe
    from limner.server.logs import LogRing
    from limner.settings import Settings
    from limner.store import Store

log = logging.getLogger(__name__)

GOODBYE = 2.0
"""Seconds that open connections are given at the end."""


async def serve(
    settings: Settings,
    engine: Engine,
    store: Store,
    *,
    logs: LogRing | None = None,
    devices: DeviceProbe | None = None,
    on_first_client: Callable[[], None] | None = None,
    packs: PackSide | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve on all addresses until SIGINT or SIGTERM, then end in order. Starts the engine, and closes it.

    say: is given the two lines that tell where the server is. Other arguments: see `make_app`.

    Raises BadInput for TLS files that do not fit, LimnerError when no address can be listened on.
    """
    tls = make_tls(settings)
    packs = packs or NoPacks()
    app = make_app(settings, engine, store, logs=logs, devices=devices, on_first_client=on_first_client, packs=packs)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=GOODBYE)
    await runner.setup()
    with asked_to_stop() as stop:
        try:
            addresses = await listen(runner, settings, tls)
            packs.start()
            if engine.queue.remaining():
                await packs.wait()  # what was left in the queue may need them
            await engine.start()
            if not settings.dont_print_server:
                say("Starting server\n")
                for address in addresses:
                    say(f"To see the GUI go to: {address}")
            if settings.auto_launch:
                await asyncio.to_thread(webbrowser.open, addresses[0].replace("0.0.0.0", "127.0.0.1"))  # noqa: S104
            if settings.quick_test_for_ci:
                await packs.wait()
            else:
                await stop.wait()
        finally:
            await runner.cleanup()
            await engine.close()


def make_tls(settings: Settings) -> SSLContext | None:
    """The TLS context, None when the server speaks plain HTTP. Raises BadInput when it cannot be made."""
    key, certificate = settings.tls_keyfile, settings.tls_certfile
    if not key and not certificate:
        return None
    if not key or not certificate:
        raise BadInput("TLS needs two files.", do="Give both --tls-keyfile and --tls-certfile.")
    from ssl import PROTOCOL_TLS_SERVER, SSLContext, SSLError  # noqa: PLC0415 - slow, and rarely needed

    context = SSLContext(PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, SSLError) as error:
        raise BadInput(f"{certificate} and {key} cannot be used for TLS.", why=str(error)) from error
    return context


async def listen(runner: web.AppRunner, settings: Settings, tls: SSLContext | None) -> list[str]:
    """Listen on every address and return the addresses to open in a browser.

    An address family that this machine lacks is left out as long as another address works.
    """
    found = []
    port = settings.port
    for host in [part.strip().strip("[]") for part in settings.listen.split(",") if part.strip()]:
        site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and "," in settings.listen:
                log.warning("Not listening on %s: %s", host, error.strerror)
                continue
            raise _cannot_listen(host, port, error) from error
        # Port 0 means any free port: every address then gets the one that the first was given.
        port = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        found.append(f"{'https' if tls else 'http'}://{shown}:{port}")
        if not is_loopback(host):
            log.info("%s can be reached from other machines: whoever reaches it can use it.", shown)
    if not found:
        raise LimnerError(f"Nothing to listen on: {settings.listen!r}.", do="Check --listen.")
    return found


def _cannot_listen(host: str, port: int, error: OSError) -> LimnerError:
    if error.errno == errno.EADDRINUSE:
        return LimnerError(
            f"Port {port} of {host} is taken.",
            why="Another program, perhaps another Limner, listens there.",
            do="Choose another with --port.",
        )
    why = "No such address." if isinstance(error, socket.gaierror) else f"{error.strerror or error}."
    return LimnerError(f"Cannot listen on {host}, port {port}.", why=why, do="Check --listen and --port.")


@contextlib.contextmanager
def asked_to_stop() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set. A second signal ends the process the hard way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def ask(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    handled = []
    for number in signals:
        # Not on Windows, and not outside the main thread.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, ask, number)
            handled.append(number)
    try:
        yield stop
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
