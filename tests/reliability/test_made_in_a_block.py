"""What is made in a block belongs to it, whoever awaits it: queries, references, pwasyncio's coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import aio, prefetch
from async_peewee._bridge.entries import blocks_above
from tests.reliability.test_blocks_owned import models_of, names
from tests.support import Maker, Models, on_asyncio, on_databases, wait_until

Made = Callable[[Models], Any]


async def in_child(awaitable: Any) -> Any:
    """Await something in a child task; return or raise what it gives."""
    results: list[Any] = []
    errors: list[Exception] = []

    async def wait() -> None:
        try:
            results.append(await awaitable)
        except Exception as error:  # a group would wrap it in another
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
    for error in errors:
        raise error
    return results[0]


def stream_of(query: Any) -> Any:
    async def collect() -> list[Any]:
        async with query.iterator() as stream:
            return [row async for row in stream]

    return collect()


def rows_of(query: Any) -> Any:
    async def collect() -> list[Any]:
        return [row async for row in query]

    return collect()


def later(call: Callable[[], Any]) -> Any:
    """Return a coroutine that makes a call, of a query that was made before, when it runs."""

    async def make() -> Any:
        return await call()

    return make()


def tweet_of(models: Models) -> Any:
    return models.Tweet(id=7, user=7, text="hi")


def compound_of(models: Models) -> Any:
    User = models.User
    return (User.select(User.name) | User.select(User.name).where(User.age == 0)).order_by(peewee.SQL("name"))


def cte_of(models: Models) -> Any:
    users = models.User.select(models.User.name).cte("u", columns=["name"])
    return users.select_from(users.c.name)


def table_of(models: Models) -> Any:
    return models.User._meta.table.bind(models.database)


def called(query: Any, name: str) -> Any:
    return later(lambda: getattr(query, name)())


def used(make: Made, use: Callable[[Models, Any], Any]) -> Made:
    """Return what makes a query in the block, and uses it when the child runs."""

    def build(models: Models) -> Any:
        query = make(models)
        return later(lambda: use(models, query))

    return build


def users_of(models: Models) -> Any:
    return models.User.select()


# Each sees the one user of the block, who has one tweet.
READS: dict[str, Made] = {
    "select": lambda m: m.User.select(),
    "chained from outside": lambda m: m.before.where(m.User.age == 0),
    "a copy": lambda m: m.before.clone(),
    "raw": lambda m: m.User.raw("SELECT id, name FROM users"),
    "compound": compound_of,
    "cte": cte_of,
    "table": lambda m: table_of(m).select(),
    "alias": lambda m: (u := m.User.alias()).select(u.name),
    "backref": lambda m: m.User(id=7).tweets,
    "joined": lambda m: m.Tweet.select().join(m.User),
    "rows in turn": lambda m: rows_of(m.User.select()),
    "stream": lambda m: stream_of(m.User.select()),
    "aio": lambda m: aio(m.User.select()),
    "aexecute": lambda m: m.User.select().aexecute(),
    "prefetch": used(users_of, lambda m, query: prefetch(query, m.Tweet)),
    "db.execute": used(users_of, lambda m, query: m.database.execute(query)),
    "scalars": lambda m: called(m.User.select(m.User.name), "scalars"),
}

ROWS: dict[str, Made] = {
    "get": lambda m: called(m.User.select(), "get"),
    "count": lambda m: called(m.User.select(), "count"),
    "chained in the child": used(users_of, lambda m, query: query.limit(5).first()),
    "reference": lambda m: tweet_of(m).user,
    "reference by aio": lambda m: aio(tweet_of(m).user),
}


async def fill(models: Models) -> None:
    await models.User.insert(id=7, name="inside")
    await models.Tweet.insert(id=7, user=7, text="hi")


async def test_what_reads_is_inside(make_database: Maker) -> None:
    """It sees the block's row, which nobody outside does."""
    async with models_of(make_database) as models:
        models.before = models.User.select()
        with pytest.raises(KeyError):
            async with models.database.atomic():
                await fill(models)
                for form, make in READS.items():
                    assert len(list(await in_child(make(models)))) == 1, form
                for form, make in ROWS.items():
                    assert await in_child(make(models)), form
                raise KeyError
        assert await names(models) == set()


