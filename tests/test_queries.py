"""Queries: awaited, iterated, asked for one value, combined; their results stay usable without I/O."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import peewee
import pytest
from peewee import JOIN, SQL, fn

from async_peewee import AsyncMySQLDatabase, AsyncSqliteDatabase, BlockingCallError, prefetch
from tests.support import Models, queries_of


@pytest.fixture
async def filled(models: Models) -> Models:
    """Three users aged 1 to 3, with as many tweets each."""
    await models.database.run(read_all, models)
    return models


@pytest.fixture
async def sqlite_filled(sqlite_models: Models) -> Models:
    """The same on SQLite, for what does not depend on the database."""
    await sqlite_models.database.run(read_all, sqlite_models)
    return sqlite_models


def read_all(models: Models) -> None:
    rows = [("Huey", 1), ("Mickey", 2), ("Zaizee", 3)]
    models.User.insert_many(rows, fields=[models.User.name, models.User.age]).execute()
    for user in models.User.select().order_by(models.User.age):
        for number in range(user.age):
            models.Tweet.create(user=user, text=f"{user.name} {number}")


def names(rows: Any) -> list[str]:
    return [row.name for row in rows]


# -- execution ------------------------------------------------------------------------


async def test_await_fills_the_query(filled: Models) -> None:
    """The result and the query itself can then be iterated, counted and indexed, with no more SQL."""
    query = filled.User.select().order_by(filled.User.age)
    statements = queries_of(filled.database)
    rows = await query
    assert isinstance(rows, peewee.CursorWrapper)
    for filled_thing in (rows, query):
        assert names(filled_thing) == names(list(filled_thing)[:]) == ["Huey", "Mickey", "Zaizee"]
        assert (len(filled_thing), filled_thing[0].name, names(filled_thing[1:])[-1]) == (3, "Huey", "Zaizee")
    assert query
    assert filled.User(id=rows[0].id) in query
    assert await query.execute() is await query
    assert len(statements) == 1
    assert await query.where(filled.User.age > 9) is not rows
    assert len(statements) == 2


async def test_a_result_without_rows_is_a_result(sqlite_models: Models) -> None:
    """Iterating the query, its length and its truth need no more I/O."""
    query = sqlite_models.User.select()
    await query
    assert (list(query), len(query), bool(query)) == ([], 0, False)


async def test_async_for_runs_once_and_keeps_the_rows(sqlite_filled: Models) -> None:
    """A second loop, nested loops and a plain loop afterwards read the same rows."""
    query = sqlite_filled.User.select().order_by(sqlite_filled.User.age)
    statements = queries_of(sqlite_filled.database)
    pairs = [(a.age, b.age) async for a in query async for b in query]
    assert pairs == [(a, b) for a in (1, 2, 3) for b in (1, 2, 3)]
    assert names(query) == ["Huey", "Mickey", "Zaizee"]
    assert len(statements) == 1


async def test_leaving_the_loop_early_is_silent(sqlite_filled: Models) -> None:
    """`break` out of `async for` over a query leaves nothing to clean up, on trio neither."""
    async for user in sqlite_filled.User.select().order_by(sqlite_filled.User.age):
        assert user.name == "Huey"
        break
    gc.collect()
    await anyio.lowlevel.checkpoint()


async def test_two_tasks_may_await_the_same_query(filled: Models) -> None:
    """Each gets all rows, whoever is first; so do a count and a get beside them."""
    query = filled.User.select().order_by(filled.User.age)
    results: list[Any] = []

    async def use(method: Any) -> None:
        results.append(await method())

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(use, query.execute)
        group.start_soon(use, query.count)
        group.start_soon(use, query.get)
    counts = [result for result in results if isinstance(result, int)]
    rows = [names(result) for result in results if isinstance(result, peewee.CursorWrapper)]
    assert counts == [3]
    assert rows == [["Huey", "Mickey", "Zaizee"]] * 4
    assert names(query) == ["Huey", "Mickey", "Zaizee"]


async def test_a_builder_starts_anew(sqlite_filled: Models) -> None:
    """A query derived from one that is filled runs by itself."""
    query = sqlite_filled.User.select()
    await query
    with pytest.raises(BlockingCallError):
        len(query.where(sqlite_filled.User.age == 1))
    assert len(await query.where(sqlite_filled.User.age == 1)) == 1
    assert len(query) == 3


async def test_aexecute_is_peewees_own(sqlite_filled: Models) -> None:
    """Peewee's asynchronous spelling, which its own asynchronous databases have, works as well."""
    assert len(await sqlite_filled.User.select().aexecute()) == 3


