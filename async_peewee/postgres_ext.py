"""The database class of playhouse.postgres_ext, asynchronous; its fields are used as they are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ._errors import driver_errors
from ._orm.database import AsyncPostgresqlDatabase
from ._pool.connection import close_quietly
from ._pool.worker import current_worker

if TYPE_CHECKING:  # playhouse has no types; these are its classes, as far as they are used here
    from peewee import PostgresqlDatabase

    class FetchManyCursor:
        cursor: Any
        array_size: int
        exhausted: bool

    class PostgresqlExtDatabase(PostgresqlDatabase):
        _adapter: Any
        _register_hstore: bool

else:
    from playhouse.postgres_ext import FetchManyCursor, PostgresqlExtDatabase


__all__ = ["AsyncPostgresqlExtDatabase"]


class AsyncPostgresqlExtDatabase(AsyncPostgresqlDatabase, PostgresqlExtDatabase):
    """PostgreSQL with `register_hstore=True` and `server_side_cursors=True`, on psycopg2 or psycopg.

        for row in ServerSide(query)   ->   async for row in query.iterator()

    ServerSide itself reads on a worker, in `db.run(function)`.
    """

    def execute(self, query: Any, **options: Any) -> Any:
        cursor, worker = super().execute(query, **options), current_worker()
        if worker is None or not isinstance(cursor, FetchManyCursor):
            return cursor
        replacement = ServerSideCursor(cursor.cursor, cursor.array_size)
        worker.at_job_end(partial(_close, weakref.ref(replacement)))
        return replacement

    def _connect(self) -> Any:
        # As Peewee's own, which leaves the connection open where there is no hstore.
        connection = super(PostgresqlExtDatabase, self)._connect()  # type: ignore[misc]
        try:
            if self._register_hstore:
                self._adapter.register_hstore(connection)
        except BaseException:
            connection.close()
            raise
        return connection


class ServerSideCursor(FetchManyCursor):
    """A server-side cursor that ends on its worker: read to its end, dropped, or left by its job.

    Peewee's is part of a reference cycle. Python would close it some time later, in any
    thread, the event loop's too.
    """

    def __init__(self, cursor: Any, size: int) -> None:
        # Not Peewee's own: it makes the cycle.
        self.cursor: Any = cursor
        self.array_size: int = size
        self.exhausted: bool = False
        self._rows: Iterator[Any] = iter(())

    def fetchone(self) -> Any:
        """Return the next row out of a chunk: the cursor's own would ask the server for each."""
        row = next(self._rows, None)
        if row is None and not self.exhausted:
            with driver_errors:
                self._rows = iter(self.cursor.fetchmany(self.array_size))
            row = next(self._rows, None)
        if row is None:
            self.exhausted = True
            self.close()
        return row

    def close(self) -> None:
        close_quietly(self.cursor.close)

    def __del__(self) -> None:
        self.close()


def _close(cursor: Callable[[], ServerSideCursor | None]) -> None:
    left = cursor()
    if left is not None:
        left.close()
