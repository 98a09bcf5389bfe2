"""PendingCall and aio(): what was called and not awaited yet, and what may be done with it."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import itertools
import operator
import pickle
import re
import threading
import unittest
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path
from typing import Any

import anyio
import peewee
import pytest

from async_peewee import (
    AsyncDatabaseProxy,
    AsyncModel,
    AsyncSqliteDatabase,
    BlockingCallError,
    PendingCall,
    aio,
)
from tests.support import Models, in_thread, on_asyncio, on_trio

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def work(x: int = 1, *, y: int = 1) -> tuple[int, str]:
    """Return a product and the name of the thread that computed it."""
    return x * y, threading.current_thread().name


def unpack(value: Any) -> None:
    _first, _second = value


def store(value: Any) -> None:
    value.name = "Zaizee"


MISUSES: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda value: value.name,
    "attribute with a default": lambda value: getattr(value, "name", None),
    "setting an attribute": store,
    "truth": bool,
    "not": lambda value: not value,
    "equal": lambda value: value == 1,
    "unequal": lambda value: value != 1,
    "order": lambda value: value < 1,
    "str": str,
    "format": lambda value: f"{value}",
    "percent": lambda value: "%s" % value,  # noqa: UP031
    "int": int,
    "float": float,
    "index": lambda value: [1, 2][value],
    "len": len,
    "for": list,
    "unpacking": unpack,
    "in": lambda value: 1 in value,
    "item": lambda value: value[0],
    "sum": lambda value: value + 1,
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
async def test_misuse_says_await_it_first(sqlite_models: Models, misuse: Callable[[Any], Any]) -> None:
    """What only makes sense of the result raises, for a pending call and for a row not loaded yet."""
    reference = sqlite_models.Tweet(user=1).user
    with closing(sqlite_models.User.get(name="Huey")) as call:
        for value, name in ((call, "User.get()"), (reference, "Tweet.user")):
            said = rf"{re.escape(name)} before it was awaited.*await it first"
            with pytest.raises(BlockingCallError, match=said):
                misuse(value)


def match_row(value: Any, row: Any) -> bool:
    match value:
        case peewee.Model():
            return True
    return False


def match_value(value: Any, row: Any) -> bool:
    match (value, row):
        case (0, _) | (int(), _):
            return True
    return False


class ById:
    """A user's class whose equality looks at the other's class, as most do."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and id(self) == id(other)

    __hash__ = object.__hash__


COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "equal": lambda value, row: row == value,
    "unequal": lambda value, row: row != value,
    "order": lambda value, row: row < value,
    "with a class of one's own": lambda value, row: ById() == value,
    "with a number": lambda value, row: operator.eq(1, value),
    "with None": lambda value, row: operator.eq(None, value),
    "inside tuples": lambda value, row: (row, 1) == (value, 1),
    "in a list": lambda value, row: value in [row, 1],
    "in a set": lambda value, row: value in {row, 1},
    "index": lambda value, row: [row].index(value),
    "count": lambda value, row: [row].count(value),
    "remove": lambda value, row: [row].remove(value),
    "assertEqual": lambda value, row: unittest.TestCase().assertEqual(row, value),  # noqa: PT009
    "sorted": lambda value, row: sorted([value, value]),
    "groupby": lambda value, row: list(itertools.groupby([row, value])),
    "set": lambda value, row: {value},
    "dict": lambda value, row: {value: 1},
    "look-up": lambda value, row: {row: 1}.get(value),
    "Counter": lambda value, row: Counter([value]),
    "lru_cache": lambda value, row: cache(repr)(value),
    "match of a class": match_row,
    "match of a value": match_value,
}