# -- one row, one value ---------------------------------------------------------------


async def test_methods_for_one_row_or_value(filled: Models) -> None:
    """first, get, get_or_none, peek, scalar, scalars, count and exists, with and without rows."""
    User = filled.User
    query = User.select().order_by(User.age)
    none = query.where(User.age > 9)
    assert (await query.first()).name == (await query.get()).name == (await query.peek()).name == "Huey"
    assert names(await query.first(n=2)) == names(await query.peek(n=2)) == ["Huey", "Mickey"]
    assert (await query.get_or_none()).name == "Huey"
    assert await none.first() is await none.get_or_none() is await none.peek() is None
    with pytest.raises(User.DoesNotExist):
        await none.get()
    ages = User.select(User.age, User.name).order_by(User.age.desc())
    assert await ages.scalar() == 3
    assert await ages.scalar(as_tuple=True) == (3, "Zaizee")
    assert await ages.scalar(as_dict=True) == {"age": 3, "name": "Zaizee"}
    assert await ages.where(User.age > 9).scalar() is None
    assert await ages.scalars() == [3, 2, 1]
    assert (await query.count(), await query.limit(2).count(), await none.count()) == (3, 2, 0)
    assert await query.limit(2).count(clear_limit=True) == 3
    assert (await query.exists(), await none.exists()) == (True, False)


async def test_asking_for_one_row_leaves_the_query_whole(sqlite_filled: Models) -> None:
    """first(), get(), count() and the like do not fill the query with what they saw."""
    query = sqlite_filled.User.select()
    for method in (query.first, query.get, query.peek, query.count, query.exists, query.scalar):
        await method()
    assert len(await query) == 3


async def test_row_types(filled: Models) -> None:
    """Instances, dicts, tuples, named tuples and objects of a constructor."""
    User = filled.User
    query = User.select(User.name, User.age).order_by(User.age).limit(1)
    assert list(await query.dicts()) == [{"name": "Huey", "age": 1}]
    assert list(await query.tuples()) == [("Huey", 1)]
    assert [(row.name, row.age) for row in await query.namedtuples()] == [("Huey", 1)]
    assert [row async for row in query.objects(lambda **columns: sorted(columns))] == [["age", "name"]]
    assert [type(row) async for row in query.dicts().models()] == [User]
    assert await query.dicts().get() == await query.dicts().first() == {"name": "Huey", "age": 1}


# -- combinations ---------------------------------------------------------------------


async def test_joins_aggregates_and_aliases(filled: Models) -> None:
    """Related rows come with the join, computed columns as attributes."""
    User, Tweet = filled.User, filled.Tweet
    Author = User.alias("author")
    tweets = Tweet.select(Tweet, Author).join(Author).where(Author.age == 2).order_by(Tweet.id)
    assert [(tweet.text, tweet.user.name) for tweet in await tweets] == [
        ("Mickey 0", "Mickey"),
        ("Mickey 1", "Mickey"),
    ]
    counts = (
        User.select(User.name, fn.COUNT(Tweet.id).alias("total"))
        .join(Tweet, JOIN.LEFT_OUTER)
        .group_by(User.name)
        .having(fn.COUNT(Tweet.id) > 1)
        .order_by(User.name)
    )
    assert [(user.name, user.total) for user in await counts] == [("Mickey", 2), ("Zaizee", 3)]
    assert await counts.count() == 2
    assert await User.filter(tweets__text="Mickey 1").count() == 1


