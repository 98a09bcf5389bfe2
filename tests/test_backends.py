"""The mixin: which driver and defaults a class gets, and which classes it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import peewee
import pytest
from playhouse.pool import PooledPostgresqlDatabase, PooledSqliteDatabase
from playhouse.postgres_ext import PostgresqlExtDatabase
from playhouse.sqliteq import SqliteQueueDatabase

import async_peewee
from async_peewee import AsyncDatabase, AsyncSqliteDatabase, ConfigurationError
from tests.kinds import ALL, IMPORTABLE, class_of
from tests.support import Maker, Models

DRIVERS = {
    "sqlite": "SqliteConnection",
    "apsw": "APSWConnection",
    "cysqlite": "CySqliteConnection",
    "sqlcipher": "SqliteConnection",
    "psycopg2": "Psycopg2Connection",
    "psycopg3": "Psycopg3Connection",
    "cockroach2": "Psycopg2Connection",
    "cockroach3": "Psycopg3Connection",
    "pymysql": "MySQLConnection",
    "mysqlclient": "MySQLConnection",
    "mysqlconnector": "MySQLConnectorConnection",
    "mariadbconnector": "MariaDBConnectorConnection",
}


@pytest.mark.parametrize("kind", IMPORTABLE)
def test_a_class_of_the_users_own_gets_the_right_driver(kind: str) -> None:
    """In two lines, of Peewee's class and of a subclass of it."""
    base: Any = class_of(kind).__mro__[class_of(kind).__mro__.index(AsyncDatabase) :]
    plain = next(cls for cls in base if issubclass(cls, peewee.Database))

    class Own(plain):
        pass

    class Mine(AsyncDatabase, Own):
        pass

    options = {key: value for key, value in ALL[kind].options.items() if key == "prefer_psycopg3"}
    for database_class in (Mine, type("Sub", (Mine,), {})):
        assert type(database_class("name", **options).backend.make_connection()).__name__ == DRIVERS[kind]


@pytest.mark.parametrize("kind", IMPORTABLE)
def test_workers_overlap_where_the_database_works_elsewhere(kind: str) -> None:
    """SQLite works in the process itself, and nobody waits for it."""
    options = {key: value for key, value in ALL[kind].options.items() if key == "prefer_psycopg3"}
    database = class_of(kind)("name", **options)
    assert database.backend.make_connection().may_overlap is not isinstance(database, peewee.SqliteDatabase)


class Plain(AsyncDatabase, peewee.SqliteDatabase):
    """The two lines."""


async def test_the_mixin_brings_sqlites_defaults(tmp_path: Path) -> None:
    """WAL and writers in a queue for a file, one worker for :memory:."""
    async with Plain(tmp_path / "a.db") as database:
        models = Models(database)
        await database.create_tables(models.all)
        assert (await database.execute_sql("PRAGMA journal_mode")).fetchone() == ("wal",)

        async def write(number: int) -> None:
            async with database.atomic():
                await models.User.select().count()  # a reader that goes on to write
                await models.User.create(name=str(number))

        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(write, number)
        assert await models.User.select().count() == 30
    async with Plain(":memory:", pool_size=5) as memory:
        await memory.execute_sql("CREATE TABLE t (x)")
        assert [await memory.get_tables() for _ in range(3)] == [["t"]] * 3
        assert memory.stats().pool_size == 1


def test_a_subclass_of_playhouse_gets_its_familys_driver() -> None:
    class Extended(AsyncDatabase, PostgresqlExtDatabase):
        pass

    assert type(Extended("name").backend.make_connection()).__name__ == "Psycopg2Connection"


def define(*bases: type) -> Any:
    return type("Mine", bases, {})


@pytest.mark.parametrize(
    ("bases", "advice"),
    [
        ((AsyncDatabase, PooledSqliteDatabase), "without Pooled, and pool_size=... for max_connections"),
        ((AsyncSqliteDatabase, PooledSqliteDatabase), "without Pooled"),
        ((AsyncDatabase, PooledPostgresqlDatabase), "without Pooled"),
        ((AsyncDatabase, SqliteQueueDatabase), "write SqliteDatabase"),
        ((peewee.SqliteDatabase, AsyncDatabase), "AsyncDatabase has to come before SqliteDatabase"),
        ((AsyncDatabase, peewee.Database), "is none of Peewee's SqliteDatabase"),
    ],
)
def test_what_cannot_be_made_asynchronous_is_refused(bases: Any, advice: str) -> None:
    """When the class is made, with what to write instead."""
    with pytest.raises(ConfigurationError, match=advice):
        define(*bases)


