from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.make import Running, server


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Running]:
    async with server(tmp_path) as running:
        yield running
