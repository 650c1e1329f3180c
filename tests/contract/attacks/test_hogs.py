"""A node that takes the processor for itself stops neither HTTP nor its own cancellation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.refusals.server import Live, live_server

PACK = '''
import re
import time

class Busy:
    """Computes in plain Python, and asks nobody whether to go on."""
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 60.0, "max": 600.0})}}
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    def run(self, seconds):
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            number += 1
        return {}

NODE_CLASS_MAPPINGS = {"BusyTest": Busy}
'''
FLAGS = {"case_insensitive": False, "multiline": False, "dotall": False}
RUNAWAY = {"string": "a" * 40 + "!", "regex_pattern": "(a+)+$", **FLAGS}
HOGS: dict[str, dict[str, Any]] = {
    "a busy loop": {"1": {"class_type": "BusyTest", "inputs": {"seconds": 60.0}}},
    "a runaway pattern that extracts": {
        "1": {"class_type": "RegexExtract", "inputs": {**RUNAWAY, "mode": "First Match", "group_index": 1}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    },
    "a runaway pattern that matches": {
        "1": {"class_type": "RegexMatch", "inputs": RUNAWAY},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    },
    "a runaway pattern that replaces": {
        "1": {"class_type": "RegexReplace", "inputs": {**RUNAWAY, "replace": "x"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    },
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = tmp_path_factory.mktemp("hogs")
    (base / "custom_nodes" / "busy").mkdir(parents=True)
    (base / "custom_nodes" / "busy" / "__init__.py").write_text(PACK)
    with live_server(base) as running:
        yield running


def running(live: Live, prompt_id: str) -> None:
    """Return once the prompt runs."""
    deadline = time.monotonic() + 30
    while prompt_id not in [item[1] for item in live.get("/queue").json()["queue_running"]]:
        assert time.monotonic() < deadline, "it did not start"
        assert prompt_id not in live.get(f"/history/{prompt_id}").json(), live.get(f"/history/{prompt_id}").text[:2000]
        time.sleep(0.01)


@pytest.mark.parametrize("hog", HOGS, ids=lambda one: one.replace(" ", "_"))
def test_http_goes_on_and_the_prompt_can_be_cancelled(live: Live, hog: str) -> None:
    reply = live.post("/prompt", {"prompt": HOGS[hog]})
    assert reply.status == 200, reply.text
    prompt_id = reply.json()["prompt_id"]
    running(live, prompt_id)

    waits = []
    for path in ("/queue", "/system_stats", "/history", "/api/jobs") * 5:
        start = time.monotonic()
        assert live.get(path).status == 200
        waits.append(time.monotonic() - start)
    assert sorted(waits)[len(waits) // 2] < 2.5, "half of the requests are answered in a fraction of that"

    start = time.monotonic()
    assert live.post(f"/api/jobs/{prompt_id}/cancel", {}).json() == {"cancelled": True}
    entry = live.finished(prompt_id, 20)
    assert time.monotonic() - start < 5, "a second is what is promised; machines of tests are slow"
    kind, data = entry["status"]["messages"][-1]
    assert (kind, data["node_id"]) == ("execution_interrupted", "1")


def test_the_next_prompt_runs(live: Live) -> None:
    prompt_id = live.post("/prompt", {"prompt": {"1": {"class_type": "BusyTest", "inputs": {"seconds": 0.0}}}}).json()

    assert live.finished(prompt_id["prompt_id"])["status"]["status_str"] == "success"
