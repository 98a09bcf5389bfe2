"""Models for the helpers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from async_peewee import AsyncSqliteDatabase
from tests.support import Models


@pytest.fixture
async def people(sqlite_db: AsyncSqliteDatabase) -> AsyncIterator[Models]:
    """Return User and Tweet on SQLite, with a user who has written two tweets."""
    models = Models(sqlite_db)
    async with sqlite_db:
        await sqlite_db.create_tables(models.all)
        huey: Any = await models.User.create(name="Huey", age=3)
        await models.Tweet.create(user=huey, text="meow")
        await models.Tweet.create(user=huey, text="purr")
        yield models
