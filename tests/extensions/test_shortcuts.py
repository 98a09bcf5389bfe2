"""playhouse.shortcuts: what reads related rows runs on a worker; what only builds is called as it is."""

from __future__ import annotations

from typing import Any

import peewee
import pytest
from playhouse.shortcuts import (
    dict_to_model,
    insert_where,
    model_to_dict,
    resolve_multimodel_query,
    update_model_from_dict,
)

import async_peewee
from async_peewee import AsyncModel, BlockingCallError, prefetch
from tests.support import Models, queries_of

HUEY = {"id": 1, "name": "Huey", "age": 3}


async def test_model_to_dict_with_relations(people: Models) -> None:
    """Following keys and back-references runs queries: await db.run(model_to_dict, instance)."""
    db, User, Tweet = people.database, people.User, people.Tweet
    tweet, huey = await Tweet.get(), await User.get()
    assert await db.run(model_to_dict, tweet) == {"id": 1, "user": HUEY, "text": "meow"}
    tweets = [{"id": 1, "text": "meow"}, {"id": 2, "text": "purr"}]
    assert await db.run(model_to_dict, huey, backrefs=True) == {**HUEY, "tweets": tweets}
    assert await db.run(model_to_dict, tweet, only=[Tweet.user, Tweet.text, User.name]) == {
        "text": "meow",
        "user": {"name": "Huey"},
    }


async def test_model_to_dict_is_awaited(people: Models) -> None:
    """As async_peewee exports it: one call, inside the task's block; on a worker playhouse's own."""
    db, User, Tweet = people.database, people.User, people.Tweet
    tweet = await Tweet.get()
    tweets = [{"id": 1, "text": "meow"}, {"id": 2, "text": "purr"}]
    assert await async_peewee.model_to_dict(await User.get(), backrefs=True) == {**HUEY, "tweets": tweets}
    assert await async_peewee.model_to_dict(tweet, False) == {"id": 1, "user": 1, "text": "meow"}
    assert tweet.__rel__ == {}
    async with db.atomic() as transaction:
        await User.update(name="Huey!").execute()
        assert await async_peewee.model_to_dict(tweet) == {
            "id": 1,
            "user": {**HUEY, "name": "Huey!"},
            "text": "meow",
        }
        assert tweet.user.name == "Huey!"  # what it has loaded stays
        await transaction.rollback()
    assert await db.run(async_peewee.model_to_dict, await Tweet.get()) == model_to_dict(tweet) | {
        "user": HUEY
    }
    with pytest.warns(RuntimeWarning, match=r"await model_to_dict\(Tweet\)"):
        async_peewee.model_to_dict(tweet)


async def test_model_to_dict_of_what_is_loaded(people: Models) -> None:
    """Without relations to follow, or with them joined or prefetched, there is nothing to await."""
    User, Tweet = people.User, people.Tweet
    tweet = await Tweet.get()
    assert model_to_dict(tweet, recurse=False) == {"id": 1, "user": 1, "text": "meow"}
    joined = await Tweet.select(Tweet, User).join(User).first()
    [huey] = await prefetch(User.select(), Tweet)
    statements = queries_of(people.database)
    assert model_to_dict(joined) == {"id": 1, "user": HUEY, "text": "meow"}
    assert [tweet["text"] for tweet in model_to_dict(huey, backrefs=True)["tweets"]] == ["meow", "purr"]
    assert statements == []


async def test_model_to_dict_on_the_loop_says_what_to_write(people: Models) -> None:
    tweet, huey = await people.Tweet.get(), await people.User.get()
    with pytest.raises(BlockingCallError, match=r"Tweet\.user would block.*await db\.run\(function"):
        model_to_dict(tweet)
    with pytest.raises(BlockingCallError, match="write instead: "):
        model_to_dict(huey, backrefs=True)


async def test_model_to_dict_of_many_to_many(people: Models) -> None:
    db, User = people.database, people.User

    class Club(AsyncModel):
        name = peewee.TextField()
        members = peewee.ManyToManyField(User, backref="clubs")

        class Meta:
            database = db

    Through = Club.members.get_through_model()
    await db.create_tables([Club, Through])
    club = await Club.create(name="cats")
    await club.members.add(await User.get())
    assert await db.run(model_to_dict, club, manytomany=True) == {"id": 1, "name": "cats", "members": [HUEY]}


async def test_dict_to_model(people: Models) -> None:
    """Building and updating instances, nested ones too, does no I/O; saving them is awaited."""
    Tweet = people.Tweet
    tweet: Any = dict_to_model(Tweet, {"text": "hi", "user": HUEY})
    assert tweet.user.name == "Huey"
    await tweet.save()
    update_model_from_dict(tweet, {"text": "hello", "user": {"name": "Mickey"}})
    await tweet.user.save()
    await tweet.save()
    assert (await Tweet.get(Tweet.text == "hello")).user_id == 1
    assert (await people.User.get()).name == "Mickey"
    with pytest.raises(AttributeError, match="unknown"):
        update_model_from_dict(tweet, {"unknown": 1})


async def test_update_of_a_relation_that_is_not_loaded(people: Models) -> None:
    """It loads the related row, so it runs on a worker."""
    tweet = await people.Tweet.get()
    await people.database.run(update_model_from_dict, tweet, {"user": {"name": "Mickey"}})
    assert tweet.user.name == "Mickey"


async def test_insert_where(people: Models) -> None:
    """It builds a query, which is awaited, and gives the number of rows that were written."""
    User = people.User
    no_mickey = ~peewee.fn.EXISTS(User.select().where(User.name == "Mickey"))
    for written in (1, 0):
        assert await insert_where(User, {User.name: "Mickey", User.age: 5}, where=no_mickey) == written


async def test_resolve_multimodel_query(people: Models) -> None:
    """Rows of several models from one UNION; reading them runs the query."""
    User, Tweet = people.User, people.Tweet

    def read() -> set[str]:
        query = User.select(User.id, User.name.alias("text")) | Tweet.select(Tweet.id, Tweet.text)
        return {type(row).__name__ for row in resolve_multimodel_query(query)}

    assert await people.database.run(read) == {"User", "Tweet"}


async def test_chunked(people: Models) -> None:
    """peewee.chunked cuts any iterable; each piece is a query, in a transaction if there shall be one."""
    rows = ({"name": f"cat {n}"} for n in range(25))
    statements = queries_of(people.database)
    async with people.database.atomic():
        for batch in peewee.chunked(rows, 10):
            await people.User.insert_many(batch).execute()
    assert [sql.split()[0] for sql in statements if not sql.startswith(("BEGIN", "COMMIT"))] == ["INSERT"] * 3
    assert await people.User.select().count() == 26
