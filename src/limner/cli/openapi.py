"""limner openapi: the API as a document."""

from __future__ import annotations

import json
from collections.abc import Iterator

from limner import __version__


def openapi() -> Iterator[str]:
    """Print the OpenAPI 3.1 document of the server's routes."""
    from limner.server.app import describe_routes

    yield json.dumps(describe_routes(__version__), indent=2)
