"""A child task that writes outside its parent's open transaction is warned of, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal

import anyio
import peewee
import pytest

from async_peewee import OutsideTransactionWarning, aio, blocking
from tests.reliability.test_blocks_owned import models_of, names
from tests.reliability.test_made_in_a_block import in_child
from tests.support import Maker, Models, on_asyncio, on_databases

Write = Callable[[Models], Awaitable[Any]]


def block_of(models: Models) -> Any:
    """Return a transaction beside which SQLite lets others write, until it writes itself."""
    is_sqlite = isinstance(models.database, peewee.SqliteDatabase)
    return models.database.atomic(*["DEFERRED"] if is_sqlite else [])


@contextlib.contextmanager
def heard(action: Literal["default", "always"] = "default") -> Iterator[Any]:
    """Give the warnings that Python's own filters let through."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        yield caught


def insert(models: Models) -> None:
    with models.database.atomic():
        models.User.create(name="child")


async def own_block(models: Models) -> None:
    async with models.database.atomic():
        await models.User.create(name="child")


async def own_deferred_block(models: Models) -> None:
    async with block_of(models), models.database.atomic():
        await models.User.create(name="child")


async def own_connection(models: Models) -> None:
    async with models.database.connection_context():
        await models.User.create(name="child")


async def decorated(models: Models) -> None:
    await models.database.atomic()(insert)(models)


async def decorated_async(models: Models) -> None:
    @models.database.atomic()
    async def service() -> None:
        await models.User.create(name="child")

    await service()


async def in_a_blocking_method(models: Models) -> None:
    class Person(models.User):  # type: ignore[misc, name-defined]
        class Meta:
            table_name = "users"

        @blocking
        def join(self) -> int:
            return int(self.save())

    await Person(name="child").join()


async def handed_over(models: Models) -> None:
    async def grandchild(connection: Any) -> None:
        async with connection:
            await models.User.create(name="child")

    async with models.database.connection_context():
        await in_child(grandchild(models.database.share_connection()))


async def of_a_grandchild(models: Models) -> None:
    await in_child(models.User.create(name="child"))


async def with_wait_for(models: Models) -> None:
    with anyio.fail_after(20):
        await models.User.create(name="child")


WRITES: dict[str, Write] = {
    "create": lambda m: m.User.create(name="child"),
    "save": lambda m: m.User(name="child").save(),
    "query": lambda m: m.User.insert(name="child"),
    "raw": lambda m: m.User.raw("INSERT INTO users (name, age) VALUES ('child', 0)").execute(),
    "SQL": lambda m: m.database.execute_sql("INSERT INTO users (name, age) VALUES ('child', 0)"),
    "get_or_create": lambda m: m.User.get_or_create(name="child"),
    "run": lambda m: m.database.run(insert, m),
    "aio": lambda m: aio(m.User.insert(name="child").execute),
    "blocking": in_a_blocking_method,
    "atomic": own_block,
    "nested": own_deferred_block,
    "connection_context": own_connection,
    "decorated": decorated,
    "decorated async": decorated_async,
    "handed over": handed_over,
    "grandchild": of_a_grandchild,
    "cancel scope": with_wait_for,
}


async def test_a_write_outside_is_warned_of_before_it_waits(make_database: Maker) -> None:
    """As an error it stops the call: nothing is written, and on SQLite nobody waits for the lock."""
    async with models_of(make_database) as models:

        async def child(write: Write) -> None:
            await write(models)

        await models.database.run(insert, models)  # from now on it is known to write
        await models.User.delete()
        async with models.database.atomic():
            await models.User.create(name="parent")
            for form, write in WRITES.items():
                for _ in range(2):  # what is seen to write is known the second time
                    with pytest.raises(OutsideTransactionWarning, match=r"outside the atomic\(\)"):
                        pytest.fail(f"{form}: {await in_child(child(write))!r}")
        assert await names(models) == {"parent"}


async def test_each_place_is_shown_once(make_database: Maker) -> None:
    """With file and line of the call, whatever the task is called and how often it runs."""
    async with models_of(make_database) as models:

        async def child(name: str) -> None:
            await models.User.create(name=name)
            await models.User.update(age=1).where(models.User.name == name)

        with heard() as caught:
            async with block_of(models):
                for number in range(3):
                    await in_child(child(str(number)))
        here, line = child.__code__.co_filename, child.__code__.co_firstlineno
        assert [(each.filename, each.lineno) for each in caught] == [(here, line + 1), (here, line + 2)]
        assert [str(each.message).partition(" writes")[0] for each in caught] == [
            "User.create()",
            "User.update().execute()",
        ]
        assert all(each.category is OutsideTransactionWarning for each in caught)
        assert await names(models) == {"0", "1", "2"}


async def test_a_block_of_the_childs_own_is_one_place(make_database: Maker) -> None:
    """It is warned of where it is entered, once for all that is written in it."""
    async with models_of(make_database) as models:

        async def child() -> None:
            async with block_of(models):
                await models.User.create(name="a")
                await models.User.create(name="b")

        with heard("always") as caught:
            async with block_of(models):
                await in_child(child())
        assert [each.lineno for each in caught] == [child.__code__.co_firstlineno + 1]
        assert await names(models) == {"a", "b"}


