"""Who is on which connection: tasks, children, hand-over, two databases, several loops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import peewee
import pytest

from async_peewee import AsyncSqliteDatabase, TransactionFinished, aio
from tests.support import Maker, Models, in_thread, on_asyncio, slow_sql, wait_until


async def test_a_child_task_is_outside_its_parents_transaction(make_database: Maker) -> None:
    """A child's call commits by itself, and stays when the parent rolls back."""
    async with make_database() as database:
        models = Models(database)
        await database.create_tables(models.all)
        seen: list[int] = []

        async def child() -> None:
            assert not database.in_transaction()
            seen.append(await models.User.select().count())

        with pytest.raises(ValueError, match="roll back"):
            async with database.atomic():
                await models.User.create(name="parent")
                async with anyio.create_task_group() as group:
                    group.start_soon(child)
                raise ValueError("roll back")
        assert seen == [0]


async def test_a_childs_row_stays_when_the_parent_rolls_back(make_database: Maker) -> None:
    """The child writes before the parent does, so that SQLite's one writer is free."""
    async with make_database() as database:
        models = Models(database)
        await database.create_tables(models.all)
        with pytest.raises(ValueError, match="roll back"):
            async with database.connection_context():
                async with anyio.create_task_group() as group:
                    group.start_soon(_create, models, "child")
                async with database.atomic():
                    await models.User.create(name="parent")
                    raise ValueError("roll back")
        assert [user.name async for user in models.User.select()] == ["child"]


async def _create(models: Models, name: str) -> None:
    await models.User.create(name=name)


async def test_a_handed_over_connection_is_inside_the_transaction(models: Models) -> None:
    """A child that enters the shared connection rolls back with its parent."""

    async def child(connection: Any) -> None:
        async with connection:
            assert models.database.in_transaction()
            await models.User.create(name="child")
        assert not models.database.in_transaction()

    with pytest.raises(ValueError, match="roll back"):
        async with models.database.atomic():
            await models.User.create(name="parent")
            async with anyio.create_task_group() as group:
                group.start_soon(child, models.database.share_connection())
            assert await models.User.select().count() == 2
            raise ValueError("roll back")
    assert await models.User.select().count() == 0


async def test_statements_of_two_tasks_on_one_connection_never_interleave(sqlite_models: Models) -> None:
    """Each call on a shared connection runs from its beginning to its end before the next."""
    database = sqlite_models.database
    steps: list[str] = []

    def work(name: str) -> None:
        steps.append(f"{name} begins")
        database.execute_sql("SELECT 1")
        steps.append(f"{name} ends")

    async def child(connection: Any, name: str) -> None:
        async with connection:
            await database.run(work, name)

    async with database.atomic(), anyio.create_task_group() as group:
        connection = database.share_connection()
        for name in "abc":
            group.start_soon(child, connection, name)
        await database.run(work, "parent")
    pairs = [
        (first.split()[0], second.split()[0]) for first, second in zip(steps[::2], steps[1::2], strict=True)
    ]
    assert len(pairs) == 4
    assert all(first == second for first, second in pairs)


async def test_a_shared_connection_is_refused_after_its_block(sqlite_models: Models) -> None:
    """So is a call that was made inside the block and awaited after it."""
    async with sqlite_models.database.atomic():
        shared = sqlite_models.database.share_connection()
        late = sqlite_models.User.create(name="late")
    with pytest.raises(TransactionFinished, match="has ended"):
        await shared.__aenter__()
    with pytest.raises(TransactionFinished, match=r"atomic\(\) in task"):
        await late
    assert await sqlite_models.User.select().count() == 0


async def test_sharing_nothing_is_refused(sqlite_db: AsyncSqliteDatabase) -> None:
    with pytest.raises(peewee.InterfaceError, match="share_connection"):
        sqlite_db.share_connection()


