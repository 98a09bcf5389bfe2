"""Results: filled and buffered on the worker, so that nothing lazy or thread-bound leaves it."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import peewee
import pytest

from async_peewee import AsyncMySQLDatabase
from async_peewee._bridge import results
from async_peewee._bridge.detaching import detach, detached
from async_peewee._bridge.results import BufferedCursor, read_all
from tests.support import Models, queries_of

# What reading on the loop raises what a function has left on its worker.
ELSEWHERE = (peewee.PeeweeException, sqlite3.ProgrammingError)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE n (i INTEGER PRIMARY KEY)")
    connection.executemany("INSERT INTO n VALUES (?)", [(i,) for i in range(10)])
    yield connection
    connection.close()


class Plain(peewee.Model):
    """A model of plain Peewee, for its wrappers and generators."""

    i = peewee.IntegerField(primary_key=True)

    class Meta:
        table_name = "n"


@pytest.fixture
def plain() -> Iterator[Any]:
    database = peewee.SqliteDatabase(":memory:")
    with Plain.bind_ctx(database), database:
        Plain.create_table()
        Plain.insert_many([(i,) for i in range(10)]).execute()
        yield Plain


# -- the parts ------------------------------------------------------------------------


def test_a_buffered_cursor_reads_like_the_real_one(connection: sqlite3.Connection) -> None:
    """Rows by one, by some and by all go on where the last read left off; it outlives the real one."""
    real = connection.execute("SELECT i FROM n ORDER BY i")
    cursor = BufferedCursor(real)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        real.fetchone()
    assert cursor.description[0][0] == "i"
    assert cursor.fetchone() == (0,)
    assert cursor.fetchmany() == [(1,)]
    assert cursor.fetchmany(3) == [(2,), (3,), (4,)]
    assert next(iter(cursor)) == (5,)
    assert (next(cursor), list(cursor), next(cursor, "none")) == ((6,), [(7,), (8,), (9,)], "none")
    cursor.close()
    rest = BufferedCursor(connection.execute("SELECT i FROM n WHERE i > 7 ORDER BY i"))
    assert (rest.fetchmany(99), rest.fetchmany(99)) == ([(8,), (9,)], [])
    assert (rest.fetchall(), rest.fetchone(), list(rest)) == ([], None, [])


def test_a_driver_is_asked_for_a_few_rows_at_a_time(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the pieces the interpreter is free for a moment; all rows come, however many there are."""
    pauses: list[float] = []
    monkeypatch.setattr(results, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(results, "PIECE", 4)
    for count, free in ((0, 0), (3, 0), (4, 0), (5, 1), (8, 1), (9, 2), (10, 2)):
        cursor = BufferedCursor(connection.execute("SELECT i FROM n ORDER BY i LIMIT ?", (count,)))
        assert cursor.fetchall() == [(i,) for i in range(count)]
        assert len(pauses) == free
        pauses.clear()


def test_a_buffered_cursor_keeps_the_counts(connection: sqlite3.Connection) -> None:
    """rowcount and lastrowid of a write, with RETURNING too; without rows there is no description."""
    insert = BufferedCursor(connection.execute("INSERT INTO n VALUES (77)"))
    assert (insert.rowcount, insert.lastrowid, insert.description, insert.fetchall()) == (1, 77, None, [])
    update = BufferedCursor(connection.execute("UPDATE n SET i = i + 100 WHERE i < 3 RETURNING i"))
    assert (update.rowcount, sorted(update)) == (3, [(100,), (101,), (102,)])


def test_an_error_while_fetching_is_peewees(connection: sqlite3.Connection) -> None:
    """Fetching is outside of Peewee's own translation of driver errors."""
    sql = "SELECT abs(CASE WHEN i = 5 THEN -9223372036854775808 ELSE i END) FROM n"
    with pytest.raises(peewee.OperationalError, match="overflow"):
        BufferedCursor(connection.execute(sql))


def test_fill_reads_every_row_once(plain: Any) -> None:
    """A wrapper that is fresh, half read or full ends up with all rows and no live cursor."""
    for already in (1, 4, 99):
        wrapper = plain.select().order_by(plain.i).execute()
        wrapper.fill_cache(already)
        assert read_all(wrapper) is wrapper
        assert [row.i for row in wrapper] == list(range(10))
        assert wrapper.populated
        # One that was full already has been closed by Peewee.
        assert already > 10 or isinstance(wrapper.cursor, BufferedCursor)


def test_seal_makes_results_fit_to_travel(plain: Any, connection: sqlite3.Connection) -> None:
    """Wrappers, executed queries, Peewee's generators and raw cursors; all else is passed as it is."""
    query = plain.select().order_by(plain.i)
    assert detach(query.execute()).populated
    lazy = plain.select()
    iter(lazy)
    assert detach(lazy)._cursor_wrapper.populated
    assert detach(query.clone().iterator())[3].i == 3
    assert detach(query.scalars())[:3] == [0, 1, 2]
    assert isinstance(detach(connection.execute("SELECT 1")), BufferedCursor)
    buffered = detach(connection.execute("SELECT 1"))

    def own() -> Iterator[int]:
        yield 1

    for value in (
        None,
        1,
        [1],
        buffered,
        generator := own(),
        plain,
        plain(i=1),
        unexecuted := plain.select(),
    ):
        assert detach(value) is value
    assert next(generator) == 1
    assert unexecuted._cursor_wrapper is None


def test_detached_defers_the_call() -> None:
    """The function runs, and its result is detached, when the detached call is made."""
    calls: list[Any] = []
    call = detached(lambda *args, **kwargs: calls.append((args, kwargs)), 1, x=2)
    assert calls == []
    assert call() is None
    assert calls == [((1,), {"x": 2})]


# -- nothing lazy leaves a worker -----------------------------------------------------


async def test_next_of_a_raw_cursor(models: Models) -> None:
    """As of a driver's own, on the loop's thread: a row at a time, and what is left afterwards."""
    await models.User.insert_many([{"name": name} for name in "abc"]).execute()
    cursor = await models.database.execute_sql("SELECT name FROM users ORDER BY name")
    assert next(cursor) == ("a",)
    assert [row for (row,) in cursor] == ["b", "c"]
    with pytest.raises(StopIteration):
        next(cursor)


async def test_results_of_run_need_no_connection(models: Models) -> None:
    """Whatever plain Peewee would read later has been read on the worker already."""
    User, db = models.User, models.database
    await User.insert_many([(str(n), n) for n in range(500)], [User.name, User.age])
    query = User.select().order_by(User.age)

    def iterated_a_little() -> Any:
        fresh = query.clone()
        assert next(iter(fresh)).age == 0
        return fresh

    results: dict[str, Any] = {
        "execute": await db.run(lambda: query.clone().execute()),
        "peewee's execute": await db.run(lambda: db.execute(query)),
        "execute_sql": await db.run(lambda: db.execute_sql("SELECT age FROM users ORDER BY age")),
        "iterator": await db.run(lambda: query.clone().iterator()),
        "tuples": await db.run(lambda: query.clone().tuples().execute()),
        "half read": await db.run(iterated_a_little),
        "scalars": await db.run(lambda: query.select(User.age).scalars()),
    }
    if not isinstance(db, AsyncMySQLDatabase):
        update = User.update(name=User.name + "!").returning(User)
        results["returning"] = await db.run(update.execute)
    statements = queries_of(db)
    await db.close()
    assert {name: len(list(rows)) for name, rows in results.items()} == dict.fromkeys(results, 500)
    assert statements == []


class Page(NamedTuple):
    rows: Any
    total: int


@dataclass(frozen=True)
class Report:
    total: int
    rows: Any


LAZY: dict[str, Callable[[Models], Any]] = {
    "execute": lambda models: models.User.select().execute(),
    "dicts": lambda models: models.User.select().dicts().execute(),
    "iterator": lambda models: models.User.select().iterator(),
    "scalars": lambda models: models.User.select(models.User.age).scalars(),
    "execute_sql": lambda models: models.database.execute_sql("SELECT age FROM users"),
}


# What a function makes of something lazy, and the way to it.
CONTAINERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tuple": (lambda lazy: (lazy, 3), itemgetter(0)),
    "list": (lambda lazy: [3, lazy], itemgetter(1)),
    "dict": (lambda lazy: {"total": 3, "rows": lazy}, itemgetter("rows")),
    "namedtuple": (lambda lazy: Page(lazy, 3), attrgetter("rows")),
    "dataclass": (lambda lazy: Report(3, lazy), attrgetter("rows")),
    "nested": (lambda lazy: {"a": [Page((Report(3, lazy),), 3)]}, lambda found: found["a"][0].rows[0].rows),
    "twice": (lambda lazy: (lazy, [lazy]), lambda found: found[1][0]),
    "after many rows": (lambda lazy: [*[(n, n) for n in range(500)], lazy], itemgetter(-1)),
    "with itself": (lambda lazy: with_itself([3, lazy]), lambda found: found[2][1]),
}


