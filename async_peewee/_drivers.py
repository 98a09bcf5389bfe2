"""Drivers: what each database's connection needs beyond Peewee: interrupt, hard kill, liveness."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import peewee

from ._driver import ConnectionDriver
from ._registrations import Loaded
from ._settings import PoolSettings

# How long an attempt to reach the server for an interrupt may take, in seconds. The worker
# waits meanwhile, so it is as short as libpq allows.
SIDE_CONNECT_TIMEOUT = 2


# What changes an SQLite session; its functions cannot.
SQLITE_TRACES = re.compile(
    r"\bpragma\s+(\w+\s*\.\s*)?(?!\w*(list|info|check|checkpoint)\b)\w+\s*[=(]|"
    r"\battach\b|\bdetach\b|\bcreate\s+temp",
    re.IGNORECASE,
)

# What changes a PostgreSQL session in a statement that Peewee wrote, in lower case.
POSTGRESQL_TRACES = re.compile(r"set_config|advisory_|^create temp")


class SqliteDriver(ConnectionDriver):
    """sqlite3: interrupt() is safe from any thread, and there is no server to hang."""

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
        self.catch_up()

    def catch_up(self) -> None:
        """Load into the connection what was registered on the database since."""
        if self._loaded.is_behind() and not self.state["closed"]:
            self._loaded.catch_up(self.connection, self.in_transaction())

    def change(self, method: Callable[[Any], Any]) -> None:
        """Register something on this connection."""
        self.catch_up()
        self._loaded.change(self.connection, method)

    def in_transaction(self) -> bool:
        return not self.state["closed"] and not self.is_lost() and bool(self.connection.in_transaction)

    def is_lost(self) -> bool:
        # Closed by user code; sqlite3 tells in no other way.
        try:
            return self.connection.in_transaction is None
        except sqlite3.ProgrammingError:
            return True

    def leaves_traces(self, sql: str, is_generated: bool) -> bool:
        return bool(SQLITE_TRACES.search(sql))

    def reset_session(self) -> None:
        if not self.database.is_memory:  # its data would go with the connection
            super().reset_session()

    def stop_statement(self) -> None:
        self.connection.interrupt()

    cut = stop_statement


def shut_down(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cut_after(seconds: float, fd: int) -> Iterator[None]:
    """Cut a connection under what runs inside, if that takes longer."""
    with socket.socket(fileno=os.dup(fd)) as copy:
        timer = threading.Timer(seconds, shut_down, (copy,))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class SocketDriver(ConnectionDriver):
    """What the databases behind a socket have in common: it can be looked at, and cut."""

    # A server may be far away, until it is seen to answer at once.
    expected_seconds = 0.001
    _fd = -1

    def connected(self) -> None:
        self._fd = self.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN | select.POLLPRI)

    def fileno(self) -> int:
        return int(self.connection.fileno())

    def is_usable(self) -> bool:
        # An idle server says nothing. Something to read is its farewell, or a notification
        # (LISTEN), and a round trip tells which. Not asked of a lost connection: the number
        # of its socket could already be another's.
        return not self.is_lost() and (not self._poll.poll(0) or self.answers())

    def cut(self) -> None:
        # A copy of the descriptor: shutting it down wakes the thread that reads, and
        # closing the copy leaves the original to the driver.
        with socket.socket(fileno=os.dup(self._fd)) as copy:
            shut_down(copy)


# So that a statement whose connection was cut does not go on, and is not committed, on the
# server. From PostgreSQL 14 on, and unless somebody has set it: then there is no row.
WATCH_CLIENT = (
    "SELECT set_config(name, '1s', false) FROM pg_settings "
    "WHERE name = 'client_connection_check_interval' AND source = 'default'"
)


class PostgresqlDriver(SocketDriver):
    """What psycopg2 and psycopg have in common."""

    _watches = False

    def is_lost(self) -> bool:
        return bool(self.connection.closed)

    def leaves_traces(self, sql: str, is_generated: bool) -> bool:
        # Any other statement may call a function that changes a setting.
        return not is_generated or bool(POSTGRESQL_TRACES.search(sql.lower()))

    def connected(self) -> None:
        super().connected()
        cursor = self.connection.cursor()
        with contextlib.suppress(Exception):  # not every platform of a server can do it
            cursor.execute(WATCH_CLIENT)
            self._watches = bool(cursor.fetchall())

    def reset_session(self) -> None:
        self.connection.cursor().execute("DISCARD ALL")
        if self._watches:
            self.connection.cursor().execute("SET client_connection_check_interval = '1s'")

    def in_transaction(self) -> bool:
        if self.state["closed"] or self.connection.closed:
            return False
        adapter = self.database._adapter
        return bool(adapter.txn_status(self.connection) not in (adapter.txn_idle, adapter.txn_unknown))


class Psycopg2Driver(PostgresqlDriver):
    """psycopg2: interrupts go over a side connection, for its own cancel() holds the GIL."""

    _pid = 0

    def connected(self) -> None:
        super().connected()
        self._pid = self.connection.get_backend_pid()

    def stream_cursor(self, is_alone: bool) -> Any:
        # WITH HOLD: psycopg2 refuses any other named cursor on a connection in autocommit
        # mode, which is the mode Peewee uses, inside a transaction too.
        return self.connection.cursor(name=uuid.uuid4().hex, withhold=True)

    def reset_session(self) -> None:
        super().reset_session()
        if self.database._encoding:  # Peewee sets it after connecting, and DISCARD ALL unsets it
            self.connection.set_client_encoding(self.database._encoding)

    def stop_statement(self) -> None:
        parameters = {
            **self.database.connect_params,
            "connect_timeout": SIDE_CONNECT_TIMEOUT,
            "application_name": "async_peewee interrupt",
        }
        side = self.database._adapter.connect(self.database, **parameters)
        with contextlib.closing(side), cut_after(SIDE_CONNECT_TIMEOUT, side.fileno()):
            side.cursor().execute("SELECT pg_cancel_backend(%s)", (self._pid,))


class Psycopg3Driver(PostgresqlDriver):
    """psycopg: cancel_safe() is bounded in time and does not hold the GIL."""

    def stream_cursor(self, is_alone: bool) -> Any:
        return self.connection.cursor(name=uuid.uuid4().hex, withhold=not self.in_transaction())

    def reset_session(self) -> None:
        # psycopg forgets the statements that it has prepared when it sees a rollback;
        # otherwise it would go on to use what DISCARD ALL has dropped.
        self.connection.cursor().execute("BEGIN; ROLLBACK")
        super().reset_session()

    def stop_statement(self) -> None:
        self.connection.cancel_safe(timeout=SIDE_CONNECT_TIMEOUT)


# The server's word for "in a transaction", in the status that comes with every answer.
IN_TRANSACTION = 1


# What changes a MySQL session, wherever it stands, and what does not as the first word.
MYSQL_TRACES = re.compile(
    r"\bget_lock\s*\(|:=|\binto\s+@|\bcreate\s+(or\s+replace\s+)?temporary", re.IGNORECASE
)
MYSQL_HARMLESS = re.compile(
    r"\s*(select|insert|update|delete|replace|with|show|explain|describe|savepoint|"
    r"release|kill|alter|create|drop|truncate|analyze)\b",
    re.IGNORECASE,
)


# What both drivers say when the server has gone away, or the connection in the middle of a query.
GONE = (2006, 2013, 2055)

# What the server says when it has rolled back the whole transaction: a deadlock.
ROLLED_BACK = (1213,)


class MySQLDriver(SocketDriver):
    """PyMySQL and mysqlclient: interrupts by KILL QUERY over a side connection."""

    _id = 0
    _has_gone = False

    def connected(self) -> None:
        super().connected()
        self._has_gone = False
        # Noted now: mysqlclient refuses to be asked by another thread.
        self._id = int(self.connection.thread_id())

    def fileno(self) -> int:
        own = getattr(self.connection, "fileno", None)
        return int(own() if own is not None else self.connection._sock.fileno())

    def note_error(self, error: peewee.PeeweeException) -> None:
        # mysqlclient goes on to call a connection open that has gone away.
        code = error.args[0] if error.args else None
        self._has_gone = self._has_gone or code in GONE
        # No status comes with an error, so what the last answer said is not true any more.
        self.dead = self.dead or (code in ROLLED_BACK and bool(self.state["transactions"]))

    def is_lost(self) -> bool:
        return self._has_gone or not getattr(self.connection, "open", True)

    def leaves_traces(self, sql: str, is_generated: bool) -> bool:
        return bool(MYSQL_TRACES.search(sql)) or (not is_generated and not MYSQL_HARMLESS.match(sql))

    def in_transaction(self) -> bool:
        if self.state["closed"] or self.is_lost():
            return False
        status = getattr(self.connection, "server_status", None)
        # mysqlclient does not tell; then Peewee's own count has to do.
        return bool(self.state["transactions"] if status is None else status & IN_TRANSACTION)

    def stream_cursor(self, is_alone: bool) -> Any:
        # The protocol has no room for another statement while rows are under way. Inside a
        # block, where there may be one, all rows are fetched at once.
        return self.connection.cursor(self._unbuffered()) if is_alone else self.connection.cursor()

    def _unbuffered(self) -> Any:
        return self._module().cursors.SSCursor

    def _module(self) -> Any:
        """Return the driver that Peewee has found: PyMySQL or mysqlclient."""
        return vars(peewee)["mysql"]

    def drop_stream(self, cursor: Any) -> None:
        if not isinstance(cursor, self._unbuffered()):
            cursor.close()
            return
        # Closing it reads all the rows that are left, so the server is told to send no more.
        # That may come too late and meet the next statement: let it be one of ours.
        self.interrupt()
        with contextlib.suppress(Exception):
            cursor.close()
        if not self.answers() and not self.answers():
            self._discard()

    def abandon_stream(self, cursor: Any) -> None:
        # Else PyMySQL would read what is left of the rows, from a connection that is closed,
        # when the garbage collector gets to the cursor and to its result.
        cursor.connection = None
        if getattr(cursor, "_result", None) is not None:
            cursor._result.unbuffered_active = False

    def stop_statement(self) -> None:
        bounds = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), SIDE_CONNECT_TIMEOUT)
        parameters = {**self.database.connect_params, **bounds}
        side = self._module().connect(**parameters)
        with contextlib.closing(side):
            side.cursor().execute(f"KILL QUERY {self._id}")
