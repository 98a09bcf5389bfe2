"""Every kind of database, URLs and the proxy as type checkers see them. Never run, only checked, by both.

Each `type: ignore` stands for an error that both must report: an unused one is an error too.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import assert_type

from async_peewee import (
    AsyncCySqliteDatabase,
    AsyncDatabase,
    AsyncDatabaseProxy,
    AsyncModel,
    AsyncMySQLConnectorDatabase,
    AsyncMySQLDatabase,
    AsyncPostgresqlDatabase,
    AsyncSqlCipherDatabase,
    AsyncSqliteDatabase,
    PoolStats,
    SharedConnection,
    blocking,
    connect,
)
from async_peewee.postgres_ext import AsyncPostgresqlExtDatabase
from tests.typing.schema import User, db

if TYPE_CHECKING:
    from async_peewee import AsyncCockroachDatabase

proxy = AsyncDatabaseProxy()


class Note(AsyncModel):
    class Meta:
        database = proxy

    @blocking
    def summary(self) -> str:
        return str(self)

    @blocking
    def is_empty(self) -> bool:
        return not Note.select().exists()

    @blocking
    def forget(self) -> None:
        self.delete_instance()


@proxy.atomic()
async def rename(note: Note) -> int:
    return await note.save()


async def any_database(database: AsyncDatabase) -> PoolStats:
    assert_type(await database.run(len, "four"), int)
    assert_type(await database.is_connection_usable(), bool)
    async with database, database.share_connection() as shared:
        assert_type(shared, SharedConnection)
    return database.stats()


async def kinds() -> None:
    assert_type(connect("sqlite:///app.db?pool_size=4", pool_size=3), AsyncDatabase)
    await any_database(connect("postgresql://localhost/shop"))
    await any_database(AsyncMySQLDatabase("shop", mariadb=True))
    await any_database(AsyncMySQLConnectorDatabase("shop", host="localhost"))
    await any_database(proxy)
    await any_database("sqlite:///app.db")  # type: ignore[arg-type]


async def through_the_proxy(note: Note) -> None:
    proxy.initialize(AsyncSqliteDatabase("app.db"))
    async with proxy as opened:
        assert_type(opened, AsyncDatabaseProxy)
    assert_type(await proxy.connect(reuse_if_open=True), bool)
    assert_type(await proxy.create_tables([Note, User]), None)
    assert_type(await proxy.run(len, "four"), int)
    assert_type(proxy.stats(), PoolStats)
    async with proxy.atomic() as txn:
        assert_type(await txn.commit(), None)
    assert_type(await rename(note), int)
    assert_type(await note.summary(), str)
    assert_type(await note.is_empty(), bool)
    assert_type(await note.forget(), None)
    proxy.initialize("app.db")  # type: ignore[arg-type]


async def what_only_some_have(cockroach: AsyncCockroachDatabase) -> None:
    assert_type(await AsyncSqlCipherDatabase("app.db", passphrase="secret").rekey("new"), bool)
    cysqlite = AsyncCySqliteDatabase("app.db", pool_size=2)
    assert_type(await cysqlite.attach("other.db", "other"), bool)
    assert_type(await cysqlite.backup_to_file("copy.db"), Any)
    assert_type(await AsyncPostgresqlDatabase("shop").set_time_zone("UTC"), None)
    extended = AsyncPostgresqlExtDatabase("shop", register_hstore=True, pool_size=3)
    assert_type(await extended.get_tables(), list[str])

    def transfer(database: AsyncCockroachDatabase) -> int:
        return 1

    assert_type(await cockroach.run_transaction(transfer, max_attempts=3), int)

    @cockroach.retry_transaction()
    def transfer_again(database: Any) -> str:
        return "done"

    assert_type(await transfer_again(), str)


def on_a_worker() -> bool:
    flag: bool = Note().is_empty() and db.is_connection_usable()
    written: int = User.insert_many([("a",)], fields=[User.name]).as_rowcount().execute()
    key: int = User.insert(name="a").execute()
    for row in User.update(age=key).returning(User).execute():
        flag = flag or row.age == written
    other, created = User.get_or_create(name="Huey")
    return bool(created and other.age == db.execute_sql("SELECT 1").fetchone()[0])
