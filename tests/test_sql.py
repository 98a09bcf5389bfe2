"""The rest of Peewee's SQL, awaited: windows, CTEs, values, lateral joins, tables without a model."""

from __future__ import annotations

import anyio
import peewee
import pytest
from peewee import JOIN, SQL, Case, ValuesList, fn

from async_peewee import AsyncTable, aio
from tests.support import Models, on_databases, on_each_library

pytestmark = on_each_library


@pytest.fixture
async def filled(models: Models) -> Models:
    """Four users of two ages, with as many tweets as their number says."""
    await models.database.run(read_all, models)
    return models


def read_all(models: Models) -> None:
    rows = [("a", 1), ("b", 1), ("c", 2), ("d", 2)]
    models.User.insert_many(rows, fields=[models.User.name, models.User.age]).execute()
    for user in models.User.select().order_by(models.User.id):
        for number in range(user.id):
            models.Tweet.create(user=user, text=f"{user.name}{number}")


# -- in a SELECT ----------------------------------------------------------------------------


async def test_window_functions(filled: Models) -> None:
    """Ranks in a partition, a running sum, a named window with a frame."""
    User = filled.User
    rank = fn.ROW_NUMBER().over(partition_by=[User.age], order_by=[User.name.desc()])
    query = User.select(User.name, rank.alias("place")).order_by(User.name)
    assert [(row.name, row.place) async for row in query] == [("a", 2), ("b", 1), ("c", 2), ("d", 1)]
    running = fn.SUM(User.age).over(order_by=[User.id])
    assert list(await User.select(running).order_by(User.id).tuples()) == [(1,), (2,), (4,), (6,)]
    window = peewee.Window(
        order_by=[User.id], start=peewee.Window.preceding(1), end=peewee.Window.CURRENT_ROW
    )
    framed = User.select(fn.SUM(User.id).over(window)).window(window).order_by(User.id)
    assert await framed.scalars() == [1, 3, 5, 7]


async def test_a_recursive_cte_walks_a_tree(filled: Models) -> None:
    """With columns of its own, joined to a model, materialized or not, and counted."""
    User = filled.User
    base = User.select(User.id, SQL("0").alias("depth")).where(User.id == 1)
    base = base.cte("line", recursive=True, columns=("id", "depth"))
    step = User.select(User.id, base.c.depth + 1).join(base, on=(User.id == base.c.id + 1))
    line = base.union_all(step)
    query = User.select(User.name, line.c.depth).join(line, on=(User.id == line.c.id)).with_cte(line)
    assert list(await query.order_by(line.c.depth).tuples()) == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]
    assert await query.count() == 4
    assert [row.depth async for row in line.select_from(line.c.depth).order_by(line.c.depth)] == [0, 1, 2, 3]


async def test_subqueries_and_cases(filled: Models) -> None:
    """In a FROM, in a WHERE, correlated, by select_from(), and CASE."""
    User, Tweet = filled.User, filled.Tweet
    totals = Tweet.select(Tweet.user, fn.COUNT(Tweet.id).alias("total")).group_by(Tweet.user).alias("totals")
    query = User.select(User.name, totals.c.total).join(totals, on=(totals.c.user_id == User.id))
    assert list(await query.where(totals.c.total > 2).order_by(User.name).tuples()) == [("c", 3), ("d", 4)]
    counted = totals.select_from(fn.MAX(totals.c.total), fn.MIN(totals.c.total)).tuples()
    assert list(await counted) == [(4, 1)]
    Other = User.alias("other")
    eldest = Other.select(fn.MAX(Other.id)).where(Other.age == User.age)
    assert await User.select(User.name).where(User.id == eldest).order_by(User.id).scalars() == ["b", "d"]
    has_many = fn.EXISTS(Tweet.select().where((Tweet.user == User.id) & (Tweet.text.endswith("3"))))
    assert await User.select(User.name).where(has_many).scalars() == ["d"]
    label = Case(User.age, [(1, "young")], "old").alias("label")
    assert await User.select(label).order_by(User.id).scalars() == ["young", "young", "old", "old"]


