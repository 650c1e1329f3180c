"""HTTP and WebSocket: the API that ComfyUI's clients speak, and its web front end. Routes are values. Free of torch."""

from limner.server.app import make_app
from limner.server.keys import DEVICES, ENGINE, HUB, LOGS, SETTINGS, STORE, Route
from limner.server.logs import LogRing, RingHandler, Tee
from limner.server.run import serve

__all__ = [
    "DEVICES",
    "ENGINE",
    "HUB",
    "LOGS",
    "SETTINGS",
    "STORE",
    "LogRing",
    "RingHandler",
    "Route",
    "Tee",
    "make_app",
    "serve",
]