async def test_two_databases_are_never_mixed_up(tmp_path: Path) -> None:
    """Inside a transaction on one, a query on the other goes there, and stays when the first rolls back."""
    async with AsyncSqliteDatabase(tmp_path / "a.db") as a, AsyncSqliteDatabase(tmp_path / "b.db") as b:
        first, second = Models(a), Models(b)
        await a.create_tables(first.all)
        await b.create_tables(second.all)
        with pytest.raises(ValueError, match="roll back"):
            async with a.atomic():
                await first.User.create(name="a")
                await second.User.create(name="b")
                assert a.in_transaction()
                assert not b.in_transaction()
                raise ValueError("roll back")
        assert await first.User.select().count() == 0
        assert [user.name async for user in second.User.select()] == ["b"]


async def test_one_databases_worker_visits_another_without_staying(tmp_path: Path) -> None:
    """A function that uses two databases leaves no connection of the second on the first one's worker."""
    async with AsyncSqliteDatabase(tmp_path / "a.db", pool_size=1) as a:
        b = AsyncSqliteDatabase(tmp_path / "b.db")
        await a.run(lambda: b.execute_sql("CREATE TABLE t (x)"))
        assert await a.run(lambda: vars(b._state)["closed"])


async def test_aio_of_a_function_runs_inside_the_tasks_block(models: Models) -> None:
    """Of several databases, aio(function) takes the one whose connection the task holds."""
    other = AsyncSqliteDatabase(":memory:")
    with pytest.raises(ValueError, match="roll back"):
        async with models.database.atomic():
            await aio(lambda: models.User.create(name="a"))
            raise ValueError("roll back")
    assert await models.User.select().count() == 0
    await other.close()


async def test_entries_of_async_with_are_counted(sqlite_db: AsyncSqliteDatabase) -> None:
    async with sqlite_db:
        async with sqlite_db:
            pass
        assert not sqlite_db.is_closed()
    assert sqlite_db.is_closed()


async def test_a_wrong_address_shows_at_connect(tmp_path: Path) -> None:
    """The error is Peewee's, and no pool and no thread stay behind."""
    database = AsyncSqliteDatabase(tmp_path / "missing" / "test.db")
    with pytest.raises(peewee.OperationalError):
        await database.connect()
    assert database.is_closed()


async def test_closing_inside_ones_own_block_is_refused(sqlite_db: AsyncSqliteDatabase) -> None:
    async with sqlite_db.atomic():
        with pytest.raises(peewee.OperationalError, match="transaction is open"):
            await sqlite_db.close()


async def test_autoconnect_off_wants_an_explicit_connect(tmp_path: Path) -> None:
    database = AsyncSqliteDatabase(tmp_path / "test.db", autoconnect=False)
    with pytest.raises(peewee.InterfaceError, match="not opened"):
        await database.execute_sql("SELECT 1")
    await database.connect()
    await database.execute_sql("SELECT 1")
    await database.close()


NO_TABLE = "no such table: users"


def test_a_missing_table_of_a_memory_that_is_elsewhere_says_so() -> None:
    """Made before the loop ran, in another loop, or before close(): the words name it, the class stays."""
    database = AsyncSqliteDatabase(":memory:")
    User = Models(database).User

    async def look() -> None:
        with pytest.raises(peewee.OperationalError) as caught:
            await User.select()
        words.append(str(caught.value))

    words: list[str] = []
    asyncio.run(look())
    assert words == [NO_TABLE]  # there has been no other
    database.create_tables([User])
    asyncio.run(look())
    anyio.run(look)
    database.close()
    with pytest.raises(peewee.OperationalError, match="one database for each event loop") as caught:
        list(User.select())
    for text in (*words[1:], str(caught.value)):
        assert text.startswith(f"{NO_TABLE}. :memory: is one database for each event loop and each plain")
    with pytest.raises(peewee.OperationalError, match="^no such column: absent$"):
        database.execute_sql("SELECT absent")
    database.close()


