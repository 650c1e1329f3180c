"""`kill -9` at any moment: what was acknowledged ends exactly once in the history."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Server

ROUNDS = 20
PROMPTS = 50
NODES = 60  # of each prompt, so that a queue of them takes about a second


def chain(text: str) -> dict[str, Any]:
    """A prompt of many small nodes that no cache knows."""
    graph: dict[str, Any] = {"0": {"class_type": "StringTrim", "inputs": {"string": text, "mode": "Both"}}}
    for number in range(1, NODES):
        inputs = {"string_a": [str(number - 1), 0], "string_b": str(number), "delimiter": " "}
        graph[str(number)] = {"class_type": "StringConcatenate", "inputs": inputs}
    graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": [str(NODES - 1), 0]}}
    return graph


def post_all(server: Server, texts: list[str], accepted: list[str]) -> None:
    """Post until the server is gone; only what was acknowledged counts."""
    with contextlib.suppress(OSError, ValueError):
        for text in texts:
            accepted.append(server.post("/prompt", {"prompt": chain(text)})["prompt_id"])


@pytest.mark.xdist_group("durability")
def test_every_accepted_prompt_ends_once_although_the_server_is_killed_twenty_times(tmp_path: Path) -> None:
    moments = random.Random(11)
    accepted: list[str] = []
    interrupted = 0
    server = Server(tmp_path).wait()
    try:
        for turn in range(ROUNDS):
            texts = [f"{turn}.{number}" for number in range(PROMPTS)]
            poster = threading.Thread(target=post_all, args=(server, texts, accepted))
            before = len(accepted)
            poster.start()
            time.sleep(moments.uniform(0.0, 0.6))
            server.kill()
            poster.join()
            server = Server(tmp_path, port=server.port).wait()
            interrupted += len(accepted) - before < PROMPTS
        server.until_idle()
        history = server.get("/history")
    finally:
        server.stop()
    assert len(set(accepted)) == len(accepted)
    assert set(accepted) <= set(history)
    assert {history[prompt]["status"]["status_str"] for prompt in accepted} == {"success"}
    assert interrupted > ROUNDS // 4, "the kills came too late to prove anything"
    # A prompt may have been committed without its acknowledgement getting through, at most one a kill.
    assert len(history) - len(accepted) <= ROUNDS
