"""Streaming: chunks from a pinned worker, bounded memory, early ends."""

from __future__ import annotations

import contextlib
import gc
import time
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import (
    AsyncModel,
    AsyncSqliteDatabase,
    BlockingCallError,
    TransactionFinished,
)
from async_peewee._bridge.streams import CHUNK, FIRST_CHUNK
from tests.numbers import Numbers
from tests.support import SOAK, Maker, Models, on_databases, slow_sql, wait_until

# In a soak; the short run is long enough for a list of all rows to be seen.
MANY = 1_000_000 if SOAK else 200_000


@pytest.mark.parametrize("count", [0, 1, FIRST_CHUNK, FIRST_CHUNK + 1, FIRST_CHUNK + CHUNK])
async def test_all_rows_come_in_order(db: Any, count: int) -> None:
    """At the edges of the chunks too; afterwards the worker is free."""
    numbers = Numbers(db)
    await numbers.create(count)
    values = [row.value async for row in numbers.stream()]
    assert values == list(range(count))
    assert db.stats().leased == 0


@pytest.mark.soak
async def test_many_rows_in_flat_memory(make_database: Maker) -> None:
    """The peak of Python's memory while streaming stays below 10 MB; all rows would take 60 or more."""
    async with make_database() as database:
        numbers = Numbers(database)
        await numbers.create(MANY)
        total = seen = 0
        tracemalloc.start(1)
        async for (value,) in numbers.Number.select().tuples().iterator():
            total += value
            seen += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (seen, total) == (MANY, MANY * (MANY - 1) // 2)
        assert peak < 10_000_000


async def test_break_frees_the_worker(make_database: Maker) -> None:
    """After ten rows of many, a break gives the one worker back to the next call."""
    async with make_database(pool_size=1) as database:
        numbers = Numbers(database)
        await numbers.create(50_000)
        seen = 0
        async for _ in numbers.stream():
            seen += 1
            if seen == 10:
                break
        gc.collect()
        await wait_until(lambda: database.stats().leased == 0)
        assert await numbers.Number.select().count() == 50_000


@pytest.mark.parametrize("reads_on", [True, False], ids=["reads on", "breaks"])
async def test_a_stream_whose_connection_is_killed_ends_cleanly(make_database: Maker, reads_on: bool) -> None:
    """Reading on gives an OperationalError, a break nothing; no cursor complains later."""
    server = make_database.server
    if server is None:
        return  # an embedded database has no connection that another could kill
    async with make_database(pool_size=2) as database:
        numbers = Numbers(database)
        await numbers.create(500_000)
        with pytest.raises(peewee.OperationalError) if reads_on else contextlib.nullcontext():
            rows = numbers.stream()
            await rows.__anext__()
            for backend in server.backends():
                server.kill(backend)
            await wait_until(lambda: server.backends() == [])
            if reads_on:
                async for _ in rows:
                    pass
            del rows
        gc.collect()
        assert await numbers.Number.select().count() == 500_000


async def test_a_stream_that_is_open_when_the_pool_closes_ends_cleanly(make_database: Maker) -> None:
    """Its worker is taken from it, and what is left of it complains neither then nor when it is dropped."""
    database = make_database(pool_size=1)
    numbers = Numbers(database)
    await numbers.create(50_000)
    rows = numbers.stream()
    await rows.__anext__()
    await database.close(timeout=0)
    del rows
    gc.collect()
    await database.connect()
    assert await numbers.Number.select().count() == 50_000
    await database.close()


async def test_inside_a_block_it_uses_the_blocks_connection(make_database: Maker) -> None:
    """Uncommitted rows are seen, and other queries of the block run in between."""
    async with make_database(pool_size=1) as database:
        numbers = Numbers(database)
        await numbers.create(3000)
        async with database.atomic_async():
            await numbers.Number.create(value=3000)
            seen = 0
            async for row in numbers.stream():
                if row.value % 1000 == 0:
                    assert (await numbers.Number.get_by_id(row.value)).value == row.value
                seen += 1
            assert seen == 3001
            async for _ in numbers.stream():
                break
        assert database.stats().leased == 0
        assert await numbers.Number.select().count() == 3001


async def test_a_stream_cannot_outlive_its_block(sqlite_db: AsyncSqliteDatabase) -> None:
    numbers = Numbers(sqlite_db)
    await numbers.create(5000)
    async with sqlite_db.atomic():
        stream = numbers.stream()
        assert (await stream.__anext__()).value == 0
    with pytest.raises(TransactionFinished):
        _ = [row async for row in stream]


async def test_aclose_and_async_with_end_it_early(db: Any) -> None:
    """Both give the worker back before they return; closing again does nothing."""
    numbers = Numbers(db)
    await numbers.create(5000)
    stream = numbers.stream()
    await stream.__anext__()
    assert db.stats().leased == 1
    await stream.aclose()
    await stream.aclose()
    assert db.stats().leased == 0
    async with numbers.stream() as stream:
        await stream.__anext__()
    assert db.stats().leased == 0
    with pytest.raises(StopAsyncIteration):
        while True:
            await stream.__anext__()


async def test_a_stream_that_outlives_its_task_is_read_on_by_another(db: Any) -> None:
    """It belongs to whoever holds it: all rows come, and closed it leaves its worker to others."""
    numbers = Numbers(db)
    await numbers.create(5000)
    streams, seen = [], []

    async def first_row() -> None:
        streams.append(numbers.stream())
        seen.append((await streams[0].__anext__()).value)

    async with anyio.create_task_group() as group:
        group.start_soon(first_row)
    gc.collect()
    seen += [row.value async for row in streams[0]]
    assert seen == list(range(5000))
    assert db.stats().leased == 0


async def test_an_error_in_the_loops_body_frees_the_worker(db: Any) -> None:
    numbers = Numbers(db)
    await numbers.create(5000)
    with pytest.raises(ValueError, match="body"):
        async for _ in numbers.stream():
            raise ValueError("body")
    gc.collect()
    await wait_until(lambda: db.stats().leased == 0)


async def test_cancelled_while_fetching_it_ends(db: Any, make_database: Maker) -> None:
    """The chunk's query is interrupted and the worker given back."""
    slow = slow_sql(make_database.kind, 10)

    class Slow(AsyncModel):
        class Meta:
            database = db

    with anyio.move_on_after(0.1) as scope:
        async for _ in Slow.raw(slow).iterator():
            pass
    assert scope.cancelled_caught
    assert db.stats().leased == 0
    assert (await db.execute_sql("SELECT 42")).fetchone() == (42,)


async def test_a_wrong_query_raises_and_frees_the_worker(db: Any) -> None:
    numbers = Numbers(db)
    with pytest.raises((peewee.OperationalError, peewee.ProgrammingError)):
        _ = [row async for row in numbers.stream()]
    assert db.stats().leased == 0


async def test_row_types_and_compound_queries_can_be_streamed(models: Models) -> None:
    await models.User.insert_many([{"name": str(n), "age": n} for n in range(5)])
    query = models.User.select(models.User.name, models.User.age)
    assert [row async for row in query.tuples().iterator()] == [(str(n), n) for n in range(5)]
    assert [row["age"] async for row in query.dicts().iterator()] == list(range(5))
    union = query.where(models.User.age < 2) | query.where(models.User.age > 3)
    assert sorted([row.age async for row in union.iterator()]) == [0, 1, 4]


async def test_misuse_of_a_stream(sqlite_models: Models) -> None:
    """A plain `for` is refused; with_related() cannot be streamed, and that is said at the call."""
    with pytest.raises(BlockingCallError, match="async for row in query.iterator"):
        iter(sqlite_models.User.select().iterator())
    with pytest.raises(ValueError, match="with_related"):
        sqlite_models.Tweet.select().with_related(sqlite_models.Tweet.user).iterator()


async def test_on_a_worker_iterator_is_peewees(sqlite_models: Models, tmp_path: Path) -> None:
    await sqlite_models.User.create(name="a")

    def work() -> list[str]:
        return [user.name for user in sqlite_models.User.select().iterator()]

    assert await sqlite_models.database.run(work) == ["a"]


async def test_a_stream_whose_read_was_cancelled_does_not_seem_to_be_at_its_end(db: Any) -> None:
    """Who awaits the next row after a timeout gets an error, not StopAsyncIteration."""
    numbers = Numbers(db)
    await numbers.create(1000)
    rows = numbers.stream()
    await rows.__anext__()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async for _ in rows:
            pass
    for _ in range(2):
        with pytest.raises(TransactionFinished, match="begin a new one"):
            await rows.__anext__()
    closed = numbers.stream()
    await closed.__anext__()
    await closed.aclose()
    assert [row async for row in closed] == []


@on_databases("psycopg2", "psycopg3")
async def test_leaving_a_block_does_not_read_the_rest_of_its_stream(make_database: Maker) -> None:
    """The server would store all rows of a cursor that outlives its transaction, in a COMMIT of minutes."""
    async with make_database() as database:
        sql = "SELECT n, pg_sleep(0.005) FROM generate_series(1, 4000) n"  # in 20 seconds
        began = time.monotonic()
        async with database.atomic():
            rows = AsyncModel.raw(sql).bind(database).tuples().iterator()
            assert (await rows.__anext__())[0] == 1
        assert time.monotonic() - began < 10
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


@on_databases("psycopg2", "psycopg3")
async def test_a_stream_locks_its_rows_in_a_block(models: Models, make_database: Maker) -> None:
    """PostgreSQL refuses FOR UPDATE for a cursor that outlives its transaction."""
    await models.User.insert_many([{"name": f"u{number}"} for number in range(3)])
    skip = models.User.select().for_update("FOR UPDATE SKIP LOCKED")
    async with models.database.atomic():
        assert len([user async for user in models.User.select().for_update().iterator()]) == 3
        async with make_database() as other:
            assert list(await skip.bind(other)) == []
