"""Does a server under load lose anything, grow, or make others wait, and how fast are pages of a long history?

budget: 50 sockets and 1,000 queued prompts lose no event and no prompt; resident memory grows by at most 5 % over
10,000 prompts; a page of `/history` or `/api/jobs` among 100,000 finished prompts within 50 ms; one prompt beside a
socket that never reads takes at most three times as long as without; a running prompt is cancelled within 1 s.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import psutil

from benchmarks import report
from benchmarks.server import Client, fetch, running, trivial

SOCKETS, PROMPTS = 50, 1_000
LONG_RUN = 10_000
FINISHED = 100_000
EVENTS = ["execution_start", "execution_cached", "executing", "executed", "execution_success", "executing"]
STATES = ("status", "progress_state", "progress")


class Listener(Client):
    """A client that notes what it hears of each prompt."""

    async def listen(self, count: int) -> dict[str, list[str]]:
        heard: dict[str, list[str]] = {}
        over = 0
        while over < count:
            message = json.loads((await self.socket.receive()).data)
            if message["type"] in STATES:
                continue
            heard.setdefault(message["data"]["prompt_id"], []).append(message["type"])
            over += message["type"] == "executing" and message["data"]["node"] is None
        return heard


async def crowd(session: aiohttp.ClientSession, url: str) -> None:
    """50 sockets, 1,000 prompts at once."""
    each = PROMPTS // SOCKETS
    clients = [await Listener(session, url).__aenter__() for _ in range(SOCKETS)]
    start = perf_counter()
    tasks = [asyncio.create_task(client.listen(each)) for client in clients]
    posts = (client.post(trivial(f"{n} {i}")) for n, client in enumerate(clients) for i in range(each))
    ids = set(await asyncio.gather(*posts))
    heard = await asyncio.gather(*tasks)
    spent = perf_counter() - start
    whole = sum(kinds == EVENTS for one in heard for kinds in one.values())
    async with session.get(f"{url}/history?max_items={PROMPTS}") as reply:
        kept = ids & set(await reply.json())
    for client in clients:
        await client.__aexit__()
    report("crowd", sockets=SOCKETS, prompts=PROMPTS, value=PROMPTS - whole, budget=0, unit="prompts with a lost event",
           lost_prompts=PROMPTS - len(kept), finished_per_s=round(PROMPTS / spent))  # fmt: skip


async def long_run(client: Client, process: psutil.Process) -> None:
    """Resident memory before and after 10,000 prompts."""

    async def run(count: int, mark: str) -> None:
        for start in range(0, count, 100):
            task = asyncio.create_task(client.successes(100))
            await asyncio.gather(*(client.post(trivial(f"{mark} {start + i}")) for i in range(100)))
            await task

    await run(2_000, "warm")  # until every buffer, pool and page cache has been filled once
    before = process.memory_info().rss
    start = perf_counter()
    await run(LONG_RUN, "long")
    spent = perf_counter() - start
    after = process.memory_info().rss
    report("memory over 10,000 prompts", value=round(after / before, 3), budget=1.05, unit="of before",
           before_mb=round(before / 1e6, 1), after_mb=round(after / 1e6, 1), per_s=round(LONG_RUN / spent))  # fmt: skip


async def deaf_neighbour(session: aiohttp.ClientSession, url: str, client: Client) -> None:
    """One prompt alone, with and without a socket that is sent much and reads nothing."""

    async def median() -> float:
        return statistics.median([(await client.run(trivial(f"{perf_counter()}")))[0] for _ in range(100)]) * 1e3

    alone = await median()
    deaf = await session.ws_connect(f"{url}/ws?clientId=deaf", max_msg_size=0)
    deaf._response.connection.transport.pause_reading()  # type: ignore[union-attr]
    for i in range(30):
        big = {"1": {"class_type": "PreviewAny", "inputs": {"source": f"{i}" * 500_000}}}
        body = json.dumps({"prompt": big, "client_id": "deaf"})
        async with session.post(f"{url}/prompt?wait=true", data=body) as reply:
            assert reply.status == 200, await reply.text()
    beside = await median()
    deaf._response.close()
    report("beside a socket that never reads", value=round(beside / alone, 2), budget=3.0, unit="of alone",
           alone_ms=round(alone, 2), beside_ms=round(beside, 2))  # fmt: skip


async def cancels(session: aiohttp.ClientSession, url: str) -> None:
    """From the request to cancel a waiting prompt to its answer, with 1,000 prompts waiting."""
    async with session.post(f"{url}/api/queue/pause"):
        pass
    client = Client(session, url)
    ids = await asyncio.gather(*(client.post(trivial(f"waits {i}")) for i in range(PROMPTS)))
    times = []
    for prompt_id in ids[::20]:
        start = perf_counter()
        async with session.post(f"{url}/api/jobs/{prompt_id}/cancel") as reply:
            assert (await reply.json())["cancelled"]
        times.append((perf_counter() - start) * 1e3)
    async with session.post(f"{url}/queue", data='{"clear": true}'), session.post(f"{url}/api/queue/resume"):
        pass
    report("cancel one of 1,000 waiting prompts", value=round(max(times), 2), budget=1000, unit="ms, slowest of 50",
           median=round(statistics.median(times), 2))  # fmt: skip


async def under_load(url: str, process: psutil.Process) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await crowd(session, url)
        await cancels(session, url)
        async with Client(session, url) as client:
            await deaf_neighbour(session, url, client)
            await long_run(client, process)


def fill(file: Path, count: int) -> None:
    """Write finished jobs straight into a job database."""
    from limner.store.jobs import JobStore

    file.parent.mkdir(parents=True, exist_ok=True)
    JobStore.open(f"sqlite:///{file}").close()
    item = json.dumps([0, "p", trivial("x"), {"create_time": 1, "extra_pnginfo": {"workflow": {"id": "w"}}}, ["1"]])
    messages = [["execution_start", {"timestamp": 1}], ["execution_success", {"timestamp": 9}]]
    status = json.dumps({"status_str": "success", "completed": True, "messages": messages})
    shown = json.dumps({"1": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}})
    kinds = ["completed"] * 97 + ["failed"] * 2 + ["cancelled"]
    names = "id,prompt_id,number,status,attempts,workflow_id,create_time,start_time,end_time,finished,duration"
    rows = (
        (i, f"p{i}", str(i), kinds[i % 100], 1, f"w{i % 50}", i, i, i + i % 7, i, i % 7) for i in range(1, count + 1)
    )
    with sqlite3.connect(file) as database:
        database.executemany(f"insert into jobs({names}) values(?,?,?,?,?,?,?,?,?,?,?)", rows)
        database.executemany("insert into job_items(id,item) values(?,?)", ((i, item) for i in range(1, count + 1)))
        results = ((i, shown, "{}", status) for i in range(1, count + 1))
        database.executemany("insert into job_results(id,outputs,meta,status) values(?,?,?,?)", results)
    database.close()


PAGES = (
    "/history?max_items=64",
    "/history?max_items=200",
    "/history?max_items=200&offset=50000",
    "/history?max_items=200&offset=99800",
    "/history/p77777",
    "/api/jobs?status=completed,failed,cancelled&limit=200&offset=0",
    "/api/jobs?limit=200&offset=50000",
    "/api/jobs?limit=200&offset=99800",
    "/api/jobs?status=failed&limit=200",
    "/api/jobs?sort_by=execution_duration&limit=200&offset=50000",
    "/api/jobs?workflow_id=w7&limit=200",
    "/api/jobs/p77777",
)


async def pages(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for path in (*PAGES, "/history"):
            times = []
            for _ in range(9):
                start = perf_counter()
                async with session.get(url + path) as reply:
                    size = len(await reply.read())
                    assert reply.status == 200
                times.append((perf_counter() - start) * 1e3)
            # All of /history is the newest 10,000 entries, megabytes: told without a budget.
            limit: dict[str, Any] = {"budget": 50} if path != "/history" else {}
            report("page", path=path, finished=FINISHED, value=round(statistics.median(times), 1), **limit, unit="ms",
                   slowest=round(max(times), 1), bytes=size)  # fmt: skip


def main() -> None:
    with running() as (url, process, _):
        fetch(f"{url}/system_stats")
        asyncio.run(under_load(url, psutil.Process(process.pid)))
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "user" / "limner.db", FINISHED)
        with running(folder) as (url, _, start):
            fetch(f"{url}/healthz")
            report("start", finished=FINISHED, value=round(perf_counter() - start, 2), unit="s")
            asyncio.run(pages(url))


if __name__ == "__main__":
    sys.exit(main())
