"""Whatever is registered on an SQLite database, before or after it is opened, works on every worker."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import peewee
import pytest

from async_peewee import AsyncModel, AsyncSqliteDatabase
from tests.extensions.support import WORKERS, on_every_worker, select_everywhere
from tests.support import in_thread


class Extensible(sqlite3.Connection):
    """A connection that loads "extensions", which not every build of Python's sqlite3 can."""

    def enable_load_extension(self, enable: bool, /) -> None: ...

    def load_extension(self, name: str, /, **_: Any) -> None:  # type: ignore[override]
        if name != "answers":
            raise sqlite3.OperationalError(f"{name}: cannot open shared object file")
        self.create_function("answer", 0, lambda: 42)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[AsyncSqliteDatabase]:
    """Return an open database, all of its workers connected."""
    database = AsyncSqliteDatabase(tmp_path / "test.db", pool_size=WORKERS, factory=Extensible)
    async with database:
        assert await select_everywhere(database, "SELECT 1") == [1] * WORKERS
        yield database


class Longest:
    """An aggregate that Peewee's documentation could have."""

    def __init__(self) -> None:
        self.length = 0

    def step(self, value: str) -> None:
        self.length = max(self.length, len(value))

    def finalize(self) -> int:
        return self.length


class Total(Longest):
    """A window function: a running total of lengths."""

    def step(self, value: str) -> None:
        self.length += len(value)

    def inverse(self, value: str) -> None:
        self.length -= len(value)

    def value(self) -> int:
        return self.length


def backwards(first: str, second: str) -> int:
    return (first[::-1] > second[::-1]) - (first[::-1] < second[::-1])


WORDS = "(SELECT 'ab' AS word UNION ALL SELECT 'ccc' UNION ALL SELECT 'da')"