def with_itself(values: list[Any]) -> list[Any]:
    values.append(values)
    return values


@pytest.mark.parametrize(("pack", "way"), CONTAINERS.values(), ids=CONTAINERS)
async def test_what_is_lazy_in_a_container_has_its_rows(
    models: Models, pack: Callable[[Any], Any], way: Callable[[Any], Any]
) -> None:
    """As the result itself has: they need neither the worker nor its connection, in a block or outside."""
    User, db = models.User, models.database
    await User.insert_many([(str(n), n) for n in range(50)], [User.name, User.age])
    results = {name: await db.run(lambda make=make: pack(make(models))) for name, make in LAZY.items()}
    async with db.atomic():
        for name, make in LAZY.items():
            results[f"{name} in a block"] = await db.run(lambda make=make: pack(make(models)))
        assert {name: len(list(way(found))) for name, found in results.items()} == dict.fromkeys(results, 50)


async def test_each_of_many_lazy_results_has_its_rows(sqlite_models: Models) -> None:
    """A list with a query for each row; what is found in one is looked for in all."""
    User, Tweet, db = sqlite_models.User, sqlite_models.Tweet, sqlite_models.database
    await User.insert_many([(str(n), n) for n in range(60)], [User.name, User.age])
    await Tweet.insert_many([(n, "meow") for n in range(1, 61)], [Tweet.user, Tweet.text])
    pairs = await db.run(lambda: [(user, user.tweets.execute()) for user in User.select()])
    assert [[tweet.text for tweet in tweets] for _, tweets in pairs] == [["meow"]] * 60


