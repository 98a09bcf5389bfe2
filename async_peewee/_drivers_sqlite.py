"""SQLite's drivers: sqlite3 and sqlcipher3, APSW, cysqlite."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

from ._driver import ConnectionDriver
from ._registrations import Loaded
from ._settings import PoolSettings

# What changes an SQLite session; its functions cannot.
SQLITE_TRACES = re.compile(
    r"\bpragma\s+(\w+\s*\.\s*)?(?!\w*(list|info|check|checkpoint)\b)\w+\s*[=(]|"
    r"\battach\b|\bdetach\b|\bcreate\s+temp",
    re.IGNORECASE,
)


class SqliteDriver(ConnectionDriver):
    """Any of them: interrupt() is safe from any thread, and there is no server to hang."""

    def __init__(self, database: Any, settings: PoolSettings) -> None:
        super().__init__(database, settings)
        self._loaded = Loaded(database)

    def ready(self, check: Callable[[], None]) -> None:
        super().ready(check)
        self.catch_up()

    def _connect(self, check: Callable[[], None]) -> None:
        self._loaded.connecting()
        super()._connect(check)

    def begin_statement(self) -> None:
        super().begin_statement()
        if self._loaded.is_behind():
            self.catch_up()

    def catch_up(self) -> None:
        """Load into the connection what was registered on the database since."""
        if self._loaded.is_behind() and not self.state["closed"]:
            self._loaded.catch_up(self.connection, self.in_transaction())

    def change(self, method: Callable[[Any], Any]) -> None:
        """Register something on this connection."""
        self.catch_up()
        self._loaded.change(self.connection, method)

    def is_usable(self) -> bool:
        # There is no server that could have gone, and settle() has looked after the last job.
        return True

    def in_transaction(self) -> bool:
        try:
            return not self.state["closed"] and bool(self.connection.in_transaction)
        except Exception:  # see is_lost()
            return False

    def is_lost(self) -> bool:
        # Closed by user code; sqlite3, sqlcipher3 and APSW tell in no other way, each by an
        # error of its own.
        try:
            return self.connection.in_transaction is None
        except Exception:
            return True

    def leaves_traces(self, sql: str, is_generated: bool) -> bool:
        return bool(SQLITE_TRACES.search(sql))

    def reset_session(self) -> None:
        if not self.database.family.is_memory:  # its data would go with the connection
            super().reset_session()

    def stop_statement(self) -> None:
        self.connection.interrupt()

    cut = stop_statement


class APSWDriver(SqliteDriver):
    """APSW, whose cursors have less than DB-API asks for, and raise where that says None."""

    def connected(self) -> None:
        self.connection.cursor_factory = apsw_cursor()


@cache
def apsw_cursor() -> Any:
    """Return a class of APSW cursors that know DB-API's names."""
    import apsw

    class Cursor(apsw.Cursor):  # type: ignore[misc]
        _described: Any = None

        def execute(self, *args: Any, **kwargs: Any) -> Any:
            self._described = None
            return super().execute(*args, **kwargs)

        @property
        def description(self) -> Any:
            try:
                self._described = super().description
            except apsw.ExecutionCompleteError:  # no rows, or no more of them
                pass
            return self._described

        @property
        def rowcount(self) -> int:
            return int(self.connection.changes())

        @property
        def lastrowid(self) -> int:
            return int(self.connection.last_insert_rowid())

        def fetchmany(self, size: int) -> list[Any]:
            return list(islice(self, size))

    return Cursor


class CySqliteDriver(SqliteDriver):
    """cysqlite, which answers for a closed connection as for an open one."""

    def is_lost(self) -> bool:
        return bool(self.connection.is_closed())