WRITES: dict[str, Made] = {
    "insert": lambda m: m.User.insert(name="new"),
    "insert_many": lambda m: m.User.insert_many([{"name": "new"}]),
    "insert_from": lambda m: m.User.insert_from(
        m.User.select(peewee.Value("new"), peewee.Value(0)), [m.User.name, m.User.age]
    ),
    "update": lambda m: m.User.update(name="new").where(m.User.id == 7),
    "delete": lambda m: m.Tweet.delete(),
    "table": lambda m: table_of(m).insert(name="new", age=0),
}


async def test_what_writes_is_inside(make_database: Maker) -> None:
    """It goes with the block, and on SQLite does not wait for the lock that the block holds."""
    async with models_of(make_database) as models:
        await fill(models)
        for make in WRITES.values():
            with pytest.raises(KeyError):
                async with models.database.atomic():
                    await models.User.update(age=1)
                    await in_child(make(models))
                    raise KeyError
            assert await names(models) == {"inside"}
            assert await models.Tweet.select().count() == 1


async def test_what_writes_many_to_many_is_inside(make_database: Maker) -> None:
    async with models_of(make_database) as models:

        class Group(models.User.__mro__[1]):  # type: ignore[misc, name-defined]
            users = peewee.ManyToManyField(models.User, backref="groups")

        Member = Group.users.get_through_model()
        for model in (Group, Member):
            model._meta.set_database(models.database)
        await models.database.create_tables([Group, Member])
        user, group = await models.User.create(name="kept"), await Group.create()
        with pytest.raises(KeyError):
            async with models.database.atomic():
                users = group.users
                await in_child(later(lambda: users.add(user)))
                assert len(await in_child(group.users)) == 1
                raise KeyError
        assert await group.users.count() == 0


async def test_a_query_that_a_function_on_a_worker_has_made(make_database: Maker) -> None:
    """Made by a function of the block it belongs to the block; by one outside, to none."""
    async with models_of(make_database) as models, models.database.atomic():
        await fill(models)
        inside = await models.database.run(models.User.select)
        assert len(await in_child(inside)) == 1
        outside = await in_child(later(lambda: models.database.run(models.User.select)))
        assert len(await in_child(outside)) == 0


async def test_what_was_made_before_the_block_is_outside(make_database: Maker) -> None:
    async with models_of(make_database) as models:
        before, again, reference = models.User.select(), models.User.select(), tweet_of(models).user
        async with models.database.atomic():
            await fill(models)
            assert len(await in_child(before)) == 0
            with pytest.raises(models.User.DoesNotExist):
                await in_child(reference)
            assert len(await again) == 1, "the block's own task has a block"


async def test_a_query_outlives_its_block(make_database: Maker) -> None:
    """Awaited when the block has ended it runs like any other; in an inner one, in the block around it."""
    async with models_of(make_database) as models:
        async with models.database.atomic():
            async with models.database.atomic():
                inner, reference = models.User.select(), tweet_of(models).user
            await fill(models)
            assert len(await in_child(inner.clone())) == 1
            assert len(await in_child(inner)) == 1
            kept, stream = models.User.select(), models.User.select().iterator()
        await models.User.create(name="after")
        assert len(await in_child(kept)) == len(await kept.clone()) == 2
        assert (await in_child(reference)).name == "inside"
        async with models.database.atomic():
            await models.User.create(name="second")
            assert len(await in_child(kept.clone())) == 3, "a copy belongs to where it is made"
        del stream  # it keeps what is known of its block


async def test_a_task_that_has_nothing_to_do_with_the_block(make_database: Maker) -> None:
    """What it is handed belongs to the block; what it builds from that itself does not."""
    async with models_of(make_database) as models:
        send, receive = anyio.create_memory_object_stream[Any](2)
        counts: list[int] = []

        async def consume() -> None:
            async with receive:
                async for query in receive:
                    counts.append(len(await query.limit(5)))
                    counts.append(len(await query))

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            async with send, models.database.atomic():
                await fill(models)
                await send.send(models.User.select())
                await send.send(models.User.select().order_by(models.User.id))
                await wait_until(lambda: len(counts) == 4)
        assert counts == [0, 1, 0, 1]