async def test_a_model_joined_to_itself(filled: Models) -> None:
    """ModelAlias in the selection, in a join and as the source of a query of its own."""
    User = filled.User
    Peer = User.alias("peer")
    query = User.select(User, Peer).join(Peer, on=((Peer.age == User.age) & (Peer.id > User.id)), attr="peer")
    assert [(row.name, row.peer.name) async for row in query.order_by(User.id)] == [("a", "b"), ("c", "d")]
    assert await Peer.select().where(Peer.age == 2).count() == 2
    left = User.select(User.name, Peer.name.alias("other")).join(
        Peer, JOIN.LEFT_OUTER, on=(Peer.id == User.id + 1)
    )
    assert list(await left.order_by(User.id).tuples())[-1] == ("d", None)


@on_databases("psycopg2", "psycopg3")
async def test_values_lists_join(filled: Models) -> None:
    """Rows given in the query, under names of their own."""
    User = filled.User
    values = ValuesList([("a", 10), ("d", 40)], columns=("name", "bonus"), alias="bonuses")
    query = User.select(User.name, values.c.bonus).join(values, on=(values.c.name == User.name))
    assert list(await query.order_by(User.name).tuples()) == [("a", 10), ("d", 40)]


@on_databases("sqlite", "psycopg2", "psycopg3")
async def test_values_lists(filled: Models) -> None:
    """A query of nothing else knows no database: aio(query, database) tells it."""
    rows = await aio(ValuesList([(1, "x"), (2, "y")], alias="v").select().tuples(), filled.database)
    assert list(rows) == [(1, "x"), (2, "y")]


@on_databases("psycopg2", "psycopg3")
async def test_lateral_joins(filled: Models) -> None:
    """The latest two tweets of each user, by the subquery's own limit."""
    User, Tweet = filled.User, filled.Tweet
    latest = Tweet.select(Tweet.text).where(Tweet.user == User.id).order_by(Tweet.id.desc()).limit(2)
    latest = latest.alias("latest")
    query = User.select(User.name, latest.c.text).join(latest, JOIN.LEFT_LATERAL, on=True)
    rows = await query.where(User.id > 2).order_by(User.id, latest.c.text.desc()).tuples()
    assert list(rows) == [("c", "c2"), ("c", "c1"), ("d", "d3"), ("d", "d2")]


async def test_distinct_and_paging(filled: Models) -> None:
    """distinct, paginate, limit and offset, group and having."""
    User = filled.User
    assert await User.select(User.age).distinct().order_by(User.age).scalars() == [1, 2]
    page = User.select().order_by(User.id).paginate(2, 3)
    assert ([row.name async for row in page], await page.count()) == (["d"], 1)
    assert await User.select(User.name).order_by(User.id).limit(2).offset(1).scalars() == ["b", "c"]
    groups = User.select(User.age, fn.COUNT(User.id)).group_by(User.age).having(fn.SUM(User.id) > 3)
    assert list(await groups.tuples()) == [(2, 2)]


@on_databases("psycopg2", "psycopg3", "pymysql")
async def test_rows_are_locked_for_an_update(filled: Models) -> None:
    """for_update() in a transaction; a second transaction that does not wait is told so at once."""
    User = filled.User
    query = User.select().where(User.name == "a")

    async def other() -> None:
        with pytest.raises(peewee.OperationalError):
            async with filled.database.atomic():
                await query.for_update(nowait=True).get()

    async with filled.database.atomic():
        row = await query.for_update().get()
        async with anyio.create_task_group() as group:
            group.start_soon(other)
        row.age = 9
        await row.save()
    assert await User.select(User.age).where(User.name == "a").scalar() == 9


async def test_row_types_of_every_kind_of_query(filled: Models) -> None:
    """dicts, tuples, named tuples and objects of joins, compounds, raw SQL, noop and streams."""
    User, Tweet = filled.User, filled.Tweet
    join = Tweet.select(Tweet.text, User.name).join(User).where(User.id == 1)
    assert list(await join.dicts()) == [{"text": "a0", "name": "a"}]
    assert [tuple(row) async for row in join.namedtuples().iterator()] == [("a0", "a")]
    assert [(row.text, row.name) for row in await join.objects()] == [("a0", "a")]
    both = User.select(User.name).where(User.id == 1) | User.select(User.name).where(User.id == 4)
    assert sorted(row["name"] for row in await both.dicts()) == ["a", "d"]
    assert sorted([row.name async for row in both.objects()]) == ["a", "d"]
    raw = User.raw("SELECT name, age FROM users ORDER BY id")
    assert (await raw.namedtuples())[0].age == 1
    assert [row["name"] async for row in raw.dicts().iterator()] == ["a", "b", "c", "d"]
    assert list(await User.noop().dicts()) == [row async for row in User.noop().iterator()] == []


