"""Programs written for playhouse.pwasyncio: connections, transactions and tasks."""

from __future__ import annotations

from typing import Any

import anyio
import peewee
import pytest

from tests.flavours import (
    Maker,
    Shelf,
    anyio_backend,
    cell,
    cells,
    db,
    make_db,
    pw,
    shelf,
)

__all__ = ["anyio_backend", "cell", "db", "make_db", "pw", "shelf"]  # fixtures


async def names(db: Any, shelf: Shelf) -> list[str]:
    return [row.name for row in await db.list(shelf.Author.select().order_by(shelf.Author.name))]


# -- transactions -----------------------------------------------------------------------


@cells()
async def test_blocks_nest_and_roll_back_to_where_they_began(db: Any, shelf: Shelf) -> None:
    """Committed at the end, undone by arollback() or by an error, an inner one alone."""
    Author = shelf.Author
    async with db.atomic():
        await Author.acreate(name="kept")
        async with db.atomic() as nested:
            await db.aexecute(Author.delete())
            assert await db.count(Author.select()) == 0
            await nested.arollback()
        assert await names(db, shelf) == ["kept"]
        with pytest.raises(ZeroDivisionError):
            async with db.atomic():
                await Author.acreate(name="undone")
                raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with db.atomic():
            await Author.acreate(name="undone")
            async with db.atomic():
                await Author.acreate(name="undone too")
            raise ZeroDivisionError
    assert await names(db, shelf) == ["kept"]
    assert not db.in_transaction()


@cells()
async def test_acommit_and_arollback_begin_the_next_transaction(db: Any, shelf: Shelf) -> None:
    async with db.atomic() as txn:
        await shelf.Author.acreate(name="a")
        await txn.acommit()
        await shelf.Author.acreate(name="b")
        await txn.arollback()
        await shelf.Author.acreate(name="c")
    assert await names(db, shelf) == ["a", "c"]


async def test_transaction_and_savepoint_by_name(pw: Any, db: Any, shelf: Shelf) -> None:
    """The objects are of the classes that pwasyncio names."""
    async with db.transaction() as txn:
        assert isinstance(txn, pw.async_transaction)
        await shelf.Author.acreate(name="a")
        async with db.savepoint() as point:
            assert isinstance(point, pw.async_savepoint)
            await shelf.Author.acreate(name="b")
            await point.arollback()
    assert isinstance(db.atomic(), pw.async_atomic)
    assert await names(db, shelf) == ["a"]


@cells()
async def test_after_commit_and_query_hooks(db: Any, shelf: Shelf) -> None:
    """The function is called after the commit, and never after a rollback; hooks see the statements."""
    heard: list[str] = []
    seen: list[str] = []
    db.query_hooks.append(lambda event: seen.append(event.sql))
    async with db.atomic():
        db.after_commit(lambda: heard.append("committed"))
        await shelf.Author.acreate(name="a")
        assert heard == []
    with pytest.raises(ZeroDivisionError):
        async with db.atomic():
            db.after_commit(lambda: heard.append("never"))
            raise ZeroDivisionError
    assert heard == ["committed"]
    assert len([sql for sql in seen if sql.startswith("INSERT")]) == 1


@pytest.mark.filterwarnings("ignore::async_peewee.OutsideTransactionWarning")
@cells("sqlite3", "psycopg2", "psycopg", "asyncpg", "aiomysql", "pymysql")
async def test_a_child_task_is_outside_its_parents_transaction(db: Any, shelf: Shelf) -> None:
    """Its row stays when the parent rolls back. Here a warning says so."""
    Author = shelf.Author

    async def child() -> None:
        await Author.acreate(name="child")

    async def children() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)

    # DEFERRED: on SQLite a transaction that has not written yet lets others write.
    block = db.atomic("DEFERRED") if isinstance(db, peewee.SqliteDatabase) else db.atomic()
    with pytest.raises(ZeroDivisionError):
        async with block:
            await children()
            await Author.acreate(name="parent")
            raise ZeroDivisionError
    assert await names(db, shelf) == ["child"]


async def test_two_tasks_create_one_row(db: Any, shelf: Shelf) -> None:
    """The race of two aget_or_create() has one winner; both get its row."""
    found: list[tuple[int, bool]] = []

    async def attempt() -> None:
        row, is_new = await shelf.Author.aget_or_create(name="race")
        found.append((row.id, is_new))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(attempt)
    assert len({key for key, _ in found}) == 1
    assert sum(is_new for _, is_new in found) == 1


# -- connections ------------------------------------------------------------------------


