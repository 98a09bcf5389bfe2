"""Many rows at once: batches, values of every type, generators, conflicts, RETURNING."""

from __future__ import annotations

import datetime
import decimal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from peewee import EXCLUDED, fn
from playhouse.postgres_ext import ArrayField, BinaryJSONField

from async_peewee import AsyncModel, AsyncMySQLDatabase, AsyncPostgresqlDatabase, AsyncSqliteDatabase
from tests.support import Models, on_databases, on_each_library, queries_of, worker_threads

pytestmark = on_each_library

DAY = datetime.date(2026, 1, 31)
NOON = datetime.datetime(2026, 1, 31, 12, 30, 15)


class Color(peewee.Field):
    """A field of one's own: its values are converted on the way in and out."""

    field_type = "VARCHAR(7)"

    def db_value(self, value: Any) -> Any:
        return None if value is None else "#" + "".join(f"{part:02x}" for part in value)

    def python_value(self, value: Any) -> Any:
        return None if value is None else tuple(bytes.fromhex(value[1:]))


# A column of each type, with a value that is written first and one that it is updated to.
COLUMNS: dict[str, tuple[peewee.Field, Any, Any]] = {
    "whole": (peewee.IntegerField(null=True), 1, 2),
    "big": (peewee.BigIntegerField(null=True), 2**40, -(2**40)),
    "real": (peewee.DoubleField(null=True), 0.5, 0.25),
    "exact": (peewee.DecimalField(null=True), decimal.Decimal("1.25000"), decimal.Decimal("2.50000")),
    "flag": (peewee.BooleanField(null=True), True, False),
    "day": (peewee.DateField(null=True), DAY, DAY.replace(day=1)),
    "moment": (peewee.DateTimeField(null=True), NOON, NOON.replace(year=2030)),
    "hour": (peewee.TimeField(null=True), NOON.time(), datetime.time(1, 2, 3)),
    "key": (peewee.UUIDField(null=True), uuid.UUID(int=1), uuid.UUID(int=2)),
    "text": (peewee.CharField(null=True), "a", "b'\"%s?"),
    "raw": (peewee.BlobField(null=True), b"\x00\xff", b"%s"),
    "color": (Color(null=True), (255, 0, 0), (0, 255, 0)),
}


def row_model(db: Any, **more: peewee.Field) -> Any:
    """Return a model with a column of each type, and with those given."""
    fields = {name: field.clone() for name, (field, _, _) in COLUMNS.items()}
    meta = type("Meta", (), {"database": db, "table_name": "rows"})
    return type("Row", (AsyncModel,), {**fields, **more, "Meta": meta})


def data(row: Any) -> dict[str, Any]:
    # A BLOB comes as memoryview or bytes, as the driver likes it.
    values = {name: row.__data__[name] for name in COLUMNS}
    return {**values, "raw": bytes(values["raw"])} if values["raw"] is not None else values


