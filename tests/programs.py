"""Programs made at random: what a step does, written once for plain Peewee and for its awaited form.

On the synchronous side nothing is ever awaited: `side.clean_up()` awaits what can be.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from typing import Any, NamedTuple

import peewee
from hypothesis import strategies as st
from peewee import JOIN, SQL, fn

import async_peewee

NAMES = ("Huey", "Mickey", "Zaizee")


class Step(NamedTuple):
    """One call of a program."""

    action: str
    name: str
    number: int


class Block(NamedTuple):
    """A block of a program: what is in it, how it ends, and whether an error stops at its border."""

    kind: str
    steps: list[Any]
    ending: str
    catches: bool


class Side:
    """One of the two sides: its models, what it does with a call, and the log of what happened."""

    def __init__(self, database: Any, base: Any, is_async: bool) -> None:
        class User(base):
            name = peewee.CharField(unique=True)
            age = peewee.IntegerField(default=0)
            friend = peewee.ForeignKeyField("self", null=True, backref="followers")

            class Meta:
                table_name = "users"

        class Tweet(base):
            user = peewee.ForeignKeyField(User, backref="tweets")
            text = peewee.CharField()

            class Meta:
                table_name = "tweets"

        class Group(base):
            name = peewee.CharField()
            users = peewee.ManyToManyField(User, backref="groups")

            class Meta:
                table_name = "circles"

        self.User: Any = User
        self.Tweet: Any = Tweet
        self.Group: Any = Group
        self.Member: Any = Group.users.get_through_model()
        self.models: list[Any] = [User, Tweet, Group, self.Member]
        for model in self.models:
            model._meta.set_database(database)
        self.database = database
        # Whether `async with` and `await` are the way to write it, where the program is now.
        self.is_async = is_async
        self.log: list[Any] = []
        self.kept: Any = None

    async def clean_up(self, value: Any) -> Any:
        return await value if isawaitable(value) and not isinstance(value, peewee.BaseQuery) else value

    async def each(self, rows: Any) -> list[Any]:
        if self.is_async:
            return [row async for row in rows]
        return [row for row in rows]  # noqa: C416  # a loop, as list() asks for the length too

    async def prefetch(self, *queries: Any) -> Any:
        function = async_peewee.prefetch if self.is_async else peewee.prefetch
        return [[row, row.tweets] for row in await self.clean_up(function(*queries))]

    def user(self, number: int) -> Any:
        """Return a user with that key, who may not be there, without a query."""
        return self.User(id=number, name="nobody")

    @property
    def users(self) -> Any:
        return self.User.select().order_by(self.User.id)

    @property
    def tweets(self) -> Any:
        return self.Tweet.select().order_by(self.Tweet.id)


# -- steps of several calls -------------------------------------------------------------------


async def edit(s: Side, x: Step) -> Any:
    """Change the row that the program has seen last, and save it."""
    if isinstance(s.kept, s.User):
        s.kept.age, s.kept.friend = x.number, x.number or None
    elif s.kept is not None:
        s.kept.user = s.user(x.number)
    return s.kept and [await s.clean_up(s.kept.save()), s.kept]


async def follow(s: Side, x: Step) -> Any:
    """Go from a tweet to its user, to the user's friend, and look again at what is loaded."""
    tweet = await s.clean_up(s.Tweet.get(s.Tweet.text == x.name))
    user = await s.clean_up(tweet.user)
    friend = await s.clean_up(user.friend)
    return [tweet.user.name, friend and friend.name, tweet.user_id]


async def filled(s: Side, x: Step) -> Any:
    """Use a query that was executed: its length, its rows, a row, whether it has any, itself again."""
    query = s.users.where(s.User.age <= x.number)
    await s.clean_up(query.execute())
    twice = [row.name for row in query] + await s.each(query)
    return [len(query), bool(query), query[:1], twice, await s.clean_up(query.count())]


async def change_groups(s: Side, x: Step) -> Any:
    """Put a user into groups, take some away, and see who is in which."""
    user = s.user(1 + x.number % 3)
    results = [
        await s.clean_up(user.groups.add([1, 2][: x.number])),
        await s.clean_up(user.groups.remove([1])),
    ]
    results.append(await s.each(user.groups.order_by(s.Group.id)))
    return [*results, await s.each(s.Group(id=2).users.order_by(s.User.id))]


async def bulk_update(s: Side, x: Step) -> Any:
    rows = await s.each(s.users)
    for row in rows:
        row.age, row.friend = row.age + x.number, rows[0]
    return rows and await s.clean_up(s.User.bulk_update(rows, ["age", "friend"], batch_size=2))


async def insert_twice(s: Side, x: Step) -> Any:
    """Execute the same query twice."""
    query = s.Tweet.insert_many([{"user": x.number, "text": x.name}] * 2)
    return [await s.clean_up(query.as_rowcount().execute()) for _ in range(2)]


