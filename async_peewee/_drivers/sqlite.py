"""SQLite's drivers: sqlite3 and sqlcipher3, APSW, cysqlite."""

from __future__ import annotations

import copy
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

import peewee

from .._errors import PoolTimeout, driver_errors
from .._pool.connection import close_quietly
from .._pool.worker import Worker
from .._pool.write_lock import write_lock_for
from .._settings import PoolSettings
from .._writes import lock_type_writes, statement_writes
from .base import Backend, ConnectionClass, WorkerConnection

logger = logging.getLogger("async_peewee")


# What changes an SQLite session; its functions cannot.
SQLITE_TRACES = re.compile(
    r"\bpragma\s+(\w+\s*\.\s*)?(?!\w*(list|info|check|checkpoint)\b)\w+\s*[=(]|"
    r"\battach\b|\bdetach\b|\bcreate\s+temp",
    re.IGNORECASE,
)


# From how many noted cursors on those are looked for that are gone.
MOST_CURSORS = 1000


class SqliteConnection(WorkerConnection):
    """Any of them: interrupt() is safe from any thread, and there is no server to hang."""

    def __init__(self, database: Any, settings: PoolSettings) -> None:
        super().__init__(database, settings)
        self._loaded = Loaded(database)
        # The cursors that were opened since the last clean_up(). One that is left half read keeps
        # an old state of the file in sight and locks out writers; weakly, for most are gone by then.
        self._cursors: list[weakref.ReferenceType[Any]] = []

    def ensure_connected(self, check: Callable[[], None]) -> None:
        super().ensure_connected(check)
        if self._loaded.token is not self._versions.registrations:
            self.catch_up()

    def _connect(self, check: Callable[[], None]) -> None:
        self._loaded.connecting()
        super()._connect(check)

    def begin_statement(self) -> None:
        if self._dropped:
            self._close_dropped()
        if self.dead:
            self.check_alive()
        if self._loaded.token is not self._versions.registrations:
            self.catch_up()

    def catch_up(self) -> None:
        """Load into the connection what was registered on the database since."""
        if self._loaded.token is not self._versions.registrations and not self.state["closed"]:
            self._loaded.catch_up(self.dbapi_connection, self.in_transaction())

    def change(self, method: Callable[[Any], Any]) -> None:
        """Register something on this connection."""
        self.catch_up()
        self._loaded.change(self.dbapi_connection, method)

    def note_cursor(self, cursor: Any) -> None:
        self._cursors.append(weakref.ref(cursor))
        if len(self._cursors) > MOST_CURSORS:
            self._cursors = [reference for reference in self._cursors if reference() is not None]

    def close_cursors(self) -> None:
        cursors, self._cursors = self._cursors, []
        for reference in cursors:
            cursor = reference()
            if cursor is not None:
                close_quietly(cursor.close)

    def is_usable(self) -> bool:
        # There is no server that could have gone, and clean_up() has looked after the last job.
        return True

    def in_transaction(self) -> bool:
        try:
            return not self.state["closed"] and bool(self.state["conn"].in_transaction)
        except Exception:  # see is_lost()
            return False

    def is_lost(self) -> bool:
        # Closed by user code; sqlite3, sqlcipher3 and APSW tell in no other way, each by an
        # error of its own.
        try:
            return self.state["conn"].in_transaction is None
        except Exception:
            return True

    def changes_session(self, sql: str, is_generated: bool) -> bool:
        return bool(SQLITE_TRACES.search(sql))

    def reset_session(self) -> None:
        if not self.database.backend.is_memory:  # its data would go with the connection
            super().reset_session()

    def stop_statement(self) -> None:
        self.dbapi_connection.interrupt()

    cut = stop_statement


class APSWConnection(SqliteConnection):
    """APSW, whose cursors have less than DB-API asks for, and raise where that says None."""

    def connected(self) -> None:
        self.dbapi_connection.cursor_factory = apsw_cursor()


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


class CySqliteConnection(SqliteConnection):
    """cysqlite, which answers for a closed connection as for an open one."""

    def note_cursor(self, cursor: Any) -> None:
        """Do nothing: its cursors cannot be referred to weakly, and it closes them when they are dropped."""

    def is_lost(self) -> bool:
        return bool(self.dbapi_connection.is_closed())


# How long a new connection tries to switch a file to WAL that somebody has locked, in seconds: long
# enough for another one that does the same, and short for a reader that stays. And the pauses.
PATIENCE = 0.25


