"""Blocks: atomic, transaction, savepoint, manual_commit, connection_context, and their decorators."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncModel, BlockingCallError, aio
from tests.support import Maker, Models, in_thread


async def names(models: Models) -> list[str]:
    return sorted([user.name async for user in models.User.select()])


async def test_a_block_commits_at_its_end(models: Models) -> None:
    async with models.database.atomic():
        await models.User.create(name="a")
        assert models.database.in_transaction()
    assert not models.database.in_transaction()
    assert await names(models) == ["a"]


async def test_a_block_rolls_back_on_an_error_which_arrives_unchanged(models: Models) -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with models.database.atomic_async():
            await models.User.create(name="a")
            raise error
    assert caught.value is error
    assert await names(models) == []


async def test_a_nested_block_is_a_savepoint(models: Models) -> None:
    """An inner block that fails takes only its own rows with it."""
    async with models.database.atomic():
        await models.User.create(name="outer")
        with pytest.raises(ValueError, match="inner"):
            async with models.database.atomic():
                await models.User.create(name="inner")
                raise ValueError("inner")
        async with models.database.savepoint() as savepoint:
            await models.User.create(name="undone")
            await savepoint.rollback()
            await models.User.create(name="kept")
    assert await names(models) == ["kept", "outer"]


async def test_an_integrity_error_in_a_savepoint_leaves_the_transaction_usable(models: Models) -> None:
    async with models.database.atomic():
        await models.User.create(name="a")
        with pytest.raises(peewee.IntegrityError):
            async with models.database.atomic():
                await models.User.create(name="a")
        await models.User.create(name="b")
    assert await names(models) == ["a", "b"]


async def test_explicit_commit_and_rollback_start_the_next_transaction(models: Models) -> None:
    """What was committed stays when the block fails; what was rolled back does not come back."""
    with pytest.raises(ValueError, match="late"):
        async with models.database.atomic() as transaction:
            await models.User.create(name="committed")
            await transaction.commit()
            await models.User.create(name="rolled back")
            await transaction.rollback()
            assert models.database.transaction_depth() == 1
            await models.User.create(name="lost")
            raise ValueError("late")
    assert await names(models) == ["committed"]


async def test_transaction_nested_in_transaction_commits_once_at_the_outermost_end(models: Models) -> None:
    with pytest.raises(ValueError, match="outer"):
        async with models.database.transaction():
            async with models.database.transaction():
                assert models.database.transaction_depth() == 2
                await models.User.create(name="inner")
            raise ValueError("outer")
    assert await names(models) == []


async def test_manual_commit(models: Models) -> None:
    """In a manual block begin, commit and rollback are the user's, and atomic() is refused."""
    async with models.database.manual_commit():
        await models.database.begin()
        await models.User.create(name="kept")
        await models.database.commit()
        await models.database.begin()
        await models.User.create(name="undone")
        await models.database.rollback()
        with pytest.raises(ValueError, match="manual commit mode"):
            async with models.database.atomic():
                pass
    assert await names(models) == ["kept"]


async def test_manual_mode_ends_where_the_user_says(models: Models) -> None:
    """A transaction() block in it begins none, and after commit() its statements stand by themselves."""
    async with models.database.manual_commit():
        await models.database.begin()
        await models.database.commit()
        async with models.database.transaction():
            await models.User.create(name="Huey")
            await models.User.create(name="Mickey")
    assert await models.User.select().count() == 2


async def test_begin_outside_a_block_is_refused(sqlite_models: Models) -> None:
    """It would open a transaction on whichever worker is free and leave it there."""
    with pytest.raises(peewee.InterfaceError, match="manual_commit"):
        await sqlite_models.database.begin()


async def test_connection_context_keeps_one_connection(make_database: Maker) -> None:
    """All calls in the block meet the same connection, also beside others."""
    database = make_database(pool_size=4)
    table = "CREATE TEMPORARY TABLE mine (x int)"

    async def block() -> None:
        async with database.connection_context():
            await database.execute_sql(table)
            await anyio.sleep(0)
            assert (await database.execute_sql("SELECT count(*) FROM mine")).fetchone() == (0,)
            await database.execute_sql("DROP TABLE mine")

    async with database, anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(block)


async def test_isolation_level_and_lock_type_reach_the_database(make_database: Maker) -> None:
    """What Peewee's atomic() takes is taken, and an explicit lock type wins over the default."""
    async with make_database() as database:
        if make_database.kind == "sqlite":
            statements = await _traced(database, "DEFERRED")
            assert "BEGIN DEFERRED" in statements
            assert "BEGIN IMMEDIATE" in await _traced(database)
        elif make_database.kind == "pymysql":
            # MySQL does not tell the level of the transaction at once; it refuses a wrong one.
            with pytest.raises(peewee.ProgrammingError, match="NONSENSE"):
                async with database.atomic("NONSENSE"):
                    pass
            async with database.atomic("SERIALIZABLE"):
                await database.execute_sql("SELECT 1")
        else:
            async with database.atomic("SERIALIZABLE"):
                level = await database.execute_sql("SHOW transaction_isolation")
                assert level.fetchone() == ("serializable",)


async def _traced(database: Any, *arguments: str) -> list[str]:
    statements: list[str] = []
    async with database.connection_context():
        await database.run(lambda: database.connection().set_trace_callback(statements.append))
        async with database.atomic(*arguments):
            await database.execute_sql("SELECT 1")
        await database.run(lambda: database.connection().set_trace_callback(None))
    return statements


