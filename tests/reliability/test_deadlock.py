"""Deadlocks by design: everybody holds a worker and wants another. An error with names, never a hang."""

from __future__ import annotations

import re
import threading
from typing import Any

import anyio
import pytest

from async_peewee import PoolTimeout
from tests.support import Maker, Models, wait_until

# Of SQLite's blocks only those without the write lock can be open two at a time.
BLOCKS = {"sqlite": "connection_context", "psycopg2": "atomic", "psycopg3": "atomic", "pymysql": "atomic"}


async def test_all_workers_pinned_and_each_wanting_another(make_database: Maker) -> None:
    """PoolTimeout names the size, those who wait, and each holder's task and age; later calls work."""
    spelling = BLOCKS[make_database.kind]
    async with make_database(pool_size=2, acquire_timeout=0.5) as database:
        inside: list[str] = []
        errors: list[str] = []

        async def child() -> None:
            with pytest.raises(PoolTimeout) as caught:
                await database.execute_sql("SELECT 1")
            errors.append(str(caught.value))

        async def holder() -> None:
            async with getattr(database, spelling)():
                inside.append("in")
                await wait_until(lambda: len(inside) == 2)
                async with anyio.create_task_group() as group:
                    group.start_soon(child)
                # Nobody leaves early: that would free a worker for the other's child.
                await wait_until(lambda: len(errors) == 2)

        async with anyio.create_task_group() as group:
            group.start_soon(holder, name="Ann")
            group.start_soon(holder, name="Bob")
        assert len(errors) == 2
        for name in ("Ann", "Bob"):
            assert f"{spelling}() in task '{name}' for 0." in errors[0]
        assert "became free within 0.5 s: pool size 2, 2 waiting, held by:" in errors[0]
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)


@pytest.mark.filterwarnings("ignore::async_peewee.OutsideTransactionWarning")
@pytest.mark.parametrize("make_database", ["sqlite"], indirect=True)
async def test_a_child_that_waits_for_its_parents_write_lock(make_database: Maker) -> None:
    """A call and a function on a worker: each error names the parent, and says what to write instead."""
    async with make_database(acquire_timeout=0.5) as database:
        models = Models(database)
        await database.create_tables(models.all)
        errors: list[str] = []

        async def child(write: Any) -> None:
            with pytest.raises(PoolTimeout) as caught:
                await write("child")
            errors.append(str(caught.value))

        async def parent() -> None:
            async with database.atomic(), anyio.create_task_group() as group:
                await models.User.create(name="parent")
                group.start_soon(child, lambda name: models.User.create(name=name))
                group.start_soon(child, lambda name: database.run(models.User.create, name=name))

        async with anyio.create_task_group() as group:
            group.start_soon(parent, name="the parent")
        assert len(errors) == 2
        assert all("held by: atomic() in task 'the parent' for 0." in error for error in errors)
        assert any("share_connection()" in error for error in errors)
        assert [user.name for user in await models.User.select()] == ["parent"]


@pytest.mark.parametrize("make_database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("holder", ["a block", "a function", "another loop"])
async def test_a_wait_for_the_write_lock_says_that_it_is_one(make_database: Maker, holder: str) -> None:
    """Who writes and for how long, whatever it is; workers are idle, so a larger pool would not help."""
    async with make_database(pool_size=3, acquire_timeout=0.3) as database:
        models = Models(database)
        await database.create_tables(models.all)
        holds, done = threading.Event(), threading.Event()

        def write_for_long() -> None:
            with database.atomic():
                models.User.create(name="first")
                holds.set()
                done.wait(10)

        async def write_in_a_block() -> None:
            async with database.atomic():
                holds.set()
                await anyio.to_thread.run_sync(done.wait, 10)

        def write_on_another_loop() -> None:
            async def main() -> None:
                await database.run(write_for_long)
                await database.close()

            anyio.run(main)

        async def hold() -> None:
            if holder == "a block":
                await write_in_a_block()
            elif holder == "a function":
                await database.run(write_for_long)
            else:
                await anyio.to_thread.run_sync(write_on_another_loop)

        async with anyio.create_task_group() as group:
            group.start_soon(hold, name="the writer")
            await wait_until(holds.is_set)
            with pytest.raises(PoolTimeout) as caught:
                await models.User.create(name="second")
            done.set()
        message = str(caught.value)
        assert "the write lock of AsyncSqliteDatabase(" in message
        expected = "atomic() in task 'the writer'" if holder == "a block" else "db.run("
        assert re.search(rf"held by: {re.escape(expected)}.* for \d+\.\d s\. SQLite has one writer", message)
        assert "larger" not in message


async def test_a_childs_statements_are_outside_and_a_handed_over_connection_is_inside(
    make_database: Maker,
) -> None:
    """Two children at once: one sees nothing of the transaction; the other's row goes with it, in order."""
    async with make_database(pool_size=3) as database:
        models = Models(database)
        await database.create_tables(models.all)
        seen: dict[str, list[str]] = {}

        async def outside() -> None:
            assert not database.in_transaction()
            seen["outside"] = [user.name for user in await models.User.select()]

        async def inside(connection: Any) -> None:
            async with connection:
                for number in range(20):
                    await models.User.create(name=f"child {number}")
                seen["inside"] = [user.name for user in await models.User.select()]

        with pytest.raises(ValueError, match="roll back"):
            async with database.atomic():
                async with anyio.create_task_group() as group:
                    group.start_soon(outside)
                    group.start_soon(inside, database.share_connection())
                    for number in range(20):
                        await models.User.create(name=f"parent {number}")
                raise ValueError("roll back")
        assert seen["outside"] == []
        assert {f"child {number}" for number in range(20)} <= set(seen["inside"])
        assert await models.User.select().count() == 0
