"""PostgreSQL's drivers: psycopg2 and psycopg."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import peewee

from .._pool.connection import close_quietly
from .base import Backend, WorkerConnection
from .codes import sqlstate_of
from .functions import may_call_unknown
from .libpq import BlockingCancelRequest, CancelRequest, cancel_request_of
from .sockets import SIDE_CONNECT_TIMEOUT, SocketConnection
from .urls import check_url

# What changes a PostgreSQL session in a statement that Peewee wrote, besides functions.
POSTGRESQL_TRACES = re.compile(r"\s*create\s+temp", re.IGNORECASE)


# What the driver, `_connect()` and `_initialize_connection()` have set in a new session, and which
# process says so. Behind a pooler it is not the one whose number came with the greeting, and what
# is set there another client may have left.
SETTINGS = (
    "SELECT '', pg_backend_pid()::text UNION ALL "
    "SELECT name, setting FROM pg_settings WHERE source = 'session' AND pg_backend_pid() = %s"
)


# The same, and one of ours, so that a statement whose connection was cut does not go on, and is
# not committed, on the server. From PostgreSQL 14 on, and unless somebody has set it. Not behind
# a pooler, where it would stay with others.
SETTINGS_WITH_WATCH = (
    "SELECT '', pg_backend_pid()::text UNION ALL "
    "SELECT name, CASE source WHEN 'session' THEN setting ELSE set_config(name, '1s', false) END "
    "FROM pg_settings WHERE pg_backend_pid() = %s AND "
    "(source = 'session' OR (name = 'client_connection_check_interval' AND source = 'default'))"
)


# What a server says that sends its clients away; some poolers pass it on and stay connected.
CHANGED = ("57P01", "57P02", "57P03", "57P04", "57P05")


# A write was refused: by the server, or in a transaction that the user has made so.
READ_ONLY = "25006"


# What tells them apart, as PostgreSQL 14 and later report whenever it changes.
READ_ONLY_SERVER = ("in_hot_standby", "default_transaction_read_only")


# What a client may ask for when it connects, and is told of whenever it changes: libpq keeps it. Behind
# a pooler DISCARD ALL brings back what that asked for when it connected.
REPORTED = ("application_name", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone")


OURS_AND_PEEWEES = ("async_peewee", "peewee", "playhouse")


SET_AGAIN = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS noted (name, value)"


def has_own_connect(database: Any) -> bool:
    """Return True if code of the user's makes the connection: what that sets up cannot be done again."""
    methods = [vars(cls)["_connect"] for cls in type(database).__mro__ if "_connect" in vars(cls)]
    methods.append(type(database._adapter).connect)
    return not all(method.__module__.partition(".")[0] in OURS_AND_PEEWEES for method in methods)


class PostgresqlConnection(SocketConnection):
    """What psycopg2 and psycopg have in common."""

    _adapter: Any = None
    # What was set in the session when it was new.
    _settings: dict[str, str | None] = {}  # noqa: RUF012  # never changed
    # A pooler is in between: each transaction may meet another server connection.
    _is_pooled = False
    # The stream for which a transaction was begun that has nothing else in it.
    _alone_in_transaction: Any = None

    def is_lost(self) -> bool:
        return self._has_gone or bool(self.dbapi_connection.closed)

    def note_error(self, error: peewee.PeeweeException) -> None:
        state = sqlstate_of(error)
        if state in CHANGED or (state == READ_ONLY and self._is_read_only()):
            self.replace_later()

    def _is_read_only(self) -> bool:
        """Return False if sessions of the server are not read-only, so that a new one is no better."""
        status = self.dbapi_connection.info.parameter_status
        return not self.is_lost() and any(status(name) != "off" for name in READ_ONLY_SERVER)

    def changes_session(self, sql: str, is_generated: bool) -> bool:
        return not is_generated or bool(POSTGRESQL_TRACES.match(sql)) or may_call_unknown(sql)

    def connected(self) -> None:
        super().connected()
        self._adapter = self.database._adapter
        self._is_pooled = False
        self._settings = self._read_settings()

    def _read_settings(self) -> dict[str, str | None]:
        cursor, pid = self.dbapi_connection.cursor(), self.dbapi_connection.info.backend_pid
        for sql in (SETTINGS_WITH_WATCH, SETTINGS):  # not every platform of a server can watch
            with contextlib.suppress(Exception):
                cursor.execute(sql, (pid,))
                settings = dict(cursor.fetchall())
                self._is_pooled = int(settings.pop("")) != pid
                return self._reports() if self._is_pooled else settings
        return {}

    def _reports(self) -> dict[str, str | None]:
        """Return what the server has said last of some settings, without a round trip."""
        status = self.dbapi_connection.info.parameter_status
        return {name: status(name) for name in REPORTED}

    def stream_cursor(self, is_alone: bool) -> Any:
        if self.in_transaction():
            return self.server_cursor()
        if not self._is_pooled:
            # WITH HOLD it needs no transaction; the server stores all of its rows first.
            return self.dbapi_connection.cursor(name=uuid.uuid4().hex, withhold=True)
        # Behind a pooler the next FETCH may meet a server that has no held cursor of this name. A
        # transaction stays with one server, but statements of others must not be in it.
        if not is_alone:
            return self.dbapi_connection.cursor()  # with all rows at once
        self.dbapi_connection.cursor().execute("BEGIN")
        self._alone_in_transaction = self.server_cursor()
        return self._alone_in_transaction

    def server_cursor(self) -> Any:
        """Return a cursor that ends with its transaction, and whose rows stay on the server till then."""
        raise NotImplementedError

    def end_stream(self, cursor: Any, is_exhausted: bool) -> None:
        super().end_stream(cursor, is_exhausted)
        if cursor is self._alone_in_transaction:
            self._alone_in_transaction = None
            # Not ROLLBACK: a function that it has selected may have written.
            with self.within_grace("the end of a stream"):
                close_quietly(partial(self.dbapi_connection.cursor().execute, "COMMIT"))

    def abandon_stream(self, cursor: Any) -> None:
        super().abandon_stream(cursor)
        self._alone_in_transaction = None

    def reset_session(self) -> None:
        if self.was_handed_out or has_own_connect(self.database):
            super().reset_session()
            return
        cursor = self.dbapi_connection.cursor()
        # Behind a pooler that shares its connections this may meet another one, and harms nobody;
        # behind one that does not it is needed, and which it is cannot be told.
        cursor.execute("DISCARD ALL")
        if gone := dict(self._settings.items() - self._reports().items()):
            cursor.execute(SET_AGAIN, ([*gone], [*gone.values()]))
        # What cannot be read back: a role, the application's own settings, LISTEN.
        self.database._initialize_connection(self.dbapi_connection)

    def close_doubtful(self, close: Callable[[], None]) -> None:
        # To close a cursor that is no more is an error, which would end the transaction.
        execute = self.dbapi_connection.cursor().execute
        close_quietly(partial(execute, "SAVEPOINT async_peewee"))
        close_quietly(close)
        close_quietly(partial(execute, "ROLLBACK TO async_peewee; RELEASE async_peewee"))

    def in_transaction(self) -> bool:
        if self.state["closed"] or self.is_lost():
            return False
        adapter = self._adapter
        return bool(adapter.txn_status(self.dbapi_connection) not in (adapter.txn_idle, adapter.txn_unknown))