@pytest.mark.parametrize("compare", COMPARED.values(), ids=COMPARED)
async def test_comparison_says_await_it_first(
    sqlite_models: Models, compare: Callable[[Any, Any], Any]
) -> None:
    """On either side, as a key and by pattern: a wrong answer about a permission would go unnoticed."""
    plain = type("Plain", (peewee.Model,), {})
    for row in (sqlite_models.User(id=1), plain(id=1)):
        reference = sqlite_models.Tweet(user=1).user
        with closing(sqlite_models.User.get(name="Huey")) as call:
            for value in (call, reference):
                with pytest.raises(BlockingCallError, match="before it was awaited.*await it first"):
                    compare(value, row)


async def test_a_reference_names_its_key(sqlite_models: Models) -> None:
    """Which is at hand, and all that many a comparison needs."""
    tweet = sqlite_models.Tweet(user=1)
    with pytest.raises(BlockingCallError, match=r"its key alone, Tweet\.user_id, needs no query"):
        assert sqlite_models.User(id=1) == tweet.user
    assert tweet.user_id == 1


async def test_a_query_is_compared_with_queries_alone(sqlite_models: Models) -> None:
    """One that Peewee makes no SQL of is refused, until it has rows; Peewee's own meanings go on."""
    User = sqlite_models.User
    huey = await User.create(name="Huey")
    update, returning = User.update(age=1), User.update(age=1).returning(User)
    refused: list[Callable[[], Any]] = [
        lambda: update == 1,
        lambda: operator.ne(1, update),
        lambda: User.raw("SELECT 1") == [huey],
        lambda: huey == User.select(),
        lambda: User.select() in [huey, 1],
        lambda: update in [huey, 1],
    ]
    for compare in refused:
        said = r"comparing User\.\w+\(\) before it was awaited.*await it first"
        with pytest.raises(BlockingCallError, match=said):
            compare()
        assert isinstance(await sqlite_models.database.run(compare), bool)
    assert [User.delete(), update].index(update) == 1
    assert isinstance(User.age == update, peewee.Expression)
    assert isinstance(User.select(User.age) == 1, peewee.Expression)
    assert len(await returning) == 1
    assert (returning == 1, huey == returning) == (False, False)


async def test_what_awaits_may_ask_and_hash(sqlite_models: Models) -> None:
    """A reference is no row yet, and says so; code that looks for something to await gets its answer."""
    reference: Any = sqlite_models.Tweet(user=1).user
    assert not isinstance(reference, sqlite_models.User)
    assert reference.__class__ is type(reference)
    match reference:
        case Awaitable():
            return
    pytest.fail("a reference can be awaited")


async def test_a_forgotten_await_is_never_stored(sqlite_models: Models) -> None:
    """As the value of a text, of a number, of a key or in a condition a call raises on the worker."""
    User, Tweet = sqlite_models.User, sqlite_models.Tweet
    refused: list[Callable[[Any], Any]] = [
        lambda call: User.create(name=call),
        lambda call: User.create(name="Huey", age=call),
        lambda call: Tweet.create(user=call, text=""),
        lambda call: User.insert(name=call),
        lambda call: User.update(name=call),
        lambda call: User.select().where(User.name == call),
        lambda call: User.get_or_none(name=call),
        lambda call: User.get_by_id(call),
    ]
    for use in refused:
        with closing(User.get(name="Huey")) as call, pytest.raises(BlockingCallError, match="await it first"):
            await use(call)
    assert await User.select().count() == await Tweet.select().count() == 0


async def test_a_dropped_call_warns_with_its_name_and_what_to_write(sqlite_models: Models) -> None:
    """Nothing was done; the warning says which call, and the line to write instead."""
    User, db = sqlite_models.User, sqlite_models.database
    dropped: dict[str, Callable[[], Any]] = {
        r"User\.create\(": lambda: User.create(name="Huey"),
        r"User\.get_by_id\(": lambda: User[1],
        r"User\.save\(": lambda: User(name="Huey").save(),
        r"User\.select\(\)\.count\(": lambda: User.select().count(),
        r"User\.update\(\)\.execute\(": lambda: User.update(age=1).execute(),
        r"db\.execute_sql\(": lambda: db.execute_sql("DELETE FROM users"),
        r"db\.connect\(": db.connect,
    }
    for name, make in dropped.items():
        said = f"{name}.*never awaited.*nothing was done.*write: await {name}"
        with pytest.warns(RuntimeWarning, match=said):
            make()
    assert await User.select().count() == 0


