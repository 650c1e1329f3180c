from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.make import Live, live
from tests.frontend.make import REQUIRED, Page, browser, chromium, front_ends, missing, opened, starter_in


# Not for the session: while Playwright is up it keeps an event loop running in this thread, which no other test wants.
@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    try:
        import playwright  # noqa: F401
    except ImportError:
        missing("Playwright", REQUIRED)
    chromium()
    with browser() as made:
        yield made


@pytest.fixture(scope="module", params=front_ends().values(), ids=front_ends().keys())
def limner(request: pytest.FixtureRequest, chrome: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = tmp_path_factory.mktemp("base")
    starter_in(base)
    with live(base, *request.param) as running:
        yield running


@pytest.fixture
def page(chrome: Any, limner: Live) -> Iterator[Page]:
    with opened(chrome, limner) as made:
        yield made
