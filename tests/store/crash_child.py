"""A process that works a queue until it is killed: `python -m tests.store.crash_child DATABASE PREFIX`.

It prints a line for every prompt once it is accepted, and runs whatever is unfinished meanwhile.
"""

from __future__ import annotations

import asyncio
import sys

from limner.store.jobs import JobStore
from tests.store.make import finished_status, record


async def main(url: str, prefix: str) -> None:
    store = JobStore.open(url)
    queue = [found.prompt_id for found in store.load_unfinished()]

    async def accept() -> None:
        for i in range(10_000):
            name = f"{prefix}-{i}"
            await store.add(record(name, i))
            print(name, flush=True)
            queue.append(name)

    async def work() -> None:
        while True:
            if queue:
                name = queue.pop(0)
                store.start(name)
                await asyncio.sleep(0)
                store.finish(name, "completed", {"1": {"text": [name]}}, {}, finished_status(1, 2))
            await asyncio.sleep(0)

    await asyncio.gather(accept(), work())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