async def test_a_dropped_function_warns_with_what_to_write(sqlite_db: AsyncSqliteDatabase) -> None:
    """For db.run(work) the line to write is not `await work()`, which would run it on the loop."""
    with pytest.warns(RuntimeWarning, match=r"work.*never awaited.*write: await db\.run\("):
        sqlite_db.run(work)


async def test_a_dropped_aio_warns_like_any_coroutine(sqlite_models: Models) -> None:
    said = "coroutine 'aio' was never awaited"
    with closing(sqlite_models.User.get()) as call, pytest.warns(RuntimeWarning, match=said):
        aio(call)


async def test_building_and_closing_are_silent(sqlite_models: Models) -> None:
    """A query, a row not loaded yet and a call that was closed may be dropped; a closed call stays closed."""
    sqlite_models.User.select().where(sqlite_models.User.age > 1)
    _ = sqlite_models.Tweet(user=1).user
    call = sqlite_models.User.create(name="Huey")
    call.close()
    with pytest.raises(RuntimeError, match="make the call again"):
        await call
    del call
    gc.collect()


async def test_a_call_is_single_use(sqlite_models: Models) -> None:
    """Awaited twice it raises and does nothing; a row not loaded yet can be awaited again."""
    call = sqlite_models.User.create(name="Huey")
    huey = await call
    with pytest.raises(RuntimeError, match=r"User\.create\(\) was awaited already"):
        await call
    assert await sqlite_models.User.select().count() == 1
    await sqlite_models.Tweet.create(user=huey, text="meow")
    reference = (await sqlite_models.Tweet.get()).user
    assert await reference == await reference == huey


async def test_introspection_does_no_harm(sqlite_models: Models) -> None:
    """repr, inspect and hasattr answer; copying and pickling raise a plain TypeError."""
    tweet = sqlite_models.Tweet(user=1)
    with closing(sqlite_models.User.create(name="Huey")) as call:
        introspect(call, tweet)


def introspect(call: Any, tweet: Any) -> None:
    assert repr(call) == "<PendingCall User.create(), not awaited>"
    assert repr(tweet.user) == "<RelatedReference Tweet.user, not awaited>"
    assert isinstance(call, PendingCall)
    assert isinstance(call, Coroutine)
    for value in (call, tweet.user):
        assert inspect.isawaitable(value)
        assert inspect.getmembers(value)
        assert not hasattr(value, "__wrapped__")
        assert not hasattr(value, "_meta")
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="was not awaited"):
                duplicate(value)
    # The reference is not in the instance, which can be copied and pickled like any other.
    assert copy.deepcopy(tweet).user_id == 1
    assert tweet.__rel__ == {}


# -- other tasks ----------------------------------------------------------------------


@on_asyncio
async def test_asyncio_takes_a_call_for_a_coroutine(sqlite_models: Models) -> None:
    """create_task, ensure_future, gather and wait_for take a call; gather takes a query as well."""
    User = sqlite_models.User
    huey = await asyncio.create_task(User.create(name="Huey"))
    mickey = await asyncio.ensure_future(User.create(name="Mickey"))
    assert await asyncio.gather(User.get(name="Huey"), User[mickey.id], User.select().count()) == [
        *(huey, mickey, 2)
    ]
    assert await asyncio.wait_for(User.get(name="Huey"), 5) == huey
    await sqlite_models.Tweet.create(user=huey, text="meow")
    reference = (await sqlite_models.Tweet.get()).user
    assert await asyncio.gather(reference, reference, User.get(name="Huey")) == [huey] * 3
    assert [await each for each in asyncio.as_completed([reference])] == [huey]
    assert [len(rows) for rows in await asyncio.gather(User.select(), User.select().limit(1))] == [2, 1]
    assert asyncio.iscoroutine(call := aio(huey))
    assert await asyncio.create_task(call) is huey