async def test_gathered_calls_are_inside_the_block_of_the_task_that_made_them(
    models: Models, anyio_backend: Any
) -> None:
    """gather() puts each call into a task of its own; they roll back with the block all the same."""
    if anyio_backend[0] == "trio":
        return
    with pytest.raises(ValueError, match="roll back"):
        async with models.database.atomic():
            await asyncio.gather(models.User.create(name="a"), models.User.create(name="b"))
            await asyncio.wait_for(models.User.create(name="c"), 5)
            await asyncio.create_task(aio(models.User.insert(name="d")))
            assert await models.User.select().count() == 4
            raise ValueError("roll back")
    assert await names(models) == []


async def test_calls_started_in_a_nursery_are_inside_the_block(models: Models) -> None:
    """start_soon(aio, call) carries the block of the task that made the call."""
    with pytest.raises(ValueError, match="roll back"):
        async with models.database.atomic():
            async with anyio.create_task_group() as group:
                group.start_soon(aio, models.User.create(name="a"))
                group.start_soon(aio, models.User.insert(name="b"))
            assert await models.User.select().count() == 2
            raise ValueError("roll back")
    assert await names(models) == []


@pytest.mark.parametrize("commits", [True, False])
async def test_after_commit(models: Models, commits: bool) -> None:
    """Functions run and coroutines are awaited after the commit, on the loop; after a rollback, none."""
    calls: list[str] = []

    async def notify() -> None:
        calls.append(f"awaited, {await models.User.select().count()} rows")

    try:
        async with models.database.atomic():
            models.database.after_commit(lambda: calls.append("called"))
            models.database.after_commit(notify)
            await models.User.create(name="a")
            assert calls == []
            if not commits:
                raise ValueError("roll back")
    except ValueError:
        pass
    assert calls == (["called", "awaited, 1 rows"] if commits else [])


async def test_after_commit_outside_a_transaction_is_at_once(sqlite_models: Models) -> None:
    calls: list[str] = []
    sqlite_models.database.after_commit(lambda: calls.append("called"))
    assert calls == ["called"]

    async def notify() -> None: ...

    for function in (notify, partial(notify)):
        with pytest.raises(peewee.InterfaceError, match="await .*notify"):
            sqlite_models.database.after_commit(function)


async def test_after_commit_in_a_function_awaits_on_the_loop(models: Models) -> None:
    """A coroutine function goes from the worker to the loop; a thread without one refuses it."""
    db, calls = models.database, []

    async def notify(name: str) -> None:
        calls.append((name, await models.User.select().count()))

    def work(fails: bool) -> None:
        db.after_commit(partial(notify, "at once"))
        with db.atomic():
            models.User.create(name=str(fails))
            db.after_commit(partial(notify, "after the commit"))
            if fails:
                raise ValueError("roll back")

    await db.run(work, False)
    assert calls == [("at once", 1), ("after the commit", 1)]
    with pytest.raises(ValueError, match="roll back"):
        await db.run(work, True)
    assert len(calls) == 2
    with pytest.raises(TypeError, match=r"after_commit\(\) without an event loop is for plain functions"):
        await in_thread(db.connection_context()(work), False)


async def test_what_peewee_calls_cannot_be_async(sqlite_models: Models) -> None:
    """The default of a field when the class is made, a query hook before its first statement."""

    async def wrong(*_: Any) -> int:
        return 1

    with pytest.raises(TypeError, match=r"the default of age is for plain functions.*wrong is async"):

        class Wrong(AsyncModel):
            age = peewee.IntegerField(default=wrong)

    sqlite_models.database.query_hooks.append(wrong)
    with pytest.raises(TypeError, match=r"db\.query_hooks is for plain functions.*wrong is async"):
        await sqlite_models.User.create(name="Huey")
    sqlite_models.database.query_hooks.clear()
    assert await sqlite_models.User.select().count() == 0


async def test_after_commit_in_a_nested_block_waits_for_the_outermost_commit(sqlite_models: Models) -> None:
    calls: list[str] = []
    async with sqlite_models.database.atomic():
        async with sqlite_models.database.atomic():
            sqlite_models.database.after_commit(lambda: calls.append("called"))
        assert calls == []
    assert calls == ["called"]


async def test_a_plain_with_is_refused_and_nothing_is_left(sqlite_models: Models) -> None:
    with pytest.raises(BlockingCallError, match="async with db.atomic"), sqlite_models.database.atomic():
        pass
    assert not sqlite_models.database.in_transaction()


async def test_blocks_inside_a_function_on_a_worker_are_peewees(models: Models) -> None:
    """`with db.atomic()` in db.run() nests in the task's block as a savepoint."""
    database, User = models.database, models.User

    def work() -> None:
        with database.atomic():
            User.create(name="kept")
        try:
            with database.atomic():
                User.create(name="undone")
                raise ValueError
        except ValueError:
            pass
        with database.connection_context():
            User.create(name="also kept")

    await database.run(work)
    assert await names(models) == ["also kept", "kept"]
    with pytest.raises(ValueError, match="all of it"):
        async with database.atomic():
            await User.delete()
            await database.run(work)
            raise ValueError("all of it")
    assert await names(models) == ["also kept", "kept"]


async def test_a_transaction_left_open_on_a_worker_is_rolled_back(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    """BEGIN in raw SQL outside a block cannot leak into the next user of that worker."""
    await models.database.execute_sql("BEGIN")
    await models.User.create(name="a")
    await models.database.run(lambda: models.database.execute_sql("SELECT 1"))
    assert "left open" in caplog.text
    assert await names(models) == ["a"]


async def test_a_table_made_inside_a_block_does_not_end_the_block(db: Any) -> None:
    """Where CREATE TABLE commits, on MySQL, the block goes on without a transaction, as in plain Peewee."""

    class Note(AsyncModel):
        text = peewee.TextField()

        class Meta:
            table_name = "notes"

    db.bind([Note])
    async with db.atomic():
        await Note.create_table()
        await Note.create(text="a")
    assert await Note.select().count() == 1
