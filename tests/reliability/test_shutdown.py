"""close(): twice, at once, amid work, and opened again; and what functions on a worker may raise."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncSqliteDatabase, PoolClosed
from tests.support import Maker, Models, slow_sql, wait_until, worker_threads


async def test_close_twice_use_after_it_and_reopen(make_database: Maker) -> None:
    """The second one is a no-op, a call says "closed", connect() opens a new pool."""
    database = make_database()
    assert await database.connect() is True
    assert await database.close() is True
    assert await database.close() is False
    with pytest.raises(PoolClosed, match="closed") as caught:
        await database.execute_sql("SELECT 1")
    assert isinstance(caught.value, peewee.InterfaceError)
    with pytest.raises(PoolClosed, match="closed"):
        async with database.atomic():
            pytest.fail("a block was entered")
    await database.connect()
    assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
    await database.close()


async def interrupted_call(database: Any, kind: str) -> None:
    """Make a call of 30 seconds, and see that it is told to end."""
    try:
        cursor = await database.execute_sql(slow_sql(kind, 30))
    except Exception as error:  # some in the driver's own words
        assert re.search("cancel|interrupted", str(error))
    else:
        # MariaDB now and then has this for an interrupted sleep(), and no error.
        assert [*cursor.fetchall()] == [(1,)]


async def test_three_close_at_once_while_a_call_runs(make_database: Maker) -> None:
    """All return when nothing is left; one of them has closed it; then it is opened again."""
    database = make_database(pool_size=2)
    await database.connect()
    closed: list[bool] = []
    ended: list[str] = []

    async def call() -> None:
        await interrupted_call(database, make_database.kind)
        ended.append("the call")

    async def close() -> None:
        closed.append(await database.close(timeout=0.1))
        assert worker_threads() == []

    with anyio.fail_after(15):
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await wait_until(lambda: database.stats().busy == 1)
            for _ in range(3):
                group.start_soon(close)
    assert sorted(closed) == [False, False, True]
    assert ended == ["the call"]
    await database.connect()
    assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
    await database.close()


async def test_opened_again_while_it_closes(make_database: Maker) -> None:
    """The new pool works beside the old one, which ends in its own time."""
    database = make_database(pool_size=1)
    await database.connect()

    async with anyio.create_task_group() as group:
        group.start_soon(interrupted_call, database, make_database.kind)
        await wait_until(lambda: database.stats().busy == 1)
        group.start_soon(lambda: _close(database, 0.3))
        await wait_until(database.is_closed)
        await database.connect()
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
    assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
    await database.close()


async def _close(database: Any, timeout: float) -> None:
    await database.close(timeout)


async def test_a_function_that_close_ends_between_two_statements_gets_poolclosed(
    make_database: Maker,
) -> None:
    """The function itself sees an OperationalError, as in the middle of a statement; nobody sees more."""
    database = make_database(pool_size=1)
    await database.connect()
    seen: list[BaseException] = []

    def function() -> None:
        try:
            while True:
                database.execute_sql("SELECT 1")
        except Exception as error:
            seen.append(error)
            raise

    async def call() -> None:
        with pytest.raises((PoolClosed, peewee.OperationalError)) as caught:
            await database.run(function)
        seen.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await wait_until(lambda: database.stats().busy == 1)
        await database.close(timeout=0)
    assert isinstance(seen[0], peewee.OperationalError)
    assert "Interrupted" not in type(seen[1]).__name__


class OwnBaseException(BaseException):
    """Neither an Exception nor one of Python's."""


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(7),
        asyncio.CancelledError("own"),
        OwnBaseException("own"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_function_raises_arrives_and_its_worker_lives(
    sqlite_db: AsyncSqliteDatabase, error: BaseException
) -> None:
    """Unchanged, but StopIteration, which a coroutine cannot raise; its transaction is rolled back."""
    models = Models(sqlite_db)
    await sqlite_db.create_tables(models.all)
    before = worker_threads()

    def function() -> None:
        with sqlite_db.atomic():
            models.User.create(name="lost")
            raise error

    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    try:
        await sqlite_db.run(function)
    except expected as caught:
        assert caught is error or caught.__cause__ is error
    else:
        pytest.fail("nothing was raised")
    assert worker_threads() == before
    assert await models.User.select().count() == 0
