"""A deadlock and its like: MySQL rolls the whole transaction back, and says so in an error only."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import peewee
import pytest

from tests.kinds import ALL, IMPORTABLE
from tests.support import Maker, Models

MYSQL = [kind for kind in IMPORTABLE if ALL[kind].family == "mysql"]
on_mysql = pytest.mark.parametrize("make_any", MYSQL, indirect=True)


@on_mysql
async def test_the_block_of_a_deadlocks_victim_is_dead(
    make_any: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """What it goes on to write would be committed at once; it is refused, and nothing of the block stays.

    Nothing is left open either, whatever the driver's status of the last good answer says: no warning.
    """
    async with make_any(pool_size=3) as database:
        models = Models(database)
        await database.create_tables(models.all)
        # By their keys: an UPDATE that scans the table would lock all of it.
        keys = {name: (await models.User.create(name=name)).id for name in ("a", "b")}
        has_first = {"a": anyio.Event(), "b": anyio.Event()}
        victims: list[Any] = []

        async def lock(first: str, second: str) -> None:
            User = models.User
            try:
                async with database.atomic():
                    await User.update(age=1).where(User.id == keys[first]).execute()
                    has_first[first].set()
                    await has_first[second].wait()
                    await cross(first, second)
            except peewee.DatabaseError as error:
                victims.append((first, error))

        async def cross(first: str, second: str) -> None:
            User = models.User
            try:
                await User.update(age=2).where(User.id == keys[second]).execute()
            except peewee.DatabaseError as error:
                victims.append((first, error))
                await User.update(age=9).where(User.id == keys[first]).execute()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(lock, "a", "b")
                group.start_soon(lock, "b", "a")
        (victim, deadlock), (same, refusal) = victims
        assert victim == same
        assert "eadlock" in str(deadlock)
        assert "already rolled back" in str(refusal)
        ages = {user.name: user.age for user in await models.User.select()}
        winner = "b" if victim == "a" else "a"
        assert ages == {winner: 1, victim: 2}  # all the winner's; the victim's own 1 and 9 are gone
        async with database.atomic():  # on the victim's connection too the next block is sound
            await models.User.create(name="next")
        assert await models.User.select().count() == 3
    assert warnings_of(caplog) == []


@on_mysql
async def test_a_transaction_that_met_a_change_is_dead_too(
    make_any: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """MariaDB rolls it back as after a deadlock: what follows in the block is refused."""
    server: Any = make_any.server
    if not server.query("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'"):
        return  # MySQL, or a MariaDB that has none
    async with make_any(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        await models.User.create(name="a")
        async with database.connection_context():
            await database.execute_sql("SET SESSION innodb_snapshot_isolation = ON")
            with pytest.raises(peewee.OperationalError, match="already rolled back"):
                async with database.atomic():
                    assert await models.User.select().count() == 1
                    await models.User.create(name="mine")
                    server.query(f"UPDATE {server.name}.users SET age = 5 WHERE id = 1")
                    with pytest.raises(peewee.DatabaseError, match="changed since last read"):
                        await models.User.update(age=6).where(models.User.id == 1).execute()
                    with pytest.raises(peewee.OperationalError, match="already rolled back"):
                        await models.User.create(name="late")
            assert [user.name for user in await models.User.select()] == ["a"]
    assert warnings_of(caplog) == []


@on_mysql
@pytest.mark.parametrize("is_open", [False, True])
async def test_what_a_function_leaves_is_warned_of_only_if_it_is_open(
    make_any: Maker, is_open: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Of errors on a raw connection the library hears nothing: the server is asked before it is said.

    mysqlclient does not tell of a transaction that Peewee has not begun; it is undone all the same.
    """
    server: Any = make_any.server
    if not server.query("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'"):
        return
    async with make_any(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        await models.User.create(name="a")

        def leave() -> None:
            cursor = database.connection().cursor()
            cursor.execute(f"SET SESSION innodb_snapshot_isolation = {'OFF' if is_open else 'ON'}")
            cursor.execute("BEGIN")
            cursor.execute("SELECT age FROM users")
            cursor.fetchall()
            cursor.execute("INSERT INTO users (name, age) VALUES ('left', 1)")
            server.query(f"UPDATE {server.name}.users SET age = 5 WHERE id = 1")
            with contextlib.nullcontext() if is_open else pytest.raises(Exception, match="changed since"):
                cursor.execute("UPDATE users SET age = 6 WHERE id = 1")

        await database.run(leave)
        assert await models.User.select().count() == 1
    is_said = is_open and make_any.kind != "mysqlclient"
    assert ["a transaction was left open" in line for line in warnings_of(caplog)] == [True] * is_said


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "async_peewee"]
