"""Models and queries as type checkers see them. Never run, only checked, by mypy and pyright.

Each `type: ignore` stands for an error that both must report: an unused one is an error too.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import peewee
from peewee import fn
from typing_extensions import assert_type

from async_peewee import AsyncModelSelect, AsyncTable, Rows, aio, model_to_dict, prefetch
from tests.typing.schema import Group, Tweet, User, db

# --- models ----------------------------------------------------------------------------


async def reading() -> None:
    assert_type(await User.get(User.name == "Huey"), User)
    assert_type(await User.get(name="Huey"), User)
    assert_type(await User.get_by_id(1), User)
    assert_type(await User[1], User)
    assert_type(await User.get_or_none(User.name == "Huey"), User | None)
    assert_type((await User.get(name="Huey")).name, str)
    maybe = await User.get_or_none(name="Huey")
    if maybe is not None:
        assert_type(maybe, User)
    _ = maybe.name  # type: ignore[union-attr]
    try:
        await User.get_by_id(1)
    except User.DoesNotExist as error:
        assert_type(error, peewee.DoesNotExist)


async def writing() -> None:
    user = await User.create(name="Huey")
    assert_type(user, User)
    assert_type(await User.get_or_create(name="Huey", defaults={"age": 3}), tuple[User, bool])
    user, created = await User.get_or_create(name="Huey")
    assert_type(user, User)
    assert_type(created, bool)
    assert_type(await user.save(), int)
    assert_type(await user.save(force_insert=True, only=[User.name]), int)
    assert_type(await user.delete_instance(recursive=True), int)
    assert_type(await User.delete_by_id(1), int)
    assert_type(await User.bulk_create([User(name="a"), User(name="b")], batch_size=100), None)
    assert_type(await User.bulk_update([user], [User.name, "age"]), int)
    assert_type(await User.set_by_id(1, {"name": "b"}), Any)
    assert_type(await User.table_exists(), bool)
    assert_type(await User.create_table(), None)
    assert_type(await User.drop_table(safe=False), None)
    assert_type(await User.truncate_table(), None)


async def overriding() -> None:
    tweet = await Tweet.create(user=1, text=" hi ")
    assert_type(tweet, Tweet)
    assert_type(await tweet.save(), int)
    assert_type(await Group(name="a").save(), Any)
    user = await tweet.user
    assert_type(await user.rename("Zaizee", keep=True), int)
    assert_type(await User.busiest(3), list[User])
    await user.rename(3)  # type: ignore[arg-type]


async def relations(tweet: Tweet, user: User) -> None:
    assert_type(await aio(tweet.user), User)
    assert_type(await tweet.user, User)
    assert_type(await aio(tweet.editor), User | None)
    assert_type(await user.tweets.where(Tweet.text == "hi").count(), int)
    assert_type([t async for t in user.tweets], list[Tweet])
    assert_type(await user.groups.add([Group(name="a")], clear_existing=True), None)
    assert_type(await user.groups.clear(), int)
    assert_type(await user.groups, Rows[Group])


# --- queries ---------------------------------------------------------------------------


async def selecting() -> None:
    query = User.select()
    assert_type(query, AsyncModelSelect[User])
    rows = await query
    assert_type(rows, Rows[User])
    assert_type(await query.execute(), Rows[User])
    assert_type(rows[0], User)
    assert_type(rows[:2], list[User])
    assert_type(len(rows), int)
    assert_type(list(rows), list[User])
    assert_type([user.name for user in rows], list[str])
    assert_type(sorted(rows, key=lambda user: user.name), list[User])
    async for user in query:
        assert_type(user, User)
    async for user in User.select().where(User.name == "Huey").order_by(User.name.desc()).limit(3):
        assert_type(user, User)
    assert_type([user async for user in User.select(User.name).join(Tweet).distinct()], list[User])
    assert_type(await User.filter(name="Huey"), Rows[User])


async def streaming() -> None:
    async for user in User.select().iterator():
        assert_type(user, User)
    chain = User.select().where(User.age > 3).join(Tweet, on=(Tweet.user == User.age)).order_by(User.name)
    async for user in chain.limit(3).iterator():
        assert_type(user, User)
    async with chain.iterator() as stream:
        async for user in stream:
            assert_type(user, User)
    await chain.iterator().aclose()


async def single_values() -> None:
    query = User.select().where(User.age.is_null(False)).order_by(User.name)
    assert_type(await query.count(), int)
    assert_type(await query.count(clear_limit=True), int)
    assert_type(await query.exists(), bool)
    assert_type(await query.first(), User | None)
    assert_type(await query.peek(), User | None)
    assert_type(await query.get(), User)
    assert_type(await query.get_or_none(), User | None)
    assert_type(await query.scalar(), Any)
    assert_type(await query.scalars(), list[Any])
    assert_type(await User.select(fn.MAX(User.age)).scalar(as_tuple=True), Any)


async def other_rows() -> None:
    dicts = User.select(User.name).dicts().where(User.name == "Huey")
    assert_type(await dicts, Rows[dict[str, Any]])
    assert_type(await dicts.get(), dict[str, Any])
    assert_type(await dicts.first(), dict[str, Any] | None)
    assert_type([row async for row in User.select().tuples()], list[tuple[Any, ...]])
    async for row in User.select().namedtuples().iterator():
        assert_type(row, Any)
    assert_type(await User.select().objects(), Rows[User])
    assert_type(await User.select(User.name).objects(str), Rows[str])
    assert_type(await User.raw("SELECT * FROM user WHERE name = ?", "Huey"), Rows[User])
    assert_type(await User.raw("SELECT 1").get(), User)
    assert_type(await User.raw("SELECT 1").dicts(), Rows[dict[str, Any]])


async def composed() -> None:
    first, second = User.select(), User.select()
    assert_type(await (first | second), Rows[User])
    assert_type(await (first + second).order_by(User.name), Rows[User])
    assert_type(await first.union(second).intersect(second).count(), int)
    assert_type([row async for row in (first & second).dicts()], list[dict[str, Any]])
    assert_type(await first.select_from(User.name), Rows[User])
    alias = User.alias("friend")
    assert_type(await alias.select().where(alias.name == "Huey"), Rows[User])
    assert_type(await prefetch(User.select(), Tweet, Group.select()), list[User])
    assert_type(await User.select().prefetch(Tweet), list[User])
    assert_type(await model_to_dict(User(name="Huey"), backrefs=True), dict[str, Any])
    assert_type(await first.create_table("copy"), None)


async def changing() -> None:
    assert_type(await User.update(age=3).where(User.name == "Huey").execute(), int)
    assert_type(await User.update({User.age: User.age + 1}), int)
    assert_type(await User.delete(), int)
    assert_type(await User.delete().where(User.name == "Huey").execute(), int)
    assert_type(await User.insert(name="Huey"), Any)
    assert_type(await User.insert_many([{"name": "a"}]).on_conflict_ignore().execute(), Any)
    assert_type(await User.insert_many([("a",)], fields=[User.name]).as_rowcount().execute(), int)
    assert_type(await User.replace(name="Huey").execute(), Any)
    assert_type(await User.update(age=3).where(User.age == 2).returning(User), Rows[Any])
    assert_type(await User.delete().returning(User.name).dicts().execute(), Rows[Any])
    if not await User.update(age=3):
        raise LookupError


async def rows_of(query: AsyncModelSelect[User]) -> AsyncIterator[User]:
    async for user in query:
        yield user


async def tables_without_a_model() -> None:
    users = AsyncTable("users", ("id", "name")).bind(db)
    assert_type([row async for row in users.select()], list[dict[str, Any]])
    assert_type(await users.select().tuples(), "Rows[tuple[Any, ...]]")
    assert_type(await users.update(name="x"), int)
    assert_type(await users.delete(), int)
    assert_type(await users.select().count(), int)
    await users.insert(name="x")
    tweets = AsyncTable("tweets", ("id", "user_id")).bind(db)
    both = users.join(tweets, on=(tweets.c.user_id == users.c.id)).select(users.c.name)
    assert_type([row async for row in both], list[dict[str, Any]])


async def common_table_expressions() -> None:
    base = User.select(User.name).cte("base", recursive=True)
    assert_type(await base.select_from(base.c.name), "Rows[User]")
    assert_type(await base.union_all(User.select(base.c.name)).select_from(base.c.name).count(), int)
    assert_type(await User.select().join(base, on=(User.name == base.c.name)).with_cte(base), "Rows[User]")