class Psycopg2ServerCursor:
    """A cursor that ends with its transaction.

    psycopg2 has its own for transactions that it has begun itself. On a connection in autocommit
    mode, which is the mode Peewee uses, it refuses all but those WITH HOLD: of such a one the
    server stores all rows that are left when the transaction is committed.
    """

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._name = f'"{uuid.uuid4().hex}"'

    @property
    def description(self) -> Any:
        return self._cursor.description

    def execute(self, sql: str, parameters: Any) -> None:
        self._cursor.execute(f"DECLARE {self._name} CURSOR FOR {sql}", parameters)

    def fetchmany(self, size: int) -> list[Any]:
        self._cursor.execute(f"FETCH {size} FROM {self._name}")
        return list(self._cursor.fetchall())

    def close(self) -> None:
        self._cursor.execute(f"CLOSE {self._name}")
        self._cursor.close()


class Psycopg2Connection(PostgresqlConnection):
    """psycopg2: interrupts are libpq's cancel requests, for its own cancel() holds the GIL."""

    _cancel_request: CancelRequest | BlockingCancelRequest | None = None

    def connected(self) -> None:
        super().connected()
        # On this thread, and with all that it takes: no other one looks into libpq's connection. What
        # is built in a way that hides libpq cannot be interrupted, and is cut after the grace period.
        with contextlib.suppress(AttributeError, KeyError, OSError):
            self._cancel_request = cancel_request_of(self.dbapi_connection)

    def server_cursor(self) -> Any:
        return Psycopg2ServerCursor(self.dbapi_connection.cursor())

    def stop_statement(self) -> None:
        if self._cancel_request is not None:
            self._cancel_request.send(SIDE_CONNECT_TIMEOUT)


class Psycopg3Connection(PostgresqlConnection):
    """psycopg: cancel_safe() is bounded in time and does not hold the GIL."""

    def connected(self) -> None:
        super().connected()
        if self._is_pooled and "prepare_threshold" not in self.database.connect_params:
            # What it has prepared on one server is unknown to the next, or there already, of another client.
            self.dbapi_connection.prepare_threshold = None

    def server_cursor(self) -> Any:
        return self.dbapi_connection.cursor(name=uuid.uuid4().hex)

    def reset_session(self) -> None:
        # psycopg forgets the statements that it has prepared when it sees a rollback;
        # otherwise it would go on to use what DISCARD ALL has dropped.
        self.dbapi_connection.cursor().execute("BEGIN; ROLLBACK")
        super().reset_session()

    def stop_statement(self) -> None:
        from psycopg.errors import CancellationTimeout

        try:
            self.dbapi_connection.cancel_safe(timeout=SIDE_CONNECT_TIMEOUT)
        except CancellationTimeout as error:
            raise TimeoutError("the server does not answer a cancel request") from error


class PostgresqlBackend(Backend):
    """PostgreSQL through psycopg2 or psycopg, whichever Peewee's adapter is for."""

    def check_target(self, target: Any) -> Any:
        if "://" not in str(target):
            return target
        # libpq takes both spellings, Peewee knows the longer one only.
        url = re.sub("^postgres://", "postgresql://", str(target))
        check_url(url, "postgresql")
        return url

    def make_connection(self) -> WorkerConnection:
        with_psycopg2, with_psycopg3 = self._drivers
        uses_psycopg3 = isinstance(self.database._adapter, peewee.Psycopg3Adapter)
        driver = with_psycopg3 if uses_psycopg3 else with_psycopg2
        return driver(self.database, self.database.connections.pools.settings)
