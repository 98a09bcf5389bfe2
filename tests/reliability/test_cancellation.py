"""Cancellation stops the query on the server, frees the worker, and hurts nobody else."""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import peewee
import pytest

from tests.support import COUNT, SOAK, Maker, Models, Server, slow_sql, wait_until, worker_threads

# Far less than what is cancelled would take, in seconds. Alone on the machine it is 10 to 30 ms,
# but a server that is slow to greet the side connection may cost an attempt of 2 seconds, and
# another one: what no attempt has stopped within 5 seconds is cut.
SOON = 10.0


async def by_scope(call: Callable[[], Awaitable[Any]], after: float) -> float:
    """Cancel a call by an anyio scope; return the seconds from the cancellation to the return."""
    with anyio.move_on_after(after) as scope:
        await call()
    assert scope.cancelled_caught
    return anyio.current_time() - scope.deadline


async def by_task_cancel(call: Callable[[], Awaitable[Any]], after: float) -> float:
    """Cancel a call by asyncio's own task.cancel()."""
    task = asyncio.ensure_future(call())
    await asyncio.sleep(after)
    start = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - start


async def by_timeout(call: Callable[[], Awaitable[Any]], after: float) -> float:
    """Cancel a call by asyncio.timeout()."""
    deadline = asyncio.get_running_loop().time() + after
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await call()
    return asyncio.get_running_loop().time() - deadline


async def by_wait_for(call: Callable[[], Awaitable[Any]], after: float) -> float:
    """Cancel a call by asyncio.wait_for()."""
    start = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(call(), after)
    return time.monotonic() - start - after


WAYS = [by_scope, by_task_cancel, by_timeout, by_wait_for]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def cancel(request: pytest.FixtureRequest, anyio_backend: Any) -> Any:
    """Return a way to cancel a call that this loop and this Python have."""
    if request.param is not by_scope and anyio_backend[0] == "trio":
        return by_scope
    if request.param is by_timeout and sys.version_info < (3, 11):
        return by_wait_for
    return request.param


async def test_fifteen_cancelled_sleeps_on_a_pool_of_two(make_database: Maker, cancel: Any) -> None:
    """Each returns long before its statement would end, two at most run, and the threads are as before."""
    database = make_database(pool_size=2)
    sql = slow_sql(make_database.kind, 30)
    late: list[float] = []
    active: list[int] = []

    async def client() -> None:
        late.append(await cancel(lambda: database.execute_sql(sql), 0.1))

    async def look() -> None:
        server = make_database.server
        while server is not None:
            active.append(len(server.sleeping()))
            await anyio.sleep(0.02)

    async with database:
        threads = worker_threads()
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            async with anyio.create_task_group() as clients:
                for _ in range(15):
                    clients.start_soon(client)
            group.cancel_scope.cancel()
        assert len(late) == 15
        assert max(late) < SOON
        assert statistics.median(late) < 2  # nothing of most of them ran, so they wait for nobody
        assert max(active, default=0) <= 2
        assert len(worker_threads()) <= 2
        assert set(threads) <= set(worker_threads())
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


@pytest.mark.soak
async def test_no_innocent_query_is_hit(make_database: Maker) -> None:
    """A query of some milliseconds is cancelled at a random moment, the next one is unharmed.

    200 times; in a soak 1,000 times.
    """
    database = make_database(pool_size=1)
    rng = random.Random(7)
    sql = slow_sql(make_database.kind, 0.004)

    async def victim(moment: float) -> None:
        with anyio.move_on_after(moment):
            await database.execute_sql(sql)

    async def innocent(number: int) -> None:
        row = (await database.execute_sql(f"SELECT {number}")).fetchone()
        assert row == (number,)

    async with database:
        for number in range(1000 if SOAK else 200):
            async with anyio.create_task_group() as group:
                group.start_soon(victim, rng.uniform(0, 0.007))
                group.start_soon(innocent, number)


async def test_a_queued_call_that_is_cancelled_never_runs(make_database: Maker) -> None:
    """A call that waits for a worker is dropped from the queue, and its worker is not wasted."""
    database = make_database(pool_size=1)
    ran: list[str] = []
    async with database:
        async with database.connection_context():

            async def outside() -> None:
                await database.run(ran.append, "ran")

            async with anyio.create_task_group() as group:
                group.start_soon(outside)
                await wait_until(lambda: database.stats().waiting == 1)
                group.cancel_scope.cancel()
        assert database.stats().waiting == 0
        await database.run(ran.append, "after")
        assert ran == ["after"]