def test_a_missing_table_of_a_file_or_of_a_shared_memory_is_missing(tmp_path: Path) -> None:
    """Peewee's own words: there is one database, however many connections there have been."""
    for name in (str(tmp_path / "a.db"), "file:kit?mode=memory&cache=shared"):
        database = AsyncSqliteDatabase(name, uri=name.startswith("file:"))
        for _ in range(2):
            with pytest.raises(peewee.OperationalError, match="^no such table: absent$"):
                database.execute_sql("SELECT 1 FROM absent")
            database.close()


async def test_a_visitor_opens_and_closes_a_connection_as_in_peewee(tmp_path: Path) -> None:
    """connection_context() and `with db` in a function on a worker of another database, nested too."""
    async with AsyncSqliteDatabase(tmp_path / "a.db") as home, AsyncSqliteDatabase(tmp_path / "b.db") as db:
        models = Models(db)
        await db.create_tables(models.all)

        def visit() -> list[Any]:
            seen: list[Any] = []
            with db.connection_context():
                seen.append((db.is_closed(), models.User.select().count()))
                with db.connection_context():
                    pass
                seen.append(db.is_closed())
            seen.append(db.is_closed())
            with db:
                models.User.create(name="kept")
                seen.append((db.is_closed(), db.transaction_depth()))
            with pytest.raises(KeyError), db:
                models.User.create(name="undone")
                raise KeyError
            seen.append(db.is_closed())
            return seen

        for number in range(2):
            assert await home.run(visit) == [(False, number), False, True, (False, 1), True]
            await models.User.update(name=f"kept {number}").where(models.User.name == "kept")
        assert await models.User.select().count() == 2
        assert (db.stats().leased, db.stats().busy) == (0, 0)


async def test_a_connection_context_keeps_its_connection_through_with_db(models: Models) -> None:
    """As in Peewee `with db` inside one closes nothing: what the session has stays, also if one fails."""
    db = models.database

    def write(name: str, error: type[Exception] | None = None) -> None:
        with contextlib.suppress(KeyError), db:
            models.User.create(name=name)
            if error:
                raise error

    def alone() -> bool:
        with db.connection_context():
            write("c")
            return bool(db.is_closed())

    async with db.connection_context():
        await db.execute_sql("CREATE TEMPORARY TABLE kept (n INTEGER)")
        await db.run(write, "a")
        await db.run(write, "b", KeyError)
        await db.execute_sql("INSERT INTO kept VALUES (1)")
        assert [*await db.execute_sql("SELECT n FROM kept")] == [(1,)]
    assert await db.run(alone) is False
    assert await db.run(lambda: db._state.ctx) == []
    assert [user.name async for user in models.User.select().order_by(models.User.name)] == ["a", "c"]


async def test_stats_are_the_same_from_every_thread(tmp_path: Path) -> None:
    """On the loop, on a plain thread, on a worker of its own and of another database; so is repr()."""
    async with (
        AsyncSqliteDatabase(tmp_path / "a.db", pool_size=3) as db,
        AsyncSqliteDatabase(":memory:") as other,
        db.connection_context(),
    ):
        on_loop, shown = db.stats(), repr(db)
        assert (on_loop.pool_size, on_loop.workers, on_loop.leased, on_loop.calls) == (3, 1, 1, 3)
        assert await in_thread(db.stats) == on_loop
        assert await in_thread(repr, db) == shown
        assert await other.run(db.stats) == on_loop
        assert await other.run(repr, db) == shown
        on_worker = await db.run(db.stats)
        assert (on_worker.workers, on_worker.leased, on_worker.busy) == (1, 1, 1)


async def test_stats_of_several_loops_are_added_up(tmp_path: Path) -> None:
    """Whoever asks; a loop that is over does not count."""
    async with AsyncSqliteDatabase(tmp_path / "a.db", pool_size=3) as db:
        await db.execute_sql("SELECT 1")
        seen: list[Any] = []

        async def elsewhere() -> None:
            await db.execute_sql("SELECT 1")
            seen.append(await anyio.to_thread.run_sync(db.stats))
            seen.append(db.stats())

        await in_thread(anyio.run, elsewhere)
        assert seen[0] == seen[1]
        assert (seen[0].pool_size, seen[0].workers, seen[0].idle) == (6, 2, 2)
        assert (db.stats().pool_size, db.stats().workers) == (3, 1)


