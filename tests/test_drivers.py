"""What holds of every driver: one module of facts, run on each that is at hand."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import anyio
import peewee
import pytest

from tests.kinds import ALL, IMPORTABLE
from tests.support import Maker, Models, slow_sql, wait_until, worker_threads

SERVERS = [kind for kind in IMPORTABLE if ALL[kind].family != "sqlite"]
on_servers = pytest.mark.parametrize("make_any", SERVERS, indirect=True)

# A statement that leaves something in the session, what shows it, and what a clean one shows.
LEAKS = {
    "sqlite": ("PRAGMA foreign_keys = 1", "PRAGMA foreign_keys", 0),
    "postgresql": ("SET app.leak = 'x'", "SELECT coalesce(current_setting('app.leak', true), '')", ""),
    "mysql": ("SET @leak = 'x'", "SELECT @leak", None),
}


@pytest.fixture
async def models(make_any: Maker) -> AsyncIterator[Models]:
    """Return the models User and Tweet on a pool of two, closed after the test."""
    made = Models(make_any(pool_size=2))
    await made.database.create_tables(made.all)
    yield made
    await made.database.close()


async def names(models: Models) -> list[str]:
    return [user.name for user in await models.User.select().order_by(models.User.name)]


async def read_all(models: Models, count: int) -> None:
    await models.User.insert_many([{"name": f"{n:05}"} for n in range(count)]).execute()


async def test_rows_are_written_read_changed_and_deleted(models: Models) -> None:
    """By the methods of models, instances and queries, with results and counts as Peewee has them."""
    User, Tweet = models.User, models.Tweet
    huey = await User.create(name="Huey", age=3)
    assert await Tweet.create(user=huey, text="meow ☃ %") is not None
    assert await User.bulk_create([User(name="b"), User(name="c")]) is None
    assert await User.update(age=User.age + 1).where(User.name != "c").execute() == 2
    assert {user.name: user.age for user in await User.select()} == {"Huey": 4, "b": 1, "c": 0}
    assert (await User.get(name="Huey")).age == 4
    assert [tweet.text for tweet in await huey.tweets] == ["meow ☃ %"]
    assert await User.delete().where(User.age < 4).execute() == 2
    assert await User.get_or_none(name="b") is None
    assert await Tweet.select(peewee.fn.COUNT(Tweet.id)).join(User).scalar() == 1
    assert sorted(await models.database.get_tables()) == ["tweets", "users"]


async def test_raw_cursors_come_back_with_their_rows(models: Models) -> None:
    """With no row, with rows, and of a statement that has none."""
    await read_all(models, 2)
    database = models.database
    cursor = await database.execute_sql("SELECT name FROM users ORDER BY name")
    assert [column[0] for column in cursor.description] == ["name"]
    assert list(cursor.fetchall()) == [("00000",), ("00001",)]
    assert list((await database.execute_sql("SELECT name FROM users WHERE age = 9")).fetchall()) == []
    assert (await database.execute_sql("UPDATE users SET age = 1")).rowcount == 2


async def test_errors_are_peewees(models: Models) -> None:
    """Each driver's own exceptions arrive as the classes that Peewee's users catch."""
    await models.User.create(name="a")
    with pytest.raises(peewee.IntegrityError):
        await models.User.create(name="a")
    with pytest.raises((peewee.OperationalError, peewee.ProgrammingError)):
        await models.database.execute_sql("SELECT * FROM nowhere")
    assert await names(models) == ["a"]


async def test_nested_transactions_commit_and_roll_back(models: Models) -> None:
    """Inner blocks are savepoints; outside nothing is seen before the end."""
    User, database = models.User, models.database

    async def count_outside() -> None:
        seen.append(await User.select().count())

    seen: list[int] = []
    async with database.atomic() as txn:
        await User.create(name="a")
        with pytest.raises(ValueError, match="inner"):
            async with database.atomic():
                await User.create(name="b")
                raise ValueError("inner")
        async with database.atomic():
            await User.create(name="c")
        async with anyio.create_task_group() as group:
            group.start_soon(count_outside)
        await txn.commit()
        await User.create(name="d")
        await txn.rollback()
    with pytest.raises(ValueError, match="outer"):
        async with database.atomic():
            await User.create(name="e")
            raise ValueError("outer")
    assert seen == [0]
    assert await names(models) == ["a", "c"]


@pytest.mark.parametrize("in_block", [False, True], ids=["alone", "in_block"])
async def test_a_stream_left_early_gives_its_connection_back(models: Models, in_block: bool) -> None:
    """Whole, left by break, and dropped: the next statement on the same connection finds nothing of it."""
    await read_all(models, 3000)
    User, database = models.User, models.database
    # Outside of a block the pool of one makes sure that it is the same connection.
    async with database.atomic() if in_block else nullcontext():
        query = User.select().order_by(User.name)
        assert [user.name async for user in query.iterator()][-1] == "02999"
        async with query.iterator() as stream:
            async for user in stream:
                if user.name == "00150":
                    break
        assert await User.select().count() == 3000
        async for _user in query.iterator():
            break
        gc.collect()
        assert (await User.get(name="00007")).name == "00007"
    await wait_until(lambda: database.stats().busy == database.stats().leased == 0)


@on_servers
async def test_a_stream_left_early_keeps_its_connection(make_any: Maker) -> None:
    """What the server still sends is skipped, not the connection given up."""
    async with make_any(pool_size=1) as database:
        models = Models(database)
        await database.create_tables(models.all)
        await read_all(models, 3000)
        backends = server_of(make_any).backends()
        # More than the sockets hold, so that the server is in the middle of it.
        rows = models.User.select(models.User.name, peewee.fn.REPEAT("x", 5000).alias("padding"))
        async with rows.iterator() as stream:
            async for _user in stream:
                break
        assert await models.User.select().count() == 3000
        await wait_until(lambda: server_of(make_any).backends() == backends)


async def test_a_cancelled_statement_frees_its_worker(make_any: Maker) -> None:
    """Control returns, the one worker there is takes the next call, and the connection is the same."""
    sql = slow_sql(make_any.kind, 30)
    async with make_any(pool_size=1) as database:
        server = make_any.server
        backends = server.backends() if server is not None else []
        with anyio.move_on_after(0.2) as scope:
            await database.execute_sql(sql)
        assert scope.cancelled_caught
        assert database.stats().busy == 0
        assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
        await wait_until(lambda: server is None or server.backends() == backends)


async def test_a_cancelled_statement_rolls_its_block_back(models: Models, make_any: Maker) -> None:
    """The rows written before it in the block are gone, and the worker is free."""
    with anyio.move_on_after(0.3) as scope:
        async with models.database.atomic():
            await models.User.create(name="lost")
            await models.database.execute_sql(slow_sql(make_any.kind, 30))
    assert scope.cancelled_caught
    assert models.database.stats().leased == 0
    await models.User.create(name="kept")
    assert await names(models) == ["kept"]


async def test_a_connection_closed_by_user_code_is_replaced(models: Models) -> None:
    """The call after it finds a new one."""
    database = models.database
    await models.User.create(name="a")
    for _ in range(3):
        await database.run(lambda: database.connection().close())
        assert await names(models) == ["a"]


async def test_session_state_ends_with_the_block(make_any: Maker) -> None:
    """Inside the block it holds, after it the next user of the connection meets none of it."""
    leak, look, clean = LEAKS[make_any.family]
    async with make_any(pool_size=1) as database:

        async def value() -> Any:
            return (await database.execute_sql(look)).fetchone()[0]

        async with database.connection_context():
            await database.execute_sql(leak)
            assert await value() != clean
        assert await value() == clean


@on_servers
async def test_a_killed_idle_connection_is_replaced(models: Models, make_any: Maker) -> None:
    """Before the next call, which does not notice."""
    await models.User.create(name="a")
    kill_all(make_any)
    assert await names(models) == ["a"]


@on_servers
async def test_a_connection_killed_under_a_statement_is_an_error(models: Models, make_any: Maker) -> None:
    """One that says what is unknown; the call after it works."""
    errors: list[str] = []

    async def call() -> None:
        with pytest.raises(peewee.OperationalError) as caught:
            await models.database.execute_sql(slow_sql(make_any.kind, 30))
        errors.append(str(caught.value))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await wait_until(server_of(make_any).sleeping)
        kill_all(make_any)
    assert "the connection was lost during a statement" in errors[0]
    assert await names(models) == []


@on_servers
async def test_a_connection_killed_in_a_block_ends_it(models: Models, make_any: Maker) -> None:
    """Further statements are refused, nothing of the block stays, and the next block is sound."""
    with pytest.raises(peewee.OperationalError):
        async with models.database.atomic():
            await models.User.create(name="lost")
            kill_all(make_any)
            with pytest.raises(peewee.OperationalError):
                await models.User.create(name="lost too")
            await models.User.create(name="refused")
    async with models.database.atomic():
        await models.User.create(name="a")
    assert await names(models) == ["a"]


@on_servers
async def test_a_connection_killed_under_a_stream_leaves_no_complaint(
    models: Models, make_any: Maker
) -> None:
    """Neither the cursor nor its result warns when it is dropped (a warning fails the test)."""
    await read_all(models, 5000)
    async for _ in models.User.select().iterator():
        kill_all(make_any)
        break
    gc.collect()
    assert await models.User.select().count() == 5000


async def test_a_closed_pool_leaves_nothing(models: Models, make_any: Maker) -> None:
    """No thread and no connection, though a block of another task is open and idle."""
    entered, failed = anyio.Event(), anyio.Event()

    async def hold() -> None:
        with pytest.raises(peewee.InterfaceError):
            async with models.database.atomic():
                await models.User.create(name="a")
                entered.set()
                await failed.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await entered.wait()
        await models.database.close(timeout=0)
        assert worker_threads() == []
        if make_any.server is not None:
            await wait_until(lambda: server_of(make_any).backends() == [])
        failed.set()
    await models.database.connect()
    assert await names(models) == []


def server_of(make_any: Maker) -> Any:
    assert make_any.server is not None
    return make_any.server


def kill_all(make_any: Maker) -> None:
    """End all connections of the test's database, on the server, and wait until they are gone."""
    server = server_of(make_any)
    killed = server.backends()
    for backend in killed:
        server.kill(backend)
    for _ in range(500):
        if not set(killed) & set(server.backends()):
            return
        threading.Event().wait(0.01)
    pytest.fail("the server has not ended the connections in 5 s")