def half_read(query: Any) -> Iterator[Any]:
    rows = iter(query)
    next(rows)
    return rows


def names_of(rows: Any) -> Iterator[str]:
    for row in rows:
        yield row.name


# What goes through a query when it is itself gone through, and how many rows that leaves.
ITERATORS: dict[str, tuple[Callable[[Any], Iterator[Any]], int]] = {
    "generator expression": (lambda query: (row.name for row in query), 50),
    "generator": (lambda query: names_of(query.execute()), 50),
    "iterator": (iter, 50),
    "half read": (half_read, 49),
}


@pytest.mark.parametrize(("make", "count"), ITERATORS.values(), ids=ITERATORS)
async def test_an_iterator_over_a_query_has_its_rows(
    models: Models, make: Callable[[Any], Iterator[Any]], count: int
) -> None:
    """As a result and in a container; a generator's own code still runs where it is used."""
    User, db = models.User, models.database
    await User.insert_many([(str(n), n) for n in range(50)], [User.name, User.age])
    alone = await db.run(lambda: make(User.select()))
    async with db.atomic():
        inside = await db.run(lambda: [make(User.select())])
        assert (len(list(alone)), len(list(inside[0]))) == (count, count)


class Odd(tuple[Any, ...]):
    """A tuple that is made in a way of its own."""

    __slots__ = ()

    def __new__(cls, first: Any, second: Any) -> Odd:
        return super().__new__(cls, (first, second))


async def test_a_tuple_that_cannot_be_made_again_is_left_alone(sqlite_models: Models) -> None:
    """What is lazy in it is neither used up nor lost: it is refused where it is read."""
    await sqlite_models.User.create(name="Huey")
    for make in LAZY.values():
        pair = await sqlite_models.database.run(lambda make=make: Odd(make(sqlite_models), 1))
        with pytest.raises(ELSEWHERE):
            list(pair[0])


async def test_a_container_of_plain_values_is_the_same_object(sqlite_models: Models) -> None:
    """Nothing is copied without need, and a stranger's class is not looked into."""
    row = sqlite_models.User(name="Huey")
    nested: Any = {"rows": [{"name": "Huey"}] * 500, "page": (row, [row]), "report": Report(1, row)}
    for value in ([1, "2"], (row, True), [row] * 3, nested, SimpleNamespace(rows=iter(())), [object()]):
        assert await sqlite_models.database.run(lambda value=value: value) is value


