"""How many small jobs a second does the durable queue take from acceptance to history, and how long does one wait?

budget: 1 500 lifecycles (add, start, finish) a second with 200 adds at once; 0.7 ms for one add alone (median).
"""

import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

from limner.store.jobs import JobStore
from limner.store.records import JobRecord

ROUNDS = 10
BURST = 200
PROMPT = {
    str(i): {"class_type": "StringTrim", "inputs": {"string": [str(i - 1), 0] if i else " x ", "mode": "Both"}}
    for i in range(5)
}
STATUS = {"status_str": "success", "completed": True, "messages": [["execution_start", {"timestamp": 1}]]}


async def lifecycle(store: JobStore, prompt_id: str, number: int) -> None:
    await store.add(JobRecord(prompt_id, number, PROMPT, {"create_time": 1}, ["4"], 1))
    store.start(prompt_id)
    await store.finish(prompt_id, "completed", {"4": {"text": ["x"]}}, {"4": {"node_id": "4"}}, STATUS)


async def measure(store: JobStore) -> tuple[float, float]:
    best = 0.0
    for r in range(ROUNDS):
        before = perf_counter()
        await asyncio.gather(*(lifecycle(store, f"b{r}-{i}", i) for i in range(BURST)))
        best = max(best, BURST / (perf_counter() - before))
    single = []
    for i in range(300):
        before = perf_counter()
        await store.add(JobRecord(f"s{i}", i, PROMPT, {"create_time": 1}, ["4"], 1))
        single.append((perf_counter() - before) * 1e3)
        await store.finish(f"s{i}", "completed")
    return best, statistics.median(single)


def main() -> None:
    for synchronous in ("normal", "full"):
        with tempfile.TemporaryDirectory() as folder:
            before = perf_counter()
            store = JobStore.open(f"sqlite:///{Path(folder) / 'jobs.db'}", synchronous)
            opened = (perf_counter() - before) * 1e3
            rate, alone = asyncio.run(measure(store))
            before = perf_counter()
            text = store.history_text(64)
            read = (perf_counter() - before) * 1e3
            store.close()
        print(
            json.dumps(
                {
                    "benchmark": "jobs",
                    "synchronous": synchronous,
                    "lifecycles_per_s": round(rate),
                    "budget_per_s": 1500,
                    "add_ms_median": round(alone, 3),
                    "budget_ms": 0.7 if synchronous == "normal" else None,  # full waits for the disk
                    "open_new_ms": round(opened, 1),
                    "history_64_ms": round(read, 2),
                    "history_64_bytes": len(text),
                }
            )
        )


if __name__ == "__main__":
    main()
