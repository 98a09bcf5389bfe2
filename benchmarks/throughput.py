"""Measure get_by_id and create against plain synchronous Peewee on one thread, in the same run.

    python benchmarks/throughput.py                                 SQLite in a temporary file
    python benchmarks/throughput.py postgresql://user@host/name     PostgreSQL by psycopg2
    ... --trio, --uvloop                                            instead of asyncio

The rounds are interleaved, so that a machine that slows down slows all of them; each
figure is the median of the rounds, in operations per second.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import peewee

from async_peewee import AsyncModel, AsyncPostgresqlDatabase, AsyncSqliteDatabase

ROUNDS = 5
OPERATIONS = 2000
ROWS = 1000
TASKS = (1, 100)


def open_database(url: str | None, folder: str) -> Any:
    if url is None:
        return AsyncSqliteDatabase(str(Path(folder) / "benchmark.db"))
    return AsyncPostgresqlDatabase(url)


def make_model(db: Any) -> Any:
    class Item(AsyncModel):
        name = peewee.TextField()
        number = peewee.IntegerField(default=0)

        class Meta:
            database = db
            table_name = "async_peewee_benchmark"

    return Item


def plain_rate(operation: Callable[[int], object]) -> float:
    start = time.perf_counter()
    for number in range(OPERATIONS):
        operation(number)
    return OPERATIONS / (time.perf_counter() - start)


async def async_rate(operation: Callable[[int], Any], tasks: int) -> float:
    async def client(first: int) -> None:
        for number in range(first, OPERATIONS, tasks):
            await operation(number)

    start = time.perf_counter()
    async with anyio.create_task_group() as group:
        for first in range(tasks):
            group.start_soon(client, first)
    return OPERATIONS / (time.perf_counter() - start)


async def measure(db: Any) -> dict[str, list[float]]:
    """Return the rates of each round by what was measured."""
    Item = make_model(db)
    operations = {
        "get_by_id": lambda number: Item.get_by_id(number % ROWS + 1),
        "create": lambda number: Item.create(name=str(number)),
    }
    rates: dict[str, list[float]] = {}
    await Item.drop_table()
    await Item.create_table()
    await Item.insert_many([{"name": str(number)} for number in range(ROWS)])
    for _ in range(ROUNDS):
        for name, operation in operations.items():
            plain = await db.run(plain_rate, operation)
            rates.setdefault(f"{name}, plain Peewee, one thread", []).append(plain)
            for tasks in TASKS:
                rate = await async_rate(operation, tasks)
                rates.setdefault(f"{name}, awaited, {tasks} tasks", []).append(rate)
    await Item.drop_table()
    return rates


def report(rates: dict[str, list[float]]) -> None:
    print(f"{'operation':<36} {'ops/s':>8} {'of plain':>9} {'lowest':>8} {'highest':>8}")
    for name, values in rates.items():
        plain = rates[f"{name.partition(',')[0]}, plain Peewee, one thread"]
        ratios = [value / base for value, base in zip(values, plain, strict=True)]
        median, ratio = statistics.median(values), statistics.median(ratios)
        print(f"{name:<36} {median:>8.0f} {ratio:>9.2f} {min(ratios):>8.2f} {max(ratios):>8.2f}")


async def main(url: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_database(url, folder) as db:
            report(await measure(db))


if __name__ == "__main__":
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("url", nargs="?", help="a postgresql:// URL; without it, SQLite")
    parser.add_argument("--trio", action="store_true")
    parser.add_argument("--uvloop", action="store_true")
    chosen = parser.parse_args()
    backend = "trio" if chosen.trio else "asyncio"
    options = {"use_uvloop": True} if chosen.uvloop else {}
    anyio.run(main, chosen.url, backend=backend, backend_options=options)