async def test_cancelled_in_a_block_nothing_of_it_stays(
    models: Models, make_database: Maker, cancel: Any
) -> None:
    """Cancelled during its second statement, a block leaves no row, and the next user a clean connection."""
    database = models.database

    async def block() -> None:
        async with database.atomic():
            await models.User.create(name="first")
            await database.execute_sql(slow_sql(make_database.kind, 30))
            await models.User.create(name="third")

    assert await cancel(block, 0.1) < SOON
    assert await models.User.select().count() == 0
    assert not database.in_transaction()
    assert database.stats().leased == 0


async def test_a_caught_cancellation_leaves_no_half_transaction(sqlite_models: Models) -> None:
    """After SQLite has rolled back by itself, the rest of the block is refused and nothing is committed."""
    database, User = sqlite_models.database, sqlite_models.User
    with pytest.raises(ValueError, match="the user's own"):
        async with database.atomic():
            await User.create(name="before")
            with anyio.move_on_after(0.1):  # a statement that only reads takes nothing with it
                await database.execute_sql(slow_sql("sqlite", 10))
            assert await User.select().count() == 1
            await _interrupt_a_write(database)
            with pytest.raises(peewee.OperationalError, match="already rolled back"):
                await User.create(name="after")
            raise ValueError("the user's own")
    assert await User.select().count() == 0


async def _interrupt_a_write(database: Any) -> None:
    """Cancel an INSERT of many rows when it has begun to write; SQLite takes the transaction with it."""
    running, endings = threading.Event(), list[str]()

    def write() -> None:
        connection = database.connection()
        connection.create_function("running", 0, lambda: running.set() or 1)
        try:
            # Called for one row only: a thread that takes the interpreter and gives it back for
            # each of millions may keep it from all others for minutes.
            database.execute_sql(
                "INSERT INTO users (name, age) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
                "SELECT i + 1 FROM n WHERE i < 40000000) "
                "SELECT 'n' || i, CASE i WHEN 2 THEN running() ELSE 1 END FROM n"
            )
        except peewee.OperationalError as error:
            endings.append(f"{error}, in a transaction: {connection.in_transaction}")
            raise

    async def cancel() -> None:
        await wait_until(running.is_set)
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with anyio.CancelScope() as scope:
            await database.run(write)
    assert scope.cancelled_caught
    assert endings == ["interrupted, in a transaction: False"]


async def test_a_running_job_is_waited_for(sqlite_models: Models) -> None:
    """Control returns to the cancelled task only when the function on the worker has ended."""
    database = sqlite_models.database
    steps: list[str] = []

    def work() -> None:
        try:
            database.execute_sql(COUNT.format(40_000_000))
        finally:
            steps.append("the function has ended")

    with anyio.move_on_after(0.05):
        await database.run(work)
    steps.append("control is back")
    assert steps == ["the function has ended", "control is back"]


async def test_the_query_stops_on_the_server(server: Server) -> None:
    """The server runs nothing of ours any more when the cancelled task goes on."""
    from async_peewee import AsyncPostgresqlDatabase

    database = AsyncPostgresqlDatabase(server.url, **server.connect_params())
    async with database:
        with anyio.move_on_after(0.1):
            await database.execute_sql("SELECT pg_sleep(30)")
        assert server.backends("state = 'active'") == []


async def test_leaving_a_cancelled_block_waits_for_its_rollback(sqlite_models: Models) -> None:
    """The rollback is not lost in the queue, though the scope stays cancelled while it waits there."""
    database = sqlite_models.database
    running, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        running.set()
        go_on.wait(5)

    async def child(connection: Any) -> None:
        async with connection:
            await database.run(hold)

    async def release() -> None:
        await wait_until(lambda: parent.cancel_called)
        for _ in range(10):  # the cancellation is delivered, again and again
            await anyio.sleep(0)
        go_on.set()

    async with anyio.create_task_group() as others:
        with anyio.CancelScope() as parent:
            async with database.atomic():
                await sqlite_models.User.create(name="lost")
                others.start_soon(child, database.share_connection())
                await wait_until(running.is_set)
                others.start_soon(release)
                parent.cancel()
                await anyio.sleep_forever()
    assert database.stats().leased == 0
    assert await sqlite_models.User.select().count() == 0
