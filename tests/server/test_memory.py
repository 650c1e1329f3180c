"""Where the memory is, before and after something was loaded; and memory given back."""

from __future__ import annotations

import subprocess
import sys

from limner.server.routes.memory import KINDS, before_loading
from tests.server.make import Running


async def test_before_anything_is_loaded_the_system_is_told(here: Running) -> None:
    status, told = await here.get("/api/memory")

    assert (status, told["ready"], told["runs"]) == (200, False, [])
    cpu = told["devices"][0]
    assert (cpu["device"], cpu["cap"]) == ("cpu", None)
    assert 0 < cpu["process"] < cpu["total"]
    assert cpu["rows"] == [{"kind": "baseline", "bytes": cpu["process"]}]


def test_a_gpu_is_told_beside_the_processor() -> None:
    gpu = {"type": "cuda", "index": 0, "name": "cuda:0 X", "vram_total": 9, "vram_free": 7}

    found = before_loading([gpu])["devices"]

    assert [one["device"] for one in found] == ["cpu", "cuda:0"]
    assert (found[1]["total"], found[1]["free"], found[1]["process"], found[1]["rows"]) == (9, 7, 0, [])


async def test_what_the_engine_knows_is_told_as_it_is(here: Running) -> None:
    here.engine.memory = {"ready": True, "devices": [], "runs": []}

    assert await here.get("/memory") == (200, here.engine.memory)


async def test_the_document_names_every_kind_of_row(here: Running) -> None:
    _, document = await here.get("/openapi.json")

    answer = document["paths"]["/memory"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    row = answer["properties"]["devices"]["items"]["properties"]["rows"]["items"]
    assert row["properties"]["kind"]["enum"] == list(KINDS)


async def test_how_long_freeing_may_take_is_in_the_document(here: Running) -> None:
    _, document = await here.get("/openapi.json")

    told = document["paths"]["/free"]["post"]
    assert "30 seconds at most" in " ".join(f"{told['summary']} {told.get('description', '')}".split())


def test_the_route_needs_no_torch() -> None:
    code = (
        "import sys; from limner.server.routes.memory import before_loading;"
        "before_loading([]); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
