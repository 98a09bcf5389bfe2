"""Calls that nobody awaited, as mypy sees them. Never run, only checked, and by mypy alone.

pyright's own check is for coroutines, which a call whose result is an int, a bool, a list or
a row is not to it: calls.py has what it reports.
"""

# mypy: enable-error-code="unused-awaitable"

from __future__ import annotations

from async_peewee import (
    AsyncDatabaseProxy,
    AsyncModel,
    AsyncSqliteDatabase,
    aio,
    blocking,
    model_to_dict,
    prefetch,
)

db = AsyncSqliteDatabase("app.db")
proxy = AsyncDatabaseProxy()


class User(AsyncModel):
    class Meta:
        database = db

    @blocking
    def rename(self) -> int:
        return 1

    @blocking
    def describe(self) -> str:
        return ""


@db.atomic()
async def transfer() -> None: ...


@db.atomic()
def transfer_plainly() -> None: ...


async def forgotten(user: User) -> None:
    User.create()  # type: ignore[unused-awaitable]
    User.get(name="Huey")  # type: ignore[unused-awaitable]
    User[1]  # type: ignore[unused-awaitable]
    User.get_or_none(name="Huey")  # type: ignore[unused-awaitable]
    User.get_or_create(name="Huey")  # type: ignore[unused-awaitable]
    User.bulk_create([user])  # type: ignore[unused-awaitable]
    User.create_table()  # type: ignore[unused-awaitable]
    user.save()  # type: ignore[unused-awaitable]
    user.delete_instance()  # type: ignore[unused-awaitable]
    user.rename()  # type: ignore[unused-awaitable]
    user.describe()  # type: ignore[unused-awaitable]
    User.select()  # type: ignore[unused-awaitable]
    User.select().exists()  # type: ignore[unused-awaitable]
    User.select().count()  # type: ignore[unused-awaitable]
    User.select().first()  # type: ignore[unused-awaitable]
    User.select().scalar()  # type: ignore[unused-awaitable]
    User.select().dicts().get()  # type: ignore[unused-awaitable]
    User.update(name="Huey")  # type: ignore[unused-awaitable]
    User.delete().execute()  # type: ignore[unused-awaitable]
    User.insert(name="Huey").execute()  # type: ignore[unused-awaitable]
    prefetch(User.select())  # type: ignore[unused-awaitable]
    model_to_dict(User())  # type: ignore[unused-awaitable]
    db.create_tables([User])  # type: ignore[unused-awaitable]
    db.execute_sql("SELECT 1")  # type: ignore[unused-awaitable]
    db.connect()  # type: ignore[unused-awaitable]
    db.close()  # type: ignore[unused-awaitable]
    db.commit()  # type: ignore[unused-awaitable]
    db.run(print)  # type: ignore[unused-awaitable]
    proxy.run(print)  # type: ignore[unused-awaitable]
    proxy.create_tables([User])  # type: ignore[unused-awaitable]
    aio(print)  # type: ignore[unused-coroutine]
    transfer()  # type: ignore[unused-coroutine]
    transfer_plainly()  # type: ignore[unused-awaitable]
    async with db.atomic() as txn:
        txn.commit()  # type: ignore[unused-awaitable]
