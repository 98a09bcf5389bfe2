"""aio(), db.run(), blocks and databases as type checkers see them, and the same models without await.

Never run, only checked, by mypy and pyright. Each `type: ignore` stands for an error that both
must report: an unused one is an error too.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import peewee
from typing_extensions import assert_type

from async_peewee import AsyncDatabase, AsyncPostgresqlDatabase, AsyncSqliteDatabase, PoolStats, Rows, aio
from tests.typing.schema import Tweet, User, db

# --- aio, run, blocking ------------------------------------------------------------------


def report(year: str, *, limit: int = 10) -> dict[str, int]:
    return {year: limit}


async def calling(tweet: Tweet) -> None:
    assert_type(await aio(report, "2026"), dict[str, int])
    assert_type(await aio(report, "2026", limit=3), dict[str, int])
    assert_type(await aio(User.get(name="Huey")), User)
    assert_type(await aio(User.get_or_none(name="Huey")), User | None)
    assert_type(await aio(User.get_or_create(name="Huey")), tuple[User, bool])
    assert_type(await aio(tweet.save()), int)
    assert_type(await aio(User.select()), Rows[User])
    assert_type(await aio(User.select().count()), int)
    assert_type(await aio(User.select().count), int)
    assert_type(await aio(running), None)
    assert_type(await aio(3), int)
    assert_type(await aio(None), None)
    await aio(report, 2026)  # type: ignore[call-overload]


async def running() -> None:
    assert_type(await db.run(report, "2026"), dict[str, int])
    assert_type(await db.run(lambda: 3), int)
    assert_type(await db.run(User.get, User.name == "Huey"), User)
    assert_type(await db.run(User.get_or_none, name="Huey"), User | None)
    assert_type(await db.run(User.select().count), int)
    assert_type(await db.run(list, User.select()), list[User])
    await db.run(report, 2026)  # type: ignore[call-overload]


async def together() -> None:
    assert_type(await asyncio.gather(User.create(name="a"), Tweet.create(text="b")), tuple[User, Tweet])
    task = asyncio.create_task(aio(User.get_or_none(name="a")))
    assert_type(await task, User | None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(aio, User.create(name="c"))
    assert_type(await asyncio.wait_for(User.get(), 1), User)


async def forgotten(user: User) -> None:
    """What pyright reports when nobody awaits it; forgotten.py has what mypy does."""
    User.get_or_none(name="Huey")  # pyright: ignore[reportUnusedCoroutine]
    User.bulk_create([user])  # pyright: ignore[reportUnusedCoroutine]
    User.create_table()  # pyright: ignore[reportUnusedCoroutine]
    User.select().first()  # pyright: ignore[reportUnusedCoroutine]
    db.create_tables([User])  # pyright: ignore[reportUnusedCoroutine]
    db.commit()  # pyright: ignore[reportUnusedCoroutine]
    db.run(report, "2026")  # pyright: ignore[reportUnusedCoroutine]
    transfer_plainly(user)  # pyright: ignore[reportUnusedCoroutine]


# --- databases and blocks ----------------------------------------------------------------


async def blocks() -> None:
    async with db as opened:
        assert_type(opened, AsyncSqliteDatabase)
    async with db.atomic() as txn:
        assert_type(await txn.commit(), None)
        assert_type(await txn.rollback(), None)
    async with db.atomic("EXCLUSIVE"), db.savepoint() as savepoint:
        await savepoint.rollback()
    async with db.transaction() as transaction:
        await transaction.commit(begin=False)
    async with db.atomic_async(), db.connection_context():
        pass
    async with db.manual_commit():
        await db.begin()
        assert_type(await db.commit(), None)
        assert_type(await db.rollback(), None)


async def database() -> None:
    assert_type(await db.connect(reuse_if_open=True), bool)
    assert_type(await db.close(), bool)
    cursor = await db.execute_sql("SELECT ?", (1,))
    assert_type(cursor.fetchall(), list[Any])
    assert_type(cursor.rowcount, int)
    assert_type(await db.execute(User.select()), Any)
    assert_type(await db.create_tables([User, Tweet], safe=True), None)
    assert_type(await db.drop_tables([User]), None)
    assert_type(await db.get_tables(), list[str])
    assert_type((await db.get_columns("user"))[0].name, Any)
    assert_type(await db.table_exists("user"), bool)
    assert_type(await db.pragma("user_version"), Any)
    assert_type(await db.attach("other.db", "other"), bool)
    assert_type(db.is_closed(), bool)
    assert_type(db.stats(), PoolStats)


@db.atomic()
async def transfer(source: User, amount: int = 1) -> bool:
    await source.save()
    return amount > 0


@db.atomic()
def transfer_plainly(source: User, amount: int = 1) -> bool:
    source.save()
    return amount > 0


async def decorated(user: User) -> None:
    assert_type(await transfer(user, amount=3), bool)
    assert_type(await transfer_plainly(user), bool)
    task = asyncio.create_task(transfer(user))
    assert_type(await task, bool)
    await transfer(user, amount="3")  # type: ignore[arg-type]
    await transfer_plainly("3")  # type: ignore[arg-type]


# Ours takes no positional arguments in init().
class OwnDatabase(AsyncDatabase, peewee.PostgresqlDatabase): ...


async def any_database(given: AsyncDatabase) -> None:
    assert_type(await given.get_tables(), list[str])
    given.bind([User])
    await any_database(AsyncPostgresqlDatabase("shop", host="localhost", prefer_psycopg3=True))
    await any_database(OwnDatabase("shop"))


# --- the same models on a worker or a plain thread -----------------------------------------


def synchronous() -> list[str]:
    user = User.get(User.name == "Huey")
    assert_type(user.name, str)
    assert_type(User[1].name, str)
    assert_type(User.create(name="Huey").age, int | None)
    saved: int = user.save() + user.delete_instance()
    if saved and User.select().exists():
        user.age = User.select().count() + 1
    # Not to pyright, to which this has no type but that of the awaitable.
    maybe: User | None = User.get_or_none(name="Huey")  # pyright: ignore[reportAssignmentType]
    if maybe is None:
        return []
    first = User.select().first()
    if not first:
        return []
    needs_user(first)  # pyright: ignore[reportArgumentType]
    other, created = User.get_or_create(name="Huey")
    if created:
        needs_user(other)
    assert_type(User.select().get(), User)
    assert_type(User.select()[0], User)
    assert_type(len(User.select()), int)
    for found in User.select().where(User.age > 3).iterator():
        assert_type(found, User)
    with db.connection_context(), db.atomic() as txn:
        txn.rollback()
    deleted: int = User.delete().execute()
    flag: bool = User.select().exists()
    needs_user(Tweet.get().user)
    return [found.name for found in User.select() if deleted and flag]


def needs_user(user: User) -> None:
    with db.allow_sync():
        user.save()
