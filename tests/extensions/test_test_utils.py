"""playhouse.test_utils: statements are counted wherever they run, so a plain `with` is right."""

from __future__ import annotations

import pytest
from playhouse.test_utils import assert_query_count, count_queries

from async_peewee import aio
from tests.support import Models


async def test_count_queries(people: Models) -> None:
    """The block counts what all workers execute while it is open."""
    User, Tweet = people.User, people.Tweet
    with count_queries() as counted:
        tweet = await Tweet.get()
        await aio(tweet.user)
        await aio(tweet.user)  # loaded already
        await User.create(name="Mickey")
    assert counted.count == 3
    assert [query.msg[0].split()[0] for query in counted.get_queries()] == ["SELECT", "SELECT", "INSERT"]
    with count_queries(only_select=True) as counted:
        await User.create(name="Zaizee")
        await User.select().count()
    assert counted.count == 1


async def test_assert_query_count(people: Models) -> None:
    """As a block around awaited calls; as a decorator it is for functions that run on a worker."""
    User = people.User
    with assert_query_count(1):
        assert len(await User.select()) == 1
    with pytest.raises(AssertionError, match="1 != 2"), assert_query_count(2):
        await User.get()

    @assert_query_count(2)
    def names() -> list[str]:
        return [tweet.user.name for tweet in people.Tweet.select().limit(1)]

    assert await people.database.run(names) == ["Huey"]