async def test_compound_queries(filled: Models) -> None:
    """Each operator gives an awaitable query, and so does a query from another."""
    User = filled.User
    young, old = User.select().where(User.age < 3), User.select().where(User.age > 1)

    async def ages(query: Any) -> list[int]:
        return sorted([row.age async for row in query])

    assert await ages(young | old) == await ages(young.union(old)) == [1, 2, 3]
    assert await ages(young + old) == await ages(young.union_all(old)) == [1, 2, 2, 3]
    assert await ages(young & old) == await ages(young.intersect(old)) == [2]
    assert await ages(young - old) == await ages(young.except_(old)) == [1]
    either = (young | old).order_by(SQL("age").desc())
    assert (await either.first()).age == 3
    assert (await either.count(), await either.exists()) == (3, True)
    assert await either.select_from(fn.SUM(SQL("age"))).scalar() == 6
    assert [row.name async for row in young.select_from(SQL("name")).order_by(SQL("name"))] == [
        "Huey",
        "Mickey",
    ]
    assert await User.select().where(User.id.in_(young.select(User.id))).count() == 2


async def test_common_table_expressions(filled: Models) -> None:
    """A plain CTE, one to select from, and a recursive one."""
    User, Tweet = filled.User, filled.Tweet
    totals = Tweet.select(Tweet.user, fn.COUNT(Tweet.id).alias("total")).group_by(Tweet.user).cte("totals")
    query = (
        User.select(User.name, totals.c.total)
        .join(totals, on=(User.id == totals.c.user_id))
        .with_cte(totals)
        .order_by(User.age)
    )
    assert list(await query.tuples()) == [("Huey", 1), ("Mickey", 2), ("Zaizee", 3)]
    assert sorted([row.total async for row in totals.select_from(totals.c.total)]) == [1, 2, 3]
    base = User.select(User.age.alias("n")).where(User.age == 1).cte("numbers", recursive=True)
    recursive = base.union_all(base.select(base.c.n + 1).where(base.c.n < 5))
    assert await recursive.select_from(fn.SUM(recursive.c.n)).scalar() == 15


async def test_prefetch(filled: Models) -> None:
    """The method and the function give users with their tweets in lists, in two queries."""
    User, Tweet = filled.User, filled.Tweet
    users, tweets = User.select().order_by(User.age), Tweet.select().order_by(Tweet.id)
    statements = queries_of(filled.database)
    for call in (users.prefetch(tweets), prefetch(users, (tweets, User)), prefetch(users, Tweet)):
        found = await call
        assert [len(user.tweets) for user in found] == [1, 2, 3]
        assert {tweet.user.name for user in found for tweet in user.tweets} == {"Huey", "Mickey", "Zaizee"}
    assert len(statements) == 6
    assert len(await prefetch(users)) == len(await users.prefetch()) == 3
    assert (await prefetch(tweets, users))[0].user.name == "Huey"


async def test_with_related(filled: Models) -> None:
    """Related rows loaded by further queries of the same call."""
    tweets = await filled.Tweet.select().order_by(filled.Tweet.id).with_related(filled.Tweet.user)
    assert [tweet.user.name for tweet in tweets][:2] == ["Huey", "Mickey"]
    users = await filled.User.select().order_by(filled.User.age).with_related(filled.User.tweets)
    assert [len(user.tweets) for user in users] == [1, 2, 3]


async def test_noop(filled: Models) -> None:
    assert list(await filled.User.noop()) == []
    assert [row async for row in filled.User.noop()] == []
    assert await filled.User.noop().first() is None


# -- writes ---------------------------------------------------------------------------


async def test_insert_update_delete(models: Models) -> None:
    """They give the new key, or the number of rows; `await query` and execute() alike."""
    User = models.User
    assert await User.insert(name="Huey") == 1
    assert await User.insert({User.name: "Mickey", "age": 2}).execute() == 2
    assert await User.update(age=User.age + 5).where(User.name == "Mickey") == 1
    assert await User.update({User.age: 9}).execute() == 2
    assert await User.select(User.age).scalars() == [9, 9]
    assert await User.delete().where(User.name == "Huey") == 1
    assert await User.delete().execute() == 1


async def test_insert_many(models: Models) -> None:
    """Rows from a list, from a generator and from a query; nothing of the generator runs on the loop."""
    User = models.User
    await User.insert_many([{"name": "a"}, {"name": "b", "age": 2}])
    consumed = []

    def rows() -> Any:
        for name in "cd":
            consumed.append(name)
            yield name, 7

    query = User.insert_many(rows(), fields=[User.name, User.age])
    assert consumed == []
    await query
    assert consumed == ["c", "d"]
    source = User.select(User.name + "'s copy", User.age).where(User.age == 7)
    await User.insert_from(source, [User.name, User.age])
    assert sorted(await User.select(User.name).where(User.age == 7).scalars()) == [
        *("c", "c's copy", "d", "d's copy")
    ]


