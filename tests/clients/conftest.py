from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.make import Live, live, sdk_folder


@pytest.fixture(scope="module")
def limner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("base")) as running:
        yield running


@pytest.fixture(scope="session")
def sdk() -> Path:
    return sdk_folder()