PAUSE = 0.01


class SqliteBackend(Backend):
    """SQLite: one writer at a time in a file, and a `:memory:` that is one connection."""

    is_memory = False
    _is_file = False

    def __init__(self, database: Any, drivers: tuple[ConnectionClass, ...]) -> None:
        super().__init__(database, drivers)
        # Protects the field after it, so that of several workers that connect one says it.
        self._lock = threading.Lock()
        # The file could not be switched to WAL, and the log says so.
        self._has_forgone_wal = False

    def check_target(self, target: Any) -> Any:
        self.is_memory = _is_memory(target)
        self._is_file = bool(target) and not self.is_memory and not _is_read_only(target)
        return target

    def prepare(self) -> None:
        connections = self.database.connections
        if self._is_file:
            self._set_file_defaults()
        elif self.is_memory:
            connections.pools.settings = connections.pools.settings.for_one_worker()

    def _set_file_defaults(self) -> None:
        database = self.database
        path = str(database.database).removeprefix("file:").partition("?")[0]
        database.connections.write_lock = write_lock_for(os.path.realpath(path))
        database._lock_type = database._lock_type or "IMMEDIATE"
        self._has_forgone_wal = False

    def set_defaults(self, connection: Any) -> None:
        if not self._is_file:
            return
        try:
            self._set_journal(connection.cursor())
        except BaseException:
            close_quietly(connection.close)
            raise

    def _set_journal(self, cursor: Any) -> None:
        """Have WAL, and what is safe with WAL alone. An attached file may be another program's: `main`."""
        given = {key.lower().replace('"', "").removeprefix("main.") for key, _ in self.database._pragmas}
        if given >= {"journal_mode", "synchronous"}:
            return
        # It reads the file: an error here is one of the first query in Peewee.
        mode = _pragma(cursor, "main.journal_mode")
        if mode != "wal" and "journal_mode" not in given:
            mode = self._switch_to_wal(cursor)
        if mode == "wal" and "synchronous" not in given:
            _pragma(cursor, "main.synchronous = normal")

    def _switch_to_wal(self, cursor: Any) -> str:
        """Switch the file to WAL if that can be had at once; return the journal mode that it has then."""
        timeout = _pragma(cursor, "busy_timeout")
        _pragma(cursor, "busy_timeout = 0")
        until = time.monotonic() + (0 if self._has_forgone_wal else PATIENCE)
        try:
            mode, reason = _try_wal(cursor)
            while "locked" in reason and mode != "wal" and time.monotonic() < until:
                time.sleep(PAUSE)
                mode, reason = _try_wal(cursor)
        finally:
            _pragma(cursor, f"busy_timeout = {timeout}")
        if mode != "wal":
            self._forgo_wal(mode, reason)
        return mode

    def _forgo_wal(self, mode: str, reason: str) -> None:
        with self._lock:
            is_known, self._has_forgone_wal = self._has_forgone_wal, True
        if not is_known:
            logger.warning(
                "%s: the file stays in journal mode %s, for it could not be switched to WAL (%s): whoever "
                "writes waits for those that read, and they for it. Close what else uses the file, or make "
                "it and its folder writable; or, if it is to stay so, write: pragmas={'journal_mode': '%s'}",
                self.database.connections.pools.name,
                mode,
                reason or "SQLite refused, as it does where there is no shared memory",
                mode,
            )

    def explain(self, error: peewee.PeeweeException) -> str:
        is_shared = "cache=shared" in str(self.database.database)
        if not self.is_memory or is_shared or self.opened < 2 or "no such table" not in str(error):
            return ""
        return (
            f". {self.database.database} is one database for each event loop and each plain thread, gone "
            "when that closes it: make the tables in the loop that uses them (await db.create_tables(...)), "
            "or use a file"
        )

    def begin_writes(self, lock_type: str | None = None) -> bool:
        chosen = lock_type or self.database._lock_type or "DEFERRED"
        return self._is_file and lock_type_writes(chosen)

    def may_write(self, sql: str) -> bool:
        return self._is_file and statement_writes(sql)

    def take_write_lock(self, worker: Worker) -> None:
        connections = self.database.connections
        connections.note_writer(worker)
        timeout = connections.pools.settings.acquire_timeout
        if not worker.acquire_write_lock(connections.write_lock, timeout):
            holder = connections.write_lock.describe(time.monotonic())
            raise PoolTimeout.of_write_lock(connections.pools.name, timeout, holder)