async def test_a_task_with_a_block_of_its_own_is_in_that(make_database: Maker) -> None:
    async with models_of(make_database) as models:

        async def child(query: Any) -> int:
            async with models.database.connection_context():
                return len(await query)

        async with models.database.atomic():
            await fill(models)
            assert await in_child(child(models.User.select())) == 0


async def test_of_two_databases_each_query_is_in_its_own_block(make_database: Maker) -> None:
    async with contextlib.AsyncExitStack() as stack:
        models = await stack.enter_async_context(models_of(make_database))
        others = await stack.enter_async_context(models_of(make_database))
        await stack.enter_async_context(models.database.atomic())
        await fill(models)
        async with others.database.connection_context():
            for query, rows in ((models.User.select(), 1), (others.User.select(), 0)):
                assert len(await in_child(query)) == rows
            own, other = models.User.select(), others.User.select()
        assert len(await in_child(own)) == 1
        assert len(await in_child(other)) == 0


@pytest.mark.parametrize("ends", ["left", "with its task"])
async def test_a_kept_query_keeps_no_block_alive(make_database: Maker, ends: str) -> None:
    """Nor its task, nor its connection."""
    async with models_of(make_database) as models:
        kept: list[Any] = []
        gone: list[weakref.ReferenceType[Any]] = []

        async def hold() -> None:
            async with contextlib.AsyncExitStack() as stack:
                block = models.database.atomic()
                await stack.enter_async_context(block)
                entry = models.database.connections.current()
                gone.extend([weakref.ref(entry), entry.task])
                kept.extend([models.User.select(), tweet_of(models).user, models.User.select().iterator()])
                del entry
                if ends == "with its task":
                    stack.pop_all()
                    return

        async with anyio.create_task_group() as group:
            group.start_soon(hold)
        del group
        del kept[2]  # a stream has its block, as ever
        await anyio.lowlevel.checkpoint()
        gc.collect()
        assert [reference() for reference in gone] == [None, None]
        assert len(await kept[0]) == 0


async def test_a_chain_of_tasks_keeps_no_entries(make_database: Maker) -> None:
    """Each begins the next inside its block, when the block that it was begun in has ended."""
    async with models_of(make_database) as models:
        above: list[int] = []

        async def run(group: Any, number: int, entered: anyio.Event, before_ended: anyio.Event) -> None:
            ended, next_entered = anyio.Event(), anyio.Event()
            async with models.database.connection_context():
                above.append(len(blocks_above()))
                entered.set()
                await before_ended.wait()
                if number:
                    group.start_soon(run, group, number - 1, next_entered, ended)
                    await next_entered.wait()
            ended.set()

        before = anyio.Event()
        before.set()
        async with anyio.create_task_group() as group:
            group.start_soon(run, group, 10, anyio.Event(), before)
        assert above == [0] + [1] * 10


# -- asyncio's own ways of making a task -------------------------------------------------


def wait_for(awaitable: Any) -> Any:
    return asyncio.wait_for(awaitable, 20)


async def create_task(awaitable: Any) -> Any:
    return await asyncio.create_task(aio(awaitable))


async def gather(awaitable: Any) -> Any:
    return (await asyncio.gather(awaitable))[0]


@on_asyncio
@on_databases("sqlite", "psycopg2")
@pytest.mark.parametrize("start", [wait_for, create_task, gather])
async def test_asyncios_own_tasks(make_database: Maker, start: Callable[[Any], Any]) -> None:
    async with models_of(make_database) as models:
        with pytest.raises(KeyError):
            async with models.database.atomic():
                await fill(models)
                assert len(await start(models.User.select())) == 1
                assert (await start(tweet_of(models).user)).name == "inside"
                await start(models.User.insert(name="new"))
                assert len(await start(models.User.raw("SELECT id FROM users"))) == 2
                raise KeyError
        assert await names(models) == set()
