"""Where async_peewee.pwasyncio is not as playhouse.pwasyncio is; docs/pwasyncio.md says the same."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import peewee
import pytest
from peewee import Load

from async_peewee import BlockingCallError, PoolTimeout, aio
from tests.flavours import Maker, Shelf, anyio_backend, cell, cells, db, make_db, pw, shelf
from tests.support import queries_of, wait_until

__all__ = ["anyio_backend", "cell", "db", "make_db", "pw", "shelf"]  # fixtures

on_sqlite = cells("sqlite3", theirs=False)
on_postgresql = cells("psycopg2", "psycopg", theirs=False)


@on_sqlite
async def test_a_function_runs_on_a_thread(db: Any) -> None:
    """Without a running loop."""

    def where() -> int:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return threading.get_ident()

    assert await db.run(where) != threading.get_ident()


@on_sqlite
async def test_names_without_the_prefix_are_dual(shelf: Shelf) -> None:
    """On the same models, the query itself included."""
    author = await shelf.Author.create(name="a")
    author.born = 3
    assert await author.save() == 1
    assert [row.born for row in await shelf.Author.select()] == [3]
    with pytest.warns(RuntimeWarning, match=r"Author\.create\(\) was never awaited"):
        shelf.Author.create(name="b")


@on_sqlite
async def test_a_query_leaves_no_connection_with_the_task(db: Any, shelf: Shelf) -> None:
    await shelf.Author.acreate(name="a")
    assert db.is_closed()
    assert db.stats().leased == 0
    async with db:
        assert db.stats().leased == 1
    assert db.stats().leased == 0


@on_sqlite
async def test_the_wait_for_a_connection_is_the_librarys(pw: Any) -> None:
    """30 seconds where nothing is said; in pwasyncio 10."""
    assert pw.AsyncSqliteDatabase(":memory:").connections.pools.settings.acquire_timeout == 30
    assert (
        pw.AsyncSqliteDatabase(":memory:", acquire_timeout=10).connections.pools.settings.acquire_timeout
        == 10
    )


@on_sqlite
async def test_a_pool_is_not_closed_in_a_transaction(db: Any, shelf: Shelf) -> None:
    """There it is, and what was written is lost."""
    async with db.atomic():
        await shelf.Author.acreate(name="a")
        with pytest.raises(peewee.OperationalError, match="transaction"):
            await db.close_pool()
    assert await db.count(shelf.Author.select()) == 1


@on_sqlite
async def test_a_task_holds_a_connection_of_a_pool_that_was_closed(db: Any, shelf: Shelf) -> None:
    """InterfaceError until it gives it back; then it has the new pool."""
    held, closed = anyio.Event(), anyio.Event()

    async def hold() -> None:
        async with db:
            held.set()
            await closed.wait()
            with pytest.raises(peewee.InterfaceError):
                await shelf.Author.acreate(name="a")
        await shelf.Author.acreate(name="b")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await held.wait()
        await db.close_pool(timeout=0.1)
        closed.set()
    assert [row.name for row in await db.list(shelf.Author.select())] == ["b"]


@on_postgresql
async def test_blocks_are_peewees(db: Any) -> None:
    """Its arguments are; asyncpg's readonly and deferrable are not."""
    async with db.atomic("SERIALIZABLE"):
        assert (await db.aexecute_sql("SHOW transaction_isolation")).fetchone() == ("serializable",)
    with pytest.raises(TypeError, match="readonly"):
        async with db.atomic(readonly=True):
            pytest.fail("it was entered")


@on_postgresql
async def test_the_isolation_level_is_that_of_transactions(make_db: Maker) -> None:
    """Of a single statement it is the server's; pwasyncio sets it for the session."""
    db = make_db(isolation_level="SERIALIZABLE")
    assert (await db.aexecute_sql("SHOW transaction_isolation")).fetchone() == ("read committed",)
    await db.close_pool()


@on_sqlite
async def test_a_file_has_the_librarys_defaults(db: Any) -> None:
    assert (await db.aexecute_sql("PRAGMA journal_mode")).fetchone() == ("wal",)
    async with db.atomic():  # BEGIN IMMEDIATE: whoever else writes must wait
        plain = peewee.SqliteDatabase(db.database, timeout=0)
        with pytest.raises(peewee.OperationalError, match="locked"):
            plain.execute_sql("CREATE TABLE other (x)")
        plain.close()


