"""Who takes part: what is known of each contender without importing its library."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.workloads import OPERATIONS

ASYNCIO_LOOPS = ("asyncio", "uvloop")


@dataclass(frozen=True)
class Entry:
    """A contender: where its class is, what it can do."""

    title: str
    place: str
    # A folder under `.envs` with these packages; without them, the environment that measures.
    packages: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    loops: tuple[str, ...] = ASYNCIO_LOOPS
    # It uses the synchronous drivers, and is measured with each of them.
    uses_drivers: bool = False
    # How many threads, for plain Peewee: 1, or as many as the pool is large. The others have tasks.
    threads: Literal["", "one", "pool"] = ""

    @property
    def operations(self) -> tuple[str, ...]:
        return tuple(name for name in OPERATIONS if name not in self.lacks)

    def clients(self, tasks: int, pool_size: int) -> int:
        """Return how many work at the same time in a cell of so many tasks."""
        return {"": tasks, "one": 1, "pool": pool_size}[self.threads]


COMMON = ("anyio", "uvloop", "aiosqlite")
CONTENDERS = {
    "plain": Entry("Peewee, 1 thread", "plain:Plain", loops=(), uses_drivers=True, threads="one"),
    "ours": Entry("async_peewee", "ours:Ours", loops=(*ASYNCIO_LOOPS, "trio"), uses_drivers=True),
    "threads": Entry(
        "Peewee, N threads", "plain:Plain", lacks=("stream",), loops=(), uses_drivers=True, threads="pool"
    ),
    "pwasyncio-held": Entry("pwasyncio, held", "pwasyncio:Held"),
    "pwasyncio-call": Entry(
        "pwasyncio, per call", "pwasyncio:PerCall", lacks=("stream", "slow", "list_2000")
    ),
    "peewee-async": Entry(
        "peewee-async",
        "peewee_async:PeeweeAsync",
        packages=("peewee-async == 2.1.*", "psycopg[binary,pool]", *COMMON),
        lacks=("run", "stream"),
    ),
    "peewee-aio": Entry(
        "peewee-aio",
        "peewee_aio:PeeweeAio",
        packages=("peewee-aio == 3.3.*", "asyncpg", *COMMON),
        lacks=("run",),
    ),
}


def load(name: str) -> Any:
    """Import a contender's class; only its own process does."""
    module, _, class_name = CONTENDERS[name].place.partition(":")
    return getattr(importlib.import_module(f"benchmarks.contenders.{module}"), class_name)