def hidden_in_an_object(query: Any) -> Callable[[], Any]:
    holder = SimpleNamespace(rows=query.execute())
    return lambda: list(holder.rows)


def hidden_in_a_generator(query: Any) -> Callable[[], Any]:
    generator = (row.name for row in query)
    return lambda: list(generator)


def hidden_in_an_iterator(query: Any) -> Callable[[], Any]:
    rows = map(str, query.execute())
    return lambda: next(rows)


def hidden_half_read(query: Any) -> Callable[[], Any]:
    rows = iter(query.execute())
    next(rows)
    return lambda: next(rows)


def hidden_cursor(query: Any) -> Callable[[], Any]:
    cursor = query._database.execute_sql("SELECT name FROM users")
    return lambda: [row for row in cursor]  # noqa: C416


HIDDEN = [hidden_in_an_object, hidden_in_a_generator, hidden_in_an_iterator, hidden_half_read, hidden_cursor]


@pytest.mark.parametrize("hide", HIDDEN)
async def test_rows_left_on_a_worker_are_refused_elsewhere(
    sqlite_models: Models, hide: Callable[[Any], Callable[[], Any]]
) -> None:
    """Where nobody looks for them they are an error on the loop, and never half of the rows."""
    User, db = sqlite_models.User, sqlite_models.database
    await User.insert_many([(str(n), n) for n in range(50)], [User.name, User.age])
    read = await db.run(hide, User.select())
    with pytest.raises(ELSEWHERE):
        read()
    async with db.atomic():
        read = await db.run(hide, User.select())
        with pytest.raises(ELSEWHERE):
            read()
        # The block's next function may go on where this one has stopped.
        assert await db.run(await db.run(hide, User.select()))


async def test_a_row_half_read_holds_no_lock(sqlite_models: Models) -> None:
    """After peek() and first() no statement is left open on the worker: the table can be dropped there."""
    User, db = sqlite_models.User, sqlite_models.database
    await User.insert_many([(str(n), n) for n in range(500)], [User.name, User.age])
    query = User.select()
    async with db.connection_context():
        for call in (query.peek(), query.first(), query.get(), query.scalar(), query.exists()):
            result = await call
            await db.execute_sql("CREATE TABLE another (x)")
            await db.execute_sql("DROP TABLE another")
            assert result
        await db.execute_sql("DROP TABLE users")


async def test_stop_iteration_is_translated(sqlite_models: Models) -> None:
    """A coroutine could not raise it; the error names the function and keeps the cause."""

    def exhausted() -> None:
        next(iter(()))

    with pytest.raises(RuntimeError, match=r"exhausted.* raised StopIteration") as caught:
        await sqlite_models.database.run(exhausted)
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_ones_own_generator_is_left_alone(sqlite_models: Models) -> None:
    """It comes back unstarted and runs where it is used: here, on the loop, where the guard is."""
    started: list[str] = []

    def numbers() -> Iterator[int]:
        started.append("started")
        yield from (1, 2)

    generator = await sqlite_models.database.run(numbers)
    assert started == []
    assert list(generator) == [1, 2]


async def test_run_refuses_what_is_not_synchronous(sqlite_models: Models) -> None:
    """An async function given to db.run() would come back as a coroutine nobody awaits."""

    async def wrong() -> None: ...

    with pytest.raises(TypeError, match=r"await .*wrong\(\) itself"):
        sqlite_models.database.run(wrong)
    gc.collect()


async def test_errors_of_a_worker_arrive_as_they_are(models: Models) -> None:
    """The same object, with its traceback, its cause and its class; the worker goes on."""
    mine = ValueError("mine")

    def fail() -> None:
        raise mine from KeyError("cause")

    with pytest.raises(ValueError, match="mine") as caught:
        await models.database.run(fail)
    assert caught.value is mine
    assert isinstance(mine.__cause__, KeyError)
    assert any(entry.name == "fail" for entry in caught.traceback)
    await models.User.create(name="a")
    with pytest.raises(peewee.IntegrityError) as duplicate:
        await models.User.create(name="a")
    assert type(duplicate.value) is peewee.IntegrityError
    assert await models.User.select().count() == 1