async def test_memory_is_one_worker_and_one_database(anyio_backend: Any) -> None:
    """All tasks see one :memory: database, whatever pool size was asked for."""
    async with AsyncSqliteDatabase(":memory:", pool_size=8) as database:
        models = Models(database)
        await database.create_tables(models.all)
        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(_create, models, str(number))
        assert await models.User.select().count() == 16
        assert database.stats().workers == 1


def test_two_loops_in_two_threads_share_a_database_object(tmp_path: Path) -> None:
    """Each loop has workers of its own; writers of both queue at one gate."""
    database = AsyncSqliteDatabase(tmp_path / "test.db", pool_size=2)
    models = Models(database)
    database.create_tables(models.all)
    database.close()
    start = threading.Barrier(2)
    errors: list[BaseException] = []

    async def main(name: str) -> None:
        async with database:
            start.wait()
            for number in range(50):
                async with database.atomic():
                    await models.User.create(name=f"{name} {number}")

    def run(name: str) -> None:
        try:
            asyncio.run(main(name))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database:
        assert models.User.select().count() == 100


async def test_a_connection_that_user_code_has_closed_is_replaced(make_database: Maker) -> None:
    """Outside a block and inside one, where the rest of the block is refused."""
    async with make_database(pool_size=1) as database:
        with anyio.fail_after(5):
            await database.run(lambda: database.connection().close())
            assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
            with pytest.raises(peewee.PeeweeException):
                async with database.atomic():
                    await database.run(lambda: database.connection().close())
                    await database.execute_sql("SELECT 1")
            assert (await database.execute_sql("SELECT 42")).fetchone() == (42,)
        assert database.stats().leased == 0


@pytest.mark.parametrize("make_database", ["psycopg2", "psycopg3", "pymysql"], indirect=True)
async def test_a_held_connection_that_was_lost_is_replaced_when_that_was_said(
    make_database: Maker, db: Any
) -> None:
    """The call that meets the loss fails; outside a transaction the block then goes on with a new one."""
    assert make_database.server is not None
    ask = "SELECT connection_id()" if make_database.kind == "pymysql" else "SELECT pg_backend_pid()"
    async with db.connection_context():
        first = (await db.execute_sql(ask)).fetchone()[0]
        make_database.server.kill(first)
        with pytest.raises(peewee.OperationalError, match="connection was lost"):
            await db.execute_sql(ask)
        second = (await db.execute_sql(ask)).fetchone()[0]
        assert second != first
        async with anyio.create_task_group() as tasks:  # its statements are interrupted like any other's
            tasks.start_soon(aio, db.execute_sql(slow_sql(make_database.kind, 20)))
            await wait_until(make_database.server.sleeping)
            tasks.cancel_scope.cancel()
        assert (await db.execute_sql(ask)).fetchone()[0] == second
        with pytest.raises(peewee.OperationalError, match="already rolled back"):
            async with db.atomic():
                assert (await db.execute_sql(ask)).fetchone()[0] == second
                make_database.server.kill(second)
                for match in ("connection was lost", "already rolled back"):
                    with pytest.raises(peewee.OperationalError, match=match):
                        await db.execute_sql(ask)
        assert (await db.execute_sql(ask)).fetchone()[0] not in (first, second)
    assert db.stats().leased == 0


@on_asyncio
async def test_a_callback_of_the_loop_holds_nothing(sqlite_db: AsyncSqliteDatabase) -> None:
    """It is no task's, although a task is in a transaction meanwhile."""
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    async with sqlite_db.atomic():
        asyncio.get_running_loop().call_soon(lambda: answer.set_result(sqlite_db.in_transaction()))
        with anyio.fail_after(5):
            assert await answer is False
        assert sqlite_db.in_transaction()