@pytest.mark.filterwarnings("ignore::async_peewee.OutsideTransactionWarning")
@on_sqlite
async def test_a_parent_that_waits_for_a_child_that_writes_waits_in_vain(make_db: Maker) -> None:
    """OperationalError after `acquire_timeout`; pwasyncio has SQLite's busy timeout for it."""
    db = make_db(acquire_timeout=0.5)
    shelf = Shelf(make_db.pw.AsyncModel, db)
    await db.acreate_tables([shelf.Author, shelf.Book])
    errors: list[Exception] = []

    async def child() -> None:
        try:
            await shelf.Author.acreate(name="child")
        except peewee.OperationalError as error:
            errors.append(error)

    async with db.atomic(), anyio.create_task_group() as tasks:
        await shelf.Author.acreate(name="parent")
        tasks.start_soon(child)
    assert [type(error) for error in errors] == [PoolTimeout]
    await db.close_pool()


async def in_child_tasks(*awaitables: Any) -> list[Any]:
    """Await several things at once, each in a task of its own."""
    results: list[Any] = [None] * len(awaitables)

    async def wait(number: int, awaitable: Any) -> None:
        results[number] = await awaitable

    async with anyio.create_task_group() as tasks:
        for number, awaitable in enumerate(awaitables):
            tasks.start_soon(wait, number, awaitable)
    return results


@cells("sqlite3", "psycopg2", "psycopg", "pymysql", theirs=False)
async def test_a_coroutine_belongs_to_the_block_in_which_it_was_made(pw: Any, db: Any, shelf: Shelf) -> None:
    """Whoever awaits it; there, to the task that awaits it."""
    Author, Book = shelf.Author, shelf.Book
    before = Author.acreate(name="outside")
    with pytest.raises(ZeroDivisionError):
        async with db.atomic() as txn:
            first, second = await in_child_tasks(Author.acreate(name="a"), Author.acreate(name="b"))
            await in_child_tasks(txn.acommit())
            first.born, book = 1900, Book(author_id=second.id, title="t")
            await in_child_tasks(
                first.asave(), db.aexecute(Author.insert(name="c")), Author.insert(name="d").aexecute()
            )
            await in_child_tasks(book.asave(), Author.abulk_create([Author(name="e")]))
            authors = Author.select().order_by(Author.id)
            found = await in_child_tasks(
                Author.aget(Author.born == 1900),
                Author.aget_or_none(Author.born == 1900),
                db.list(authors.where(Author.born == 1900)),
                db.first(authors.where(Author.born == 1900)),
                db.run(lambda: Author.get(Author.born == 1900)),
                db.aprefetch(authors.where(Author.born == 1900), Book),
                book.afetch(Book.author),
                db.count(authors),
                db.exists(authors.where(Author.name == "d")),
                db.scalar(Author.select(pw.fn.max(Author.born))),
                pw.greenlet_spawn(lambda: Author.get(Author.born == 1900).name),
                db.aexecute_sql("SELECT name FROM author WHERE born = 1900"),
                pw.AsyncConnectionWrapper(db).execute("SELECT name FROM author WHERE born = 1900"),
            )
            rows = [found[0], found[1], *found[2], found[3], found[4], *found[5]]
            assert [row.name for row in rows] == ["a"] * 6
            assert (found[6].name, *found[7:11]) == ("b", 5, True, 1900, "a")
            assert [cursor.fetchone() for cursor in found[11:]] == [("a",), ("a",)]
            raise ZeroDivisionError
    assert [row.name for row in await db.list(Author.select().order_by(Author.name))] == ["a", "b"]
    assert [row.name for row in await in_child_tasks(before)] == ["outside"]


@cells("sqlite3", "psycopg2", theirs=False)
async def test_a_coroutine_made_in_a_block_that_has_ended_is_outside(db: Any, shelf: Shelf) -> None:
    async with db.atomic():
        coroutine = shelf.Author.acreate(name="a")
    async with db.atomic():
        assert await shelf.Author.select().count() == 0
    await in_child_tasks(coroutine)
    assert await shelf.Author.select().count() == 1