async def return_twice(s: Side, x: Step) -> Any:
    """Write and return rows twice with one query, and look at the rows that it has between."""
    query = s.User.update(age=s.User.age + 1).where(s.User.name == x.name).returning(s.User.age)
    first = ages(await s.clean_up(query.execute()))
    return [first, ages(await s.each(query)), ages(await s.clean_up(query.execute()))]


def ages(rows: Any) -> list[int]:
    return [row.age for row in rows]


async def raw_cursor(s: Side, x: Step) -> Any:
    sql = f"SELECT name, age FROM users WHERE age >= {s.database.param} ORDER BY id"
    cursor = await s.clean_up(s.database.execute_sql(sql, (x.number,)))
    return [cursor.fetchone(), cursor.fetchall(), cursor.fetchone()]


async def after_commit(s: Side, x: Step) -> Any:
    s.database.after_commit(lambda: s.log.append(("committed", x.name)))


async def generate(s: Side, x: Step) -> Any:
    """Insert from a generator that fails if it comes to the end."""

    def rows() -> Any:
        for number in range(x.number):
            yield {"user": 1, "text": f"{x.name}{number}"}
        if x.number == 2:
            raise LookupError(x.name)

    return await s.clean_up(s.Tweet.insert_many(rows()).as_rowcount().execute())


# -- steps of one -----------------------------------------------------------------------------

ACTIONS: dict[str, Callable[[Side, Step], Any]] = {
    # what creates
    "create": lambda s, x: s.User.create(name=x.name, age=x.number),
    "create wrongly": lambda s, x: s.User.create(name=x.name, age=None),
    "tweet": lambda s, x: s.Tweet.create(user=x.number, text=x.name),
    "insert": lambda s, x: s.User.insert(name=x.name, age=x.number).execute(),
    "ignore": lambda s, x: s.User.insert(name=x.name).on_conflict_ignore().execute(),
    "bulk create": lambda s, x: s.User.bulk_create(
        [s.User(name=f"{x.name}{number}") for number in range(x.number)], batch_size=2
    ),
    "insert from": lambda s, x: s.Tweet.insert_from(
        s.User.select(s.User.id, s.User.name).where(s.User.age > x.number), [s.Tweet.user, s.Tweet.text]
    ).as_rowcount().execute(),
    "get or create": lambda s, x: s.User.get_or_create(name=x.name, defaults={"age": x.number}),
    "insert twice": insert_twice,
    "generate": generate,
    # what changes
    "edit": edit,
    "bulk update": bulk_update,
    "update": lambda s, x: s.User.update(age=s.User.age + x.number).where(s.User.name == x.name).execute(),
    "set": lambda s, x: s.User.set_by_id(x.number, {"name": x.name}),
    "save": lambda s, x: s.User(id=x.number, name=x.name).save(),
    "save only": lambda s, x: s.User(id=x.number, name=x.name, age=x.number).save(only=[s.User.age]),
    "change groups": change_groups,
    "clear groups": lambda s, x: s.user(x.number).groups.clear(),
    "replace groups": lambda s, x: s.user(1).groups.add(s.Group.select(), clear_existing=True),
    # what deletes
    "delete": lambda s, x: s.User.delete().where(s.User.name == x.name).execute(),
    "delete by id": lambda s, x: s.User.delete_by_id(x.number),
    "delete row": lambda s, x: s.user(x.number).delete_instance(),
    "delete tree": lambda s, x: s.user(x.number).delete_instance(
        recursive=True, delete_nullable=x.number > 1),
    # one row
    "get": lambda s, x: s.User.get(name=x.name),
    "get by id": lambda s, x: s.User.get_by_id(x.number),
    "index": lambda s, x: s.User[x.number],
    "or none": lambda s, x: s.User.get_or_none(s.User.age > x.number),
    "first": lambda s, x: s.users.where(s.User.age >= x.number).first(),
    "first two": lambda s, x: s.users.first(n=2),
    "peek": lambda s, x: s.users.dicts().peek(),
    "query get": lambda s, x: s.tweets.where(s.Tweet.text == x.name).get(),
    "query or none": lambda s, x: s.tweets.where(s.Tweet.text == x.name).get_or_none(),
    "follow": follow,
    # one value
    "count": lambda s, x: s.User.select().where(s.User.age >= x.number).count(),
    "exists": lambda s, x: s.tweets.where(s.Tweet.user == x.number).exists(),
    "scalar": lambda s, x: s.User.select(fn.SUM(s.User.age) + x.number).scalar(),
    "scalar dict": lambda s, x: s.users.scalar(as_dict=True),
    "scalars": lambda s, x: s.User.select(s.User.name).order_by(s.User.name).scalars(),
    "table exists": lambda s, x: s.database.table_exists(x.name),
    # rows
    "loop": lambda s, x: s.each(s.users.where(s.User.age <= x.number)),
    "stream": lambda s, x: s.each(s.users.limit(x.number).iterator()),
    "stream tuples": lambda s, x: s.each(s.tweets.tuples().iterator()),
    "filled": filled,
    "dicts": lambda s, x: s.users.dicts().execute(),
    "named tuples": lambda s, x: s.users.namedtuples().execute(),
    "objects": lambda s, x: s.tweets.objects(lambda **columns: sorted(columns)).execute(),
    "backref": lambda s, x: s.user(x.number).tweets.order_by(s.Tweet.id).execute(),
    "followers": lambda s, x: s.each(s.user(x.number).followers.order_by(s.User.id)),
    "join": lambda s, x: s.tweets.select(s.Tweet, s.User).join(s.User).execute(),
    "outer join": lambda s, x: s.users.select(s.User.name, fn.COUNT(s.Tweet.id).alias("n")).join(
        s.Tweet, JOIN.LEFT_OUTER).group_by(s.User.id, s.User.name).execute(),
    "union": lambda s, x: s.each(
        (s.User.select(s.User.name) | s.Tweet.select(s.Tweet.text)).order_by(SQL("1")).tuples()
    ),
    "cte": lambda s, x: (lambda cte: cte.select_from(fn.COUNT(cte.c.id)).scalar())(
        s.tweets.where(s.Tweet.user > x.number).cte("t")
    ),
    "select from": lambda s, x: s.tweets.select_from(fn.MAX(SQL("id"))).scalar(),
    "prefetch": lambda s, x: s.prefetch(s.users, s.tweets),
    "with related": lambda s, x: s.tweets.with_related(s.Tweet.user).execute(),
    "related stream": lambda s, x: s.each(s.tweets.with_related(s.Tweet.user).iterator()),
    "noop": lambda s, x: s.User.noop().execute(),
    # SQL
    "raw": lambda s, x: s.User.raw(
        f"SELECT * FROM users WHERE age > {s.database.param} ORDER BY id", x.number).execute(),
    "raw get": lambda s, x: s.User.raw(f"SELECT * FROM users WHERE id = {s.database.param}", x.number).get(),
    "cursor": raw_cursor,
    "wrong": lambda s, x: s.User.raw("SELECT * FROM nothing").execute(),
    "wrong value": lambda s, x: s.User.update(age="young").where(s.User.id == x.number).execute(),
    "after commit": after_commit,
}  # fmt: skip

