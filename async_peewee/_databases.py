"""The asynchronous database classes: SQLite, PostgreSQL, MySQL."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

import peewee

from ._connecting import check_url
from ._database import AsyncDatabase
from ._driver import ConnectionDriver
from ._drivers import MySQLDriver, Psycopg2Driver, Psycopg3Driver, SqliteDriver
from ._errors import PoolTimeout
from ._gate import gate_for
from ._statements import Statement
from ._worker import Worker, here

if TYPE_CHECKING:
    from ._typing import DualValue


class AsyncSqliteDatabase(AsyncDatabase, peewee.SqliteDatabase):
    """SQLite through sqlite3.

    For a file, unless you say otherwise: WAL, `synchronous=NORMAL`, and `BEGIN IMMEDIATE` for
    the outermost transaction; writers of this process queue, first come first served, so
    they never see "database is locked". `:memory:` is one worker, and one
    database for each event loop.
    """

    driver_class = SqliteDriver
    _pragmas: Any
    _lock_type: str | None

    if TYPE_CHECKING:

        def pragma(
            self, key: str, value: object = ..., permanent: bool = False, schema: str | None = None
        ) -> DualValue[Any]: ...
        def attach(self, filename: str, name: str) -> DualValue[bool]: ...
        def detach(self, name: str) -> DualValue[bool]: ...
        def load_extension(self, extension: str) -> DualValue[None]: ...  # type: ignore[override]

    def init(self, database: Any, *args: Any, **kwargs: Any) -> None:
        self.is_memory = _is_memory(database)
        self._is_file = not self.is_memory and not _is_read_only(database)
        super().init(database, *args, **kwargs)
        if self._is_file and database:
            self._set_file_defaults()
        elif self.is_memory:
            self.contexts.settings = self.contexts.settings.for_one_worker()

    def _set_file_defaults(self) -> None:
        path = str(self.database).removeprefix("file:").partition("?")[0]
        self.contexts.gate = self._gate = gate_for(os.path.realpath(path))
        given = {key.lower() for key, _ in self._pragmas}
        defaults = [("journal_mode", "wal"), ("synchronous", "normal")]
        self._pragmas = [pair for pair in defaults if pair[0] not in given] + list(self._pragmas)
        self._lock_type = self._lock_type or "IMMEDIATE"

    def begin_writes(self, lock_type: str | None = None) -> bool:
        chosen = lock_type or self._lock_type or "DEFERRED"
        return self._is_file and chosen.upper() in ("IMMEDIATE", "EXCLUSIVE")

    def begin(self, lock_type: str | None = None) -> Any:
        worker = here.worker
        if worker is not None and worker.database is self and self.begin_writes(lock_type):
            self._enter_gate(worker)
        super().begin(lock_type)

    def may_write(self, sql: str) -> bool:
        return self._is_file and _may_write(sql)

    def _begin_statement(self, worker: Worker, statement: Statement) -> None:
        super()._begin_statement(worker, statement)
        if statement.may_write and worker.held_gate is None:
            self._enter_gate(worker)

    def _enter_gate(self, worker: Worker) -> None:
        self.contexts.note_writer(worker)
        timeout = self.contexts.settings.acquire_timeout
        if not worker.enter_gate(self._gate, timeout):
            raise PoolTimeout(
                f"the write lock of {self._display_name()} did not become free within {timeout:g} s, "
                f"held by: {self._gate.describe(time.monotonic())}. A child task is outside its parent's "
                "transaction; hand it over with db.share_connection()"
            )


class AsyncPostgresqlDatabase(AsyncDatabase, peewee.PostgresqlDatabase):
    """PostgreSQL through psycopg2, or through psycopg with `prefer_psycopg3=True`."""

    _adapter: Any
    _encoding: str | None

    if TYPE_CHECKING:

        def set_time_zone(self, timezone: Any) -> DualValue[None]: ...  # type: ignore[override]

    def init(self, database: Any, *args: Any, **kwargs: Any) -> None:
        if "://" in str(database):
            # libpq takes both spellings, Peewee knows the longer one only.
            database = re.sub("^postgres://", "postgresql://", str(database))
            check_url(database, "postgresql")
        super().init(database, *args, **kwargs)

    def _make_driver(self) -> ConnectionDriver:
        uses_psycopg3 = isinstance(self._adapter, peewee.Psycopg3Adapter)
        driver = Psycopg3Driver if uses_psycopg3 else Psycopg2Driver
        return driver(self, self.contexts.settings)


class AsyncMySQLDatabase(AsyncDatabase, peewee.MySQLDatabase):
    """MySQL and MariaDB through the driver that Peewee finds: PyMySQL or mysqlclient."""

    driver_class = MySQLDriver


def _is_memory(database: Any) -> bool:
    """Return True for a database that exists on one connection only, and with it."""
    name = ":memory:" if database == "" else str(database)
    return name == ":memory:" or "mode=memory" in name or name.startswith("file::memory:")


def _is_read_only(database: Any) -> bool:
    return "mode=ro" in str(database) or "immutable=1" in str(database)


def _may_write(sql: str) -> bool:
    word = sql.lstrip()[:8].upper()
    if word.startswith(("SELECT", "PRAGMA", "EXPLAIN", "SAVEPOIN", "ROLLBACK", "RELEASE")):
        return False
    # A WITH may stand before any statement; one too many in the queue does no harm.
    return not word.startswith("WITH") or not _READS.match(sql)


# A WITH statement with none of these words in it only reads.
_READS = re.compile(r"(?!.*\b(insert|update|delete|replace)\b)", re.IGNORECASE | re.DOTALL)