def test_a_mixin_without_a_database_class_says_so_when_it_is_used() -> None:
    mixin = define(AsyncDatabase)
    with pytest.raises(ConfigurationError, match="no Peewee database class"):
        mixin("name")
    assert define(mixin, peewee.SqliteDatabase)("name").backend.make_connection() is not None


def test_a_class_whose_driver_is_missing_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from async_peewee._orm import playhouse

    monkeypatch.setitem(playhouse.CLASSES, "AsyncNowhere", ("playhouse.nowhere", "Nowhere", (), "nowhere-db"))
    with pytest.raises(ImportError, match="AsyncNowhere needs the package nowhere-db"):
        async_peewee.AsyncNowhere  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'AsyncNothing'"):
        async_peewee.AsyncNothing  # noqa: B018


async def test_two_tasks_and_two_databases_never_mix(tmp_path: Path) -> None:
    """bind_ctx() is refused in tasks and on workers; a query told its database goes nowhere else."""
    one, two = AsyncSqliteDatabase(tmp_path / "1.db"), AsyncSqliteDatabase(tmp_path / "2.db")
    models = Models(one)
    User = models.User

    async def write(database: Any, name: str) -> None:
        for number in range(20):
            with pytest.raises(peewee.InterfaceError, match="wrong database"):
                database.bind_ctx(models.all)
            with pytest.raises(peewee.InterfaceError, match="wrong database"):
                await database.run(lambda: User.bind_ctx(database).__enter__())
            async with database.atomic():
                await User.insert(name=f"{name} {number}").execute(database)

    async with one, two:
        for database in (one, two):
            await database.run(
                lambda database=database: database.execute_sql(models.User._schema._create_table().query()[0])
            )
        async with anyio.create_task_group() as group:
            group.start_soon(write, one, "one")
            group.start_soon(write, two, "two")
        for database, name in ((one, "one"), (two, "two")):
            rows = await User.select().execute(database)
            assert {row.name.split()[0] for row in rows} == {name}
            assert len(rows) == 20


@pytest.mark.parametrize("make_any", [kind for kind in ("sqlcipher",) if kind in IMPORTABLE], indirect=True)
async def test_rekey_reaches_every_connection(make_any: Maker) -> None:
    """The pool goes on with the new key, the old one opens the file no more, and it is encrypted."""
    database = make_any(pool_size=4)
    models = Models(database)
    async with database:
        await database.create_tables(models.all)
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(async_peewee.aio, models.User.create(name=f"secret {number}"))
        assert await database.rekey("it's new") is True

        async def read() -> None:
            assert await models.User.select().count() == 8

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(read)
    content = make_any.path.read_bytes()
    assert b"secret" not in content
    assert not content.startswith(b"SQLite format")
    with pytest.raises(peewee.DatabaseError):
        async with make_any() as old:
            await old.get_tables()
    async with make_any(passphrase="it's new") as new:
        assert sorted(await new.get_tables()) == ["tweets", "users"]


@pytest.mark.parametrize("make_any", [kind for kind in ("cysqlite",) if kind in IMPORTABLE], indirect=True)
async def test_backup_of_cysqlite_is_awaited(make_any: Maker, tmp_path: Path) -> None:
    """To a file and to another asynchronous database, whose own pool then sees the rows."""
    async with make_any() as database:
        models = Models(database)
        await database.create_tables(models.all)
        await models.User.create(name="a")
        await database.backup_to_file(str(tmp_path / "copy.db"))
        other = class_of("cysqlite")(str(tmp_path / "other.db"))
        await database.backup(other)
    for copy in (class_of("cysqlite")(str(tmp_path / "copy.db")), other):
        async with copy:
            assert [user.name for user in await models.User.select().execute(copy)] == ["a"]