@cells()
async def test_a_task_holds_the_connection_it_asked_for(make_db: Maker, db: Any, shelf: Shelf) -> None:
    """From aconnect() to aclose() all is one session; closing twice does nothing."""
    assert db.is_closed()
    await db.aconnect()
    assert not db.is_closed()
    temporary = "CREATE TEMPORARY TABLE mine (x INTEGER)"
    await db.aexecute_sql(temporary)
    await shelf.Author.acreate(name="a")
    await db.aexecute_sql("INSERT INTO mine VALUES (5)")
    assert [tuple(row) for row in (await db.aexecute_sql("SELECT x FROM mine")).fetchall()] == [(5,)]
    await db.aexecute_sql("DROP TABLE mine")
    await db.aclose()
    await db.aclose()
    assert db.is_closed()


@cells()
async def test_the_block_of_the_database_is_a_connection(db: Any, shelf: Shelf) -> None:
    """Not a transaction: what was written stays after an error. It is given back at the end."""
    with pytest.raises(ZeroDivisionError):
        async with db as entered:
            assert entered is db
            assert not db.is_closed()
            assert not db.in_transaction()
            await shelf.Author.acreate(name="a")
            raise ZeroDivisionError
    assert db.is_closed()
    assert await names(db, shelf) == ["a"]


async def test_a_connection_is_not_closed_in_a_transaction(db: Any, shelf: Shelf) -> None:
    async with db.atomic():
        with pytest.raises(peewee.OperationalError):
            await db.aclose()
        await shelf.Author.acreate(name="a")
    await db.aclose()
    assert await names(db, shelf) == ["a"]


@cells()
async def test_a_closed_pool_opens_again(db: Any, shelf: Shelf) -> None:
    """close_pool() takes the caller's own connection too; the next use begins anew."""
    await db.aconnect()
    await db.close_pool()
    await db.close_pool()
    assert db.is_closed()
    await shelf.Author.acreate(name="a")
    await db.close_pool()
    async with db:
        assert await names(db, shelf) == ["a"]


async def test_each_task_has_its_own(make_db: Maker) -> None:
    """As many as the pool has; another one waits `acquire_timeout` seconds: OperationalError."""
    db = make_db(pool_size=2, pool_min_size=1, acquire_timeout=1.0)
    holding = anyio.Event()
    held: list[Any] = []

    async def hold() -> None:
        async with db:
            held.append((await db.aexecute_sql("SELECT 1")).fetchone())
            await holding.wait()

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(hold)
        while len(held) < 2:
            await anyio.sleep(0.01)
        with pytest.raises(peewee.OperationalError):
            await db.aconnect()
        holding.set()
    async with db:
        assert not db.is_closed()
    await db.close_pool()


@cells("psycopg2", "psycopg", "asyncpg")
async def test_a_connection_that_was_lost_is_replaced(make_db: Maker, db: Any, shelf: Shelf) -> None:
    """While it is held too. The call that meets the loss may fail, the one after it does not."""

    async def backend() -> int:
        return int((await db.aexecute_sql("SELECT pg_backend_pid()")).fetchone()[0])

    await db.aconnect()
    first = await backend()
    make_db.server.kill(first)
    try:
        second = await backend()
    except peewee.PeeweeException:
        second = await backend()
    assert second != first
    assert await backend() == second
    await db.aclose()


@cells("sqlite3", "psycopg2", "psycopg", "pymysql", theirs=False)
async def test_a_task_that_ends_gives_its_connection_back(
    make_db: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """Rolled back, and with an error in the log."""
    db = make_db(pool_size=1)
    shelf = Shelf(make_db.pw.AsyncModel, db)
    await db.acreate_tables([shelf.Author, shelf.Book])

    async def forget() -> None:
        await db.aconnect()
        await db.atomic().__aenter__()
        await shelf.Author.acreate(name="lost")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forget)
    assert await names(db, shelf) == []
    assert "was never left" in caplog.text
    await db.close_pool()


async def test_a_function_may_open_and_close_the_database(pw: Any) -> None:
    """Set-up code with `with db` or connect() and close() in it; ":memory:" outlives both."""
    db = pw.AsyncSqliteDatabase(":memory:")
    shelf = Shelf(pw.AsyncModel, db)

    def set_up() -> None:
        with db:
            db.create_tables([shelf.Author, shelf.Book])
            shelf.Author.create(name="admin")

    def work() -> int:
        db.connect()
        try:
            return int(shelf.Author.select().count())
        finally:
            db.close()

    await db.run(set_up)
    assert await db.run(work) == 1
    assert await names(db, shelf) == ["admin"]
    await db.close_pool()


async def test_a_connection_for_each_request(db: Any, shelf: Shelf) -> None:
    """The middleware of the documentation: one block around the application, in the request's task."""
    answers: list[list[str]] = []

    async def application(scope: str) -> None:
        assert not db.is_closed()
        await shelf.Author.acreate(name=scope)

    async def middleware(scope: str) -> None:
        async with db:
            await application(scope)
        assert db.is_closed()
        answers.append(await names(db, shelf))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(middleware, f"r{number}")
    assert len(answers) == 20
    assert len(await names(db, shelf)) == 20