async def test_in_a_connection_of_the_childs_own_each_call_is_a_place(make_database: Maker) -> None:
    async with models_of(make_database) as models:

        async def child() -> None:
            async with models.database.connection_context():
                await models.User.create(name="a")
                await models.User.insert(name="b")

        with heard() as caught:
            async with block_of(models):
                await in_child(child())
        line = child.__code__.co_firstlineno
        assert [each.lineno for each in caught] == [line + 2, line + 3]
        assert str(caught[0].message).startswith("User.create() writes")


@on_databases("sqlite", "psycopg2", "psycopg3")
async def test_a_stream_that_writes(make_database: Maker) -> None:
    """Of its rows, and raw; one that reads is not warned of."""
    async with models_of(make_database) as models:
        User = models.User

        async def child(query: Any) -> list[Any]:
            return [row async for row in query.clone().iterator()]

        raw = User.raw("INSERT INTO users (name, age) VALUES ('x', 0) RETURNING id")
        queries = User.insert(name="child").returning(User.id), raw
        async with models.database.atomic():
            await User.create(name="parent")
            for query in queries:
                with pytest.raises(OutsideTransactionWarning, match="iterator"):
                    await in_child(child(query))
        assert await names(models) == {"parent"}


# -- who is not warned of ---------------------------------------------------------------


async def reads(models: Models) -> None:
    User = models.User
    await User.get_or_none(User.name == "parent")
    await User.select()
    await models.database.run(lambda: list(User.select()))
    await models.database.execute_sql("SELECT 1")
    await in_child(models.database.table_exists("users"))
    async for _ in User.select().iterator():
        pass
    async with block_of(models):
        await User.select().count()
    async with models.database.connection_context():
        await User.select().count()


async def test_reads_are_not_warned_of(make_database: Maker) -> None:
    async with models_of(make_database) as models, models.database.atomic():
        await in_child(reads(models))


async def test_what_belongs_to_the_block_is_not_warned_of(make_database: Maker) -> None:
    """Calls and queries that the parent makes, and whatever a child does on a connection handed over."""
    async with models_of(make_database) as models:

        async def child(connection: Any) -> None:
            async with connection:
                await models.User.create(name="handed over")
                await in_child(models.User.create(name="and on"))
                async with models.database.atomic():
                    await models.User.create(name="savepoint")

        async with models.database.atomic():
            await in_child(models.User.create(name="call"))
            await in_child(models.User.insert(name="query"))
            await in_child(child(models.database.share_connection()))
        assert len(await names(models)) == 5


@pytest.mark.parametrize("around", ["connection_context", "another database", "none"])
async def test_outside_of_no_transaction_of_this_database(make_database: Maker, around: str) -> None:
    async with models_of(make_database) as models, models_of(make_database) as others:
        block: Any = {
            "connection_context": models.database.connection_context,
            "another database": lambda: block_of(others),
            "none": contextlib.nullcontext,
        }[around]()
        async with block:
            await in_child(own_block(models))
        assert await names(models) == {"child"}


async def test_the_parents_block_has_ended(make_database: Maker) -> None:
    """A task that outlives it is on its own, with a call that it made before."""
    async with models_of(make_database) as models:
        begun, ended, done = anyio.Event(), anyio.Event(), anyio.Event()

        async def child() -> None:
            call = models.User.create(name="made before")
            begun.set()
            await ended.wait()
            await call
            await models.User.create(name="made after")
            done.set()

        async with anyio.create_task_group() as group, models.database.connection_context():
            async with models.database.atomic():
                group.start_soon(child)
                await begun.wait()
                stream = models.User.select().iterator()
            ended.set()
            await done.wait()
            del stream  # it keeps what is known of its block
        assert await names(models) == {"made before", "made after"}


async def test_a_sibling_is_no_parent(make_database: Maker) -> None:
    """Nor does it matter which worker has served a child before."""
    async with models_of(make_database, pool_size=2) as models:
        entered, written = anyio.Event(), anyio.Event()

        async def hold() -> None:
            async with block_of(models):
                await in_child(reads(models))
                entered.set()
                await written.wait()

        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            await entered.wait()
            await models.User.create(name="free")
            await in_child(models.User.create(name="free too"))
            written.set()


async def test_a_context_of_its_own_is_no_child(make_database: Maker) -> None:
    """The way to say that a task is meant to be on its own, and how frameworks start theirs."""
    async with models_of(make_database) as models:
        done = anyio.Event()

        async def background() -> None:
            await models.User.create(name="background")
            done.set()

        async with anyio.create_task_group() as group, block_of(models):
            contextvars.Context().run(group.start_soon, background)
            await done.wait()


# -- asyncio.wait_for() -----------------------------------------------------------------


@on_asyncio
@on_databases("sqlite", "psycopg2")
async def test_wait_for_makes_a_child_task_before_python_3_12(make_database: Maker) -> None:
    """There the service's rows would stay; what it is given that was made here is inside anyway."""
    async with models_of(make_database) as models:

        async def service() -> None:
            await models.User.create(name="service")

        with pytest.raises(KeyError):
            async with models.database.atomic():
                await asyncio.wait_for(models.User.create(name="call"), 20)
                await asyncio.wait_for(models.User.insert(name="query"), 20)
                if sys.version_info >= (3, 12):
                    await asyncio.wait_for(service(), 20)
                else:
                    with pytest.raises(OutsideTransactionWarning, match=r"wait_for\(\) makes a child task"):
                        await asyncio.wait_for(service(), 20)
                raise KeyError
        assert await names(models) == set()