def _pragma(cursor: Any, text: str) -> Any:
    rows = cursor.execute(f"PRAGMA {text}").fetchall()
    return rows[0][0] if rows else None


def _try_wal(cursor: Any) -> tuple[str, str]:
    """Return the journal mode after an attempt to switch to WAL, and the error."""
    try:
        return str(_pragma(cursor, "main.journal_mode = wal")), ""
    except Exception as error:  # each driver has classes of its own
        # Asked again: another connection may just have done it.
        return str(_pragma(cursor, "main.journal_mode")), str(error)


def _is_memory(database: Any) -> bool:
    """Return True for a database that exists on one connection only, and with it."""
    name = ":memory:" if database == "" else str(database)
    return name == ":memory:" or "mode=memory" in name or name.startswith("file::memory:")


def _is_read_only(database: Any) -> bool:
    return "mode=ro" in str(database) or "immutable=1" in str(database)


# Where Peewee keeps them. The last two are APSW's and cysqlite's.
REGISTRIES = (
    "_attached _pragmas _aggregates _collations _functions _window_functions _extensions "
    "_modules _table_functions"
).split()


# SQLite refuses some of these inside a transaction.
OUTSIDE_TRANSACTION = ("_attached", "_pragmas")


Registries = dict[str, Any]


def registries_of(database: Any) -> Registries:
    """Return copies of what is registered: another thread may register more at any time."""
    return {name: copy.copy(getattr(database, name)) for name in REGISTRIES if hasattr(database, name)}


class Loaded:
    """What one connection has of what is registered on its database. On the worker's thread."""

    def __init__(self, database: Any) -> None:
        self._reference = weakref.ref(database)
        self.token: object = None
        self._registries: Registries = {}

    @property
    def _database(self) -> Any:
        return self._reference()

    def connecting(self) -> None:
        """Note what the connection is about to be opened with."""
        self.token, self._registries = self._database.versions.registrations, self._wanted()

    def catch_up(self, connection: Any, in_transaction: bool) -> None:
        """Load what was registered since; what cannot be inside a transaction stays for later."""
        token, wanted = self._database.versions.registrations, self._wanted()
        if in_transaction:
            wanted.update({name: self._registries[name] for name in OUTSIDE_TRANSACTION})
        self._load(connection, wanted)
        self.token = None if in_transaction else token

    def change(self, connection: Any, method: Callable[..., Any]) -> None:
        """Register something on this connection alone; if it fails, nothing is registered."""
        draft = draft_of(self._database, self._registries, is_closed=True)
        method(draft)
        self._load(connection, {name: getattr(draft, name) for name in self._registries})

    def _load(self, connection: Any, wanted: Registries) -> None:
        # Only what is missing: SQLite replaces no function while a statement is open.
        missing = {name: _lacking(wanted[name], self._registries[name]) for name in wanted}
        with driver_errors:
            attached = self._detach(connection, wanted["_attached"])
            missing["_attached"] = {k: v for k, v in missing["_attached"].items() if k not in attached}
            self._database._load_registries(connection, missing)
        self._registries = wanted

    def _wanted(self) -> Registries:
        wanted = registries_of(self._database)
        timeout = ("busy_timeout", int((self._database._timeout or 0) * 1000))  # milliseconds
        return {**wanted, "_pragmas": [timeout, *wanted["_pragmas"]]}

    def _detach(self, connection: Any, wanted: dict[str, str]) -> set[str]:
        """Detach what is attached no more, or is another file now; return what remains."""
        cursor = connection.cursor()
        attached = {row[1] for row in cursor.execute("PRAGMA database_list").fetchall()}
        for name, file in self._registries["_attached"].items():
            if name in attached and wanted.get(name) != file:
                cursor.execute(f'DETACH DATABASE "{name}"')
                attached.remove(name)
        return attached


def _lacking(wanted: Any, loaded: Any) -> Any:
    """Return what one registry has and another has not; of the same type."""
    if isinstance(wanted, dict):
        return {name: value for name, value in wanted.items() if loaded.get(name) != value}
    return type(wanted)(item for item in wanted if item not in loaded)


def draft_of(database: Any, registries: Registries, is_closed: bool = False) -> Any:
    """Return a copy of a database, with registries of its own; `is_closed`: it meets no connection."""
    draft = copy.copy(database)
    vars(draft).update({name: copy.copy(registry) for name, registry in registries.items()})
    if is_closed:
        draft.is_closed = lambda: True
    return draft
