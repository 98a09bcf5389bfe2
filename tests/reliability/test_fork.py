"""After fork the child has connections of its own, and the parent keeps its."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import peewee
import pytest

from async_peewee import AsyncSqliteDatabase, TransactionFinished
from tests.support import Maker, Models

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # Python warns that the parent has threads; the fork guard is there because they do.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


def in_child(work: Callable[[], None]) -> int:
    """Fork, run `work` in the child, and return the child's exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def backend(models: Models) -> Any:
    """Return what tells one connection from another."""
    database = models.database
    if isinstance(database, AsyncSqliteDatabase):
        return await database.run(lambda: id(database._state.conn))
    function = "connection_id" if isinstance(database, peewee.MySQLDatabase) else "pg_backend_pid"
    # Written by Peewee: after raw SQL the session is reset, with some drivers by a new one.
    return await models.User.select(getattr(peewee.fn, function)()).limit(1).scalar()


async def test_parent_and_child_both_work_with_connections_of_their_own(
    make_database: Maker, anyio_backend: Any
) -> None:
    """Both query 200 times after a fork with a warm pool: no wrong row, the parent's connection stays."""
    async with make_database(pool_size=2) as database:
        models = Models(database)
        await database.create_tables(models.all)
        await models.User.create(name="shared")
        before = await backend(models)

        async def child_main() -> None:
            if not isinstance(database, AsyncSqliteDatabase):
                assert await backend(models) != before
            for number in range(200):
                row = await database.execute_sql(f"SELECT {number}")
                assert row.fetchone() == (number,)
            async with database.atomic():
                await models.User.create(name="from the child")
            await database.close()

        def child() -> None:
            assert database.run(lambda: models.User.select().count()) == 1  # a plain thread now
            database.close()
            _run_anew(child_main, anyio_backend[0])

        assert in_child(child) == 0
        for number in range(200):
            assert (await database.execute_sql(f"SELECT {number}")).fetchone() == (number,)
        assert await backend(models) == before
        assert await models.User.select().count() == 2


def _run_anew(main: Any, backend_name: str) -> None:
    # In a thread: the child's own thread still believes to be inside the parent's loop.
    errors: list[BaseException] = []

    def run() -> None:
        try:
            anyio.run(main, backend=backend_name)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    if errors:
        raise errors[0]
    assert not thread.is_alive()


def test_a_plain_transaction_open_at_the_fork_is_refused_in_the_child(make_database: Maker) -> None:
    """The child's statements neither join the parent's transaction nor are committed one by one."""
    database = make_database()
    models = Models(database)
    database.create_tables(models.all)

    def child() -> None:
        with pytest.raises(peewee.InterfaceError, match="parent process"):
            models.User.create(name="child")
        database.dispose()
        assert models.User.select().count() == 0
        database.close()

    with database.atomic():
        models.User.create(name="parent")
        assert in_child(child) == 0
    assert models.User.select().count() == 1
    database.close()


def test_a_plain_connection_open_at_the_fork_stays_the_parents(make_database: Maker) -> None:
    """The child's is another one, and closing that leaves the parent's alive."""
    database = make_database()
    sql = {"sqlite": "SELECT 1", "pymysql": "SELECT connection_id()"}.get(
        make_database.kind, "SELECT pg_backend_pid()"
    )

    def own() -> Any:
        return database.execute_sql(sql).fetchone(), id(database.connection())

    before = own()

    def child() -> None:
        theirs = own()
        assert theirs[1] != before[1]
        assert make_database.server is None or theirs[0] != before[0]
        database.close()

    assert in_child(child) == 0
    assert own() == before
    database.close()


def test_a_gate_held_at_the_fork_is_free_in_the_child(tmp_path: Path) -> None:
    """A block of the parent holds the write gate; the child, another process, has its own."""
    database = AsyncSqliteDatabase(tmp_path / "test.db", acquire_timeout=5)
    models = Models(database)
    database.create_tables(models.all)
    database.close()

    async def main() -> None:
        gate = database.connections.write_lock
        assert gate.acquire(lambda: True)
        assert in_child(lambda: _run_anew(_write, "asyncio")) == 0
        gate.release()

    async def _write() -> None:
        await models.User.create(name="child")
        await database.close()

    asyncio.run(main())
    assert models.User.select().count() == 1
    database.close()


def test_multiprocessing_by_fork_has_connections_of_its_own(make_database: Maker) -> None:
    """As os.fork(): the process is forked beside a warm pool, works, and ends as processes do."""
    database = make_database(pool_size=2)
    models = Models(database)
    answers: Any = multiprocessing.get_context("fork").SimpleQueue()

    async def child_main() -> None:
        for number in range(200):
            row = await database.execute_sql(f"SELECT {number}")
            assert row.fetchone() == (number,)
        answers.put(None if isinstance(database, AsyncSqliteDatabase) else await backend(models))
        await database.close()

    async def main() -> None:
        await database.create_tables(models.all)
        await models.User.create(name="shared")
        before = await backend(models)
        process: Any = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(child_main()))
        await anyio.to_thread.run_sync(process.start)
        await anyio.to_thread.run_sync(process.join, 30)
        assert process.exitcode == 0
        assert answers.get() != before
        assert await backend(models) == before
        await database.close()

    asyncio.run(main())


async def test_a_block_open_at_the_fork_is_over_in_the_child(make_database: Maker) -> None:
    """Leaving it there raises and sends nothing; the parent's transaction goes on."""
    async with make_database() as database:
        models = Models(database)
        await database.create_tables(models.all)
        block = database.atomic()
        await block.__aenter__()
        await models.User.create(name="parent")

        def child() -> None:
            with pytest.raises(TransactionFinished, match="has ended"):
                block.__aexit__(None, None, None).send(None)

        assert in_child(child) == 0
        await models.User.create(name="parent goes on")
        await block.__aexit__(None, None, None)
        assert await models.User.select().count() == 2


def test_a_database_that_was_dropped_before_the_fork_does_not_keep_others_from_beginning_anew(
    make_database: Maker,
) -> None:
    """What is left of it, which only the garbage collector knows, is passed over in the child."""
    dropped = make_database()
    left: list[Any] = [dropped.connections]
    del dropped
    gc.collect()
    database = make_database()
    before = id(database.connection())

    def child() -> None:
        assert id(database.connection()) != before
        database.close()

    assert in_child(child) == 0
    assert left
    database.close()
