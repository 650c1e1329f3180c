"""Files and values of another family are refused by the node that is given them, with what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.refusals.models import MISPLACED, Misplaced, write_models
from tests.refusals.server import Live, live_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = tmp_path_factory.mktemp("misplaced")
    write_models(base)
    with live_server(base, offline=True, cpu=True, force_fp32=True) as live:
        yield live


@pytest.mark.parametrize("misplaced", MISPLACED, ids=lambda one: one.name)
def test_what_does_not_belong_is_refused_by_the_node_that_is_given_it(server: Live, misplaced: Misplaced) -> None:
    reply = server.post("/prompt", {"prompt": misplaced.graph()}).json()
    assert not reply["node_errors"], reply
    kind, data = server.finished(reply["prompt_id"])["status"]["messages"][-1]
    assert kind == "execution_error"
    assert (data["node_type"], data["exception_type"]) == (misplaced.node, f"limner.errors.{misplaced.error}"), data
    message = data["exception_message"]
    assert [word for word in misplaced.says if word not in message] == [], message
