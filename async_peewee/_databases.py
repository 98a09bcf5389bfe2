"""The asynchronous database classes: SQLite, PostgreSQL, MySQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peewee

from ._database import AsyncDatabase

if TYPE_CHECKING:
    from ._typing import DualAny, DualBool, DualValue


class AsyncSqliteDatabase(AsyncDatabase, peewee.SqliteDatabase):
    """SQLite through sqlite3.

    For a file, unless you say otherwise: WAL, `synchronous=NORMAL`, and `BEGIN IMMEDIATE` for
    the outermost transaction; writers of this process queue, first come first served, so
    they never see "database is locked". `:memory:` is one worker, and one
    database for each event loop.
    """

    if TYPE_CHECKING:

        def pragma(
            self, key: str, value: object = ..., permanent: bool = False, schema: str | None = None
        ) -> DualAny: ...
        def attach(self, filename: str, name: str) -> DualBool: ...
        def detach(self, name: str) -> DualBool: ...
        def load_extension(self, extension: str) -> DualValue[None]: ...  # type: ignore[override]


class AsyncPostgresqlDatabase(AsyncDatabase, peewee.PostgresqlDatabase):
    """PostgreSQL through psycopg2, or through psycopg with `prefer_psycopg3=True`."""

    if TYPE_CHECKING:

        def set_time_zone(self, timezone: Any) -> DualValue[None]: ...  # type: ignore[override]


class AsyncMySQLDatabase(AsyncDatabase, peewee.MySQLDatabase):
    """MySQL and MariaDB through the driver that Peewee finds: PyMySQL or mysqlclient."""
