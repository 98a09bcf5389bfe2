"""playhouse.pydantic_utils: schemas from models; validating an instance reads its attributes."""

from __future__ import annotations

from typing import Any

import pytest

from async_peewee import prefetch
from tests.support import Models, queries_of

pydantic = pytest.importorskip("pydantic")
to_pydantic = pytest.importorskip("playhouse.pydantic_utils").to_pydantic

HUEY = {"id": 1, "name": "Huey", "age": 3}


def schemas(people: Models) -> tuple[Any, Any]:
    """Return schemas of a tweet with its user, and of a user with its tweets."""
    user = to_pydantic(people.User, exclude_autofield=False)
    tweet = to_pydantic(
        people.Tweet, exclude_autofield=False, relationships={people.Tweet.user: user}, model_name="TweetOut"
    )
    bare_tweet = to_pydantic(people.Tweet, include={"text"})
    with_tweets = to_pydantic(
        people.User, relationships={people.User.tweets: list[bare_tweet]}, model_name="UserOut"
    )
    return tweet, with_tweets


async def test_validation_of_what_is_loaded(people: Models) -> None:
    """Plain columns, joined and prefetched rows are validated on the loop, without a query."""
    User, Tweet = people.User, people.Tweet
    tweet_out, user_out = schemas(people)
    tweet = await Tweet.select(Tweet, User).join(User).first()
    [huey] = await prefetch(User.select(), Tweet)
    statements = queries_of(people.database)
    assert tweet_out.model_validate(tweet).model_dump() == {"id": 1, "user": HUEY, "text": "meow"}
    assert [tweet.text for tweet in user_out.model_validate(huey).tweets] == ["meow", "purr"]
    assert statements == []


async def test_validation_that_loads_relations(people: Models) -> None:
    """await db.run(Schema.model_validate, instance) loads what is missing; on the loop the error says so."""
    db, (tweet_out, user_out) = people.database, schemas(people)
    tweet, huey = await people.Tweet.get(), await people.User.get()
    with pytest.raises(Exception, match=r"before it was awaited"):
        tweet_out.model_validate(tweet)
    assert (await db.run(tweet_out.model_validate, tweet)).user.name == "Huey"
    # Now it is loaded.
    assert tweet_out.model_validate(tweet).user.name == "Huey"
    with pytest.raises(pydantic.ValidationError):
        user_out.model_validate(huey)
    assert len((await db.run(user_out.model_validate, huey)).tweets) == 2


async def test_from_a_schema_to_a_row(people: Models) -> None:
    """What was validated is created as ever."""
    user_in = to_pydantic(people.User)
    user = await people.User.create(**user_in(name="Mickey", age=5).model_dump())
    assert (await people.User[user.id]).name == "Mickey"
    with pytest.raises(pydantic.ValidationError):
        user_in(name="Mickey", age="old")
