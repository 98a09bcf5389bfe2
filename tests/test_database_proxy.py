"""AsyncDatabaseProxy: before and after initialize(), and models on a plain DatabaseProxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peewee
import pytest

from async_peewee import (
    AsyncDatabaseProxy,
    AsyncModel,
    AsyncSqliteDatabase,
    BlockingCallError,
    ConfigurationError,
)


def model_on(proxy: Any) -> Any:
    class User(AsyncModel):
        name = peewee.TextField()

        class Meta:
            database = proxy

    return User


async def test_everything_of_the_database_goes_through_the_proxy(tmp_path: Path) -> None:
    """The blocks, the decorators made before initialize(), streams, run(), stats() and after_commit()."""
    proxy = AsyncDatabaseProxy()
    User = model_on(proxy)
    done: list[str] = []

    @proxy.atomic()
    async def create(name: str) -> None:
        await User.create(name=name)
        proxy.after_commit(lambda: done.append(name))

    @proxy.transaction()
    def create_natively(name: str) -> Any:
        return User.create(name=name)

    proxy.initialize(AsyncSqliteDatabase(tmp_path / "a.db", pool_size=2))
    async with proxy as entered:
        assert entered is proxy
        await proxy.create_tables([User])
        await create("a")
        await create_natively("b")
        with pytest.raises(ValueError, match="outer"):
            async with proxy.atomic() as txn:
                await User.create(name="c")
                await txn.commit()
                async with proxy.savepoint():
                    await User.create(name="lost")
                assert proxy.in_transaction()
                raise ValueError("outer")
        async with proxy.manual_commit():
            await proxy.begin()
            await User.create(name="lost too")
            await proxy.rollback()
        async with proxy.connection_context(), proxy.atomic_async():
            assert [user.name async for user in User.select().order_by(User.name).iterator()] == [
                "a",
                "b",
                "c",
            ]
        assert await proxy.run(lambda: User.select().count()) == 3
        assert proxy.stats().pool_size == 2
        assert done == ["a"]
    assert proxy.is_closed()
    assert await proxy.connect() is True
    assert await proxy.close() is True


async def test_a_proxy_that_stands_for_nothing_says_so(anyio_backend: Any) -> None:
    proxy = AsyncDatabaseProxy()
    for use in (lambda: proxy.connect(), lambda: proxy.execute_sql("SELECT 1"), lambda: proxy.stats()):
        with pytest.raises(ConfigurationError, match=r"write first: proxy\.initialize"):
            use()
    with pytest.raises(ConfigurationError, match="async with"):
        async with proxy:
            pass
    with pytest.raises(ConfigurationError, match="stands for nothing yet"):
        async with proxy.atomic():
            pass
    assert not hasattr(proxy, "__deepcopy__")


async def test_a_sync_block_of_the_proxy_is_refused_on_the_loop(tmp_path: Path) -> None:
    proxy = AsyncDatabaseProxy()
    proxy.initialize(AsyncSqliteDatabase(tmp_path / "a.db"))
    for block in (proxy, proxy.atomic()):
        with pytest.raises(BlockingCallError, match="async with db"), block:
            pass


async def test_models_of_the_proxys_own_base_class(tmp_path: Path) -> None:
    """`proxy.Model`, as Peewee has it, is an asynchronous one."""
    proxy = AsyncDatabaseProxy()

    class User(proxy.Model):  # type: ignore[name-defined, misc]
        name = peewee.TextField()

    proxy.initialize(AsyncSqliteDatabase(tmp_path / "a.db"))
    async with proxy:
        await User.create_table()
        await User.create(name="a")
        assert [user.name for user in await User.select()] == ["a"]


async def test_models_on_a_plain_proxy_of_an_asynchronous_database(tmp_path: Path) -> None:
    """Calls, streams and relations work; its blocks are refused, the database's own are used."""
    proxy, database = peewee.DatabaseProxy(), AsyncSqliteDatabase(tmp_path / "a.db")
    User = model_on(proxy)
    proxy.initialize(database)
    async with database:
        await User.create_table()
        with pytest.raises(ValueError, match="outer"):
            async with database.atomic():
                await User.create(name="lost")
                raise ValueError("outer")
        await User.create(name="a")
        assert [user.name async for user in User.select().iterator()] == ["a"]
        with pytest.raises(BlockingCallError), proxy.atomic():
            pass


def test_a_proxy_serves_synchronous_code_too(tmp_path: Path) -> None:
    proxy = AsyncDatabaseProxy()
    User = model_on(proxy)
    proxy.initialize(AsyncSqliteDatabase(tmp_path / "a.db"))
    with proxy.connection_context(), proxy.atomic():
        User.create_table()
        User.create(name="a")
        assert User.select().count() == 1


async def test_a_dead_transaction_is_noticed_through_the_proxy(tmp_path: Path) -> None:
    """What the database has rolled back is not committed on the way out, and the block says so."""
    proxy = AsyncDatabaseProxy()
    proxy.initialize(AsyncSqliteDatabase(tmp_path / "a.db"))
    async with proxy:
        with pytest.raises(peewee.OperationalError, match="already rolled back"):
            async with proxy.atomic():
                await proxy.execute_sql("ROLLBACK")
        async with proxy.atomic():
            await proxy.execute_sql("CREATE TABLE t (x)")
        assert await proxy.get_tables() == ["t"]
