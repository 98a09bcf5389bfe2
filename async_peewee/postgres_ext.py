"""The database class of playhouse.postgres_ext, asynchronous; its fields are used as they are."""

from __future__ import annotations

from playhouse.postgres_ext import PostgresqlExtDatabase

from ._databases import AsyncPostgresqlDatabase

__all__ = ["AsyncPostgresqlExtDatabase"]


class AsyncPostgresqlExtDatabase(AsyncPostgresqlDatabase, PostgresqlExtDatabase):  # type: ignore[misc]
    """PostgreSQL with `register_hstore=True` and `server_side_cursors=True`, on psycopg2 or psycopg.

    ServerSide(query)   ->   async for row in query.iterator()
    """
