"""An event loop that is started on a worker is refused before anything is done there."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from async_peewee import BlockingCallError, PoolClosed, aio, prefetch
from tests.support import Maker, Models, worker_threads

Runner = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


def in_new_loop(main: Any) -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def under_uvloop(main: Any) -> Any:
    return pytest.importorskip("uvloop").run(main())


def under_trio(main: Any) -> Any:
    return importlib.import_module("trio").run(main)


RUNNERS: dict[str, Runner] = {
    "asyncio": lambda main: asyncio.run(main()),
    "a loop": in_new_loop,
    "uvloop": under_uvloop,
    "trio": under_trio,
}


async def block(models: Models) -> None:
    async with models.database.atomic():
        await models.User.create(name="x")


async def plain_block(models: Models) -> None:
    with models.database.atomic():
        await models.User.create(name="x")


async def opened(models: Models) -> None:
    async with models.database:
        await models.User.create(name="x")


async def rows(models: Models) -> None:
    async for _ in models.User.select():
        pass


async def stream(models: Models) -> None:
    async for _ in models.User.select().iterator():
        pass


def uncalled() -> None:
    pytest.fail("it was called")


def write(models: Models) -> None:
    models.User.create(name="x")


CALLS: dict[str, Callable[[Models], Any]] = {
    "create": lambda m: m.User.create(name="x"),
    "save": lambda m: m.User(name="x").save(),
    "query": lambda m: m.User.insert(name="x"),
    "scalar": lambda m: m.User.select().count(),
    "SQL": lambda m: m.database.execute_sql("INSERT INTO users (name, age) VALUES ('x', 0)"),
    "run": lambda m: m.database.run(write, m),
    "aio": lambda m: aio(m.User.insert(name="x")),
    "function": lambda m: m.database.atomic()(write)(m),
    "function that writes nothing": lambda m: m.database.run(uncalled),
    "decorated": lambda m: m.database.connection_context()(uncalled)(),
    "prefetch": lambda m: prefetch(m.User.select(), m.Tweet),
    "connect": lambda m: m.database.connect(),
    "close": lambda m: m.database.close(),
    "reference": lambda m: m.Tweet(user=1).user,
    "block": block,
    "plain block": plain_block,
    "opened": opened,
    "rows": rows,
    "stream": stream,
}


@pytest.mark.parametrize("runner", RUNNERS)
async def test_a_loop_on_a_worker_is_refused(make_database: Maker, runner: str) -> None:
    """The error says what to write, nothing is written, and no pool is left for that loop."""
    async with make_database(pool_size=2) as database:
        models = Models(database)
        await database.create_tables(models.all)

        def legacy(call: Callable[[Models], Any]) -> Any:
            async def main() -> Any:
                return await call(models)

            return RUNNERS[runner](main)

        for name, call in CALLS.items():
            with pytest.raises(BlockingCallError, match=r"was started on a worker.*write instead"):
                pytest.fail(f"{name}: {await database.run(legacy, call)!r}")
        assert await models.User.select().count() == 0
        assert len(database.connections.pools.all_open()) == 1
        assert len(worker_threads()) <= 2


async def test_what_a_function_does_besides_is_not_refused(make_database: Maker) -> None:
    """Before and after such a loop, and in one that leaves the database alone; in a block as well."""
    async with make_database() as database:
        models = Models(database)
        await database.create_tables(models.all)

        async def elsewhere() -> str:
            await asyncio.sleep(0)
            return "from a loop"

        def work() -> None:
            models.User.create(name="before")
            models.User.create(name=asyncio.run(elsewhere()))
            with database.atomic():
                models.User.create(name="after")

        async with database.atomic():
            await database.run(work)
            assert await models.User.select().count() == 3


async def test_a_loop_on_another_databases_worker(make_database: Maker) -> None:
    """It would wait for that database's worker; it is refused there too."""
    async with make_database() as database, make_database() as other:
        models = Models(database)
        await database.create_tables(models.all)

        async def main() -> None:
            await models.User.create(name="x")

        with pytest.raises(BlockingCallError, match="was started on a worker"):
            await other.run(lambda: asyncio.run(main()))
        assert await models.User.select().count() == 0


async def test_a_function_that_is_refused_in_a_block_leaves_the_block_usable(make_database: Maker) -> None:
    async with make_database() as database:
        models = Models(database)
        await database.create_tables(models.all)
        async with database.atomic():
            await models.User.create(name="a")
            with pytest.raises(BlockingCallError):
                await database.run(lambda: asyncio.run(block(models)))
            await models.User.create(name="b")
        assert await models.User.select().count() == 2
    with pytest.raises(PoolClosed):
        await models.User.select()
