"""What happens between us and the server: COMMIT under way, statements sent once, cancels that hang."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import peewee
import pytest

from async_peewee import AsyncPostgresqlDatabase, aio
from async_peewee._pool import deadlines
from tests.proxy import Proxy, proxied
from tests.support import Models, Server, wait_until


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """Return a proxy in front of the server."""
    with proxied(server) as proxy:
        yield proxy


@pytest.fixture(params=["psycopg2", "psycopg3"])
def through_proxy(request: pytest.FixtureRequest, server: Server, proxy: Proxy) -> Any:
    """Return a database that connects through the proxy."""
    pytest.importorskip("psycopg" if request.param == "psycopg3" else "psycopg2")
    options = {**proxy.connect_params(server), "prefer_psycopg3": request.param == "psycopg3"}
    return AsyncPostgresqlDatabase(proxy.database, **options)


async def seen(proxy: Proxy) -> None:
    assert await anyio.to_thread.run_sync(proxy.seen.wait, 5)


async def committed(server: Server) -> None:
    """Wait until another connection sees the one row."""
    await wait_until(lambda: server.query(f"SELECT count(*) FROM {server.name}.users") == [(1,)])


async def test_commit_is_not_interrupted(
    through_proxy: Any, proxy: Proxy, server: Server, anyio_backend: Any
) -> None:
    """Cancelled while COMMIT is under way, the block ends committed, and nothing says otherwise."""
    async with through_proxy as database:
        models = Models(database)
        await database.create_tables(models.all)
        after: list[str] = []

        async def block() -> None:
            async with database.atomic():
                await models.User.create(name="kept")
                proxy.watch(b"COMMIT")
            after.append("the block has ended")
            await anyio.sleep(0)
            after.append("and nothing has stopped the task")

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(block)
                await seen(proxy)
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await committed(server)
                    await anyio.sleep(0.1)  # time for an interrupt, if there were one
                    assert after == []
                    proxy.replies.set()
        assert scope.cancelled_caught
        assert after == ["the block has ended"]
        assert await models.User.select().count() == 1


async def test_commit_is_not_interrupted_by_task_cancel(
    through_proxy: Any, proxy: Proxy, anyio_backend: Any
) -> None:
    """Natively cancelled, the block raises CancelledError after COMMIT has been answered."""
    if anyio_backend[0] == "trio":
        return
    async with through_proxy as database:
        models = Models(database)
        await database.create_tables(models.all)

        async def block() -> None:
            async with database.atomic():
                await models.User.create(name="kept")
                proxy.watch(b"COMMIT")

        task = asyncio.create_task(block())
        await seen(proxy)
        task.cancel()
        await asyncio.sleep(0.2)
        assert not task.done()
        proxy.replies.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await models.User.select().count() == 1


async def test_an_explicit_commit_is_neither_interrupted_nor_cut(
    through_proxy: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late its answer, the task waits for it; its connection stays, and the block goes on."""
    monkeypatch.setattr(deadlines, "GRACE", 0.1)
    async with through_proxy as database:
        models = Models(database)
        await database.create_tables(models.all)

        async def answer_late() -> None:
            await seen(proxy)
            scope.cancel()
            await anyio.sleep(0.5)
            proxy.replies.set()

        async with anyio.create_task_group() as group, database.atomic() as transaction:
            await models.User.create(name="first")
            proxy.watch(b"COMMIT")
            group.start_soon(answer_late)
            with anyio.CancelScope() as scope:
                await transaction.commit()
            assert scope.cancelled_caught
            await models.User.create(name="second")
        assert await models.User.select().count() == 2


async def test_a_statement_is_sent_once(through_proxy: Any, proxy: Proxy, server: Server) -> None:
    """Its reply lost with the connection, an INSERT is not sent again, and its outcome is called unknown."""
    async with through_proxy as database:
        models = Models(database)
        await database.create_tables(models.all)
        proxy.watch(b"INSERT INTO")

        async def cut() -> None:
            await seen(proxy)
            await committed(server)
            proxy.cut()

        async with anyio.create_task_group() as group:
            group.start_soon(cut)
            with pytest.raises(peewee.OperationalError, match="unknown"):
                await models.User.create(name="once")
        sent = b"".join(proxy.sent)
        assert sent.count(b"INSERT INTO") == 1
        assert await models.User.select().count() == 1


async def test_commit_whose_reply_is_lost_is_called_unknown(
    through_proxy: Any, proxy: Proxy, server: Server
) -> None:
    """The server has committed; the error says that this is unknown, and not that it was rolled back."""
    async with through_proxy as database:
        models = Models(database)
        await database.create_tables(models.all)

        async def cut() -> None:
            await seen(proxy)
            await committed(server)
            proxy.cut()

        async with anyio.create_task_group() as group:
            group.start_soon(cut)
            with pytest.raises(peewee.OperationalError, match="COMMIT.*committed is unknown"):
                async with database.atomic():
                    await models.User.create(name="committed")
                    proxy.watch(b"COMMIT")
        # The server has the COMMIT, and may not have come to it yet.
        with anyio.fail_after(5):
            while await models.User.select().count() != 1:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("manner", ["is_deaf", "is_mute"])
async def test_a_cancel_that_hangs_stops_neither_the_loop_nor_the_task(
    through_proxy: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    """The interrupt's own connection gets no answer, at first or later: the loop ticks, and it is cut."""
    monkeypatch.setattr(deadlines, "GRACE", 0.5)
    gaps: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await anyio.sleep(0.01)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    async with through_proxy as database, anyio.create_task_group() as group:
        await database.execute_sql("SELECT 1")
        group.start_soon(tick)
        proxy.watch(b"pg_sleep")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as calls:
                calls.start_soon(aio, database.execute_sql("SELECT pg_sleep(30)"))
                await seen(proxy)
                setattr(proxy, manner, True)
                start = time.monotonic()
                scope.cancel()
        took = time.monotonic() - start
        setattr(proxy, manner, False)
        proxy.replies.set()
        assert took < 10
        assert max(gaps) < 1  # psycopg2's own cancel() would stop the loop for as long as it hangs
        await wait_until(lambda: database.stats().busy == 0)
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
        group.cancel_scope.cancel()