async def test_conflicts(models: Models) -> None:
    """on_conflict_ignore keeps the row, on_conflict updates it."""
    User = models.User
    await User.create(name="Huey", age=1)
    await User.insert(name="Huey", age=2).on_conflict_ignore()
    assert (await User.get(name="Huey")).age == 1
    target = {} if isinstance(models.database, AsyncMySQLDatabase) else {"conflict_target": [User.name]}
    await User.insert(name="Huey", age=3).on_conflict(preserve=[User.age], **target)
    assert (await User.get(name="Huey")).age == 3
    await User.insert_many([("Huey", 1)], [User.name, User.age]).on_conflict(update={User.age: 4}, **target)
    assert (await User.get(name="Huey")).age == 4
    if not isinstance(models.database, AsyncSqliteDatabase | AsyncMySQLDatabase):
        return  # PostgreSQL has no REPLACE
    await User.replace(name="Huey", age=5)
    await User.replace_many([{"name": "Mickey", "age": 6}])
    assert await User.select(User.age).order_by(User.age).scalars() == [5, 6]


async def test_returning(filled: Models) -> None:
    """Rows of RETURNING come back filled, as instances, dicts or tuples."""
    if isinstance(filled.database, AsyncMySQLDatabase):
        return
    User = filled.User
    inserted = await User.insert(name="Felix").returning(User.id, User.name)
    assert [(row.id, row.name) for row in inserted] == [(4, "Felix")]
    updated = await User.update(age=User.age + 10).where(User.age > 1).returning(User).dicts()
    assert sorted(row["age"] for row in updated) == [12, 13]
    many = await User.insert_many([("x",), ("y",)], [User.name]).returning(User.name).tuples()
    assert (list(many), len(many)) == ([("x",), ("y",)], 2)
    deleted = User.delete().where(User.name == "Felix").returning(User.name)
    assert [row.name async for row in deleted] == ["Felix"]
    assert [row.name for row in deleted] == ["Felix"]
    assert await User.select().where(User.name == "Felix").count() == 0


# -- raw SQL --------------------------------------------------------------------------


async def test_raw_queries(filled: Models) -> None:
    """Model.raw() with parameters: awaited, iterated, in tuples, or for one row."""
    User, parameter = filled.User, filled.database.param
    raw = User.raw(f"SELECT * FROM users WHERE age > {parameter} ORDER BY age", 1)
    assert names(await raw) == ["Mickey", "Zaizee"]
    assert [row.age async for row in raw] == [2, 3]
    assert (await User.raw("SELECT name FROM users WHERE age = 3").get()).name == "Zaizee"
    assert list(await User.raw("SELECT age FROM users ORDER BY age").tuples()) == [(1,), (2,), (3,)]
    with pytest.raises(User.DoesNotExist):
        await User.raw("SELECT * FROM users WHERE age = 9").get()


async def test_execute_sql(filled: Models) -> None:
    """The cursor comes back with its rows, description and counts, and can be read on the loop."""
    db, parameter = filled.database, filled.database.param
    sql = f"SELECT name, age FROM users WHERE age > {parameter} ORDER BY age"
    cursor = await db.execute_sql(sql, (1,))
    assert [column[0] for column in cursor.description] == ["name", "age"]
    assert cursor.fetchone() == ("Mickey", 2)
    assert list(cursor) == [("Zaizee", 3)]
    assert cursor.fetchone() is None
    updated = await db.execute_sql("UPDATE users SET age = 0")
    assert (updated.rowcount, updated.description) == (3, None)
    cursor = await db.execute(filled.User.select(filled.User.name).order_by(filled.User.id))
    assert list(cursor.fetchall()) == [("Huey",), ("Mickey",), ("Zaizee",)]
    with pytest.raises(peewee.DatabaseError, match="nothing"):
        await db.execute_sql("SELECT * FROM nothing")
