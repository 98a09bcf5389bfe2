"""Measure for how long the event loop stands still while rows are made that are slow against all appearance.

    python -m benchmarks.hold [--rows 100000] [--url sqlite:///hold.db] [--trio]

A list of 200 rows of which the first ten are quick, and a stream with a slow row in every fifty.
A slow one takes 5 ms: it computes in Python, hashes without the interpreter, or waits. Beside it a
timer of 1 ms; how late it is at most, and how late without any query, which is the machine's part.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from peewee import IntegerField

from async_peewee import AsyncModel, connect

SLOW = 0.005
TIMER = 0.001
FIRST = 10
LIST = 200
EACH = 50


def compute() -> None:
    end = time.perf_counter() + SLOW
    while time.perf_counter() < end:
        pass


def digest() -> None:
    end = time.perf_counter() + SLOW
    while time.perf_counter() < end:
        hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 500)


def wait() -> None:
    time.sleep(SLOW)


class SlowField(IntegerField):
    """A field some of whose values are slow to make."""

    def __init__(self) -> None:
        super().__init__(primary_key=True)
        self.delay: Callable[[], None] = wait
        self.is_slow: Callable[[int], bool] = bool

    def python_value(self, value: Any) -> Any:
        if self.is_slow(value):
            self.delay()
        return value


async def latest(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return how late the timer was at most beside some work, and how long that took, in seconds."""
    worst = 0.0
    async with anyio.create_task_group() as group:

        async def tick() -> None:
            nonlocal worst
            while True:
                due = time.perf_counter() + TIMER
                await anyio.sleep(TIMER)
                worst = max(worst, time.perf_counter() - due)

        group.start_soon(tick)
        await anyio.sleep(0.05)
        worst, began = 0.0, time.perf_counter()
        await work()
        took = time.perf_counter() - began
        await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    return worst, took


async def measure(url: str, count: int) -> None:
    database = connect(url)
    field = SlowField()

    class Slow(AsyncModel):
        value = field

        class Meta:
            table_name = "hold"

    Slow._meta.set_database(database)
    made: Any = Slow.value
    ordered: Any = Slow.select().order_by(made)

    async def read_list() -> None:
        assert len(await ordered.clone().limit(LIST)) == LIST

    async def read_stream() -> None:
        assert len([None async for _ in ordered.clone().iterator()]) == count

    async with database:
        await database.drop_tables([Slow])
        await database.create_tables([Slow])
        for start in range(0, count, 10_000):
            await Slow.insert_many([(n,) for n in range(start, min(start + 10_000, count))], [made])
        # A full collection stops every thread for as long as it has objects to look at: 25 ms for those
        # of the drivers and of this program, whatever the library does.
        gc.collect()
        gc.freeze()
        print(f"{'idle':>8}  timer late by {(await latest(lambda: anyio.sleep(2)))[0] * 1000:5.1f} ms")
        for delay in (compute, digest, wait):
            made.delay, made.is_slow = delay, lambda value: value >= FIRST
            report(delay, "list", [await latest(read_list) for _ in range(5)])
            made.is_slow = lambda value: value % EACH == EACH - 1
            report(delay, "stream", [await latest(read_stream)])
        await database.drop_tables([Slow])


def report(delay: Callable[[], None], what: str, figures: list[tuple[float, float]]) -> None:
    worst, took = (max(column) for column in zip(*figures, strict=True))
    print(f"{delay.__name__:>8} {what:>7}: timer late by {worst * 1000:5.1f} ms, took {took:6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help="how many rows the stream has")
    parser.add_argument("--url", help="of the database; by default SQLite in a file")
    parser.add_argument("--trio", action="store_true", help="run on trio")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{Path(folder) / 'hold.db'}"
        anyio.run(measure, url, options.rows, backend="trio" if options.trio else "asyncio")


if __name__ == "__main__":
    main()
