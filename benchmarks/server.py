"""How soon does the server answer, how fast do small prompts go through it, and how do long ones?

Against ComfyUI on a machine of this kind (measured when this project began): ready 9.3 to 11.0 s and 513 MB; a chain of
500 nodes 6.0 to 7.6 s, 1,000 refused; 605 trivial prompts a second, held in memory only; one alone 2.0 ms.
budget: ready 1.0 s and 100 MB; 500 nodes 0.1 s, 10,000 nodes 2 s, again from the cache 0.5 s; 800 prompts a second
with the durable queue on; one alone 2.5 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator
from time import perf_counter, sleep
from typing import Any

import aiohttp
import psutil

from benchmarks import report

COMMAND = [sys.executable, "-m", "limner", "serve"]
COMFY = {"ready_s": 9.3, "rss_mb": 513, "chain_500_s": 6.0, "per_s": 605, "single_ms": 2.0}
BURST = 200


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def running(base: str | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A server of its own, its process, and when it was started. base: its folder, a new one by default."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        start = perf_counter()
        command = [*COMMAND, "--port", str(port), "--base-directory", base or folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield f"http://127.0.0.1:{port}", process, start
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def fetch(url: str, patience: float = 30) -> bytes:
    """The body, asked for until the server is there."""
    until = perf_counter() + patience
    while perf_counter() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(url) as reply:
            return bytes(reply.read())
        sleep(0.005)
    raise TimeoutError(f"{url} did not answer in {patience} s.")


def ready() -> None:
    times: dict[str, list[float]] = {"system_stats": [], "object_info": []}
    sizes, kinds = [], 0
    for _ in range(3):
        with running() as (url, process, start):
            fetch(f"{url}/system_stats")
            times["system_stats"].append(perf_counter() - start)
            kinds = len(json.loads(fetch(f"{url}/object_info")))
            times["object_info"].append(perf_counter() - start)
            sizes.append(psutil.Process(process.pid).memory_info().rss / 1e6)
    for name, found in times.items():
        best = min(found)
        report("server ready", answer=name, value=round(best, 3), budget=1.0, unit="s",
               comfyui=COMFY["ready_s"], times_faster=round(COMFY["ready_s"] / best, 1), kinds=kinds)  # fmt: skip
    report("server size", value=round(min(sizes), 1), budget=100, unit="MB", comfyui=COMFY["rss_mb"])


def chain(length: int) -> dict[str, Any]:
    """StringTrim after StringTrim, the last into PreviewAny."""
    prompt: dict[str, Any] = {
        str(i): {"class_type": "StringTrim", "inputs": {"string": [str(i - 1), 0] if i else "  x  ", "mode": "Both"}}
        for i in range(length)
    }
    prompt["end"] = {"class_type": "PreviewAny", "inputs": {"source": [str(length - 1), 0]}}
    return prompt


def trivial(text: str) -> dict[str, Any]:
    return {"1": {"class_type": "PreviewAny", "inputs": {"source": text}}}


class Client:
    """One client with one socket: posts prompts and hears how they end."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url, self.sid = session, url, uuid.uuid4().hex

    async def __aenter__(self) -> Client:
        self.socket = await self.session.ws_connect(f"{self.url}/ws?clientId={self.sid}", max_msg_size=0)
        await self.socket.receive()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()

    async def post(self, prompt: dict[str, Any]) -> str:
        body = json.dumps({"prompt": prompt, "client_id": self.sid}).encode()
        async with self.session.post(f"{self.url}/prompt", data=body) as reply:
            answer = await reply.json()
            assert reply.status == 200, answer
            return str(answer["prompt_id"])

    async def successes(self, count: int) -> dict[str, int]:
        """Read until so many prompts succeeded; how many messages of each type came."""
        seen: dict[str, int] = {}
        while seen.get("execution_success", 0) < count:
            message = await self.socket.receive()
            assert message.type is aiohttp.WSMsgType.TEXT, message
            kind = json.loads(message.data)["type"]
            assert kind not in ("execution_error", "execution_interrupted"), message.data[:500]
            seen[kind] = seen.get(kind, 0) + 1
        return seen

    async def run(self, prompt: dict[str, Any]) -> tuple[float, dict[str, int]]:
        """Seconds from POST to execution_success, and what was heard meanwhile."""
        start = perf_counter()
        await self.post(prompt)
        seen = await self.successes(1)
        spent = perf_counter() - start
        return spent, seen


async def chains(client: Client) -> None:
    await client.run(chain(3))  # the node modules are imported once
    budgets = {500: 0.1, 1_000: 0.2, 10_000: 2.0}
    for length, budget in budgets.items():
        best, seen = min([await client.run(_fresh(length, turn)) for turn in range(3)], key=lambda one: one[0])
        comfy = {"comfyui": COMFY["chain_500_s"], "times_faster": round(COMFY["chain_500_s"] / best, 1)}
        report("chain", nodes=length, value=round(best, 4), budget=budget, unit="s",
               messages=sum(seen.values()), states=seen.get("progress_state", 0),
               **(comfy if length == 500 else {"comfyui": "refused"}))  # fmt: skip
    again, _ = min([await client.run(_fresh(10_000, 2)) for _ in range(3)], key=lambda one: one[0])
    report("chain again, cached", nodes=10_000, value=round(again, 4), budget=0.5, unit="s")


def _fresh(length: int, turn: int) -> dict[str, Any]:
    made = chain(length)
    made["0"]["inputs"]["string"] = f" {turn} "
    return made


async def small(client: Client) -> None:
    times = [(await client.run(trivial(f"single {i}")))[0] * 1e3 for i in range(300)]
    report("one prompt alone", value=round(statistics.median(times), 3), budget=2.5, unit="ms",
           p99=round(sorted(times)[-4], 2), comfyui=COMFY["single_ms"])  # fmt: skip
    rates, waits = [], []
    for turn in range(5):
        start = perf_counter()

        async def post(i: int, start: float = start, turn: int = turn) -> float:
            await client.post(trivial(f"burst {turn} {i}"))
            return perf_counter() - start

        heard = asyncio.create_task(client.successes(BURST))
        waits += await asyncio.gather(*(post(i) for i in range(BURST)))
        await heard
        rates.append(BURST / (perf_counter() - start))
    best = max(rates)
    report("burst of trivial prompts", prompts=BURST, per_s=round(best), ratio=round(best / 800, 2), least=1.0,
           accepted_p99_s=round(sorted(waits)[-len(waits) // 100], 3), comfyui=COMFY["per_s"],
           median_per_s=round(statistics.median(rates)))  # fmt: skip


async def measure(url: str) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, Client(session, url) as client:
        await small(client)
        await chains(client)


def main() -> None:
    ready()
    with running() as (url, _, _start):
        fetch(f"{url}/system_stats")
        asyncio.run(measure(url))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
