"""How long from a prompt's JSON to its end in the history, without HTTP?

budget: a chain of 500 StringTrim nodes and PreviewAny 0.1 s, 10 000 nodes 2 s, their cached re-run 0.5 s; one trivial
prompt alone 2.5 ms (median); a burst of 200 at 800 finished a second; planning 10 000 nodes 0.4 s. Durable queue on.
"""

import asyncio
import gc
import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import report
from limner.engine import Engine, NodeRegistry, calm_collector
from limner.engine.events import Event
from limner.graph import parse, plan
from limner.settings import Settings
from limner.store import Store

CHAINS = {500: 0.1, 1_000: 0.2, 10_000: 2.0}
CACHED = {500: 0.05, 10_000: 0.5}
SINGLE_MS, BURST = 2.5, 800


def chain(size: int, text: str) -> dict[str, Any]:
    made = {"0": {"class_type": "StringTrim", "inputs": {"string": text, "mode": "Both"}}}
    for i in range(1, size):
        made[str(i)] = {"class_type": "StringTrim", "inputs": {"string": [str(i - 1), 0], "mode": "Both"}}
    return made | {"end": {"class_type": "PreviewAny", "inputs": {"source": [str(size - 1), 0]}}}


class Client:
    """Counts prompts that are over, and makes each event's JSON as a socket would."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.left = 0
        self.over = asyncio.Event()
        engine.events.subscribe(self.hear)

    def hear(self, event: Event) -> None:
        json.dumps({"type": event.type, "data": event.data()})
        if event.type == "executing" and event.data()["node"] is None:
            self.left -= 1
            if self.left == 0:
                self.over.set()

    async def run(self, *texts: str) -> float:
        """Seconds until prompts, sent as JSON all at once, are over."""
        self.left = len(texts)
        self.over.clear()
        before = perf_counter()
        await asyncio.gather(*(self.engine.submit(json.loads(text)) for text in texts))
        await self.over.wait()
        return perf_counter() - before


def body(size: int, text: str) -> str:
    return json.dumps({"prompt": chain(size, text), "client_id": "bench"})


async def measure(engine: Engine) -> None:
    client = Client(engine)
    await client.run(body(1, "warm"))
    for size, budget in CHAINS.items():
        first, again = [], []
        for i in range(3):
            first.append(await client.run(body(size, f"{size}.{i}")))
            again.append(await client.run(body(size, f"{size}.{i}")))
        report("graph_chain", nodes=size, value=round(min(first), 4), unit="s", budget=budget)
        if size in CACHED:
            report("graph_chain cached", nodes=size, value=round(min(again), 4), unit="s", budget=CACHED[size])
    single = [await client.run(body(1, f"s{i}")) for i in range(300)]
    report("graph_chain single", value=round(statistics.median(single) * 1e3, 2), unit="ms", budget=SINGLE_MS)
    bursts = [200 / await client.run(*(body(1, f"b{r}.{i}") for i in range(200))) for r in range(5)]
    report("graph_chain burst", finished_per_s=round(max(bursts)), ratio=round(max(bursts) / BURST, 2), least=1.0)


async def main() -> None:
    calm_collector()  # as `limner serve` does
    registry = NodeRegistry.open()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(base_directory=str(Path(folder)))
        store = Store.open(settings)
        engine = Engine(settings, store, registry)
        await engine.start()
        await measure(engine)
        await engine.close()
        store.close()
    prompt = parse(chain(10_000, "x"), registry)
    best = min(_planned(prompt, registry) for _ in range(5))
    report("graph_chain plan", nodes=10_000, value=round(best, 4), unit="s", budget=0.4)


def _planned(prompt: Any, registry: NodeRegistry) -> float:
    gc.collect()
    before = perf_counter()
    plan(prompt, ["end"], registry)
    return perf_counter() - before


if __name__ == "__main__":
    asyncio.run(main())