REGISTRATIONS: dict[str, tuple[Callable[[Any], Any], str, Any]] = {
    "function": (lambda db: db.register_function(lambda x: 2 * x, "twice", 1), "SELECT twice(4)", 8),
    "func": (lambda db: db.func("half")(lambda x: x // 2), "SELECT half(4)", 2),
    "aggregate": (lambda db: db.aggregate()(Longest), f"SELECT longest(word) FROM {WORDS}", 3),
    "collation": (
        lambda db: db.register_collation(backwards),
        f"SELECT group_concat(word) FROM (SELECT word FROM {WORDS} ORDER BY word COLLATE backwards)",
        "da,ab,ccc",
    ),
    "timeout": (lambda db: setattr(db, "timeout", 1.5), "PRAGMA busy_timeout", 1500),
}

if hasattr(sqlite3.Connection, "create_window_function"):  # from Python 3.11 on
    REGISTRATIONS["window function"] = (
        lambda db: db.register_window_function(Total, num_params=1),
        f"SELECT max(t) FROM (SELECT total(word) OVER (ORDER BY word ROWS 1 PRECEDING) AS t FROM {WORDS})",
        5,
    )


@pytest.mark.parametrize(("register", "sql", "value"), REGISTRATIONS.values(), ids=REGISTRATIONS)
class TestOnTheLoop:
    """On the event loop registering does no I/O, so it is not awaited."""

    async def test_before_opening(
        self, tmp_path: Path, register: Callable[[Any], Any], sql: str, value: Any
    ) -> None:
        database = AsyncSqliteDatabase(tmp_path / "before.db", pool_size=WORKERS)
        register(database)
        async with database:
            assert await select_everywhere(database, sql) == [value] * WORKERS

    async def test_after_opening(
        self, db: AsyncSqliteDatabase, register: Callable[[Any], Any], sql: str, value: Any
    ) -> None:
        """The workers keep their connections: each loads what it lacks."""
        connections = await on_every_worker(db, lambda: id(db._state.conn))
        register(db)
        assert await select_everywhere(db, sql) == [value] * WORKERS
        assert sorted(await on_every_worker(db, lambda: id(db._state.conn))) == sorted(connections)

    async def test_inside_a_transaction(
        self, db: AsyncSqliteDatabase, register: Callable[[Any], Any], sql: str, value: Any
    ) -> None:
        """It works in the next statement; a timeout, which is a pragma, after the transaction."""
        async with db.atomic():
            await db.execute_sql("CREATE TABLE t (x)")
            register(db)
            if "busy_timeout" not in sql:
                assert (await db.execute_sql(sql)).fetchone()[0] == value
        assert await select_everywhere(db, sql) == [value] * WORKERS

    async def test_on_a_worker(
        self, db: AsyncSqliteDatabase, register: Callable[[Any], Any], sql: str, value: Any
    ) -> None:
        """db.run(register) has it on the spot, and the other workers before their next statement."""

        def use() -> Any:
            register(db)
            return db.execute_sql(sql).fetchone()[0]

        assert await db.run(use) == value
        assert await select_everywhere(db, sql) == [value] * WORKERS

    async def test_on_a_plain_thread(
        self, db: AsyncSqliteDatabase, register: Callable[[Any], Any], sql: str, value: Any
    ) -> None:
        """A thread without a loop has it on its own open connection, as in Peewee; so do the workers."""

        def use() -> Any:
            with db.connection_context():
                register(db)
                return db.execute_sql(sql).fetchone()[0]

        assert await in_thread(use) == value
        assert await select_everywhere(db, sql) == [value] * WORKERS

    async def test_memory_keeps_its_data(self, register: Callable[[Any], Any], sql: str, value: Any) -> None:
        async with AsyncSqliteDatabase(":memory:") as database:
            await database.execute_sql("CREATE TABLE kept (x)")
            register(database)
            assert (await database.execute_sql(sql)).fetchone()[0] == value
            assert await database.table_exists("kept")


async def test_a_new_function_works_while_rows_are_streamed(db: AsyncSqliteDatabase) -> None:
    """Only what is new is loaded: SQLite refuses to replace a function while a statement is open."""

    class Word(AsyncModel):
        word = peewee.TextField()

        class Meta:
            database = db

    await Word.create_table()
    await Word.insert_many([(str(n),) for n in range(300)], fields=[Word.word]).execute()
    async with db.atomic(), Word.select().iterator() as rows:
        await rows.__anext__()
        db.register_function(lambda x: 2 * x, "twice", 1)
        assert (await db.execute_sql("SELECT twice(2)")).fetchone() == (4,)
        await db.run(lambda: db.register_function(lambda x: 3 * x, "thrice", 1))
        assert (await db.execute_sql("SELECT thrice(2)")).fetchone() == (6,)
        assert len([row async for row in rows]) == 299


async def test_a_raw_connection_has_it_too(db: AsyncSqliteDatabase) -> None:
    """What is registered is there when a function on a worker begins, whatever it does there."""
    db.register_function(lambda x: 2 * x, "twice", 1)

    def use() -> Any:
        return db.connection().execute("SELECT twice(4)").fetchone()[0]

    assert await on_every_worker(db, use) == [8] * WORKERS


async def test_a_worker_that_has_closed_its_connection(db: AsyncSqliteDatabase) -> None:
    """What it registers is only stored, as in Peewee, and there when it connects again."""

    def use() -> Any:
        db.close()
        db.register_function(lambda x: 2 * x, "twice", 1)
        return db.execute_sql("SELECT twice(4)").fetchone()[0]

    assert await db.run(use) == 8
    assert await select_everywhere(db, "SELECT twice(4)") == [8] * WORKERS


async def test_a_function_is_replaced_everywhere(db: AsyncSqliteDatabase) -> None:
    db.register_function(lambda: 1, "version", 0)
    assert await select_everywhere(db, "SELECT version()") == [1] * WORKERS
    db.register_function(lambda: 2, "version", 0)
    assert await select_everywhere(db, "SELECT version()") == [2] * WORKERS
    db.unregister_function("version")
    with pytest.raises(KeyError):
        db.unregister_function("version")


# -- what is awaited ------------------------------------------------------------------


def make_file(path: Path, value: int) -> str:
    connection = sqlite3.connect(path)
    connection.executescript(f"CREATE TABLE t (x); INSERT INTO t VALUES ({value})")
    connection.close()
    return str(path)


async def test_attach_and_detach(db: AsyncSqliteDatabase, tmp_path: Path) -> None:
    """An attached database is there on every worker, gone on every worker, and another under its name."""
    first, second = make_file(tmp_path / "1.db", 1), make_file(tmp_path / "2.db", 2)
    assert await db.attach(first, "other") is True
    assert await db.attach(first, "other") is False
    assert await select_everywhere(db, "SELECT x FROM other.t") == [1] * WORKERS
    with pytest.raises(peewee.OperationalError, match="already attached"):
        await db.attach(second, "other")
    assert await db.detach("other") is True
    assert await db.attach(second, "other") is True
    assert await select_everywhere(db, "SELECT x FROM other.t") == [2] * WORKERS
    assert await db.detach("other") is True
    assert await db.detach("other") is False
    databases = await select_everywhere(db, "SELECT count(*) FROM pragma_database_list")
    assert databases == [1] * WORKERS


async def test_a_transaction_keeps_what_was_attached_when_it_began(
    db: AsyncSqliteDatabase, tmp_path: Path
) -> None:
    """A worker inside a transaction attaches and detaches nothing for others; afterwards it does."""
    file = make_file(tmp_path / "1.db", 1)
    async with db.atomic():
        await db.execute_sql("CREATE TABLE t (x)")
        await in_thread(db.attach, file, "other")
        with pytest.raises(peewee.OperationalError, match=r"no such table: other\.t"):
            await db.execute_sql("SELECT x FROM other.t")
    assert await select_everywhere(db, "SELECT x FROM other.t") == [1] * WORKERS


async def test_a_permanent_pragma(db: AsyncSqliteDatabase) -> None:
    """`permanent=True` reaches every worker; without it a pragma lasts as long as the block."""
    assert await select_everywhere(db, "PRAGMA cache_size") != [-777] * WORKERS
    await db.pragma("cache_size", -777, permanent=True)
    assert await select_everywhere(db, "PRAGMA cache_size") == [-777] * WORKERS
    async with db.connection_context():
        await db.pragma("cache_size", -5)
        assert await db.pragma("cache_size") == -5
    assert await select_everywhere(db, "PRAGMA cache_size") == [-777] * WORKERS


async def test_load_extension(db: AsyncSqliteDatabase) -> None:
    await db.load_extension("answers")
    assert await select_everywhere(db, "SELECT answer()") == [42] * WORKERS


FAILURES: dict[str, Callable[[Any], Any]] = {
    "load_extension": lambda db: db.load_extension("missing"),
    "attach": lambda db: db.attach("/no/such/folder/x.db", "other"),
    "pragma": lambda db: db.pragma("no such; pragma", 1, permanent=True),
    "function": lambda db: db.run(db.register_function, lambda: 1, "f", 10_000),
}


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
async def test_what_fails_is_not_kept(db: AsyncSqliteDatabase, fail: Callable[[Any], Any]) -> None:
    """The error arrives, and neither the open connections nor later ones meet it again."""
    with pytest.raises(peewee.DatabaseError):
        await fail(db)
    assert await select_everywhere(db, "SELECT 1") == [1] * WORKERS
    await db.close()
    await db.connect()
    assert await select_everywhere(db, "SELECT 1") == [1] * WORKERS


async def test_two_tasks_register_at_once(db: AsyncSqliteDatabase, tmp_path: Path) -> None:
    """Neither loses what the other has attached, and a worker that connects meanwhile has both."""
    files = [make_file(tmp_path / f"{n}.db", n) for n in range(WORKERS)]
    names = iter(range(WORKERS))

    def attach() -> bool:
        n = next(names)
        return db.attach(files[n], f"other{n}")

    assert await on_every_worker(db, attach) == [True] * WORKERS
    for n in range(WORKERS):
        assert await select_everywhere(db, f"SELECT x FROM other{n}.t") == [n] * WORKERS


class Counting(AsyncSqliteDatabase):
    """A class with hooks of its own."""

    connections = 0

    def _add_conn_hooks(self, conn: sqlite3.Connection) -> None:
        super()._add_conn_hooks(conn)  # type: ignore[misc]
        conn.create_function("own", 0, lambda: "own")
        type(self).connections += 1

    def register_function(self, fn: Any, name: Any = None, *args: Any, **kwargs: Any) -> None:
        super().register_function(fn, f"my_{name}", *args, **kwargs)


async def test_a_class_with_hooks_of_its_own(tmp_path: Path) -> None:
    """They run once for each connection, and what it registers by super() is on every worker."""
    db = Counting(tmp_path / "test.db", pool_size=WORKERS)
    async with db:
        assert await select_everywhere(db, "SELECT own()") == ["own"] * WORKERS
        connections = Counting.connections
        db.register_function(lambda: 1, "one", 0)
        assert await select_everywhere(db, "SELECT my_one()") == [1] * WORKERS
        assert await db.run(db.register_function, lambda: 2, "two", 0) is None
        assert await select_everywhere(db, "SELECT my_two()") == [2] * WORKERS
        assert Counting.connections == connections


class Slow(AsyncSqliteDatabase):
    """A class that lets something happen between the wish for a connection and its opening."""

    def meanwhile(self) -> None: ...

    def _connect(self) -> Any:
        self.meanwhile()
        return super()._connect()  # type: ignore[misc]


async def test_what_is_registered_while_a_worker_connects(tmp_path: Path) -> None:
    """It is neither missed nor loaded twice, which SQLite would refuse for an attached database."""
    file = make_file(tmp_path / "1.db", 1)
    db = Slow(tmp_path / "test.db")

    def attach_from_another_thread() -> None:
        thread = threading.Thread(target=db.attach, args=(file, "other"))
        thread.start()
        thread.join()

    db.meanwhile = attach_from_another_thread  # type: ignore[method-assign]
    async with db:
        assert (await db.execute_sql("SELECT x FROM other.t")).fetchall() == [(1,)]
        assert await db.detach("other")
        assert len((await db.execute_sql("PRAGMA database_list")).fetchall()) == 1


async def shout(*args: Any) -> str:
    return "shout"


class Awaiting(Longest):
    """An aggregate that would await."""

    async def step(self, value: str) -> None:  # type: ignore[override]
        await shout(value)


@pytest.mark.parametrize(
    ("kind", "given"),
    [("func", shout), ("collation", shout), ("aggregate", Awaiting), ("window_function", Awaiting)],
)
async def test_async_functions_are_refused(db: AsyncSqliteDatabase, kind: str, given: Any) -> None:
    """SQLite would take a coroutine for the value: the registration says so, on the loop and on a worker."""
    for register in (
        lambda: getattr(db, kind)("given")(given),
        lambda: db.run(getattr(db, kind)("given"), given),
    ):
        with pytest.raises(TypeError, match=r"db\.register_\w+\(\) is for plain functions.*is async"):
            await register()
    assert await select_everywhere(db, "SELECT 1") == [1] * WORKERS