# -- tables without a model -----------------------------------------------------------------


async def test_a_table_without_a_model(filled: Models) -> None:
    """AsyncTable: select, insert, update, replace and delete, awaited, iterated, streamed; rows are dicts."""
    users = AsyncTable("users", ("id", "name", "age"), primary_key="id").bind(filled.database)
    assert [row["name"] async for row in users.select(users.name).order_by(users.id)] == ["a", "b", "c", "d"]
    assert [row async for row in users.select(users.id).order_by(users.id).tuples().iterator()][-1] == (4,)
    assert (await users.select().where(users.name == "a").get())["age"] == 1
    assert await users.select().where(users.name == "none").get() is None
    assert (await users.select().count(), await users.select(fn.MAX(users.age)).scalar()) == (4, 2)
    await users.insert(name="e", age=3)
    await users.insert([{users.name: "f", users.age: 3}, {users.name: "g", users.age: 3}]).execute()
    assert await users.update(age=users.age + 1).where(users.age == 3) == 3
    assert await users.delete().where(users.age == 4).execute() == 3
    async with filled.database.atomic() as transaction:
        assert await users.update(age=0) == 4
        await transaction.rollback()
    assert await users.select().where(users.age == 0).count() == 0


async def test_tables_join_and_combine(filled: Models) -> None:
    """Joins, aliases, compounds, CTEs and subqueries of tables stay awaitable; a model's table as well."""
    users, tweets = filled.User._meta.table, filled.Tweet._meta.table
    join = users.join(tweets, on=(tweets.user_id == users.id))
    query = join.select(users.name, fn.COUNT(tweets.id).alias("n")).group_by(users.name).order_by(users.name)
    assert [row["n"] for row in await query.bind(filled.database)] == [1, 2, 3, 4]
    peers = users.alias("peers")
    pairs = (users & peers).on((peers.age == users.age) & (peers.id > users.id))
    pairs_query = pairs.select(users.name, peers.name.alias("peer")).order_by(users.id).bind(filled.database)
    assert list(await pairs_query.tuples()) == [("a", "b"), ("c", "d")]
    young, old = (
        users.select(users.name).where(users.age == 1),
        users.select(users.name).where(users.age == 2),
    )
    assert sorted([row["name"] async for row in young | old]) == ["a", "b", "c", "d"]
    cte = young.cte("young")
    assert sorted([row["name"] async for row in cte.select_from(cte.c.name)]) == ["a", "b"]
    assert await cte.select_from(fn.COUNT(cte.c.name)).scalar() == 2
    assert await (young | old).select_from(fn.COUNT(SQL("1"))).scalar() == 4
    assert await users.select().where(users.name.in_(young)).count() == 2
    assert users.alias("u").alias(None) == users.clone() == users  # as hashes, which tell tables apart


async def test_a_plain_table_goes_through_aio(filled: Models) -> None:
    """peewee.Table makes Peewee's queries: aio(query) runs them, inside the task's transaction."""
    users = peewee.Table("users", ("id", "name", "age")).bind(filled.database)
    async with filled.database.atomic() as transaction:
        assert await aio(users.update(age=7).where(users.name == "a")) == 1
        assert list(await aio(users.select(users.age).where(users.name == "a"))) == [{"age": 7}]
        await transaction.rollback()
    assert (await aio(users.select().where(users.age == 7)))[:] == []
    assert len(await aio(peewee.Table("users").select(), filled.database)) == 4


async def test_a_table_is_bound_for_all_tasks(filled: Models) -> None:
    """So bind_ctx() is refused, on the loop and on workers, as a model's is."""
    table = filled.User._meta.table
    with pytest.raises(peewee.InterfaceError, match="binds the models for every task"):
        table.bind_ctx(filled.database)
    with pytest.raises(peewee.InterfaceError, match="binds the models for every task"):
        await filled.database.run(table.bind_ctx, filled.database)
