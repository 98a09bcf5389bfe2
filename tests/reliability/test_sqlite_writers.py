"""SQLite has one writer: those of one process queue, and none of them sees "database is locked"."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncSqliteDatabase
from tests.support import Models

WRITERS = 16


def impatient(path: Path, **settings: Any) -> AsyncSqliteDatabase:
    """Return a database that waits for a lock not at all: without the gate, every clash is an error."""
    return AsyncSqliteDatabase(path / "test.db", timeout=0, **settings)


async def test_blocks_queue_for_the_write_lock(tmp_path: Path) -> None:
    """Blocks of many tasks that yield inside: no error, and no update is lost."""
    async with impatient(tmp_path, pool_size=4) as database:
        models = Models(database)
        await database.create_tables(models.all)
        counter = await models.User.create(name="counter")

        async def writer() -> None:
            for _ in range(5):
                async with database.atomic():
                    row = await models.User.get_by_id(counter.id)
                    await anyio.sleep(0)
                    row.age += 1
                    await row.save()

        async with anyio.create_task_group() as group:
            for _ in range(WRITERS):
                group.start_soon(writer)
        assert (await models.User.get_by_id(counter.id)).age == WRITERS * 5


async def test_every_kind_of_writer_queues(tmp_path: Path) -> None:
    """Model methods, queries, functions on a worker, raw SQL and get_or_create meet the gate as blocks do."""
    async with impatient(tmp_path, pool_size=4) as database:
        models = Models(database)
        await database.create_tables(models.all)
        User = models.User

        def function(name: str) -> None:
            User.create(name=name)

        async def in_block(name: str) -> None:
            async with database.atomic():
                await User.create(name=name)

        kinds: list[Any] = [
            lambda name: User.create(name=name),
            lambda name: User.insert(name=name).execute(),
            lambda name: database.run(function, name),
            lambda name: database.execute_sql("INSERT INTO users (name, age) VALUES (?, 0)", (name,)),
            lambda name: User.get_or_create(name=name),
            in_block,
        ]

        async def writer(number: int) -> None:
            for position, kind in enumerate(kinds):
                await kind(f"{number} {position}")

        async with anyio.create_task_group() as group:
            for number in range(WRITERS):
                group.start_soon(writer, number)
        assert await User.select().count() == WRITERS * len(kinds)


@pytest.mark.filterwarnings("ignore::async_peewee.OutsideTransactionWarning")
async def test_readers_are_served_while_writers_wait(tmp_path: Path) -> None:
    """Writers that wait for a block to end hold no worker, so that a read is not behind them."""
    async with impatient(tmp_path, pool_size=2) as database:
        models = Models(database)
        await database.create_tables(models.all)
        async with anyio.create_task_group() as group, database.atomic():
            await models.User.create(name="inside")
            for number in range(WRITERS):
                group.start_soon(_create, models, str(number))
            with anyio.fail_after(10):
                async with anyio.create_task_group() as readers:
                    readers.start_soon(_count, models)
        assert await models.User.select().count() == WRITERS + 1


async def _create(models: Models, name: str) -> None:
    await models.User.create(name=name)


async def _count(models: Models) -> None:
    assert await models.User.select().count() == 0


async def test_explicit_pragmas_and_lock_types_win(tmp_path: Path) -> None:
    """The defaults of a file are WAL and synchronous=NORMAL; what the user says replaces them."""
    async with AsyncSqliteDatabase(tmp_path / "default.db") as database:
        assert await database.pragma("journal_mode") == "wal"
        assert await database.pragma("synchronous") == 1
    pragmas = {"journal_mode": "delete", "synchronous": 2}
    async with AsyncSqliteDatabase(tmp_path / "own.db", pragmas=pragmas, lock_type="EXCLUSIVE") as database:
        assert await database.pragma("journal_mode") == "delete"
        assert await database.pragma("synchronous") == 2
        assert database.backend.begin_writes()
        assert not database.backend.begin_writes("DEFERRED")


async def test_a_file_opened_for_reading_only_is_left_as_it_is(tmp_path: Path) -> None:
    """No pragma that writes, and a block begins without the write lock."""
    path = tmp_path / "test.db"
    with peewee.SqliteDatabase(path) as plain:
        plain.execute_sql("CREATE TABLE t (x)")
    async with AsyncSqliteDatabase(f"file:{path}?mode=ro", uri=True) as database:
        async with database.atomic():
            assert (await database.execute_sql("SELECT count(*) FROM t")).fetchone() == (0,)
        with pytest.raises(peewee.OperationalError, match="readonly"):
            await database.execute_sql("INSERT INTO t VALUES (1)")


@pytest.mark.soak
async def test_32_writers_that_take_their_time(tmp_path: Path) -> None:
    """Each has 12 transactions with 20 ms inside: no error, no lost update, and nobody is starved."""
    writers, rounds = 32, 12
    waits: list[float] = []
    async with AsyncSqliteDatabase(tmp_path / "test.db") as database:
        models = Models(database)
        await database.create_tables(models.all)
        counter = await models.User.create(name="counter")

        async def writer() -> None:
            for _ in range(rounds):
                start = time.monotonic()
                async with database.atomic():
                    row = await models.User.get_by_id(counter.id)
                    await anyio.sleep(0.02)
                    row.age += 1
                    await row.save()
                waits.append(time.monotonic() - start)

        start = time.monotonic()
        async with anyio.create_task_group() as group:
            for _ in range(writers):
                group.start_soon(writer)
        one_turn_each = (time.monotonic() - start) / rounds
        assert (await models.User.get_by_id(counter.id)).age == writers * rounds
    # First come, first served: nobody waits longer than it takes to serve everybody once. The
    # share is of the run's own time, so it holds on a slow machine too.
    assert max(waits) < 2 * one_turn_each


OTHER_PROCESS = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("INSERT INTO users (name, age) VALUES ('other process', 0)")
connection.execute("COMMIT")
"""


@pytest.mark.parametrize("timeout", [5, 0.1])
async def test_a_writer_of_another_process_is_waited_for(tmp_path: Path, timeout: float) -> None:
    """As long as the busy timeout says; then the error is Peewee's, and the block leaves nothing."""
    path = tmp_path / "test.db"
    async with AsyncSqliteDatabase(path, timeout=timeout) as database:
        models = Models(database)
        await database.create_tables(models.all)
        command = [sys.executable, "-c", OTHER_PROCESS, str(path), "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            if timeout > 1:
                async with database.atomic():
                    await models.User.create(name="ours")
            else:
                with pytest.raises(peewee.OperationalError, match="locked"):
                    async with database.atomic():
                        await models.User.create(name="ours")
        names = sorted([user.name async for user in models.User.select()])
        assert names == (["other process", "ours"] if timeout > 1 else ["other process"])
        assert database.stats().leased == 0
