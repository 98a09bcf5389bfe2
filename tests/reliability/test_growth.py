"""Memory, threads and file descriptors stay what they are, over many calls and many loops."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from async_peewee._drivers.statement_profiles import StatementProfile
from tests.support import SOAK, Maker, Models

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what a process uses is read in /proc"),
]

# By hand any number goes.
CALLS = int(os.environ.get("ASYNC_PEEWEE_TEST_CALLS", "40000" if SOAK else "10000"))
LOOPS = 500 if SOAK else 50
# After so many loops all is there that is made once, such as what drivers make when it is first needed.
WARM = LOOPS // 2
# The most workers of a pool here.
FEW = 4


@dataclass
class Use:
    """What the process uses now: objects, resident bytes, file descriptors, threads."""

    objects: int
    resident: int
    descriptors: int
    threads: int

    @staticmethod
    def now() -> Use:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        # What is known of statements does not count: of that there is a limit.
        objects = sum(type(thing) is not StatementProfile for thing in gc.get_objects())
        return Use(objects, pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threading.active_count())

    def check_no_more_than(self, before: Use) -> None:
        # A leak of one object in a hundred calls, or of 250 bytes in each of a soak, is more.
        print(self, "after", before, end=" ")
        assert self.objects < before.objects + 500
        assert self.resident < before.resident + 10_000_000
        # A few more are no leak, which would be one for each loop or many calls: a second worker
        # that came late, and the threads that trio keeps for ten seconds.
        assert self.descriptors <= before.descriptors + FEW
        assert self.threads <= before.threads + FEW


async def actor(models: Models, count: int) -> None:
    """Make calls of every kind: alone, in a block, refused by the database, cancelled, streamed."""
    database, User = models.database, models.User
    for number in range(count // 10):
        for _ in range(4):
            await User.get_by_id(1)
        async with database.atomic():
            await User.update(age=number).where(User.id == 1)
            assert await User.select().count() == 1
        assert await User.get_or_none(name="nobody") is None
        with anyio.move_on_after(0):
            await User.get_by_id(1)
        async for _ in User.select().iterator():
            pass
        await database.execute_sql("SELECT 1")


@pytest.mark.parametrize("make_database", ["sqlite", "psycopg2", "psycopg3"], indirect=True)
async def test_many_calls_leave_nothing_behind(make_database: Maker) -> None:
    """As after the first 2,000 of 10,000 (a soak: 40,000), by ten tasks on a pool of four."""
    async with make_database(pool_size=4, pool_min_size=4) as database:
        models = Models(database)
        await database.create_tables(models.all)
        await models.User.create(name="a")

        async def many(count: int) -> Use:
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(actor, models, count // 10)
            return Use.now()

        # Each connection once: SQLite opens its files with the first query.
        everybody = anyio.Event()

        async def visit() -> None:
            async with database.connection_context():
                await models.User.get_by_id(1)
                if database.stats().leased == 4:
                    everybody.set()
                await everybody.wait()

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(visit)

        before = await many(2000)
        (await many(CALLS - 2000)).check_no_more_than(before)


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "left open"])
def test_many_loops_leave_nothing_behind(make_database: Maker, closes: bool, backend: str) -> None:
    """Each loop opens a pool of its own; all is as it was 50 loops before (a soak: 500)."""
    database = make_database(pool_size=2)
    models = Models(database)

    async def once() -> None:
        await models.User.select().count()
        if closes:
            await database.close()

    async def create() -> None:
        await database.create_tables(models.all)

    run_times(1, create, backend)
    run_times(WARM, once, backend)
    before = Use.now()
    run_times(LOOPS, once, backend)
    Use.now().check_no_more_than(before)
    assert len(database.connections.pools._pools) <= 1


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


def run_times(times: int, main: Callable[[], Awaitable[Any]], backend: str) -> None:
    for _ in range(times):
        anyio.run(main, backend=backend)
