"""pwasyncio's names as type checkers see them. Never run, only checked, by mypy and pyright."""

from __future__ import annotations

from typing import Any

import peewee
from typing_extensions import assert_type

from async_peewee import pwasyncio
from async_peewee.pwasyncio import (
    AsyncModel,
    AsyncModelMixin,
    AsyncMySQLDatabase,
    AsyncPostgresqlDatabase,
    AsyncSqliteDatabase,
    CharField,
    MissingGreenletBridge,
    Model,
    await_,
    fn,
    greenlet_spawn,
)

db = AsyncSqliteDatabase("app.db", pool_size=4, acquire_timeout=10, pragmas={"foreign_keys": 1}, timeout=3)
postgresql = AsyncPostgresqlDatabase("postgresql://localhost/app", isolation_level="SERIALIZABLE")
mysql = AsyncMySQLDatabase("app", mariadb=True, pool_min_size=2)


class User(AsyncModel):
    name = CharField()

    class Meta:
        database = db


class Plain(AsyncModelMixin, Model):
    name = CharField()


async def models(user: User) -> None:
    assert_type(await User.acreate(name="Huey"), User)
    assert_type(await User.aget(User.name == "Huey"), User)
    assert_type(await User.aget_by_id(1), User)
    assert_type(await User.aget_or_none(name="Huey"), User | None)
    assert_type(await User.aget_or_create(name="Huey"), tuple[User, bool])
    assert_type(await User.abulk_update([user], [User.name]), int)
    assert_type(await User.adelete_by_id(1), int)
    assert_type(await user.asave(), int)
    assert_type(await user.adelete_instance(recursive=True), int)
    assert_type(await user.afetch("group"), Any)
    assert_type(await Plain.acreate(name="Bo"), Plain)
    assert_type(await User.create(name="Huey"), User)  # dual, as anywhere in the library


async def database() -> None:
    async with db as entered:
        assert_type(entered, AsyncSqliteDatabase)
    await db.acreate_tables([User, Plain], safe=True)
    assert_type(await db.list(User.select()), list[User])
    assert_type(await db.list(Plain.select()), list[Plain])
    assert_type(await db.get(Plain.select()), Plain)
    assert_type((await db.get(User.select())).name, str)
    assert_type(await db.aprefetch(User.select(), Plain), list[User])
    assert_type(await db.count(User.select()), int)
    assert_type(await db.exists(User.select()), bool)
    assert_type(await db.scalar(User.select(fn.MAX(User.name))), Any)
    assert_type(await db.run(len, "four"), int)
    assert_type(await (await db.aconnect()).execute("SELECT 1"), Any)
    assert_type((await db.aexecute_sql("SELECT 1")).rowcount, int)
    async for plain in db.iterate(Plain.select(), buffer_size=10):
        assert_type(plain, Plain)
    await db.adrop_tables([User, Plain])
    await db.aclose()
    await db.close_pool()


async def blocks() -> None:
    async with db.atomic() as txn:
        await txn.acommit()
        await txn.arollback()
    async with postgresql.transaction("SERIALIZABLE") as transaction:
        assert_type(transaction, pwasyncio.async_transaction)
    async with mysql.savepoint() as point:
        assert_type(point, pwasyncio.async_savepoint)


async def bridge() -> None:
    async def number() -> int:
        return 1

    assert_type(await greenlet_spawn(lambda: await_(number())), int)
    assert_type(await_(number()), int)
    try:
        list(User.select())
    except MissingGreenletBridge as error:
        assert_type(error.__cause__, BaseException | None)
    assert issubclass(MissingGreenletBridge, peewee.InterfaceError)


async def forgotten(user: User) -> None:
    User.acreate(name="Huey")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    user.asave()  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