# -- batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 2, 100])
async def test_bulk_create_in_batches(models: Models, size: int | None) -> None:
    """One INSERT for each batch, in one hop; the instances get their keys where the database gives them."""
    User = models.User
    users = [User(name=str(number), age=number) for number in range(5)]
    statements = queries_of(models.database)
    assert await User.bulk_create(users, batch_size=size) is None
    assert len(statements) == -(-5 // (size or 5))
    rows = await User.select(User.name, User.age).order_by(User.id).tuples()
    assert list(rows) == [(str(number), number) for number in range(5)]
    if models.database.returning_clause:  # type: ignore[attr-defined]
        assert [user.id for user in users] == [1, 2, 3, 4, 5]


async def test_a_batch_that_fails_leaves_the_earlier_ones(models: Models) -> None:
    """As in Peewee; in a transaction none of them stays."""
    User = models.User
    users = [User(name=name) for name in ("a", "b", "c", "a")]
    with pytest.raises(peewee.IntegrityError):
        async with models.database.atomic():
            await User.bulk_create(users, batch_size=2)
    assert await User.select().count() == 0
    with pytest.raises(peewee.IntegrityError):
        await User.bulk_create(users, batch_size=2)
    assert await User.select(User.name).order_by(User.id).scalars() == ["a", "b"]


async def test_bulk_update_of_every_type(db: Any) -> None:
    """Each column is written as its own type, NULL and expressions too, in batches; the rows are counted."""
    Row = row_model(db)
    await Row.create_table()
    before = {name: value for name, (_, value, _) in COLUMNS.items()}
    after = {name: value for name, (_, _, value) in COLUMNS.items()}
    await Row.bulk_create([Row(**before) for _ in range(3)])
    rows = list(await Row.select().order_by(Row.id))
    assert [data(row) for row in rows] == [before] * 3
    for name in COLUMNS:
        setattr(rows[0], name, after[name])
        setattr(rows[1], name, None)
    if isinstance(db, AsyncPostgresqlDatabase):  # takes no UUID out of a CASE, nor does it from plain Peewee
        rows[0].key = rows[1].key = after["key"] = before["key"]
    fields = [getattr(Row, name) for name in COLUMNS if name != "key" or after["key"] != before["key"]]
    counted = await Row.bulk_update(rows, fields, batch_size=2)
    assert counted == (2 if isinstance(db, AsyncMySQLDatabase) else 3)  # MySQL counts what has changed
    rows = list(await Row.select().order_by(Row.id))
    empty = {**dict.fromkeys(COLUMNS), "key": rows[1].key}
    assert [data(row) for row in rows] == [after, empty, before]
    rows[2].whole = Row.whole + 10
    assert await Row.bulk_update(rows[2:], ["whole"]) == 1
    assert (await Row.get_by_id(3)).whole == 11


@on_databases("psycopg2", "psycopg3")
async def test_bulk_update_of_documents_and_arrays(db: Any) -> None:
    """JSONB and arrays of PostgreSQL, which do not convert from text by themselves."""
    Row = row_model(
        db, document=BinaryJSONField(null=True), numbers=ArrayField(peewee.IntegerField, null=True)
    )
    await Row.create_table()
    await Row.bulk_create([Row(document={"a": 1}, numbers=[1]), Row()])
    rows = list(await Row.select().order_by(Row.id))
    rows[0].document, rows[0].numbers = {"b": [1, None]}, [2, 3]
    rows[1].document, rows[1].numbers = ["c"], []
    assert await Row.bulk_update(rows, [Row.document, Row.numbers]) == 2
    written = await Row.select(Row.document, Row.numbers).order_by(Row.id).tuples()
    assert list(written) == [({"b": [1, None]}, [2, 3]), (["c"], [])]
    assert await Row.select(Row.id).where(Row.document["b"].is_null(False)).scalars() == [1]


async def test_bulk_update_of_keys(models: Models) -> None:
    """A foreign key by row or by key, not loaded for that."""
    User, Tweet = models.User, models.Tweet
    await User.insert_many([("a",), ("b",)], [User.name])
    await Tweet.bulk_create([Tweet(user=1, text=str(number)) for number in range(3)])
    tweets = list(await Tweet.select().order_by(Tweet.id))
    tweets[0].user, tweets[1].user = User(id=2), 2
    statements = queries_of(models.database)
    counted = await Tweet.bulk_update(tweets, [Tweet.user])
    assert counted == (2 if isinstance(models.database, AsyncMySQLDatabase) else 3)
    assert len(statements) == 1
    assert await Tweet.select(Tweet.user).order_by(Tweet.id).scalars() == [2, 2, 1]


# -- generators -------------------------------------------------------------------------------


async def test_insert_many_takes_generators(models: Models) -> None:
    """Of dicts, of tuples, of many rows; they run on the worker, and nothing before the await."""
    User = models.User
    places = set()

    def rows(start: int, stop: int, as_dict: bool) -> Iterator[Any]:
        for number in range(start, stop):
            places.add(threading.current_thread().name in worker_threads())
            yield {"name": str(number), "age": number} if as_dict else (str(number), number)

    await User.insert_many(rows(0, 3, True))
    await User.insert_many(rows(3, 400, False), fields=[User.name, User.age]).execute()
    assert places == {True}
    assert await User.select(fn.COUNT(User.id), fn.SUM(User.age)).scalar(as_tuple=True) == (400, 79800)
    await User.bulk_create((User(name=f"x{number}") for number in range(3)), batch_size=2)
    assert await User.select().where(User.name.startswith("x")).count() == 3


async def test_a_generator_that_fails_inserts_nothing(models: Models) -> None:
    """Its error arrives as it is, and the worker goes on."""
    User = models.User

    def rows() -> Iterator[dict[str, Any]]:
        yield {"name": "a"}
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await User.insert_many(rows())
    assert await User.select().count() == 0


async def test_insert_counts_and_keys(models: Models) -> None:
    """as_rowcount() gives the number of rows; one row its key; DEFAULT VALUES and a query as the source."""
    User, Tweet = models.User, models.Tweet
    assert await User.insert_many([("a",), ("b",)], [User.name]).as_rowcount() == 2
    assert await User.insert(name="c") == 3
    await Tweet.insert_many([{"user": 1, "text": "x"}, {"user": User(id=2), "text": "y"}])
    source = Tweet.select(Tweet.text, Tweet.user + 40)
    assert await User.insert_from(source, [User.name, User.age]).as_rowcount() == 2
    assert await User.select(User.age).where(User.name << ["x", "y"]).order_by(User.name).scalars() == [
        41,
        42,
    ]


# -- conflicts --------------------------------------------------------------------------------


async def get(User: Any, name: str) -> tuple[int, int]:
    row = await User.get(name=name)
    return row.id, row.age


@on_databases("sqlite", "psycopg2", "psycopg3")
async def test_on_conflict_update(models: Models) -> None:
    """By column, with a condition, with the row that was refused, for many rows at once."""
    User = models.User
    await User.create(name="a", age=1)
    clash = User.insert(name="a", age=5)
    add = clash.on_conflict(conflict_target=[User.name], update={User.age: User.age + EXCLUDED.age})
    await add
    assert await get(User, "a") == (1, 6)
    only_less = {"update": {User.age: 0}, "where": User.age < 5}
    await clash.on_conflict(conflict_target=("name",), **only_less)
    assert await get(User, "a") == (1, 6)
    many = User.insert_many([("a", 7), ("b", 8)], [User.name, User.age])
    await many.on_conflict(conflict_target=[User.name], preserve=[User.age])
    assert (await get(User, "a"))[1:] + (await get(User, "b"))[1:] == (7, 8)
    query = clash.on_conflict(conflict_target=[User.name], preserve=[User.age]).returning(User.id, User.age)
    assert [(row.id, row.age) for row in await query] == [(1, 5)]
    await clash.on_conflict(action="ignore")
    assert await get(User, "a") == (1, 5)


@on_databases("psycopg2", "psycopg3")
async def test_on_conflict_with_a_constraint(models: Models) -> None:
    """PostgreSQL's ON CONSTRAINT, and DO NOTHING, which gives no key."""
    User = models.User
    await User.create(name="a", age=1)
    await models.database.execute_sql("ALTER TABLE users ADD CONSTRAINT one_name UNIQUE (name)")
    await User.insert(name="a", age=2).on_conflict(conflict_constraint="one_name", preserve=[User.age])
    assert await get(User, "a") == (1, 2)
    assert await User.insert(name="a").on_conflict_ignore() is None


@on_databases("sqlite", "pymysql")
async def test_replace(models: Models) -> None:
    """REPLACE is a new row in the place of the old: one, many, and as on_conflict_replace()."""
    User = models.User
    await User.create(name="a", age=1)
    await User.replace(name="a", age=2)
    await User.insert(name="a", age=3).on_conflict_replace()
    await User.replace_many([{"name": "a", "age": 4}, {"name": "b", "age": 5}])
    assert await User.select(User.age).order_by(User.name).scalars() == [4, 5]
    assert (await User.get(name="a")).id > 3


@on_databases("pymysql")
async def test_on_duplicate_key(models: Models) -> None:
    """MySQL's own words, which have no target; IGNORE keeps the row."""
    User = models.User
    await User.create(name="a", age=1)
    await User.insert(name="a", age=2).on_conflict(preserve=[User.age])
    assert await get(User, "a") == (1, 2)
    await User.insert(name="a", age=9).on_conflict(update={User.age: User.age + 1})
    assert await get(User, "a") == (1, 3)
    await User.insert(name="a", age=9).on_conflict_ignore()
    assert await get(User, "a") == (1, 3)


# -- RETURNING --------------------------------------------------------------------------------


@on_databases("sqlite", "psycopg2", "psycopg3")
async def test_returning_on_every_write(models: Models) -> None:
    """Instances, dicts, tuples and named tuples; expressions; streamed; and async for."""
    User = models.User
    inserted = User.insert_many([("a", 1), ("b", 2), ("c", 3)], [User.name, User.age])
    assert [row.name async for row in inserted.returning(User)] == ["a", "b", "c"]
    update = User.update(age=User.age * 10).returning(User.name, (User.age + 1).alias("next"))
    assert sorted((row["name"], row["next"]) for row in await update.dicts()) == [
        ("a", 11),
        ("b", 21),
        ("c", 31),
    ]
    assert sorted(row.next for row in await update.namedtuples()) == [101, 201, 301]
    assert ("a", 1001) in [row async for row in update.tuples().iterator()]
    delete = User.delete().where(User.name != "a").returning(User.id)
    assert sorted(row.id for row in await delete) == [2, 3]
    assert len(await delete.clone()) == 0
    assert await User.select().count() == 1


@on_databases("sqlite", "psycopg2", "psycopg3")
async def test_a_write_is_done_each_time_it_is_awaited(models: Models) -> None:
    """As often as Peewee does it: from 4.5.3 on, the rows of the last RETURNING do not stand for the next."""
    User = models.User

    def natively() -> list[list[int]]:
        User.create(name="a", age=1)
        query = User.update(age=User.age + 1).returning(User.age)
        return [[row.age for row in query.execute()] for _ in range(2)]

    expected = await models.database.run(natively)
    await User.update(age=1)
    update = User.update(age=User.age + 1).returning(User.age)
    assert [[row.age for row in await update] for _ in range(2)] == expected
    assert [row.age for row in update] == [row.age async for row in update] == expected[1]


@on_databases("pymysql")
async def test_returning_on_mariadb(models: Models) -> None:
    """INSERT and DELETE have it there, UPDATE has not."""
    User, db = models.User, models.database
    if "MariaDB" not in (await db.execute_sql("SELECT version()")).fetchone()[0]:
        pytest.skip("MySQL has no RETURNING")
    inserted = await User.insert_many([("a",), ("b",)], [User.name]).returning(User.id, User.name).tuples()
    assert list(inserted) == [(1, "a"), (2, "b")]
    deleted = await User.delete().where(User.name == "a").returning(User.name)
    assert [row.name for row in deleted] == ["a"]
    with pytest.raises(peewee.ProgrammingError):
        await User.update(age=1).returning(User.id)


async def test_sqlite_with_a_returning_clause(tmp_path: Path) -> None:
    """`returning_clause=True` has bulk_create() give the instances their keys."""
    async with AsyncSqliteDatabase(tmp_path / "test.db", returning_clause=True) as db:
        models = Models(db)
        await db.create_tables(models.all)
        users = [models.User(name=str(number)) for number in range(4)]
        await models.User.bulk_create(users, batch_size=3)
        assert [user.id for user in users] == [1, 2, 3, 4]
        keys = await models.User.insert_many([("x",), ("y",)], [models.User.name])
        assert list(keys) == [(5,), (6,)]


@on_databases("sqlite", "psycopg2", "psycopg3")
async def test_update_from_another_table(models: Models) -> None:
    """UPDATE ... FROM a model and from values; DELETE by a subquery."""
    User, Tweet = models.User, models.Tweet
    await User.insert_many([("a", 1), ("b", 2)], [User.name, User.age])
    await Tweet.insert_many([(1, "x"), (2, "y")], [Tweet.user, Tweet.text])
    query = Tweet.update(text=User.name).from_(User).where((Tweet.user == User.id) & (User.age == 2))
    assert await query == 1
    assert await Tweet.select(Tweet.text).order_by(Tweet.id).scalars() == ["x", "b"]
    assert await Tweet.delete().where(Tweet.user << User.select(User.id).where(User.age == 1)) == 1
    assert await Tweet.select().count() == 1