@on_asyncio
async def test_a_task_cancelled_before_it_starts_does_nothing(sqlite_models: Models) -> None:
    """The call neither runs nor complains that nobody awaited it."""
    task = asyncio.create_task(sqlite_models.User.create(name="Huey"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    assert await sqlite_models.User.select().count() == 0


@on_asyncio
async def test_a_call_can_be_sent_to_the_loop_from_a_thread(sqlite_models: Models) -> None:
    call = sqlite_models.User.create(name="Huey")
    loop = asyncio.get_running_loop()
    await in_thread(lambda: asyncio.run_coroutine_threadsafe(call, loop).result(5))
    assert await sqlite_models.User.select().count() == 1


async def test_task_groups_take_aio(sqlite_models: Models) -> None:
    """start_soon(aio, ...) takes a call, a query and a function with its arguments."""
    User = sqlite_models.User
    async with anyio.create_task_group() as group:
        group.start_soon(aio, User.create(name="Huey"))
        group.start_soon(aio, User.insert(name="Mickey"))
        group.start_soon(partial(aio, User.create, name="Zaizee"))
    assert {user.name async for user in User.select()} == {"Huey", "Mickey", "Zaizee"}


@on_trio
async def test_a_nursery_takes_aio_and_says_so_when_given_the_call(sqlite_models: Models) -> None:
    import trio

    User = sqlite_models.User
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aio, User.create(name="Huey"))
        nursery.start_soon(partial(aio, User.create, name="Mickey"))
        with closing(User.get()) as call, pytest.raises(TypeError, match="expecting an async function"):
            nursery.start_soon(call)
    assert await User.select().count() == 2


async def test_a_call_belongs_to_the_task_and_the_moment_that_made_it(sqlite_models: Models) -> None:
    """Made outside a block it does not see the block's rows, made inside it does, whoever awaits it."""
    User, seen = sqlite_models.User, {}

    async def note(name: str, call: Any) -> None:
        seen[name] = await call

    before = User.select().count()
    async with sqlite_models.database.atomic():
        await User.create(name="Huey")
        seen["before"] = await before
        async with anyio.create_task_group() as group:
            group.start_soon(note, "inside", User.select().count())
            group.start_soon(note, "by aio", aio(User.select().count))
            group.start_soon(note, "query", aio(User.select()))
    assert {**seen, "query": len(seen["query"])} == {"before": 0, "inside": 1, "by aio": 1, "query": 1}


async def test_a_call_runs_in_a_copy_of_the_callers_context(sqlite_db: AsyncSqliteDatabase) -> None:
    """It sees the caller's variables; what it sets does not travel back."""

    def swap() -> str:
        seen = tenant.get()
        tenant.set("the worker")
        return seen

    tenant.set("the caller")
    assert await sqlite_db.run(swap) == "the caller"
    assert tenant.get() == "the caller"


# -- aio ------------------------------------------------------------------------------


async def test_aio_gives_the_result_of_anything(sqlite_models: Models) -> None:
    """A call, a query, a function, a coroutine, a loaded, an unloaded and an empty key, a plain value."""
    User, Tweet = sqlite_models.User, sqlite_models.Tweet

    async def coroutine_function(x: int) -> int:
        return x + 1

    huey = await aio(User.create(name="Huey"))
    assert await aio(Tweet.insert(user=huey, text="meow")) == 1
    assert [tweet.text for tweet in await aio(Tweet.select())] == ["meow"]
    assert (await aio(work))[1].endswith("worker 1")
    assert (await aio(work, 6, y=7))[0] == (await aio(partial(work, 6), y=7))[0] == 42
    assert await aio(coroutine_function(1)) == 2
    tweet = await aio(Tweet.get())
    assert tweet.__rel__ == {}
    assert await aio(tweet.user) == huey
    assert tweet.user == huey  # loaded now, and a plain value
    assert await aio(tweet.user) is tweet.user
    for value in (None, 0, "text", [1], huey, User):
        assert await aio(value) is value


async def test_aio_awaits_an_async_function(sqlite_db: AsyncSqliteDatabase) -> None:
    """A function that is async is called where it can run: on the loop, not on a worker."""

    async def double(x: int) -> int:
        return 2 * x

    assert await aio(double, 21) == 42


async def test_aio_executes_a_plain_query_on_an_asynchronous_database(sqlite_models: Models) -> None:
    """A query of Peewee's Table API is not awaitable itself; aio() runs it all the same."""
    await sqlite_models.User.create(name="Huey")
    table = sqlite_models.User._meta.table
    assert [row["name"] for row in await aio(table.select(table.name))] == ["Huey"]


async def test_aio_passes_errors_on(sqlite_models: Models) -> None:
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(sqlite_models.User.DoesNotExist):
        await aio(sqlite_models.User.get(name="nobody"))
    with pytest.raises(ValueError, match="mine"):
        await aio(fail)


async def test_aio_of_a_function_wants_to_know_the_database(tmp_path: Path) -> None:
    """With two databases open nothing tells on which one's worker the function belongs."""
    async with AsyncSqliteDatabase(tmp_path / "a.db") as a, AsyncSqliteDatabase(tmp_path / "b.db"):
        with pytest.raises(peewee.InterfaceError, match=r"write: await db\.run\(function"):
            await aio(work)
        async with a.connection_context():
            assert "a.db" in (await aio(work))[1]


def thread_of(*args: Any, **kwargs: Any) -> str:
    """Return the name of the thread, whatever is given."""
    return threading.current_thread().name


async def test_aio_of_a_function_takes_the_database_of_its_arguments(tmp_path: Path) -> None:
    """Of a model, instance, query, table or database; by name or in a partial; a block goes before."""
    async with AsyncSqliteDatabase(tmp_path / "a.db") as a, AsyncSqliteDatabase(tmp_path / "b.db") as b:
        proxy = AsyncDatabaseProxy()
        proxy.initialize(b)
        User = Models(b).User
        own = [b, proxy, User, User(name="x"), User.select(), User.raw("SELECT 1"), User._meta.table]
        for thing in own:
            assert "b.db" in await aio(thread_of, 1, thing)
            assert "b.db" in await aio(thread_of, given=thing)
            assert "b.db" in await aio(partial(thread_of, thing), 1)
        for things in ([1, "b", None], [a, User], [[User]]):
            with pytest.raises(peewee.InterfaceError, match="cannot tell which of"):
                await aio(thread_of, *things)
        async with a.connection_context():
            assert "a.db" in await aio(thread_of, User)
            async with b.connection_context():
                assert "b.db" in await aio(thread_of, User)


async def test_aio_of_a_method_takes_the_database_of_its_object(tmp_path: Path) -> None:
    """A plain method of a model or an instance, whatever its arguments are and in whichever block."""
    async with AsyncSqliteDatabase(tmp_path / "a.db") as a, AsyncSqliteDatabase(tmp_path / "b.db") as b:

        class Item(AsyncModel):
            def thread(self, *_: Any) -> str:
                return thread_of()

            @classmethod
            def of_all(cls) -> str:
                return thread_of()

            class Meta:
                database = b

        await Item.create_table()
        async with a.connection_context():
            for method in (Item().thread, Item.of_all, partial(Item().thread, a)):
                assert "b.db" in await aio(method)
            assert await aio(Item.select().count) == 0
