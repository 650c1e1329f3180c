"""Metrics and probes."""

import asyncio
import contextlib
import re
import time

from aiohttp import web

from limner.server.metrics import BUCKETS, Metrics, sample
from limner.server.packs import PACKS
from tests.contract.jobs.make import BAD, only, served, shown

LINE = re.compile(r'[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? -?[0-9.e+-]+|# (HELP|TYPE) [a-z_]+ .+')


async def metrics(s):
    status, text = await s.get("/metrics")
    assert status == 200
    return text


def value(text, name):
    (found,) = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.rsplit(" ", 1)[0] == name]
    return float(found)


async def test_every_line_is_one_that_prometheus_reads(tmp_path):
    async with served(tmp_path) as s:
        await s.post("/prompt?wait=true", {"prompt": only("Quick", text="x")})
        async with s.client.get("/metrics") as reply:
            assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = (await metrics(s)).splitlines()
        assert [line for line in lines if not LINE.fullmatch(line)] == []
        kinds = [line.split()[2] for line in lines if line.startswith("# TYPE")]
        assert len(kinds) == len(set(kinds))


async def test_prompts_are_counted_by_how_they_ended(tmp_path):
    async with served(tmp_path) as s:
        for prompt in (only("Quick", text="x"), only("Quick", text="y"), BAD):
            await s.post("/prompt?wait=true", {"prompt": prompt})
        text = await metrics(s)
        assert value(text, 'limner_prompts_total{status="completed"}') == 2
        assert value(text, 'limner_prompts_total{status="failed"}') == 1
        assert value(text, 'limner_prompts_total{status="cancelled"}') == 0


async def test_queue_and_sockets_are_gauges(tmp_path):
    async with served(tmp_path) as s:
        await s.client.ws_connect("/ws")
        await s.queue(shown("Wait", text="x"), "a", client_id="me")
        await s.queue(only("Quick", text="x"), "b")
        await s.bench.until("executing")
        await s.post("/queue/pause")
        text = await metrics(s)
        assert value(text, 'limner_queue_prompts{state="running"}') == 1
        assert value(text, 'limner_queue_prompts{state="pending"}') == 1
        assert value(text, "limner_queue_paused") == 1
        assert value(text, "limner_sockets") == 1
        assert value(text, "process_resident_memory_bytes") > 1e6
        assert value(text, "process_start_time_seconds") <= time.time()


async def test_requests_are_counted_by_route_not_by_path(tmp_path):
    async with served(tmp_path) as s:
        for path in ("/history/a", "/api/history/b", "/nowhere/1", "/nowhere/2"):
            await s.get(path)
        await s.post("/prompt", {})
        text = await metrics(s)
        assert value(text, 'limner_http_requests_total{method="GET",route="/history/{prompt_id}",status="200"}') == 2
        assert value(text, 'limner_http_requests_total{method="POST",route="/prompt",status="400"}') == 1
        assert value(text, 'limner_http_request_seconds_count{route="/history/{prompt_id}"}') == 2
        assert "nowhere" not in text


def test_durations_fall_into_buckets_that_add_up():
    found = Metrics()
    for seconds in (0.0001, 0.001, 0.3, 99):
        found.observe("GET", "/x", 200, seconds)
    found.observe("BREW" * 1000, "/x", 405, 0)
    lines = list(found.lines())
    counts = [int(line.rsplit(" ", 1)[1]) for line in lines if "_bucket" in line]
    assert len(counts) == len(BUCKETS) + 1
    assert (counts[0], counts[-1]) == (3, 5)
    assert counts == sorted(counts)
    assert sum('method="other"' in line for line in lines) == 1


def test_labels_are_escaped():
    assert sample("x", {"class": 'a"b\\c\nd'}, 1) == 'x{class="a\\"b\\\\c\\nd"} 1'


async def test_a_server_is_alive_before_it_is_ready(tmp_path):
    async with served(tmp_path, started=False) as s:
        assert await s.get("/healthz") == (200, {"status": "ok"})
        status, found = await s.get("/api/readyz")
        assert (status, found) == (503, {"ready": False, "engine": False, "database": True, "packs": True})
        await s.bench.engine.start()
        assert (await s.get("/readyz"))[0] == 200
        await s.bench.engine.close()


async def test_a_server_whose_database_cannot_be_written_is_not_ready(tmp_path, monkeypatch):
    async with served(tmp_path) as s:
        writer = s.bench.engine.store.jobs._writer
        commit = writer._commit

        def full(changes):
            raise OSError("disk full")

        monkeypatch.setattr(writer, "_commit", full)
        status, found = await s.get("/readyz")
        assert (status, found["database"], found["engine"]) == (503, False, True)
        monkeypatch.setattr(writer, "_commit", commit)
        assert (await s.get("/readyz"))[0] == 200


async def test_a_server_is_ready_when_its_packs_are(tmp_path):
    async with served(tmp_path) as s:
        packs = s.client.app[PACKS]
        packs.report = lambda: {"ready": False}
        assert (await s.get("/readyz"))[0] == 503
        packs.report = lambda: {"ready": True}
        assert (await s.get("/readyz"))[0] == 200


async def test_a_client_that_leaves_is_counted_too(tmp_path):
    found = Metrics()
    from aiohttp.test_utils import make_mocked_request

    from limner.server.metrics import make_counter

    async def leaves(request):
        raise asyncio.CancelledError

    request = make_mocked_request("GET", "/x", app=web.Application())
    with contextlib.suppress(asyncio.CancelledError):
        await make_counter(found)(request, leaves)
    assert any('status="499"' in line for line in found.lines())


async def test_runs_and_seconds_of_nodes_are_counted_by_class_and_results_from_the_cache_too(tmp_path):
    async with served(tmp_path) as s:
        prompt = shown("Say", text="x")
        for _ in range(2):
            await s.post("/prompt?wait=true", {"prompt": prompt})
        text = await metrics(s)
        assert value(text, 'limner_node_runs_total{class="Say"}') == 1
        assert value(text, 'limner_node_seconds_total{class="Say"}') >= 0
        assert value(text, "limner_cache_hits_total") >= 1
        explained = (await s.get(f"/api/jobs/{(await s.get('/api/jobs'))[1]['jobs'][0]['id']}/explain"))[1]
        assert explained["nodes"]["2"]["cached"] is True
