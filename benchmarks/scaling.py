"""How the pool scales: calls that wait in its queue, and workers that are opened at once.

    python -m benchmarks.scaling

The first table should show the same time for a call whatever the number of calls, memory that
grows by the tasks and no more, and calls that end in the order in which they were made. The
second, on a server behind a network of 1 ms, should show that N workers do not take N times as
long to connect as one.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from typing import Any

from benchmarks.contenders.ours import Ours
from benchmarks.databases import delayed, postgresql_target, sqlite_target

CALLS = (100, 1_000, 10_000)
WORKERS = (1, 10, 100)
POOL_SIZE = 10


async def queue(address: dict[str, Any], calls: int, traced: bool = False) -> dict[str, float]:
    """Make so many calls at once; return what one took, and in what order they ended."""
    contender, ended = Ours(address, "", POOL_SIZE), list[int]()
    await contender.open()

    async def call(number: int) -> None:
        await contender.get(number % 1_000 + 1)
        ended.append(number)

    await call(0)
    ended.clear()
    gc.collect()
    if traced:
        tracemalloc.start()
    began = time.perf_counter()
    await asyncio.gather(*map(call, range(calls)))
    seconds = time.perf_counter() - began
    memory = tracemalloc.get_traced_memory()[1] if traced else 0
    tracemalloc.stop()
    await contender.close()
    # With several workers, neighbours may end in any order.
    furthest = max(abs(number - place) for place, number in enumerate(ended))
    return {"us": seconds / calls * 1e6, "kb": memory / calls / 1024, "furthest": furthest}


async def connect(address: dict[str, Any], workers: int) -> float:
    """Return in how many seconds so many workers have connected, all asked for at once."""
    contender, here, everybody = Ours(address, "psycopg2", workers), 0, asyncio.Event()
    contender.make()

    async def hold() -> None:
        nonlocal here
        async with contender.db.connection_context():
            await contender.db.run(lambda: None)
            here += 1
            if here == workers:
                everybody.set()
            await everybody.wait()

    began = time.perf_counter()
    await asyncio.gather(*(hold() for _ in range(workers)))
    seconds = time.perf_counter() - began
    await contender.close()
    return seconds


def main() -> None:
    print("| calls at once | us for a call | peak KB for a call | furthest from its place |")
    print("|---:|---:|---:|---:|")
    with sqlite_target() as target:
        target.read_all(1_000)
        for calls in CALLS:
            figures = asyncio.run(queue(target.address, calls))
            figures["kb"] = asyncio.run(queue(target.address, calls, traced=True))["kb"]
            print("| {:,} | {us:.0f} | {kb:.1f} | {furthest} |".format(calls, **figures))
    print("\n| workers at once | ms to connect | ms for a worker |\n|---:|---:|---:|")
    with postgresql_target(None) as target, delayed(target.address) as address:
        for workers in WORKERS:
            seconds = asyncio.run(connect(address, workers))
            print(f"| {workers} | {seconds * 1e3:.0f} | {seconds / workers * 1e3:.1f} |")


if __name__ == "__main__":
    main()