@cells("sqlite3", "psycopg2", theirs=False)
async def test_a_task_with_a_block_of_its_own_is_in_that(db: Any, shelf: Shelf) -> None:
    async def child(coroutine: Any) -> int:
        async with db.connection_context():
            return int(await coroutine)

    async with db.atomic():
        await shelf.Author.acreate(name="a")
        coroutines = db.count(shelf.Author.select()), db.count(shelf.Author.select())
        assert await in_child_tasks(child(coroutines[0]), coroutines[1]) == [0, 1]


@cells("sqlite3", "psycopg2", theirs=False)
async def test_a_connection_that_a_task_keeps_is_no_block(db: Any, shelf: Shelf) -> None:
    """Programs keep one for their whole length: what they do at once goes to several, as there."""
    both = threading.Barrier(2)
    async with db:
        with anyio.fail_after(20):
            await in_child_tasks(db.run(both.wait, 20), db.run(both.wait, 20))


@on_sqlite
async def test_a_coroutine_that_is_never_awaited_warns(db: Any, shelf: Shelf) -> None:
    """In a block too, where it is made a little later; the block does not hear of it."""
    async with db.atomic():
        with pytest.warns(RuntimeWarning, match=r"coroutine 'acreate' was never awaited"):
            shelf.Author.acreate(name="a")
    with pytest.raises(TypeError, match="acreate"):
        await db.run(shelf.Author.acreate, name="a")
    assert await aio(shelf.Author.acreate, name="a")


@cells("sqlite3", "psycopg2", "psycopg", "pymysql", theirs=False)
async def test_a_stream_leaves_its_connection_to_other_queries(db: Any, shelf: Shelf) -> None:
    """Hooks hear of it, and with_related() is refused."""
    await shelf.Author.abulk_create([shelf.Author(name=f"n{number}") for number in range(3)])
    statements = queries_of(db)
    async with db:
        async for author in db.iterate(shelf.Author.select()):
            assert await db.count(shelf.Author.select()) == 3
            await author.asave()
        async for _ in db.iterate(shelf.Author.select()):
            assert len([row async for row in db.iterate(shelf.Author.select())]) == 3
    assert len([sql for sql in statements if sql.startswith("SELECT") and "COUNT" not in sql]) == 5
    with pytest.raises(ValueError, match="with_related"):
        db.iterate(shelf.Author.select().with_related(Load(shelf.Author.books)))


@on_sqlite
async def test_after_commit_takes_a_coroutine_function(db: Any, shelf: Shelf) -> None:
    """There it is a ValueError. A plain function is called on the loop's thread, and cannot query."""
    heard: list[Any] = []

    async def count() -> None:
        heard.append(await db.count(shelf.Author.select()))

    def query() -> None:
        with pytest.raises(BlockingCallError):
            list(shelf.Author.select())
        heard.append(threading.get_ident())

    async with db.atomic():
        db.after_commit(count)
        db.after_commit(query)
        await shelf.Author.acreate(name="a")
    assert heard == [1, threading.get_ident()]


@cells("psycopg2", "psycopg", "pymysql", theirs=False)
async def test_what_a_function_waits_for_is_outside_its_transaction(pw: Any, db: Any, shelf: Shelf) -> None:
    """It has a connection of its own."""

    def work() -> None:
        with db.atomic() as txn:
            shelf.Author.create(name="inside")
            pw.await_(shelf.Author.acreate(name="outside"))
            txn.rollback()

    await db.run(work)
    assert [row.name for row in await db.list(shelf.Author.select())] == ["outside"]


@on_sqlite
async def test_cancelling_stops_the_query(make_db: Maker) -> None:
    """There the query goes on, and the connection is back in the pool meanwhile."""
    db = make_db(pool_size=1)
    running = threading.Event()

    @db.func("mark")
    def mark() -> int:
        running.set()
        return 1

    endless = "WITH RECURSIVE n(i) AS (SELECT mark() UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(db.aexecute_sql, endless)
            await wait_until(running.is_set)
            tasks.cancel_scope.cancel()
        assert (await db.aexecute_sql("SELECT 1")).fetchone() == (1,)
    await db.close_pool()
