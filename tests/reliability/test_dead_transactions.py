"""Transactions that the database has ended by itself: nothing of them is ever committed."""

from __future__ import annotations

from typing import Any

import anyio
import peewee
import pytest

from async_peewee import AsyncSqliteDatabase
from tests.support import Models

on_mysql = pytest.mark.parametrize("make_database", ["pymysql"], indirect=True)
on_sqlite = pytest.mark.parametrize("make_database", ["sqlite"], indirect=True)

# SQLite rolls the whole transaction back when this meets a name that is taken.
OR_ROLLBACK = "INSERT OR ROLLBACK INTO users (name, age) VALUES ('taken', 0)"


async def deadlock(models: Models, in_the_end: Any) -> list[str]:
    """Let two blocks lock two rows in opposite order; return what the one that lost went through."""
    database, User = models.database, models.User
    ids = [(await User.create(name=name)).id for name in "01"]
    holds = [anyio.Event(), anyio.Event()]
    steps: list[str] = []

    async def block(number: int) -> None:
        async with database.atomic():
            await User.update(age=1).where(User.id == ids[number])
            holds[number].set()
            await holds[1 - number].wait()
            try:
                await User.update(age=1).where(User.id == ids[1 - number])
            except peewee.OperationalError as error:
                assert "eadlock" in str(error)
                steps.append("lost")
                await in_the_end()

    async def client(number: int) -> None:
        try:
            await block(number)
        except (ValueError, peewee.OperationalError) as error:
            steps.append(str(error))

    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(client, number)
    return steps


@on_mysql
async def test_after_a_deadlock_the_block_is_dead(models: Models) -> None:
    """MySQL has rolled all of it back and would commit what follows at once, statement by statement."""

    async def go_on() -> None:
        with pytest.raises(peewee.OperationalError, match="already rolled back"):
            await models.User.create(name="after")
        raise ValueError("the user's own")

    assert await deadlock(models, go_on) == ["lost", "the user's own"]
    assert await models.User.select().where(models.User.name == "after").count() == 0


@on_mysql
async def test_a_block_that_swallows_a_deadlock_does_not_end_as_if_committed(models: Models) -> None:
    async def swallow() -> None:
        pass

    steps = await deadlock(models, swallow)
    assert steps[0] == "lost"
    assert "already rolled back" in steps[1]


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3"], indirect=True)
async def test_postgresql_ends_the_one_that_loses_a_deadlock(models: Models) -> None:
    """It refuses by itself what follows, and the user's error arrives."""

    async def go_on() -> None:
        with pytest.raises(peewee.DatabaseError, match="aborted"):
            await models.User.create(name="after")
        raise ValueError("the user's own")

    assert await deadlock(models, go_on) == ["lost", "the user's own"]
    assert await models.User.select().where(models.User.name == "after").count() == 0


@on_sqlite
@pytest.mark.parametrize("where", ["in the block", "in a function on a worker"])
async def test_what_follows_a_rollback_by_sqlite_is_refused(models: Models, where: str) -> None:
    """Also within one function, where plain Peewee would commit it; the user's error is not masked."""
    database, User = models.database, models.User
    await User.create(name="taken")

    def function() -> None:
        with database.atomic():
            User.create(name="before")
            with pytest.raises(peewee.IntegrityError):
                database.execute_sql(OR_ROLLBACK)
            with pytest.raises(peewee.OperationalError, match="already rolled back"):
                User.create(name="after")
            raise ValueError("the user's own")

    async def block() -> None:
        async with database.atomic():
            await User.create(name="before")
            with pytest.raises(peewee.IntegrityError):
                await database.execute_sql(OR_ROLLBACK)
            with pytest.raises(peewee.OperationalError, match="already rolled back"):
                await User.create(name="after")
            raise ValueError("the user's own")

    with pytest.raises(ValueError, match="the user's own"):
        await (block() if where == "in the block" else database.run(function))
    assert [user.name for user in await User.select()] == ["taken"]


@on_sqlite
async def test_a_function_goes_on_after_its_dead_transaction(models: Models) -> None:
    """Within the same function the next transaction is a new one."""
    database, User = models.database, models.User
    await User.create(name="taken")

    def swallow_or_rollback() -> None:
        with pytest.raises(peewee.IntegrityError):
            database.execute_sql(OR_ROLLBACK)

    def function() -> None:
        with pytest.raises(peewee.OperationalError, match="already rolled back"), database.atomic():
            swallow_or_rollback()
        with database.atomic():
            User.create(name="next")

    await database.run(function)
    assert [user.name for user in await User.select().order_by(User.id)] == ["taken", "next"]


@on_sqlite
async def test_after_commit_of_a_dead_transaction_is_never_called(models: Models) -> None:
    """Not by itself, and not by the next transaction on the same connection."""
    database, User = models.database, models.User
    await User.create(name="taken")
    called: list[str] = []
    async with database.connection_context():
        with pytest.raises(ValueError, match="the user's own"):
            async with database.atomic():
                database.after_commit(lambda: called.append("dead"))
                with pytest.raises(peewee.IntegrityError):
                    await database.execute_sql(OR_ROLLBACK)
                raise ValueError("the user's own")
        async with database.atomic():
            database.after_commit(lambda: called.append("alive"))
    assert called == ["alive"]


@pytest.mark.parametrize("make_database", ["sqlite", "psycopg2", "psycopg3"], indirect=True)
async def test_a_deferred_key_that_fails_at_commit_reaches_the_user(models: Models) -> None:
    """IntegrityError from the block's end, no row, and the next call works."""

    class Child(models.Tweet.__base__):  # type: ignore[misc, name-defined]
        parent = peewee.ForeignKeyField(models.User, deferrable="INITIALLY DEFERRED")

    await Child.create_table()
    if isinstance(models.database, AsyncSqliteDatabase):
        await models.database.close()
        models.database.init(models.database.database, pragmas={"foreign_keys": 1})
        await models.database.connect()
    with pytest.raises(peewee.IntegrityError):
        async with models.database.atomic():
            await Child.create(parent=12345)
    assert await Child.select().count() == 0
    assert models.database.stats().leased == 0