# What not every database has, by the kinds that have it.
RETURNING: dict[str, Callable[[Side, Step], Any]] = {
    "update returning": lambda s, x: s.User.update(age=x.number).where(
        s.User.name == x.name).returning(s.User).execute(),
    "return twice": return_twice,
    "insert returning": lambda s, x: s.each(s.Tweet.insert(user=x.number, text=x.name).returning(s.Tweet)),
    "delete returning": lambda s, x: s.Tweet.delete().where(
        s.Tweet.text == x.name).returning(s.Tweet.id).tuples().execute(),
    "upsert": lambda s, x: s.User.insert(name=x.name, age=x.number).on_conflict(
        conflict_target=[s.User.name], update={s.User.age: s.User.age + 1}).execute(),
}  # fmt: skip
REPLACE: dict[str, Callable[[Side, Step], Any]] = {
    "replace": lambda s, x: s.Tweet.replace(id=x.number + 1, user=1, text=x.name).execute(),
}
SPECIAL = {
    "sqlite": {**RETURNING, **REPLACE},
    "psycopg2": RETURNING,
    "psycopg3": RETURNING,
    "pymysql": REPLACE,
}

# -- programs ---------------------------------------------------------------------------------

KINDS = "atomic transaction savepoint connection manual session decorated decorated_async run".split()
# How a block ends: by itself, by an error, or with what it did so far made final or undone.
ENDINGS = ("end", "error", "commit", "rollback")


def actions_of(kind: str) -> dict[str, Callable[[Side, Step], Any]]:
    """Return what a program on that kind of database may do."""
    return {**ACTIONS, **SPECIAL[kind]}


def programs_for(kind: str) -> Any:
    """Return the programs for a kind of database: steps, and blocks of steps and blocks."""
    steps = st.builds(
        Step, st.sampled_from(sorted(actions_of(kind))), st.sampled_from(NAMES), st.integers(0, 3)
    )

    def items(depth: int, smallest: int, largest: int) -> Any:
        """Return lists of steps and, down to that depth, of blocks."""
        if depth == 0:
            return st.lists(steps, min_size=smallest, max_size=largest)
        inner = items(depth - 1, 1, 4)
        block = st.builds(Block, st.sampled_from(KINDS), inner, st.sampled_from(ENDINGS), st.booleans())
        return st.lists(steps | block, min_size=smallest, max_size=largest)

    return items(3, 4, 10)
