"""The asynchronous database classes: SQLite, PostgreSQL, MySQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import peewee

from ._database import AsyncDatabase

if TYPE_CHECKING:
    from ._typed_families import TypedPostgresql, TypedSqlite
else:
    TypedPostgresql = TypedSqlite = AsyncDatabase


class AsyncSqliteDatabase(TypedSqlite, peewee.SqliteDatabase):
    """SQLite through sqlite3.

    For a file, unless you say otherwise: WAL, `synchronous=NORMAL`, and `BEGIN IMMEDIATE` for
    the outermost transaction; writers of this process queue, first come first served, so
    they never see "database is locked". `:memory:` is one worker, and one
    database for each event loop.
    """


class AsyncPostgresqlDatabase(TypedPostgresql, peewee.PostgresqlDatabase):
    """PostgreSQL through psycopg2, or through psycopg with `prefer_psycopg3=True`."""


class AsyncMySQLDatabase(AsyncDatabase, peewee.MySQLDatabase):
    """MySQL and MariaDB through the driver that Peewee finds: PyMySQL or mysqlclient."""
